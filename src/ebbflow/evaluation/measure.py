"""From features to a table: every metric, its floor between real sets, and how sure it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ebbflow.errors import ConfigError
from ebbflow.evaluation.metrics import (
    METRICS,
    frechet_infinity,
    frechet_of,
    histogram_distance,
    jackknife_error,
    kid,
    manifold,
    nearest_distances,
)
from ebbflow.evaluation.statistics import accumulated, moments

NEIGHBOUR_ROWS = 10_000  # of the reference, for the metrics that cost the square of it
BLOCKS = 10
BATCH = 1024


@dataclass(frozen=True, kw_only=True)
class Real:
    """The real side of a comparison.

    Args:
        reference: features (N, D) that generated ones are compared with.
        other: features (M, D) of real data outside the reference, for the floor.
        classes: class indices of the reference's entries, or None.
        num_classes: 0 without labels.
    """

    reference: Tensor
    other: Tensor
    classes: Tensor | None
    num_classes: int


@dataclass(frozen=True, kw_only=True)
class Generated:
    """The generated side of a comparison.

    Args:
        features: (N, D).
        classes: what the classifier takes each sample for, int64 (N,), or None.
        labels: what each sample was meant to be, int64 (N,), or None.
        first: uint8 images or float32 points (n, *dims), the first few, for the nearest-neighbour distance.
    """

    features: Tensor
    classes: Tensor | None
    labels: Tensor | None
    first: Tensor


def check_num(num: int, dim: int, reference_size: int, flag: str = "--num") -> None:
    """Refuse sets too small for a covariance of full rank.

    Raises:
        ConfigError: not more rows than features.
    """
    if num <= dim:
        raise ConfigError(
            f"{flag} {num} is too few for the covariance of {dim} features: it would be singular. Use at least {dim + 1}, "
            f"better {10 * dim}."
        )
    if reference_size <= dim:
        raise ConfigError(
            f"the reference has {reference_size} entries, too few for the covariance of {dim} features. Use the larger "
            "split (--reference), or --features pca."
        )


def table(real: Tensor, generated: Tensor) -> dict[str, float]:
    """Every metric of `METRICS`, with the distances to neighbours computed once."""
    reference = accumulated(real.split(BATCH))
    few = spread_rows(real, NEIGHBOUR_ROWS)
    lie = manifold(few, generated)
    return {
        "frechet": frechet_of(reference, accumulated(generated.split(BATCH))),
        "frechet_infinity": frechet_infinity(real, generated),
        "kid": kid(few, generated),
        "precision": lie.precision,
        "recall": lie.recall,
        "density": lie.density,
        "coverage": lie.coverage,
    } | {name: metric(real, generated) for name, metric in METRICS.items() if name not in BUILT_IN}


BUILT_IN = tuple(METRICS)


def measure(real: Real, generated: Generated) -> dict[str, Any]:
    """The metrics of one set of samples, the floor at the same size, and the standard error of the distance."""
    values: dict[str, Any] = table(real.reference, generated.features)
    num = min(len(generated.features), len(real.other))
    values["floor_num"] = num
    values["floor"] = table(real.reference, spread_rows(real.other, num)) if num > real.reference.shape[1] else None
    values["frechet_floor"] = values["floor"]["frechet"] if values["floor"] else None
    reference = moments(real.reference)
    blocks = [moments(block) for block in generated.features.tensor_split(BLOCKS)]
    values["frechet_se"] = jackknife_error(blocks, lambda rest: frechet_of(reference, rest))
    return values | label_values(real, generated)


def label_values(real: Real, generated: Generated) -> dict[str, Any]:
    """Label accuracy and class-histogram distance; None where there is nothing to compare."""
    classes, labels = generated.classes, generated.labels
    if classes is None or real.classes is None:
        return {"label_accuracy": None, "label_accuracy_by_class": None, "class_distance": None}
    by_class, right = None, None
    if labels is not None:
        hits = (classes == labels).double()
        right = float(hits.mean())
        by_class = [float(hits[labels == k].mean()) if bool((labels == k).any()) else None for k in range(real.num_classes)]
    return {
        "label_accuracy": right,
        "label_accuracy_by_class": by_class,
        "class_distance": histogram_distance(real.classes, classes, real.num_classes),
    }


def memorisation(first: Tensor, train: Tensor, held_out: Tensor) -> dict[str, Any]:
    """How near samples lie to the training data, in pixels, beside how near unseen real data lie.

    `nearest_ratio` is the first mean distance over the second: about 1 for a generator as good as the data, towards 0
    for one that copies.

    Args:
        first, train, held_out: entries (n, *dims), (N, *dims), (M, *dims), bytes or points.
    """
    unseen = spread_rows(held_out, len(first))
    if len(unseen) == 0:
        return {"nearest_train": None, "nearest_train_real": None, "nearest_ratio": None}
    unit = 127.5 if first.dtype == torch.uint8 else 1.0
    made, real = (float(nearest_distances(rows, train).mean()) / unit for rows in (first, unseen))
    return {"nearest_train": made, "nearest_train_real": real, "nearest_ratio": made / real if real > 0 else None}


def spread_rows(rows: Tensor, num: int) -> Tensor:
    """At most `num` of `rows`, spread evenly over them."""
    if len(rows) <= num:
        return rows
    return rows[torch.arange(num) * len(rows) // num]


def mean_and_sd(values: list[float]) -> tuple[float, float]:
    """Mean and standard deviation (of the sample) of at least 2 values."""
    tensor = torch.tensor(values, dtype=torch.float64)
    return float(tensor.mean()), float(tensor.std())


Statistic = Callable[[Tensor, Tensor], float]
