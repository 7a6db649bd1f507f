"""Laws of samplers, over the registry: accuracy against closed forms, and the contract that callers rely on."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from conftest import (
    F64,
    MILD,
    PATH_CASES,
    SAMPLER_CASES,
    VALID_PAIRS,
    Counted,
    each_path,
    each_sampler,
    line,
    marginal_variance,
    mixture,
    mixture_quantiles,
    noise_start,
    registered_path,
    seeded,
    walk,
)

from ebbflow.core.noise import Noise
from ebbflow.core.paths import PATHS, DiscretePath, Flow, Path
from ebbflow.core.predictions import PREDICTIONS
from ebbflow.core.shape import per_sample
from ebbflow.core.times import TIME_GRIDS
from ebbflow.errors import ConfigError
from ebbflow.methods.denoise import FunctionDenoiser
from ebbflow.methods.oracles import Gaussian
from ebbflow.methods.samplers import SAMPLERS, Sampler, Step
from ebbflow.methods.samplers.multistep import mean_terms

FLOW, VP_TABLE = PATH_CASES["flow"], PATH_CASES["vp_discrete"]
ZERO_SNR = [name for name in PATH_CASES if name.endswith("zero_snr")]
DETERMINISTIC = [
    n for n, s in SAMPLERS.items() if not s.stochastic and s.cost is not None and not s.jumps
]  # steps are the grid's


# -- accuracy --------------------------------------------------------------------------------------


@registered_path
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_measured_order_is_at_least_the_declared_one(path: Path, name: str) -> None:
    """Against the exact solution on a mixture, t from 0.98 to 0.02. Tables have a floor: their rates are
    interpolated."""
    u = torch.linspace(0.02, 0.98, 9, dtype=F64)
    x, wanted = (mixture_quantiles(path, t, u, MILD)[:, None] for t in (0.98, 0.02))
    floor, oracle = 2e-8 if isinstance(path, DiscretePath) else 1e-11, mixture(path, MILD)
    runs = (walk(name, oracle, x, line(0.98, 0.02, n))[-1].x for n in (16, 32, 64, 128))
    errors = [error for x_end in runs if (error := float((x_end - wanted).abs().mean())) > floor]
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert orders and orders[-1] >= SAMPLERS[name].order - 0.25, (
        f"{name}: declared {SAMPLERS[name].order}, measured {orders}"
    )
    assert errors[-1] < 0.15, f"{name} does not converge to the exact solution: {errors}"


@pytest.mark.parametrize("name", ["vp_discrete/scaled", "vp_discrete/zero_snr"])
def test_what_is_left_of_the_signal_biases_the_mean(name: str) -> None:
    """From N(0, I) the ODE gives mean mu - (s alpha_T / S_T) mu, and mu itself at zero terminal SNR (trap 2)."""
    path, mean, std = PATH_CASES[name], 1.0, 0.5
    x = walk("dpmpp_2m", Gaussian(mean, std, path), torch.zeros(1, 1, dtype=F64), TIME_GRIDS["cosine"](path, 400))[-1].x
    alpha = float(path.at(1.0).alpha)
    assert float(x) == pytest.approx(mean - std * alpha / math.sqrt(marginal_variance(path, 1.0, std)) * mean, abs=2e-4)


def test_ab2_is_exact_for_a_velocity_linear_in_time_on_any_grid() -> None:
    denoiser = FunctionDenoiser(function=lambda x, t: torch.full_like(x, 3 * float(t)), path=FLOW)
    times = torch.tensor([1.0, 0.9, 0.55, 0.5, 0.1], dtype=F64)
    x = walk("ab2", denoiser, torch.zeros(2, 1, dtype=F64), times)[-1].x
    euler_start = -0.1 * 3 + 3 * (1 - 0.9**2) / 2  # the first step has no history
    torch.testing.assert_close(x, torch.full_like(x, 3 * (0.1**2 - 1) / 2 + euler_start), rtol=1e-12, atol=0)


# -- identities between samplers -------------------------------------------------------------------


@pytest.mark.parametrize("grid", TIME_GRIDS)
def test_ddim_is_euler_on_the_flow_path(grid: str) -> None:
    times, x = TIME_GRIDS[grid](FLOW, 9), noise_start(FLOW, 8)
    for a, b in zip(walk("ddim", mixture(FLOW), x, times), walk("euler", mixture(FLOW), x, times), strict=True):
        torch.testing.assert_close(a.x, b.x, rtol=1e-12, atol=1e-12)


@each_path
@pytest.mark.parametrize(
    ("left", "right"),
    [(("ddim", {"eta": 1.0}), ("ddpm", {"variance": "small"})), (("sde", {"scale": 0.0}), ("euler", {}))],
    ids=["ddim with eta 1 is ddpm", "sde with scale 0 is euler"],
)
def test_limits_of_families(
    path: Path, left: tuple[str, dict[str, object]], right: tuple[str, dict[str, object]]
) -> None:
    ends = [
        walk(name, mixture(path), noise_start(path, 8), line(1, 0, 6), **seeded(name, options, 8))
        for name, options in (left, right)
    ]
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a.x, b.x, rtol=1e-8, atol=1e-8, msg=lambda m, t=a.t: f"at t = {t}: {m}")


def test_restart_without_restarts_is_edm_without_churn() -> None:
    for path in (FLOW, VP_TABLE):
        args = (mixture(path), noise_start(path, 8), line(1, 0, 6))
        ends = [
            walk("restart", *args, noise=Noise(range(8)), restarts=0),
            walk("edm", *args, noise=Noise(range(8)), s_churn=0.0),
        ]
        assert all(torch.equal(a.x, b.x) for a, b in zip(*ends, strict=True))


def test_multistep_weights_are_the_textbooks() -> None:
    """Adams and Bashforth's on an even grid; one value, or any number of equal ones, is its own mean."""
    places = [0.9, 0.8, 0.7, 0.6]
    known = [(place, torch.tensor(float(i))) for i, place in enumerate(places)]
    for num, wanted in {1: [1], 2: [-1 / 2, 3 / 2], 3: [5 / 12, -16 / 12, 23 / 12]}.items():
        got = [weight for weight, _ in mean_terms(known[-num:], 0.5)]
        assert got == pytest.approx(wanted, rel=1e-12)
    assert [w for w, _ in mean_terms(known, 0.5)] == pytest.approx([-9 / 24, 37 / 24, -59 / 24, 55 / 24], rel=1e-12)
    for growth in (0.0, 1.0):
        assert sum(w for w, _ in mean_terms(known, 0.1, growth=growth)) == pytest.approx(1, rel=1e-12)


# -- the contract ----------------------------------------------------------------------------------


@each_path
@each_sampler
def test_runs_end_at_the_last_estimate_and_leave_their_start_alone(
    path: Path, name: str, options: dict[str, object]
) -> None:
    x, times = noise_start(path, 4, dims=3), line(1, 0, 5)
    kept, state = x.clone().requires_grad_(), torch.get_rng_state()
    steps = walk(name, Gaussian(0.3, 0.5, path), kept, times, **seeded(name, options, 4))
    assert torch.equal(kept, x), "x was changed in place"
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"
    assert [step.t for step in steps] == times[1:].tolist(), "the steps are not those of the grid"
    assert torch.equal(steps[-1].x, steps[-1].estimate.x0), "the last step does not return x0"
    assert not any(step.x.requires_grad or step.estimate.x0.requires_grad for step in steps), (
        "an autograd graph was built"
    )
    assert all(torch.isfinite(step.x).all() and step.x.dtype == F64 for step in steps)


def test_autograd_is_as_the_caller_left_it_between_steps() -> None:
    for _ in SAMPLERS["euler"](mixture(FLOW), noise_start(FLOW, 2), line(1, 0, 3)):
        assert torch.is_grad_enabled()


@each_path
@each_sampler
def test_declared_evaluations_are_counted_and_none_is_at_clean_data(
    path: Path, name: str, options: dict[str, object]
) -> None:
    for num_steps in (1, 4):
        spy = Counted(Gaussian(0.25, 0.5, path))
        walk(name, spy, noise_start(path, 2), line(1, 0, num_steps), **seeded(name, options, 2))
        assert min(spy.asked) > 0 and set(line(1, 0, num_steps)[:-1].tolist()) <= set(spy.asked), (
            f"asked at {spy.asked}"
        )
        declared, counted = SAMPLERS[name].evaluations(num_steps, **options), len(spy.asked)
        start = path.at(1.0)  # a first step at infinite speed is DDIM's and costs one evaluation
        jumps = not bool(torch.isfinite(start.alpha_dot) & torch.isfinite(start.sigma_dot))
        fits = declared in (None, counted) or (jumps and num_steps <= counted < declared)
        assert fits, f"{num_steps} steps: declared {declared}, counted {counted}"


@pytest.mark.parametrize("path", [PATH_CASES[n] for n in (*PATHS, *ZERO_SNR)], ids=[*PATHS, *ZERO_SNR])
@pytest.mark.parametrize("name", SAMPLERS)
def test_few_steps_are_finite_on_every_grid(path: Path, name: str) -> None:
    oracle = Gaussian(0.25, 0.5, path)
    for grid, make in TIME_GRIDS.items():
        for num_steps in (1, 2):
            steps = walk(name, oracle, noise_start(path, 2), make(path, num_steps), **seeded(name, {}, 2))
            assert all(torch.isfinite(step.x).all() for step in steps), f"{num_steps} steps on {grid}"


@pytest.mark.parametrize("pair", [pair for pair in VALID_PAIRS if "/shift" not in pair])
def test_every_prediction_gives_the_same_samples(pair: str) -> None:
    path, prediction = VALID_PAIRS[pair]
    oracle = Gaussian(0.25, 0.5, path)

    def function(x_t: torch.Tensor, t: float | torch.Tensor) -> torch.Tensor:
        estimate, (a, b) = oracle(x_t, t), PREDICTIONS[prediction](path.at(t))
        return per_sample(a, x_t) * estimate.x0 + per_sample(b, x_t) * estimate.eps

    model = FunctionDenoiser(function=function, path=path, prediction=prediction)
    for name in (name for name in SAMPLERS if not SAMPLERS[name].jumps):
        got, want = (
            walk(name, d, noise_start(path, 4), line(1, 0, 3), **seeded(name, {}, 4))[-1].x for d in (model, oracle)
        )
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


@registered_path
@each_sampler
def test_states_of_lower_precision(path: Path, name: str, options: dict[str, object]) -> None:
    """Grids and coefficients stay in double precision: a state in single precision loses no more than its rounding."""
    ends = {}
    for dtype in (F64, torch.float32, torch.bfloat16):
        x = walk(
            name, Gaussian(0.25, 0.5, path), noise_start(path, 4, dtype), line(1, 0, 8), **seeded(name, options, 4)
        )[-1].x
        assert x.dtype == dtype and bool(torch.isfinite(x).all()), f"{name} in {dtype}: {x}"
        ends[dtype] = x.double()
    torch.testing.assert_close(ends[torch.float32], ends[F64], rtol=1e-4, atol=1e-4)


# -- refusals --------------------------------------------------------------------------------------

BAD_GRIDS = [[0.0, 1.0], [1.0, 0.5, 0.5, 0.0], [1.0], [], [1.1, 0.0], [1.0, -0.1], [1, math.nan, 0], [[1.0, 0.0]]]


@pytest.mark.parametrize("grid", BAD_GRIDS, ids=str)
def test_grids_that_do_not_fall_are_refused(grid: list[float]) -> None:
    for name in SAMPLERS:
        with pytest.raises(ValueError, match="`times` must fall strictly from at most 1 to at least 0"):
            walk(name, mixture(FLOW), noise_start(FLOW, 2), torch.tensor(grid, dtype=F64), **seeded(name, {}, 2))


def test_a_grid_may_be_a_list_a_tuple_or_an_array() -> None:
    grid, x = [1.0, 0.5, 0.0], noise_start(FLOW, 2)
    wanted = walk("heun", mixture(FLOW), x, torch.tensor(grid, dtype=F64))[-1].x
    for given in (grid, tuple(grid), np.array(grid), torch.tensor(grid)):
        torch.testing.assert_close(walk("heun", mixture(FLOW), x, given)[-1].x, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("grid", [10, 0.5, "uniform", None, ["a", 0.0], [[1.0], [0.5, 0.0]]], ids=str)
def test_what_is_no_grid_is_refused(grid: object) -> None:
    with pytest.raises(ValueError, match="`times` must fall strictly from at most 1 to at least 0"):
        walk("heun", mixture(FLOW), noise_start(FLOW, 2), grid)


def test_what_is_no_denoiser_and_no_state_is_refused() -> None:
    with pytest.raises(ValueError, match="walks a denoiser, which has a `path`; got function"):
        SAMPLERS["heun"](lambda x, t: x, noise_start(FLOW, 2), [1.0, 0.0])
    for x, got in (([[1.0]], "list"), (torch.zeros(3), r"shape \(3,\)")):
        with pytest.raises(ValueError, match=f"`x` must be a tensor with a row a sample, .* got {got}"):
            SAMPLERS["heun"](mixture(FLOW), x, [1.0, 0.0])


@pytest.mark.parametrize("name", SAMPLERS)
def test_unknown_options_and_missing_noise_are_refused(name: str) -> None:
    args = (mixture(FLOW), noise_start(FLOW, 2), line(1, 0, 2))
    with pytest.raises(ConfigError, match=f"sampler '{name}' has no option 'etta'"):
        SAMPLERS[name](*args, etta=0.5)
    if not SAMPLERS[name].takes_noise:
        with pytest.raises(ConfigError, match="has no option 'noise'"):
            SAMPLERS[name](*args, noise=Noise([0, 1]))
        return
    if SAMPLERS[name].stochastic:
        with pytest.raises(ValueError, match=f"sampler '{name}' draws noise: pass noise=ebbflow.Noise"):
            SAMPLERS[name](*args)
    with pytest.raises(ValueError, match="3 seeds, one a sample; got a batch of 2"):
        walk(name, *args, noise=Noise([0, 1, 2]), **{"ddim": {"eta": 1.0}, "flow_map": {"renoise": 1.0}}.get(name, {}))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ddim", {"eta": 1.5}, r"`eta` of sampler 'ddim' must be in \[0, 1\], got 1.5"),
        ("ddim", {"eta": 0.5, "noise": None}, "sampler 'ddim' with eta = 0.5 draws noise"),
        ("flow_map", {"renoise": -0.1}, r"`renoise` of sampler 'flow_map' must be in \[0, 1\], got -0.1"),
        ("flow_map", {"renoise": 0.5, "noise": None}, "sampler 'flow_map' with renoise = 0.5 draws noise"),
        (
            "ddpm",
            {"variance": "huge"},
            "`variance` of sampler 'ddpm' must be small, large, optimal or learned, got 'huge'",
        ),
        ("ddpm", {"variance": "learned"}, "variance 'learned' needs a net trained with objective.variance=learned"),
        ("sde", {"scale": -1.0}, r"`scale` of sampler 'sde' must be in \[0, 1000000.0\], got -1.0"),
        ("sde", {"scale": math.nan}, "`scale` of sampler 'sde' must be finite, got nan"),
        ("restart", {"restarts": -1}, r"`restarts` of sampler 'restart' must be in \[0, 1000\], got -1"),
        ("restart", {"s_min": 0.5}, "`s_min` and `s_max` must satisfy 0 < s_min < s_max, got 0.5 and 0.3"),
        ("restart", {"share": 0.0}, r"`share` of sampler 'restart' must be in \(0, 1\], got 0.0"),
        ("sde", {"diffusion": "both"}, "`diffusion` of sampler 'sde' must be sigma or forward, got 'both'"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        walk(name, mixture(FLOW), noise_start(FLOW, 2), line(1, 0, 3), **{"noise": Noise([0, 1]), **options})


RUNS: dict[str, tuple[Callable[..., Any], str]] = {
    "no steps": (lambda d, x, levels: iter(()), "for each of 3 steps, and made 0"),
    "no generator": (lambda d, x, levels: x, "for each of 3 steps, and made 0"),
    "nothing": (lambda d, x, levels: iter([None]), "got NoneType"),
    "a state": (lambda d, x, levels: iter([x]), "got Tensor"),
    "another shape": (lambda d, x, levels: iter([Step(0.0, x[:1], d(x, 1.0))]), r"got a state \(1, 2\)"),
    "too few": (lambda d, x, levels: iter([Step(0.0, x, d(x, 1.0))]), "for each of 3 steps, and made 1"),
}


@pytest.mark.parametrize("name", RUNS)
def test_what_a_sampler_of_ones_own_yields_is_checked(name: str) -> None:
    """Of one without steps, nothing was written and the command said that it was."""
    run, words = RUNS[name]
    run.__name__ = "mine"
    mine = Sampler(run, order=1, evaluations=lambda num_steps: num_steps)
    with pytest.raises(ValueError, match=words):
        list(mine(Gaussian(0.0, 1.0, Flow()), torch.zeros(4, 2), torch.linspace(1, 0, 4)))


def test_the_optimal_variance_needs_a_denoiser_that_knows_it() -> None:
    model = FunctionDenoiser(function=lambda x, t: x, path=FLOW)
    with pytest.raises(ValueError, match="variance 'optimal' needs a denoiser that knows Var"):
        walk("ddpm", model, noise_start(FLOW, 2), line(1, 0, 3), noise=Noise([0, 1]), variance="optimal")


def test_every_variant_under_test_exists() -> None:
    assert {name for name, _ in SAMPLER_CASES.values()} == set(SAMPLERS) and set(PATHS) <= set(PATH_CASES)
