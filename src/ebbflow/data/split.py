"""Which entries are held out: a fixed choice that depends on nothing but the data itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from ebbflow.data.dataset import Dataset, Splits

HELD_OUT_FRACTION = 0.1


def divide(data: Dataset, held_out: Tensor) -> Splits:
    """`data` in two parts, both in the order of `data`.

    Args:
        data: N entries.
        held_out: bool (N,), True for the entries that training must not see.
    """
    return Splits(train=data.select(~held_out), held_out=data.select(held_out))


def drawn(num_entries: int, num_held_out: int) -> Tensor:
    """A fixed draw of `num_held_out` out of `num_entries` as a bool mask (num_entries,)."""
    order = np.random.RandomState(0).permutation(num_entries)  # RandomState: numpy promises never to change its stream
    mask = torch.zeros(num_entries, dtype=torch.bool)
    mask[torch.from_numpy(order[:num_held_out])] = True
    return mask


def part_of(num_entries: int, share: float | None = None) -> int:
    """How many of `num_entries` to hold out: `share` of them, by default a tenth. At least 1 where the share is above
    0, and never all."""
    share = HELD_OUT_FRACTION if share is None else share
    return min(max(1, round(num_entries * share)), num_entries - 1) if share else 0


def hashed(names: Iterable[str], share: float | None = None) -> Tensor:
    """About `share` of `names`, by default a tenth, by their hashes as a bool mask (N,), so that adding files moves no
    other file.

    Out of two or more different names at least one is held out, where the share is above 0, and at least one is not.
    """
    share = HELD_OUT_FRACTION if share is None else share
    score = torch.tensor([_unit(name) for name in names], dtype=torch.float64)
    mask = score < share
    if share and not mask.any():
        mask = score == score.min()
    if mask.all():
        mask = score < score.max()
    return mask


def _unit(name: str) -> float:
    """A number in [0, 1) that depends on `name` only."""
    return int.from_bytes(hashlib.sha256(name.encode(errors="surrogatepass")).digest()[:6], "big") / 2**48
