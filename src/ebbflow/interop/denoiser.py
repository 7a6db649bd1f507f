"""Placeholder for `NetDenoiser(scale="none", clock=...)` with conditions of several tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ebbflow.core.condition import Cond, expand_rows, to_device
from ebbflow.core.paths import Path
from ebbflow.core.predictions import Estimate, check_pair, solve
from ebbflow.core.shape import as_time
from ebbflow.methods.denoise import Denoiser, UntrainedNullError

Clock = Callable[[Path, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class RawDenoiser(Denoiser):
    """A net that is fed x_t as it is, and a clock of its own."""

    net: Callable[[Tensor, Tensor, Any], Tensor]
    path: Path
    prediction: str
    clock: Clock
    make_null: Callable[[int], Cond] | None = None
    cond: Cond | None = None
    null_trained: bool = True

    def __post_init__(self) -> None:
        check_pair(self.prediction, self.path)

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        num, channels = x_t.shape[:2]
        cond = self.cond
        if cond is None and self.make_null is not None:
            cond = self.null(num)
        if cond is not None:
            cond = to_device(expand_rows(cond, num), x_t.device)
        clock = self.clock(self.path, as_time(t)).to(device=x_t.device, dtype=torch.float32).expand(num)
        out = self.net(x_t, clock, cond).to(x_t.dtype)
        estimate = solve(self.prediction, out[:, :channels], x_t, t, self.path)
        if out.shape[1] == channels:
            return estimate
        return replace(estimate, log_variance_fraction=(out[:, channels:] + 1) / 2)

    def given(self, cond: Cond | None) -> RawDenoiser:
        if cond is not None and self.make_null is None:
            raise ValueError("this model was trained without a condition; it cannot take one.")
        return replace(self, cond=cond)

    def null(self, num: int) -> Any:
        if self.make_null is None:
            raise ValueError("this model was trained without a condition, so it has no null condition.")
        if not self.null_trained:
            raise UntrainedNullError("this model was never trained without a condition: give it one, and guidance 1.")
        return self.make_null(num)


def raw_steps(num_steps: int) -> Clock:
    """The entry of a table of `num_steps` that t stands for, counted from 0; not below 0."""
    return lambda path, t: (t * num_steps - 1).clamp(min=0)
