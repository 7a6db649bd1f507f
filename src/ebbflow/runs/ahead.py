"""Batches that processes read ahead of the training, in the order of their steps."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ebbflow.errors import ConfigError
from ebbflow.memory import in_words
from ebbflow.runs.buckets import BucketLoader
from ebbflow.runs.build import DatasetLoader
from ebbflow.training.batches import Batch, Loader

AHEAD = 2  # batches that each process holds ready


def ahead(loader: Loader, workers: int) -> Loader:
    """A loader of data on demand with so many processes that read; any other as it is."""
    wanted = workers and isinstance(loader, DatasetLoader | BucketLoader) and loader.on_demand
    return Ahead(loader, workers) if wanted else loader


class Ahead:
    """The batches of a loader, made in `workers` processes, of which each holds two ready; the same batches.

    They are made from the step that is asked for on, so that a run goes on exactly where it stopped.
    """

    def __init__(self, loader: Loader, workers: int) -> None:
        self._loader, self._workers = loader, workers
        self._coming: Iterator[Any] | None = None
        self._next = -1

    def batch(self, step: int) -> Batch:
        """The batch of a step.

        Raises:
            ConfigError: a process that reads was ended, or there is no room for what they hand over.
        """
        if self._coming is None or step != self._next:
            first, self._next = self._loader.batch(step), step + 1
            _require_room(first, self._workers)
            self._coming = iter(
                DataLoader(
                    _Steps(self._loader),
                    batch_size=None,
                    sampler=_From(step + 1),
                    num_workers=self._workers,
                    prefetch_factor=AHEAD,
                )
            )
            return first
        try:
            found = next(self._coming)
        except RuntimeError as error:
            raise ConfigError(
                f"a process that reads data ahead was ended ({str(error).splitlines()[0]}). In a container give it "
                "more shared memory (/dev/shm), or read without such processes: engine.workers=0."
            ) from error
        self._next = step + 1
        if isinstance(found, Exception):
            raise found
        assert isinstance(found, Batch)
        return found


def _require_room(batch: Batch, workers: int) -> None:
    """Refuse to hand over batches for which shared memory has no room: a process that finds none says nothing."""
    shared = Path("/dev/shm")
    if not shared.is_dir():
        return
    found = os.statvfs(shared)
    free, needed = found.f_bavail * found.f_frsize, workers * (AHEAD + 1) * sum(map(_bytes, vars(batch).values()))
    if needed > free:
        raise ConfigError(
            f"shared memory ({shared}) has {in_words(free)} free, and {workers} processes that read ahead hand over "
            f"{in_words(needed)}. Give the container more, or use engine.workers=0."
        )


def _bytes(part: Any) -> int:
    if isinstance(part, Mapping):
        return sum(map(_bytes, part.values()))
    return part.nbytes if isinstance(part, Tensor) else 0


class _From(Sampler[int]):
    """The numbers from one on."""

    def __init__(self, first: int) -> None:
        self.first = first

    def __iter__(self) -> Iterator[int]:
        return count(self.first)


class _Steps(Dataset[Any]):
    """The batches of a loader by step; what goes wrong is handed on, to be raised where it is read."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __getitem__(self, step: int) -> Batch | Exception:
        try:
            return self.loader.batch(step)
        except (ValueError, OSError) as error:
            return error
