"""The noisy classifier: which class is in x_t, at any noise level."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ebbflow.nets.blocks import ClockEmbedding, zeroed
from ebbflow.nets.unet import ResidualBlock
from ebbflow.values import Width, check_fields


@dataclass(frozen=True, kw_only=True)
class ClassifierOptions:
    """A noisy classifier: the way down of a U-Net for images, a residual MLP for points.

    Args:
        channels: width at each resolution, finest first; each further entry halves the image. For points, the width of
            each layer.
        clock_dim: width of the clock's embedding.
    """

    channels: tuple[Width, ...] = (32, 64, 64)
    clock_dim: Width = 128

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.channels:
            raise ValueError("`channels` must be one width or more, got none.")

    def build(self, dims: tuple[int, ...], num_classes: int) -> Classifier:
        """The net for samples of `dims`, (C, H, W) or (D,)."""
        return Classifier(self, dims, num_classes)


class Classifier(nn.Module):
    """See `ClassifierOptions`. Call with x (B, *dims), clock (B,) and share (B,); gives logits (B, num_classes).

    The logits are share times what the trunk says of x, plus a bias for how common each class is: with no data in x
    there is nothing to say, and log p(y | x_t) and its slope go to their limits in step with alpha. All start at zero.
    """

    def __init__(self, options: ClassifierOptions, dims: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.clock = ClockEmbedding(options.clock_dim)
        trunk = ImageTrunk if len(dims) == 3 else PointTrunk
        self.trunk = trunk(dims, options.channels, options.clock_dim)
        self.head = zeroed(nn.Linear(options.channels[-1], num_classes))

    def forward(self, x: Tensor, clock: Tensor, share: Tensor) -> Tensor:
        weight = self.head.weight
        embedded = nn.functional.silu(self.clock(clock))
        features = self.trunk(x.to(weight.dtype), embedded)
        return share.to(weight.dtype)[:, None] * (features @ weight.T) + self.head.bias


class ImageTrunk(nn.Module):
    """Residual blocks at falling resolution, then the mean over places; any height and width."""

    def __init__(self, dims: tuple[int, ...], channels: tuple[int, ...], clock_dim: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(dims[0], channels[0], 3, padding=1)
        before = (channels[0], *channels[:-1])
        self.blocks = nn.ModuleList(
            ResidualBlock(wide_in, wide, clock_dim, None) for wide_in, wide in zip(before, channels, strict=True)
        )
        self.halve = nn.ModuleList(nn.Conv2d(wide, wide, 3, stride=2, padding=1) for wide in channels[:-1])

    def forward(self, x: Tensor, clock: Tensor) -> Tensor:
        x = self.stem(x)
        for i, block in enumerate(self.blocks):
            x = block(x if i == 0 else self.halve[i - 1](x), clock, None)
        return nn.functional.silu(x).mean(dim=(2, 3))


class PointTrunk(nn.Module):
    """A residual MLP on x and the clock."""

    def __init__(self, dims: tuple[int, ...], channels: tuple[int, ...], clock_dim: int) -> None:
        super().__init__()
        self.stem = nn.Linear(torch.Size(dims).numel(), channels[0])
        before = (channels[0], *channels[:-1])
        self.layers = nn.ModuleList(nn.Linear(wide_in, wide) for wide_in, wide in zip(before, channels, strict=True))
        self.clocks = nn.ModuleList(nn.Linear(clock_dim, wide_in) for wide_in in before)

    def forward(self, x: Tensor, clock: Tensor) -> Tensor:
        h = self.stem(x.flatten(1))
        for layer, shift in zip(self.layers, self.clocks, strict=True):
            out = layer(nn.functional.silu(h + shift(clock)))
            h = out + h if out.shape == h.shape else out
        return nn.functional.silu(h)
