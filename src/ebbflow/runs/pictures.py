"""Picture files as a model sees them: inputs, targets and masks."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ebbflow.data import Dataset
from ebbflow.data import folder as picture_files
from ebbflow.errors import DataError

MASK_LEVEL = 128  # grey of 255 from which a pixel of a mask counts as white


def read_picture(path: Path, dims: tuple[int, ...]) -> tuple[Tensor, str]:
    """A picture as a model of `dims` sees images, float32 (1, *dims) in [-1, 1], and what was done to it in words.

    It is read as training pictures are: turned as its EXIF data says, 16 bits kept in scale, transparency laid on
    white, cut to its centre square and resized with antialiasing.

    Raises:
        DataError: a file that is missing or cannot be read, or a model whose images are not square.
    """
    channels, height, width = dims
    if height != width:
        raise DataError(f"only square images can be read from a picture; this model's are {height} x {width}.")
    picture = picture_files.read_picture(path, size=height, channels=channels)
    pixels = torch.from_numpy(picture.pixels)[None]
    x = Dataset(name=path.name, x=pixels, labels=None, label_names=()).x0(torch.tensor([0]))
    if picture.file_size == (width, height):
        return x, ""
    was = "x".join(map(str, picture.file_size))
    cut = "" if picture.file_size[0] == picture.file_size[1] else "cut to its centre square and "
    return x, f"{path}: {was} pixels, {cut}resized to {width}x{height}"


def read_mask(path: Path, image: Path | None, dims: tuple[int, ...]) -> Tensor:
    """A black and white picture of the size of the file `image`, or of the model's images, as bool (1, 1, H, W), True
    where it is white.

    Raises:
        DataError: missing, unreadable, of another size than the image, or without any white.
    """
    mask = picture_files.read_picture(path, size=dims[1], channels=1)
    allowed = [(dims[2], dims[1])]
    if image is not None:
        allowed.append(picture_files.read_picture(image, channels=dims[0]).file_size)
    if mask.file_size not in allowed:
        got, want = ("x".join(map(str, size)) for size in (mask.file_size, allowed[-1]))
        raise DataError(f"the mask {path} has {got} pixels, the image {want}. Make them the same size.")
    generated = torch.from_numpy(mask.pixels)[None] >= MASK_LEVEL
    if not generated.any():
        raise DataError(f"the mask {path} has no white pixel, so there is nothing to generate.")
    return generated
