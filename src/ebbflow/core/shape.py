"""The one broadcast rule: a coefficient is one number for all samples, or one number a sample."""

from __future__ import annotations

import torch
from torch import Tensor


def as_time(t: float | Tensor) -> Tensor:
    """`t` as a float64 tensor, whatever it was; schedules are never computed in a lower precision."""
    return torch.as_tensor(t, dtype=torch.float64)


def expand(coefficient: Tensor, x: Tensor) -> Tensor:
    """`coefficient`, shape () or (B,), made to multiply `x`, shape (B, *dims).

    A coefficient of shape () keeps its float64 value and takes the dtype of `x` in the product; one of shape (B,) is
    cast and reshaped to
    (B, 1, ..., 1), never broadcast against the last axis, so that B = W is no trap.

    Raises:
        ValueError: any other shape.
    """
    if coefficient.ndim == 0:
        return coefficient
    if coefficient.shape != x.shape[:1]:
        raise ValueError(f"one number a sample is wanted: shape ({x.shape[0]},) or (), got {tuple(coefficient.shape)}.")
    return coefficient.to(x).reshape(-1, *[1] * (x.ndim - 1))
