"""Images or points from an .npz file."""

from __future__ import annotations

import zipfile
import zlib
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
from ebbflow.errors import DataError

Array = NDArray[Any]
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
    arrays = _arrays(path)
    x = _entries(path, _first(arrays, "arr_0", "x"), arrays)
    labels, label_names = _labels(path, _first(arrays, "arr_1", "labels"), len(x))
    vectors = _vectors(path, _first(arrays, "vectors"), len(x))
    data = Dataset(name=path.stem, x=x, labels=labels, label_names=label_names, vectors=vectors)
    return divide(data, drawn(len(data), part_of(len(data), held_out)))


def _arrays(path: Path) -> dict[str, Array | None]:
    """What the file holds by name, with None for what is not asked for."""
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {key: file[key] if key in KEYS else None for key in file}
    except (OSError, EOFError, ValueError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read as an .npz file of plain arrays: {error}") from error


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
