"""Samples in files: labelled grids, animations, single pictures, and an .npz file written piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from ebbflow.errors import ConfigError
from ebbflow.files import whole_file
from ebbflow.show.fonts import font_for, writable

if TYPE_CHECKING:
    from PIL import Image


TILE = 56  # tiny images are enlarged, by a whole factor, to at least about this side
SMALL, WIDE = 256, 1024  # a sheet that is less high is enlarged further, as long as it is not wider
GAP, MARGIN = 2, 8  # between tiles, and around all of them
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
ANIMATION_SUFFIXES = (".webp", ".gif")


def to_picture(tile: Tensor) -> Image.Image:
    """A uint8 (C, H, W) image with 1, 3 or 4 channels as a PIL image."""
    from PIL import Image

    array = tile.permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)


def enlargement(height: int, width: int, rows: int, columns: int) -> int:
    """The whole factor by which tiles are enlarged: to about `TILE`, and while the sheet is small, to `SMALL` of
    height, or `WIDE` of width."""
    return max(1, round(TILE / max(height, width)), min(-(-SMALL // (rows * height)), WIDE // (columns * width)))


def grid(
    images: Tensor, *, columns: int, row_names: Sequence[str] = (), column_names: Sequence[str] = ()
) -> Image.Image:
    """Images uint8 (N, C, H, W) in rows of `columns`, enlarged by nearest neighbour, with a name before each row and
    over each column where given."""
    from PIL import Image, ImageDraw

    rows = -(-len(images) // columns)
    row_names, column_names = writable(row_names[:rows]), writable(column_names[:columns])
    high, wide = images.shape[2:]
    factor = enlargement(high, wide, rows, columns)
    height, width = high * factor + GAP, wide * factor + GAP
    size = max(12, min(20, height // 3))
    widest = max((length(name, size) for name in column_names), default=0)
    small = size if widest <= width else max(8, int(size * width / widest))
    left = max((length(name, size) + 3 * GAP for name in row_names), default=0) + MARGIN
    top = size + 4 * GAP if any(column_names) else MARGIN
    right = max(MARGIN, (length(column_names[-1], small) - width) // 2 + GAP if column_names else 0)
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[images.shape[1]]
    sheet = Image.new(mode, (left + columns * width + right, top + rows * height + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for row, name in enumerate(row_names):
        middle = top + row * height + height // 2
        draw.text((left - 2 * GAP, middle), name, fill="black", font=font_for(name, size), anchor="rm")
    for column, name in enumerate(column_names):
        middle = left + column * width + width // 2
        draw.text((middle, top - GAP), name, fill="black", font=font_for(name, small), anchor="mb")
    for i, tile in enumerate(images):
        picture = to_picture(tile)
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
        sheet.paste(picture, (left + (i % columns) * width, top + (i // columns) * height))
    return sheet


def strip(images: Tensor) -> Image.Image:
    """Images uint8 (N, C, H, W) in a row without a margin, for a cell of a page."""
    sheet = grid(images, columns=len(images))
    return sheet.crop((MARGIN, MARGIN, sheet.width - MARGIN - GAP, sheet.height - MARGIN - GAP))


def length(text: str, size: int) -> int:
    """How many pixels wide a text is."""
    return int(font_for(text, size).getlength(text))


def save_picture(picture: Image.Image, path: Path, command: str = "") -> None:
    """Write a picture; a PNG carries the command that remakes it in its "ebbflow" text.

    Raises:
        ConfigError: a suffix that is no picture's.
    """
    from PIL.PngImagePlugin import PngInfo

    check_suffix(path, PICTURE_SUFFIXES)
    suffix = path.suffix.lower()
    with whole_file(path) as partial:
        if suffix == ".png":
            info = PngInfo()
            info.add_text("ebbflow", command)
            picture.save(partial, format="PNG", pnginfo=info)
        elif suffix == ".webp":
            picture.save(partial, format="WEBP", lossless=True)
        else:
            picture.convert("RGB").save(partial, format="JPEG", quality=95)


def save_animation(frames: Sequence[Image.Image], path: Path, *, seconds: float = 3.0) -> None:
    """Write frames as a looping WebP or GIF, the last one held for a second.

    Raises:
        ConfigError: another suffix.
    """
    check_suffix(path, ANIMATION_SUFFIXES)
    durations = [max(20, round(1000 * seconds / len(frames)))] * (len(frames) - 1) + [1000]
    with whole_file(path) as partial:
        frames[0].save(
            partial,
            format=path.suffix[1:].upper(),
            save_all=True,
            append_images=list(frames[1:]),
            duration=durations,
            loop=0,
            lossless=True,
        )


def check_suffix(path: Path, known: Sequence[str]) -> None:
    """Raise a ConfigError unless the suffix of `path` is one of `known`."""
    if path.suffix.lower() not in known:
        raise ConfigError(f"{path}: cannot write {path.suffix or 'a file without a suffix'!r}. Use {', '.join(known)}.")


@contextmanager
def npz_file(path: Path, num: int, dims: tuple[int, ...], labels: Tensor | None) -> Iterator[Callable[[Tensor], None]]:
    """A function that adds rows to the file `path`, which is there once all `num` of them have been added.

    What it takes are images uint8 (B, C, H, W), which become NHWC, or points float32 (B, D): `arr_0`; the labels int64
    (num,) become `arr_1`.

    Raises:
        ValueError: fewer or more rows than `num`.
    """
    is_image, added = len(dims) == 3, 0
    dtype, shape = (np.dtype("u1"), (*dims[1:], dims[0])) if is_image else (np.dtype("<f4"), dims)
    with whole_file(path) as partial, ZipFile(partial, "w", ZIP_DEFLATED) as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as member:

            def add(rows: Tensor) -> None:
                nonlocal added
                added += len(rows)
                array = rows.permute(0, 2, 3, 1) if is_image else rows
                member.write(np.ascontiguousarray(array.numpy(), dtype).data)

            header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": (num, *shape)}
            npy.write_array_header_1_0(member, header)
            yield add
            if added != num:
                raise ValueError(f"{path} was to hold {num} samples, and {added} were made.")
        if labels is not None:
            with archive.open("arr_1.npy", "w", force_zip64=True) as member:
                npy.write_array(member, labels.to(torch.int64).numpy())
