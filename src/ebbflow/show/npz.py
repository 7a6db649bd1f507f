"""Samples as an .npz file that is written piece by piece, in the memory of one piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from ebbflow.files import whole_file


@contextmanager
def npz_file(path: Path, num: int, dims: tuple[int, ...], labels: Tensor | None) -> Iterator[Callable[[Tensor], None]]:
    """A function that adds rows to the file `path`, which is there once all `num` of them have been added.

    What it takes are images uint8 (B, C, H, W), which become NHWC, or points float32 (B, D): `arr_0`; the labels int64
    (num,) become `arr_1`.

    Raises:
        ValueError: fewer or more rows than `num`.
    """
    is_image, added = len(dims) == 3, 0
    dtype, shape = (np.dtype("u1"), (*dims[1:], dims[0])) if is_image else (np.dtype("<f4"), dims)
    with whole_file(path) as partial, ZipFile(partial, "w", ZIP_DEFLATED) as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as member:

            def add(rows: Tensor) -> None:
                nonlocal added
                added += len(rows)
                array = rows.permute(0, 2, 3, 1) if is_image else rows
                member.write(np.ascontiguousarray(array.numpy(), dtype).data)

            header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": (num, *shape)}
            npy.write_array_header_1_0(member, header)
            yield add
            if added != num:
                raise ValueError(f"{path} was to hold {num} samples, and {added} were made.")
        if labels is not None:
            with archive.open("arr_1.npy", "w", force_zip64=True) as member:
                npy.write_array(member, labels.to(torch.int64).numpy())
