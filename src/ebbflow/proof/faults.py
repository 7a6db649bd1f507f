"""Checks of a path, a grid, a prediction on a path, or a sampler by itself: each returns a sentence of what is wrong,
or None."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ebbflow.core.noise import Noise
from ebbflow.core.paths import Path
from ebbflow.core.predictions import PREDICTIONS, check_pair
from ebbflow.methods.denoise import Denoiser, FlowMap
from ebbflow.methods.samplers import Sampler
from ebbflow.proof import exact

HIGH, LOW = 0.95, 0.05  # the interval on which orders are measured
ADAPTIVE_ERROR = 2e-3
SLACK = 0.25  # how far a measured order may stay below the declared one
ROUNDING = 2e-8  # errors below this are those of rounding and of interpolated tables, not of steps

# Options of a built-in sampler under which it is ancestral sampling, with the variance that this takes.
ANCESTRAL: dict[str, list[tuple[dict[str, object], str]]] = {
    "ddpm": [({"variance": kind}, kind) for kind in ("small", "large", "optimal")],
    "ddim": [({"eta": 1.0}, "small")],
}


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A path with exact data on it: points at t = 1 and where the exact solution carries them, and the same over the
    interior.

    Args:
        oracle: the exact denoiser, on a path that remembers its coefficients.
        start, end: at t = 1 and t = 0, shape (N, 2).
        high, low: at the ends of the interval on which orders are measured.
        regular: the predictions that can be solved at t = 1.
        pair_faults: what is wrong with a prediction on this path, by name.
    """

    path: Path
    oracle: FlowMap
    start: Tensor
    end: Tensor
    high: Tensor
    low: Tensor
    regular: tuple[str, ...]
    pair_faults: Mapping[str, str | None]

    @classmethod
    def on(cls, path: Path, num: int, predictions: Sequence[str]) -> Bench:
        """The bench of a path, with `num` points from t = 1 and 64 for orders."""
        pairs = {p: guarded(partial(pair_fault, p, path)) for p in predictions}
        regular = tuple(p for p, fault in pairs.items() if fault is None and not is_singular(p, path))
        start, end = (exact.quantiles(path, t, exact.lattice(num)) for t in (1.0, 0.0))
        high, low = (exact.quantiles(path, t, exact.lattice(64)) for t in (HIGH, LOW))
        oracle = exact.mixture(path)
        return cls(
            path=path,
            oracle=oracle,
            start=start,
            end=end,
            high=high,
            low=low,
            regular=regular,
            pair_faults=pairs,
        )


class Fault(Exception):
    """Something found wrong in the middle of a run; its text is the finding."""


def guarded(check: Callable[[], str | None]) -> str | None:
    """What `check` finds; an exception of foreign code is something found."""
    try:
        return check()
    except Fault as found:
        return str(found)
    except Exception as error:
        return f"raised {type(error).__name__}: {error}"


# -- paths, grids and pairs --------------------------------------------------------------------------------------------


def path_fault(path: Path) -> str | None:
    """Signs, monotony, derivatives by central differences, the inverse of log-SNR, and clean data at t = 0."""
    t = torch.linspace(0.02, 0.98, 49, dtype=torch.float64) + 1e-4 * math.pi
    c, h = path.at(t), 1e-5
    before, after = path.at(t - h), path.at(t + h)
    if not bool(((c.alpha > 0) & (c.sigma > 0)).all()):
        return "alpha and sigma must be above 0 inside (0, 1)"
    if not bool((path.log_snr(torch.linspace(0.001, 0.999, 500, dtype=torch.float64)).diff() < 0).all()):
        return "log-SNR must fall strictly with t"
    for name, low, high, claimed in (
        ("alpha", before.alpha, after.alpha, c.alpha_dot),
        ("sigma", before.sigma, after.sigma, c.sigma_dot),
    ):
        off = (claimed - (high - low) / (2 * h)).abs() / (1 + claimed.abs())
        if not bool(off.max() < 1e-4):
            at = int(off.nan_to_num(torch.inf).argmax())
            return (
                f"{name}_dot is not the derivative of {name}: {float(claimed[at]):.4g} against "
                f"{float((high - low)[at] / (2 * h)):.4g} at t = {float(t[at]):.2f}"
            )
    off = (path.time_of(c.log_snr) - t).abs()
    if not bool(off.max() < 1e-6):
        return f"time_of is not the inverse of log_snr: {float(off.max()):.2g} off"
    end = path.at(0.0)
    if float(end.sigma) != 0 or not float(end.alpha) > 0:
        return f"t = 0 must be clean data: sigma(0) = {float(end.sigma):.3g}, alpha(0) = {float(end.alpha):.3g}"
    return None


def grid_fault(times: Tensor, num_steps: int) -> str | None:
    """Entries, ends and direction."""
    if times.shape != (num_steps + 1,) or times.dtype != torch.float64:
        return f"a grid of {num_steps} steps is float64 of shape ({num_steps + 1},), got {tuple(times.shape)}"
    if not bool((times.diff() < 0).all()) or float(times[0]) != 1 or float(times[-1]) != 0:
        return f"the grid must fall strictly from 1 to 0, got {times.tolist()[:3]} to {float(times[-1]):g}"
    return None


def is_singular(prediction: str, path: Path) -> bool:
    """Whether (x_t, target) do not tell (x0, eps) at t = 1: the 2 x 2 system is unbounded, or of rank below 2."""
    c = path.at(1.0)
    a, b = PREDICTIONS[prediction](c)
    system = np.array([[float(c.alpha), float(c.sigma)], [float(a), float(b)]])
    return not np.isfinite(system).all() or int(np.linalg.matrix_rank(system)) < 2


def pair_fault(prediction: str, path: Path) -> str | None:
    """A pair that `check_pair` refuses without need, or takes although it is singular."""
    singular, refused = is_singular(prediction, path), False
    try:
        check_pair(prediction, path)
    except ValueError:
        refused = True
    if refused == singular:
        return None
    return "it is refused although it can be solved" if refused else "it is singular at t = 1 and not refused"


# -- samplers ----------------------------------------------------------------------------------------------------------


def arrive(sampler: Sampler, denoise: Denoiser, x: Tensor, times: Tensor, **options: object) -> Tensor:
    """Where a sampler ends when it starts from a copy of `x`.

    Raises:
        Fault: it stops early, makes other steps than the grid's, or writes into its input.
    """
    given = x.clone()
    steps = deque(enumerate(sampler(denoise, given, times, **options), start=1), maxlen=1)
    count, last = steps.pop() if steps else (0, None)
    if last is None or count != len(times) - 1 or last.t != float(times[-1]):
        where = f"the last to t = {last.t:.3g}, " if last else ""
        raise Fault(f"it makes {count} steps, {where}on a grid of {len(times) - 1} steps to {float(times[-1]):.3g}")
    if not torch.equal(given, x):
        raise Fault("it changes its input in place")
    return last.x


def noise_for(sampler: Sampler, noise: Noise) -> dict[str, object]:
    """`noise` as an option, where the sampler takes it."""
    return {"noise": noise} if sampler.takes_noise else {}


def sampler_fault(sampler: Sampler, bench: Bench) -> str | None:
    """Its input untouched, the same result twice, one by one, and finite results of one and two steps."""
    x = bench.start[:4]

    def run(rows: Sequence[int], num_steps: int) -> Tensor:
        times = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
        return arrive(sampler, bench.oracle, x[list(rows)], times, **noise_for(sampler, Noise(rows)))

    every = range(len(x))
    for num_steps in (1, 2, 4):
        if not bool(run(every, num_steps).isfinite().all()):
            return f"its result is not finite with {num_steps} step{'s'[: num_steps - 1]}"
    first = run(every, 4)
    if not torch.equal(first, run(every, 4)):
        return "two runs from the same seeds differ"
    if not torch.allclose(first, torch.cat([run([i], 4) for i in every]), rtol=1e-7, atol=1e-9):
        return "a sample depends on the others in its batch"
    return None


def ancestral_fault(name: str, sampler: Sampler, path: Path) -> str | None:
    """The variance of ancestral sampling of Gaussian data against its exact recursion."""
    times = torch.linspace(1, 0, 13, dtype=torch.float64)
    for options, kind in ANCESTRAL.get(name, []):
        found, wanted = (
            exact.sampled_moments(sampler, path, times, **options),
            exact.ancestral_variance(path, times, kind),
        )
        if found is None or not torch.allclose(found.variance, wanted, rtol=1e-8, atol=1e-10):
            got = "none" if found is None else f"{[round(float(v), 6) for v in found.variance]}"
            return f"its variance with {options} on Gaussian data is {got}, the recursion gives {wanted.tolist()}"
    return None


def order_errors(sampler: Sampler, bench: Bench, order_steps: Sequence[int]) -> list[float] | None:
    """The error over the interior by number of steps; of a stochastic sampler in mean and variance, None if it is not
    affine in its draws."""
    grids = [torch.linspace(HIGH, LOW, num + 1, dtype=torch.float64) for num in order_steps]
    if not sampler.stochastic:
        ends = (arrive(sampler, bench.oracle, bench.high, times) for times in grids)
        return [float((end - bench.low).abs().mean()) for end in ends]
    pairs = [moment_errors(sampler, bench.oracle.path, times) for times in grids]
    return [off + abs(ratio - 1) for off, ratio in pairs if not math.isnan(off)] or None


def moment_errors(sampler: Sampler, path: Path, times: Tensor) -> tuple[float, float]:
    """Error of the mean in standard deviations and ratio of variances on Gaussian data, of the coordinate furthest off;
    NaN where a sampler is not affine in its draws."""
    found, truth = exact.sampled_moments(sampler, path, times), exact.gaussian_moments(path, float(times[-1]))
    if found is None:
        return math.nan, math.nan
    ratios = found.variance / truth.variance
    return float(((found.mean - truth.mean) / truth.variance.sqrt()).abs().max()), furthest(ratios)


def furthest(ratios: Tensor) -> float:
    """The entry furthest from 1."""
    return float(ratios[(ratios - 1).abs().argmax()])


def measured_order(errors: Sequence[float] | None, order_steps: Sequence[int]) -> float | None:
    """The slope between the two finest runs whose errors are above rounding; None where fewer than two are."""
    if errors is None or len(errors) != len(order_steps):
        return None
    usable = [(num, e) for num, e in zip(order_steps, errors, strict=True) if e > ROUNDING]
    if len(usable) < 2:
        return None
    (coarse, before), (fine, after) = list(pairwise(usable))[-1]
    return math.log(before / after) / math.log(fine / coarse)


def order_fault(sampler: Sampler, errors: Sequence[float] | None, order: float | None) -> str | None:
    """A measured order that is not the declared one, or errors that are no numbers."""
    if errors is not None and not all(math.isfinite(e) for e in errors):
        return f"its error on t in [{LOW}, {HIGH}] is not finite"
    if sampler.is_adaptive:  # it chooses its own steps: its tolerance, not the grid, says how exact it is
        worst = max(errors or [0.0])
        return f"its error is {worst:.1e} at its own tolerance" if worst > ADAPTIVE_ERROR else None
    if order is not None and order < sampler.order - SLACK:
        return (
            f"order {sampler.order} is declared, {order:.2f} is measured on t in [{LOW}, {HIGH}] "
            f"(error {errors[-1] if errors else 0:.1e} with the most steps)"
        )
    return None
