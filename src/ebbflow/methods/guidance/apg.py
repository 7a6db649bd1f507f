"""Adaptive projected guidance: the part of c - u along c, which only saturates, is turned down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor

from ebbflow.core.predictions import Estimate
from ebbflow.core.shape import per_sample
from ebbflow.methods.guidance.branches import Branches
from ebbflow.values import Positive, check_fields


@dataclass(frozen=True, kw_only=True)
class APG(Branches):
    """c + (w - 1) (orthogonal + eta parallel) in the space of x0, where c - u is split along and across c, over all
    elements of each sample (Sadat et al., 2024, algorithm 1, 2410.02416).

    Without the paper's momentum, so that it stays a function of (x_t, t): nothing is carried from one step, or one run,
    to the next. eta = 1 without a threshold is the linear rule. w = 1 is the conditional model at one evaluation; every
    other w costs two.

    Args:
        eta: how much of the parallel part is kept, at least 0.
        norm_threshold: c - u is shortened to this Euclidean norm where it is longer; None for never.
    """

    eta: Annotated[float, Interval(ge=0, le=1e6)] = 0.0
    norm_threshold: Positive | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, "eta", "norm_threshold")

    def guided(self, u: Estimate, c: Estimate, x_t: Tensor, t: float | Tensor) -> Estimate:
        difference = c.x0 - u.x0
        if self.norm_threshold is not None:
            difference = difference * (self.norm_threshold / _norm(difference)).clamp(max=1)
        parallel, orthogonal = split(difference, c.x0)
        shift = (self.guidance - 1) * (orthogonal + self.eta * parallel)
        return c.with_x0(c.x0 + shift, x_t, self.path.at(t))


def split(x: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
    """The parts of `x` parallel and orthogonal to `along`, sample by sample over all elements."""
    unit = along / _norm(along)
    parallel = per_sample((x * unit).flatten(1).sum(1), x) * unit
    return parallel, x - parallel


def _norm(x: Tensor) -> Tensor:
    return per_sample(torch.linalg.vector_norm(x.flatten(1), dim=1).clamp(min=torch.finfo(x.dtype).tiny), x)
