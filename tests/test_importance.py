"""Laws of what training learns about its loss, and of what an objective weighs."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path as FilePath

import pytest
import torch
from conftest import F64, PATH_CASES, is_valid, normal
from PIL import Image
from torch import Tensor

from ebbflow.cli.app import run_app
from ebbflow.config import RunConfig, merge, parse
from ebbflow.core.paths import PATHS, VPDiscrete
from ebbflow.core.predictions import PREDICTIONS
from ebbflow.core.times import TIME_SAMPLERS
from ebbflow.core.weights import WEIGHTS, effective_weight, loss_weight
from ebbflow.data import Splits, load_dataset
from ebbflow.errors import CheckpointError, ConfigError
from ebbflow.methods.adaptive import HISTORY, ImportanceTimes, Uncertainty
from ebbflow.methods.denoise import NetDenoiser
from ebbflow.methods.objective import Objective
from ebbflow.runs import Trainer, task_of
from ebbflow.runs.tasks import ModelTask
from ebbflow.show.loss_weights import compare, grid, read_term
from ebbflow.training.batches import Batch
from ebbflow.training.loop import fit

FLOW = PATH_CASES["flow"]
SETTINGS = {
    "net": {"kind": "unet", "channels": [8, 16], "num_heads": 2},
    "objective": {"times": "importance", "time_bins": 4, "uncertainty": True},
    "train": {"num_steps": 12, "batch_size": 16, "save_every": 4, "sample_every": 0, "held_out_size": 32},
    "engine": {"precision": "fp32", "device": "cpu"},
}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def loss_at(t: Tensor) -> Tensor:
    """A loss known at each time, ten thousand times larger at one end."""
    return torch.exp(-9.2 * t) + 1e-4


MEAN_LOSS = (1 - math.exp(-9.2)) / 9.2 + 1e-4


def warmed(num_bins: int = 20) -> ImportanceTimes:
    times = ImportanceTimes(FLOW, num_bins)
    for step in range(HISTORY):
        t, _ = times.draw(num_bins, generator(step))
        times.observe(t, loss_at(t))
    return times


# -- importance sampling ----------------------------------------------------------------------------------------------


def test_weighted_losses_have_the_mean_of_uniform_times() -> None:
    """Trap 37: without the weights the mean would be that of the large losses."""
    times = warmed()
    assert times.is_warm
    t, weights = times.draw(40_000, generator(1))
    values = weights * loss_at(t)
    error = float(values.std()) / math.sqrt(len(t))
    assert abs(float(values.mean()) - MEAN_LOSS) < 4.5 * error
    assert abs(float(loss_at(t).mean()) - MEAN_LOSS) > 30 * error, "times are drawn uniformly: this test sees nothing"
    p = times.probabilities()
    assert float((p * (1 / (times.num_bins * p))).sum()) == pytest.approx(1, abs=1e-12)
    assert float(values.std()) < 0.5 * float(loss_at(torch.rand(40_000, generator=generator(2))).std())


def test_probabilities_follow_the_last_ten_losses_of_each_bin() -> None:
    times = ImportanceTimes(FLOW, 4)
    middles = torch.tensor([0.1, 0.3, 0.6, 0.9], dtype=F64)
    for k in range(1, 14):  # 13 losses a bin: the first three are forgotten
        times.observe(middles, torch.tensor([1.0, 2.0, 3.0, 4.0]) * k)
    sizes = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=F64) * math.sqrt(sum(k * k for k in range(4, 14)) / 10)
    wanted = 0.999 * sizes / sizes.sum() + 0.001 / 4
    torch.testing.assert_close(times.probabilities(), wanted, rtol=1e-12, atol=0)
    t, weights = times.draw(20_000, generator(0))
    drawn = torch.bincount((t * 4).long(), minlength=4) / 20_000
    assert bool(((drawn - wanted).abs() < 4.5 * (wanted * (1 - wanted) / 20_000).sqrt()).all())
    torch.testing.assert_close(weights, 1 / (4 * wanted[(t * 4).long()]), rtol=1e-12, atol=0)


def test_nothing_is_weighted_before_every_bin_has_ten() -> None:
    times = ImportanceTimes(FLOW, 5)
    for k in range(HISTORY):
        times.observe(torch.tensor([0.1, 0.3, 0.5, 0.7], dtype=F64), torch.tensor([1.0, 1.0, 1.0, 50.0]))
        times.observe(torch.full((7,), 0.05, dtype=F64), torch.ones(7))
        assert not times.is_warm
        t, weights = times.draw(100, generator(k))
        assert bool((weights == 1).all()) and int((t > 0.8).sum()) == 20, "the warm-up is not spread evenly"
    times.observe(torch.full((9,), 0.9, dtype=F64), torch.ones(9))
    assert not times.is_warm
    times.observe(torch.tensor([0.9], dtype=F64), torch.ones(1))
    assert times.is_warm and float(times.draw(100, generator(0))[1].max()) > 1


def test_bins_hold_whole_entries_of_a_table() -> None:
    path = VPDiscrete(num_steps=50)
    assert ImportanceTimes(path, 1000).num_bins == 50 and ImportanceTimes(PATH_CASES["vp"]).num_bins == 100
    times = ImportanceTimes(path, 50)
    times.observe(torch.arange(1, 51, dtype=F64) / 50, torch.arange(1.0, 51.0))
    assert times.state()["counts"].tolist() == [1] * 50, "an entry fell into its neighbour's bin"
    assert times.state()["losses"][:, 0].tolist() == list(map(float, range(1, 51)))


def test_losses_of_zero_leave_times_uniform() -> None:
    times = ImportanceTimes(FLOW, 2)
    times.observe(torch.tensor([0.2, 0.7] * HISTORY, dtype=F64), torch.zeros(2 * HISTORY))
    assert times.is_warm and times.probabilities().tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match="`num_bins` must be at least 1, got 0"):
        ImportanceTimes(FLOW, 0)


def test_a_state_goes_on_where_it_stopped_and_fits_its_bins_only() -> None:
    times, again = warmed(), ImportanceTimes(FLOW, 20)
    again.load({name: value.clone() for name, value in times.state().items()})
    for a, b in zip(times.draw(50, generator(3)), again.draw(50, generator(3)), strict=True):
        assert torch.equal(a, b)
    again.observe(torch.tensor([0.5], dtype=F64), torch.tensor([1e6]))
    assert not torch.equal(times.probabilities(), again.probabilities()), "the copies share their memory"
    with pytest.raises(ValueError, match=r"have 20 bins of times, this run has 5. Set objective.time_bins=20"):
        ImportanceTimes(FLOW, 5).load(times.state())


class Line(torch.nn.Module):
    """A net of one weight: out = w x."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, clock: Tensor, cond: Tensor | None) -> Tensor:
        return self.w * x


class Repeated:
    def batch(self, step: int) -> Batch:
        return Batch(x0=normal(64, 2, seed=step).float())


def test_training_learns_the_same_thing_from_fewer_times() -> None:
    """The optimum of the uniform objective: for N(0, 1) data on the flow path out = w x_t has its least loss at w*."""
    w = {}
    for times in ("importance", "uniform"):
        model = NetDenoiser(net=Line(), path=PATH_CASES["cosine"], prediction="x0")
        assert isinstance(model.net, Line)
        objective = Objective(PATH_CASES["cosine"], prediction="x0", times=times)
        steps = list(fit(model, objective, Repeated(), torch.optim.SGD(model.net.parameters(), lr=0.02), num_steps=400))
        w[times] = float(model.net.w.detach())
        assert len({float(t) for step in steps[-3:] for t in step.level}) == 3 * 64
    wanted = 2 / math.pi  # E cos(pi t / 2), the mean of alpha, for inputs of variance 1
    assert w["uniform"] == pytest.approx(wanted, abs=0.05) and w["importance"] == pytest.approx(wanted, abs=0.05)


# -- learned uncertainty ----------------------------------------------------------------------------------------------


def test_uncertainty_learns_the_logarithm_of_the_loss() -> None:
    u = Uncertainty(FLOW)
    optimiser = torch.optim.Adam(u.parameters(), lr=0.02)
    t = torch.linspace(0.01, 0.99, 128, dtype=F64)
    losses = (0.3 + 2 * t**2).float()
    assert float(u(t).detach().abs().max()) == 0, "it must start as the plain loss"
    for _ in range(1500):
        optimiser.zero_grad()
        (losses * torch.exp(-u(t)) + u(t)).mean().backward()
        optimiser.step()
    torch.testing.assert_close(u(t).detach(), losses.log(), rtol=0, atol=0.1)


def test_the_first_step_of_an_uncertain_run_is_the_plain_one() -> None:
    totals = []
    for learn in (False, True):
        net = Line()
        model, objective = NetDenoiser(net=net, path=FLOW), Objective(FLOW, learn_uncertainty=learn)
        u = objective.uncertainty
        beside = [] if u is None else list(u.parameters())
        optimiser = torch.optim.SGD([*net.parameters(), *beside], lr=0.1)
        steps = list(fit(model, objective, Repeated(), optimiser, num_steps=3))
        totals.append([step.loss for step in steps])
        assert steps[0].loss == pytest.approx(float(steps[0].losses.mean()), rel=1e-6)
        if u is not None:
            assert float(u.bias.detach()) != 0, "u was not trained"
    assert totals[0][0] == totals[1][0] and totals[0][2] != totals[1][2]


# -- a run with both --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> Splits:
    return load_dataset("digits")


def config() -> RunConfig:
    return parse(merge(SETTINGS))


def history(trainer: Trainer) -> ImportanceTimes:
    assert isinstance(trainer.task, ModelTask) and trainer.task.importance is not None
    return trainer.task.importance


def finished(trainer: Trainer) -> Trainer:
    for _ in trainer.events():
        pass
    return trainer


@pytest.mark.parametrize("stop_at", [2, 7])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(digits: Splits, tmp_path: FilePath, stop_at: int) -> None:
    """Stopped during the warm-up, and after it."""
    whole = finished(Trainer(task_of(config(), digits, tmp_path / "whole")))
    assert history(whole).is_warm
    steps = iter(range(1, 100))
    finished(Trainer(task_of(config(), digits, tmp_path / "parts"), should_stop=lambda: next(steps) == stop_at))
    resumed = Trainer(task_of(config(), digits, tmp_path / "parts"))
    assert resumed.start == stop_at
    finished(resumed)
    for a, b in (
        (whole.task.net.state_dict(), resumed.task.net.state_dict()),
        (whole.ema.module.state_dict(), resumed.ema.module.state_dict()),  # type: ignore[union-attr]
        (whole.task.state(), resumed.task.state()),
    ):
        assert a and all(torch.equal(a[name], b[name]) for name in a)
    assert float(whole.task.net.state_dict()["objective.bias"]) != 0
    held = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert all(math.isfinite(row.get("loss", 0.0)) for row in held)


def test_a_checkpoint_without_its_memory_is_refused(digits: Splits, tmp_path: FilePath) -> None:
    finished(Trainer(task_of(parse(merge(SETTINGS, {"train": {"num_steps": 2}})), digits, tmp_path / "run")))
    file = next((tmp_path / "run" / "checkpoints").glob("*/task.safetensors"))
    file.unlink()
    with pytest.raises(CheckpointError, match=r"task\.safetensors is missing\. This checkpoint is incomplete"):
        Trainer(task_of(config(), digits, tmp_path / "run"))


def test_the_command_line_trains_and_samples_such_a_run(tmp_path: FilePath) -> None:
    run, flags = tmp_path / "run", ["--set", "objective.times=importance", "--set", "objective.uncertainty=true"]
    tiny = ["--max-steps", "3", "--batch-size", "16", "--set", "net.channels=[8,16]", "--set", "net.num_heads=2"]
    more = ["--set", "objective.time_bins=2", "--set", "train.sample_every=0", "--device", "cpu"]
    assert run_app(["train", "--save-dir", str(run), *tiny, *flags, *more]) == 0
    assert (
        run_app(["sample", "--ckpt", str(run), "--output", str(tmp_path / "s.npz"), "--num", "10", "--steps", "2"]) == 0
    )


# -- the weight calculator --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("times", ["uniform", "logit_normal", "log_normal_sigma", "mode", "cosmap"])
def test_any_objective_is_an_integral_over_log_snr(name: str, times: str) -> None:
    """E_t [weight ||d target||^2] = 1/2 int w(L) ||d eps||^2 dL, one side by quadrature in t, the other in L."""
    path = PATH_CASES[name]
    logits = torch.linspace(-25, 25, 4001, dtype=F64)
    t = torch.sigmoid(logits)
    c, levels = path.at(t), torch.linspace(float(path.log_snr(1 - 1e-9)), 24, 4001, dtype=F64).clamp(min=-24)

    def error(log_snr: Tensor) -> Tensor:
        return torch.exp(-((log_snr / 4) ** 2))

    density = TIME_SAMPLERS[times].density(t, path) * t * (1 - t)
    for prediction, weight in (("eps", "uniform"), ("velocity", "uniform"), ("x0", "min_snr"), ("edm", "sigmoid")):
        a, b = PREDICTIONS[prediction](c)
        d = a * c.sigma - b * c.alpha
        loss = loss_weight(WEIGHTS[weight], c, d) * (d / c.alpha) ** 2 * error(c.log_snr)
        wanted = torch.trapezoid((density * loss).nan_to_num(), logits)
        w = effective_weight(path, prediction, times, weight, levels)
        got = torch.trapezoid(w * error(levels), levels) / 2
        assert float(got) == pytest.approx(float(wanted), rel=3e-4), (prediction, weight)


def test_weights_of_known_objectives() -> None:
    levels = grid()[40:-40]
    exact = {  # Kingma & Gao (2023), table 1, up to a constant
        "velocity:uniform:uniform@flow": torch.exp(-levels / 2),
        "v:uniform:uniform@cosine": torch.exp(-levels / 2) * 2 / math.pi,
        "eps:uniform:uniform@cosine": 2 / math.pi / torch.cosh(levels / 2) / 2,
        "eps:uniform:uniform@flow": 2 / (2 + torch.exp(levels / 2) + torch.exp(-levels / 2)) / 2,
    }
    for name, wanted in exact.items():
        got = read_term(name, "flow").weights(levels)
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=0, msg=lambda m, name=name: f"{name}: {m}")


SAME = [
    ("velocity:uniform:uniform@flow", "v:uniform:uniform@cosine", math.pi / 2),
    ("eps:uniform:uniform@vp", "x0:uniform:snr@vp", 1.0),
    ("score:uniform:snr@ve", "eps:uniform:uniform@ve", 1.0),
    ("eps:uniform:min_snr@vp", "v:uniform:min_snr@vp", 1.0),
    ("velocity:logit_normal:snr@flow", "eps:logit_normal:uniform@flow", 1.0),
    ("velocity:importance:uniform@flow", "velocity:low_discrepancy:uniform@flow", 1.0),
]
DIFFERENT = [
    ("eps:uniform:uniform@flow", "velocity:uniform:uniform@flow"),
    ("velocity:uniform:uniform@flow", "velocity:logit_normal:uniform@flow"),
    ("eps:uniform:uniform@vp", "eps:uniform:uniform@cosine"),
]


@pytest.mark.parametrize(("a", "b", "factor"), SAME, ids=str)
def test_objectives_that_are_the_same_are_said_to_be(a: str, b: str, factor: float) -> None:
    (found,) = compare([read_term(name, "flow") for name in (a, b)])
    assert found.same and found.factor == pytest.approx(factor, rel=1e-9), found


@pytest.mark.parametrize(("a", "b"), DIFFERENT, ids=str)
def test_objectives_that_differ_are_told_apart(a: str, b: str) -> None:
    (found,) = compare([read_term(name, "flow") for name in (a, b)])
    assert not found.same and found.spread > 0.1


@pytest.mark.parametrize("path", ["vp", "cosine", "ve", "sub_vp"])
@pytest.mark.parametrize("weight", [w for w in WEIGHTS if w != "uniform"])
def test_a_weighting_means_the_same_loss_in_every_prediction(path: str, weight: str) -> None:
    """x0 and v losses with any weight: their values agree sample by sample, not only their w(L)."""
    kind = PATH_CASES[path]
    x0, eps, t = normal(16, 3, seed=1), normal(16, 3, seed=2), torch.linspace(0.02, 0.98, 16, dtype=F64)
    off = 0.1 * normal(16, 3, seed=3)

    class Off:
        """A model whose eps is wrong by `off`."""

        def __init__(self, prediction: str) -> None:
            self.prediction = prediction

        def output(self, x_t: Tensor, at: float | Tensor, cond: Tensor | None) -> Tensor:
            c = kind.at(at)
            a, b = (k[:, None] for k in PREDICTIONS[self.prediction](c))
            wrong = eps + off
            return a * (x_t - c.sigma[:, None] * wrong) / c.alpha[:, None] + b * wrong

    found = {
        p: Objective(kind, prediction=p, weight=weight).losses(Off(p), x0, None, eps, t)
        for p in PREDICTIONS
        if is_valid(p, kind)
    }
    assert {"x0", "v"} <= found.keys()
    for (_, a), (_, b) in pairwise(found.items()):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-12)


def test_the_plot_says_what_is_the_same(tmp_path: FilePath, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "w.png"
    assert run_app(["plot", "weights", "--output", str(picture)]) == 0
    out = capsys.readouterr().out
    assert "velocity:uniform:uniform@flow  = 1.5708 x  v:uniform:uniform@cosine" in out and str(picture) in out
    assert Image.open(picture).width > 500
    two = ["--objectives", "eps:uniform:uniform,score:uniform:snr", "--path", "vp"]
    assert run_app(["plot", "weights", "--output", str(picture), "--json", *two]) == 0
    (pair,) = json.loads(capsys.readouterr().out)["pairs"]
    assert pair["same"] and pair["factor"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--objectives", "eps:uniform"], "an objective is prediction:times:weight or prediction:times:weight@path"),
        (["--objectives", "epss:uniform:uniform"], "unknown prediction 'epss'. Did you mean 'eps'"),
        (["--objectives", "eps:unifrom:uniform"], "unknown time sampling 'unifrom'. Did you mean 'uniform'"),
        (["--objectives", "eps:uniform:snrr"], "unknown weighting 'snrr'. Did you mean 'snr'"),
        (["--path", "flo"], "unknown path 'flo'. Did you mean 'flow'"),
        (["--objectives", "eps:uniform:uniform,eps:uniform:uniform"], "an objective is named twice"),
        (["--output", "w.txt"], "--output must be a file ending in"),
    ],
    ids=str,
)
def test_mistakes_in_objectives_get_a_sentence(
    tmp_path: FilePath, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert run_app(["plot", "weights", "--output", str(tmp_path / "w.png"), *flags]) == 2
    assert message in capsys.readouterr().err


def test_importance_is_listed_and_wrong_bins_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["list", "times"]) == 0
    assert "importance" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"objective\.time_bins"):
        parse({"objective": {"time_bins": 0}})
