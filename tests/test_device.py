"""What a GPU would wait for, without one: on the device "meta" no number can be read and nothing comes back."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import ebbflow as ef
from ebbflow.config import RunConfig, parse_as
from ebbflow.core.device import sent
from ebbflow.core.times import TIME_GRIDS
from ebbflow.data import load_dataset
from ebbflow.errors import ConfigError
from ebbflow.methods.adaptive import ImportanceTimes
from ebbflow.methods.samplers import SAMPLERS
from ebbflow.runs.tasks import ModelTask
from ebbflow.training import checkpoint, loop
from ebbflow.training.ema import EMA
from ebbflow.training.engine import Engine
from ebbflow.training.loop import fit
from ebbflow.training.optim import adamw

META = torch.device("meta")


@pytest.fixture(autouse=True)
def without_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device "meta" knows no autocast."""
    made = torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda kind, **how: nullcontext() if kind == "meta" else made(kind, **how))


class Transfers(TorchDispatchMode):
    """Refuses to have tensors of numbers brought to another device but by `sent`, which goes through pinned memory."""

    def __init__(self) -> None:
        super().__init__()
        self.num = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        copies = func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        came = [a.device for a in args if isinstance(a, Tensor) and (a.ndim or copies)]
        if isinstance(out, Tensor) and came and out.device != came[-1]:
            assert "sent" in _callers(), f"{func} waits for a copy from {came[-1]} to {out.device}"
            self.num += 1
        return out


def _callers() -> Iterator[str]:
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        yield frame.f_code.co_name


class Told(torch.optim.SGD):
    """An optimiser that is told on the device whether to step."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net.parameters(), lr=0.1)
        self._step_supports_amp_scaling, self.verdicts = True, list[torch.device]()

    def step(self, closure: Any = None) -> None:
        self.verdicts.append(self.found_inf.device)


DIGITS = cache(lambda: load_dataset("digits"))


def task_of(folder: Path, **sections: dict[str, Any]) -> ModelTask:
    return ModelTask(parse_as(RunConfig, {"data": {"name": "digits"}, **sections}), DIGITS(), folder)


DIT = {"net": {"kind": "dit", "dim": 32, "depth": 1, "num_heads": 2}}
MADE: dict[str, dict[str, Any]] = {
    "dit": DIT,
    "unet": {"net": {"kind": "unet", "channels": [8, 16]}},
    "table": {**DIT, "path": {"kind": "vp_discrete"}, "objective": {"prediction": "eps"}},
    "learned variance": {
        **DIT,
        "path": {"kind": "vp_discrete"},
        "objective": {"prediction": "eps", "variance": "learned"},
    },
    "uncertainty": {**DIT, "objective": {"uncertainty": True}},
    "built-in guidance": {**DIT, "objective": {"guidance": 2.0}},
    "coupled": {**DIT, "objective": {"coupling": "minibatch_ot"}},
    "flipped": {**DIT, "data": {"name": "digits", "flip": True}},
    "map": {**DIT, "objective": {"map": "midpoint"}},
    "lsd": {**DIT, "objective": {"map": "lsd"}},
    "consistency": {**DIT, "objective": {"map": "consistency"}},
    "mean flow": {**DIT, "objective": {"map": "mean_flow"}},
}


@pytest.mark.parametrize("name", MADE)
def test_a_step_reads_nothing_from_its_device(name: str, tmp_path: Path) -> None:
    task = task_of(tmp_path, **MADE[name])
    task.net.to(META)
    optimiser, engine = Told(task.net), Engine(device="meta", precision="fp32")
    steps = fit(task, task.batches(), optimiser, num_steps=9, engine=engine, ema=EMA(task.net))
    with Transfers() as transfers:
        for _ in range(loop.AHEAD):
            next(steps)
    assert optimiser.verdicts == loop.AHEAD * [META] and transfers.num >= 2 * loop.AHEAD


@pytest.mark.parametrize("name", [name for name, one in SAMPLERS.items() if not one.is_adaptive])
def test_a_walk_reads_nothing_from_its_device(name: str, tmp_path: Path) -> None:
    jumps = SAMPLERS[name].jumps
    task = task_of(tmp_path, **(MADE["map" if jumps else "table"]))
    task.net.to(META)
    model: ef.Denoiser = task.conditioned.given(torch.arange(4))
    model = model if jumps else ef.classifier_free(model, guidance=2.0)
    times, noise = TIME_GRIDS["uniform"](model.path, 3), ef.Noise(range(4))
    with Transfers():
        x = sent(noise.draw(task.facts.state_dims), META)
        *_, last = SAMPLERS[name](model, x, times, **({"noise": noise} if SAMPLERS[name].takes_noise else {}))
    assert last.x.device == META


class Late(loop.Sizes):
    """Numbers that have not come when a step ends, as those of a GPU."""

    are_here = have_come = False  # type: ignore[assignment]


def run(folder: Path, *, spoiled: int | None, **how: Any) -> tuple[list[loop.TrainStep], list[Tensor]]:
    """Six steps in float32, and the weights after them; the data of step `spoiled` is not finite."""
    torch.manual_seed(0)
    task, rows = task_of(folder, **DIT), torch.randn(6, 8, 1, 8, 8)
    if spoiled is not None:
        rows[spoiled, 3] = torch.nan
    batches = [(x, torch.arange(8)) for x in rows]
    optimiser = adamw(task.net.parameters(), lr=1e-3, weight_decay=0.1)
    steps = fit(task, batches, optimiser, num_steps=6, engine=Engine(device="cpu", precision="fp32"), **how)
    return list(steps), [p.detach() for p in task.net.parameters()]


def test_numbers_that_come_late_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a step is passed over: the optimiser is told on the device."""
    for spoiled in (None, 2):
        steps, weights = run(tmp_path, spoiled=spoiled, skip_nonfinite=1)
        with monkeypatch.context() as patched:
            patched.setattr(loop, "Sizes", Late)
            late, others = run(tmp_path, spoiled=spoiled, skip_nonfinite=1)
        assert all(map(torch.equal, weights, others))
        assert [s.skipped for s in late] == [s.skipped for s in steps] == [i == spoiled for i in range(6)]
        finite = [i for i in range(6) if i != spoiled]
        assert [late[i].loss for i in finite] == [steps[i].loss for i in finite]


@pytest.mark.parametrize("spoiled", [1, 5])
def test_a_loss_that_is_not_finite_is_told_late_but_told(
    spoiled: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "Sizes", Late)
    with pytest.raises(
        FloatingPointError, match=rf"not finite at step {spoiled + 1} .*data of this batch is not finite"
    ):
        run(tmp_path, spoiled=spoiled)


def test_a_gpu_is_told_how_float32_is_multiplied_and_compiles_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    said = Engine(precision="fp32").said(cuda)
    assert "products none, convolutions none" in said or "products ieee" in said or "tf32" in said
    with monkeypatch.context() as patched:
        patched.setattr("shutil.which", lambda name: f"/usr/bin/{name}" if name == "cc" else None)
        assert "compiled, which" in Engine(precision="fp32", compile="auto").said(cuda)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "not compiled: there is no C compiler" in Engine(precision="fp32", compile="auto").said(cuda)
    with pytest.raises(ConfigError, match=r"needs a C compiler, and none of cc, gcc and clang"):
        Engine(precision="fp32", compile="on").said(cuda)


def test_a_fused_optimiser_keeps_its_steps_with_its_weights() -> None:
    """As PyTorch's own does: what is restored lies where the next step looks for it."""
    weight, steps = torch.empty(3, 2, device=META), torch.ones(())
    assert checkpoint._placed(steps, weight, {"fused": True}).device == META
    assert checkpoint._placed(steps, weight, {"fused": None}).device == torch.device("cpu")
    assert checkpoint._placed(torch.ones(3, 2), weight, {}).device == META


def test_losses_that_are_not_finite_are_not_remembered() -> None:
    times = ImportanceTimes(ef.PATHS["flow"](), 2)
    times.observe(torch.tensor([0.2, 0.7, 0.8]), torch.tensor([1.0, torch.nan, torch.inf]))
    assert times.state()["counts"].tolist() == [1, 0] and bool(times.state()["losses"].isfinite().all())
