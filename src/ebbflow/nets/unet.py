"""The U-Net: residual blocks at falling resolution and back up, with skips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ebbflow.nets.blocks import Attention, ClockEmbedding, padded, zeroed
from ebbflow.nets.blocks import group_norm as _norm
from ebbflow.nets.context import Context, ContextSpec, vector_dim
from ebbflow.values import Depth, Width, check_fields


@dataclass(frozen=True, kw_only=True)
class UNetOptions:
    """A U-Net (Ronneberger et al., 2015, 1505.04597, as used by Ho et al., 2020, 2006.11239).

    Args:
        channels: width at each resolution, finest first; each further entry halves the image.
        patch_size: side of the square patch whose pixels become the channels of one place of the finest resolution; 2
            halves the image before the first convolution and doubles it after the last (Shi et al., 2016, 1609.05158).
        num_blocks: residual blocks a resolution on the way down (one more on the way up); one number for all, or one
            for each resolution.
        upsample: "nearest" repeats places and convolves what comes out, at the width of the coarser resolution;
            "shuffle" makes the four places of each by a 1x1 convolution, at the width of the finer one, for a tenth of
            the work.
        attention: add self-attention at the coarsest resolution; cross-attention, when conditioned so, is always there.
        num_heads: attention heads.
        clock_dim: width of the clock's embedding.
        gap: whether it is told the gap of a jump beside the clock, as a `FlowMap` is.
    """

    channels: tuple[Width, ...] = (32, 64, 64)
    patch_size: Width = 1
    num_blocks: Depth | tuple[Depth, ...] = 1
    upsample: Literal["nearest", "shuffle"] = "nearest"
    attention: bool = True
    num_heads: Width = 4
    clock_dim: Width = 128
    gap: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.channels:
            raise ValueError("`channels` must be one width or more, got none.")
        if len(self.blocks) != len(self.channels):
            raise ValueError(
                f"`num_blocks` is one number, or one for each of the {len(self.channels)} resolutions of `channels`; "
                f"got {list(self.blocks)}."
            )
        if self.channels[-1] % self.num_heads:
            raise ValueError(
                f"the last of `channels`, {self.channels[-1]}, must be a multiple of `num_heads`, got {self.num_heads}."
            )

    @property
    def blocks(self) -> tuple[int, ...]:
        """Residual blocks of each resolution on the way down."""
        return (self.num_blocks,) * len(self.channels) if isinstance(self.num_blocks, int) else self.num_blocks

    def build(self, dims: tuple[int, ...], out_channels: int, context: ContextSpec | None) -> UNet:
        """The net for samples of `dims` (C, H, W); any H and W, padded inside to a multiple of `patch_size` times
        2^(resolutions - 1)."""
        if len(dims) != 3:
            raise ValueError(
                f"net 'unet' works on images (C, H, W); these samples have shape {dims}. Use net.kind=mlp."
            )
        return UNet(self, dims[0], out_channels, context)


class ResidualBlock(nn.Module):
    """norm-SiLU-conv, the time added, the context as a scale and shift, norm-SiLU-conv (starting at zero), and the
    input added."""

    def __init__(self, channels_in: int, channels: int, clock_dim: int, scale_dim: int | None) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(channels_in), nn.Conv2d(channels_in, channels, 3, padding=1)
        self.clock = nn.Linear(clock_dim, channels)
        self.scale = None if scale_dim is None else zeroed(nn.Linear(scale_dim, 2 * channels))
        self.norm2, self.conv2 = _norm(channels), zeroed(nn.Conv2d(channels, channels, 3, padding=1))
        self.skip = nn.Identity() if channels_in == channels else nn.Conv2d(channels_in, channels, 1)

    def forward(self, x: Tensor, clock: Tensor, vector: Tensor | None) -> Tensor:
        h = self.conv1(nn.functional.silu(self.norm1(x))) + self.clock(clock)[:, :, None, None]
        h = self.norm2(h)
        if self.scale is not None and vector is not None:
            scale, shift = self.scale(vector.to(h.dtype))[:, :, None, None].chunk(2, dim=1)
            h = torch.addcmul(h + shift, h, scale)
        return self.skip(x) + self.conv2(nn.functional.silu(h))


class AttentionBlock(nn.Module):
    """Self-attention, cross-attention to the context's tokens, or both, over the places of a feature map."""

    def __init__(self, channels: int, num_heads: int, own: bool, tokens_dim: int | None) -> None:
        super().__init__()
        self.own = nn.ModuleList([_norm(channels), Attention(channels, num_heads)]) if own else None
        self.cross = (
            None
            if tokens_dim is None
            else nn.ModuleList([_norm(channels), Attention(channels, num_heads, context_dim=tokens_dim)])
        )

    def forward(self, x: Tensor, context: Context | None) -> Tensor:
        if self.own is not None:
            norm, attention = self.own
            x = x + _as_map(attention(_as_tokens(norm(x))), x)
        if self.cross is not None and context is not None:
            norm, attention = self.cross
            x = x + _as_map(attention(_as_tokens(norm(x)), context.tokens, context.mask), x)
        return x


def _as_tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def _as_map(tokens: Tensor, like: Tensor) -> Tensor:
    return tokens.transpose(1, 2).reshape(like.shape)


class Block(nn.Module):
    """A residual block and, at the coarsest resolution, attention after it."""

    def __init__(self, residual: ResidualBlock, attention: AttentionBlock | None) -> None:
        super().__init__()
        self.residual, self.attention = residual, attention

    def forward(self, x: Tensor, clock: Tensor, context: Context | None) -> Tensor:
        x = self.residual(x, clock, None if context is None else context.vector)
        return x if self.attention is None else self.attention(x, context)


class Nearest(nn.Conv2d):
    """Each place four times, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.interpolate(x, scale_factor=2.0, mode="nearest"))


class Shuffle(nn.Conv2d):
    """A 1x1 convolution to four places of each."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__(channels_in, 4 * channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pixel_shuffle(super().forward(x), 2)


class UNet(nn.Module):
    """See `UNetOptions`. Call with x (B, C, H, W), clock (B,), or (B, 2) with a gap, and a context; gives
    (B, out_channels, H, W), zero at first."""

    def __init__(self, options: UNetOptions, in_channels: int, out_channels: int, context: ContextSpec | None) -> None:
        super().__init__()
        widths, add_dim = options.channels, vector_dim(context, "add")
        self.patch, self.multiple = options.patch_size, options.patch_size * 2 ** (len(widths) - 1)
        self.clock = ClockEmbedding(options.clock_dim, gap=options.gap)
        self.add = None if add_dim is None else nn.Linear(add_dim, options.clock_dim)
        self.stem = nn.Conv2d(in_channels * self.patch**2, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        now, skips = widths[0], [widths[0]]
        for level, width in enumerate(widths):
            if level > 0:
                self.down.append(nn.Conv2d(now, now, 3, stride=2, padding=1))
                skips.append(now)
            for _ in range(options.blocks[level]):
                self.down.append(_block(options, context, now, width, level))
                now = width
                skips.append(now)
        self.middle = _block(options, context, now, now, len(widths) - 1)
        for level in reversed(range(len(widths))):
            for _ in range(options.blocks[level] + 1):
                self.up.append(_block(options, context, now + skips.pop(), widths[level], level))
                now = widths[level]
            if level > 0:
                shuffled = options.upsample == "shuffle"
                self.up.append(Shuffle(now, widths[level - 1]) if shuffled else Nearest(now))
                now = widths[level - 1] if shuffled else now
        self.norm, self.out = _norm(now), zeroed(nn.Conv2d(now, out_channels * self.patch**2, 3, padding=1))

    def forward(self, x: Tensor, clock: Tensor, context: Context | None = None) -> Tensor:
        height, width = x.shape[-2:]
        x = padded(x.to(self.stem.weight.dtype), self.multiple)
        x = self.stem(nn.functional.pixel_unshuffle(x, self.patch))
        embedded = self.clock(clock)
        if self.add is not None and context is not None and context.vector is not None:
            embedded = embedded + self.add(context.vector.to(embedded.dtype))
        embedded = nn.functional.silu(embedded)
        skips = [x]
        for module in self.down:
            x = module(x, embedded, context) if isinstance(module, Block) else module(x)
            skips.append(x)
        x = self.middle(x, embedded, context)
        for module in self.up:
            x = (
                module(torch.cat([x, skips.pop()], dim=1), embedded, context)
                if isinstance(module, Block)
                else module(x)
            )
        x = self.out(nn.functional.silu(self.norm(x)))
        return nn.functional.pixel_shuffle(x, self.patch)[..., :height, :width]


def _block(options: UNetOptions, context: ContextSpec | None, channels_in: int, channels: int, level: int) -> Block:
    residual = ResidualBlock(channels_in, channels, options.clock_dim, vector_dim(context, "scale"))
    tokens_dim = vector_dim(context, "cross_attention")
    if level < len(options.channels) - 1 or not (options.attention or tokens_dim):
        return Block(residual, None)
    return Block(residual, AttentionBlock(channels, options.num_heads, options.attention, tokens_dim))
