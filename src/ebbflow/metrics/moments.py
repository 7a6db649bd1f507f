"""Mean and covariance that accumulate batch by batch, in float64."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Count, mean and scatter sum (x - mean)(x - mean)^T of some rows; memory does not grow with their number.

    Args:
        count: rows seen.
        mean: float64 (D,).
        scatter: float64 (D, D).
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance, float64 (D, D).

        Raises:
            ValueError: fewer than two rows.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 rows, got {self.count}.")
        return self.scatter / (self.count - 1)

    def __add__(self, other: Moments) -> Moments:
        """The moments of both sets of rows together (Chan, Golub & LeVeque, 1983)."""
        count = self.count + other.count
        if count == 0:
            return self
        apart = other.mean - self.mean
        return Moments(
            count=count,
            mean=self.mean + apart * (other.count / count),
            scatter=self.scatter + other.scatter + torch.outer(apart, apart) * (self.count * other.count / count),
        )


def moments(rows: Tensor) -> Moments:
    """The moments of `rows`, any floating dtype, shape (N, D) with N at least 1."""
    rows = rows.double()
    mean = rows.mean(0)
    centred = rows - mean
    return Moments(count=len(rows), mean=mean, scatter=centred.T @ centred)


def accumulated(batches: Iterable[Tensor]) -> Moments:
    """The moments of all rows of `batches`, one batch in memory at a time.

    Raises:
        ValueError: no batch at all.
    """
    total: Moments | None = None
    for batch in batches:
        total = moments(batch) if total is None else total + moments(batch)
    if total is None:
        raise ValueError("no rows to take the mean and covariance of.")
    return total
