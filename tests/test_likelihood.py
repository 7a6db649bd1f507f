"""Laws of likelihoods: exact on exact models, in bits that a known entropy confirms, the same for any company."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path as FilePath

import pytest
import torch
from conftest import F64, MILD, PATH_CASES, line, mixture, mixture_data, mixture_quantiles, normal, registered_path
from torch import Tensor

from ebbflow.cli.app import run_app
from ebbflow.core.noise import Noise
from ebbflow.core.paths import PATHS, Path
from ebbflow.errors import ConfigError
from ebbflow.methods.denoise import FunctionDenoiser
from ebbflow.methods.likelihood import (
    BYTES_OFFSET,
    INTEGRATORS,
    dequantised,
    log_likelihood,
    to_bits,
    variational_bound,
)
from ebbflow.methods.oracles import Gaussian, GaussianMixture
from ebbflow.progress import finish
from ebbflow.requests.studies import LikelihoodRequest
from ebbflow.runs import Model
from ebbflow.studies.likelihood import measure_likelihood

FLOW = PATH_CASES["flow"]
MILLIBIT = 1e-3 * math.log(2)
TINY = [
    "--max-steps", "2", "--batch-size", "16", "--device", "cpu", "--set", "net.channels=[8,16]",
    "--set", "net.num_heads=2", "--set", "train.warmup_steps=0", "--set", "train.sample_every=0",
    "--set", "train.held_out_every=0", "--set", "train.held_out_size=16",
]  # fmt: skip


class Nodes:
    """+1 for the first half of the rows and -1 for the rest: the mean over both is exact for quadratics."""

    def like(self, x: Tensor) -> Tensor:
        signs = torch.ones(len(x), dtype=x.dtype)
        signs[len(x) // 2 :] = -1
        return signs.reshape(-1, *[1] * (x.ndim - 1)).expand(x.shape)


def gaussian_law(path: Path, x0: Tensor, mean: float, std: float) -> Tensor:
    """log-density of the ODE's own law per element: it carries N(0, sigma_1^2) to the data by an affine map."""
    c = path.at(1.0)
    spread = torch.sqrt((c.alpha * std) ** 2 + c.sigma**2)
    end = c.alpha * mean + spread * (x0 - mean) / std
    return -((end / c.sigma) ** 2) / 2 - torch.log(c.sigma * math.sqrt(2 * math.pi)) + torch.log(spread / std)


# -- the bound --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["flow", "cosine", "linear_variance"])
@pytest.mark.parametrize("num_steps", [1, 2, 7, 40])
def test_the_bound_is_exact_for_exact_reverse_kernels(name: str, num_steps: int) -> None:
    """Gaussian data, the optimal variance, a prior without signal: nothing is lost at any number of steps."""
    path = PATH_CASES[name]
    oracle, x0 = Gaussian(0.2, 0.5, path), 0.2 + 0.5 * normal(6, 3, seed=1)
    bound = variational_bound(
        oracle, torch.cat([x0, x0]), line(1, 0, num_steps), noise=Nodes(), variance="optimal", of_bytes=False
    )
    mean = bound.total.reshape(2, 6).mean(0)
    torch.testing.assert_close(mean, -oracle.log_prob(x0, 0.0), rtol=1e-9, atol=1e-9)
    assert float(bound.prior.max()) < 1e-30


@pytest.mark.parametrize("name", ["vp", "vp_discrete", "sub_vp", "ve"])
def test_the_bound_over_data_is_the_entropy_and_the_mismatch_of_the_prior(name: str) -> None:
    """E bound = H(x0) + KL(p_1 || N(0, sigma_1^2)): data at the nodes of a two-point rule for its second moment."""
    path, mean, std = PATH_CASES[name], 0.2, 0.5
    x0 = torch.tensor([[mean + std], [mean - std]] * 2, dtype=F64)[[0, 1, 2, 3]]
    noise = Nodes()  # rows 0, 1 with +1 and rows 2, 3 with -1: all four pairs
    bound = variational_bound(
        Gaussian(mean, std, path), x0, line(1, 0, 25), noise=noise, variance="optimal", of_bytes=False
    )
    c = path.at(1.0)
    ratio = float((c.alpha * std / c.sigma) ** 2 + 1)
    mismatch = (ratio - 1 - math.log(ratio) + float(c.alpha * mean / c.sigma) ** 2) / 2
    entropy = math.log(std * math.sqrt(2 * math.pi * math.e))
    assert float(bound.total.mean()) == pytest.approx(entropy + mismatch, abs=1e-9)


def test_more_steps_tighten_the_bound_of_the_large_variance() -> None:
    """The small one stays loose near clean data, where log-SNR rises by a constant in each of the last steps."""
    oracle, x0 = Gaussian(0.2, 0.5, FLOW), 0.2 + 0.5 * normal(6, 3, seed=1)

    def gap(num_steps: int, variance: str) -> float:
        twice, grid = torch.cat([x0, x0]), line(1, 0, num_steps)
        bound = variational_bound(oracle, twice, grid, noise=Nodes(), variance=variance, of_bytes=False)
        return float(bound.total.mean() + oracle.log_prob(x0, 0.0).mean())

    gaps = [gap(num_steps, "large") for num_steps in (4, 16, 64, 256)]
    assert all(a > 3 * b > 0 for a, b in pairwise(gaps)), gaps
    assert gap(256, "small") > 1


@pytest.mark.parametrize("path", PATH_CASES.values(), ids=PATH_CASES)
def test_the_bound_is_finite_at_its_last_step(path: Path) -> None:
    """The posterior variance is 0 there (trap 31)."""
    levels = (torch.arange(8.0, dtype=F64).reshape(2, 1, 2, 2) * 30).clamp(max=255) / 127.5 - 1
    for num_steps in (1, 2, 10):
        for variance in ("small", "large", "optimal"):
            bound = variational_bound(
                Gaussian(0.0, 0.5, path), levels, line(1, 0, num_steps), noise=Noise(range(2)), variance=variance
            )
            assert bool(torch.isfinite(bound.total).all()) and float(bound.decoder.min()) > 0, f"{num_steps} {variance}"


def test_a_grid_that_stops_above_the_data_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs a grid that ends at t = 0, got 0\.1"):
        variational_bound(Gaussian(0.0, 1.0, FLOW), normal(2, 1), line(1, 0.1, 3), noise=Noise([0, 1]))


# -- the ODE ----------------------------------------------------------------------------------------------------------


@registered_path
@pytest.mark.parametrize("trace", ["exact", "known"])
def test_the_ode_is_exact_on_gaussian_data(path: Path, trace: str) -> None:
    x0 = 0.2 + 0.5 * normal(8, 3, seed=2)
    got = log_likelihood(Gaussian(0.2, 0.5, path), x0, trace=trace)
    wanted = gaussian_law(path, x0, 0.2, 0.5).sum(1)
    assert float((got - wanted).abs().max()) / 3 < MILLIBIT
    if float(path.at(1.0).alpha) < 1e-15:
        torch.testing.assert_close(wanted, Gaussian(0.2, 0.5, path).log_prob(x0, 0.0), rtol=1e-7, atol=0)


@pytest.mark.parametrize("name", ["flow", "cosine", "linear_variance", "cosine_discrete"])
@pytest.mark.parametrize("trace", ["exact", "known"])
def test_the_ode_is_exact_on_a_mixture(name: str, trace: str) -> None:
    means = torch.tensor([[-1.0, 0.3], [0.8, -0.4]], dtype=F64)
    oracle = GaussianMixture(means, torch.tensor([0.3, 0.4], dtype=F64), [0.4, 0.6], PATH_CASES[name])
    x0 = means[[0, 1] * 6] + 0.35 * normal(12, 2, seed=3)
    for cond in (None, torch.tensor([0, 1] * 6)):
        bound = oracle.given(cond)
        error = (log_likelihood(bound, x0, num_steps=64, trace=trace) - bound.log_prob(x0, 0.0)).abs() / 2
        assert float(error.max()) < MILLIBIT


def test_on_the_line_the_density_is_the_slope_of_the_quantiles() -> None:
    """On paths that keep some signal at t = 1, against the exact solution of the ODE from the prior."""
    path = PATH_CASES["vp"]
    x0 = mixture_data(6, seed=4, law=MILD)
    oracle, h = mixture(path, MILD), 1e-4

    def carried(x: Tensor) -> Tensor:
        means, stds, weights = (torch.tensor(k, dtype=F64) for k in zip(*MILD, strict=True))
        u = (weights * torch.special.ndtr((x - means) / stds)).sum(1)
        return mixture_quantiles(path, 1.0, u, MILD)

    end, slope = carried(x0), (carried(x0 + h) - carried(x0 - h)) / (2 * h)
    sigma = path.at(1.0).sigma
    wanted = -((end / sigma) ** 2) / 2 - torch.log(sigma * math.sqrt(2 * math.pi)) + slope.log()
    assert float((log_likelihood(oracle, x0, num_steps=64) - wanted).abs().max()) < MILLIBIT


@pytest.mark.parametrize("method", INTEGRATORS)
def test_integrators_converge_at_their_order(method: str) -> None:
    oracle, x0 = mixture(FLOW, MILD), mixture_data(8, seed=5, law=MILD)
    exact = log_likelihood(oracle, x0, num_steps=1024, method="rk4", trace="known")
    few, many = (
        float((log_likelihood(oracle, x0, num_steps=n, method=method, trace="known") - exact).abs().mean())
        for n in (64, 128)
    )
    assert math.log2(few / many) > {"rk4": 3.5, "heun": 1.75}[method], (few, many)


def test_the_mean_over_all_probes_is_the_trace() -> None:
    """In two dimensions there are four sign probes; each is kept along the whole way (trap 61)."""
    means = torch.tensor([[-1.0, 0.3], [0.8, -0.4]], dtype=F64)
    oracle = GaussianMixture(means, torch.tensor([0.3, 0.4], dtype=F64), [0.4, 0.6], FLOW)
    x0 = torch.tensor([[0.1, 0.2]], dtype=F64).repeat(4, 1)
    probe = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    got = log_likelihood(oracle, x0, trace="hutchinson", probe=probe)
    assert float(got.std()) > 1e-2, "every probe gave the trace: this test would see nothing"
    torch.testing.assert_close(got.mean(), log_likelihood(oracle, x0[:1], trace="exact")[0], rtol=1e-9, atol=0)
    coarse, fine = (log_likelihood(oracle, x0, trace="hutchinson", probe=probe, num_steps=n) for n in (64, 128))
    assert float((coarse - fine).abs().max()) / 2 < MILLIBIT, (
        "the estimate depends on the steps: was the probe redrawn?"
    )


def test_many_dimensions_ask_for_a_probe_and_known_for_a_variance() -> None:
    model = FunctionDenoiser(function=lambda x, t: x, path=FLOW)
    with pytest.raises(ValueError, match="the trace in 64 dimensions is estimated: pass `probe`"):
        log_likelihood(model, normal(2, 64))
    with pytest.raises(ValueError, match="trace 'known' needs a denoiser that knows Var"):
        log_likelihood(model, normal(2, 2), trace="known")
    with pytest.raises(ValueError, match="`trace` must be auto, exact, hutchinson or known, got 'full'"):
        log_likelihood(model, normal(2, 2), trace="full")
    with pytest.raises(ValueError, match="`num_steps` must be at least 2"):
        log_likelihood(model, normal(2, 2), num_steps=1)
    with pytest.raises(ConfigError, match="unknown integrator of the likelihood 'rk45'"):
        log_likelihood(model, normal(2, 2), method="rk45")


# -- bits -------------------------------------------------------------------------------------------------------------


def test_bits_of_integer_data_are_its_entropy() -> None:
    """Levels round(127.5 + 40 z): entropy log2(40 sqrt(2 pi e)) = 7.369 bits, which both must find (trap 62)."""
    scale = 40.0
    z = normal(400, 1, 4, 4, seed=6)
    byte = torch.round(127.5 + scale * z).clamp(0, 255)
    x0, oracle = byte / 127.5 - 1, Gaussian(0.0, scale / 127.5, FLOW)
    edges = torch.special.ndtr(torch.stack([byte - 128, byte - 127]) / scale)
    exact = -torch.log2(edges[1] - edges[0]).flatten(1).mean(1)
    assert float(exact.mean()) == pytest.approx(math.log2(scale * math.sqrt(2 * math.pi * math.e)), abs=0.04)
    uniform = torch.rand(x0.shape, generator=torch.Generator().manual_seed(0), dtype=F64)
    nats = log_likelihood(oracle, dequantised(x0, uniform), trace="known")
    bits = to_bits(nats, 16, of_bytes=True)
    assert float((bits - exact).mean()) == pytest.approx(0, abs=3e-3)
    bound = variational_bound(oracle, x0, line(1, 0, 60), noise=Noise(range(400)), variance="optimal")
    gap = to_bits(-bound.total, 16, of_bytes=False) - exact
    assert abs(float(gap.mean())) < 4.5 * float(gap.std()) / 20 + 2e-3
    assert pytest.approx(6.99435, abs=1e-5) == BYTES_OFFSET


def test_dequantising_stays_inside_the_level() -> None:
    x0 = torch.arange(256, dtype=F64) / 127.5 - 1
    for u in (0.0, 0.999999):
        assert torch.equal(
            ((dequantised(x0, torch.full_like(x0, u)) + 1) * 127.5 + 1e-9).round(), torch.arange(256.0).double()
        )


# -- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FilePath:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    assert run_app(["train", "--save-dir", str(folder), *TINY]) == 0
    return folder


def asked(run: FilePath, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, object]:
    capsys.readouterr()
    assert run_app(["likelihood", "--ckpt", str(run), "--device", "cpu", "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)


def test_likelihood_of_digits_says_how_it_was_found(run: FilePath, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(run.rglob("*"))
    ode = asked(run, capsys, "--num", "6", "--steps", "8")
    assert ode["split"] == "held_out" and ode["condition"] == "each sample's own" and ode["num"] == 6
    assert ode["trace"] == "hutchinson, one probe a sample" and ode["dequantisation"] == "uniform over each level"
    assert ode["evaluations"] == 32 and 0 < ode["standard_error"] < 2 and 3 < ode["bits_per_dim"] < 20
    assert asked(run, capsys, "--num", "6", "--steps", "8") == ode, "the same command gave another number"
    assert asked(run, capsys, "--num", "6", "--steps", "8", "--seed", "1")["bits_per_dim"] != ode["bits_per_dim"]
    vlb = asked(run, capsys, "--num", "4", "--steps", "20", "--method", "vlb")
    parts = sum(float(vlb[f"{name}_bits"]) for name in ("prior", "steps", "decoder"))
    assert vlb["bits_per_dim"] == pytest.approx(parts) and vlb["evaluations"] == 20
    assert sorted(run.rglob("*")) == before, "a report wrote into the run"


def test_the_report_can_be_kept_and_read(run: FilePath, tmp_path: FilePath, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "bits.json"
    report = asked(run, capsys, "--num", "2", "--steps", "2", "--output", str(kept))
    assert json.loads(kept.read_text()) == report
    assert run_app(["likelihood", "--ckpt", str(run), "--num", "2", "--steps", "2", "--device", "cpu"]) == 0
    assert f"{report['bits_per_dim']:.3f} +- " in capsys.readouterr().out


@pytest.mark.parametrize("method", ["ode", "vlb"])
def test_batch_mates_do_not_matter(run: FilePath, method: str) -> None:
    """Up to the rounding of matrix products of another size."""
    model = Model.from_run(run)
    asked = [LikelihoodRequest(ckpt=str(run), num=5, method=method, steps=4, batch_size=size) for size in (2, 64)]
    one, all_ = (finish(measure_likelihood(model, request)) for request in asked)
    assert one["bits_per_dim"] == pytest.approx(all_["bits_per_dim"], rel=1e-5)


def test_points_have_nats_and_an_exact_trace(tmp_path: FilePath, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "moons"
    net = "--data moons --max-steps 2 --set net.kind=mlp --set net.dim=16 --set conditioning.kind=none --device cpu"
    assert run_app(["train", "--save-dir", str(folder), *net.split(), "--set", "train.sample_every=0"]) == 0
    report = asked(folder, capsys, "--num", "8", "--steps", "8")
    assert report["trace"] == "exact" and report["condition"] is None and report["dequantisation"] is None
    assert report["nats"] == pytest.approx(float(report["bits_per_dim"]) * 2 * math.log(2))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sampler", "sde"], "unknown integrator of the likelihood 'sde'. Known: heun, rk4"),
        (["--sampler", "rk45"], "Did you mean 'rk4'? Known: heun, rk4"),
        (["--method", "elbo"], "--method must be ode or vlb, got 'elbo'"),
        (["--variance", "large"], "--variance belongs to ancestral sampling. Add --method vlb"),
        (["--method", "vlb", "--variance", "big"], "--variance must be small, large, learned or optimal, got 'big'"),
        (["--method", "vlb", "--variance", "learned", "--steps", "3"], "needs a net trained with objective.variance"),
        (["--weights", "best"], "--weights must be ema or raw, got 'best'"),
        (["--output", "bits.txt"], "--output must be a file ending in .json"),
        (["--steps", "0"], ""),
        (["--num", "0"], ""),
    ],
    ids=str,
)
def test_mistakes_get_a_sentence(
    run: FilePath, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert run_app(["likelihood", "--ckpt", str(run), *flags]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_run_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["likelihood", "--ckpt", "/nowhere/at/all"]) == 2
    assert "/nowhere/at/all does not exist" in capsys.readouterr().err


def test_every_path_is_covered() -> None:
    assert set(PATHS) <= set(PATH_CASES)
