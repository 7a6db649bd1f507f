"""Denoisers: (x_t, t) -> Estimate. Whatever can answer that, a net, a guided net or a closed form, every sampler can
walk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor

from ebbflow.core.condition import Condition
from ebbflow.core.paths import Path
from ebbflow.core.predictions import Estimate, check_pair, solve
from ebbflow.core.shape import as_time, expand

Clock = Literal["log_snr", "time"]
LOG_SNR_LIMIT = 20.0


class UntrainedNullError(ValueError):
    """The null condition was asked of a model that was never trained without a condition."""


class Denoiser(ABC):
    """A callable (x_t, t) -> Estimate on a path.

    Call with `x_t` of shape (B, *dims) and `t` a number or a tensor of shape () or (B,) in (0, 1]; a call is one
    network evaluation unless
    the denoiser says otherwise.
    """

    path: Path

    @abstractmethod
    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        """E[x0 | x_t] and E[eps | x_t]."""

    @abstractmethod
    def given(self, cond: Tensor | None) -> Denoiser:
        """The same denoiser with a condition bound, one row a sample (or a single row for all); None binds the null
        condition."""

    @abstractmethod
    def null(self, num: int) -> Tensor:
        """The null condition of `num` samples, in the form that `given` takes.

        Raises:
            ValueError: this denoiser knows no null condition.
        """

    def read(self, wanted: Sequence[Condition]) -> Tensor:
        """The conditions that class indices, prompts or vectors stand for, a row each, in the form that `given` takes.

        Raises:
            ValueError: this denoiser does not take such a condition.
        """
        if not all(isinstance(one, int) for one in wanted):
            raise ValueError("this model takes class indices only: no prompts and no vectors.")
        return torch.tensor(wanted)


@dataclass(frozen=True, kw_only=True)
class Wrapped(Denoiser):
    """A denoiser around another one, whose path, null condition and reading of conditions it keeps."""

    inner: Denoiser

    @property
    def path(self) -> Path:  # type: ignore[override]
        """The inner denoiser's path."""
        return self.inner.path

    def given(self, cond: Tensor | None) -> Self:
        return replace(self, inner=self.inner.given(cond))

    def null(self, num: int) -> Tensor:
        return self.inner.null(num)

    def read(self, wanted: Sequence[Condition]) -> Tensor:
        return self.inner.read(wanted)


Net = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def clock_of(path: Path, t: float | Tensor, clock: Clock) -> Tensor:
    """What a net is told of t, on a scale of about 1000: 1000 t for "time", 25 times the log-SNR, limited to +-20, for
    "log_snr"."""
    if clock == "time":
        return 1000 * as_time(t)
    return 25 * path.log_snr(t).clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT)


@dataclass(frozen=True, kw_only=True)
class NetDenoiser(Denoiser):
    """A net as a denoiser: it is fed x_t / sqrt(alpha^2 + sigma^2) and a clock, and its output is solved for x0 and
    eps.

    With `clock="log_snr"` the net never hears of the path, so `dataclasses.replace(denoiser, path=other)` is a valid
    model of the other path
    (only for predictions that do not depend on the path's speed: eps, x0, v on variance-preserving paths, edm).

    Args:
        net: (x, clock of shape (B,), cond or None) -> output, shape (B, C, ...) or (B, 2C, ...) where the variance is
            learned.
        path: the path.
        prediction: what the net's output means, a name of `PREDICTIONS`.
        clock: what the net is told of t.
        make_null: num -> null conditions; None for an unconditional net.
        make_cond: class indices, prompts or vectors -> conditions; None for a net that takes class indices as they are.
        cond: the bound condition.
        null_trained: whether training ever dropped the condition; without, the null one means nothing and is refused.

    Raises:
        ValueError: the prediction cannot recover x0 on this path.
    """

    net: Net
    path: Path
    prediction: str = "velocity"
    clock: Clock = "log_snr"
    make_null: Callable[[int], Tensor] | None = None
    make_cond: Callable[[Sequence[Condition]], Tensor] | None = None
    cond: Tensor | None = None
    null_trained: bool = True

    def __post_init__(self) -> None:
        check_pair(self.prediction, self.path)

    def output(self, x_t: Tensor, t: float | Tensor, cond: Tensor | None) -> Tensor:
        """The net's raw output at (x_t, t), in the dtype of `x_t`."""
        c = self.path.at(t)
        scale = torch.rsqrt(c.alpha**2 + c.sigma**2)
        clock = clock_of(self.path, t, self.clock).to(device=x_t.device, dtype=torch.float32).expand(x_t.shape[0])
        return self.net(expand(scale, x_t) * x_t, clock, cond).to(x_t.dtype)

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        num = x_t.shape[0]
        cond = self.cond
        if cond is None and self.make_null is not None:
            cond = self.null(num)
        elif cond is not None and cond.shape[0] == 1 != num:
            cond = cond.expand(num, *cond.shape[1:])
        out = self.output(x_t, t, cond if cond is None else cond.to(x_t.device))
        channels = x_t.shape[1]
        if out.shape[1] == channels:
            return solve(self.prediction, out, x_t, t, self.path)
        fraction = (out[:, channels:] + 1) / 2
        return replace(solve(self.prediction, out[:, :channels], x_t, t, self.path), log_variance_fraction=fraction)

    def given(self, cond: Tensor | None) -> NetDenoiser:
        if cond is not None and self.make_null is None:
            raise ValueError("this model was trained without a condition; it cannot take one.")
        return replace(self, cond=cond)

    def null(self, num: int) -> Tensor:
        if self.make_null is None:
            raise ValueError(
                "this model was trained without a condition, so it has no null condition and guidance has "
                "nothing to guide."
            )
        if not self.null_trained:
            raise UntrainedNullError(
                "this model never saw the null condition in training (conditioning.drop = 0): it can neither be guided "
                "from it nor sampled without a condition. Use guidance 1 with a condition, or train with "
                "conditioning.drop=0.1."
            )
        return self.make_null(num)

    def read(self, wanted: Sequence[Condition]) -> Tensor:
        return super().read(wanted) if self.make_cond is None else self.make_cond(wanted)


@dataclass(frozen=True, kw_only=True)
class FunctionDenoiser(Denoiser):
    """Any function (x_t, t) -> output as an unconditional denoiser; the way in for a model from elsewhere.

    Args:
        function: (x_t of shape (B, *dims), t) -> output in the meaning of `prediction`, same shape.
        path: the path it was trained on.
        prediction: a name of `PREDICTIONS`.
    """

    function: Callable[[Tensor, float | Tensor], Tensor]
    path: Path
    prediction: str = "velocity"

    def __post_init__(self) -> None:
        check_pair(self.prediction, self.path)

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        return solve(self.prediction, self.function(x_t, t), x_t, t, self.path)

    def given(self, cond: Tensor | None) -> FunctionDenoiser:
        if cond is not None:
            raise ValueError("a FunctionDenoiser takes no condition; bind it in the function.")
        return self

    def null(self, num: int) -> Tensor:
        raise ValueError("a FunctionDenoiser has no null condition.")
