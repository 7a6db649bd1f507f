"""Laws of time sampling, of grids and of loss weights."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import (
    F64,
    PATH_CASES,
    each_path,
    interior,
    is_valid,
    normal,
    objective_or_none,
    registered_path,
    valid_pair,
)
from scipy.stats import chi2

from ebbflow.core.paths import VE, DiscretePath, Path, VPDiscrete
from ebbflow.core.predictions import PREDICTIONS
from ebbflow.core.times import TIME_GRIDS, TIME_SAMPLERS, KarrasGrid, ShiftedGrid, num_table_steps
from ebbflow.core.weights import WEIGHTS, loss_weight

each_times = pytest.mark.parametrize("times", TIME_SAMPLERS)
each_grid = pytest.mark.parametrize("grid", TIME_GRIDS)
each_weight = pytest.mark.parametrize("weight", WEIGHTS)
num_steps_cases = pytest.mark.parametrize("num_steps", [1, 2, 3, 7, 50])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bin_probabilities(times: str, path: Path, edges: torch.Tensor) -> torch.Tensor:
    """The density integrated over the bins, by sums on the logit of t, where every density here is smooth."""
    logits = torch.linspace(-36, 36, 80_001, dtype=F64)
    t = torch.sigmoid(logits)
    mass = TIME_SAMPLERS[times].density(t, path) * t * (1 - t) * (logits[1] - logits[0])
    return torch.zeros(len(edges) - 1, dtype=F64).index_add_(
        0, (torch.bucketize(t, edges) - 1).clamp(0, len(edges) - 2), mass
    )


# -- times of training -----------------------------------------------------------------------------


@registered_path
@each_times
def test_draws_follow_the_density(path: Path, times: str) -> None:
    num, edges = 20_000, torch.linspace(0, 1, 26, dtype=F64)
    t = TIME_SAMPLERS[times].draw(num, path, generator())
    assert t.dtype == F64 and t.shape == (num,) and bool((t > 0).all()) and bool((t <= 1).all())
    expected = num * bin_probabilities(times, path, edges)
    assert abs(float(expected.sum()) / num - 1) < 1e-3, "the density does not integrate to 1"
    counts = torch.histc(
        torch.bucketize(t, edges).double() - 1, bins=25, min=-0.5, max=24.5
    )  # right-closed bins, as tables want
    assert counts.sum() == num
    full = expected > 8
    observed = torch.cat([counts[full], counts[~full].sum()[None]])
    wanted = torch.cat([expected[full], expected[~full].sum().clamp(min=1)[None]])
    statistic = float(((observed - wanted) ** 2 / wanted).sum())
    assert chi2.sf(statistic, len(wanted) - 1) > 1e-4, (
        f"chi^2 = {statistic:.1f} with {len(wanted) - 1} degrees of freedom"
    )


@each_times
def test_draws_repeat_with_the_generator(times: str) -> None:
    path, sampler = PATH_CASES["vp"], TIME_SAMPLERS[times]
    assert torch.equal(sampler.draw(64, path, generator(3)), sampler.draw(64, path, generator(3)))
    assert not torch.equal(sampler.draw(64, path, generator(3)), sampler.draw(64, path, generator(4)))


@pytest.mark.parametrize("path", [VPDiscrete(num_steps=50), PATH_CASES["flow"]], ids=["table of 50", "continuous"])
def test_discrete_times_cover_every_entry_and_nothing_else(path: Path) -> None:
    steps = num_table_steps(path)
    entries = TIME_SAMPLERS["discrete"].draw(15 * steps, path, generator()) * steps
    assert set(entries.round().tolist()) == set(range(1, steps + 1)), "an entry of the table is never trained"
    torch.testing.assert_close(entries, entries.round(), rtol=1e-12, atol=0)


def test_stratified_and_low_discrepancy_times_are_spread_out() -> None:
    path, num = PATH_CASES["flow"], 64
    t = TIME_SAMPLERS["stratified"].draw(num, path, generator())
    assert (t * num).floor().long().tolist() == list(range(num)), "not one draw in each stratum"
    gaps = TIME_SAMPLERS["low_discrepancy"].draw(num, path, generator()).sort().values.diff()
    torch.testing.assert_close(gaps, torch.full_like(gaps, 1 / num), rtol=1e-10, atol=0)


def test_log_normal_sigma_is_normal_in_the_noise_level() -> None:
    for name in ("flow", "ve", "cosine_discrete"):
        path = PATH_CASES[name]
        levels = -path.log_snr(TIME_SAMPLERS["log_normal_sigma"].draw(50_000, path, generator())) / 2
        assert abs(float(levels.mean()) + 1.2) < 0.03 and abs(float(levels.std()) - 1.2) < 0.03, name


# -- grids -----------------------------------------------------------------------------------------


@each_path
@each_grid
@num_steps_cases
def test_grids_fall_strictly_from_one_to_zero(path: Path, grid: str, num_steps: int) -> None:
    if grid == "trailing" and num_steps > num_table_steps(path):
        with pytest.raises(ValueError, match=f"table of {num_table_steps(path)}; got {num_steps} steps. Use fewer"):
            TIME_GRIDS[grid](path, num_steps)
        return
    times = TIME_GRIDS[grid](path, num_steps)
    assert times.dtype == F64 and times.shape == (num_steps + 1,)
    assert times[0] == 1 and times[-1] == 0
    assert bool((times.diff() < 0).all()), f"{grid} does not fall strictly: {times}"


@registered_path
@num_steps_cases
def test_grids_are_where_their_formula_says(path: Path, num_steps: int) -> None:
    i = torch.arange(num_steps, dtype=F64)
    top = float(torch.exp(-path.log_snr(1.0) / 2))
    high, spread = min(80.0, top), max(num_steps - 1, 1)
    levels = {name: torch.exp(-path.log_snr(grid(path, num_steps)[:-1]) / 2) for name, grid in TIME_GRIDS.items()}
    formulas = {
        "karras": (high ** (1 / 7) + i / spread * (0.002 ** (1 / 7) - high ** (1 / 7))) ** 7,
        "log_snr": torch.exp(math.log(high) + i / spread * (math.log(0.002) - math.log(high))),
        "cosine": torch.tan(math.atan(top) * (1 - i / num_steps)),
    }
    for name, wanted in formulas.items():
        torch.testing.assert_close(
            levels[name][1:], wanted[1:], rtol=1e-6, atol=0, msg=lambda m, name=name: f"{name}: {m}"
        )
    u = 1 - i / num_steps
    torch.testing.assert_close(TIME_GRIDS["uniform"](path, num_steps)[:-1], u, rtol=1e-14, atol=0)
    torch.testing.assert_close(TIME_GRIDS["quadratic"](path, num_steps)[:-1], u**2, rtol=1e-14, atol=0)
    torch.testing.assert_close(TIME_GRIDS["shifted"](path, num_steps)[:-1], 3 * u / (1 + 2 * u), rtol=1e-14, atol=0)


@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0, 20.0])
def test_karras_ends_at_the_same_levels_for_every_rho(rho: float) -> None:
    path = VE()
    for num_steps in (2, 3, 18):
        sigma = path.at(KarrasGrid(rho=rho)(path, num_steps)).sigma
        assert math.isclose(float(sigma[0]), 80, rel_tol=1e-9) and math.isclose(
            float(sigma[-2]), 0.002, rel_tol=1e-6
        ), rho
        assert sigma[-1] == 0
    with pytest.raises(ValueError, match=r"`rho` must be in \[0.01, 1000\], got 0.0"):
        KarrasGrid(rho=0.0)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 7, 13, 50, 999, 1000])
def test_trailing_visits_whole_entries_beginning_with_the_last(num_steps: int) -> None:
    entries = TIME_GRIDS["trailing"](VPDiscrete(), num_steps) * 1000
    torch.testing.assert_close(entries, entries.round(), rtol=1e-12, atol=0)
    assert entries[0] == 1000 and entries[-1] == 0 and entries[-2] >= 1
    assert ((entries.diff() + 1000 / num_steps).abs() <= 1).all(), "the strides differ by more than rounding"


def test_the_shifted_grid_is_the_uniform_grid_of_a_shifted_path() -> None:
    once = ShiftedGrid(shift=2.5)(PATH_CASES["flow"], 10)
    torch.testing.assert_close(
        PATH_CASES["flow"].at(once).sigma, PATH_CASES["flow/shift2.5"].at(torch.linspace(1, 0, 11)).sigma
    )
    with pytest.raises(ValueError, match=r"`shift` must be in \[0.0001, 10000.0\], got -1.0"):
        ShiftedGrid(shift=-1.0)


# -- weights ---------------------------------------------------------------------------------------

# On a variance-preserving path, from SNR = S: weight on the eps, x0 and v loss, as published.
TEXTBOOK = {
    "uniform": lambda s: (1, 1, 1),
    "snr": lambda s: (1, s, s / (s + 1)),
    "truncated_snr": lambda s: (max(s, 1) / s, max(s, 1), max(s, 1) / (s + 1)),
    "min_snr": lambda s: (min(s, 5) / s, min(s, 5), min(s, 5) / (s + 1)),
    "sigmoid": lambda s: (1 / (1 + s), s / (1 + s), s / (1 + s) ** 2),
    "cosine_smooth": lambda s: tuple(k / math.cosh(math.log(s) / 2) for k in (1, s, s / (s + 1))),
    "p2": lambda s: (1 / (1 + s), s / (1 + s), s / (1 + s) ** 2),
    "debiased": lambda s: (s**-0.5, s**0.5, s**0.5 / (s + 1)),
}


@each_weight
def test_weights_have_their_published_values(weight: str) -> None:
    assert weight in TEXTBOOK, f"write down the published values of {weight!r} on the eps, x0 and v losses"
    path = PATH_CASES["cosine"]
    for snr in (1e-4, 0.3, 1.0, 4.0, 6.0, 1e4):
        c = path.at(path.time_of(math.log(snr)))
        for prediction, wanted in zip(("eps", "x0", "v"), TEXTBOOK[weight](snr), strict=True):
            a, b = PREDICTIONS[prediction](c)
            got = float(loss_weight(WEIGHTS[weight], c, a * c.sigma - b * c.alpha))
            assert math.isclose(got, wanted, rel_tol=1e-9), (
                f"{weight} on {prediction} at SNR = {snr}: {got}, published {wanted}"
            )


class Wrong:
    """A model whose estimate of x0 errs by a fixed amount, told in any prediction."""

    def __init__(self, path: Path, prediction: str, x0: torch.Tensor) -> None:
        self.path, self.prediction, self.x0 = path, prediction, x0

    def output(self, x_t: torch.Tensor, t: torch.Tensor, cond: torch.Tensor | None) -> torch.Tensor:
        c = self.path.at(t)
        eps = (x_t - c.alpha[:, None] * self.x0) / c.sigma[:, None]
        a, b = PREDICTIONS[self.prediction](c)
        return a[:, None] * self.x0 + b[:, None] * eps


@each_path
@each_weight
def test_the_weighted_loss_does_not_depend_on_the_prediction(path: Path, weight: str) -> None:
    x0, eps, t = normal(16, 5, seed=1), normal(16, 5, seed=2), interior(16)
    objectives = {p: objective_or_none(path, p, weight) for p in PREDICTIONS if is_valid(p, path)}
    names = [p for p, objective in objectives.items() if objective is not None]
    models = {p: Wrong(path, p, x0 + normal(16, 5, seed=3)) for p in names}
    losses = {p: objectives[p].losses(models[p], x0, None, eps, t) for p in names}
    if weight != "uniform":
        for p in names:
            torch.testing.assert_close(losses[p], losses["x0"], rtol=1e-7, atol=0, msg=lambda m, p=p: f"{p}: {m}")
        return
    for p in names:  # what `uniform` means is the plain mean square of the net's own error
        a, b = (k[:, None] for k in PREDICTIONS[p](path.at(t)))
        plain = (models[p].output(path.mix(x0, eps, t), t, None) - a * x0 - b * eps).square().mean(1)
        torch.testing.assert_close(losses[p], plain, rtol=1e-9, atol=0, msg=lambda m, p=p: f"{p}: {m}")


@valid_pair
@each_weight
def test_weights_are_finite_at_both_ends(path: Path, prediction: str, weight: str) -> None:
    ends = [1e-12, 1e-6, 1 - 1e-12, 1.0]
    if isinstance(path, DiscretePath):
        ends.append(1 / path.num_steps)
    c = path.at(torch.tensor(ends, dtype=F64))
    a, b = PREDICTIONS[prediction](c)
    w = loss_weight(WEIGHTS[weight], c, a * c.sigma - b * c.alpha)
    assert bool(torch.isfinite(w.float()).all()) and bool((w >= 0).all()), (
        f"{weight} on {prediction} at {ends}: {w.tolist()}"
    )
