"""Pictures that are read when they are asked for, so that no memory has to hold a data set."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from ebbflow.data.convert import Size, sides
from ebbflow.data.dataset import Dataset, Splits
from ebbflow.data.folder import MAX_THREADS, Picture, Unreadable, differs, read_from, refuse, warn_of
from ebbflow.data.listing import Listing, list_folder
from ebbflow.data.split import hashed
from ebbflow.documents import regular
from ebbflow.errors import DataError


class PictureSource(Protocol):
    """Where pictures lie, by their numbers."""

    def open(self, i: int) -> BinaryIO:
        """The file of a picture, or its bytes."""
        ...

    def place(self, i: int) -> Path:
        """What a message calls it."""
        ...

    def __len__(self) -> int: ...

    @property
    def digest(self) -> str:
        """A hash that changes with the data; not of every byte where that would take long."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class FolderSource:
    """The pictures of a folder; their names and sizes stand for their content.

    Args:
        root: the folder.
        names: of the files in it.
    """

    root: Path
    names: tuple[str, ...]

    def open(self, i: int) -> BinaryIO:
        """The file of a picture."""
        return regular(self.place(i)).open("rb")

    def place(self, i: int) -> Path:
        """Its path."""
        return self.root / self.names[i]

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def digest(self) -> str:
        """A hash of names and sizes."""
        sizes = [self.place(i).stat().st_size for i in range(len(self))]
        return hashlib.sha256(repr((self.names, sizes)).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class OnDemand:
    """Some pictures of a source. It stands where a data set has a tensor uint8 (N, C, H, W): rows of it are read from
    the disk.

    Args:
        source: where they lie.
        rows: which of them, int64 (N,); from their number on, the mirror images.
        first: a picture of the source, which decides what was not asked for.
        size: side, or height and width, in pixels, or None where all are equally large.
        buckets: of each picture of the source, the number of its bucket, int64; or None.
    """

    source: PictureSource
    rows: Tensor
    first: Picture
    size: Size | None
    buckets: Tensor | None = None
    dtype = torch.uint8
    ndim = 4

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, H, W)."""
        return (len(self.rows), *self.first.pixels.shape)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Tensor | slice | int) -> Tensor:
        """Pictures uint8 (B, C, H, W), or one of them (C, H, W).

        Raises:
            DataError: one cannot be read any more, or has another size than the first.
        """
        if isinstance(rows, int):
            return self._read(int(self.rows[rows]))
        chosen, order = self.rows[rows].sort(stable=True)  # as they lie on the disk
        if not len(chosen):
            return torch.empty(0, *self.shape[1:]).byte()
        return torch.stack([self._read(i) for i in chosen.tolist()])[order.argsort()]

    def take(self, rows: Tensor) -> OnDemand:
        """Some of them, not read yet."""
        return replace(self, rows=self.rows[rows])

    def of_size(self, size: Size) -> OnDemand:
        """The same, brought to another size."""
        num, (height, width) = len(self.first.pixels), sides(size)
        blank = Picture(pixels=np.zeros((num, height, width), dtype=np.uint8), file_size=self.first.file_size)
        return replace(self, size=size, first=blank)

    def mirrored(self) -> OnDemand:
        """All of them, and then their mirror images."""
        return replace(self, rows=torch.cat([self.rows, self.rows + len(self.source)]))

    def split(self, num: int) -> Iterator[Tensor]:
        """All of them, so many at a time."""
        return (self[slice(first, first + num)] for first in range(0, len(self), num))

    @property
    def digest(self) -> str:
        """A hash that changes with the data."""
        return hashlib.sha256(self.source.digest.encode() + self.rows.numpy().tobytes()).hexdigest()

    def _read(self, row: int) -> Tensor:
        i = row % len(self.source)
        found = self.look(i)
        if isinstance(found, Unreadable):
            raise DataError(f"{found.path} cannot be read as an image: {found.reason}. Mend it, or make the data anew.")
        if self.size is None and found.file_size != self.first.file_size:
            raise DataError(differs(self.source.place(i), found.file_size, self.first.file_size))
        pixels = torch.from_numpy(found.pixels)
        return pixels.flip(-1) if row >= len(self.source) else pixels

    def look(self, i: int) -> Picture | Unreadable:
        """A picture of the source, or why there is none."""
        return read_from(lambda: self.source.open(i), self.source.place(i), self.size, len(self.first.pixels))


def folder_on_demand(
    root: Path,
    *,
    size: Size | None = None,
    channels: int | None = None,
    skip_bad: bool = False,
    held_out: float | None = None,
) -> Splits:
    """The pictures of a folder, read on demand; see `image_folder`. Only their names and places stay in memory.

    Raises:
        DataError: as `list_folder`, or as `splits_on_demand`.
    """
    listing = list_folder(root)
    source, name = FolderSource(root=root, names=tuple(listing.names)), root.resolve().name
    return splits_on_demand(source, listing, name, size=size, channels=channels, skip_bad=skip_bad, held_out=held_out)


def splits_on_demand(
    source: PictureSource,
    listing: Listing,
    name: str,
    *,
    size: Size | None = None,
    channels: int | None = None,
    skip_bad: bool = False,
    held_out: float | None = None,
    away: Tensor | None = None,
) -> Splits:
    """The pictures of a source as a data set that reads them on demand; see `image_folder` for the arguments.

    With `skip_bad` all are read once, to know which are left out.

    Args:
        away: bool (N,), which are held out; None has a hash of their names decide.

    Raises:
        DataError: the first picture cannot be read; with `skip_bad`, none can.
    """
    first = _first_good(source, size, channels, skip_bad)
    x = OnDemand(source=source, rows=torch.arange(len(source)), first=first, size=size)
    bad = _unreadable(x) if skip_bad else {}
    if bad:
        warn_of(name, {listing.names[i]: file.reason for i, file in bad.items()}, len(source))
    good = torch.tensor([i for i in range(len(source)) if i not in bad])
    data = Dataset(
        name=name,
        x=cast(Tensor, x),
        labels=listing.labels,
        label_names=listing.label_names,
        captions=listing.captions,
    )
    held = hashed((listing.names[i] for i in good.tolist()), held_out) if away is None else away[good]
    return Splits(train=data.select(good[~held]), held_out=data.select(good[held]))


def _first_good(source: PictureSource, size: Size | None, channels: int | None, skip_bad: bool) -> Picture:
    for i in range(len(source)):
        found = read_from(lambda i=i: source.open(i), source.place(i), size, channels)  # type: ignore[misc]
        if isinstance(found, Picture):
            return found
        refuse(found, skip_bad)
    raise DataError(f"none of the {len(source)} images can be read; the first is {source.place(0)}.")


def _unreadable(x: OnDemand) -> dict[int, Unreadable]:
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        looked = enumerate(pool.map(x.look, range(len(x.source))))
        return {i: found for i, found in looked if isinstance(found, Unreadable)}
