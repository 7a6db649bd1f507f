"""Padding images to a size that a net can halve or cut into patches."""

from __future__ import annotations

from torch import Tensor, nn


def padded(x: Tensor, multiple: int) -> Tensor:
    """`x`, shape (B, C, H, W), grown below and to the right to multiples of `multiple` by repeating its edge."""
    below, right = (-n % multiple for n in x.shape[-2:])
    return nn.functional.pad(x, (0, right, 0, below), mode="replicate") if below or right else x
