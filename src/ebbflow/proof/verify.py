"""Verification: every sampler on every path, prediction and grid, against data whose law is known exactly.

A row is one combination. It is `ok` when all of this holds:

- the path falls in log-SNR, and its derivatives and its inverse are what they claim to be;
- the grid falls strictly from 1 to 0;
- the sampler leaves its input alone, gives the same result twice and one by one, and costs what it declares;
- its order, measured on t in [0.95, 0.05] against the exact transport of the points (for a stochastic sampler the weak
  order, of mean and variance on Gaussian data), is at least the declared one less 0.25;
- a full run from t = 1 to t = 0 tends to the truth: doubling the steps takes away at least 15 % of the error, or leaves
  it below 0.01 (for a stochastic sampler, 0.02 in mean and variance), and the shares of the modes are within 0.05, or
  tend there, up to 4.5 standard errors;
- going by way of the prediction moves no point by more than 1e-6, or the pair is singular at t = 1 and is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ebbflow.core.paths import Path
from ebbflow.methods.samplers import Sampler
from ebbflow.proof import exact, faults
from ebbflow.proof.faults import Bench

GAIN = 0.85  # a run with twice the steps may keep this share of its error
FLOOR, MOMENT_FLOOR, SHARE_FLOOR = 0.01, 0.02, 0.05  # errors that need not shrink: pathwise, of moments, of mode shares
DOUBLINGS = 3  # how often the steps are doubled where the error has not begun to fall
SAME = 1e-6  # how far a prediction may move a point
NUM_POINTS, NUM_DRAWN, BLOCK = 128, 384, 16  # points of a deterministic run, of a stochastic one, and a prediction
Z = 4.5  # standard errors that chance may take

Grid = Callable[..., Tensor]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was found of one combination; errors are of `num_steps` steps from t = 1 to 0, in standard deviations of the
    data.

    Args:
        order_declared, order_measured: None measured where all errors are rounding, or no order can be told
            (a sampler that chooses its own steps has none in those of the grid).
        order_errors: pairs of a number of steps and the error over the interior, of which the order is the slope.
        evaluations: counted, for `num_steps` steps.
        error: mean distance of the points from their exact transport; of a stochastic sampler, that of mean and
            variance.
        rate: log2 of the error with half the steps over `error`: the order seen on this grid, ends included.
        mean_error, variance_ratio: of the coordinate that is furthest off; a stochastic sampler's are exact, on
            Gaussian data.
        mode_weight_error: largest error of a mode's share of the points.
        prediction_error: furthest that the prediction moves a point.
        refused: the prediction is singular at t = 1 of this path and was refused, as it must be.
        reason: the first thing found wrong; None when ok.
    """

    sampler: str
    path: str
    prediction: str
    grid: str
    stochastic: bool
    order_declared: int
    order_measured: float | None
    num_steps: int
    order_errors: tuple[tuple[int, float], ...] = ()
    evaluations: int = 0
    error: float | None = None
    rate: float | None = None
    mean_error: float | None = None
    variance_ratio: float | None = None
    mode_weight_error: float | None = None
    prediction_error: float | None = None
    refused: bool = False
    ok: bool = True
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What to verify.

    Args:
        samplers, paths, grids: by name.
        predictions: names of `PREDICTIONS`.
        only: if given, only combinations that hold one of these entries, pairs such as ("SAMPLERS", "heun"), are
            verified.
        num_steps: steps of a full run, even; half of it is run too.
        order_steps: numbers of steps that the order is measured with, each twice the one before.
        crossed: every prediction on every grid; else every prediction on the first grid, and every grid with the first
            prediction.
    """

    samplers: Mapping[str, Sampler]
    paths: Mapping[str, Path]
    predictions: tuple[str, ...]
    grids: Mapping[str, Grid]
    only: frozenset[tuple[str, str]] = frozenset()
    num_steps: int = 40
    order_steps: tuple[int, ...] = (16, 32, 64, 128)
    crossed: bool = True

    def quick(self) -> Scope:
        """The same with half the work of a run and without crossing predictions and grids."""
        return replace(self, num_steps=24, order_steps=self.order_steps[:3], crossed=False)

    def predictions_on(self, sampler: str, path: str, grid: str) -> tuple[str, ...]:
        """The predictions to verify with these."""
        names = self.predictions if self.crossed or grid == next(iter(self.grids)) else self.predictions[:1]
        if not self.only or self.only & {("SAMPLERS", sampler), ("PATHS", path), ("TIME_GRIDS", grid)}:
            return names
        return tuple(name for name in names if ("PREDICTIONS", name) in self.only)

    def __len__(self) -> int:
        return sum(len(self.predictions_on(s, p, g)) for s in self.samplers for p in self.paths for g in self.grids)


def verify(plan: Scope) -> Iterator[Verdict]:
    """One verdict a combination, path by path; whatever a sampler, path or prediction raises becomes its reason."""
    for path_name, path in plan.paths.items():
        benches: list[Bench] = []

        def prepare(path: Path = path, benches: list[Bench] = benches) -> str | None:
            fault = faults.path_fault(path)
            if fault is None:
                benches.append(Bench.on(path, NUM_DRAWN, plan.predictions))
            return fault

        names = [s for s in plan.samplers if any(plan.predictions_on(s, path_name, g) for g in plan.grids)]
        fault = faults.guarded(prepare) if names else None
        for name in names:
            reason = None if fault is None else f"path {path_name!r}: {fault}"
            yield from _of_sampler(plan, name, path_name, benches[0] if benches else None, reason)


def _of_sampler(plan: Scope, name: str, path_name: str, bench: Bench | None, reason: str | None) -> Iterator[Verdict]:
    """All verdicts of one sampler on one path."""
    sampler, order, errors = plan.samplers[name], None, None
    if bench is not None:
        order, errors, reason = _examine(name, sampler, bench, plan.order_steps)
    blank = Verdict(
        sampler=name,
        path=path_name,
        prediction="",
        grid="",
        stochastic=sampler.stochastic,
        order_declared=sampler.order,
        order_measured=order,
        num_steps=plan.num_steps,
        order_errors=tuple((n, e) for n, e in zip(plan.order_steps, errors or (), strict=False) if math.isfinite(e)),
        ok=reason is None,
        reason=reason,
    )
    for grid, times_of in plan.grids.items():
        predictions = plan.predictions_on(name, path_name, grid)
        if bench is None:
            yield from (replace(blank, grid=grid, prediction=prediction) for prediction in predictions)
        elif predictions:
            yield from _of_grid(sampler, bench, replace(blank, grid=grid), times_of, predictions)


def _examine(
    name: str, sampler: Sampler, bench: Bench, order_steps: Sequence[int]
) -> tuple[float | None, list[float] | None, str | None]:
    """The measured order of a sampler on a path, the errors it is the slope of, and what is wrong with it there."""
    orders: list[float | None] = [None]
    found: list[list[float] | None] = [None]

    def measure() -> str | None:
        errors = faults.order_errors(sampler, bench, order_steps)
        orders.append(None if sampler.is_adaptive else faults.measured_order(errors, order_steps))
        found.append(errors)
        return faults.order_fault(sampler, errors, orders[-1])

    reason = (
        faults.guarded(lambda: faults.sampler_fault(sampler, bench))
        or faults.guarded(lambda: faults.ancestral_fault(name, sampler, bench.oracle.path))
        or faults.guarded(measure)
    )
    return orders[-1], found[-1], reason


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A full run: how far the points are from the truth, and how far each prediction moves them (`moved`)."""

    num_steps: int
    evaluations: int
    asked_clean: bool
    moved: tuple[float, ...]
    error: float
    mean_error: float
    variance_ratio: float
    mode_weight_error: float
    share_limit: float

    def settles(self, coarse: Outcome, floor: float) -> bool:
        """Whether this is near the truth, or nearer than a run with half the steps."""
        shares_settle = self.mode_weight_error <= max(self.share_limit, GAIN * coarse.mode_weight_error)
        return shares_settle and self.error <= max(floor, GAIN * coarse.error)


def _run(sampler: Sampler, bench: Bench, times: Tensor, predictions: Sequence[str] = ()) -> Outcome:
    """One run from t = 1 to 0 of the oracle and of every prediction on top of it."""
    num = NUM_DRAWN if sampler.stochastic else NUM_POINTS
    stride = len(bench.start) // num
    start, truth = bench.start[::stride], bench.end[::stride]
    denoise = exact.Layered(bench.oracle, num, BLOCK, predictions)
    noise = faults.noise_for(sampler, exact.Stream(0, num, BLOCK, len(predictions)))
    points = faults.arrive(sampler, denoise, denoise.layered(start), times, **noise)
    x, shares = points[:num], exact.mode_shares(truth)
    if not bool(x.isfinite().all()):
        x = torch.full_like(x, torch.nan)
    mean_error = float(((x.mean(0) - truth.mean(0)) / truth.std(0)).abs().max())
    ratio, error = faults.furthest(x.var(0) / truth.var(0)), float((x - truth).abs().mean())
    if sampler.stochastic:
        moments = faults.moment_errors(sampler, bench.oracle.path, times)
        mean_error, ratio = moments if math.isfinite(moments[0]) else (mean_error, ratio)
        error = mean_error + abs(ratio - 1)
    chance = Z * float((shares * (1 - shares) / num).sqrt().max()) if sampler.stochastic else 0.0
    return Outcome(
        num_steps=len(times) - 1,
        evaluations=len(denoise.asked),
        asked_clean=min(denoise.asked, default=1.0) <= 0,
        moved=tuple(float((points[denoise.rows(i)] - x[:BLOCK]).abs().max()) for i in range(len(predictions))),
        error=error,
        mean_error=mean_error,
        variance_ratio=ratio,
        mode_weight_error=math.nan if x.isnan().any() else float((exact.mode_shares(x) - shares).abs().max()),
        share_limit=SHARE_FLOOR + chance,
    )


def _of_grid(
    sampler: Sampler, bench: Bench, blank: Verdict, times_of: Grid, predictions: Sequence[str]
) -> Iterator[Verdict]:
    """The verdicts of one sampler on one path and grid, by prediction."""
    regular = [prediction for prediction in predictions if prediction in bench.regular]
    runs: list[Outcome] = []

    def fault_of_run() -> str | None:
        times = times_of(bench.path, blank.num_steps)
        fault = faults.grid_fault(times, blank.num_steps)
        if fault is not None:
            return f"grid {blank.grid!r}: {fault}"
        runs.append(_run(sampler, bench, times_of(bench.path, blank.num_steps // 2)))
        runs.append(_run(sampler, bench, times, regular))
        return _run_fault(sampler, bench, runs[1]) or (
            None if blank.reason else _limit_fault(sampler, bench, times_of, *runs)
        )

    reason = faults.guarded(fault_of_run)
    found = replace(blank, ok=blank.ok and reason is None, reason=blank.reason or reason)
    if len(runs) == 2:
        found = replace(found, **_numbers(*runs))
    for prediction in predictions:
        fault = bench.pair_faults[prediction]
        row = replace(found, prediction=prediction)
        if prediction not in regular:
            row = replace(_without_run(row), refused=fault is None)
        elif len(runs) == 2:
            moved = runs[1].moved[regular.index(prediction)]
            row, fault = replace(row, prediction_error=_number(moved)), _moved_fault(moved, runs[1])
        if fault is not None:
            fault = f"prediction {prediction!r}: {fault}"
        yield replace(row, ok=row.ok and fault is None, reason=row.reason or fault)


def _without_run(row: Verdict) -> Verdict:
    """The row of a pair that was not run."""
    return replace(
        row, evaluations=0, error=None, rate=None, mean_error=None, variance_ratio=None, mode_weight_error=None
    )


def _moved_fault(moved: float, run: Outcome) -> str | None:
    """A prediction that does more than round."""
    if moved <= SAME:
        return None
    return f"the result moves by {moved:.2g}" if math.isfinite(moved) else f"the result is not finite{_asked(run)}"


def _asked(run: Outcome) -> str:
    return "; the sampler asks at t = 0, where only t in (0, 1] is allowed" if run.asked_clean else ""


def _run_fault(sampler: Sampler, bench: Bench, run: Outcome) -> str | None:
    """Results that are no numbers, or another cost than the declared one (a step out of infinite speed may cost
    less)."""
    first = bench.path.at(1.0)
    regular = bool((first.alpha_dot.isfinite() & first.sigma_dot.isfinite()).all())
    if not math.isfinite(run.error):
        return f"its result with {run.num_steps} steps is not finite{_asked(run)}"
    declared = sampler.evaluations(run.num_steps)
    if declared is None:
        return None
    if run.evaluations > declared or (run.evaluations < declared and regular):
        return f"{declared} evaluations are declared for {run.num_steps} steps, {run.evaluations} are made"
    return None


def _limit_fault(sampler: Sampler, bench: Bench, times_of: Grid, coarse: Outcome, fine: Outcome) -> str | None:
    """A run that does not tend to the truth, however often its steps are doubled."""
    floor, first = MOMENT_FLOOR if sampler.stochastic else FLOOR, coarse
    for _ in range(DOUBLINGS):
        if fine.settles(coarse, floor):
            return None
        coarse, fine = fine, _run(sampler, bench, times_of(bench.path, 2 * fine.num_steps))
    if fine.settles(coarse, floor):
        return None
    return (
        f"it does not tend to the truth: error {first.error:.2g} with {first.num_steps} steps, {fine.error:.2g} with "
        f"{fine.num_steps} (shares of the modes {first.mode_weight_error:.2g} and {fine.mode_weight_error:.2g} off)"
    )


def _numbers(coarse: Outcome, fine: Outcome) -> dict[str, Any]:
    """The fields of a verdict that a pair of runs gives."""
    told = 0 < fine.error < math.inf and 0 < coarse.error < math.inf
    return {
        "evaluations": fine.evaluations,
        "error": _number(fine.error),
        "rate": _number(math.log2(coarse.error / fine.error)) if told else None,
        "mean_error": _number(fine.mean_error),
        "variance_ratio": _number(fine.variance_ratio),
        "mode_weight_error": _number(fine.mode_weight_error),
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
