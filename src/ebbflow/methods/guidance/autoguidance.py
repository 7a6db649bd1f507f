"""Autoguidance: away from a worse version of the same model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from ebbflow.core.condition import Cond
from ebbflow.core.predictions import Estimate
from ebbflow.methods.denoise import Denoiser, Wrapped, conditional, takes_condition
from ebbflow.methods.guidance.branches import Interval, check_interval, combine, inside


@dataclass(frozen=True, kw_only=True)
class Autoguidance(Wrapped):
    """bad + w (good - bad), both given the same condition (Karras et al., 2024, eq. 4, 2406.02507).

    w = 1 is the good model and w = 0 the bad one, each at the cost of one evaluation; any other w costs one of each. A
    bad model that takes no condition is used without: with an unconditional one this is classifier-free guidance with
    two nets.

    Args:
        inner: the good model.
        bad: a smaller or less trained model of the same data, on the same path.
        guidance: w.
        interval: (low, high) log-SNR window inside which w acts; outside, the good model alone.

    Raises:
        ValueError: the two are on different paths.
    """

    bad: Denoiser
    guidance: float
    interval: Interval = None

    def __post_init__(self) -> None:
        check_interval(self.interval)
        if self.inner.path != self.bad.path:
            raise ValueError(
                f"autoguidance needs two models on the same path, got {self.inner.path} and {self.bad.path}. Train the "
                "guiding model on the path of the other."
            )

    def given(self, cond: Cond | None) -> Self:
        bad = conditional(self.bad).given(cond) if takes_condition(self.bad) else self.bad
        return replace(self, inner=conditional(self.inner).given(cond), bad=bad)

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        active = inside(self.path, t, self.interval)
        if self.guidance == 1 or active.nowhere:
            return self.inner(x_t, t)
        if self.guidance == 0 and active.everywhere:
            return self.bad(x_t, t)
        good = self.inner(x_t, t)
        return active.pick(combine(self.bad(x_t, t), good, self.guidance), good)
