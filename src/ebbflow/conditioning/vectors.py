"""Conditioning on vectors: one-hot classes and their mixtures, or whatever numbers the data brings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ebbflow.conditioning.base import ByTokens, Conditioner, DataFacts
from ebbflow.conditioning.labels import in_range
from ebbflow.core.condition import Condition
from ebbflow.core.device import sent
from ebbflow.data import Dataset
from ebbflow.nets import Context, ContextSpec, Injection

Source = Literal["label", "data"]


class VectorConditioner(Conditioner):
    """A vector, float32 of shape (B, 1 + size), as a vector or as a few tokens.

    Column 0 says whether there is a vector; the null is a row of zeros, and what the net is told of it is learned.

    Args:
        size: numbers in a vector.
        source: "label" for one-hot vectors of the labels, "data" for the vectors that the data brings.
        dim: width of the embedding and of each token.
        injection: how the net takes it.
        num_tokens: tokens a vector for cross-attention.
    """

    takes = "vectors"

    def __init__(self, size: int, *, source: Source, dim: int, injection: Injection, num_tokens: int = 4) -> None:
        super().__init__()
        self.size, self.source = size, source
        self.num_tokens = num_tokens if injection == "cross_attention" else 1
        self.spec = ContextSpec(dim=dim, injection=injection)
        self.embed = nn.Sequential(nn.Linear(size, dim), nn.SiLU(), nn.Linear(dim, self.num_tokens * dim))
        self.nothing = nn.Parameter(0.5 * torch.randn(self.num_tokens * dim))

    def null(self, num: int) -> Tensor:
        return torch.zeros(num, 1 + self.size)

    def conditions(self, dataset: Dataset) -> Tensor | None:
        if self.source == "data":
            return None if dataset.vectors is None else _present(dataset.vectors)
        if dataset.labels is None:
            return None
        return _present(nn.functional.one_hot(dataset.labels, self.size).float())

    def of_label(self, label: int) -> Tensor:
        if self.source == "data":
            return super().of_label(label)
        return self.of_vector(tuple(float(i == in_range(label, self.size)) for i in range(self.size)))

    def of_vector(self, vector: tuple[float, ...]) -> Tensor:
        if len(vector) != self.size:
            raise ValueError(f"vectors of this run have {self.size} numbers, got {len(vector)}.")
        if not all(math.isfinite(value) for value in vector):
            raise ValueError(f"the numbers of a vector must be finite, got {list(vector)}.")
        return _present(torch.tensor([vector], dtype=torch.float32))[0]

    def encode(self, cond: Tensor) -> Context:
        values = sent(cond, self.nothing.device).to(self.nothing.dtype)
        return self.context_of(torch.where(values[:, :1] > 0, self.embed(values[:, 1:]), self.nothing))


def _present(vectors: Tensor) -> Tensor:
    return torch.cat([torch.ones(len(vectors), 1), vectors], dim=1)


@dataclass(frozen=True, kw_only=True)
class VectorConditioning(ByTokens):
    """By a vector: the one-hot vector of the label, or numbers that the data brings, with a learned null.

    Sampling takes any vector, such as a mixture of classes.

    Args:
        source: "label" for one-hot vectors of the labels, "data" for the array `vectors` of an .npz file.
        injection: "add" (where the time goes in), "scale" (scale and shift of features) or "cross_attention".
        dim: width of the embedding.
        num_tokens: tokens a vector, for cross-attention.
        drop: probability with which training drops a sample's vector.
    """

    source: Source = "label"

    def build(self, facts: DataFacts) -> VectorConditioner:
        """A `VectorConditioner`.

        Raises:
            ValueError: the data has no labels, or no vectors.
        """
        size = len(facts.label_names) if self.source == "label" else len(facts.vectors[0]) if facts.vectors else 0
        if not size:
            needed = "labelled data" if self.source == "label" else "an .npz file with an array `vectors`"
            raise ValueError(
                f"conditioning 'vector' with source '{self.source}' needs {needed}, and this data is none. Use "
                "conditioning.kind=none, or another conditioning.source."
            )
        return VectorConditioner(
            size, source=self.source, dim=self.dim, injection=self.injection, num_tokens=self.num_tokens
        )

    def examples(self, facts: DataFacts) -> tuple[Condition, ...]:
        """Every class, or the first few vectors of the data."""
        return tuple(range(len(facts.label_names))) if self.source == "label" else facts.vectors
