"""Laws of score-based models: denoising score matching on their paths, predictor-corrector, adaptive steps, churn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path as FilePath

import pytest
import torch
from conftest import (
    F64,
    MILD,
    PATH_CASES,
    Counted,
    Stream,
    exact_variance,
    line,
    marginal_variance,
    mixture,
    mixture_data,
    mixture_quantiles,
    noise_start,
    normal,
    registered_path,
    walk,
)  # fmt: skip
from torch import Tensor

import ebbflow as ef
from ebbflow.cli.app import run_app
from ebbflow.core.noise import Noise
from ebbflow.core.paths import Path
from ebbflow.methods.denoise import Denoiser, NetDenoiser
from ebbflow.methods.guidance import classifier_free
from ebbflow.methods.objective import Objective
from ebbflow.methods.oracles import Gaussian
from ebbflow.methods.samplers import SAMPLERS
from ebbflow.methods.samplers.adaptive import LARGEST_FIRST, MIN_STEP, _attempt, first_steps
from ebbflow.methods.samplers.base import level_at, slope
from ebbflow.nets import NETS
from ebbflow.training.batches import Batch
from ebbflow.training.loop import fit

FLOW = PATH_CASES["flow"]
SDE_PATHS = ("ve", "vp", "sub_vp")


# -- denoising score matching -----------------------------------------------------------------------------------------


class Repeated:
    def __init__(self, x0: Tensor) -> None:
        self.x0 = x0

    def batch(self, step: int) -> Batch:
        return Batch(x0=self.x0)


def small_net() -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return NETS["mlp"](dim=16, depth=1).build((2,), 2, None)


class Bare(torch.nn.Module):
    """A net in the signature of a NetDenoiser's: (x, clock, cond)."""

    def __init__(self, scale: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.net, self.scale = small_net(), scale

    def forward(self, x: Tensor, clock: Tensor, cond: Tensor | None) -> Tensor:
        out = self.net(x, clock)
        return out if self.scale is None else out * self.scale(clock)[:, None]


def trained(path: Path, prediction: str, weight: str, scale: Callable[[Tensor], Tensor] | None = None) -> list[float]:
    model = NetDenoiser(net=Bare(scale), path=path, prediction=prediction, clock="time")
    objective = Objective(path, prediction=prediction, weight=weight)
    assert isinstance(model.net, torch.nn.Module)
    optimiser = torch.optim.SGD(model.net.parameters(), lr=0.05)
    return [step.loss for step in fit(model, objective, Repeated(normal(64, 2).float()), optimiser, num_steps=3)]


@pytest.mark.parametrize("name", SDE_PATHS)
def test_score_matching_weighted_by_variance_is_the_noise_loss(name: str) -> None:
    """score = -eps / sigma: a net that outputs eps, rescaled, trains to the same losses step by step (row L3)."""
    path = PATH_CASES[name]

    def to_score(clock: Tensor) -> Tensor:
        return (-1 / path.at(clock.double() / 1000).sigma).float()

    as_score = trained(path, "score", "snr", to_score)
    as_noise = trained(path, "eps", "uniform")
    assert as_noise[2] < as_noise[0] + 0.2 and all(map(math.isfinite, as_noise))
    assert as_score == pytest.approx(as_noise, rel=1e-4)


@pytest.mark.parametrize("name", SDE_PATHS)
def test_each_sde_of_the_score_papers_trains_and_samples(name: str, tmp_path: FilePath) -> None:
    flags = [
        "--data", "moons", "--max-steps", "2", "--device", "cpu", "--set", "net.kind=mlp", "--set", "net.dim=16",
        "--set", f"path.kind={name}", "--set", "objective.prediction=score", "--set", "objective.weight=snr",
        "--set", "objective.times=uniform", "--set", "train.sample_every=0", "--set", "sample.sampler=pc",
        "--set", "sample.num_steps=2",
    ]  # fmt: skip
    run = tmp_path / name
    assert run_app(["train", "--save-dir", str(run), *flags]) == 0
    for sampler, more in (("sde", ["--set", "diffusion=forward"]), ("pc", []), ("edm", []), ("dopri5", [])):
        wanted = ["--ckpt", str(run), "--output", str(tmp_path / f"{sampler}.npz"), "--steps", "4", "--num", "8"]
        assert run_app(["sample", *wanted, "--sampler", sampler, *more]) == 0


# -- predictor-corrector ----------------------------------------------------------------------------------------------


def test_declared_evaluations_follow_the_options() -> None:
    for name, options, wanted in (
        ("pc", {}, [1, 7]),
        ("pc", {"corrector_steps": 0}, [1, 4]),
        ("pc", {"corrector_steps": 3, "snr": 0.1}, [1, 13]),
        ("edm", {}, [1, 7]),
        ("edm", {"s_churn": 0.0}, [1, 7]),
    ):
        for num_steps, count in zip((1, 4), wanted, strict=True):
            spy = Counted(mixture(FLOW))
            walk(name, spy, noise_start(FLOW, 2), line(1, 0, num_steps), noise=Noise([0, 1]), **options)
            assert len(spy.asked) == SAMPLERS[name].evaluations(num_steps, **options) == count, (name, options)
    assert SAMPLERS["dopri5"].evaluations(4) is None
    assert SAMPLERS["heun"].evaluations(4, corrector_steps=9) == 7, "an option of another sampler counts for nothing"


def test_without_a_corrector_it_is_the_ancestral_sampler() -> None:
    args = (mixture(FLOW), noise_start(FLOW, 8), line(1, 0, 6))
    got = walk("pc", *args, noise=Noise(range(8)), corrector_steps=0)[-1].x
    torch.testing.assert_close(got, walk("ddpm", *args, noise=Noise(range(8)))[-1].x, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["flow", "vp", "ve"])
def test_the_corrector_mends_the_variance_that_the_predictor_loses(name: str) -> None:
    """Two-sided: few ancestral steps of the small variance are too narrow, and correcting brings them back."""
    path, times = PATH_CASES[name], line(0.95, 0.1, 8)
    wanted = marginal_variance(path, 0.1, 0.5)
    errors = [
        abs(exact_variance("pc", path, times, 0.5, corrector_steps=steps) / wanted - 1) for steps in (0, 1, 4, 16)
    ]
    assert errors[0] > errors[1] > errors[2] > errors[3], errors


def test_langevin_steps_alone_find_the_law_of_their_level() -> None:
    """Started with half the spread and no time to pass, 400 corrections at t = 0.5 reach the mixture's own variance."""
    path, num = FLOW, 4000
    oracle = mixture(path, MILD)
    x = path.mix(mixture_data(num, 1, MILD), normal(num, 1, seed=2), 0.5)
    wanted, x = float(x.var()), x / 2
    times = torch.tensor([0.5, 0.5 - 1e-9], dtype=F64)
    got = walk("pc", oracle, x, times, noise=Stream(3), corrector_steps=400, snr=0.2)[-1].x
    bias = 0.2**2 * float(path.at(0.5).sigma) ** 2 / wanted  # of the unadjusted chain, to first order, at most
    assert float(got.var()) == pytest.approx(wanted, rel=4.5 * math.sqrt(2 / num) + bias)


def test_measured_norms_belong_to_each_sample() -> None:
    x, times = noise_start(FLOW, 6, dims=50), line(1, 0, 5)
    together = walk("pc", Gaussian(0.2, 0.5, FLOW), x, times, noise=Noise(range(6)), norms="sample")[-1].x
    for i in range(6):
        alone = walk("pc", Gaussian(0.2, 0.5, FLOW), x[i : i + 1], times, noise=Noise([i]), norms="sample")[-1].x
        torch.testing.assert_close(alone[0], together[i], rtol=1e-12, atol=1e-12)
    typical = walk("pc", Gaussian(0.2, 0.5, FLOW), x, times, noise=Noise(range(6)))[-1].x
    assert not torch.allclose(typical, together)


def test_measured_norms_are_those_of_the_algorithm() -> None:
    """One correction in 50 dimensions against Song et al., algorithm 4, written out: h = 2 (r |z| / |g|)^2."""
    path, x, z = FLOW, normal(3, 50, seed=4), normal(3, 50, seed=5)

    class Draws:
        calls = 0

        def like(self, x: Tensor) -> Tensor:
            self.calls += 1
            return torch.zeros_like(x) if self.calls == 1 else z

    oracle, times = Gaussian(0.2, 0.5, path), line(0.6, 0.4, 1)
    moved = walk("pc", oracle, x, times, noise=Draws(), corrector_steps=0)[-1].x
    got = walk("pc", oracle, x, times, noise=Draws(), snr=0.1, norms="sample")[-1].x
    score = -oracle(moved, 0.4).eps / path.at(0.4).sigma
    h = 2 * (0.1 * z.norm(dim=1) / score.norm(dim=1))[:, None] ** 2
    torch.testing.assert_close(got, moved + h * score + torch.sqrt(2 * h) * z, rtol=1e-10, atol=1e-12)


# -- adaptive steps ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["flow", "vp", "ve", "cosine"])
def test_the_tolerance_sets_the_error(name: str) -> None:
    path = PATH_CASES[name]
    u = torch.linspace(0.02, 0.98, 9, dtype=F64)
    x, wanted = (mixture_quantiles(path, t, u, MILD)[:, None] for t in (0.98, 0.02))
    errors = []
    for tolerance in (1e-3, 1e-5, 1e-7):
        spy = Counted(mixture(path, MILD))
        end = walk("dopri5", spy, x, line(0.98, 0.02, 2), rtol=tolerance, atol=tolerance)[-1].x
        errors.append((float((end - wanted).abs().max()), len(spy.asked)))
    assert all(error < 30 * tolerance for (error, _), tolerance in zip(errors, (1e-3, 1e-5, 1e-7), strict=True)), errors
    assert errors[0][1] < errors[1][1] < errors[2][1] < 1000, errors


def test_adaptive_steps_do_not_know_their_batch_mates() -> None:
    """A hard sample beside easy ones: each comes out as if alone, to the rounding of its own arithmetic (trap 25)."""
    oracle = mixture(FLOW)
    x = torch.cat([noise_start(FLOW, 5), torch.tensor([[40.0], [-0.3]], dtype=F64)])
    together = walk("dopri5", oracle, x, line(1, 0, 3), rtol=1e-3, atol=1e-3)
    for i in range(len(x)):
        alone = walk("dopri5", oracle, x[i : i + 1], line(1, 0, 3), rtol=1e-3, atol=1e-3)
        for step, mine in zip(together, alone, strict=True):
            torch.testing.assert_close(mine.x[0], step.x[i], rtol=1e-11, atol=1e-12)


def test_a_guidance_interval_does_not_couple_the_batch() -> None:
    """Samples cross the window's edge at steps of their own."""
    guided = classifier_free(mixture(FLOW), guidance=2.0, interval=(-1.0, 1.5)).given(torch.tensor([0, 1, 2, 1]))
    x = noise_start(FLOW, 4)
    together = walk("dopri5", guided, x, line(1, 0, 3))[-1].x
    for i, cond in enumerate((0, 1, 2, 1)):
        alone = walk("dopri5", guided.given(torch.tensor([cond])), x[i : i + 1], line(1, 0, 3))[-1].x
        torch.testing.assert_close(alone[0], together[i], rtol=1e-9, atol=1e-9)


def test_another_library_solves_the_same_equation() -> None:
    torchdiffeq = pytest.importorskip("torchdiffeq")
    path, oracle = PATH_CASES["vp"], mixture(PATH_CASES["vp"], MILD)
    x = noise_start(path, 5)

    def velocity(t: Tensor, x: Tensor) -> Tensor:
        estimate = oracle(x, t)
        return path.velocity(estimate.x0, estimate.eps, t)

    times = torch.tensor([1.0, 0.3, 0.05], dtype=F64)
    wanted = torchdiffeq.odeint(velocity, x, times, rtol=1e-10, atol=1e-10, method="dopri5")
    got = walk("dopri5", oracle, x, times, rtol=1e-9, atol=1e-9)
    for step, state in zip(got, wanted[1:], strict=True):
        torch.testing.assert_close(step.x, state, rtol=1e-6, atol=1e-7)


class Rough(Denoiser):
    """A velocity that jumps with x, as a net in low precision does: no step is short enough for its error estimate."""

    path = FLOW

    def __call__(self, x_t: Tensor, t: float | Tensor) -> ef.Estimate:
        x0 = torch.where((x_t * 1e6).floor() % 2 == 0, 1.0, -1.0).to(x_t)
        return ef.Estimate(x0=x0, eps=torch.zeros_like(x_t))


def test_a_rough_field_cannot_stop_the_clock() -> None:
    spy = Counted(Rough())
    steps = walk("dopri5", spy, noise_start(FLOW, 2), torch.tensor([0.5, 0.499, 0.0], dtype=F64), rtol=1e-9, atol=1e-9)
    assert len(steps) == 2 and bool(torch.isfinite(steps[-1].x).all()) and len(spy.asked) < 2000


class Broken(Denoiser):
    """Exact down to t = 0.5, and then not a number, or without end, for the samples that start above 0."""

    path = FLOW

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, x_t: Tensor, t: float | Tensor) -> ef.Estimate:
        estimate = mixture(FLOW)(x_t, t)
        late = (torch.as_tensor(t).expand(len(x_t)) < 0.5) & (x_t[:, 0] > 0)
        return replace(estimate, x0=torch.where(late[:, None], self.value, estimate.x0))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_velocity_that_is_no_number_ends_with_its_cause(value: float) -> None:
    """It used to halve nothing for ever: NaN <= 1 is false, and the step stayed NaN."""
    spy, x = Counted(Broken(value)), torch.tensor([[-1.5], [1.5]], dtype=F64)
    with pytest.raises(FloatingPointError, match=r"the velocity of sample 1 is not finite near t = 0\.5"):
        walk("dopri5", spy, x, torch.tensor([0.9, 0.1], dtype=F64))
    assert len(spy.asked) < 500
    walk("dopri5", Broken(value), x[:1], torch.tensor([0.9, 0.1], dtype=F64))


def test_a_walk_ends_at_its_limit_of_steps_with_the_cure() -> None:
    x, times = noise_start(FLOW, 2), torch.tensor([0.9, 0.1], dtype=F64)
    with pytest.raises(ValueError, match=r"tried 3 steps between t = 0\.9 and 0\.1 and is at 0\..*`max_steps`"):
        walk("dopri5", mixture(FLOW), x, times, max_steps=3)
    spy = Counted(mixture(FLOW))
    walk("dopri5", spy, x, times)
    needed = (len(spy.asked) - 2) // 6
    assert torch.equal(
        walk("dopri5", mixture(FLOW), x, times, max_steps=needed)[-1].x, walk("dopri5", mixture(FLOW), x, times)[-1].x
    ), "the limit counts attempts and stops no walk that needs no more"
    with pytest.raises(ValueError, match=r"`max_steps` of sampler .dopri5. must be in \[1, 1000000\], got 0"):
        walk("dopri5", mixture(FLOW), x, times, max_steps=0)


@registered_path
def test_the_first_step_is_as_long_as_the_tolerance_allows(path: Path) -> None:
    """By the fifth root of the tolerance, where the ceiling does not act, and never too long to be accepted."""
    oracle, t, s = mixture(path), level_at(path, 0.6), level_at(path, 0.1)
    x = path.mix(mixture_data(16, 3), normal(16, 1), 0.6)
    k = slope(oracle(x, t.t), t)
    found = {tol: first_steps(oracle, x, k, t, s, (tol, tol)) for tol in (1e-12, 1e-10, 1e-4)}
    assert all(bool(((steps >= MIN_STEP) & (steps <= LARGEST_FIRST)).all()) for steps in found.values())
    free = (found[1e-10] < LARGEST_FIRST) & (found[1e-12] > MIN_STEP)
    ratio = found[1e-10][free] / found[1e-12][free]
    assert bool(((ratio > 1.5) & (ratio < 7)).all()), f"100^(1/5) = 2.5 is expected, got {ratio.tolist()}"
    alone = first_steps(oracle, x[3:4], k[3:4], t, s, (1e-10, 1e-10))
    torch.testing.assert_close(alone[0], found[1e-10][3], rtol=1e-6, atol=0)
    now, h = torch.full((16,), 0.6, dtype=F64), found[1e-10]
    error = _attempt(oracle, x, k, now, -h, (1e-10, 1e-10))[2]
    assert float((error <= 1).double().mean()) > 0.9, "the first step is refused"


# -- churn ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["flow", "vp", "ve"])
def test_churn_adds_variance_exactly_as_the_path_has_it(name: str) -> None:
    """No steps of the ODE would move N(0, sigma^2): what churn adds, the path's own marginal takes up."""
    path = PATH_CASES[name]
    for churn in (0.0, 2.0, 10.0):
        coarse, fine = (
            exact_variance("edm", path, line(0.9, 0.05, n), 0.5, s_churn=churn) / marginal_variance(path, 0.05, 0.5) - 1
            for n in (40, 80)
        )
        assert abs(fine) < 0.02 and math.log2(abs(coarse / fine)) > 1.7, (churn, coarse, fine)


def test_churn_draws_noise_only_inside_its_window() -> None:
    class Spy(Stream):
        calls = 0

        def like(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().like(x)

    def drawn(**options: float) -> int:
        spy = Spy(0)
        walk("edm", mixture(FLOW), noise_start(FLOW, 2), line(1, 0, 10), noise=spy, **options)
        return spy.calls

    assert drawn() == 9, "t = 1 has no noise left to add; every other step has"
    assert drawn(s_churn=0.0) == 0
    assert drawn(s_min=0.3, s_max=2.0) == sum(0.3 <= t / (1 - t) <= 2 for t in [k / 10 for k in range(1, 10)])


def test_more_noise_than_was_removed_widens_the_law() -> None:
    path, times = FLOW, line(0.9, 0.05, 40)
    exact, wide = (exact_variance("edm", path, times, 0.5, s_noise=s) for s in (1.0, 1.02))
    assert wide > exact * 1.002


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("pc", {"snr": 1.0}, r"`snr` of sampler .pc. must be in \(0, 1\), got 1.0"),
        ("pc", {"corrector_steps": -1}, r"`corrector_steps` of sampler .pc. must be in \[0, 10000\], got -1"),
        ("pc", {"norms": "batch"}, "`norms` of sampler .pc. must be typical or sample, got 'batch'"),
        ("edm", {"s_churn": -1.0}, r"`s_churn` of sampler .edm. must be in \[0, 1000000.0\], got -1.0"),
        ("edm", {"s_noise": 0.0}, r"`s_noise` of sampler .edm. must be in \(0, 100\], got 0.0"),
        ("edm", {"s_min": 2.0, "s_max": 1.0}, "0 <= s_min <= s_max, got 2.0 and 1.0"),
        ("dopri5", {"rtol": 0.0}, r"`rtol` of sampler .dopri5. must be in \(0, 1\), got 0.0"),
        ("dopri5", {"atol": math.nan}, "`atol` of sampler .dopri5. must be finite, got nan"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, object], message: str) -> None:
    more = {"noise": Noise([0, 1])} if SAMPLERS[name].stochastic else {}
    with pytest.raises(ValueError, match=message):
        walk(name, mixture(FLOW), noise_start(FLOW, 2), line(1, 0, 3), **more, **options)


def test_states_between_are_those_of_the_grid() -> None:
    times = torch.tensor([1.0, 0.7, 0.2, 0.0], dtype=F64)
    for name in ("pc", "edm", "dopri5"):
        more = {"noise": Noise([0, 1])} if SAMPLERS[name].stochastic else {}
        steps = walk(name, replace(mixture(FLOW)), noise_start(FLOW, 2), times, **more)
        assert [step.t for step in steps] == times[1:].tolist()
