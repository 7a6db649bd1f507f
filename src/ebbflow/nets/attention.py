"""Attention, written out where few tokens make that faster."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ebbflow.nets.fused import Linear

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
