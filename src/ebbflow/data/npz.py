"""Images or points from an .npz file."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebbflow.data.dataset import Dataset, Splits
from ebbflow.data.labels import class_indices
from ebbflow.data.split import divide, drawn, part_of
from ebbflow.documents import regular
from ebbflow.errors import DataError
from ebbflow.memory import require
from ebbflow.values import Wrong

Array = NDArray[Any]
MAX_HEADER = 10_000  # characters of an array's own description
KEYS = ("arr_0", "x", "arr_1", "labels", "vectors")


def npz(path: Path, held_out: float | None = None) -> Splits:
    """The images or points of an .npz file, a fixed draw of a tenth of them, or of the share `held_out`, held out.

    Args:
        path: `arr_0` or `x`: images uint8 (N, H, W) or (N, H, W, C) with C <= 4, or points floating (N, D), finite;
            optionally `arr_1` or `labels`: strings, or integers that are class indices, (N,);
            optionally `vectors`: floating (N, K), finite, to condition on.

    Raises:
        DataError: the file cannot be read without unpickling, or an array is missing or of another kind.
    """
    arrays = read_arrays(path, KEYS)
    x = _entries(path, _first(arrays, "arr_0", "x"), arrays)
    labels, label_names = _labels(path, _first(arrays, "arr_1", "labels"), len(x))
    vectors = _vectors(path, _first(arrays, "vectors"), len(x))
    data = Dataset(name=path.stem, x=x, labels=labels, label_names=label_names, vectors=vectors)
    return divide(data, drawn(len(data), part_of(len(data), held_out)))


def read_arrays(path: Path, keys: Iterable[str]) -> dict[str, Array | None]:
    """What an .npz file holds by name, with None for what is not asked for; nothing is unpickled, and no more memory is
    taken than there is.

    Raises:
        DataError: it is no such file, or too large.
    """
    try:
        with regular(path).open("rb") as stream, zipfile.ZipFile(stream) as archive:
            names = {Path(one.filename).stem: one for one in archive.infolist() if one.filename.endswith(".npy")}
            wanted = [one for name, one in names.items() if name in keys]
            require(2 * sum(one.file_size for one in wanted), str(path), "Split it.", DataError)
            return {name: _member(archive, one) if one in wanted else None for name, one in names.items()}
    except Wrong as wrong:
        raise DataError(f"{path} {wrong}") from None
    except (DataError, FileNotFoundError):
        raise
    except Exception as error:  # of a damaged archive or header numpy and zipfile raise nearly anything
        raise DataError(f"{path} cannot be read as an .npz file of plain arrays: {_first_line(error)}") from error


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    """One array, whose header is compared with its size before it is made."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file, max_header_size=MAX_HEADER)
        if dtype.hasobject:
            raise ValueError(f"{member.filename} holds objects of Python.")
        if math.prod(shape) * dtype.itemsize > member.file_size:
            raise ValueError(f"{member.filename} says that it is {shape}, and is shorter.")
    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False, max_header_size=MAX_HEADER)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _first(arrays: dict[str, Array | None], *keys: str) -> Array | None:
    return next((arrays[key] for key in keys if key in arrays), None)


def _entries(path: Path, x: Array | None, keys: Iterable[str]) -> Tensor:
    if x is None:
        raise DataError(f"{path} has no array `arr_0` or `x`; it has: {', '.join(keys) or 'nothing'}.")
    if x.size == 0:
        raise DataError(f"{path}: the array of images or points is empty.")
    if x.dtype == np.uint8 and x.ndim == 3:
        x = x[..., None]
    if x.dtype == np.uint8 and x.ndim == 4 and x.shape[-1] <= 4:
        return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    if np.issubdtype(x.dtype, np.floating) and x.ndim == 2:
        if not np.isfinite(x).all():
            raise DataError(f"{path}: points must be finite, but some are NaN or infinite.")
        return torch.from_numpy(x.astype(np.float32))
    raise DataError(
        f"{path}: expected images uint8 (N, H, W) or (N, H, W, C) with the channels last, or points float32 (N, D); "
        f"got {x.dtype} {x.shape}."
    )


def _labels(path: Path, labels: Array | None, num_entries: int) -> tuple[Tensor | None, tuple[str, ...]]:
    if labels is None:
        return None, ()
    if labels.shape != (num_entries,):
        raise DataError(f"{path}: expected labels ({num_entries},), one for each entry, got {labels.shape}.")
    return class_indices(labels.tolist(), str(path))


def _vectors(path: Path, vectors: Array | None, num_entries: int) -> Tensor | None:
    if vectors is None:
        return None
    fits = vectors.ndim == 2 and len(vectors) == num_entries and np.issubdtype(vectors.dtype, np.floating)
    if not fits or not np.isfinite(vectors).all():
        raise DataError(
            f"{path}: expected vectors ({num_entries}, K) of finite floating-point numbers, got {vectors.dtype} "
            f"{vectors.shape}."
        )
    return torch.from_numpy(vectors.astype(np.float32))
