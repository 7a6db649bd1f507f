"""Write the files of data set mnist_small from those of MNIST: `python docs/make_mnist_small.py DATA_DIR`.

Of each digit, the pictures at evenly spaced places among those of it: 1,000 of the training files and 200 of the test
files, in the order of the originals. Nothing is drawn, so the files come out the same everywhere.
"""

from __future__ import annotations

import gzip
import struct
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ebbflow.data.idx import read_idx
from ebbflow.data.pictures import MNIST_FILES, SMALL_MNIST

PER_DIGIT = {"train": 1000, "t10k": 200}


def chosen(labels: NDArray[np.uint8], num: int) -> NDArray[np.int64]:
    """The places of `num` entries of each class, evenly spaced among those of it, in rising order."""
    rows = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.sort(np.concatenate([own[np.arange(num) * len(own) // num] for own in rows]))


def write_idx(values: NDArray[np.uint8], path: Path) -> None:
    """Write bytes as a gzipped IDX file, without a date in it."""
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(gzip.compress(header + values.tobytes(), 9, mtime=0))


def make(source: Path, target: Path) -> None:
    """Write the four files into `target` from MNIST's in `source`."""
    target.mkdir(parents=True, exist_ok=True)
    for images, labels in zip(*(iter(MNIST_FILES),) * 2, strict=True):
        x, y = read_idx(source / images, ndim=3), read_idx(source / labels, ndim=1)
        rows = chosen(y, PER_DIGIT[images.partition("-")[0]])
        write_idx(x[rows], target / images)
        write_idx(y[rows], target / labels)


if __name__ == "__main__":
    make(Path(sys.argv[1]) / "mnist", SMALL_MNIST)
    print(SMALL_MNIST)
