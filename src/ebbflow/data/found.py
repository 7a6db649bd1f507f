"""What a source of data holds, told from names and headers: no picture of a folder is decoded for it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from PIL import Image

from ebbflow.data.dataset import Splits
from ebbflow.data.folder import channels_of
from ebbflow.data.listing import Listing, list_folder, list_pairs
from ebbflow.data.on_demand import OnDemand
from ebbflow.data.split import hashed

T = TypeVar("T")
HEADERS = 64  # pictures of a folder whose headers are read
SIDED = re.compile(r"\b(left|right|links?|rechts?|gauche|droite)\b|[左右]", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A data set from outside.

    Args:
        num_train, num_held_out: entries.
        side: the middle one of the pictures' smaller sides, in pixels; 0 for points.
        is_uniform: whether all pictures that were looked at have one size.
        channels: 1, 3 or 4, the most that a picture has; the dimension of points.
        label_names: names of the classes.
        num_captions, num_vectors, num_pairs: entries that come with a caption, a vector, another picture.
        tells_sides: whether a label or a caption speaks of left or right, so that a mirrored picture would belie it.
    """

    num_train: int
    num_held_out: int
    side: int
    is_uniform: bool = True
    channels: int
    label_names: tuple[str, ...] = ()
    num_captions: int = 0
    num_vectors: int = 0
    num_pairs: int = 0
    tells_sides: bool = False

    @property
    def num(self) -> int:
        """Entries in all."""
        return self.num_train + self.num_held_out

    @property
    def is_image(self) -> bool:
        """False for points."""
        return self.side > 0


def found_in(splits: Splits) -> Found:
    """What data is; of pictures on demand that are not brought to a size, at most 64 headers are read."""
    train = splits.train
    sizes: list[tuple[int, int]] = []
    if isinstance(train.x, OnDemand) and train.x.size is None:
        sizes, _ = _headers([partial(train.x.source.open, int(i)) for i in _some(train.x.rows.tolist())])
    return Found(
        num_train=len(train),
        num_held_out=len(splits.held_out),
        side=_middle(sizes) or (min(train.dims[1:]) if train.is_image else 0),
        is_uniform=len(set(sizes)) < 2,
        channels=train.dims[0],
        label_names=train.label_names,
        num_captions=len(train.captions or ()) + len(splits.held_out.captions or ()),
        num_vectors=0 if train.vectors is None else len(train) + len(splits.held_out),
        num_pairs=0 if train.pictures is None else len(train) + len(splits.held_out),
        tells_sides=_tells_sides((*train.label_names, *(train.captions or ()))),
    )


def found_in_folder(root: Path, *, held_out: float | None = None) -> Found:
    """What a folder of pictures, or of pairs in its folders a and b, holds; see `image_folder` and `image_pairs`.

    Cost: its names, and the headers of at most 64 pictures spread over it; a few seconds for 100,000.

    Raises:
        DataError: as `list_folder`, or none of those headers can be read.
    """
    pairs = list_pairs(root)
    listing = list_folder(root) if pairs is None else Listing(names=tuple(f"b/{name}" for name in pairs))
    names = listing.names
    away = hashed([name.removeprefix("b/") for name in names] if pairs else names, held_out)
    sizes, channels = _headers([partial((root / name).open, "rb") for name in _some(names)])
    return Found(
        num_train=int((~away).sum()),
        num_held_out=int(away.sum()),
        side=_middle(sizes),
        is_uniform=len(set(sizes)) < 2,
        channels=channels,
        label_names=listing.label_names,
        num_captions=len(listing.captions or ()),
        num_pairs=len(pairs or ()),
        tells_sides=_tells_sides((*listing.label_names, *(listing.captions or ()))),
    )


def _some(items: Sequence[T]) -> list[T]:
    """At most 64 of them, spread over all."""
    num = min(len(items), HEADERS)
    return [items[i * len(items) // num] for i in range(num)]


def _middle(sizes: Sequence[tuple[int, int]]) -> int:
    return int(median(min(size) for size in sizes)) if sizes else 0


def _headers(files: Sequence[Callable[[], Any]]) -> tuple[list[tuple[int, int]], int]:
    """The sizes of the pictures that can be read, and the most channels that one of them has."""
    found = [one for one in map(header, files) if one is not None]
    return [size for size, _ in found], max((channels for _, channels in found), default=3)


def header(opened: Callable[[], Any]) -> tuple[tuple[int, int], int] | None:
    """Width and height of a picture as it is looked at, and its channels, from its header; None of a damaged one."""
    try:
        with opened() as file, Image.open(file) as image:
            turned = Image.Image.getexif(image).get(0x0112, 1) > 4  # on its side; a PNG's own would decode it
            return ((image.height, image.width) if turned else image.size), channels_of(image)
    except Exception:  # a damaged file is the reader's to name; Pillow raises nearly anything
        return None


def _tells_sides(texts: tuple[str, ...]) -> bool:
    return any(SIDED.search(text) for text in texts)
