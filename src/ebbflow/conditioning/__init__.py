"""Conditioners: from what a sample is (a label, a vector, a text) to what a net is told.

A condition travels as one tensor with a row a sample, so that dropping, repeating and concatenating conditions need no
knowledge of their kind.
Each conditioner has a learned null that stands for "no condition"; training drops conditions to it sample by sample.
"""

from __future__ import annotations

from dataclasses import dataclass

from ebbflow.conditioning.base import ConditionedNet, Conditioner, Conditioning, DataFacts
from ebbflow.conditioning.images import ImageConditioner, ImageConditioning
from ebbflow.conditioning.labels import LabelConditioner, LabelConditioning, label_indices
from ebbflow.conditioning.pretrained import PretrainedEncoder, PretrainedTextConditioning
from ebbflow.conditioning.text import ByteEncoder, TextConditioning
from ebbflow.conditioning.vectors import VectorConditioner, VectorConditioning
from ebbflow.core.condition import Condition

__all__ = [
    "CONDITIONINGS",
    "AutoConditioning",
    "ByteEncoder",
    "ConditionedNet",
    "Conditioner",
    "Conditioning",
    "DataFacts",
    "ImageConditioner",
    "ImageConditioning",
    "LabelConditioner",
    "LabelConditioning",
    "NoConditioning",
    "PretrainedEncoder",
    "TextConditioning",
    "VectorConditioner",
    "VectorConditioning",
    "label_indices",
]


@dataclass(frozen=True, kw_only=True)
class NoConditioning:
    """No condition: the model is unconditional."""

    def build(self, facts: DataFacts) -> None:
        """Nothing to build."""
        return

    def examples(self, facts: DataFacts) -> tuple[Condition, ...]:
        """None."""
        return ()


@dataclass(frozen=True, kw_only=True)
class AutoConditioning:
    """`LabelConditioning` with its defaults where the data has labels, else `TextConditioning` where it has captions,
    else none."""

    def build(self, facts: DataFacts) -> Conditioner | None:
        """What `resolved` builds."""
        return self.resolved(facts).build(facts)

    def examples(self, facts: DataFacts) -> tuple[Condition, ...]:
        """What `resolved` samples."""
        return self.resolved(facts).examples(facts)

    def resolved(self, facts: DataFacts) -> LabelConditioning | TextConditioning | NoConditioning:
        """The kind that this data gets."""
        return LabelConditioning() if facts.label_names else TextConditioning() if facts.captions else NoConditioning()


CONDITIONINGS: dict[str, type[Conditioning]] = {
    "auto": AutoConditioning,
    "none": NoConditioning,
    "label": LabelConditioning,
    "vector": VectorConditioning,
    "image": ImageConditioning,
    "text": TextConditioning,
    "pretrained_text": PretrainedTextConditioning,
}
