"""Laws of the engine: one randomness a row, microbatches that add up, any data, any net, nothing lost on the way."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import normal
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import ebbflow as ef
from ebbflow.config import RunConfig, merge, parse_as
from ebbflow.core.paths import Flow
from ebbflow.data import Splits, load_dataset
from ebbflow.errors import CheckpointError, ConfigError
from ebbflow.files import locked, save_tensors, whole_file, whole_folder
from ebbflow.methods.denoise import NetDenoiser
from ebbflow.methods.objective import Objective
from ebbflow.runs import Progress, Trainer, open_run, task_of
from ebbflow.runs.build import DatasetLoader
from ebbflow.runs.folder import METRICS, checkpoint_of, checkpoints, metrics, prune, read_metrics
from ebbflow.training import checkpoint
from ebbflow.training.batches import Batch, as_batch, permutation
from ebbflow.training.ema import EMA
from ebbflow.training.engine import Engine, Precision, mode
from ebbflow.training.loop import TrainStep, fit
from ebbflow.training.optim import LearningRate, adamw
from ebbflow.training.task import DenoiserTask, Draw, Loss

CPU = Engine(device="cpu", precision="fp32")
TINY: dict[str, dict[str, Any]] = {
    "net": {"kind": "unet", "channels": [8], "num_heads": 2, "clock_dim": 16},
    "train": {
        "num_steps": 6,
        "batch_size": 16,
        "save_every": 2,
        "sample_every": 0,
        "held_out_size": 16,
        "log_every": 1,
    },
    "engine": {"precision": "fp32", "device": "cpu"},
    "sample": {"num_steps": 1},
}
KINDS: dict[str, tuple[Any, dict[str, dict[str, Any]]]] = {
    "model": (RunConfig, TINY),
    "importance": (RunConfig, merge(TINY, {"objective": {"times": "importance", "time_bins": 2, "uncertainty": True}})),
    "bf16": (RunConfig, merge(TINY, {"engine": {"precision": "bf16"}})),
}


@pytest.fixture(scope="module")
def digits() -> Splits:
    return load_dataset("digits")


class Plain(nn.Module):
    """A net from elsewhere, of vectors: nothing is cast, the clock is an input among others."""

    def __init__(self, dim: int = 2, middle: nn.Module | None = None) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first, self.last = nn.Linear(dim + 1, 16), nn.Linear(16, dim)
        self.middle = nn.Identity() if middle is None else middle

    def forward(self, x: Tensor, clock: Tensor, cond: Tensor | None) -> Tensor:
        h = self.first(torch.cat([x, clock[:, None] / 500], dim=1))
        return self.last(torch.relu(self.middle(h)))


class Everywhere(nn.Module):
    """A net of one weight for data of any shape; told its condition."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))
        self.seen: list[Any] = []

    def forward(self, x: Tensor, clock: Tensor, cond: Any) -> Tensor:
        self.seen.append((x.detach(), cond))
        return self.w * x


def of(net: nn.Module) -> NetDenoiser:
    return NetDenoiser(net=net, path=Flow())


def trained(net: nn.Module, batches: Any, *, num_steps: int = 3, **how: Any) -> list[TrainStep]:
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    return list(fit(of(net), Objective(Flow()), batches, optimiser, num_steps=num_steps, **how))


# -- the randomness of a row ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cuts", [[0, 64], [0, 32, 64], [0, 5, 16, 47, 64], list(range(65))], ids=str)
def test_rows_draw_the_same_whoever_holds_them(cuts: list[int]) -> None:
    def law(num: int, generator: torch.Generator) -> Tensor:
        return (torch.arange(num) + torch.rand(num, generator=generator)) / num

    def draw(first: int, last: int) -> tuple[Tensor, Tensor]:
        rows = Draw(seed=3, step=7, rows=range(first, last), num=64)
        return rows.normal((3, 2)), rows.times(law)

    whole, parts = draw(0, 64), [draw(a, b) for a, b in pairwise(cuts)]
    for i in (0, 1):
        assert torch.equal(whole[i], torch.cat([part[i] for part in parts]))
    assert (whole[1] * 64).long().tolist() == list(range(64)), "stratified over the whole batch"


def test_draws_are_normal_and_unlike_by_seed_step_and_purpose() -> None:
    draw = Draw(seed=0, step=0, rows=range(4096), num=4096)
    x = draw.normal((4,))
    assert abs(float(x.mean())) < 4.5 / 128 and abs(float(x.var()) - 1) < 4.5 * 2**0.5 / 128
    assert len(torch.unique(x)) > 0.99 * x.numel(), "groups repeat each other"
    others = [replace(draw, seed=1).normal((4,)), replace(draw, step=1).normal((4,)), draw.normal((4,), "code")]
    assert all(abs(float((x * other).mean())) < 4.5 / 128 for other in others)


@pytest.mark.parametrize("accumulate", [2, 3, 10, 50])
@pytest.mark.parametrize("adaptive", [False, True])
def test_microbatches_add_up_to_the_whole_batch(accumulate: int, adaptive: bool) -> None:
    found = []
    for parts in (1, accumulate):
        net = Plain()
        objective = Objective(
            Flow(), times="importance" if adaptive else "stratified", time_bins=2, learn_uncertainty=adaptive
        )
        beside = [] if objective.uncertainty is None else list(objective.uncertainty.parameters())
        optimiser = torch.optim.SGD([*net.parameters(), *beside], lr=0.1)
        batch = Batch(x0=normal(10, 2).float(), weight=torch.linspace(0.5, 2, 10))
        steps = list(fit(of(net), objective, [batch], optimiser, num_steps=8, engine=replace(CPU, accumulate=parts)))
        found.append((steps, nn.utils.parameters_to_vector([*net.parameters(), *beside]).detach()))
    (whole, a), (split, b) = found
    assert torch.equal(whole[0].level, split[0].level)  # type: ignore[arg-type]
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert [s.loss for s in whole] == pytest.approx([s.loss for s in split], rel=1e-5)


# -- the same run, whatever happened to it ----------------------------------------------------------------------------


def run(kind: str, splits: Splits, folder: Path, *, steps: int = 6, stop_at: int = 0) -> Trainer:
    cls, layer = KINDS[kind]
    layer = merge(layer, {"train": {"num_steps": steps, "schedule": "constant"}})
    asked = iter(range(1, 1000))
    trainer = Trainer(task_of(parse_as(cls, layer), splits, folder), should_stop=lambda: next(asked) == stop_at)
    for _ in trainer.events():
        pass
    return trainer


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(kind: str, digits: Splits, tmp_path: Path) -> None:
    """Stopped by a signal, and made longer afterwards; test_resume.py kills what else there is."""
    run(kind, digits, tmp_path / "whole")
    run(kind, digits, tmp_path / "stopped", stop_at=3)
    assert run(kind, digits, tmp_path / "stopped").start == 3
    run(kind, digits, tmp_path / "longer", steps=4)
    assert run(kind, digits, tmp_path / "longer").start == 4
    whole, *others = (checkpoint.read(checkpoints(tmp_path / name)[-1]) for name in ("whole", "stopped", "longer"))
    parts = [file.stem for file in whole.folder.glob("*.safetensors")]
    assert {"model", "optimiser"} <= set(parts) and ("task" in parts) == (kind == "importance")
    for other in others:
        for part in parts:
            a, b = whole.tensors(part), other.tensors(part)
            assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a), (part, other.folder)


def test_a_net_with_dropout_resumes_too() -> None:
    x0 = normal(32, 2).float()

    class Always:
        def batch(self, step: int) -> Batch:
            return Batch(x0=x0)

    def weights(*legs: tuple[int, int]) -> Tensor:
        net = Plain(middle=nn.Dropout(0.5))
        optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
        for first, last in legs:
            torch.rand(first + 1)  # somebody else draws in between
            list(fit(of(net), Objective(Flow()), Always(), optimiser, start=first, num_steps=last))
        return nn.utils.parameters_to_vector(net.parameters()).detach()

    assert torch.equal(weights((0, 6)), weights((0, 2), (2, 6)))


def test_the_order_of_an_epoch_is_drawn_once(digits: Splits) -> None:
    permutation.cache_clear()
    loader = DatasetLoader(dataset=digits.train, cond=None, batch_size=16, seed=991)
    for step in range(20):
        loader.batch(step)
    assert permutation.cache_info().misses == 1


# -- any data ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [(5,), (1, 8, 8), (2, 64), (1, 4, 4, 4), (3, 2, 4, 4, 2)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
def test_data_of_any_rank_and_precision(dims: tuple[int, ...], dtype: torch.dtype) -> None:
    net = Everywhere()
    steps = trained(net, [normal(6, *dims).to(dtype)])
    assert len(steps) == 3 and float(net.w.detach()) != 0 and net.seen[0][0].shape == (6, *dims)
    assert net.seen[0][0].dtype == torch.float32 and steps[0].losses.shape == (6,)


def test_bytes_are_images_in_minus_one_to_one_and_other_whole_numbers_are_refused() -> None:
    seen: list[Tensor] = []

    class Look(Objective):
        def losses(self, model: Any, x0: Tensor, cond: Any, eps: Tensor, t: Tensor) -> Tensor:
            seen.append(x0)
            return super().losses(model, x0, cond, eps, t)

    net = Everywhere()
    task = DenoiserTask(of(net), Look(Flow()))
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    x = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(3, 1, 1, 1)
    list(fit(task, [x], optimiser, num_steps=1))
    torch.testing.assert_close(seen[0].flatten(), torch.tensor([-1.0, -0.6, 1.0]))
    for wrong in (torch.arange(6), torch.zeros(3, 2, dtype=torch.complex64)):
        with pytest.raises(ValueError, match="must be floating numbers, or bytes"):
            trained(Everywhere(), [wrong])


X, Y = normal(12, 2).float(), torch.arange(12) % 3
FORMS: dict[str, Any] = {
    "tensors": [X[:6], X[6:]],
    "arrays": [X[:6].numpy(), X[6:].double().numpy()],
    "a loader of pairs": DataLoader(TensorDataset(X, Y), batch_size=6),
    "a loader of tensors alone": DataLoader(TensorDataset(X), batch_size=6),
    "dicts": [{"image": X[:6], "label": Y[:6]}, {"pixel_values": X[6:], "labels": Y[6:].numpy()}],
    "batches": [Batch(x0=X[:6], cond=Y[:6]), Batch(x0=X[6:], cond=Y[6:])],
    "lists of classes": [(X[:6], Y[:6].tolist()), (X[6:], Y[6:].tolist())],
}


@pytest.mark.parametrize("form", FORMS)
def test_batches_come_as_they_are_and_are_gone_through_again(form: str) -> None:
    net = Everywhere()
    assert len(trained(net, FORMS[form], num_steps=5)) == 5
    assert len(net.seen) == 5 and all(len(x) == 6 for x, _ in net.seen)
    if form not in ("tensors", "arrays", "a loader of tensors alone"):
        assert [cond.tolist() for _, cond in net.seen[:3]] == [Y[:6].tolist(), Y[6:].tolist(), Y[:6].tolist()]


def test_conditions_may_be_dicts_or_texts_to_be_read() -> None:
    net = Everywhere()
    trained(net, [(X, {"pooled": X, "tokens": X[:, :, None]})], engine=replace(CPU, accumulate=2))
    assert {name: len(part) for name, part in net.seen[0][1].items()} == {"pooled": 6, "tokens": 6}
    texts, net = {"x0": X, "text": ["a", "bb"] * 6}, Everywhere()
    trained(net, [texts], read=lambda said: torch.tensor([len(one) for one in said]))  # type: ignore[arg-type]
    assert net.seen[0][1].tolist() == [1, 2] * 6
    with pytest.raises(ValueError, match=r"the condition of a batch is list of 12 str\. Give `read`"):
        trained(Everywhere(), [texts])


def test_a_batch_brings_its_own_noise_and_weights() -> None:
    seen: list[Tensor] = []

    class Look(Objective):
        def losses(self, model: Any, x0: Tensor, cond: Any, eps: Tensor, t: Tensor) -> Tensor:
            seen.append(eps)
            return super().losses(model, x0, cond, eps, t)

    eps, found = normal(12, 2, seed=5).float(), {}
    for name, weight in (("none", None), ("zero", torch.zeros(12)), ("two", torch.full((12,), 2.0))):
        net = Everywhere()
        optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
        batch = Batch(x0=X, eps=eps, weight=weight)
        list(fit(of(net), Look(Flow()), [batch], optimiser, num_steps=1, engine=replace(CPU, clip=float("inf"))))
        found[name] = float(net.w.detach())
    assert all(torch.equal(one, eps) for one in seen)
    assert found["zero"] == 0 and found["two"] == pytest.approx(2 * found["none"])
    with pytest.raises(ValueError, match=r"a batch of 12 samples needs as many rows of everything, got \{'eps': 3\}"):
        Batch(x0=X, eps=eps[:3])


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ([(X, Y, Y)], "got tuple of 3 Tensor"),
        ([{"picture": X}], r"a dict of \['picture'\]\. Put its data under 'x0'"),
        ([{"image": [object()], "label": 3}], "got list of 1 object"),
        ([torch.tensor(3.0)], "got a single number"),
        (["text"], "got str"),
        ([(X, 3)], "must be a tensor or a dict of tensors, got int"),
        ([X[:0]], "no samples in it"),
        ([], "came to their end after 0"),
        (iter([X, X]), "came to their end after 2"),
        (DataLoader([X[0], X[1]], batch_size=None), None),
        (X, "one batch stands where many are wanted"),
        ({"x0": X}, "one batch stands where many are wanted"),
    ],
    ids=[
        "three",
        "keys",
        "objects",
        "number",
        "text",
        "condition",
        "empty",
        "nothing",
        "exhausted",
        "unbatched",
        "one",
        "dict",
    ],
)
def test_what_is_no_batch_is_named(batches: Any, words: str | None) -> None:
    if words is None:
        assert as_batch(X).x0 is X
        return
    with pytest.raises(ValueError, match=words):
        trained(Plain(), batches)


def test_noise_and_weights_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"eps must have the shape of x0, \(12, 2\), got \(12, 3\)"):
        Batch(x0=X, eps=normal(12, 3))
    with pytest.raises(ValueError, match=r"weight is a number a sample, of shape \(B,\), got \(12, 2\)"):
        Batch(x0=X, weight=X)


@pytest.mark.filterwarnings("error")
def test_arrays_that_may_not_be_written_are_data_too() -> None:
    """As numpy's memory maps and columns of a table are; torch warned."""
    assert torch.equal(as_batch(np.broadcast_to(X.numpy(), X.shape)).x0, X)


def test_wrong_parts_are_refused() -> None:
    net, optimiser = Plain(), torch.optim.SGD(Plain().parameters(), lr=0.1)
    with pytest.raises(TypeError, match=r"\(task, batches, optimiser\) or \(denoiser, objective, batches, optimiser\)"):
        fit(of(net), Objective(Flow()), num_steps=1)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match=r"\[\*net\.parameters\(\), \*objective\.uncertainty\.parameters\(\)\]"):
        fit(of(net), Objective(Flow(), learn_uncertainty=True), [X], optimiser, num_steps=1)
    with pytest.raises(ValueError, match="share their path and prediction"):
        fit(of(net), Objective(Flow(), prediction="x0"), [X], optimiser, num_steps=1)
    with pytest.raises(ValueError, match="`accumulate` must be at least 1"):
        Engine(accumulate=0)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda d, o, b, s: (d, b, s), r"a NetDenoiser has no loss of its own. Give its objective"),
        (lambda d, o, b, s: (o, d, b, s), "net is a torch module can be trained, got Objective"),
        (lambda d, o, b, s: (d.net, o, b, s), r"got Plain. Put a net into ef\.NetDenoiser"),
        (lambda d, o, b, s: (d, "velocity", b, s), "comes after the denoiser, got 'velocity'"),
        (lambda d, o, b, s: (d, Objective, b, s), "comes after the denoiser"),
        (lambda d, o, b, s: (d, o, s, b), "an optimiser of torch, got list"),
        (lambda d, o, b, s: (d, o, None, s), "batches are an iterable.*got NoneType"),
        (lambda d, o, b, s: (d, o, b, torch.optim.SGD(Plain().parameters())), "steps no parameter of this net"),
    ],
    ids=["objective forgotten", "swapped", "bare net", "name", "class", "optimiser", "no batches", "another net's"],
)
def test_parts_in_the_wrong_place_are_named(wrong: Callable[..., Any], words: str) -> None:
    net = Plain()
    parts = wrong(of(net), Objective(Flow()), [X], torch.optim.SGD(net.parameters(), lr=0.1))
    with pytest.raises(ValueError, match=words):
        list(fit(*parts, num_steps=1))


@pytest.mark.parametrize("multiplies", [True, False])
def test_an_engine_says_its_precision_and_why(multiplies: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: multiplies)
    said = Engine(device="cpu").said(torch.device("cpu"))
    wanted = (
        "bfloat16: this CPU multiplies it (engine.precision=fp32 turns it off); not compiled"
        if multiplies
        else "float32: this CPU does not multiply bfloat16; not compiled"
    )
    assert said == wanted
    told = replace(CPU, precision="bf16", compile="auto").said(torch.device("cpu"))
    assert told == "bfloat16, as engine.precision=bf16 asks; not compiled: on a CPU it does not earn its wait back"


# -- any net, any optimiser -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_statistics_of_a_strangers_net_are_kept_and_averaged(precision: Precision) -> None:
    """In bfloat16 the running mean was moved in a copy, and 0.0 was saved (0.48 there)."""
    net = Plain(middle=nn.BatchNorm1d(16))
    ema = EMA(net, 0.5)
    with torch.no_grad():
        net.first.bias.fill_(3.0)
    trained(net, [X], num_steps=30, engine=replace(CPU, precision=precision), ema=ema)
    assert isinstance(net.middle, nn.BatchNorm1d) and isinstance(ema.module, Plain)
    assert float(net.middle.running_mean.mean()) > 1  # type: ignore[union-attr]
    assert torch.equal(net.middle.running_mean, ema.module.middle.running_mean)  # type: ignore[arg-type, union-attr]
    assert all(p.dtype == torch.float32 for p in net.parameters())


def test_tied_weights_are_trained_in_bfloat16_saved_and_restored(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        net = Plain(middle=nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)))
        net.middle[1].weight = net.middle[0].weight  # type: ignore[index, union-attr]
        return net

    net = tied()
    optimiser = adamw(net.parameters(), lr=0.01)
    list(fit(of(net), Objective(Flow()), [X], optimiser, num_steps=2, engine=replace(CPU, precision="bf16")))
    saved = checkpoint.save(tmp_path / "c", model=net, ema=EMA(net), optimiser=optimiser, state={"step": 2})
    again = tied()
    checkpoint.restore(saved, again, EMA(again), adamw(again.parameters(), lr=0.01))
    assert again.middle[1].weight is again.middle[0].weight  # type: ignore[index, union-attr]
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("training", [True, False])
def test_a_net_is_left_in_the_mode_it_came_in(training: bool) -> None:
    net = Plain(middle=nn.Dropout(0.5)).train(training)
    net.last.eval()
    steps = fit(of(net), Objective(Flow()), [X], torch.optim.SGD(net.parameters(), lr=0.1), num_steps=9)
    next(steps)
    assert net.middle.training
    with mode(net, training=False):
        assert not net.middle.training
    assert net.middle.training
    steps.close()  # type: ignore[attr-defined]
    assert (net.training, net.middle.training, net.last.training) == (training, training, False)


def test_rates_of_groups_are_left_alone_or_kept_in_proportion() -> None:
    net = Plain()

    def groups() -> torch.optim.Optimizer:
        parts = [{"params": net.first.parameters(), "lr": 1e-2}, {"params": net.last.parameters(), "lr": 1e-4}]
        return torch.optim.SGD(parts, lr=1.0)

    def rates(optimiser: torch.optim.Optimizer) -> list[float]:
        return [group["lr"] for group in optimiser.param_groups]

    optimiser = groups()
    theirs = torch.optim.lr_scheduler.StepLR(optimiser, step_size=1, gamma=0.5)
    for _ in fit(of(net), Objective(Flow()), [X], optimiser, num_steps=3):
        theirs.step()
    assert rates(optimiser) == pytest.approx([1e-2 / 8, 1e-4 / 8])
    optimiser, lr = groups(), LearningRate(peak=0.5, schedule="cosine", num_steps=2)
    for legs in ((0, 2), (2, 3)):
        list(fit(of(net), Objective(Flow()), [X], optimiser, start=legs[0], num_steps=legs[1], lr=lr))
    assert rates(optimiser) == [0, 0], "at the end of the cosine"
    list(fit(of(net), Objective(Flow()), [X], optimiser, num_steps=1, lr=lr))
    assert rates(optimiser) == pytest.approx([0.5, 0.005])


def test_old_gradients_do_not_count() -> None:
    found = []
    for stale in (False, True):
        net = Everywhere()
        if stale:
            net.w.grad = torch.tensor(1e3)
        trained(net, [X], num_steps=1)
        found.append(float(net.w.detach()))
    assert found[0] == found[1]


# -- the folder -------------------------------------------------------------------------------------------------------


def test_a_disk_that_is_full_is_one_to_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """safetensors has an error of its own for it, which was called a bug of ours."""

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space left") as caught:
        save_tensors({"x": X}, tmp_path / "x.safetensors")
    assert caught.value.errno == errno.ENOSPC and not list(tmp_path.iterdir())


def trainer_of(splits: Splits, folder: Path, **train: Any) -> Trainer:
    return Trainer(task_of(parse_as(RunConfig, merge(TINY, {"train": train})), splits, folder))


def finished(trainer: Trainer) -> list[Progress]:
    return list(trainer.events())


def test_checkpoints_beyond_a_million_steps_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    for step in (999_500, 1_000_000, 1_000_500, 20):
        checkpoint_of(tmp_path, step).mkdir(parents=True)
    (tmp_path / "checkpoints" / "step_new").mkdir()
    names = ["step_000020", "step_999500", "step_1000000", "step_1000500"]
    assert [path.name for path in checkpoints(tmp_path)] == names
    prune(tmp_path, keep=2, rows=[{"step": 20, "held_out": 0.1}, {"step": 7, "held_out": 0.0}, {"step": 999_500}])
    assert [path.name for path in checkpoints(tmp_path)] == [names[0], *names[2:]]
    left = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert left == {"step_new", names[0], *names[2:]}


def test_a_run_goes_on_past_a_million_steps(digits: Splits, tmp_path: Path) -> None:
    finished(trainer_of(digits, tmp_path / "run", num_steps=2, schedule="constant"))
    only = checkpoints(tmp_path / "run")[-1]
    state = json.loads((only / "state.json").read_text())
    (only / "state.json").unlink()
    checkpoint.write_state(only, {**state, "step": 999_999})
    only.rename(checkpoint_of(tmp_path / "run", 999_999))
    finished(trainer_of(digits, tmp_path / "run", num_steps=1_000_003, keep=1, schedule="constant"))
    assert open_run(tmp_path / "run").checkpoint.step == 1_000_003


def test_a_failed_picture_is_a_note_and_the_checkpoint_is_there(digits: Splits, tmp_path: Path) -> None:
    trainer = trainer_of(digits, tmp_path / "run", sample_every=2)
    saved: list[bool] = []

    def broken(net: nn.Module) -> None:
        saved.append(checkpoint_of(tmp_path / "run", 2 * len(saved) + 2).is_dir())
        raise RuntimeError("no such sampler")

    trainer.task.picture = broken  # type: ignore[method-assign]
    notes = [progress.note for progress in finished(trainer) if progress.note]
    assert notes.count("no picture: RuntimeError: no such sampler") == 3 and saved == [True] * 3
    assert open_run(tmp_path / "run").checkpoint.step == 6


def test_what_was_due_when_a_run_was_stopped_is_done_when_it_goes_on(digits: Splits, tmp_path: Path) -> None:
    config = parse_as(RunConfig, merge(TINY, {"train": {"held_out_every": 2}}))
    asked = iter(range(1, 9))
    first = Trainer(task_of(config, digits, tmp_path / "run"), should_stop=lambda: next(asked) == 4)
    assert [p.held_out is None for p in finished(first)][-1], "a stop does not wait for the held-out loss"
    assert [row["step"] for row in metrics(tmp_path / "run") if "held_out" in row] == [2]
    finished(Trainer(task_of(config, digits, tmp_path / "run")))
    assert [row["step"] for row in metrics(tmp_path / "run") if "held_out" in row] == [2, 4, 6]


def test_a_folder_is_trained_by_one_process_at_a_time(digits: Splits, tmp_path: Path) -> None:
    trainer = trainer_of(digits, tmp_path / "run")
    with pytest.raises(ConfigError, match=f"is being trained by another process .process {os.getpid()}"):
        trainer_of(digits, tmp_path / "run")
    finished(trainer)
    assert len(metrics(tmp_path / "run")) == 7, "6 steps and the held-out loss"
    assert trainer_of(digits, tmp_path / "run").start == 6, "it was let go"
    assert trainer_of(digits, tmp_path / "run").is_finished, "and by a trainer that nobody needs any more"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="holds no run"):
        trainer_of(digits, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_one_of_several_processes_is_refused(digits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"one of 2 processes that a launcher started .* have not met"):
        trainer_of(digits, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert trainer_of(digits, tmp_path / "run").start == 0


def test_a_line_of_metrics_that_was_cut_short_costs_itself_only(digits: Splits, tmp_path: Path) -> None:
    finished(trainer_of(digits, tmp_path / "run", num_steps=4, schedule="constant"))
    with (tmp_path / "run" / METRICS).open("a") as file:
        file.write('{"step": 5, "loss": 0.')
    assert read_metrics(tmp_path / "run")[-1]["step"] == 4
    finished(trainer_of(digits, tmp_path / "run", num_steps=6, schedule="constant"))
    assert [row["step"] for row in metrics(tmp_path / "run") if "loss" in row] == [1, 2, 3, 4, 5, 6]
    lines = (tmp_path / "run" / METRICS).read_text().splitlines()
    assert all(json.loads(line)["step"] for line in lines)


@pytest.mark.parametrize("damage", ["model.safetensors", "optimiser.safetensors", "state.json", "ema.safetensors"])
@pytest.mark.parametrize("cut", [True, False])
def test_a_damaged_checkpoint_is_passed_over_and_said(damage: str, cut: bool, digits: Splits, tmp_path: Path) -> None:
    finished(trainer_of(digits, tmp_path / "whole", schedule="constant"))
    finished(trainer_of(digits, tmp_path / "run", num_steps=4, schedule="constant"))
    file = checkpoint_of(tmp_path / "run", 4) / damage
    if cut:
        file.write_bytes(file.read_bytes()[:100])
    else:
        file.unlink()
    trainer = trainer_of(digits, tmp_path / "run", schedule="constant")
    assert trainer.start == 2
    notes = [progress.note for progress in finished(trainer) if progress.note]
    assert str(file.parent) in notes[0] and "damaged_step_000004; going on from step 2" in notes[0]
    a, b = (open_run(tmp_path / name).checkpoint.tensors("ema") for name in ("whole", "run"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    for folder in checkpoints(tmp_path / "run"):
        (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"step_000006.*model.safetensors is damaged"):
        trainer_of(digits, tmp_path / "run", schedule="constant")


def test_an_open_run_can_be_used_after_its_checkpoint_is_gone(digits: Splits, tmp_path: Path) -> None:
    finished(trainer_of(digits, tmp_path / "run"))
    opened, wanted = open_run(tmp_path / "run"), open_run(tmp_path / "run").denoiser().net
    shutil.rmtree(opened.checkpoint.folder)
    for weights in ("ema", "raw"):
        assert opened.denoiser(weights).path == Flow()  # type: ignore[arg-type]
    found = opened.denoiser().net
    assert isinstance(wanted, nn.Module) and isinstance(found, nn.Module)
    assert all(torch.equal(a, b) for a, b in zip(wanted.parameters(), found.parameters(), strict=True))


def test_another_length_under_a_cosine_is_said(digits: Splits, tmp_path: Path) -> None:
    finished(trainer_of(digits, tmp_path / "run", num_steps=2))
    notes = [progress.note for progress in finished(trainer_of(digits, tmp_path / "run", num_steps=4))]
    assert "cosine over train.num_steps, which was 2 and is now 4" in str(notes[0])
    finished(trainer_of(digits, tmp_path / "other", num_steps=2, schedule="constant"))
    notes = [p.note for p in finished(trainer_of(digits, tmp_path / "other", num_steps=4, schedule="constant"))]
    assert not any("cosine" in (note or "") for note in notes)


def test_a_damaged_description_of_a_run_is_said(digits: Splits, tmp_path: Path) -> None:
    """It was a traceback of the JSON reader, which looked like a bug."""
    finished(trainer_of(digits, tmp_path / "run", num_steps=2))
    file = tmp_path / "run" / "config.json"
    file.write_text(file.read_text()[:-40])
    with pytest.raises(
        CheckpointError, match=r"config\.json does not describe a run: .* Mend it, or choose another `save_dir`"
    ):
        trainer_of(digits, tmp_path / "run", num_steps=2)


def test_throughput_counts_training_alone(digits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that only a step (1 s) and a measurement (1000 s) move."""
    clock = [0.0]
    monkeypatch.setattr("ebbflow.training.loop.time.perf_counter", lambda: clock[0])
    trainer = trainer_of(digits, tmp_path / "run", held_out_every=1)
    loss, held_out = trainer.task.loss, trainer.task.held_out

    def step(*parts: Any) -> Loss:
        clock[0] += 1
        return loss(*parts)

    def measure(net: nn.Module) -> dict[str, Any]:
        clock[0] += 1000
        return held_out(net)

    trainer.task.loss, trainer.task.held_out = step, measure  # type: ignore[method-assign]
    finished(trainer)
    assert {row["samples_per_second"] for row in metrics(tmp_path / "run") if "loss" in row} == {16.0}


def test_a_loss_that_is_not_finite_names_the_last_checkpoint(digits: Splits, tmp_path: Path) -> None:
    trainer = trainer_of(digits, tmp_path / "run")
    events = trainer.events()
    while "checkpoint" not in (next(events).note or ""):
        pass
    with torch.no_grad():
        next(trainer.task.net.parameters()).fill_(torch.nan)
    with pytest.raises(FloatingPointError, match=r"step 3 .*The last checkpoint is .*step_000002"):
        list(events)
    assert trainer_of(digits, tmp_path / "run").start == 2, "the folder was let go"


# -- files ------------------------------------------------------------------------------------------------------------


def test_of_two_writers_of_a_file_each_writes_its_own(tmp_path: Path) -> None:
    """With one partial name the first published the second's half, and one died."""
    path, started, checked = tmp_path / "a.txt", threading.Barrier(2), threading.Barrier(2)
    errors: list[Exception] = []

    def write(text: str) -> None:
        try:
            with whole_file(path) as partial, partial.open("w") as file:
                file.write(text[:500])
                file.flush()
                started.wait(10)
                file.write(text[500:])
                file.flush()
                checked.wait(10)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(letter * 1000,)) for letter in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and path.read_text() in ("a" * 1000, "b" * 1000)
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("whole", [whole_file, whole_folder])
def test_what_fails_half_way_leaves_the_old(whole: Callable[[Path], Any], tmp_path: Path) -> None:
    def fill(target: Path, text: str) -> None:
        (target / "x" if whole is whole_folder else target).write_text(text)

    def content() -> str:
        return (tmp_path / "a" / "x" if whole is whole_folder else tmp_path / "a").read_text()

    with whole(tmp_path / "a") as partial:
        fill(partial, "old")

    def fail() -> None:
        with whole(tmp_path / "a") as partial:
            fill(partial, "new")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert content() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_lock_goes_with_its_process(tmp_path: Path) -> None:
    holder = "import sys, time; from pathlib import Path; from ebbflow.files import locked\n"
    holder += "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", holder, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=f"process {process.pid}"), locked(tmp_path):
            pass
        process.kill()
    with locked(tmp_path):
        pass


def test_tied_and_sliced_tensors_are_saved(tmp_path: Path) -> None:
    base = torch.arange(12.0)
    tensors = {"a": base, "b": base, "row": base.reshape(3, 4)[1], "column": base.reshape(3, 4)[:, 1]}
    save_tensors(tensors, tmp_path / "t.safetensors")
    opened = checkpoint.Checkpoint(folder=tmp_path, state={"step": 0})
    assert all(torch.equal(value, tensors[name]) for name, value in opened.tensors("t").items())


def test_fit_is_public_and_takes_a_stranger_from_end_to_end() -> None:
    """The README's promise: an own net and an own loader, trained and sampled."""
    net = Plain()
    denoiser, objective = ef.NetDenoiser(net=net, path=ef.PATHS["flow"]()), ef.Objective(ef.PATHS["flow"]())
    loader = DataLoader(TensorDataset(X, Y), batch_size=6)

    def steps() -> Iterator[TrainStep]:
        yield from ef.fit(denoiser, objective, loader, torch.optim.Adam(net.parameters(), lr=1e-2), num_steps=8)

    assert len(list(steps())) == 8 and np.isfinite([step.loss for step in steps()]).all()
    times = ef.TIME_GRIDS["uniform"](denoiser.path, 4)
    with torch.no_grad():
        *_, last = ef.SAMPLERS["heun"](denoiser, normal(3, 2).float(), times)
    assert last.x.shape == (3, 2) and bool(torch.isfinite(last.x).all())


def test_a_file_that_cannot_be_written_is_called_by_its_own_name(tmp_path: Path) -> None:
    folder = tmp_path / "folder"

    def written() -> None:
        with whole_file(folder / "a.png") as partial:
            shutil.rmtree(folder)
            partial.write_text("x")

    with pytest.raises(OSError, match="No such file") as raised:
        written()
    assert raised.value.filename == str(folder / "a.png")


def test_a_damaged_checkpoint_names_another_one(digits: Splits, tmp_path: Path) -> None:
    finished(trainer_of(digits, tmp_path / "run", num_steps=4, save_every=2, keep=2))
    old, new = checkpoints(tmp_path / "run")
    (new / "ema.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match=f"ema.safetensors is damaged.*such as .*{old.name}"):
        ef.open(tmp_path / "run", device="cpu")
