"""Classifier-free guidance: the linear rule."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ebbflow.core.predictions import Estimate
from ebbflow.methods.guidance.branches import Branches, combine


@dataclass(frozen=True, kw_only=True)
class ClassifierFree(Branches):
    """u + w (c - u), c given the condition, u given none or the negative condition (Ho & Salimans, 2022, 2207.12598,
    with w counted from u).

    w = 1 is the conditional model and w = 0 the unconditional one, each at the cost of one evaluation; any other w
    costs two. It does not sample the tilted density p(x)^{1-w} p(x|c)^w, which is no path of the forward process. The
    arguments are those of `Branches`.
    """

    @property
    def unconditional_at_zero(self) -> bool:
        return True

    def guided(self, u: Estimate, c: Estimate, x_t: Tensor, t: float | Tensor) -> Estimate:
        return combine(u, c, self.guidance)
