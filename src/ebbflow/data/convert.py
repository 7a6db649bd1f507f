"""Resizing images and changing their channels, once, when data is read; no flips, no augmentation."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ebbflow.data.dataset import Dataset, Splits
from ebbflow.errors import DataError
from ebbflow.memory import require

Size = int | tuple[int, int]  # of a square, or height and width
CHANNELS = (1, 3, 4)  # grey, red green blue, the same with opacity
CHUNK_VALUES = 4_000_000  # pixel values converted at a time


def sides(size: Size) -> tuple[int, int]:
    """Height and width."""
    return (size, size) if isinstance(size, int) else size


def centred(height: int, width: int, to: tuple[int, int]) -> tuple[int, int, int, int]:
    """Top, left, height and width of the largest part of a picture of the proportions `to` (height, width), cut between
    pixels around its centre."""
    high = min(height, max(1, round(width * to[0] / to[1])))
    wide = min(width, max(1, round(height * to[1] / to[0])))
    return (height - high) // 2, (width - wide) // 2, high, wide


def check_request(size: Size | None, channels: int | None) -> None:
    """Refuse a `size` below 1 and a `channels` other than 1, 3 or 4 with a DataError."""
    if size is not None and min(sides(size)) < 1:
        raise DataError(f"`size` must be at least 1, got {size}.")
    if channels is not None and channels not in CHANNELS:
        raise DataError(f"`channels` must be 1, 3 or 4, got {channels}.")


def convert_splits(splits: Splits, *, size: Size | None, channels: int | None) -> Splits:
    """`convert` on both parts."""
    train = convert(splits.train, size=size, channels=channels)
    return Splits(train=train, held_out=convert(splits.held_out, size=size, channels=channels))


def convert(data: Dataset, *, size: Size | None = None, channels: int | None = None) -> Dataset:
    """The images of `data` as (N, channels, height, width), in chunks so that little memory is needed.

    Colours go first: grey is repeated, colour becomes grey by the luma of Rec. 601, and where opacity goes the image is
    laid on white. Then the largest part of the wanted proportions, around the centre, is resized by antialiased bicubic
    interpolation.

    Args:
        data: images; points only when nothing is asked for.
        size: side, or height and width, in pixels, at least 1; None keeps them.
        channels: 1, 3 or 4; None keeps them.

    Raises:
        DataError: `data` holds points, or has a number of channels that cannot be converted.
    """
    if size is None and channels is None:
        return data
    if not data.is_image:
        raise DataError(
            f"data set {data.name!r} holds {data.dims[0]}-D points: `size` and `channels` "
            "are for images; leave them out."
        )
    old_channels, height, width = data.dims
    dims = (channels or old_channels, *((height, width) if size is None else sides(size)))
    if dims == data.dims:
        return data
    if channels not in (None, old_channels) and old_channels not in CHANNELS:
        raise DataError(f"data set {data.name!r} has {old_channels} channels; only 1, 3 or 4 become {channels}.")
    return replace(data, x=_in_chunks(data.x, dims))


def _in_chunks(x: Tensor, dims: tuple[int, int, int]) -> Tensor:
    channels, height, width = dims
    require(len(x) * math.prod(dims), f"{len(x):,} images of {dims[1]} x {dims[2]}", "Lower `size`.", DataError)
    out = torch.empty((len(x), *dims), dtype=torch.uint8)
    per_image = max(x[:1].numel(), out[:1].numel(), 1)
    rows = max(1, CHUNK_VALUES // per_image)
    for start in range(0, len(x), rows):
        part = recolour(x[start : start + rows], channels)
        out[start : start + rows] = part if part.shape[2:] == (height, width) else resize(part, (height, width))
    return out


def recolour(x: Tensor, channels: int) -> Tensor:
    """Images uint8 (B, 1 | 3 | 4, H, W) with `channels` of 1, 3 or 4."""
    if x.shape[1] == channels:
        return x
    if x.shape[1] == 4:
        x = _on_white(x)
    if x.shape[1] == 3 and channels == 1:
        return _luma(x)
    x = x.expand(-1, 3, -1, -1)
    return torch.cat([x, torch.full_like(x[:, :1], 255)], dim=1) if channels == 4 else x


def _luma(x: Tensor) -> Tensor:
    """Rec. 601: 0.299 R + 0.587 G + 0.114 B in 16-bit fixed point, as Pillow rounds it; grey stays what it is."""
    red, green, blue = x.int().unbind(1)
    luma = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
    return luma.to(torch.uint8)[:, None]


def _on_white(x: Tensor) -> Tensor:
    colour, opacity = x[:, :3].int(), x[:, 3:].int()
    laid = (colour * opacity + 255 * (255 - opacity) + 127) // 255
    return laid.to(torch.uint8)


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The centres of images uint8 (B, C, H, W), of the proportions of `size`, as uint8 (B, C, *size)."""
    top, left, height, width = centred(x.shape[2], x.shape[3], size)
    part = x[:, :, top : top + height, left : left + width]
    if (height, width) == size:
        return part
    smooth = interpolate(part.float(), size=size, mode="bicubic", align_corners=False, antialias=True)
    return smooth.round().clamp(0, 255).to(torch.uint8)
