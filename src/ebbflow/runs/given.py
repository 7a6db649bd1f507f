"""Pictures that a run conditioned on images goes by: from files, or from its own held-out data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ebbflow.conditioning import ImageConditioner
from ebbflow.core.condition import GivenImage
from ebbflow.data import Dataset, load_dataset
from ebbflow.data import folder as picture_files
from ebbflow.data.listing import SUFFIXES
from ebbflow.errors import ConfigError, DataError
from ebbflow.runs.opened import Opened, held_out_of


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
