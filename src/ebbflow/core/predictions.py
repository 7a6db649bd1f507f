"""Predictions: what a net may output. Every one is a pair of coefficients (a, b): target = a x0 + b eps.

Together with x_t = alpha x0 + sigma eps this makes two linear equations for x0 and eps, with determinant d = a sigma -
b alpha:

    x0 = (sigma out - b x_t) / d        eps = (a x_t - alpha out) / d

so there is one row a prediction and no pairwise conversion.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor

from ebbflow.core.coefficients import Coefficients
from ebbflow.core.entries import Choice, entry, spelt
from ebbflow.core.paths import PATHS, Path
from ebbflow.core.shape import per_sample, weighted
from ebbflow.values import Checked


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a denoiser knows at x_t: the conditional means of x0 and eps, shape (B, *dims), with alpha x0 + sigma eps =
    x_t.

    What `solve` gives at a single time works x0 and eps out when they are read, so a net must not write over an output
    that it has handed out.

    Args:
        x0_variance: Var[x0 | x_t] per element where it is known (oracles), for the optimal ancestral variance.
        log_variance_fraction: nu in [0, 1] of a net that learns its variance: log var = nu log large + (1 - nu) log
            small.
    """

    x0: Tensor
    eps: Tensor
    x0_variance: Tensor | None = None
    log_variance_fraction: Tensor | None = None

    def with_x0(self, x0: Tensor, x_t: Tensor, c: Coefficients) -> Estimate:
        """This estimate with another x0, and the eps that goes with it at `c`: (x_t - alpha x0) / sigma."""
        return replace(self, x0=x0, eps=(x_t - per_sample(c.alpha, x_t) * x0) / per_sample(c.sigma, x_t))

    def mixed(self, first: float, second: float) -> Tensor:
        """first x0 + second eps."""
        return weighted(first, self.x0, second, self.eps)

    def towards(self, other: Estimate, w: float) -> Estimate:
        """x0 and eps moved by w of the way to another estimate's; the rest is the other's."""
        return replace(other, x0=torch.lerp(self.x0, other.x0, w), eps=torch.lerp(self.eps, other.eps, w))

    def each(self, change: Callable[[Tensor], Tensor]) -> Estimate:
        """This estimate with every tensor that it holds changed alike: cut, cast or detached."""
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: change(values) for name, values in held.items() if values is not None})


Solution = tuple[float, float, float, float]


class _Solved(Estimate):
    """An estimate of a net's output at a single time, whose x0 and eps are worked out when they are read: a mix of the
    two is one mix of the output and x_t, and costs as little as x0 alone."""

    _parts: tuple[Tensor, Tensor, Solution] | None = None

    @classmethod
    def of(cls, out: Tensor, x_t: Tensor, solution: Solution) -> _Solved:
        """The estimate that (`out`, `x_t`) has by `solution`."""
        made = object.__new__(cls)
        made.__dict__["_parts"] = out, x_t, solution
        return made

    def __getattr__(self, name: str) -> Tensor:
        if self._parts is None or name not in ("x0", "eps"):
            raise AttributeError(name)
        value = self.mixed(1, 0) if name == "x0" else self.mixed(0, 1)
        self.__dict__[name] = value
        return value

    def mixed(self, first: float, second: float) -> Tensor:
        if self._parts is None:
            return super().mixed(first, second)
        out, x_t, (x0_out, x0_x, eps_out, eps_x) = self._parts
        return weighted(first * x0_out + second * eps_out, out, first * x0_x + second * eps_x, x_t)

    def towards(self, other: Estimate, w: float) -> Estimate:
        theirs = other._parts if isinstance(other, _Solved) else None
        if self._parts is None or theirs is None or self._parts[2] != theirs[2]:
            return super().towards(other, w)
        (out, x_t, solution), (other_out, other_x, _) = self._parts, theirs
        x_t = x_t if other_x is x_t else torch.lerp(x_t, other_x, w)
        return _Solved.of(torch.lerp(out, other_out, w), x_t, solution)

    def each(self, change: Callable[[Tensor], Tensor]) -> Estimate:
        if self._parts is None:
            return super().each(change)
        out, x_t, solution = self._parts
        return _Solved.of(change(out), change(x_t), solution)


Pair = tuple[Tensor, Tensor]
Prediction = Callable[[Coefficients], Pair]


def eps(c: Coefficients) -> Pair:
    """The noise itself: (0, 1). Ho et al. (2020), 2006.11239."""
    return torch.zeros_like(c.alpha), torch.ones_like(c.alpha)


def x0(c: Coefficients) -> Pair:
    """The data itself: (1, 0)."""
    return torch.ones_like(c.alpha), torch.zeros_like(c.alpha)


def v(c: Coefficients) -> Pair:
    """v = alpha eps - sigma x0: (-sigma, alpha). Salimans & Ho (2022), 2202.00512; the flow velocity only on the cosine
    path, up to pi/2."""
    return -c.sigma, c.alpha


def velocity(c: Coefficients) -> Pair:
    """dx_t/dt = alpha' x0 + sigma' eps: (alpha', sigma'); eps - x0 on the flow path. Liu et al. (2022), 2209.03003."""
    return c.alpha_dot, c.sigma_dot


def score(c: Coefficients) -> Pair:
    """grad log p(x_t | x0) = -eps / sigma: (0, -1/sigma). Song et al. (2020), 2011.13456."""
    return torch.zeros_like(c.alpha), -1 / c.sigma


@dataclass(frozen=True, kw_only=True)
class EDM(Checked):
    """The unit-variance target of Karras et al. (2022, table 1, 2206.00364) for data of standard deviation s =
    `sigma_data`: (sigma / (s sqrt V), -alpha s / sqrt V) with V = alpha^2 s^2 + sigma^2.

    Args:
        sigma_data: s above 0; 0.5 suits images in [-1, 1], 1 suits latents.
    """

    sigma_data: Annotated[float, Interval(ge=1e-6, le=1e6)] = 0.5

    def __call__(self, c: Coefficients) -> Pair:
        s = self.sigma_data
        root = torch.sqrt((c.alpha * s) ** 2 + c.sigma**2)
        return c.sigma / (s * root), -c.alpha * s / root


PREDICTIONS: dict[str, Prediction] = {
    "eps": eps,
    "x0": x0,
    "v": v,
    "velocity": velocity,
    "score": score,
    "edm": EDM(),
}


def prediction_of(given: Choice | Prediction) -> Prediction:
    """The prediction called `given`, or with options, or itself; see `entry`."""
    return entry(PREDICTIONS, given, "prediction")


def solve(prediction: Choice | Prediction, out: Tensor, x_t: Tensor, t: float | Tensor, path: Path) -> Estimate:
    """x0 and eps from a net's output, by the two equations above.

    Args:
        prediction: a name of `PREDICTIONS`, a name with options, or a function of coefficients that gives (a, b).
        out: a x0 + b eps as the net sees it, shape (B, *dims).
        x_t: the noisy state, same shape.
        t: a number, or a tensor of shape () or (B,), in (0, 1].

    Raises:
        ConfigError: unknown prediction.
    """
    c, chosen = path.at(t), prediction_of(prediction)
    if not isinstance(t, Tensor):
        found = _Solved.of(out, x_t, _solution(chosen, c))
        return Estimate(x0=found.x0, eps=found.eps) if torch.is_grad_enabled() or x_t.requires_grad else found
    a, b = chosen(c)
    d = a * c.sigma - b * c.alpha
    return Estimate(
        x0=per_sample(c.sigma / d, x_t) * out - per_sample(b / d, x_t) * x_t,
        eps=per_sample(a / d, x_t) * x_t - per_sample(c.alpha / d, x_t) * out,
    )


def _solution(prediction: Prediction, c: Coefficients) -> Solution:
    """What the output and x_t weigh in x0, and what they weigh in eps, at a single time; remembered with it."""
    if prediction not in c.derived:
        a, b = prediction(c)
        d = a * c.sigma - b * c.alpha
        c.derived[prediction] = tuple(float(k) for k in (c.sigma / d, -b / d, -c.alpha / d, a / d))
    found: Solution = c.derived[prediction]
    return found


def path_name(path: Path) -> str:
    """The registry name of a path's kind, or its class name for a path from elsewhere."""
    return next((name for name, kind in PATHS.items() if kind is type(path)), type(path).__name__)


def check_pair(prediction: Choice | Prediction, path: Path) -> None:
    """Refuse a prediction that cannot recover x0 at t = 1, where sampling starts.

    Raises:
        ValueError: d = 0 (eps and score where alpha = 0) or an unbounded target (velocity where alpha' is infinite);
            the message names the cure; or a path that is none.
    """
    if not isinstance(path, Path):
        raise ValueError(f"a path is an object such as PATHS['flow'](), got {path!r}.")
    reason = _obstacle(prediction, path)
    if reason is None:
        return
    cures = [name for name in PREDICTIONS if _obstacle(name, path) is None]
    raise ValueError(
        f"prediction {spelt(prediction)!r} {reason}; path {path_name(path)!r} reaches it at t = 1. "
        f"Use {', '.join(cures[:-1])} or {cures[-1]}."
    )


def _obstacle(prediction: Choice | Prediction, path: Path) -> str | None:
    """Why a prediction does not recover x0 at t = 1, or None where it does."""
    c, chosen = path.at(1.0), prediction_of(prediction)
    if all(map(math.isfinite, _solution(chosen, c))):
        return None
    a, b = chosen(c)
    d = a * c.sigma - b * c.alpha
    return (
        "cannot recover x0 where alpha = 0"
        if d == 0
        else "has an unbounded target where the path moves at infinite speed"
    )
