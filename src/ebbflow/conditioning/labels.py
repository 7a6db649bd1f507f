"""Conditioning on class labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ebbflow.conditioning.base import ByTokens, Conditioner, DataFacts
from ebbflow.core.condition import Condition
from ebbflow.core.device import sent
from ebbflow.data import Dataset
from ebbflow.nets import Context, ContextSpec, Injection


class LabelConditioner(Conditioner):
    """A class label, int64 of shape (B,), -1 for the null, as a vector or as a few tokens.

    Args:
        num_classes: labels run from 0 to num_classes - 1.
        dim: width of the vector and of each token.
        injection: how the net takes it.
        num_tokens: tokens a label for cross-attention.
    """

    takes = "class labels"

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

    def of_label(self, label: int) -> Tensor:
        return torch.tensor(in_range(label, self.num_classes))

    def encode(self, cond: Tensor) -> Context:
        cond = sent(cond, self.table.weight.device)
        return self.context_of(self.table(torch.where(cond < 0, self.num_classes, cond)))


@dataclass(frozen=True, kw_only=True)
class LabelConditioning(ByTokens):
    """By class label, with a learned null for classifier-free guidance.

    Args:
        injection: "add" (where the time goes in), "scale" (scale and shift of features) or "cross_attention".
        dim: width of the label's embedding.
        num_tokens: tokens a label, for cross-attention.
        drop: probability with which training drops a sample's label.
    """

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

    def examples(self, facts: DataFacts) -> tuple[Condition, ...]:
        """Every class."""
        return tuple(range(len(facts.label_names)))


def in_range(label: int, num_classes: int) -> int:
    """`label`, which is a class.

    Raises:
        ValueError: it is none.
    """
    if not 0 <= label < num_classes:
        raise ValueError(f"a label must be in [0, {num_classes}), got {label}.")
    return label


def label_indices(labels: Sequence[str | int], label_names: Sequence[str]) -> list[int]:
    """Class indices of labels given by name or, where names are no numbers, by index.

    Raises:
        ValueError: a label that the data does not have.
    """
    if not label_names:
        raise ValueError("this run knows no labels, so there are none to choose. Leave the labels out.")
    found, numbered = [], any(name.isdecimal() for name in label_names)
    for label in labels:
        text = str(label)
        if text in label_names:
            found.append(list(label_names).index(text))
        elif text.isdecimal() and int(text) < len(label_names) and not numbered:
            found.append(int(text))
        else:
            or_index = "" if numbered else f" (or 0 to {len(label_names) - 1})"
            raise ValueError(f"label {text!r} is unknown to this run. Known: {', '.join(label_names)}{or_index}.")
    return found
