"""Normalisation of feature maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ebbflow.nets.fused import is_trained


class GroupNorm(nn.GroupNorm):
    """Group normalisation. Where a CPU trains under autocast, features in bfloat16 stay so, with float32 statistics;
    autocast would have torch's in float32, two passes over memory more."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.bfloat16 or not is_trained(x, self.weight):
            return super().forward(x)
        shape = (x.shape[0], x.shape[1], x[0, 0].numel(), self.num_groups)
        out: Tensor = torch.native_group_norm(x, self.weight, self.bias, *shape, self.eps)[0]
        return out


def group_norm(channels: int, smallest: int = 4) -> GroupNorm:
    """Group normalisation in 8 groups, or in as many of 4, 2 or 1 as divide `channels` and leave `smallest` in each.

    A group of a single channel would subtract what the clock and the context add to it.
    """
    groups = next(g for g in (8, 4, 2, 1) if channels % g == 0 and (g == 1 or channels // g >= smallest))
    return GroupNorm(groups, channels)
