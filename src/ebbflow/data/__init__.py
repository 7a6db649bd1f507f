"""Data sets: images and points in memory, read from the package, a folder, an .npz file or a download."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch

from ebbflow.data.convert import Size, check_request, convert_splits
from ebbflow.data.dataset import Dataset, Splits, to_uint8
from ebbflow.data.folder import image_folder, image_pairs
from ebbflow.data.found import Found, found_in, found_in_folder
from ebbflow.data.npz import npz
from ebbflow.data.on_demand import folder_on_demand
from ebbflow.data.parquet import Columns, parquet_files
from ebbflow.data.parts import is_parquet
from ebbflow.data.pictures import cifar10, digits, fashion_mnist, mnist, mnist_small
from ebbflow.data.points import checkerboard, gaussians, moons, rings, swiss_roll
from ebbflow.data.shards import is_shards, tar_shards
from ebbflow.errors import ConfigError, DataError, has, nearest

__all__ = [
    "DATASETS",
    "Columns",
    "Dataset",
    "Found",
    "Maker",
    "Size",
    "Splits",
    "found_in",
    "is_named",
    "load_dataset",
    "look",
    "to_uint8",
]


class Maker(Protocol):
    """A function that makes the splits of one named data set; `data_dir` holds or receives its files, if it has any."""

    def __call__(self, data_dir: str | Path | None = None) -> Splits: ...


DATASETS: dict[str, Maker] = {
    "digits": digits,
    "mnist": mnist,
    "mnist_small": mnist_small,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "moons": moons,
    "checkerboard": checkerboard,
    "rings": rings,
    "swiss_roll": swiss_roll,
    "gaussians": gaussians,
}


def is_named(source: str | Path) -> bool:
    """Whether `source` is a name in DATASETS, and not a folder or a file."""
    name = str(source)
    return name in DATASETS or (not Path(name).expanduser().exists() and has(DATASETS, name))


def look(
    source: str | Path,
    *,
    data_dir: str | Path | None = None,
    skip_bad: bool = False,
    held_out: float | None = None,
    columns: Columns = Columns(),
) -> Found:
    """What `load_dataset` would read, told in a moment: of a folder only names and a few headers are read.

    Raises:
        ConfigError, DataError: as `load_dataset`.
    """
    path = Path(source).expanduser()
    if path.is_dir() and not is_named(source) and not is_parquet(source):
        return found_in_folder(path, held_out=held_out)
    return found_in(load_dataset(source, data_dir=data_dir, skip_bad=skip_bad, held_out=held_out, columns=columns))


def load_dataset(
    source: str | Path,
    *,
    data_dir: str | Path | None = None,
    size: Size | None = None,
    channels: int | None = None,
    skip_bad: bool = False,
    paired: bool = False,
    held_out: float | None = None,
    few: int | None = None,
    on_demand: bool = False,
    columns: Columns = Columns(),
) -> Splits:
    """The data set called `source`, or the one in the folder of images, the .npz file, the tar shards or the parquet of
    that path.

    A name wins over a folder of the same name; write "./mnist" for the folder.

    Args:
        source: a name in DATASETS, an existing folder (see `image_folder`), an existing .npz file (see `npz`), a
            pattern of shards such as "shards/*.tar" (see `tar_shards`), or parquet: a folder or a pattern of it, or
            "hf:USER/NAME" (see `parquet_files`).
        data_dir: where named data sets lie or are downloaded to; None is the environment's EBBFLOW_DATA, else
            ~/.cache/ebbflow/data.
        size: side, or height and width, in pixels to bring images to, at least 1; None keeps it.
        channels: 1, 3 or 4 to bring images to; None keeps them.
        skip_bad: leave out images of a folder that cannot be read, with a warning.
        paired: the folder is one of pairs (see `image_pairs`), and nothing else will do.
        held_out: the share of a folder or an .npz file that is held out, in [0, 1); None is a tenth. Named data sets
            have their own.
        few: no more than so many pictures of a folder, of shards or of parquet, spread over it.
        on_demand: read the pictures of a folder when they are asked for, as those of shards and parquet always are.
        columns: of parquet.

    Raises:
        ConfigError: `source` is neither a known name nor an existing path.
        DataError: the data cannot be read, downloaded or converted.
    """
    check_request(size, channels)
    name, path = str(source), Path(source).expanduser()
    if paired:
        if not path.is_dir():
            raise DataError(f"{name} is no folder of pairs, with a (the condition) and b (the data) in it.")
        return image_pairs(path, size=size, channels=channels, held_out=held_out, few=few)
    if columns != Columns() and not is_parquet(source):
        raise DataError(f"data.columns are of parquet files, and {name} is none. Leave them out.")
    if is_named(source):
        if held_out is not None:
            raise DataError(f"data set {name!r} comes with its own held-out part. Leave `held_out` out.")
        splits = DATASETS[name](data_dir)
    elif is_parquet(source):
        return _few(
            parquet_files(name, columns=columns, size=size, channels=channels, skip_bad=skip_bad, held_out=held_out),
            few,
        )
    elif is_shards(source):
        shards = tar_shards(name, size=size, channels=channels, skip_bad=skip_bad, held_out=held_out)
        return _few(shards, few)
    elif path.is_dir():
        if on_demand:
            found = folder_on_demand(path, size=size, channels=channels, skip_bad=skip_bad, held_out=held_out)
            return _few(found, few)
        splits = image_folder(path, size=size, channels=channels, skip_bad=skip_bad, held_out=held_out, few=few)
    elif path.suffix == ".npz" and path.is_file():
        splits = npz(path, held_out)
    elif path.exists():
        raise DataError(f"{name} is neither a folder of images nor an .npz file.")
    else:
        known = nearest(name, list(DATASETS))
        raise ConfigError(f"unknown data set {name!r}. {known} Or pass the path of a folder or .npz file that exists.")
    return convert_splits(splits, size=size, channels=channels)


def _few(splits: Splits, num: int | None) -> Splits:
    """At most `num` entries of each part, spread over it."""
    if num is None:
        return splits
    return Splits(
        **{
            name: data if len(data) <= num else data.select(torch.arange(num) * len(data) // num)
            for name, data in vars(splits).items()
        }
    )
