"""Laws of training: it fits, it resumes bit for bit, it stops before harm."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ebbflow.config import RunConfig, merge, parse, to_dict
from ebbflow.core.paths import Flow
from ebbflow.data import Dataset, Splits, load_dataset
from ebbflow.errors import CheckpointError, ConfigError
from ebbflow.methods.denoise import NetDenoiser
from ebbflow.methods.objective import Objective
from ebbflow.methods.oracles import FiniteData
from ebbflow.nets import NETS
from ebbflow.runs import Trainer, open_run, task_of
from ebbflow.runs.build import DatasetLoader, build_denoiser, facts_of, resolved
from ebbflow.training import checkpoint
from ebbflow.training.batches import Batch
from ebbflow.training.ema import EMA
from ebbflow.training.engine import Engine, Precision, pick_device
from ebbflow.training.held_out import HeldOut, bins_by_log_snr
from ebbflow.training.loop import fit
from ebbflow.training.optim import LearningRate, adamw
from ebbflow.training.task import Draw, Loss, Task

TINY = {
    "net": {"kind": "unet", "channels": [8, 16], "num_heads": 2},
    "train": {
        "num_steps": 12,
        "batch_size": 16,
        "save_every": 4,
        "sample_every": 0,
        "held_out_every": 4,
        "held_out_size": 32,
    },
    "engine": {"precision": "fp32", "device": "cpu"},
    "sample": {"num_steps": 2},
}


def tiny(**train: object) -> RunConfig:
    return parse(merge(TINY, {"train": train} if train else {}))


@pytest.fixture(scope="module")
def digits() -> Splits:
    return load_dataset("digits")


class Fixed:
    """The same batch at every step."""

    def __init__(self, x0: torch.Tensor) -> None:
        self.x0 = x0

    def batch(self, step: int) -> Batch:
        return Batch(x0=self.x0)


def mlp_denoiser(dims: int = 2) -> NetDenoiser:
    torch.manual_seed(0)
    net = NETS["mlp"](dim=64, depth=3).build((dims,), dims, None)
    return NetDenoiser(net=net, path=Flow(), prediction="x0")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_overfits_eight_points(precision: Precision) -> None:
    """What is to be learnt is known exactly: the posterior mean over the eight points."""
    points = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    denoiser, oracle = mlp_denoiser(), FiniteData(points, Flow())
    eps = torch.randn(8, 2, generator=torch.Generator().manual_seed(1))

    def error() -> float:
        with torch.no_grad():
            pairs = [
                (denoiser(x, t).x0, oracle(x, t).x0) for t in (0.2, 0.4, 0.6) for x in (Flow().mix(points, eps, t),)
            ]
        return float(torch.stack([(a - b).square().mean() for a, b in pairs]).mean())

    before = error()
    optimiser = adamw(denoiser.net.parameters(), lr=3e-3)
    rate = LearningRate(peak=3e-3, schedule="cosine", num_steps=800)
    objective = Objective(Flow(), prediction="x0")
    engine = Engine(device="cpu", precision=precision)
    for _ in fit(denoiser, objective, Fixed(points.repeat(16, 1)), optimiser, num_steps=800, lr=rate, engine=engine):
        pass
    assert error() < 0.05 * before


def run_to_the_end(config: RunConfig, splits: Splits, folder: Path) -> Trainer:
    trainer = Trainer(task_of(config, splits, folder))
    for _ in trainer.events():
        pass
    return trainer


def test_ema_is_its_closed_form() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    values = [1.0, 5.0, -2.0, 3.0, 0.5, 4.0]
    torch.nn.init.constant_(module.weight, values[0])
    ema = EMA(module, decay=0.3)
    for value in values[1:]:
        torch.nn.init.constant_(module.weight, value)
        ema.update(module)
    decays = [min(0.3, (1 + n) / (10 + n)) for n in range(5)]
    expected = values[0] * math.prod(decays)
    expected += sum(
        v * (1 - d) * math.prod(decays[i + 1 :]) for i, (v, d) in enumerate(zip(values[1:], decays, strict=True))
    )
    assert float(ema.module.weight.detach()) == pytest.approx(expected, rel=1e-6)


def test_ema_copies_buffers_and_refuses_a_decay_of_one() -> None:
    module = torch.nn.BatchNorm1d(2)
    ema = EMA(module, decay=0.9)
    module.running_mean.fill_(7.0)
    ema.update(module)
    assert torch.equal(ema.module.running_mean, module.running_mean)
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        EMA(module, decay=1.0)


def test_learning_rates() -> None:
    warm = LearningRate(peak=1.0, warmup_steps=9)
    assert [warm.at(n) for n in (0, 4, 9, 100)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    cosine = LearningRate(peak=2.0, schedule="cosine", num_steps=100)
    assert [cosine.at(n) for n in (0, 50, 100)] == pytest.approx([2.0, 1.0, 0.0])
    step = LearningRate(peak=1.0, schedule="step", decay_every=10, decay_rate=0.5)
    assert [step.at(n) for n in (0, 9, 10, 25)] == pytest.approx([1.0, 1.0, 0.5, 0.25])


def test_step_decay_equals_torchs_own() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([weight], lr=0.7)
    theirs = torch.optim.lr_scheduler.StepLR(optimiser, step_size=3, gamma=0.2)
    ours = LearningRate(peak=0.7, schedule="step", decay_every=3, decay_rate=0.2)
    for n in range(10):
        assert ours.at(n) == pytest.approx(optimiser.param_groups[0]["lr"])
        optimiser.step()
        theirs.step()


class Sum(Task):
    """The sum of what a net says of its batch."""

    def __init__(self, net: torch.nn.Module) -> None:
        self.net = net
        self.dtypes: set[torch.dtype] = set()

    def loss(self, net: torch.nn.Module, batch: Batch, draw: Draw) -> Loss:
        out = net(batch.x0)
        self.dtypes.add(out.dtype)
        return Loss(each=out.float().flatten(1).sum(1))


def test_training_in_bfloat16_never_loses_a_small_step() -> None:
    """Steps of 1e-5 vanish beside 1.0 in bfloat16; in the float32 weights they add up."""
    master = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(master.weight)
    optimiser = torch.optim.SGD(master.parameters(), lr=1e-5)
    task = Sum(master)
    for _ in fit(task, [torch.ones(1, 1)], optimiser, num_steps=1000, engine=Engine(device="cpu", precision="bf16")):
        pass
    assert task.dtypes == {torch.bfloat16}
    assert float(master.weight.detach()) == pytest.approx(0.99, abs=1e-4)


def test_a_loss_that_is_not_finite_stops_before_the_weights(digits: Splits, tmp_path: Path) -> None:
    trainer = Trainer(task_of(tiny(), digits, tmp_path / "run"))
    events = trainer.events()
    for progress in events:
        if progress.note and "checkpoint" in progress.note:
            break
    good = open_run(tmp_path / "run").checkpoint.tensors("model")
    with torch.no_grad():
        trainer.task.net.net.stem.bias.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match=r"not finite at step 5 \(learning rate .*mean loss by quarter of t"):
        list(events)
    again = open_run(tmp_path / "run")
    assert again.checkpoint.step == 4
    assert all(torch.equal(good[k], v) for k, v in again.checkpoint.tensors("model").items())


def test_batches_are_a_pure_function_of_the_step_and_cover_the_data(digits: Splits) -> None:
    data = digits.train.select(torch.arange(50))
    loader = DatasetLoader(dataset=data, cond=None, batch_size=16, seed=3)
    assert torch.equal(loader.batch(7).x0, loader.batch(7).x0)
    epochs = torch.cat([loader.batch(step).x0 for step in range(25)])
    for epoch in epochs.split(50):
        assert torch.equal(epoch.flatten(1).sort(dim=0).values, data.x0(torch.arange(50)).flatten(1).sort(dim=0).values)
    wide = replace(loader, batch_size=120)
    assert len(wide.batch(0).x0) == 120


def test_held_out_loss_depends_on_the_weights_alone(digits: Splits) -> None:
    facts = facts_of(digits.held_out)
    denoiser = build_denoiser(resolved(tiny(), facts), facts)
    frozen = HeldOut(
        objective=Objective(Flow()),
        x0=digits.held_out.x0(torch.arange(50)),
        cond=digits.held_out.labels[:50],
        batch_size=16,
    )
    torch.randn(5)
    first, bins = frozen(denoiser, torch.device("cpu"))
    second, _ = replace(frozen, batch_size=50)(denoiser, torch.device("cpu"))
    assert first == pytest.approx(second, rel=1e-6)
    assert sum(bins.values()) > 0


def test_bins_hold_every_sample_once() -> None:
    levels, losses = torch.tensor([-9.0, -4.0, 0.0, 1.0, 1.5, 99.0]), torch.tensor([1.0, 2.0, 3.0, 4.0, 6.0, 5.0])
    assert bins_by_log_snr(levels, losses) == {"-inf..-6": 1, "-6..-3": 2, "-3..0": 3, "0..3": 5, "6..inf": 5}


def test_newest_and_best_checkpoints_are_kept(digits: Splits, tmp_path: Path) -> None:
    run_to_the_end(tiny(num_steps=20, save_every=4, keep=2), digits, tmp_path / "run")
    kept = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    best = min((row["held_out"], row["step"]) for row in rows if "held_out" in row)[1]
    assert set(kept) == {"step_000016", "step_000020", f"step_{best:06d}"}


def test_a_folder_with_another_run_or_other_files_is_left_alone(digits: Splits, tmp_path: Path) -> None:
    Trainer(task_of(tiny(), digits, tmp_path / "run"))
    before = (tmp_path / "run" / "config.json").read_bytes()
    with pytest.raises(ConfigError, match=r"another configuration: train\.batch_size is 16 there, 8 here"):
        Trainer(task_of(tiny(batch_size=8), digits, tmp_path / "run"))
    assert (tmp_path / "run" / "config.json").read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="not empty and holds no run"):
        Trainer(task_of(tiny(), digits, tmp_path / "mine"))


def test_a_damaged_or_foreign_checkpoint_is_named(digits: Splits, tmp_path: Path) -> None:
    run_to_the_end(tiny(num_steps=4), digits, tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints" / "step_000004"
    (folder / "ema.safetensors").write_bytes(b"no tensors here")
    with pytest.raises(CheckpointError, match=r"ema\.safetensors is damaged"):
        open_run(tmp_path / "run").denoiser()
    other = build_denoiser(parse(merge(TINY, {"net": {"channels": [8, 8]}})), open_run(tmp_path / "run").facts)
    with pytest.raises(CheckpointError, match=r"this net wants|not part of this net|missing"):
        checkpoint.load_weights(other.net, open_run(tmp_path / "run").checkpoint.tensors("model"), folder)
    with pytest.raises(CheckpointError, match="does not exist"):
        open_run(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="not a run of ebbflow"):
        open_run(tmp_path)


def test_a_failed_save_leaves_the_old_checkpoint(
    digits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = run_to_the_end(tiny(num_steps=4), digits, tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints" / "step_000004"
    before = (folder / "state.json").read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("json.dumps", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(folder, model=trainer.task.net, ema=trainer.ema, optimiser=trainer.optimiser, state={"step": 4})
    assert (folder / "state.json").read_bytes() == before
    assert [p.name for p in folder.parent.iterdir()] == ["step_000004"], "no partial folder may stay"


def test_a_path_can_be_swapped_after_training_where_the_net_hears_log_snr_only(digits: Splits) -> None:
    """An eps net fed x_t / scale and log-SNR answers the same question on VP and VE."""
    facts = facts_of(digits.train)
    config = parse(merge(TINY, {"path": {"kind": "vp"}, "objective": {"prediction": "eps"}}))
    on_vp = build_denoiser(resolved(config, facts), facts)
    torch.nn.init.normal_(on_vp.net.net.out.weight, std=0.1)
    on_ve = replace(on_vp, path=parse({"path": {"kind": "ve"}}).path)
    x0, eps = digits.train.x0(torch.arange(3)), torch.randn(3, 1, 8, 8)
    t = 0.4
    t_ve = float(on_ve.path.time_of(on_vp.path.log_snr(t)))
    with torch.no_grad():
        a = on_vp(on_vp.path.mix(x0, eps, t), t)
        b = on_ve(on_ve.path.mix(x0, eps, t_ve), t_ve)
    torch.testing.assert_close(a.eps, b.eps, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(a.x0, b.x0, rtol=1e-4, atol=1e-4)


def test_configuration_survives_json() -> None:
    config = tiny()
    assert parse(json.loads(json.dumps(to_dict(config)))) == config


def test_an_absent_device_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="Use `device` cpu"):
        pick_device("cuda:7")


def test_points_and_datasets_of_any_kind_train(tmp_path: Path) -> None:
    points = Dataset(name="points", x=torch.randn(40, 2), labels=None, label_names=())
    config = parse(merge(TINY, {"net": {"kind": "mlp"}}))
    trainer = run_to_the_end(config, Splits(train=points, held_out=points), tmp_path / "run")
    assert (tmp_path / "run" / "samples" / "step_000012.png").is_file()
    assert open_run(tmp_path / "run").denoiser().net is not trainer.task.net
