"""Clipping x0: a denoiser that never leaves the range of the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ebbflow.core.paths import Path
from ebbflow.core.predictions import Estimate
from ebbflow.methods.denoise import Denoiser
from ebbflow.methods.guidance import with_x0
from ebbflow.nets import Wanted


@dataclass(frozen=True, kw_only=True)
class Clipped(Denoiser):
    """x0 limited to [-limit, limit], and the eps that goes with it: (x_t - alpha x0) / sigma (Ho et al., 2020,
    2006.11239).

    Harmless for an exact model of bounded data, whose x0 is inside already. It mends a net whose x0 runs away where
    alpha is small; but a step is then no longer smooth in x_t, so orders of accuracy and inversion are lost.

    Args:
        inner: the denoiser; its one evaluation is the cost.
        limit: above 0.
    """

    inner: Denoiser
    limit: float = 1.0

    def __post_init__(self) -> None:
        if not self.limit > 0:
            raise ValueError(f"`limit` must be above 0, got {self.limit}.")

    @property
    def path(self) -> Path:  # type: ignore[override]
        """The inner denoiser's path."""
        return self.inner.path

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        estimate = self.inner(x_t, t)
        return with_x0(self, estimate, estimate.x0.clamp(-self.limit, self.limit), x_t, t)

    def given(self, cond: Tensor | None) -> Clipped:
        return replace(self, inner=self.inner.given(cond))

    def null(self, num: int) -> Tensor:
        return self.inner.null(num)

    def read(self, wanted: Sequence[Wanted]) -> Tensor:
        return self.inner.read(wanted)
