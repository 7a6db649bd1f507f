"""CFG-Zero*: the unconditional branch scaled to fit, and no movement in the first steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ebbflow.core.paths import Path
from ebbflow.core.predictions import Estimate
from ebbflow.core.shape import as_float64, per_sample
from ebbflow.methods.guidance.branches import Branches
from ebbflow.values import Share, check_fields


@dataclass(frozen=True, kw_only=True)
class CFGZeroStar(Branches):
    """s u + w (c - s u) in the space of velocities, s = <c, u> / ||u||^2 for each sample over all its elements, and
    velocity 0 where t > `zero_above` (Fan et al., 2025, 2503.18886).

    The velocity is alpha' x0 + sigma' eps of this path, whatever the net predicts; s does not change when the path runs
    faster. w = 1 is the conditional model at one evaluation; every other w, 0 too, costs two. The paper's "first K of N
    steps" on a uniform grid is zero_above = 1 - K/N, and such a step costs nothing.

    Args:
        zero_above: t in [0, 1] above which nothing moves; None for never.
    """

    zero_above: Share | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, "zero_above")

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        if self.zero_above is not None and bool((as_float64(t) > self.zero_above).all()):
            return standing_still(self.path, x_t, t)
        return super().__call__(x_t, t)

    def guided(self, u: Estimate, c: Estimate, x_t: Tensor, t: float | Tensor) -> Estimate:
        alpha, sigma, alpha_dot, sigma_dot, determinant = _rates(self.path, x_t, t)
        v_u, v_c = (alpha_dot * e.x0 + sigma_dot * e.eps for e in (u, c))
        scale = per_sample((v_c * v_u).flatten(1).sum(1) / v_u.square().flatten(1).sum(1).clamp(min=1e-12), x_t)
        change = (1 - self.guidance) * (scale * v_u - v_c) / determinant
        return replace(c, x0=c.x0 - sigma * change, eps=c.eps + alpha * change)


def standing_still(path: Path, x_t: Tensor, t: float | Tensor) -> Estimate:
    """The estimate whose velocity at (x_t, t) is 0: x0 = sigma' x_t / D, eps = -alpha' x_t / D."""
    _, _, alpha_dot, sigma_dot, determinant = _rates(path, x_t, t)
    return Estimate(x0=sigma_dot / determinant * x_t, eps=-alpha_dot / determinant * x_t)


def _rates(path: Path, x: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """alpha, sigma, alpha', sigma' and D with the rates divided by the larger one, so that they stay finite where the
    path starts at infinite speed; a rate without a value beside an infinite one is next to nothing."""
    c = path.at(t)
    rates = [rate.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf) for rate in (c.alpha_dot, c.sigma_dot)]
    fastest = torch.maximum(*(rate.abs() for rate in rates))
    alpha_dot, sigma_dot = (torch.where(rate.isinf(), rate.sign(), rate / fastest) for rate in rates)
    determinant = c.alpha * sigma_dot - alpha_dot * c.sigma
    alpha, sigma, alpha_dot, sigma_dot, determinant = (
        per_sample(k, x) for k in (c.alpha, c.sigma, alpha_dot, sigma_dot, determinant)
    )
    return alpha, sigma, alpha_dot, sigma_dot, determinant
