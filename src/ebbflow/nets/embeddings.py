"""Embeddings of the clock and of places in an image."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ebbflow.nets.attention import zeroed


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
