"""Predictions: what a net may output. Every one is a pair of coefficients (a, b): target = a x0 + b eps.

Together with x_t = alpha x0 + sigma eps this makes two linear equations for x0 and eps, with determinant d = a sigma -
b alpha:

    x0 = (sigma out - b x_t) / d        eps = (a x_t - alpha out) / d

so there is one row a prediction and no pairwise conversion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ebbflow.core.paths import PATHS, Coefficients, Path
from ebbflow.core.shape import expand
from ebbflow.errors import choose


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a denoiser knows at x_t: the conditional means of x0 and eps, shape (B, *dims), with alpha x0 + sigma eps =
    x_t.

    Args:
        x0_variance: Var[x0 | x_t] per element where it is known (oracles), for the optimal ancestral variance.
        log_variance_fraction: nu in [0, 1] of a net that learns its variance: log var = nu log large + (1 - nu) log
            small.
    """

    x0: Tensor
    eps: Tensor
    x0_variance: Tensor | None = None
    log_variance_fraction: Tensor | None = None


Pair = tuple[Tensor, Tensor]


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


def edm(c: Coefficients, sigma_data: float = 0.5) -> Pair:
    """The unit-variance target of Karras et al. (2022, table 1, 2206.00364) for data of standard deviation s =
    `sigma_data`.

    (sigma / (s sqrt V), -alpha s / sqrt V) with V = alpha^2 s^2 + sigma^2.
    """
    root = torch.sqrt((c.alpha * sigma_data) ** 2 + c.sigma**2)
    return c.sigma / (sigma_data * root), -c.alpha * sigma_data / root


PREDICTIONS: dict[str, Callable[[Coefficients], Pair]] = {
    "eps": eps,
    "x0": x0,
    "v": v,
    "velocity": velocity,
    "score": score,
    "edm": edm,
}


def solve(prediction: str, out: Tensor, x_t: Tensor, t: float | Tensor, path: Path) -> Estimate:
    """x0 and eps from a net's output, by the two equations above.

    Args:
        prediction: a name of `PREDICTIONS`.
        out: a x0 + b eps as the net sees it, shape (B, *dims).
        x_t: the noisy state, same shape.
        t: a number, or a tensor of shape () or (B,), in (0, 1].

    Raises:
        ConfigError: unknown prediction.
    """
    c = path.at(t)
    a, b = choose(PREDICTIONS, prediction, "prediction")(c)
    d = a * c.sigma - b * c.alpha
    return Estimate(
        x0=expand(c.sigma / d, x_t) * out - expand(b / d, x_t) * x_t,
        eps=expand(a / d, x_t) * x_t - expand(c.alpha / d, x_t) * out,
    )


def path_name(path: Path) -> str:
    """The registry name of a path's kind, or its class name for a path from elsewhere."""
    return next((name for name, kind in PATHS.items() if kind is type(path)), type(path).__name__)


def check_pair(prediction: str, path: Path) -> None:
    """Refuse a prediction that cannot recover x0 at t = 1, where sampling starts.

    Raises:
        ValueError: d = 0 (eps and score where alpha = 0) or an unbounded target (velocity where alpha' is infinite);
            the message names the cure.
    """
    reason = _obstacle(prediction, path)
    if reason is None:
        return
    cures = [name for name in PREDICTIONS if _obstacle(name, path) is None]
    raise ValueError(
        f"prediction {prediction!r} {reason}; path {path_name(path)!r} reaches it at t = 1. "
        f"Use {', '.join(cures[:-1])} or {cures[-1]}."
    )


def _obstacle(prediction: str, path: Path) -> str | None:
    """Why a prediction does not recover x0 at t = 1, or None where it does."""
    c = path.at(1.0)
    a, b = choose(PREDICTIONS, prediction, "prediction")(c)
    d = a * c.sigma - b * c.alpha
    if not torch.isfinite(d):
        return "has an unbounded target where the path moves at infinite speed"
    return "cannot recover x0 where alpha = 0" if d == 0 else None
