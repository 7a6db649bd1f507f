"""Laws of learned and measured variances: what the bound may move, where its optimum lies, and what it is worth."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path as FilePath

import pytest
import torch
from conftest import F64, PATH_CASES, Impulses, line, marginal_variance, mixture, mixture_data, normal, walk
from scipy import stats
from torch import Tensor

import ebbflow as ef
from ebbflow.cli.app import run_app
from ebbflow.core.kernels import log_level, posterior
from ebbflow.core.noise import Noise
from ebbflow.core.paths import Path, VPDiscrete
from ebbflow.core.predictions import PREDICTIONS
from ebbflow.core.shape import per_sample
from ebbflow.methods.denoise import NetDenoiser
from ebbflow.methods.guidance import classifier_free
from ebbflow.methods.likelihood import variational_bound
from ebbflow.methods.objective import Objective
from ebbflow.methods.oracles import Gaussian
from ebbflow.methods.samplers.ancestral import step_variance
from ebbflow.methods.variance import AnalyticVariance, VarianceTable, measure_variance

TINY = [
    "--max-steps", "2", "--batch-size", "16", "--device", "cpu", "--set", "net.channels=[8,16]",
    "--set", "net.num_heads=2", "--set", "train.warmup_steps=0", "--set", "train.sample_every=0",
    "--set", "train.held_out_every=0", "--set", "train.held_out_size=16",
]  # fmt: skip


@dataclass
class Halves:
    """The exact mean of data N(0.1, 0.5^2) plus `bias`, and `raw` as the second half of the output."""

    objective: Objective
    raw: Tensor
    bias: Tensor | float = 0.0

    def output(self, x_t: Tensor, t: float | Tensor, cond: Tensor | None) -> Tensor:
        estimate = Gaussian(0.1, 0.5, self.objective.path)(x_t, t)
        a, b = PREDICTIONS[self.objective.prediction](self.objective.path.at(t))
        mean = per_sample(a, x_t) * estimate.x0 + per_sample(b, x_t) * estimate.eps + self.bias
        return torch.cat([mean, self.raw.expand(x_t.shape)], dim=1)


def hybrid(path: Path, prediction: str = "v", vlb_weight: float = 1.0) -> Objective:
    return Objective(path, prediction=prediction, variance="learned", vlb_weight=vlb_weight)


# -- the hybrid objective ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["flow", "vp", "vp_discrete", "cosine_discrete", "ve", "sub_vp"])
def test_the_bound_never_moves_the_mean(name: str) -> None:
    """The gradient of the mean's half is the plain objective's, whatever the bound's weight (trap 40)."""
    path = PATH_CASES[name]
    x0, eps, t = 0.1 + 0.5 * normal(16, 2, seed=1), normal(16, 2, seed=2), torch.linspace(0.0005, 1, 16, dtype=F64)
    prediction = "x0" if name == "ve" else "v"
    grads = []
    for weight in (0.0, 0.001, 10.0):
        bias, raw = torch.zeros(16, 2, dtype=F64, requires_grad=True), torch.zeros(16, 2, dtype=F64, requires_grad=True)
        objective = hybrid(path, prediction, weight)
        objective.losses(Halves(objective, raw, bias), x0, None, eps, t).sum().backward()
        assert bias.grad is not None and raw.grad is not None
        assert bool(torch.isfinite(raw.grad).all()) and (weight == 0) == bool((raw.grad == 0).all())
        grads.append(bias.grad)
    assert torch.equal(grads[0], grads[1]) and torch.equal(grads[0], grads[2])


@pytest.mark.parametrize("name", ["flow", "vp_discrete", "cosine"])
@pytest.mark.parametrize("t", [0.002, 0.1, 0.6])
def test_the_bound_is_stationary_at_the_optimal_variance(name: str, t: float) -> None:
    path = PATH_CASES[name]
    here, before = path.at(t), path.at(t - 0.001)
    kernel = posterior(here, before)
    estimate = Gaussian(0.1, 0.5, path)(normal(1, 1), t)
    best = math.log(float(step_variance(kernel, estimate, "optimal")[0, 0]))
    nu = (best - math.log(kernel.small)) / (math.log(kernel.large) - math.log(kernel.small))
    x0, eps = 0.1 + 0.5 * normal(40_000, 1, seed=3), normal(40_000, 1, seed=4)
    objective = hybrid(path)

    def z_score(fraction: float) -> float:
        raw = torch.full((40_000, 1), 2 * fraction - 1, dtype=F64, requires_grad=True)
        times = torch.full((40_000,), t, dtype=F64)
        (g,) = torch.autograd.grad(objective.losses(Halves(objective, raw), x0, None, eps, times).sum(), raw)
        return float(g.mean() / g.std()) * math.sqrt(len(g))

    assert abs(z_score(nu)) < 4.5
    assert z_score(nu + 0.5) > 6 and z_score(nu - 0.5) < -6, "this test would not notice a wrong variance"


def test_the_bound_in_training_is_the_bound_of_the_chain() -> None:
    """Averaged over the table it is the sum over the chain's steps, in bits a dimension, with the same draws."""
    path, raw = VPDiscrete(num_steps=25), 0.3 * normal(1, 2, 1, 1, seed=5)
    objective, x0 = hybrid(path), torch.round(normal(3, 2, 4, 4, seed=6) * 20 + 128).clamp(0, 255) / 127.5 - 1
    model = Halves(objective, raw)
    noise = Noise(range(3))
    draws = [noise.like(x0) for _ in range(25)]  # the chain asks at t = 25/25, 24/25, ...
    losses = []
    for i, eps in zip(range(25, 0, -1), draws, strict=True):
        t = torch.full((3,), i / 25, dtype=F64)
        plain = hybrid(path, vlb_weight=0.0).losses(model, x0, None, eps, t)
        losses.append(objective.losses(model, x0, None, eps, t) - plain)
    denoiser = NetDenoiser(net=lambda x, clock, cond: x, path=path, prediction="v")
    answers = _Answers(denoiser, lambda x_t, t: model.output(x_t, torch.full((3,), float(t), dtype=F64), None))
    bound = variational_bound(answers, x0, line(1, 0, 25), noise=Noise(range(3)), variance="learned")
    wanted = (bound.steps + bound.decoder) / (x0[0].numel() * math.log(2))
    torch.testing.assert_close(torch.stack(losses).mean(0), wanted, rtol=1e-9, atol=0)


class _Answers(ef.Denoiser):
    def __init__(self, inner: NetDenoiser, output: Callable[[Tensor, float | Tensor], Tensor]) -> None:
        self.inner, self.answer, self.path = inner, output, inner.path

    def __call__(self, x_t: Tensor, t: float | Tensor) -> ef.Estimate:
        return replace(self.inner, net=lambda x, clock, cond: self.answer(x_t, t))(x_t, t)

    def given(self, cond: Tensor | None) -> _Answers:
        raise NotImplementedError

    def null(self, num: int) -> Tensor:
        raise NotImplementedError


def test_levels_add_up_and_agree_with_another_normal_law() -> None:
    levels = torch.arange(256, dtype=F64) / 127.5 - 1
    for mean, std in ((0.0, 1.0), (0.99, 0.01), (-3.0, 0.2), (0.4, 1e-3), (0.0, 30.0)):
        logs = log_level(levels, torch.tensor(mean, dtype=F64), torch.tensor(2 * math.log(std), dtype=F64))
        assert bool(torch.isfinite(logs).all()), "a level far from the mean has no finite logarithm"
        assert float(logs.exp().sum()) == pytest.approx(1, abs=1e-12)
        edges = (levels[:-1] + levels[1:]) / 2
        cdf = torch.tensor([0.0, *stats.norm.cdf(edges.numpy(), mean, std), 1.0], dtype=F64)
        torch.testing.assert_close(logs.exp(), cdf.diff(), rtol=1e-7, atol=1e-13)


def test_a_net_with_the_wrong_number_of_channels_is_refused() -> None:
    x0, t = normal(4, 2), torch.full((4,), 0.5, dtype=F64)
    fixed = Objective(PATH_CASES["flow"])
    learned = hybrid(PATH_CASES["flow"], "velocity")
    with pytest.raises(ValueError, match=r"variance = 'fixed' wants a net of 2 output channels for data of 2, got 4"):
        fixed.losses(Halves(fixed, torch.zeros(1)), x0, None, x0, t)

    class Single(Halves):
        def output(self, x_t: Tensor, t: float | Tensor, cond: Tensor | None) -> Tensor:
            return x_t

    with pytest.raises(ValueError, match=r"variance = 'learned' wants a net of 4 output channels for data of 2, got 2"):
        learned.losses(Single(learned, torch.zeros(1)), x0, None, x0, t)


@pytest.mark.parametrize("batched", [True, False])
def test_guidance_leaves_the_learned_variance_to_the_conditional_branch(batched: bool) -> None:
    def net(x: Tensor, clock: Tensor, cond: Tensor | None) -> Tensor:
        assert cond is not None
        return torch.cat([x, cond[:, None].to(x).expand_as(x) / 10], dim=1)

    denoiser = NetDenoiser(net=net, path=PATH_CASES["flow"], make_null=lambda num: torch.full((num,), -1))
    guided = classifier_free(denoiser, guidance=5.0, batched=batched).given(torch.tensor([3, 7]))
    fraction = guided(normal(2, 1), 0.5).log_variance_fraction
    assert fraction is not None
    torch.testing.assert_close(fraction[:, 0], torch.tensor([(0.3 + 1) / 2, (0.7 + 1) / 2], dtype=F64))


# -- the measured variance --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["flow", "vp", "ve"])
def test_the_measured_variance_is_the_conditional_one(name: str) -> None:
    path = PATH_CASES[name]
    oracle = Gaussian(0.2, 0.5, path)
    table = measure_variance(oracle, 0.2 + 0.5 * normal(2000, 20, seed=7), None)
    for level in (-10.0, -4.5, 0.0, 3.2, 9.0, 13.0):
        if level < float(path.log_snr(1.0)):
            continue
        c = path.at(path.time_of(level))
        wanted = float(0.25 * c.sigma**2 / (0.25 * c.alpha**2 + c.sigma**2))
        got = float(table.at(torch.tensor(level, dtype=F64)))
        assert got == pytest.approx(wanted, rel=0.04), f"at log-SNR {level}"  # 40,000 squares, and a log-linear table
    t = float(path.time_of(1.0))  # at high noise the difference of two near ones leaves the published form no digits
    x_t = path.mix(0.2 + 0.5 * normal(2000, 20, seed=8), normal(2000, 20, seed=9), t)
    c, eps = path.at(t), oracle(x_t, t).eps
    analytic = float((c.sigma / c.alpha) ** 2 * (1 - eps.square().mean()))
    assert float(table.at(c.log_snr)) == pytest.approx(analytic, rel=0.05), "not the estimator of Analytic-DPM"


def test_outside_its_table_a_variance_stays_in_bounds() -> None:
    table = VarianceTable(log_snr=(-4.0, 0.0, 4.0), variance=(0.25, 0.2, 0.01))
    ends = table.at(torch.tensor([-50.0, -4.0, -2.0, 4.0, 20.0, math.inf], dtype=F64))
    wanted = torch.tensor([0.25, 0.25, math.sqrt(0.25 * 0.2), 0.01, math.exp(-20.0), 0.0], dtype=F64)
    torch.testing.assert_close(ends, wanted)
    for bad in (((0.0,), (1.0,)), ((0.0, 0.0), (1.0, 1.0)), ((0.0, 1.0), (1.0, 0.0)), ((0.0, 1.0), (1.0,))):
        with pytest.raises(ValueError, match="rising log-SNRs and as many variances above 0"):
            VarianceTable(log_snr=bad[0], variance=bad[1])


def test_ten_ancestral_steps_keep_the_variance_that_small_and_large_lose() -> None:
    """From the exact marginal to t = 0.1 on the DDPM table (trap 30); the optimum is exact at any number of steps."""
    path, times = PATH_CASES["vp_discrete"], line(1, 0.1, 9)
    oracle = Gaussian(0.0, 0.5, path)
    table = measure_variance(oracle, 0.5 * normal(4000, 20, seed=10), None)
    x = torch.zeros(10, 1, dtype=F64)
    x[0] = math.sqrt(marginal_variance(path, 1.0, 0.5))
    got = {}
    for variance in ("small", "large", "optimal"):
        known = AnalyticVariance(inner=oracle, table=table)
        end = walk("ddpm", known, x, times, noise=Impulses(), variance=variance)[-1].x
        got[variance] = float(end.square().sum()) / marginal_variance(path, 0.1, 0.5)
    assert abs(got["optimal"] - 1) < 0.02 < abs(got["small"] - 1) and abs(got["large"] - 1) > 0.02, got


def test_the_wrapper_binds_conditions_and_knows_the_null() -> None:
    path = PATH_CASES["flow"]
    table = VarianceTable(log_snr=(-4.0, 4.0), variance=(0.25, 0.01))
    known = AnalyticVariance(inner=mixture(path), table=table)
    x = mixture_data(4, seed=1)
    cond = torch.tensor([0, 1, 2, -1])
    torch.testing.assert_close(known.given(cond)(x, 0.5).x0, mixture(path).given(cond)(x, 0.5).x0)
    assert known.null(3).tolist() == [-1, -1, -1]
    guided = classifier_free(known, guidance=2.0).given(cond)
    times = torch.tensor([0.2, 0.3, 0.4, 0.5], dtype=F64)
    for t in (0.5, times):
        variance = guided(x, t).x0_variance
        assert variance is not None and variance.shape == x.shape
    assert all(float(a) < float(b) for a, b in pairwise(variance)), "one time a sample must give one variance a sample"


# -- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> FilePath:
    folder = tmp_path_factory.mktemp("runs") / "learned"
    assert run_app(["train", "--save-dir", str(folder), *TINY, "--set", "objective.variance=learned"]) == 0
    return folder


def ancestral(run: FilePath, tmp_path: FilePath, variance: str) -> int:
    picture = str(tmp_path / "out.npz")
    flags = ["--sampler", "ddpm", "--steps", "3", "--num", "10", "--set", f"variance={variance}"]
    return run_app(["sample", "--ckpt", str(run), "--output", picture, *flags])


@pytest.mark.parametrize("variance", ["learned", "optimal", "small"])
def test_every_variance_samples_a_learned_run(learned: FilePath, tmp_path: FilePath, variance: str) -> None:
    assert ancestral(learned, tmp_path, variance) == 0
    assert (
        ef.sample(learned, num=2, labels=[1], sampler="ddpm", steps=2, options={"variance": variance})
        .x.isfinite()
        .all()
    )


def test_the_optimal_variance_is_measured_once(
    learned: FilePath, tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ancestral(learned, tmp_path, "optimal") == 0
    file = next((learned / "checkpoints").glob("*/x0_variance_ema.json"))
    kept = json.loads(file.read_text())
    assert len(kept["log_snr"]) == len(kept["variance"]) == 29

    def gone(config: object) -> None:
        raise AssertionError("the data was read again")

    monkeypatch.setattr("ebbflow.runs.same_data.load_splits", gone)
    assert ancestral(learned, tmp_path, "optimal") == 0


def test_a_fixed_run_has_no_learned_variance(tmp_path: FilePath, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "fixed"
    assert run_app(["train", "--save-dir", str(folder), *TINY]) == 0
    assert ancestral(folder, tmp_path, "learned") == 2
    assert "needs a net trained with objective.variance=learned" in capsys.readouterr().err
    assert run_app(["train", "--save-dir", str(tmp_path / "bad"), *TINY, "--set", "objective.variance=free"]) == 2
    assert "objective.variance" in capsys.readouterr().err
