"""What the rules share that compare a conditional with an unconditional estimate: the condition, the two evaluations,
the window."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from ebbflow.core.condition import cat_rows, expand_rows
from ebbflow.core.paths import Path
from ebbflow.core.predictions import Estimate
from ebbflow.core.shape import expand
from ebbflow.methods.denoise import Denoiser, UntrainedNullError, Wrapped

BATCH_LIMIT = 16  # up to this many samples one pass of both branches is faster than two
Interval = tuple[float, float] | None


def combine(u: Estimate, c: Estimate, guidance: float) -> Estimate:
    """u + w (c - u) in x0 and eps alike; what the branches know of their variance is the conditional branch's."""
    return replace(c, x0=u.x0 + guidance * (c.x0 - u.x0), eps=u.eps + guidance * (c.eps - u.eps))


def with_x0(denoiser: Denoiser, estimate: Estimate, x0: Tensor, x_t: Tensor, t: float | Tensor) -> Estimate:
    """`estimate` with another x0, and the eps that goes with it: eps = (x_t - alpha x0) / sigma."""
    c = denoiser.path.at(t)
    return replace(estimate, x0=x0, eps=(x_t - expand(c.alpha, x_t) * x0) / expand(c.sigma, x_t))


def moved(denoiser: Denoiser, estimate: Estimate, shift: Tensor, t: float | Tensor) -> Estimate:
    """`estimate` with `shift` added to x0, and to eps what keeps alpha x0 + sigma eps: -alpha / sigma times it."""
    c = denoiser.path.at(t)
    ratio = expand(c.alpha / c.sigma, shift)
    return replace(estimate, x0=estimate.x0 + shift, eps=estimate.eps - ratio * shift)


def check_interval(interval: Interval) -> None:
    """Raise a ValueError unless `interval` is None or (low, high) with low < high."""
    if interval is not None and not interval[0] < interval[1]:
        raise ValueError(f"`interval` must be (low, high) in log-SNR with low < high, got {interval}.")


def inside(path: Path, t: float | Tensor, interval: Interval) -> Tensor:
    """Whether each t lies in the log-SNR window, ends included; bool of the shape of t."""
    level = path.log_snr(t)
    if interval is None:
        return torch.ones_like(level, dtype=torch.bool)
    return (level >= interval[0]) & (level <= interval[1])


def pick(where: Tensor, guided: Estimate, plain: Estimate) -> Estimate:
    """`guided` for the samples for which `where`, shape () or (B,), holds, `plain` for the others."""
    if where.ndim == 0:
        return guided if bool(where) else plain
    rows = where.to(plain.x0.device).reshape(-1, *[1] * (plain.x0.ndim - 1))
    return replace(guided, x0=torch.where(rows, guided.x0, plain.x0), eps=torch.where(rows, guided.eps, plain.eps))


def takes_condition(denoiser: Denoiser) -> bool:
    """Whether a denoiser knows conditions, which is whether it has a null one."""
    try:
        denoiser.null(1)
    except UntrainedNullError:
        return True
    except ValueError:
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class Branches(Wrapped):
    """A rule on c, given the condition, and u, given none or the negative condition.

    w = 1 is the conditional model at the cost of one evaluation; any other w costs two, but for those that `_alone`
    names.

    Args:
        inner: a denoiser that takes conditions.
        guidance: w.
        cond: the bound condition, shape (B, ...).
        negative: the negative condition, shape (B, ...) or (1, ...), in the place of the null one.
        interval: (low, high) log-SNR window inside which w acts, ends included; outside, the conditional model alone
            (Kynkaanniemi et al., 2024, 2404.07724).
        rescale: phi in [0, 1] mixes in a guided x0 brought back to the standard deviation of the conditional x0 (Lin et
            al., 2023, eq. 15-16, 2305.08891), in x0 space.
        batched: both branches in one call, or in two; None chooses by batch size.
    """

    guidance: float
    cond: Any = None
    negative: Any = None
    interval: Interval = None
    rescale: float = 0.0
    batched: bool | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.rescale <= 1:
            raise ValueError(f"`rescale` must be in [0, 1], got {self.rescale}.")
        check_interval(self.interval)
        if self.negative is None:
            self.inner.null(1)
        elif not takes_condition(self.inner):
            raise ValueError("this model was trained without a condition; there is no negative one either.")

    def given(self, cond: Any) -> Self:
        return replace(self, cond=cond)

    @abstractmethod
    def guided(self, u: Estimate, c: Estimate, x_t: Tensor, t: float | Tensor) -> Estimate:
        """The rule."""

    @property
    def unconditional_at_zero(self) -> bool:
        """Whether w = 0 is u itself, so that c need not be evaluated."""
        return False

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        num = x_t.shape[0]
        cond: Any = expand_rows(self.inner.null(num) if self.cond is None else self.cond, num)
        negative: Any = expand_rows(self.inner.null(num) if self.negative is None else self.negative, num)
        active = inside(self.path, t, self.interval)
        if self.guidance == 1 or not bool(active.any()):
            return self.inner.given(cond)(x_t, t)
        if self.guidance == 0 and self.unconditional_at_zero and bool(active.all()):
            return self.inner.given(negative)(x_t, t)
        u, c = self._branches(x_t, t, negative, cond)
        guided = self.guided(u, c, x_t, t)
        if self.rescale > 0:
            ratio = _spread_ratio(c.x0, guided.x0)
            guided = with_x0(self, guided, guided.x0 * (self.rescale * ratio + 1 - self.rescale), x_t, t)
        return pick(active, guided, c)

    def _branches(self, x_t: Tensor, t: float | Tensor, negative: Any, cond: Any) -> tuple[Estimate, Estimate]:
        num = x_t.shape[0]
        if not (num <= BATCH_LIMIT if self.batched is None else self.batched):
            return self.inner.given(negative)(x_t, t), self.inner.given(cond)(x_t, t)
        times = torch.cat([t, t]) if isinstance(t, Tensor) and t.ndim else t
        joint: Any = cat_rows([negative, cond])
        both = self.inner.given(joint)(torch.cat([x_t, x_t]), times)
        return _rows_of(both, slice(0, num)), _rows_of(both, slice(num, None))


def _rows_of(estimate: Estimate, rows: slice) -> Estimate:
    def cut(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[rows]

    return Estimate(
        x0=estimate.x0[rows],
        eps=estimate.eps[rows],
        x0_variance=cut(estimate.x0_variance),
        log_variance_fraction=cut(estimate.log_variance_fraction),
    )


def _spread_ratio(x: Tensor, other: Tensor) -> Tensor:
    """std(x) / std(other) of each sample, over its elements; 1 where the other has no spread."""
    own, others = (values.flatten(1).std(dim=1, correction=0) for values in (x, other))
    return expand(torch.where(others > 0, own / others, 1.0), x)
