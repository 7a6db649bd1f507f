"""The MLP for points."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ebbflow.nets.blocks import Attention, ClockEmbedding, zeroed
from ebbflow.nets.context import Context, ContextSpec, vector_dim
from ebbflow.values import Depth, Width, check_fields


@dataclass(frozen=True, kw_only=True)
class MLPOptions:
    """A residual MLP for samples of any shape, flattened; made for 2-D points.

    Args:
        dim: width.
        depth: number of residual layers.
        num_heads: heads of the cross-attention, when conditioned so; must divide `dim`.
        gap: whether it is told the gap of a jump beside the clock, as a `FlowMap` is.
    """

    dim: Width = 128
    depth: Depth = 4
    num_heads: Width = 4
    gap: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if self.dim % self.num_heads:
            raise ValueError(f"`dim` must be a multiple of `num_heads`, got {self.dim} and {self.num_heads}.")

    def build(self, dims: tuple[int, ...], out_channels: int, context: ContextSpec | None) -> MLP:
        """The net for samples of `dims`; `out_channels` replaces the first of them in the output."""
        return MLP(self, dims, out_channels, context)


class MLP(nn.Module):
    """See `MLPOptions`. Call with x (B, *dims), clock (B,), or (B, 2) with a gap, and a context; gives
    (B, out_channels, *dims[1:]), zero at first."""

    def __init__(
        self, options: MLPOptions, dims: tuple[int, ...], out_channels: int, context: ContextSpec | None
    ) -> None:
        super().__init__()
        dim, tokens_dim = options.dim, vector_dim(context, "cross_attention")
        self.out_dims = (out_channels, *dims[1:])
        self.embed, self.clock = nn.Linear(torch.Size(dims).numel(), dim), ClockEmbedding(dim, gap=options.gap)
        self.add = None if (add_dim := vector_dim(context, "add")) is None else nn.Linear(add_dim, dim)
        self.scale = None if (scale_dim := vector_dim(context, "scale")) is None else nn.Linear(scale_dim, 2 * dim)
        self.cross = None if tokens_dim is None else Attention(dim, options.num_heads, context_dim=tokens_dim)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim))
            for _ in range(options.depth)
        )
        self.norm, self.out = nn.LayerNorm(dim), zeroed(nn.Linear(dim, torch.Size(self.out_dims).numel()))

    def forward(self, x: Tensor, clock: Tensor, context: Context | None = None) -> Tensor:
        h = self.embed(x.flatten(1).to(self.embed.weight.dtype))
        embedded = self.clock(clock)
        vector = None if context is None or context.vector is None else context.vector.to(h.dtype)
        if self.add is not None and vector is not None:
            embedded = embedded + self.add(vector)
        scale = shift = None
        if self.scale is not None and vector is not None:
            scale, shift = self.scale(vector).chunk(2, dim=1)
        for layer in self.layers:
            inner = h + embedded
            h = h + layer(inner if scale is None else torch.addcmul(inner + shift, inner, scale))
            if self.cross is not None and context is not None:
                h = h + self.cross(h[:, None], context.tokens, context.mask)[:, 0]
        return self.out(self.norm(h)).reshape(-1, *self.out_dims)
