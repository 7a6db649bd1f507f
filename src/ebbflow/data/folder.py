"""Images from a folder of picture files."""

from __future__ import annotations

import math
import os
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ebbflow.data.convert import Size, centred, sides
from ebbflow.data.dataset import Dataset, Splits
from ebbflow.data.listing import Listing, list_folder, some_of
from ebbflow.data.split import hashed
from ebbflow.documents import regular
from ebbflow.errors import DataError
from ebbflow.memory import require
from ebbflow.values import Wrong

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # number of channels: Pillow's mode
GREY_MODES = ("1", "L", "I", "I;16", "I;16L", "I;16B", "I;16N")
MAX_THREADS = 8
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")  # other decoders of Pillow start programs, or are rarely looked at
LARGEST = 64_000_000  # pixels of one picture: four bytes each, and some times as much to convert them
LARGE = 4_000_000  # pixels from which one picture at a time is read
NUM_NAMED = 3  # bad files that a warning names

_large = threading.Lock()


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """One picture: its pixels uint8 (C, H, W), and the width and height that it has in its file."""

    pixels: NDArray[np.uint8]
    file_size: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """A file that gave no picture, and why."""

    path: Path
    reason: str


def image_folder(
    root: Path,
    *,
    size: Size | None = None,
    channels: int | None = None,
    skip_bad: bool = False,
    held_out: float | None = None,
    few: int | None = None,
) -> Splits:
    """The pictures (png, jpg, jpeg, webp, bmp, first frame of a gif) under `root`, about a tenth of them held out.

    Pictures lie in `root` itself (no labels), or in one sub-folder per class, or `root`/metadata.jsonl has a row
    {"file_name", optional "text", optional "label"} for each. They are turned as their EXIF data says, laid on white
    where they are transparent and `channels` is below 4, cut to their centre, a square unless `size` says otherwise,
    and resized with antialiasing. A hash of the file name decides what is held out, so that adding pictures moves no
    other one.

    Args:
        root: an existing folder.
        size: side, or height and width, in pixels, at least 1; None where all pictures are equally large, and
            then their smaller side.
        channels: 1 (grey), 3 or 4 (with opacity); None takes what the first picture has.
        skip_bad: leave out the pictures that cannot be read, with one warning.
        held_out: the share that is held out, in [0, 1); None is a tenth.
        few: read no more than so many, spread over the folder.

    Raises:
        DataError: a picture is missing or cannot be read (with `skip_bad`: all of them), pictures differ in size and
            `size` is None, or the folder is empty or laid out otherwise.
    """
    listing = some_of(list_folder(root), few)
    pictures, bad = _read_all([root / name for name in listing.names], size, channels, skip_bad)
    data = Dataset(
        name=root.resolve().name,
        x=pictures,
        labels=listing.labels,
        label_names=listing.label_names,
        captions=listing.captions,
    )
    good = torch.tensor([i for i in range(len(data)) if i not in bad])
    away = hashed([listing.names[i] for i in good.tolist()], held_out)
    if bad:
        warn_of(str(root), {listing.names[i]: file.reason for i, file in bad.items()}, len(data))
    return Splits(train=data.select(good[~away]), held_out=data.select(good[away]))


def image_pairs(
    root: Path,
    *,
    size: Size | None = None,
    channels: int | None = None,
    held_out: float | None = None,
    few: int | None = None,
) -> Splits:
    """Pairs of pictures of equal names: `root`/b/NAME is the data, `root`/a/NAME what it is conditioned on, which
    stays of its own size and colours; both are otherwise read as those of `image_folder`, without labels.

    Raises:
        DataError: no such folders, a picture without its other, or as `image_folder`.
    """
    if size is not None and len(set(sides(size))) > 1:
        raise DataError(f"pairs are of square pictures, and `size` is {sides(size)}. Give one side.")
    parts = {side: root / side for side in "ab"}
    for folder in parts.values():
        if not folder.is_dir():
            raise DataError(f"{root} holds no pairs: {folder} is no folder. Put the conditions in a, the data in b.")
    names = {side: set(list_folder(folder).names) for side, folder in parts.items()}
    for side, other in (("a", "b"), ("b", "a")):
        alone = sorted(names[side] - names[other])
        if alone:
            raise DataError(f"{parts[side] / alone[0]} has no partner {parts[other] / alone[0]}. Pairs share a name.")
    ordered = some_of(Listing(names=tuple(sorted(names["b"]))), few).names
    x, _ = _read_all([parts["b"] / name for name in ordered], size, channels, skip_bad=False)
    pictures, _ = _read_all([parts["a"] / name for name in ordered], None, None, skip_bad=False)
    data = Dataset(name=root.resolve().name, x=x, labels=None, label_names=(), pictures=pictures)
    away = hashed(ordered, held_out)
    return Splits(train=data.select(~away), held_out=data.select(away))


def read_picture(path: Path, *, size: Size | None = None, channels: int | None = None) -> Picture:
    """One picture file, treated as those of `image_folder` are.

    Raises:
        DataError: it is missing or cannot be read.
    """
    found = _read(path, size, channels)
    if isinstance(found, Unreadable):
        raise DataError(f"{path} cannot be read as an image: {found.reason}.")
    return found


def _read_all(
    paths: list[Path], size: Size | None, channels: int | None, skip_bad: bool
) -> tuple[Tensor, dict[int, Unreadable]]:
    """All pictures as uint8 (N, C, H, W), and by their numbers those that could not be read."""
    first = _first_good(paths, size, channels, skip_bad)
    require(len(paths) * first.pixels.size, f"{len(paths):,} images", "Give a smaller `size`.", DataError)
    x = torch.empty((len(paths), *first.pixels.shape), dtype=torch.uint8)
    bad: dict[int, Unreadable] = {}
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        for i, found in enumerate(pool.map(lambda path: _read(path, size, len(first.pixels)), paths)):
            if isinstance(found, Unreadable):
                bad[i] = found
                refuse(found, skip_bad)
            elif size is None and found.file_size != first.file_size:
                raise DataError(differs(paths[i], found.file_size, first.file_size))
            else:
                x[i] = torch.from_numpy(found.pixels)
    return x, bad


def _first_good(paths: list[Path], size: Size | None, channels: int | None, skip_bad: bool) -> Picture:
    """The first picture that can be read: it decides what was not asked for."""
    bad = []
    for path in paths:
        found = _read(path, size, channels)
        if isinstance(found, Picture):
            return found
        refuse(found, skip_bad)
        bad.append(found)
    raise DataError(f"none of the {len(bad)} images can be read; the first is {bad[0].path}: {bad[0].reason}.")


def refuse(bad: Unreadable, skip_bad: bool) -> None:
    """Raise the error of a file that may not be left out."""
    if not skip_bad:
        raise DataError(
            f"{bad.path} cannot be read as an image: {bad.reason}. "
            "Mend or remove it, or leave such files out with `skip_bad`."
        )


def differs(path: Path, got: tuple[int, int], wanted: tuple[int, int]) -> str:
    """What is said of pictures of two sizes."""
    return (
        f"images differ in size: {path} has {got[0]} x {got[1]} pixels, the first one {wanted[0]} x {wanted[1]}. "
        "Give a `size` to bring them to one size."
    )


def warn_of(root: str, reasons: dict[str, str], num_images: int) -> None:
    """Say which images were left out."""
    named = ", ".join(f"{name} ({reason})" for name, reason in list(reasons.items())[:NUM_NAMED])
    more = f" and {len(reasons) - NUM_NAMED} more" if len(reasons) > NUM_NAMED else ""
    warnings.warn(f"{root}: skipped {len(reasons)} of {num_images} images: {named}{more}", stacklevel=4)


def _read(path: Path, size: Size | None, channels: int | None) -> Picture | Unreadable:
    return read_from(lambda: regular(path).open("rb"), path, size, channels)


def read_from(
    open_file: Callable[[], BinaryIO], path: Path, size: Size | None, channels: int | None
) -> Picture | Unreadable:
    """The picture of a file, or why there is none; `path` is what it is called."""
    try:
        with open_file() as file, Image.open(file, formats=FORMATS) as image:
            if (pixels := math.prod(image.size)) > LARGEST:
                return Unreadable(path=path, reason=f"it has {pixels:,} pixels, and at most {LARGEST:,} are read")
            with _large if pixels > LARGE else nullcontext():
                return _decode(image, size, channels)
    except FileNotFoundError:
        return Unreadable(path=path, reason="no such file")
    except UnidentifiedImageError:
        return Unreadable(path=path, reason=f"it is none of {', '.join(FORMATS)}")
    except Wrong as wrong:
        return Unreadable(path=path, reason=f"it {wrong}".rstrip("."))
    except Exception as error:  # on a damaged file Pillow's decoders raise nearly anything
        return Unreadable(path=path, reason=str(error) or type(error).__name__)


def _decode(image: Image.Image, size: Size | None, channels: int | None) -> Picture:
    image = ImageOps.exif_transpose(image)
    height, width = sides(size or min(image.size))
    top, left, high, wide = centred(image.height, image.width, (height, width))
    cut = _recolour(image, channels or channels_of(image)).crop((left, top, left + wide, top + high))
    scaled = cut if cut.size == (width, height) else cut.resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(scaled).reshape(height, width, -1).transpose(2, 0, 1)
    return Picture(pixels=pixels.copy(), file_size=image.size)


def channels_of(image: Image.Image) -> int:
    """The channels that a picture is read with when nothing is asked for: 1, 3 or 4."""
    if image.has_transparency_data:
        return 4
    return 1 if image.mode in GREY_MODES else 3


def _recolour(image: Image.Image, channels: int) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits per pixel, which Pillow would clip
        image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    if channels < 4 and image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert(MODES[channels])
