"""How a user's words become conditions of a model from elsewhere: prompts and class indices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ebbflow.core.condition import Cond, Condition, cat_rows, expand_rows
from ebbflow.data import Dataset
from ebbflow.interop.text import Encode, Encoded, Parts

REMEMBERED = 64  # prompts; one of SD3 or Flux takes about 5 MB in float32


@dataclass(frozen=True, kw_only=True)
class Classes:
    """Class indices as a net takes them, the null one being the one behind the last."""

    names: tuple[str, ...]
    device: torch.device
    null_trained: bool = True

    def read(self, conditions: Sequence[Condition]) -> Tensor:
        """The indices, int64 (B,).

        Raises:
            ValueError: something else than an index, or one that the net does not have.
        """
        if not all(isinstance(one, int) and 0 <= one < len(self.names) for one in conditions):
            raise ValueError(f"this model takes class indices 0 to {len(self.names) - 1}, got {list(conditions)}.")
        return torch.tensor(conditions, device=self.device)

    def null(self, num: int) -> Tensor:
        """The index that stands for no class, int64 (num,)."""
        return torch.full((num,), len(self.names), device=self.device)

    def conditions(self, dataset: Dataset) -> Tensor | None:
        """The labels of a data set; None where it has none."""
        return dataset.labels


class Prompts:
    """Reads prompts into conditions; each distinct one is encoded once while it is among the last `REMEMBERED`.

    Args:
        parts: tokenisers and encoders.
        encode: (parts, prompt) -> a row of each tensor.
        fixed: tensors of one row that every condition has besides.
        zero_null: the null condition is zeros, and not the empty prompt.
    """

    null_trained = True

    def __init__(self, parts: Parts, encode: Encode, *, fixed: Encoded, zero_null: bool) -> None:
        self.zero_null = zero_null

        @lru_cache(maxsize=REMEMBERED)
        def remembered(prompt: str) -> Encoded:
            with torch.no_grad():
                return {**encode(parts, prompt), **fixed}

        self._row, self._fixed = remembered, fixed

    def read(self, conditions: Sequence[Condition]) -> Cond:
        """The conditions of prompts, a row each.

        Raises:
            ValueError: something else than a prompt.
        """
        prompts = [one for one in conditions if isinstance(one, str)]
        if len(prompts) != len(conditions):
            raise ValueError("this model takes prompts only: no class indices and no vectors. Give prompts.")
        return cat_rows([self._row(prompt) for prompt in prompts])

    def null(self, num: int) -> Cond:
        """The null condition of `num` samples, as guidance was trained with."""
        row = self._row("")
        if self.zero_null:
            row = {name: row[name] if name in self._fixed else torch.zeros_like(row[name]) for name in row}
        return expand_rows(row, num)

    def conditions(self, dataset: Dataset) -> Cond | None:
        """The captions of a data set; None where it has none."""
        return self.read(dataset.captions) if dataset.captions else None
