"""Guidance rules of two branches, a conditional and an unconditional estimate: the condition, the two evaluations, the
log-SNR window."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from ebbflow.core.condition import Cond, cat_rows, expand_rows
from ebbflow.core.device import sent
from ebbflow.core.paths import Path
from ebbflow.core.predictions import Estimate
from ebbflow.core.shape import per_sample
from ebbflow.methods.denoise import Denoiser, Wrapped, conditional, takes_condition
from ebbflow.values import Share, check_fields

BATCH_LIMITS = {
    "cpu": 16
}  # up to this many samples one pass of both branches is faster than two; elsewhere it always is
LARGEST = torch.finfo(torch.float32).max
Interval = tuple[float, float] | None


def combine(u: Estimate, c: Estimate, guidance: float) -> Estimate:
    """u + w (c - u) in x0 and eps alike; what the branches know of their variance is the conditional branch's."""
    w = guidance if abs(guidance) <= LARGEST else math.copysign(math.inf, guidance)
    return u.towards(c, w)


def check_interval(interval: Interval) -> None:
    """Raise a ValueError unless `interval` is None or (low, high) with low < high."""
    if interval is not None and not interval[0] < interval[1]:
        raise ValueError(f"`interval` must be (low, high) in log-SNR with low < high, got {interval}.")


@dataclass(frozen=True, kw_only=True)
class Window:
    """For which samples a rule acts: all of them, none, or those of a mask of shape (B,)."""

    rows: Tensor | None
    everywhere: bool
    nowhere: bool

    def pick(self, guided: Estimate, plain: Estimate) -> Estimate:
        """`guided` where the rule acts, `plain` elsewhere."""
        if self.everywhere or self.nowhere or self.rows is None:
            return plain if self.nowhere else guided
        rows = sent(self.rows, plain.x0.device).reshape(-1, *[1] * (plain.x0.ndim - 1))
        return replace(guided, x0=torch.where(rows, guided.x0, plain.x0), eps=torch.where(rows, guided.eps, plain.eps))


def inside(path: Path, t: float | Tensor, interval: Interval) -> Window:
    """Where each t lies in the log-SNR window, ends included."""
    if interval is None:
        return Window(rows=None, everywhere=True, nowhere=False)
    log_snr = path.log_snr(t)
    rows = (log_snr >= interval[0]) & (log_snr <= interval[1])
    return Window(rows=rows if rows.ndim else None, everywhere=bool(rows.all()), nowhere=not bool(rows.any()))


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
    cond: Cond | None = None
    negative: Cond | None = None
    interval: Interval = None
    rescale: Share = 0.0
    batched: bool | None = None

    _bound: dict[tuple[bool, int], Denoiser] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_fields(self, "rescale")
        check_interval(self.interval)
        if self.negative is None:
            conditional(self.inner).null(1)
        elif not takes_condition(self.inner):
            raise ValueError("this model was trained without a condition; there is no negative one either.")

    def given(self, cond: Cond | None) -> Self:
        return replace(self, cond=cond)

    @abstractmethod
    def guided(self, u: Estimate, c: Estimate, x_t: Tensor, t: float | Tensor) -> Estimate:
        """The rule."""

    @property
    def unconditional_at_zero(self) -> bool:
        """Whether w = 0 is u itself, so that c need not be evaluated."""
        return False

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        num, active = len(x_t), inside(self.path, t, self.interval)
        if self.guidance == 1 or active.nowhere:
            return self._branch(True, num)(x_t, t)
        if self.guidance == 0 and self.unconditional_at_zero and active.everywhere:
            return self._branch(False, num)(x_t, t)
        u, c = self._branches(x_t, t)
        guided = self.guided(u, c, x_t, t)
        if self.rescale > 0:
            ratio = _spread_ratio(c.x0, guided.x0)
            guided = guided.with_x0(guided.x0 * (self.rescale * ratio + 1 - self.rescale), x_t, self.path.at(t))
        return active.pick(guided, c)

    def _condition(self, positive: bool, num: int) -> Cond:
        """The condition of a branch, a row for each of `num` samples."""
        bound = self.cond if positive else self.negative
        return expand_rows(conditional(self.inner).null(num) if bound is None else bound, num)

    def _branch(self, positive: bool, num: int) -> Denoiser:
        """The model with the condition of a branch bound: once, so that a text is read once."""
        if (positive, num) not in self._bound:
            self._bound[positive, num] = conditional(self.inner).given(self._condition(positive, num))
        return self._bound[positive, num]

    def _branches(self, x_t: Tensor, t: float | Tensor) -> tuple[Estimate, Estimate]:
        num = len(x_t)
        if not (num <= BATCH_LIMITS.get(x_t.device.type, num) if self.batched is None else self.batched):
            return self._branch(False, num)(x_t, t), self._branch(True, num)(x_t, t)
        times = torch.cat([t, t]) if isinstance(t, Tensor) and t.ndim else t
        both = self._both(num)(torch.cat([x_t, x_t]), times)
        return both.each(lambda values: values[:num]), both.each(lambda values: values[num:])

    def _both(self, num: int) -> Denoiser:
        """The model with both conditions bound, the negative ones first."""
        if (True, -num) not in self._bound:
            rows = cat_rows([self._condition(False, num), self._condition(True, num)])
            self._bound[True, -num] = conditional(self.inner).given(rows)
        return self._bound[True, -num]


def _spread_ratio(x: Tensor, other: Tensor) -> Tensor:
    """std(x) / std(other) of each sample, over its elements; 1 where the other has no spread."""
    own, others = (values.flatten(1).std(dim=1, correction=0) for values in (x, other))
    return per_sample(torch.where(others > 0, own / others, 1.0), x)
