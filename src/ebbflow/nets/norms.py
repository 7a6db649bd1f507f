"""Normalisation of feature maps."""

from __future__ import annotations

from torch import nn


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation in 8 groups, or in as many of 4, 2 or 1 as divide `channels`."""
    return nn.GroupNorm(next(g for g in (8, 4, 2, 1) if channels % g == 0), channels)
