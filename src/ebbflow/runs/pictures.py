"""Picture files as a model sees them: inputs, targets, masks, and pictures to go by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ebbflow.conditioning import ImageConditioner
from ebbflow.core.condition import GivenImage
from ebbflow.data import Dataset, load_dataset
from ebbflow.data import folder as picture_files
from ebbflow.data.convert import centred
from ebbflow.data.listing import SUFFIXES
from ebbflow.errors import ConfigError, DataError
from ebbflow.runs.opened import Opened, held_out_of

MASK_LEVEL = 128  # grey of 255 from which a pixel of a mask counts as white


def read_picture(path: Path, dims: tuple[int, ...]) -> tuple[Tensor, str]:
    """A picture as a model of `dims` sees images, float32 (1, *dims) in [-1, 1], and what was done to it in words.

    It is read as training pictures are: turned as its EXIF data says, 16 bits kept in scale, transparency laid on
    white, cut to its centre and resized with antialiasing.

    Raises:
        DataError: a file that is missing or cannot be read.
    """
    channels, height, width = dims
    picture = picture_files.read_picture(path, size=(height, width), channels=channels)
    pixels = torch.from_numpy(picture.pixels)[None]
    x = Dataset(name=path.name, x=pixels, labels=None, label_names=()).x0(torch.tensor([0]))
    if picture.file_size == (width, height):
        return x, ""
    was = "x".join(map(str, picture.file_size))
    part = centred(picture.file_size[1], picture.file_size[0], (height, width))[2:]
    what = "to its centre square" if height == width else "around its centre"
    cut = "" if part == picture.file_size[::-1] else f"cut {what} and "
    return x, f"{path}: {was} pixels, {cut}resized to {width}x{height}"


def read_mask(path: Path, image: Path | None, dims: tuple[int, ...]) -> Tensor:
    """A black and white picture of the size of the file `image`, or of the model's images, as bool (1, 1, H, W), True
    where it is white.

    Raises:
        DataError: missing, unreadable, of another size than the image, or without any white.
    """
    mask = picture_files.read_picture(path, size=(dims[1], dims[2]), channels=1)
    allowed = [(dims[2], dims[1])]
    if image is not None:
        allowed.append(picture_files.read_picture(image, channels=dims[0]).file_size)
    if mask.file_size not in allowed:
        got, want = ("x".join(map(str, size)) for size in (mask.file_size, allowed[-1]))
        raise DataError(f"the mask {path} has {got} pixels, the image {want}. Make them the same size.")
    return _some(torch.from_numpy(mask.pixels)[None] >= MASK_LEVEL, f"the mask {path}")


def as_mask(given: Any, dims: tuple[int, ...]) -> Tensor:
    """A mask that is no file as bool (1, 1, H, W), True where it is to be generated.

    Args:
        given: a picture of Pillow, an array or a tensor (H, W), with axes of length 1 before or after: bool, bytes
            (white from 128 of 255) or floating numbers (from 0.5).
        dims: of the model's images.

    Raises:
        ConfigError: another kind, or another size.
        DataError: nothing is to be generated.
    """
    if isinstance(given, Image.Image):
        given = np.array(given.convert("L"))
    try:
        values = torch.as_tensor(given).cpu()
    except (TypeError, ValueError, RuntimeError):
        values = torch.empty(0)
    size = dims[1:]
    if tuple(side for side in values.shape if side != 1) != tuple(side for side in size if side != 1):
        got = "x".join(map(str, values.shape)) if values.ndim and values.numel() else type(given).__name__
        raise ConfigError(
            f"`mask` must be a picture file, or a picture, array or tensor of the size of the model's images, "
            f"{size[0]}x{size[1]}; got {got}."
        )
    level = MASK_LEVEL if values.dtype == torch.uint8 and bool((values > 1).any()) else 0.5
    return _some(values.reshape(1, 1, *size) >= level, "the mask")


def _some(generated: Tensor, name: str) -> Tensor:
    if not generated.any():
        raise DataError(f"{name} has no white pixel, so there is nothing to generate.")
    return generated


def as_image(picture: Any, channels: int) -> Any:
    """A picture of Pillow or an array (H, W) or (H, W, C) of bytes as a tensor uint8 (C, H, W); all else as it is."""
    if isinstance(picture, Image.Image):
        picture = np.array(picture.convert(picture_files.MODES[channels]))
    if not isinstance(picture, np.ndarray):
        return picture
    if picture.dtype == np.uint8 and picture.ndim == 2:
        picture = picture[..., None]
    if picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == channels:
        picture = picture.transpose(2, 0, 1)
    return torch.from_numpy(np.array(picture, order="C"))


def images_of(reader: ImageConditioner, data: Dataset, num: int) -> tuple[GivenImage, ...]:
    """The pictures of the first `num` entries of a data set, called by their numbers."""
    rows = torch.arange(min(num, len(data)))
    return tuple(GivenImage(name=str(int(i)), x=x) for i, x in zip(rows, reader.pictures(data, rows), strict=True))


def held_out_images(model: Opened, num: int) -> tuple[GivenImage, ...]:
    """The pictures of the first held-out entries of a run.

    Raises:
        ConfigError: its data is not at hand.
    """
    assert isinstance(model.reader, ImageConditioner)
    try:
        return images_of(model.reader, held_out_of(model, None, num), num)
    except (ConfigError, DataError) as error:
        raise ConfigError(
            f"{model.name} goes by pictures, and its data is not at hand ({error}). Give some as `images`."
        ) from error


def given_images(model: Opened, paths: Sequence[Path]) -> tuple[GivenImage, ...]:
    """The pictures in files, folders and .npz files, in the size and colours that they have.

    Raises:
        ConfigError: a model that goes by none.
        DataError: nothing there, or nothing that can be read.
    """
    reader = model.reader
    if not isinstance(reader, ImageConditioner):
        raise ConfigError(f"{model.name} was not trained on pictures as its condition. Leave `images` out.")
    return tuple(one for path in paths for one in _read(Path(path).expanduser(), reader.dims[0]))


def _read(path: Path, channels: int) -> list[GivenImage]:
    if path.suffix == ".npz":
        splits = load_dataset(str(path))
        parts = [part for part in (splits.train, splits.held_out) if len(part)]
        rows = torch.cat([part.x0(torch.arange(len(part))) for part in parts])
        return [GivenImage(name=f"{path.stem} {i}", x=x) for i, x in enumerate(rows)]
    files = [path] if not path.is_dir() else sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"{path} holds no pictures ({', '.join(suffix[1:] for suffix in SUFFIXES)}).")
    return [_picture(file, channels) for file in files]


def _picture(path: Path, channels: int) -> GivenImage:
    found = picture_files.read_picture(path, channels=channels)
    if found.file_size[0] != found.file_size[1]:
        raise DataError(f"{path} has {found.file_size[0]}x{found.file_size[1]} pixels. Give a square picture.")
    return GivenImage(name=path.stem, x=torch.from_numpy(found.pixels).float() / 127.5 - 1)
