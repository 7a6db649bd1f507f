"""Data sets: images and points in memory, read from the package, a folder, an .npz file or a download."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ebbflow.data.convert import check_request, convert_splits
from ebbflow.data.dataset import Dataset, Splits, to_uint8
from ebbflow.data.folder import image_folder, image_pairs
from ebbflow.data.npz import npz
from ebbflow.data.pictures import cifar10, digits, fashion_mnist, mnist, mnist_small
from ebbflow.data.points import checkerboard, gaussians, moons, rings, swiss_roll
from ebbflow.errors import ConfigError, DataError, has, nearest

__all__ = ["DATASETS", "Dataset", "Maker", "Splits", "load_dataset", "to_uint8"]


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


def load_dataset(
    source: str | Path,
    *,
    data_dir: str | Path | None = None,
    size: int | None = None,
    channels: int | None = None,
    skip_bad: bool = False,
    paired: bool = False,
) -> Splits:
    """The data set called `source`, or the one in the folder of images or the .npz file of that path.

    A name wins over a folder of the same name; write "./mnist" for the folder.

    Args:
        source: a name in DATASETS, an existing folder (see `image_folder`), or an existing .npz file (see `npz`).
        data_dir: where named data sets lie or are downloaded to; None is the environment's EBBFLOW_DATA, else
            ~/.cache/ebbflow/data.
        size: side in pixels to bring images to, at least 1; None keeps it.
        channels: 1, 3 or 4 to bring images to; None keeps them.
        skip_bad: leave out images of a folder that cannot be read, with a warning.
        paired: the folder is one of pairs (see `image_pairs`), and nothing else will do.

    Raises:
        ConfigError: `source` is neither a known name nor an existing path.
        DataError: the data cannot be read, downloaded or converted.
    """
    check_request(size, channels)
    name, path = str(source), Path(source).expanduser()
    if paired:
        if not path.is_dir():
            raise DataError(f"{name} is no folder of pairs, with a (the condition) and b (the data) in it.")
        return image_pairs(path, size=size, channels=channels)
    if name in DATASETS or (not path.exists() and has(DATASETS, name)):
        splits = DATASETS[name](data_dir)
    elif path.is_dir():
        splits = image_folder(path, size=size, channels=channels, skip_bad=skip_bad)
    elif path.suffix == ".npz" and path.is_file():
        splits = npz(path)
    elif path.exists():
        raise DataError(f"{name} is neither a folder of images nor an .npz file.")
    else:
        known = nearest(name, list(DATASETS))
        raise ConfigError(f"unknown data set {name!r}. {known} Or pass the path of a folder or .npz file that exists.")
    return convert_splits(splits, size=size, channels=channels)
