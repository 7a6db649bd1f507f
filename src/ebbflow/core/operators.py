"""Linear degradations y = A x of images: what restoration undoes and what an image condition may be made by.

Each knows its regularised inverse A^T (A A^T + noise I)^-1 y, which at noise 0 is the pseudo-inverse. A row of the
registry is one dataclass here; `LinearOperator` is any linear function of yours.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Interval
from torch import Tensor

from ebbflow.values import Checked, check_fields

Dims = tuple[int, ...]
SMALLEST = 0.01  # singular values of a blur below it, of a largest about 1, are noise to its pseudo-inverse
Region = Literal["left", "right", "top", "bottom", "centre"]


@dataclass(frozen=True, kw_only=True)
class Operator(ABC):
    """A linear map of images (B, C, H, W) to measurements (B, *dims)."""

    def dims(self, dims: Dims) -> Dims:
        """Shape of the measurement of an image of `dims`.

        Raises:
            ValueError: images that it cannot measure.
        """
        return dims

    @abstractmethod
    def measure(self, x: Tensor) -> Tensor:
        """A x."""

    @abstractmethod
    def back(self, y: Tensor, dims: Dims, noise: Tensor) -> Tensor:
        """A^T (A A^T + noise I)^-1 y of shape (B, *dims); the pseudo-inverse at 0.

        Args:
            y: (B, *self.dims(dims)).
            dims: of the images.
            noise: at least 0, broadcastable to (B, C, H, W): (), or (B, 1, 1, 1).
        """

    def shown(self, y: Tensor, dims: Dims) -> Tensor:
        """A measurement as an image of `dims`: itself, or where it is of another shape its pseudo-inverse."""
        return y if tuple(y.shape[1:]) == tuple(dims) else self.back(y, dims, torch.zeros(()))


@dataclass(frozen=True, kw_only=True)
class Downsample(Checked, Operator):
    """The means over blocks of `factor` x `factor` pixels.

    Args:
        factor: 2 or more; divides the sides.
    """

    factor: Annotated[int, Ge(2)] = 4

    def dims(self, dims: Dims) -> Dims:
        channels, *sides = dims
        if any(side % self.factor for side in sides):
            raise ValueError(f"`factor` must divide the image's sides {'x'.join(map(str, sides))}, got {self.factor}.")
        return (channels, *(side // self.factor for side in sides))

    def measure(self, x: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(x, self.factor)

    def back(self, y: Tensor, dims: Dims, noise: Tensor) -> Tensor:
        spread = y.repeat_interleave(self.factor, dim=2).repeat_interleave(self.factor, dim=3)
        return spread / (1 + noise.to(y) * self.factor**2)


@dataclass(frozen=True, kw_only=True)
class Grey(Operator):
    """One channel: 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601, 1982), or the mean of another number of channels."""

    def dims(self, dims: Dims) -> Dims:
        if dims[0] < 2:
            raise ValueError("operator 'grey' wants images of several channels, got 1. Use another operator.")
        return (1, *dims[1:])

    def _weights(self, channels: int) -> Tensor:
        even = torch.full((channels,), 1 / channels, dtype=torch.float64)
        return torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64) if channels == 3 else even

    def measure(self, x: Tensor) -> Tensor:
        return torch.einsum("c,bchw->bhw", self._weights(x.shape[1]).to(x), x)[:, None]

    def back(self, y: Tensor, dims: Dims, noise: Tensor) -> Tensor:
        weights = self._weights(dims[0])
        return weights.to(y)[:, None, None] * y / (float(weights.square().sum()) + noise.to(y))


def regions(height: int, width: int) -> dict[str, Tensor]:
    """Parts of an image by name, bool (H, W)."""
    row, column = torch.arange(height)[:, None], torch.arange(width)[None]
    middle = (row >= height // 4) & (row < height - height // 4)
    found = {
        "left": column < width // 2,
        "right": column >= width // 2,
        "top": row < height // 2,
        "bottom": row >= height // 2,
        "centre": middle & (column >= width // 4) & (column < width - width // 4),
    }
    return {name: part.expand(height, width) for name, part in found.items()}


@dataclass(frozen=True, kw_only=True)
class Mask(Operator):
    """The pixels of a part of the image; the others are measured as 0, which is mid-grey.

    Args:
        region: what is missing: the left, right, top or bottom half, or the centre (half the sides).
        known: (H, W) in {0, 1}, 1 where the image is known, in the place of `region`.
    """

    region: Region = "left"
    known: Tensor | None = None

    def __post_init__(self) -> None:
        check_fields(self, "region")

    def mask(self, height: int, width: int) -> Tensor:
        """1 where the image is known, float32 (H, W).

        Raises:
            ValueError: `known` is of another size.
        """
        if self.known is not None:
            if tuple(self.known.shape) != (height, width):
                got = "x".join(map(str, self.known.shape))
                raise ValueError(f"`known` must be of the image's size {height}x{width}, got {got}.")
            return self.known.float()
        return 1 - regions(height, width)[self.region].float()

    def dims(self, dims: Dims) -> Dims:
        self.mask(*dims[1:])
        return dims

    def measure(self, x: Tensor) -> Tensor:
        return x * self.mask(*x.shape[2:]).to(x)

    def back(self, y: Tensor, dims: Dims, noise: Tensor) -> Tensor:
        return self.measure(y) / (1 + noise.to(y))


@dataclass(frozen=True, kw_only=True)
class Blur(Checked, Operator):
    """A Gaussian blur whose weights are normalised at the edges.

    Args:
        sigma: its standard deviation in pixels, above 0.
    """

    sigma: Annotated[float, Interval(ge=0.01, le=1e6)] = 1.5

    def measure(self, x: Tensor) -> Tensor:
        rows, columns = (smoothing(side, self.sigma) for side in x.shape[2:])
        return rows.to(x) @ x @ columns.to(x).T

    def back(self, y: Tensor, dims: Dims, noise: Tensor) -> Tensor:
        (u, s, v), (u_c, s_c, v_c) = (_decomposed(side, self.sigma) for side in dims[1:])
        values = s[:, None] * s_c
        kept = torch.where(values > SMALLEST, values, 0.0).to(y)
        gain = kept / (kept**2 + noise.to(y)).clamp(min=SMALLEST**2 / 2)
        return v.to(y).T @ (gain * (u.to(y).T @ y @ u_c.to(y))) @ v_c.to(y)


@dataclass(frozen=True, kw_only=True)
class LinearOperator(Operator):
    """Any linear function of images, by its values alone: the transpose is its vector-Jacobian product, and equations
    are solved by conjugate gradients (Hestenes & Stiefel, 1952).

    Args:
        function: x (B, C, H, W) -> y (B, *dims), linear in x and a sample at a time.
        steps: of conjugate gradients at most; each is one A and one A^T.
    """

    function: Callable[[Tensor], Tensor]
    steps: int = 100

    def dims(self, dims: Dims) -> Dims:
        return tuple(self.function(torch.zeros(1, *dims)).shape[1:])

    def measure(self, x: Tensor) -> Tensor:
        return self.function(x)

    def back(self, y: Tensor, dims: Dims, noise: Tensor) -> Tensor:
        transposed = torch.func.vjp(self.function, y.new_zeros(len(y), *dims))[1]
        rows = noise.to(y).reshape(-1, *[1] * (y.ndim - 1)) if noise.ndim else noise.to(y)

        def normal(w: Tensor) -> Tensor:
            return self.function(transposed(w)[0]) + rows * w

        found: Tensor = transposed(conjugate_gradients(normal, y, self.steps))[0]
        return found


def conjugate_gradients(matrix: Callable[[Tensor], Tensor], y: Tensor, steps: int) -> Tensor:
    """The w of least norm with matrix(w) = y as far as it can be had, for a positive semi-definite matrix; a sample
    at a time, (B, *dims)."""
    w, residual = torch.zeros_like(y), y
    direction, size = residual, _dot(residual, residual)
    enough = size * 1e-13 if y.dtype == torch.float32 else size * 1e-26
    for _ in range(steps):
        if bool((size <= enough).all()):
            break
        image = matrix(direction)
        curvature = _dot(direction, image)
        length = torch.where((size > enough) & (curvature > 0), size / curvature.clamp(min=1e-38), 0.0)
        w, residual = w + length * direction, residual - length * image
        before, size = size, _dot(residual, residual)
        direction = residual + size / before.clamp(min=1e-38) * direction
    return w


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1).reshape(-1, *[1] * (a.ndim - 1))


def smoothing(side: int, width: float) -> Tensor:
    """The Gaussian blur of a line of `side` pixels as a matrix whose rows sum to 1."""
    place = torch.arange(side, dtype=torch.float64)
    return torch.softmax(-(((place[:, None] - place) / width) ** 2) / 2, dim=1)


@lru_cache(maxsize=16)
def _decomposed(side: int, width: float) -> tuple[Tensor, Tensor, Tensor]:
    """U, s, V^T of `smoothing`."""
    u, s, v = torch.linalg.svd(smoothing(side, width))
    return u, s, v


OPERATORS: dict[str, Operator] = {
    "downsample": Downsample(),
    "grey": Grey(),
    "mask": Mask(),
    "blur": Blur(),
}
