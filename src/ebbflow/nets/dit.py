"""The diffusion transformer: patches as tokens, blocks modulated by the clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor, nn

from ebbflow.nets.blocks import Attention, ClockEmbedding, grid_embedding, padded, zeroed
from ebbflow.nets.context import Context, ContextSpec, vector_dim
from ebbflow.nets.fused import GELU, Linear
from ebbflow.values import Depth, Width, check_fields


@dataclass(frozen=True, kw_only=True)
class DiTOptions:
    """A DiT with adaLN-Zero (Peebles & Xie, 2022, section 3.2, 2212.09748).

    Args:
        patch_size: side of the square patch that makes one token.
        dim: width of a token.
        depth: number of blocks.
        num_heads: attention heads; must divide `dim`.
        mlp_ratio: width of the feed-forward layer over `dim`.
        gap: whether it is told the gap of a jump beside the clock, as a `FlowMap` is.
    """

    patch_size: Width = 4
    dim: Width = 192
    depth: Depth = 6
    num_heads: Width = 6
    mlp_ratio: Annotated[float, Interval(gt=0, le=64)] = 4.0
    gap: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if self.mlp_ratio < 1 / self.dim:
            raise ValueError(f"`mlp_ratio` must be in [1 / `dim`, 64], got {self.mlp_ratio}.")
        if self.dim % self.num_heads:
            raise ValueError(f"`dim` must be a multiple of `num_heads`, got {self.dim} and {self.num_heads}.")

    def build(self, dims: tuple[int, ...], out_channels: int, context: ContextSpec | None) -> DiT:
        """The net for samples of `dims` (C, H, W); any H and W, padded inside to a multiple of `patch_size`."""
        if len(dims) != 3:
            raise ValueError(f"net 'dit' works on images (C, H, W); these samples have shape {dims}. Use net.kind=mlp.")
        return DiT(self, dims, out_channels, context)


class DiTBlock(nn.Module):
    """Self-attention, cross-attention when conditioned so, and an MLP, each gated; scale, shift and gate come from the
    clock, gates start at 0."""

    def __init__(self, options: DiTOptions, tokens_dim: int | None) -> None:
        super().__init__()
        dim, hidden = options.dim, int(options.dim * options.mlp_ratio)
        self.norm1, self.norm2 = (nn.LayerNorm(dim, elementwise_affine=False) for _ in range(2))
        self.attention = Attention(dim, options.num_heads)
        nn.init.xavier_uniform_(self.attention.out.weight)
        self.cross = None if tokens_dim is None else Attention(dim, options.num_heads, context_dim=tokens_dim)
        self.norm_cross = None if tokens_dim is None else nn.LayerNorm(dim)
        self.mlp = nn.Sequential(Linear(dim, hidden), GELU(), Linear(hidden, dim))
        self.modulation = zeroed(nn.Linear(dim, 6 * dim))

    def forward(self, x: Tensor, clock: Tensor, context: Context | None) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(clock)[:, None].chunk(6, dim=2)
        x = torch.addcmul(x, gate1, self.attention(modulate(self.norm1(x), shift1, scale1)))
        if self.cross is not None and self.norm_cross is not None and context is not None:
            x = x + self.cross(self.norm_cross(x), context.tokens, context.mask)
        return torch.addcmul(x, gate2, self.mlp(modulate(self.norm2(x), shift2, scale2)))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (1 + scale) + shift."""
    return torch.addcmul(x + shift, x, scale)


class DiT(nn.Module):
    """See `DiTOptions`. Call with x (B, C, H, W), clock (B,), or (B, 2) with a gap, and a context; gives
    (B, out_channels, H, W), zero at first."""

    places: Tensor

    def __init__(
        self, options: DiTOptions, dims: tuple[int, ...], out_channels: int, context: ContextSpec | None
    ) -> None:
        super().__init__()
        self.patch, self.dim, self.out_channels = options.patch_size, options.dim, out_channels
        scale_dim, add_dim = vector_dim(context, "scale"), vector_dim(context, "add")
        self.clock = ClockEmbedding(options.dim, gap=options.gap)
        self.scale = None if scale_dim is None else nn.Linear(scale_dim, options.dim)
        self.add = None if add_dim is None else nn.Linear(add_dim, options.dim)
        self.embed = nn.Linear(dims[0] * self.patch**2, options.dim)
        tokens_dim = vector_dim(context, "cross_attention")
        self.blocks = nn.ModuleList(DiTBlock(options, tokens_dim) for _ in range(options.depth))
        self.norm = nn.LayerNorm(options.dim, elementwise_affine=False)
        self.modulation = zeroed(nn.Linear(options.dim, 2 * options.dim))
        self.out = zeroed(nn.Linear(options.dim, out_channels * self.patch**2))
        self.grid = (-(-dims[1] // self.patch), -(-dims[2] // self.patch))
        self.register_buffer("places", grid_embedding(*self.grid, self.dim), persistent=False)

    def forward(self, x: Tensor, clock: Tensor, context: Context | None = None) -> Tensor:
        height, width = x.shape[-2:]
        patches, rows, columns = self._patches(x.to(self.embed.weight.dtype))
        places = self.places if (rows, columns) == self.grid else grid_embedding(rows, columns, self.dim, x.device)
        h = self.embed(patches) + places.to(patches)
        embedded = self.clock(clock)
        vector = None if context is None or context.vector is None else context.vector.to(embedded.dtype)
        if self.scale is not None and vector is not None:
            embedded = embedded + self.scale(vector)
        if self.add is not None and vector is not None:
            h = h + self.add(vector)[:, None]
        embedded = nn.functional.silu(embedded)
        for block in self.blocks:
            h = block(h, embedded, context)
        shift, scale = self.modulation(embedded)[:, None].chunk(2, dim=2)
        return self._image(self.out(modulate(self.norm(h), shift, scale)), rows, columns)[..., :height, :width]

    def _patches(self, x: Tensor) -> tuple[Tensor, int, int]:
        x = padded(x, self.patch)
        rows, columns = x.shape[-2] // self.patch, x.shape[-1] // self.patch
        blocks = x.reshape(*x.shape[:2], rows, self.patch, columns, self.patch)
        return blocks.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2), rows, columns

    def _image(self, tokens: Tensor, rows: int, columns: int) -> Tensor:
        blocks = tokens.reshape(-1, rows, columns, self.out_channels, self.patch, self.patch)
        return blocks.permute(0, 3, 1, 4, 2, 5).reshape(-1, self.out_channels, rows * self.patch, columns * self.patch)
