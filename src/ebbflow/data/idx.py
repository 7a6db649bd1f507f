"""Read the IDX format of MNIST: a magic number, the sizes, then bytes."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ebbflow.documents import regular
from ebbflow.errors import DataError
from ebbflow.values import Wrong

LARGEST = 1 << 28  # bytes, unpacked; the largest file of the named data sets has 47 million


def read_idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    """The uint8 array of `ndim` dimensions in an IDX file, which may be gzipped (name ending in .gz).

    Layout: bytes 0, 0, 8 (uint8), ndim; then ndim big-endian uint32 sizes; then the values, the last dimension fastest.

    Raises:
        DataError: the file is corrupt, of another kind, or shorter or longer than its header says.
    """
    content = unpacked(path)
    magic, header = bytes([0, 0, 8, ndim]), 4 + 4 * ndim
    if content[:4] != magic or len(content) < header:
        raise DataError(
            f"{path} is not an IDX file of {ndim} dimensions: expected the magic number {magic.hex()} and a header of "
            f"{header} bytes, got {content[:4].hex() or 'nothing'} in a file of {len(content)} bytes. {_CURE}"
        )
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", count=ndim, offset=4))
    if len(content) != header + math.prod(shape):
        raise DataError(
            f"{path} is damaged: its header says {shape}, so {header + math.prod(shape)} bytes, "
            f"but it has {len(content)}. {_CURE}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy()


def idx_hash(array: NDArray[np.uint8]) -> str:
    """The md5 of an array's IDX file, without a gzip shell: whoever packs it again changes the shell."""
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return hashlib.md5(head + array.tobytes(), usedforsecurity=False).hexdigest()


def unpacked(path: Path) -> bytes:
    """The bytes of a file, without its gzip shell when the name ends in .gz.

    Raises:
        DataError: the file cannot be read or its gzip shell is broken.
    """
    try:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(regular(path), "rb") as file:
            content: bytes = file.read(LARGEST + 1)
    except Wrong as wrong:
        raise DataError(f"{path} {wrong}") from None
    except (OSError, EOFError, zlib.error) as error:
        kind = "a whole gzip file" if path.suffix == ".gz" else "a readable file"
        raise DataError(f"{path} is not {kind}: {error}. {_CURE}") from error
    if len(content) > LARGEST:
        raise DataError(f"{path} holds more than {LARGEST:,} bytes, which is no file of this data set. {_CURE}")
    return content


_CURE = "Delete it and it is downloaded again."
