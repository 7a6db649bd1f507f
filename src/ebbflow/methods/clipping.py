"""Clipping x0: a denoiser that never leaves the range of the data."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ebbflow.core.predictions import Estimate
from ebbflow.methods.denoise import Wrapped


@dataclass(frozen=True, kw_only=True)
class Clipped(Wrapped):
    """x0 limited to [-limit, limit], and the eps that goes with it: (x_t - alpha x0) / sigma (Ho et al., 2020,
    2006.11239).

    Harmless for an exact model of bounded data, whose x0 is inside already. It mends a net whose x0 runs away where
    alpha is small; but a step is then no longer smooth in x_t, so orders of accuracy and inversion are lost.

    Args:
        inner: the denoiser; its one evaluation is the cost.
        limit: above 0.
    """

    limit: float = 1.0

    def __post_init__(self) -> None:
        if not self.limit > 0:
            raise ValueError(f"`limit` must be above 0, got {self.limit}.")

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        estimate = self.inner(x_t, t)
        return estimate.with_x0(estimate.x0.clamp(-self.limit, self.limit), x_t, self.path.at(t))
