"""What nets are made of: attention, embeddings of clocks and places, norms, padding."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ebbflow.nets.fused import Linear, is_trained

EXPLICIT_LIMIT = 256  # on a CPU the fused kernel's bf16 backward loses to three matmuls up to about this many tokens


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v for (B, heads, N, d); `mask` bool of shape (B, M), True where a key may be seen."""
    allowed = None if mask is None else mask[:, None, None, :]
    if q.device.type != "cpu" or max(q.shape[2], k.shape[2]) > EXPLICIT_LIMIT:
        return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
    scores = (q * (1 / math.sqrt(q.shape[-1]))) @ k.transpose(-2, -1)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1) @ v


class Attention(nn.Module):
    """Multi-head attention of x (B, N, dim) to itself, or to tokens (B, M, context_dim); the output projection starts
    at zero.

    Raises:
        ValueError: `dim` is not a multiple of `num_heads`.
    """

    def __init__(self, dim: int, num_heads: int, context_dim: int | None = None) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"width {dim} must be a multiple of the number of heads, got {num_heads} heads.")
        self.num_heads, self.is_self = num_heads, context_dim is None
        if context_dim is None:
            self.qkv = Linear(dim, 3 * dim)
        else:
            self.q, self.kv = Linear(dim, dim), Linear(context_dim, 2 * dim)
        self.out = zeroed(Linear(dim, dim))

    def forward(self, x: Tensor, tokens: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        if self.is_self or tokens is None:
            q, k, v = self._heads(self.qkv(x), 3)
        else:
            (q,), (k, v) = self._heads(self.q(x), 1), self._heads(self.kv(tokens.to(x.dtype)), 2)
        return self.out(attend(q, k, v, mask).transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        return x.reshape(*x.shape[:2], parts, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


def zeroed(module: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    """`module` with all its parameters at zero, so that a fresh branch adds nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def frequencies(values: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """cos and sin of `values`, shape (...,), at dim/2 frequencies from 1 to 1/max_period; shape (..., dim) in
    float32."""
    rates = torch.exp(
        torch.arange(dim // 2, device=values.device, dtype=torch.float32) * (-math.log(max_period) / (dim // 2))
    )
    angles = values.float()[..., None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class ClockEmbedding(nn.Module):
    """The clock (B,), on a scale of about 1000, as a vector (B, dim): sinusoids and a two-layer MLP.

    Each frequency passes half a turn between 1 and 10,000 units, so neighbouring thousandths of the clock stay distinct
    and its derivative stays bounded. A net that is to jump has an embedding of the gap too, and is told both: a clock
    (B, 2), the gap in the second column.
    """

    def __init__(self, dim: int, num_frequencies: int = 128, gap: bool = False) -> None:
        super().__init__()
        self.num_frequencies = num_frequencies
        self.first, self.second = nn.Linear(num_frequencies, dim), nn.Linear(dim, dim)
        self.gap = GapEmbedding(dim) if gap else None

    def forward(self, clock: Tensor) -> Tensor:
        told = clock if clock.ndim == 1 else clock[:, 0]
        waves = frequencies(told, self.num_frequencies).to(self.first.weight.dtype)
        embedded = self.second(nn.functional.silu(self.first(waves)))
        if clock.ndim == 1:
            return embedded
        if self.gap is None:
            raise ValueError("this net has no embedding of a gap, so it cannot jump. Build it with gap=True.")
        return embedded + self.gap(clock[:, 1])


class GapEmbedding(nn.Module):
    """The gap of a jump (B,), on a scale of a few units, as a vector (B, dim) that is 0 at gap 0 whatever was learned,
    and 0 everywhere at first.

    Its waves vanish at 0 and nothing after them has a bias, so that a net's answers without a gap are its answers at
    gap 0.
    """

    def __init__(self, dim: int, num_frequencies: int = 32) -> None:
        super().__init__()
        self.num_frequencies = num_frequencies
        self.first = nn.Linear(num_frequencies, dim, bias=False)
        self.second = zeroed(nn.Linear(dim, dim, bias=False))

    def forward(self, gap: Tensor) -> Tensor:
        cos, sin = frequencies(gap, self.num_frequencies, max_period=30.0).chunk(2, dim=-1)
        waves = torch.cat([cos - 1, sin], dim=-1).to(self.first.weight.dtype)
        return self.second(nn.functional.silu(self.first(waves)))


def grid_embedding(height: int, width: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Sinusoids of row and column for each place of a grid, float32 of shape (height * width, dim); any size, nothing
    learned."""
    half = dim // 4 * 2
    rows = frequencies(torch.arange(height, device=device), half)[:, None].expand(height, width, half)
    columns = frequencies(torch.arange(width, device=device), half)[None].expand(height, width, half)
    both = torch.cat([rows, columns], dim=-1).reshape(height * width, 2 * half)
    return nn.functional.pad(both, (0, dim - 2 * half))


class GroupNorm(nn.GroupNorm):
    """Group normalisation. Where a CPU trains under autocast, features in bfloat16 stay so, with float32 statistics;
    autocast would have torch's in float32, two passes over memory more."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.bfloat16 or not is_trained(x, self.weight):
            return super().forward(x)
        shape = (x.shape[0], x.shape[1], x[0, 0].numel(), self.num_groups)
        out: Tensor = torch.native_group_norm(x, self.weight, self.bias, *shape, self.eps)[0]
        return out


def group_norm(channels: int, smallest: int = 4) -> GroupNorm:
    """Group normalisation in 8 groups, or in as many of 4, 2 or 1 as divide `channels` and leave `smallest` in each.

    A group of a single channel would subtract what the clock and the context add to it.
    """
    groups = next(g for g in (8, 4, 2, 1) if channels % g == 0 and (g == 1 or channels // g >= smallest))
    return GroupNorm(groups, channels)


def padded(x: Tensor, multiple: int) -> Tensor:
    """`x`, shape (B, C, H, W), grown below and to the right to multiples of `multiple` by repeating its edge."""
    below, right = (-n % multiple for n in x.shape[-2:])
    return nn.functional.pad(x, (0, right, 0, below), mode="replicate") if below or right else x
