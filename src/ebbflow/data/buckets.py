"""Pictures that are not all brought to one size, but each to the one of a few that it loses least by."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from ebbflow.data.dataset import Dataset, Splits
from ebbflow.data.folder import MAX_THREADS
from ebbflow.data.found import header
from ebbflow.data.on_demand import OnDemand, PictureSource
from ebbflow.errors import DataError

Sizes = tuple[tuple[int, int], ...]


def in_buckets(splits: Splits, sizes: Sizes) -> Splits:
    """Pictures on demand that know the bucket, a height and a width of `sizes`, whose proportions are nearest theirs.
    Where no bucket is asked for, they are still brought to the size that they had.

    Cost: the header of every picture is read.

    Raises:
        DataError: data that is not read on demand.
    """
    x = splits.train.x
    if not isinstance(x, OnDemand):
        raise DataError(f"data.buckets are of folders, shards and parquet; {splits.train.name!r} is in memory.")
    which = _buckets_of(x.source, sizes)
    parts = {
        name: replace(data, x=cast(Tensor, replace(cast(OnDemand, data.x), buckets=which)))
        for name, data in vars(splits).items()
    }
    return Splits(**parts)


def bucket_of(data: Dataset, number: int, size: tuple[int, int]) -> tuple[Tensor, Dataset]:
    """The places of the pictures of a bucket in a data set on demand, and them alone, brought to its size."""
    x = cast(OnDemand, data.x)
    assert x.buckets is not None
    rows = (x.buckets[x.rows % len(x.source)] == number).nonzero().flatten()
    own = data.select(rows)
    return rows, replace(own, x=cast(Tensor, cast(OnDemand, own.x).of_size(size)))


def _buckets_of(source: PictureSource, sizes: Sizes) -> Tensor:
    def nearest(i: int) -> int:
        found = header(lambda: source.open(i))
        return 0 if found is None else _nearest(found[0], sizes)  # what cannot be read is named when it is

    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        return torch.tensor(list(pool.map(nearest, range(len(source)), chunksize=64)))


def _nearest(size: tuple[int, int], sizes: Sequence[tuple[int, int]]) -> int:
    """The number of the bucket whose proportions are nearest those of a picture of (width, height)."""
    far = [abs(math.log(size[1] * width / (size[0] * height))) for height, width in sizes]
    return far.index(min(far))
