"""The reference of an evaluation: a feature map, the real data's features, and real data in the place of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ebbflow.data import Dataset
from ebbflow.metrics.contrast import agreement
from ebbflow.metrics.feature_map import FeatureMap
from ebbflow.metrics.features import ClassifierFeatures, ContrastFeatures, features_of
from ebbflow.metrics.measure import table
from ebbflow.metrics.scores import CHUNK, Comparison
from ebbflow.progress import Work


@dataclass(frozen=True, kw_only=True)
class Features:
    """A feature map, a classifier where the data has labels (perhaps the same), and a scorer of captions where samples
    have those."""

    map: FeatureMap
    classifier: ClassifierFeatures | None
    scorer: ContrastFeatures | None = None

    def of(self, x0: Tensor) -> dict[str, Tensor]:
        """{"features"} and, with a classifier, {"classes"}, with a scorer of captions {"vectors"}, of x0 float32
        (B, *dims)."""
        found = {"features": self.map(x0)}
        if self.classifier is not None:
            own = found["features"] if self.classifier.name == self.map.name else self.classifier(x0)
            found["classes"] = self.classifier.classes(own)
        return found if self.scorer is None else found | {"vectors": self.scorer.of_pictures(x0)}

    def agrees(self, vectors: Tensor | None, texts: Sequence[str] | None) -> Tensor | None:
        """Whether each picture's own caption fits it best, float (N,); None without a scorer, or two captions."""
        if self.scorer is None or vectors is None or texts is None or len(set(texts)) < 2:
            return None
        return agreement(vectors, self.scorer.of_texts(texts), texts)


@dataclass(frozen=True, kw_only=True, eq=False)
class Made:
    """What is kept of samples: features (N, D), classes int64 (N,) or None, the first few themselves, and vectors
    (N, E) to hold beside those of captions, or None."""

    features: Tensor
    classes: Tensor | None
    first: Tensor
    vectors: Tensor | None = None

    @classmethod
    def of(cls, seen: Sequence[Mapping[str, Tensor]], first: Tensor) -> Made:
        """Samples out of what `Features.of` gave of their batches."""
        kinds = [kind for kind in ("features", "classes", "vectors") if kind in seen[0]]
        found = {kind: torch.cat([one[kind] for one in seen]) for kind in kinds}
        return cls(features=found["features"], classes=found.get("classes"), first=first, vectors=found.get("vectors"))


@dataclass(frozen=True, kw_only=True, eq=False)
class Yardstick:
    """What samples are measured with.

    Args:
        features: of samples.
        reference: real data that samples are compared with.
        real: its features (N, D).
        other: features (n, D) of real data outside the reference, for the floor.
        other_classes: what the classifier takes those for; None without labels.
        unseen: what label_accuracy and caption_agreement are of pictures that none of these nets has learned from.
    """

    features: Features
    reference: Dataset
    real: Tensor
    other: Tensor
    other_classes: Tensor | None = None
    unseen: Mapping[str, float] = field(default_factory=dict)

    def comparison(
        self, made: Made, labels: tuple[int, ...] | None, prompts: Sequence[str] | None = None
    ) -> Comparison:
        """Samples beside the reference; `labels` or `prompts` say what each was asked to be."""
        return Comparison(
            real=self.real,
            generated=made.features,
            real_classes=self.reference.labels,
            classes=made.classes,
            labels=None if labels is None else torch.tensor(labels),
            num_classes=self.reference.num_classes,
            agrees=self.features.agrees(made.vectors, prompts),
        )

    @cached_property
    def floor(self) -> dict[str, float | None] | None:
        """Every metric of real data in the place of samples; None where there are not two entries of it."""
        if len(self.other) < 2:
            return None
        real = Made(features=self.other, classes=self.other_classes, first=self.other)
        return {**table(self.comparison(real, None)), **self.unseen}


def yardstick_of(features: Features, reference: Dataset, other: Dataset, held_out: Dataset) -> Work[Yardstick]:
    """The yardstick of a reference and of real data outside it, which may be empty; `held_out` is what no net of
    `features` was trained on."""
    classifier, classes, unseen = features.classifier, None, {}
    if classifier is not None:
        if len(other):
            classes = classifier.classes(classifier(other.x0(torch.arange(len(other)))))
        if (right := classifier.facts.get("held_out_accuracy")) is not None:
            unseen["label_accuracy"] = right
    if features.scorer is not None and held_out.captions is not None:
        few = held_out.select(torch.arange(min(CHUNK, len(held_out))))
        agrees = features.agrees(features.scorer.of_pictures(few.x0(torch.arange(len(few)))), few.captions)
        unseen |= {} if agrees is None else {"caption_agreement": float(agrees.mean())}
    return Yardstick(
        features=features,
        reference=reference,
        real=(yield from features_of(features.map, reference)),
        other=(yield from features_of(features.map, other)),
        other_classes=classes,
        unseen=unseen,
    )
