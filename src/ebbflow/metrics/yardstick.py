"""What samples are measured with: features, the real data's own, and real data in the place of samples."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ebbflow.data import Dataset
from ebbflow.metrics.features import Classifier, FeatureMap, features_of
from ebbflow.metrics.measure import Sets
from ebbflow.metrics.scores import Comparison
from ebbflow.progress import Work


@dataclass(frozen=True, kw_only=True)
class Features:
    """A feature map, and a classifier where the data has labels (perhaps the same)."""

    map: FeatureMap
    classifier: Classifier | None

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

    def sets(self, made: Made, labels: tuple[int, ...] | None, num: int) -> Sets:
        """Samples beside the reference, in measurements of `num`; `labels` is what each was asked to be."""
        comparison = Comparison(
            real=self.real,
            generated=made.features,
            real_classes=self.reference.labels,
            classes=made.classes,
            labels=None if labels is None else torch.tensor(labels),
            num_classes=self.reference.num_classes,
        )
        others = {"other_classes": self.other_classes, "other_labels": self.other_labels}
        return Sets(comparison=comparison, num=num, other=self.other, **others)

    @cached_property
    def floor(self) -> Comparison | None:
        """Real data in the place of samples; None where it is too little."""
        return self.sets(Made(features=self.other, classes=None, first=self.other), None, 1).floor


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
