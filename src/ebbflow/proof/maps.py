"""Verification of maps: every objective of `MAPS` at the exact map of data whose law is known.

A row is an objective on a path, in one prediction. It is `ok` when all of this holds of the exact map:

- its loss on Gaussian data is the floor that theory gives it: 0 for `midpoint` and `lsd`; for `mean_flow` the
  ordinary loss times (dX/dx)^2, or times skip^2 with the model's own tangent;
- its gradient is zero: the mean error at x_t is, wherever t and s lie. `consistency` with a finite ratio r is biased
  and must show it: its one-hop error falls fourfold with each halving of r;
- one jump from t = 1 to 0 makes the exact sample of a mixture, and two jumps make the same.

Expectations are quadratures: the error is linear in x0 and eps, so three nodes of each are exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from ebbflow.core.paths import Path
from ebbflow.core.predictions import Estimate, Prediction, prediction_of
from ebbflow.core.shape import per_sample
from ebbflow.methods.denoise import FlowMap
from ebbflow.methods.maps.forms import check_form, unit_of
from ebbflow.methods.maps.kinds import LSD, Consistency, Jumps, MapKind, MeanFlow
from ebbflow.methods.oracles import Gaussian
from ebbflow.proof import exact, faults

F64 = torch.float64
MEAN, STD = 0.4, 0.6
PAIRS = ((0.95, 0.02), (0.9, 0.45), (0.6, 0.1), (0.5, 0.48), (0.3, 0.05))  # t and s of the jumps looked at
RATIOS = (0.2, 0.1, 0.05)
CLOSE = 1e-6  # of what is exact but for rounding and for interpolated tables
FALL = (3.0, 5.3)  # what a halving of r may divide the one-hop error by; 4 in the limit
NUM_POINTS = 64


@dataclass(frozen=True, kw_only=True)
class MapVerdict:
    """What was found of one objective on one path, in one prediction.

    Args:
        loss, floor: of the exact map, in units of the net's output, and what theory says.
        mean_error: the largest mean error at an x_t; 0 makes the gradient zero.
        falls_by: what a halving of the ratio of `consistency` divides its one-hop error by; None for the others.
        one_jump: the mean distance of one jump from t = 1 to 0 from the exact sample.
        two_jumps: that of two jumps from one.
        refused: no map can be learned in this prediction on this path, and it was refused.
        reason: the first thing found wrong; None when ok.
    """

    objective: str
    path: str
    prediction: str
    loss: float | None = None
    floor: float | None = None
    mean_error: float | None = None
    falls_by: float | None = None
    one_jump: float | None = None
    two_jumps: float | None = None
    refused: bool = False
    ok: bool = True
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """An exact map as a net would answer for it, in a prediction."""

    oracle: FlowMap
    prediction: Prediction

    def output(self, x_t: Tensor, t: float | Tensor, cond: Any, s: float | Tensor | None = None) -> Tensor:
        """a x0 + b eps of the pair that a call or a jump answers."""
        known = self.oracle(x_t, t) if s is None else self.oracle.jump(x_t, t, s)
        a, b = self.prediction(self.oracle.path.at(t))
        return per_sample(a, x_t) * known.x0 + per_sample(b, x_t) * known.eps


def map_table(rows: Sequence[MapVerdict]) -> list[list[str]]:
    """A header and one line an objective: the worst over paths and predictions of what was found."""
    lines = [["at the exact map", "loss - floor", "mean error", "halving r", "one jump off", "two from one", "rows ok"]]
    for name in dict.fromkeys(row.objective for row in rows):
        own = [row for row in rows if row.objective == name]
        run = [row for row in own if row.loss is not None and row.floor is not None]
        biased = any(row.falls_by is not None for row in run)
        lines.append(
            [
                name,
                "biased" if biased else _worst([abs((row.loss or 0) - (row.floor or 0)) for row in run]),
                "biased" if biased else _worst([row.mean_error for row in run]),
                _range([row.falls_by for row in run]),
                _worst([row.one_jump for row in run]),
                _worst([row.two_jumps for row in run]),
                f"{sum(row.ok for row in own)}/{len(own)}",
            ]
        )
    return lines


def maps_summary(rows: Sequence[MapVerdict]) -> str:
    """One sentence about all rows."""
    refused = sum(row.refused for row in rows)
    return f"{len(rows)} objectives on paths, {sum(row.ok for row in rows)} ok ({refused} refused, as they must be)."


def _worst(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{max(known):.1e}" if known else "-"


def _range(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"/ {min(known):.1f} to {max(known):.1f}" if known else "-"


def verify_maps(
    objectives: Mapping[str, MapKind], paths: Mapping[str, Path], predictions: tuple[str, ...]
) -> Iterator[MapVerdict]:
    """One verdict a combination; whatever an objective raises becomes its reason."""
    for (path_name, path), prediction in product(paths.items(), predictions):
        if faults.pair_fault(prediction, path) or faults.is_singular(prediction, path):
            continue
        ends = _ends(path)
        for name, kind in objectives.items():
            blank = MapVerdict(objective=name, path=path_name, prediction=prediction)
            try:
                check_form(prediction, path)
            except ValueError:
                yield replace(blank, refused=True)
                continue
            yield _verdict(blank, kind, path, ends)


def _verdict(blank: MapVerdict, kind: MapKind, path: Path, ends: tuple[float, float]) -> MapVerdict:
    prediction, rows = prediction_of(blank.prediction), [blank]

    def measure() -> str | None:
        kind_ = replace(kind, derivative="jvp") if isinstance(kind, LSD | MeanFlow) else kind
        loss, floor, mean = _at_the_exact_map(kind_, path, prediction)
        falls = _fall(path, prediction) if isinstance(kind, Consistency) else None
        rows.append(
            replace(blank, loss=loss, floor=floor, mean_error=mean, falls_by=falls, one_jump=ends[0], two_jumps=ends[1])
        )
        return _fault(rows[-1], kind)

    reason = faults.guarded(measure)
    return replace(rows[-1], ok=reason is None, reason=reason)


def _fault(row: MapVerdict, kind: MapKind) -> str | None:
    assert row.loss is not None and row.floor is not None and row.mean_error is not None
    assert row.one_jump is not None and row.two_jumps is not None
    if not isinstance(kind, Consistency):
        if not abs(row.loss - row.floor) <= CLOSE * max(1, row.floor):
            return f"the loss of the exact map is {row.loss:.3g}, its floor {row.floor:.3g}"
        if not row.mean_error <= CLOSE:
            return f"the exact map is no stationary point: its mean error is {row.mean_error:.2g}"
    elif row.falls_by is None or not FALL[0] <= row.falls_by <= FALL[1]:
        return f"halving the ratio divides the one-hop error by {row.falls_by}, 4 is its order"
    if not max(row.one_jump, row.two_jumps) <= CLOSE:
        return f"one jump is {row.one_jump:.2g} off, and two {row.two_jumps:.2g} off one"
    return None


def _ends(path: Path) -> tuple[float, float]:
    """How far one jump from t = 1 is from the exact sample of the mixture, and two from one."""
    u, oracle = exact.lattice(NUM_POINTS), exact.mixture(path)
    start, truth = (exact.quantiles(path, t, u) for t in (1.0, 0.0))
    once = oracle.jump(start, 1.0, 0.0).x0
    half = oracle.jump(start, 1.0, 0.5)
    twice = oracle.jump(path.mix(half.x0, half.eps, 0.5), 0.5, 0.0).x0
    return float((once - truth).abs().mean()), float((twice - once).abs().mean())


def _nodes() -> tuple[Tensor, Tensor, Tensor]:
    """Three nodes of a normal law a coordinate: x0 and eps, (9, 1), and their weights, (9,)."""
    z, w = torch.tensor([-math.sqrt(3), 0.0, math.sqrt(3)], dtype=F64), torch.tensor([1 / 6, 2 / 3, 1 / 6], dtype=F64)
    first, second = torch.cartesian_prod(z, z).T
    return (MEAN + STD * first)[:, None], second[:, None], torch.cartesian_prod(w, w).prod(1)


def _at_the_exact_map(kind: MapKind, path: Path, prediction: Prediction) -> tuple[float, float, float]:
    """Mean loss and floor over `PAIRS`, and the largest mean error at an x_t."""
    x0, eps, weights = _nodes()
    losses, floors, means = [], [], []
    for t, s in PAIRS:
        errors = kind.errors(_jumps(path, prediction, path.mix(x0, eps, t), x0, eps, t, s))
        losses.append(float(weights @ errors[:, 0].square()))
        floors.append(_floor(kind, path, prediction, t, s))
        means.append(_mean_error(kind, path, prediction, t, s))
    return sum(losses) / len(losses), sum(floors) / len(floors), max(means)


def _mean_error(kind: MapKind, path: Path, prediction: Prediction, t: float, s: float) -> float:
    """The size of E[error | x_t] at two x_t, over the law of x0 given x_t."""
    c = path.at(t)
    spread = (c.alpha * STD) ** 2 + c.sigma**2
    z, weights = torch.tensor([-math.sqrt(3), 0.0, math.sqrt(3)], dtype=F64), torch.tensor([1, 4, 1], dtype=F64) / 6
    found = []
    for level in (-0.7, 1.3):
        x = c.alpha * MEAN + level * spread.sqrt()
        centre = MEAN + c.alpha * STD**2 / spread * (x - c.alpha * MEAN)
        x0 = (centre + STD * c.sigma / spread.sqrt() * z)[:, None]
        eps = (x - c.alpha * x0) / c.sigma
        errors = kind.errors(_jumps(path, prediction, x.repeat(3, 1), x0, eps, t, s))
        found.append(abs(float(weights @ errors[:, 0])))
    return max(found)


def _jumps(path: Path, prediction: Prediction, x_t: Tensor, x0: Tensor, eps: Tensor, t: float, s: float) -> Jumps:
    spoken, times = Spoken(oracle=Gaussian(MEAN, STD, path), prediction=prediction), torch.ones(len(x_t), dtype=F64)
    return Jumps(
        output=lambda x, t, s: spoken.output(x, t, None, s),
        path=path,
        prediction=prediction,
        x_t=x_t,
        t=t * times,
        s=s * times,
        pair=Estimate(x0=x0, eps=eps),
        cut=0.3 * times,
        progress=0.5,
    )


def _floor(kind: MapKind, path: Path, prediction: Prediction, t: float, s: float) -> float:
    """The loss that theory leaves the exact map of Gaussian data."""
    if not isinstance(kind, MeanFlow):
        return 0.0
    c, there = path.at(t), path.at(s)
    spread, spread_s = ((k.alpha * STD) ** 2 + k.sigma**2 for k in (c, there))
    at, to = (torch.tensor([k], dtype=F64) for k in (t, s))
    ordinary = float(unit_of(prediction, path, at) ** 2 * c.determinant**2) * STD**2 / float(spread)
    if kind.tangent == "data":
        return ordinary * float(spread_s / spread)
    skip, _ = _jumps(path, prediction, at[:, None], at[:, None], at[:, None], t, s).form(at, to)
    return ordinary * float(skip) ** 2


def _fall(path: Path, prediction: Prediction) -> float:
    """What halving r divides the one-hop error of `consistency` by: the mean error at an x_t, in units of the state."""
    sizes = [ratio * _mean_error(Consistency(first=ratio, last=ratio), path, prediction, 0.6, 0.1) for ratio in RATIOS]
    return sizes[-2] / sizes[-1]
