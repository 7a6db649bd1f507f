"""Losses for guidance: ||A x0 - y||^2 / 2 for each sample, with A scaled to norm 1 so that one weight suits all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from annotated_types import Ge, Interval
from torch import Tensor

from ebbflow.core.operators import smoothing

Loss = Callable[[Tensor], Tensor]


def misfit(measure: Callable[[Tensor], Tensor], target: Tensor) -> Loss:
    """x0 (B, *dims) -> ||measure(x0) - target||^2 / 2 of shape (B,); the way in for a measurement of your own."""

    def loss(x0: Tensor) -> Tensor:
        return (measure(x0) - target.to(x0)).flatten(1).square().sum(1) / 2

    return loss


def colour(target: Tensor) -> Loss:
    """The mean of each channel is `target`, shape (C,) or (1,) in [-1, 1], or the mean of the image (C, H, W)."""
    wanted = target.flatten(1).mean(1) if target.ndim == 3 else target

    def measure(x0: Tensor) -> Tensor:
        return x0.flatten(2).mean(2) * x0[0, 0].numel() ** 0.5

    def loss(x0: Tensor) -> Tensor:
        return misfit(measure, wanted * x0[0, 0].numel() ** 0.5)(x0)

    return loss


def inpaint(target: Tensor, known: Tensor) -> Loss:
    """The pixels where `known`, shape (H, W) or (C, H, W) in [0, 1], is 1 are those of `target`, shape (C, H, W)."""

    def loss(x0: Tensor) -> Tensor:
        kept = known.to(x0)
        return misfit(lambda x: x * kept, target.to(x0) * kept)(x0)

    return loss


def blur(target: Tensor, width: Annotated[float, Interval(ge=0.01, le=1e6)] = 1.5) -> Loss:
    """x0, blurred by a Gaussian of standard deviation `width` pixels, is the blurred image `target` (C, H, W).

    Raises:
        ValueError: `width` is not above 0.
    """
    if not width > 0:
        raise ValueError(f"`width` of loss 'blur' must be above 0, got {width}.")
    rows, columns = (smoothing(side, width) for side in target.shape[-2:])
    return misfit(lambda x0: rows.to(x0) @ x0 @ columns.to(x0).T, target)


def downsample(target: Tensor, factor: Annotated[int, Ge(1)] = 4) -> Loss:
    """The means of x0 over blocks of `factor` x `factor` pixels are those of `target` (C, H, W).

    Raises:
        ValueError: `factor` does not divide H and W.
    """
    if factor < 1 or any(side % factor for side in target.shape[-2:]):
        raise ValueError(
            f"`factor` of loss 'downsample' must divide the image's sides {tuple(target.shape[-2:])}, got {factor}."
        )

    def measure(x0: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(x0, factor) * factor

    return misfit(measure, measure(target[None]))


LOSSES: dict[str, Callable[..., Loss]] = {
    "colour": colour,
    "inpaint": inpaint,
    "blur": blur,
    "downsample": downsample,
}
