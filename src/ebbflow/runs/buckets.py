"""Batches of pictures of several sizes, each batch of one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from ebbflow.config import RunConfig
from ebbflow.core.noise import derive_seed
from ebbflow.data import Dataset
from ebbflow.data.buckets import bucket_of
from ebbflow.runs.build import DatasetLoader
from ebbflow.training.batches import Batch, shuffled


@dataclass(frozen=True, kw_only=True)
class BucketLoader:
    """Batches of buckets as a pure function of the step; each is of one bucket, and a bucket has as many as it has
    pictures for. After e epochs of the whole, a bucket of n pictures has had floor(e n / batch_size) batches, and an
    epoch's come in the order of a keyed bijection.

    Args:
        loaders: one a bucket.
        batch_size: rows a batch.
        seed: of the order.
    """

    loaders: tuple[DatasetLoader, ...]
    batch_size: int
    seed: int
    on_demand = True

    def batch(self, step: int) -> Batch:
        """The batch of step `step`, counted from 0."""
        bucket, turn = self.turn(step)
        return self.loaders[bucket].batch(turn)

    def turn(self, step: int) -> tuple[int, int]:
        """Which bucket a step is of, and how many batches that bucket had before."""
        num = sum(len(loader.dataset) for loader in self.loaders)
        epoch = step * self.batch_size // num  # no earlier epoch's batches are so many
        while sum(self._before(epoch + 1)) <= step:
            epoch += 1
        before, after = self._before(epoch), self._before(epoch + 1)
        until = list(accumulate(b - a for a, b in zip(before, after, strict=True)))
        at = torch.tensor([step - sum(before)])
        place = int(shuffled(at, until[-1], self.seed, "buckets", epoch))
        bucket = bisect_right(until, place)
        return bucket, before[bucket] + place - (until[bucket - 1] if bucket else 0)

    def _before(self, epoch: int) -> list[int]:
        """Batches of each bucket before an epoch."""
        return [epoch * len(loader.dataset) // self.batch_size for loader in self.loaders]


def loader_in_buckets(
    config: RunConfig, data: Dataset, cond: Tensor | None, make: Callable[..., DatasetLoader]
) -> BucketLoader:
    """The batches of data in buckets.

    Args:
        cond: the condition of each entry of the data, or None.
        make: a loader, from a data set, its conditions and a seed.
    """
    seed, loaders = config.train.seed, []
    for number, size in enumerate(config.data.buckets):
        rows, own = bucket_of(data, number, size)
        if len(rows):
            part = None if cond is None else cond[rows]
            loaders.append(make(dataset=own, cond=part, seed=derive_seed(seed, "bucket", number)))
    return BucketLoader(loaders=tuple(loaders), batch_size=config.train.batch_size, seed=seed)
