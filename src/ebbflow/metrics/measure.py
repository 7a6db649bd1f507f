"""From features to a table: every metric, the floor between real sets of the same size, and how sure it all is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ebbflow.errors import ConfigError
from ebbflow.metrics.scores import (
    METRICS,
    Comparison,
    frechet_of,
    mean_kernel_between,
    mean_kernel_within,
    moments,
    nearest_distances,
    spread_rows,
)

NUM_BLOCKS, FEW_REAL = 10, 1000


def check_num(num: int, dim: int, reference_size: int) -> None:
    """Refuse sets too small for a covariance of full rank.

    Raises:
        ConfigError: not more rows than features.
    """
    if num <= dim:
        raise ConfigError(
            f"{num} samples are too few for the covariance of {dim} features, which would be singular. Give at "
            f"least {dim + 1}, better {10 * dim}, or use the features 'pca:{max(1, num // 4)}'."
        )
    if reference_size <= dim:
        raise ConfigError(
            f"the reference has {reference_size} entries, too few for the covariance of {dim} features. Leave "
            f"`reference` and `features` to auto, or use the features 'pca:{max(1, reference_size // 4)}'."
        )


def table(comparison: Comparison) -> dict[str, float | None]:
    """The value of every metric; None where one does not apply."""
    return {name: metric(comparison) for name, metric in METRICS.items()}


def measure(c: Comparison, num: int, floor: dict[str, float | None] | None) -> dict[str, Any]:
    """Every metric, its floor and its standard error.

    With one measurement the errors come from leaving out blocks of its samples; with several the values are means over
    them and the errors those of the mean.

    Args:
        c: its generated side holds all measurements, one after the other.
        num: generated rows a measurement.
        floor: the table of real data of the other split in the place of samples, or None. A classifier knows the data
            it was trained on a little better than unseen data, and distances between the two splits hold that gap too.
    """
    parts = [_rows_of(c, slice(start, start + num)) for start in range(0, len(c.generated), num)]
    every = [table(part) for part in parts]
    values, errors = (every[0], block_errors(parts[0])) if len(every) == 1 else means(every)
    return {
        **values,
        "frechet_floor": None if floor is None else floor["frechet"],
        "standard_errors": errors,
        "floor": floor,
        "repeats": every,
        "label_accuracy_by_class": accuracy_by_class(c),
    }


def _rows_of(c: Comparison, rows: slice) -> Comparison:
    """The comparison with some of the generated rows."""
    known = {"classes": c.classes, "labels": c.labels, "agrees": c.agrees}
    cut = {name: None if values is None else values[rows] for name, values in known.items()}
    return replace(c, generated=c.generated[rows], **cut)  # type: ignore[arg-type]


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
    """Standard errors of what one measurement allows: distances by the jackknife, shares by the binomial law.

    That of the kernel distance holds the reference's part too where that is smaller than `FEW_REAL`.
    """
    rests, real = left_out(c.generated, c.labels), c.few_real.double()
    errors = {"kid": jackknife([_kid_but_for(real, rest.double()) for rest in rests])}
    if len(real) < FEW_REAL:
        errors["kid"] = math.hypot(
            errors["kid"], jackknife([_kid_but_for(c.generated.double(), rest) for rest in left_out(real)])
        )
    if c.is_full:
        errors["frechet"] = jackknife([frechet_of(c.real_moments, moments(rest)) for rest in rests])
    for name in ("label_accuracy", "caption_agreement"):
        if (right := METRICS[name](c)) is not None:
            errors[name] = (right * (1 - right) / len(c.generated)) ** 0.5
    return errors


def left_out(rows: Tensor, labels: Tensor | None = None) -> list[Tensor]:
    """`rows` without one tenth, without another, and so on; of fewer than 20, without each third or so.

    Tenths are drawn, always alike, and each holds its part of every label, since samples are dealt so: rows that come
    class by class would else make each tenth a class, and its absence no chance.
    """
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    if labels is not None:
        order = order[labels.cpu()[order].argsort(stable=True)]
    num, block = min(NUM_BLOCKS, max(2, len(rows) // 2)), torch.empty_like(order)
    block[order] = torch.arange(len(rows)) % num
    return [rows[(block != i).to(rows.device)] for i in range(num)]


def _kid_but_for(other: Tensor, rows: Tensor) -> float:
    """The terms of the kernel distance that `rows` enter."""
    return mean_kernel_within(rows) - 2 * mean_kernel_between(rows, other)


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
