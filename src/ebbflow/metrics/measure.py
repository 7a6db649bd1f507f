"""From features to a table: every metric, the floor between real sets of the same size, and how sure it all is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ebbflow.errors import ConfigError
from ebbflow.metrics.moments import moments
from ebbflow.metrics.scores import (
    METRICS,
    Comparison,
    frechet_of,
    mean_kernel_between,
    mean_kernel_within,
    nearest_distances,
    spread_rows,
)

NUM_BLOCKS = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class Sets:
    """A comparison over one or more measurements, with real data to measure the floor on.

    Args:
        comparison: its generated side holds all measurements, one after the other.
        num: generated rows a measurement.
        other: features (n, D) of real data outside the reference.
        other_classes, other_labels: the classifier's classes of those, and their own; None without labels.
    """

    comparison: Comparison
    num: int
    other: Tensor
    other_classes: Tensor | None = None
    other_labels: Tensor | None = None

    def measurement(self, index: int) -> Comparison:
        """The comparison with the generated rows of measurement `index`."""
        rows = slice(index * self.num, (index + 1) * self.num)
        c = self.comparison
        return replace(
            c,
            generated=c.generated[rows],
            classes=None if c.classes is None else c.classes[rows],
            labels=None if c.labels is None else c.labels[rows],
        )

    @property
    def floor(self) -> Comparison | None:
        """Real data in the place of generated rows, as many as there are; None where they are too few."""
        if len(self.other) <= self.other.shape[1]:
            return None
        return replace(self.comparison, generated=self.other, classes=self.other_classes, labels=self.other_labels)


def check_num(num: int, dim: int, reference_size: int) -> None:
    """Refuse sets too small for a covariance of full rank.

    Raises:
        ConfigError: not more rows than features.
    """
    if num <= dim:
        raise ConfigError(
            f"`num` = {num} is too few for the covariance of {dim} features, which would be singular. Use at least "
            f"{dim + 1}, better {10 * dim}."
        )
    if reference_size <= dim:
        raise ConfigError(
            f"the reference has {reference_size} entries, too few for the covariance of {dim} features. Use "
            "the reference 'train' if that split is larger, or the features 'pca'."
        )


def table(comparison: Comparison) -> dict[str, float | None]:
    """The value of every metric; None where one does not apply."""
    return {name: metric(comparison) for name, metric in METRICS.items()}


def measure(sets: Sets) -> dict[str, Any]:
    """Every metric, its floor and its standard error.

    The floor is the same table for real data of the other split in the place of samples. A classifier knows the data it
    was trained on a little better than unseen data, and the floor between the two splits holds that gap as well.

    With one measurement the errors come from leaving out blocks of its samples; with several the values are means over
    them and the errors those of the mean.
    """
    every = [table(sets.measurement(i)) for i in range(len(sets.comparison.generated) // sets.num)]
    values, errors = (every[0], block_errors(sets.measurement(0))) if len(every) == 1 else means(every)
    floor = None if sets.floor is None else table(sets.floor)
    return {
        **values,
        "frechet_floor": None if floor is None else floor["frechet"],
        "standard_errors": errors,
        "floor": floor,
        "floor_num": len(sets.other),
        "repeats": every,
        "label_accuracy_by_class": accuracy_by_class(sets.comparison),
    }


def means(every: Sequence[Mapping[str, float | None]]) -> tuple[dict[str, float | None], dict[str, float]]:
    """The mean of each value over at least 2 measurements, and the standard error of that mean."""
    given = {name: [value for row in every if (value := row[name]) is not None] for name in every[0]}
    found = {
        name: mean_and_error(torch.tensor(values, dtype=torch.float64)) for name, values in given.items() if values
    }
    return {name: found[name][0] if name in found else None for name in given}, {n: e for n, (_, e) in found.items()}


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """The mean of values (N,), N at least 2, and its standard error."""
    values = values.cpu().double()
    return float(values.mean()), float(values.std() / len(values) ** 0.5)


def block_errors(c: Comparison) -> dict[str, float]:
    """Standard errors of what one measurement allows: distances by the jackknife, label accuracy by the binomial
    law."""
    rests = left_out(c.generated)
    errors = {
        "frechet": jackknife([frechet_of(c.real_moments, moments(rest)) for rest in rests]),
        "kid": jackknife([_kid_but_for_real(c.few_real.double(), rest.double()) for rest in rests]),
    }
    right = METRICS["label_accuracy"](c)
    return errors if right is None else errors | {"label_accuracy": (right * (1 - right) / len(c.generated)) ** 0.5}


def left_out(rows: Tensor) -> list[Tensor]:
    """`rows` without the first tenth, without the second, and so on."""
    blocks = rows.tensor_split(NUM_BLOCKS)
    return [torch.cat([*blocks[:i], *blocks[i + 1 :]]) for i in range(NUM_BLOCKS)]


def _kid_but_for_real(real: Tensor, generated: Tensor) -> float:
    """The terms of the kernel distance that generated rows enter."""
    return mean_kernel_within(generated) - 2 * mean_kernel_between(generated, real)


def jackknife(values: Sequence[float]) -> float:
    """The standard error of a smooth statistic from its values s_i with one of g equal blocks left out.

    sqrt((g - 1) / g sum_i (s_i - mean s)^2).

    Args:
        values: at least 2 of them.

    Source: Efron & Stein (1981).
    """
    s = torch.tensor(values, dtype=torch.float64)
    return float(((len(s) - 1) / len(s) * (s - s.mean()).square().sum()).sqrt())


def accuracy_by_class(c: Comparison) -> list[float | None] | None:
    """The label accuracy of each class; None for a class without samples."""
    if c.classes is None or c.labels is None:
        return None
    hits = (c.classes == c.labels).double()
    of_class = [hits[c.labels == k] for k in range(c.num_classes)]
    return [float(hit.mean()) if len(hit) else None for hit in of_class]


def memorisation(first: Tensor, train: Tensor, held_out: Tensor) -> dict[str, float | None]:
    """How near samples lie to the training data, in pixels, beside how near unseen real data lie.

    `nearest_ratio` is the first mean distance over the second: about 1 for a generator as good as the data, towards 0
    for one that copies.

    Args:
        first, train, held_out: entries (n, *dims), (N, *dims), (M, *dims), all bytes or all floats.
    """
    unseen = spread_rows(held_out, len(first))
    if len(unseen) == 0:
        return {"nearest_train": None, "nearest_train_real": None, "nearest_ratio": None}
    unit = 127.5 if first.dtype == torch.uint8 else 1.0
    made, real = (float(nearest_distances(rows, train).mean()) / unit for rows in (first, unseen))
    return {"nearest_train": made, "nearest_train_real": real, "nearest_ratio": made / real if real > 0 else None}
