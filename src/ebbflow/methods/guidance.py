"""Guidance: denoisers made of denoisers. Every rule combines x0 and eps together, so it means the same in every
prediction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ebbflow.core.predictions import Estimate
from ebbflow.core.shape import expand
from ebbflow.methods.denoise import Denoiser
from ebbflow.nets import Wanted

BATCH_LIMIT = 16  # up to this many samples one pass of both branches is faster than two


def combine(u: Estimate, c: Estimate, guidance: float) -> Estimate:
    """u + w (c - u) in x0 and eps alike; what the branches know of their variance is the conditional branch's."""
    return replace(c, x0=u.x0 + guidance * (c.x0 - u.x0), eps=u.eps + guidance * (c.eps - u.eps))


def with_x0(denoiser: Denoiser, estimate: Estimate, x0: Tensor, x_t: Tensor, t: float | Tensor) -> Estimate:
    """`estimate` with another x0, and the eps that goes with it: eps = (x_t - alpha x0) / sigma."""
    c = denoiser.path.at(t)
    return replace(estimate, x0=x0, eps=(x_t - expand(c.alpha, x_t) * x0) / expand(c.sigma, x_t))


@dataclass(frozen=True, kw_only=True)
class ClassifierFree(Denoiser):
    """u + w (c - u), c given the condition, u given none or the negative condition (Ho & Salimans, 2022, 2207.12598,
    with w counted from u).

    w = 1 is the conditional model and w = 0 the unconditional one, each at the cost of one evaluation; any other w
    costs two. It does not sample
    the tilted density p(x)^{1-w} p(x|c)^w, which is no path of the forward process.

    Args:
        inner: a denoiser that takes conditions.
        guidance: w.
        cond: the bound condition, shape (B, ...).
        negative: the negative condition, shape (B, ...) or (1, ...), in the place of the null one.
        interval: (low, high) log-SNR window inside which w acts, ends included; outside, the conditional model alone
            (Kynkaanniemi et al.,
            2024, 2404.07724).
        rescale: phi in [0, 1] mixes in a guided x0 brought back to the standard deviation of the conditional x0 (Lin et
            al., 2023, eq. 15-16,
            2305.08891), in x0 space.
        batched: both branches in one call, or in two; None chooses by batch size.
    """

    inner: Denoiser
    guidance: float
    cond: Tensor | None = None
    negative: Tensor | None = None
    interval: tuple[float, float] | None = None
    rescale: float = 0.0
    batched: bool | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.rescale <= 1:
            raise ValueError(f"`rescale` must be in [0, 1], got {self.rescale}.")
        if self.interval is not None and not self.interval[0] < self.interval[1]:
            raise ValueError(f"`interval` must be (low, high) in log-SNR with low < high, got {self.interval}.")
        self.inner.null(1)

    @property
    def path(self):  # type: ignore[no-untyped-def,override]
        """The inner denoiser's path."""
        return self.inner.path

    def given(self, cond: Tensor | None) -> ClassifierFree:
        return replace(self, cond=cond)

    def null(self, num: int) -> Tensor:
        return self.inner.null(num)

    def read(self, wanted: Sequence[Wanted]) -> Tensor:
        return self.inner.read(wanted)

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        num = x_t.shape[0]
        cond = _rows(self.inner.null(num) if self.cond is None else self.cond, num)
        negative = _rows(self.inner.null(num) if self.negative is None else self.negative, num)
        if self.guidance == 1 or not self._acts(t):
            return self.inner.given(cond)(x_t, t)
        if self.guidance == 0:
            return self.inner.given(negative)(x_t, t)
        u, c = self._branches(x_t, t, negative, cond)
        guided = combine(u, c, self.guidance)
        if self.rescale == 0:
            return guided
        ratio = _std(c.x0) / _std(guided.x0)
        return with_x0(self, guided, guided.x0 * (self.rescale * ratio + 1 - self.rescale), x_t, t)

    def _acts(self, t: float | Tensor) -> bool:
        if self.interval is None:
            return True
        level = self.path.log_snr(t)
        return bool(((level >= self.interval[0]) & (level <= self.interval[1])).all())

    def _branches(self, x_t: Tensor, t: float | Tensor, negative: Tensor, cond: Tensor) -> tuple[Estimate, Estimate]:
        num = x_t.shape[0]
        if not (num <= BATCH_LIMIT if self.batched is None else self.batched):
            return self.inner.given(negative)(x_t, t), self.inner.given(cond)(x_t, t)
        times = torch.cat([t, t]) if isinstance(t, Tensor) and t.ndim else t
        both = self.inner.given(torch.cat([negative, cond]))(torch.cat([x_t, x_t]), times)
        return _rows_of(both, slice(0, num)), _rows_of(both, slice(num, None))


def _rows(cond: Tensor, num: int) -> Tensor:
    return cond.expand(num, *cond.shape[1:]) if cond.shape[0] == 1 else cond


def _rows_of(estimate: Estimate, rows: slice) -> Estimate:
    def cut(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[rows]

    return Estimate(
        x0=estimate.x0[rows],
        eps=estimate.eps[rows],
        x0_variance=cut(estimate.x0_variance),
        log_variance_fraction=cut(estimate.log_variance_fraction),
    )


def _std(x: Tensor) -> Tensor:
    return expand(x.flatten(1).std(dim=1), x)


def classifier_free(
    denoiser: Denoiser,
    *,
    guidance: float,
    negative: Tensor | None = None,
    interval: tuple[float, float] | None = None,
    rescale: float = 0.0,
    batched: bool | None = None,
) -> ClassifierFree:
    """`denoiser` guided by u + w (c - u); see `ClassifierFree` for the arguments. Bind the condition with
    `.given(cond)`."""
    return ClassifierFree(
        inner=denoiser, guidance=guidance, negative=negative, interval=interval, rescale=rescale, batched=batched
    )


GUIDANCE: dict[str, Callable[..., Denoiser]] = {"classifier_free": classifier_free}
