"""The exponential moving average of the weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class EMA:
    """shadow <- shadow + (1 - d) (weights - shadow) after each optimiser step, d = min(decay, (1 + n) / (10 + n)) at
    update n.

    The warm-up lets a short run forget its initial weights; buffers are copied, not averaged.

    Args:
        module: the module to follow; copied.
        decay: the final d, in [0, 1).
    """

    def __init__(self, module: nn.Module, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"`decay` must be in [0, 1), got {decay}.")
        self.decay, self.num_updates = decay, 0
        self.module = copy.deepcopy(module).requires_grad_(False).eval()

    def decay_at(self, num_updates: int) -> float:
        """d of update `num_updates`, counted from 0."""
        return min(self.decay, (1 + num_updates) / (10 + num_updates))

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take one step towards the weights of `module`."""
        shadows, weights = ([p.detach() for p in m.parameters()] for m in (self.module, module))
        torch._foreach_lerp_(shadows, weights, 1 - self.decay_at(self.num_updates))
        for own, other in zip(self.module.buffers(), module.buffers(), strict=True):
            own.copy_(other)
        self.num_updates += 1

    def state(self) -> dict[str, Tensor]:
        """The averaged weights by name."""
        return self.module.state_dict()
