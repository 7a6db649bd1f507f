"""Conditioners: from what a sample is (a label, a vector) to what a net is told.

A condition travels as one tensor with a row a sample, so that dropping, repeating and concatenating conditions need no
knowledge of their kind.
Each conditioner has a learned null that stands for "no condition"; training drops conditions to it sample by sample.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ebbflow.data import Dataset
from ebbflow.nets import Context, ContextSpec, Injection


class Conditioner(nn.Module):
    """Encodes a condition tensor with a row a sample; see `LabelConditioner`."""

    spec: ContextSpec

    @abstractmethod
    def null(self, num: int) -> Tensor:
        """The null condition of `num` samples."""

    @abstractmethod
    def encode(self, cond: Tensor) -> Context:
        """The context of a condition tensor."""

    @abstractmethod
    def conditions(self, dataset: Dataset) -> Tensor | None:
        """The condition of every entry of a data set."""

    def forward(self, cond: Tensor) -> Context:
        return self.encode(cond)

    def drop(self, cond: Tensor, probability: float, generator: torch.Generator) -> Tensor:
        """`cond` with each row on its own replaced by the null with `probability`."""
        gone = torch.rand(len(cond), generator=generator) < probability
        return torch.where(gone.reshape(-1, *[1] * (cond.ndim - 1)), self.null(len(cond)), cond)


class LabelConditioner(Conditioner):
    """A class label, int64 of shape (B,), -1 for the null, as a vector or as a few tokens.

    Args:
        num_classes: labels run from 0 to num_classes - 1.
        dim: width of the vector and of each token.
        injection: how the net takes it.
        num_tokens: tokens a label for cross-attention.
    """

    def __init__(self, num_classes: int, *, dim: int, injection: Injection, num_tokens: int = 4) -> None:
        super().__init__()
        self.num_classes, self.num_tokens = num_classes, num_tokens if injection == "cross_attention" else 1
        self.spec = ContextSpec(dim=dim, injection=injection)
        self.table = nn.Embedding(num_classes + 1, self.num_tokens * dim)
        nn.init.normal_(self.table.weight, std=0.5)

    def null(self, num: int) -> Tensor:
        return torch.full((num,), -1, dtype=torch.long)

    def conditions(self, dataset: Dataset) -> Tensor | None:
        return dataset.labels

    def encode(self, cond: Tensor) -> Context:
        rows = self.table(torch.where(cond < 0, self.num_classes, cond))
        if self.spec.injection == "cross_attention":
            return Context(tokens=rows.unflatten(1, (self.num_tokens, self.spec.dim)))
        return Context(vector=rows)


class ConditionedNet(nn.Module):
    """A net and its conditioner as one module: (x, clock, cond) -> output. What training, EMA and checkpoints hold."""

    def __init__(self, net: nn.Module, conditioner: Conditioner | None) -> None:
        super().__init__()
        self.net, self.conditioner = net, conditioner

    def forward(self, x: Tensor, clock: Tensor, cond: Tensor | None) -> Tensor:
        context = None if self.conditioner is None or cond is None else self.conditioner(cond)
        return self.net(x, clock, context)


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """What a model has to know of its data, kept in its checkpoint so that sampling needs no data.

    Args:
        dims: shape of one sample.
        is_image: whether samples are images scaled to [-1, 1].
        label_names: names of the classes, () without labels.
        latent_dims: shape of one latent where the model works on latents of the samples, else None.
    """

    dims: tuple[int, ...]
    is_image: bool
    label_names: tuple[str, ...] = ()
    latent_dims: tuple[int, ...] | None = None

    @property
    def state_dims(self) -> tuple[int, ...]:
        """Shape of what the model works on."""
        return self.dims if self.latent_dims is None else self.latent_dims


class Conditioning(Protocol):
    """A kind of conditioning as a frozen dataclass that can build its conditioner."""

    def build(self, facts: DataFacts) -> Conditioner | None:
        """The conditioner for data of these facts."""
        ...


@dataclass(frozen=True, kw_only=True)
class NoConditioning:
    """Unconditional."""

    def build(self, facts: DataFacts) -> None:
        """Nothing to build."""
        return


@dataclass(frozen=True, kw_only=True)
class LabelConditioning:
    """By class label, with a learned null for classifier-free guidance.

    Args:
        injection: "add" (where the time goes in), "scale" (scale and shift of features) or "cross_attention".
        dim: width of the label's embedding.
        num_tokens: tokens a label, for cross-attention.
        drop: probability with which training drops a sample's label.
    """

    injection: Injection = "scale"
    dim: int = 128
    num_tokens: int = 4
    drop: float = 0.1

    def __post_init__(self) -> None:
        if self.dim < 1 or self.num_tokens < 1:
            raise ValueError(f"`dim` and `num_tokens` must be at least 1, got {self.dim} and {self.num_tokens}.")
        if not 0 <= self.drop < 1:
            raise ValueError(f"`drop` must be in [0, 1), got {self.drop}.")

    def build(self, facts: DataFacts) -> LabelConditioner:
        """A `LabelConditioner`.

        Raises:
            ValueError: the data has no labels.
        """
        if not facts.label_names:
            raise ValueError(
                "conditioning 'label' needs labelled data, and this data has no labels. Use conditioning.kind=none."
            )
        return LabelConditioner(
            len(facts.label_names), dim=self.dim, injection=self.injection, num_tokens=self.num_tokens
        )


@dataclass(frozen=True, kw_only=True)
class AutoConditioning:
    """`LabelConditioning` with its defaults where the data has labels, else none."""

    def build(self, facts: DataFacts) -> LabelConditioner | None:
        """What `resolved` builds."""
        return self.resolved(facts).build(facts)

    def resolved(self, facts: DataFacts) -> LabelConditioning | NoConditioning:
        """The kind that this data gets."""
        return LabelConditioning() if facts.label_names else NoConditioning()


CONDITIONINGS: dict[str, type[AutoConditioning] | type[NoConditioning] | type[LabelConditioning]] = {
    "auto": AutoConditioning,
    "none": NoConditioning,
    "label": LabelConditioning,
}


def label_indices(wanted: Sequence[str | int], label_names: Sequence[str]) -> list[int]:
    """Class indices of labels given by name or by index.

    Raises:
        ValueError: a label that the data does not have.
    """
    found = []
    for label in wanted:
        text = str(label)
        if text in label_names:
            found.append(list(label_names).index(text))
        elif text.isdigit() and int(text) < len(label_names):
            found.append(int(text))
        else:
            raise ValueError(
                f"label {text!r} is unknown to this run. Known: {', '.join(label_names)} (or 0 to "
                f"{len(label_names) - 1})."
            )
    return found
