"""Normalisation of feature maps."""

from __future__ import annotations

from torch import nn


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation in 8 groups, or in as many of 4, 2 or 1 as divide `channels` and leave at least 4 in each.

    A group of a single channel would subtract what the clock and the context add to it.
    """
    groups = next(g for g in (8, 4, 2, 1) if channels % g == 0 and (g == 1 or channels // g >= 4))
    return nn.GroupNorm(groups, channels)
