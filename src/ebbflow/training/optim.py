"""The optimiser and its learning rate, a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """The learning rate at step n, counted from 0: linear warm-up, then constant, cosine to 0, or a factor every few
    steps.

    Args:
        peak: the rate after warm-up.
        warmup_steps: steps of linear warm-up.
        schedule: "constant", "cosine" (to 0 at `num_steps`) or "step".
        num_steps: length of the run.
        decay_every: "step" multiplies by `decay_rate` each time so many steps have gone by.
        decay_rate: that factor.
    """

    peak: float
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine", "step"] = "constant"
    num_steps: int = 1
    decay_every: int = 1000
    decay_rate: float = 0.5

    def at(self, step: int) -> float:
        """The rate that step `step` uses."""
        warm = min(1.0, (step + 1) / (self.warmup_steps + 1))
        if self.schedule == "cosine":
            done = max(0, step - self.warmup_steps) / max(1, self.num_steps - self.warmup_steps)
            return self.peak * warm * (1 + math.cos(math.pi * min(1.0, done))) / 2
        if self.schedule == "step":
            return self.peak * warm * self.decay_rate ** (step // self.decay_every)
        return self.peak * warm


def adamw(
    parameters: Iterable[nn.Parameter], *, lr: float, weight_decay: float = 0.0, beta2: float = 0.99
) -> torch.optim.AdamW:
    """AdamW with betas (0.9, beta2), decaying matrices only (Loshchilov & Hutter, 2017, 1711.05101)."""
    parameters = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=(0.9, beta2))
