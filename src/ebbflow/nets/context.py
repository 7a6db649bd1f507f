"""Contexts: encoded conditions, which a net is told besides x and the clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Injection = Literal["add", "scale", "cross_attention"]


@dataclass(frozen=True, kw_only=True)
class Context:
    """A condition, encoded.

    Args:
        vector: shape (B, dim), for injection by addition or by scale.
        tokens: shape (B, N, dim), for cross-attention.
        mask: bool of shape (B, N), True where a token may be attended to; None for all.
        image: shape (B, C, H, W), which joins the channels of the input.
    """

    vector: Tensor | None = None
    tokens: Tensor | None = None
    mask: Tensor | None = None
    image: Tensor | None = None

    def expanded(self, num: int) -> Context:
        """A context of a single row, repeated for `num` samples; another one as it is."""
        rows = {name: k for name, k in vars(self).items() if k is not None}
        if num == 1 or any(len(k) != 1 for k in rows.values()):
            return self
        return Context(**{name: k.expand(num, *k.shape[1:]) for name, k in rows.items()})


@dataclass(frozen=True, kw_only=True)
class ContextSpec:
    """What contexts a net has to expect.

    Args:
        dim: width of the vector and of the tokens.
        injection: "add" (to what the net adds its time to, or to its tokens), "scale" (a scale and shift of every
            block's features), or "cross_attention" to the tokens.
    """

    dim: int
    injection: Injection


def vector_dim(spec: ContextSpec | None, injection: Injection) -> int | None:
    """The width of the vector when the context enters by `injection`, else None."""
    return spec.dim if spec is not None and spec.injection == injection else None
