"""The reference of an evaluation: a feature map, the real data's features, and real data in the place of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ebbflow.data import Dataset
from ebbflow.metrics.features import ClassifierFeatures, FeatureMap, features_of
from ebbflow.metrics.scores import Comparison
from ebbflow.progress import Work


@dataclass(frozen=True, kw_only=True)
class Features:
    """A feature map, and a classifier where the data has labels (perhaps the same)."""

    map: FeatureMap
    classifier: ClassifierFeatures | None

    def of(self, x0: Tensor) -> dict[str, Tensor]:
        """{"features"} and, with a classifier, {"classes"} of x0 float32 (B, *dims)."""
        features = self.map(x0)
        if self.classifier is None:
            return {"features": features}
        own = features if self.classifier.name == self.map.name else self.classifier(x0)
        return {"features": features, "classes": self.classifier.classes(own)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Made:
    """What is kept of samples: features (N, D), classes int64 (N,) or None, and the first few themselves."""

    features: Tensor
    classes: Tensor | None
    first: Tensor

    @classmethod
    def of(cls, seen: Sequence[Mapping[str, Tensor]], first: Tensor) -> Made:
        """Samples out of what `Features.of` gave of their batches."""
        both = {kind: torch.cat([one[kind] for one in seen]) for kind in ("features", "classes") if kind in seen[0]}
        return cls(features=both["features"], classes=both.get("classes"), first=first)


@dataclass(frozen=True, kw_only=True, eq=False)
class Yardstick:
    """What samples are measured with.

    Args:
        features: of samples.
        reference: real data that samples are compared with.
        real: its features (N, D).
        other: features (n, D) of real data outside the reference, for the floor.
        other_classes, other_labels: what the classifier takes those for, and what they are; None without labels.
    """

    features: Features
    reference: Dataset
    real: Tensor
    other: Tensor
    other_classes: Tensor | None
    other_labels: Tensor | None

    def comparison(self, made: Made, labels: tuple[int, ...] | None) -> Comparison:
        """Samples beside the reference; `labels` is what each was asked to be."""
        return Comparison(
            real=self.real,
            generated=made.features,
            real_classes=self.reference.labels,
            classes=made.classes,
            labels=None if labels is None else torch.tensor(labels),
            num_classes=self.reference.num_classes,
        )

    @cached_property
    def floor(self) -> Comparison | None:
        """Real data in the place of samples; None where it is too little for a covariance of full rank."""
        if len(self.other) <= self.other.shape[1]:
            return None
        real = self.comparison(Made(features=self.other, classes=self.other_classes, first=self.other), None)
        return replace(real, labels=self.other_labels)


def yardstick_of(features: Features, reference: Dataset, other: Dataset) -> Work[Yardstick]:
    """The yardstick of a reference and of real data outside it, which may be empty."""
    classifier, classes = features.classifier, None
    if classifier is not None and len(other):
        classes = classifier.classes(classifier(other.x0(torch.arange(len(other)))))
    return Yardstick(
        features=features,
        reference=reference,
        real=(yield from features_of(features.map, reference)),
        other=(yield from features_of(features.map, other)),
        other_classes=classes,
        other_labels=other.labels,
    )
