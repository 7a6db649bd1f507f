"""The one broadcast rule: a coefficient is one number for all samples, or one number a sample."""

from __future__ import annotations

import torch
from torch import Tensor

from ebbflow.core.device import sent

WITHOUT_FLOAT64 = frozenset({"mps"})  # kinds of device that know no float64


def in_float64(x: Tensor) -> Tensor:
    """`x` in float64, on the CPU where its own device has none."""
    return (x.cpu() if x.device.type in WITHOUT_FLOAT64 else x).to(torch.float64)


def float64_on(x: Tensor, device: torch.device) -> Tensor:
    """Numbers in float64 on a device, or left on the CPU where it has none."""
    return in_float64(x if device.type in WITHOUT_FLOAT64 else sent(x, device))


def as_float64(value: float | Tensor) -> Tensor:
    """`value` as a float64 tensor, whatever it was; schedules are never computed in a lower precision."""
    return in_float64(value) if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64, device="cpu")


def per_sample(coefficient: Tensor, x: Tensor) -> Tensor:
    """`coefficient`, shape () or (B,), made to multiply `x`, shape (B, *dims).

    A coefficient of shape () keeps its float64 value and takes the dtype of `x` in the product; one of shape (B,) is
    cast and reshaped to (B, 1, ..., 1), never broadcast against the last axis, so that B = W is no trap.

    Raises:
        ValueError: any other shape.
    """
    if coefficient.ndim == 0:
        return coefficient
    if coefficient.shape != x.shape[:1]:
        raise ValueError(f"one number a sample is wanted: shape ({x.shape[0]},) or (), got {tuple(coefficient.shape)}.")
    return coefficient.to(x).reshape(-1, *[1] * (x.ndim - 1))


def weighted(first: float, x: Tensor, second: float, y: Tensor) -> Tensor:
    """first x + second y in as few passes over the data as the numbers allow; a term of weight 0 is left out, so what
    it holds does not matter, and the result may be `x` or `y` itself."""
    if second == 0:
        return x if first == 1 else first * x
    if first == 0:
        return y if second == 1 else second * y
    if first == 1:
        return torch.add(x, y, alpha=second)
    if second == 1:
        return torch.add(y, x, alpha=first)
    scaled = first * x
    return scaled.add_(y, alpha=second) if scaled.dtype == y.dtype else scaled + second * y


def combined(*terms: tuple[float, Tensor]) -> Tensor:
    """The sum of weight * tensor over two terms or more; see `weighted`."""
    (first, x), (second, y), *rest = terms
    total = weighted(first, x, second, y)
    for weight, z in rest:
        owned = total is not x and total is not y and total.dtype == z.dtype
        total = total.add_(z, alpha=weight) if owned else torch.add(total, z, alpha=weight)
    return total
