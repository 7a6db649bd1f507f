"""Batches: what data may come as, and how it becomes tensors with a row a sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ebbflow.core.condition import Cond, Condition, num_rows, rows_of, to_device
from ebbflow.core.device import sent
from ebbflow.core.noise import derive_seed, generator_for

Read = Callable[[Sequence[Condition]], Cond]
DATA_KEYS = ("x0", "x", "image", "images", "img", "pixel_values", "audio")
ROUNDS = 6  # of a shuffle: four would pass for random too
MIX = 0x1E3779B97F4A7C15  # odd, about 2^61 over the golden ratio
CONDITION_KEYS = ("cond", "label", "labels", "text", "caption", "prompt")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Data of one step, a row a sample.

    Args:
        x0: the data (B, *dims).
        cond: a tensor or a dict of tensors, or None.
        eps: the noise that each x0 is paired with, of its shape; drawn where None.
        weight: factor of each sample's loss (B,), or None.
        whole: where these are one process's rows of a larger batch, the rows that that has; None where this is all.
        first: the first of these among them.

    Raises:
        ValueError: their numbers of rows differ, or there are none.
    """

    x0: Tensor
    cond: Cond | None = None
    eps: Tensor | None = None
    weight: Tensor | None = None
    whole: int | None = None
    first: int = 0

    def __post_init__(self) -> None:
        rows = {"cond": None if self.cond is None else num_rows(self.cond)}
        rows |= {
            name: None if part is None else len(part) for name, part in (("eps", self.eps), ("weight", self.weight))
        }
        if len(self.x0) == 0:
            raise ValueError("a batch has no samples in it. Leave empty batches out.")
        wrong = {name: num for name, num in rows.items() if num not in (None, len(self.x0))}
        if wrong:
            raise ValueError(f"a batch of {len(self.x0)} samples needs as many rows of everything, got {wrong}.")
        if self.eps is not None and self.eps.shape != self.x0.shape:
            raise ValueError(f"eps must have the shape of x0, {tuple(self.x0.shape)}, got {tuple(self.eps.shape)}.")
        if self.weight is not None and self.weight.ndim != 1:
            raise ValueError(f"weight is a number a sample, of shape (B,), got {tuple(self.weight.shape)}.")

    def __len__(self) -> int:
        return len(self.x0)

    def rows(self, rows: range, device: torch.device) -> Batch:
        """Some samples of the batch, on a device."""
        part = slice(rows.start, rows.stop)
        x0, eps, weight = (None if k is None else sent(k[part], device) for k in (self.x0, self.eps, self.weight))
        assert x0 is not None
        cond = None if self.cond is None else to_device(rows_of(self.cond, part), device)
        return Batch(x0=x0, cond=cond, eps=eps, weight=weight)


class Loader(Protocol):
    """Batches as a pure function of the step, so that resuming needs no state."""

    def batch(self, step: int) -> Batch:
        """The batch of step `step`, counted from 0."""
        ...


Batches = Loader | Iterable[Any]


def batches_from(batches: Batches, start: int, read: Read | None = None) -> Iterator[Batch]:
    """The batches of step `start`, `start` + 1, ...; see `as_batch` for what they may be made of.

    An iterable is gone through again when it ends, and begins at its beginning whatever `start`; only a `Loader` goes
    on exactly where a run stopped.

    Raises:
        ValueError: nothing in it, an iterator that is used up, or things that are no batches.
    """
    if isinstance(batches, Tensor | np.ndarray | Mapping | Batch):
        raise ValueError("one batch stands where many are wanted. Give a list of it, or a DataLoader that cuts it.")
    if not isinstance(batches, Iterable) and not callable(getattr(batches, "batch", None)):
        raise ValueError(f"batches are an iterable, such as a DataLoader or a list, got {type(batches).__name__}.")
    step = start
    while True:
        began = step
        if not isinstance(batches, Iterable):
            yield as_batch(batches.batch(step), read)
            step += 1
            continue
        for item in batches:
            yield as_batch(item, read)
            step += 1
        if step == began:
            raise ValueError(
                f"the batches came to their end after {step - start}. Give something that can be gone through again, "
                "such as a DataLoader or a list, or an iterator that never ends."
            )


def as_batch(item: Any, read: Read | None = None) -> Batch:
    """A `Batch` of what a loader yields: a Batch, data alone, a (data, condition) pair, or a dict.

    Args:
        item: data is a tensor or an array; of a dict, what is under x0, x, image(s), img, pixel_values or audio, its
            condition under cond, label(s), text, caption or prompt, and "eps" and "weight" where it has them.
        read: makes tensors of a list of prompts, class indices or vectors.

    Raises:
        ValueError: anything else; says what came.
    """
    if isinstance(item, Batch):
        return item
    if isinstance(item, Mapping):
        data = next((key for key in DATA_KEYS if key in item), None)
        if data is None:
            raise ValueError(
                f"a batch came as a dict of {sorted(map(str, item))}. Put its data under {DATA_KEYS[0]!r}."
            )
        cond = next((item[key] for key in CONDITION_KEYS if key in item), None)
        eps, weight = (None if item.get(key) is None else _tensor(item[key]) for key in ("eps", "weight"))
        return Batch(x0=_tensor(item[data]), cond=_condition(cond, read), eps=eps, weight=weight)
    if isinstance(item, (tuple, list)) and 1 <= len(item) <= 2 and isinstance(item[0], (Tensor, np.ndarray)):
        return Batch(x0=_tensor(item[0]), cond=_condition(item[1], read) if len(item) == 2 else None)
    return Batch(x0=_tensor(item))


def _tensor(value: Any) -> Tensor:
    if isinstance(value, np.ndarray) and value.dtype != object:
        value = torch.from_numpy(value if value.flags.writeable else value.copy())
    if isinstance(value, Tensor) and value.ndim > 0:
        return value
    raise ValueError(
        f"a batch must be a tensor with a row a sample, a pair (data, condition), a dict or a Batch; got "
        f"{_named(value)}. Have the loader stack its samples, for example with torch.utils.data.default_collate."
    )


def _named(value: Any) -> str:
    """What a thing is, in a few words."""
    if isinstance(value, Tensor):
        return "a single number"
    several = isinstance(value, (list, tuple)) and len(value) > 0
    return f"{type(value).__name__} of {len(value)} {type(value[0]).__name__}" if several else type(value).__name__


def _condition(value: Any, read: Read | None) -> Cond | None:
    if value is None or isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        return {name: _tensor(part) for name, part in value.items()}
    if isinstance(value, np.ndarray):
        return _tensor(value)
    if isinstance(value, (list, tuple)) and value:
        if read is not None:
            return read(list(value))
        if all(isinstance(one, int) for one in value):
            return torch.tensor(value)
        raise ValueError(f"the condition of a batch is {_named(value)}. Give `read`, which makes tensors of them.")
    raise ValueError(f"the condition of a batch must be a tensor or a dict of tensors, got {_named(value)}.")


def as_floats(x0: Tensor, dtype: torch.dtype) -> Tensor:
    """Data as a net sees it: bytes as x / 127.5 - 1 in [-1, 1], floating numbers as they are, both in `dtype`.

    Raises:
        ValueError: whole numbers that are no bytes, or complex ones.
    """
    if x0.dtype == torch.uint8:
        return x0.to(dtype).div(127.5).sub(1)
    if not x0.is_floating_point():
        raise ValueError(f"data must be floating numbers, or bytes 0..255 as uint8; got {x0.dtype}. Convert it first.")
    return x0.to(dtype)


def shuffled(places: Tensor, size: int, seed: int, tag: str, epoch: int) -> Tensor:
    """Which entries come at some places of an epoch's order, int64 in [0, size): a bijection that takes no memory.

    Six rounds of a Feistel network over the smallest even number of bits that holds `size`, walked on along its cycle
    until it is back below `size` (Black & Rogaway, 2002, "Ciphers with arbitrary finite domains", section 3); at most
    four times as many places exist as entries, so that it takes four walks or fewer in the mean.

    Args:
        places: int64, each in [0, size).
        size: entries.
        seed, tag, epoch: the key.
    """
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    keys = [derive_seed(seed, tag, epoch, i) for i in range(ROUNDS)]
    found = _feistel(places, half, keys)
    while bool((outside := found >= size).any()):
        found[outside] = _feistel(found[outside], half, keys)
    return found


def _feistel(x: Tensor, half: int, keys: Sequence[int]) -> Tensor:
    mask = (1 << half) - 1
    left, right = x >> half, x & mask
    for key in keys:
        mixed = (right ^ key) * MIX  # wraps around at 64 bits
        mixed = (mixed ^ (mixed >> 29)) * MIX
        left, right = right, left ^ ((mixed >> 32) & mask)
    return (left << half) | right


@lru_cache(maxsize=4)
def permutation(size: int, seed: int, tag: str, epoch: int) -> Tensor:
    """The order of `size` entries in an epoch, int64, kept from batch to batch; not to be changed in place."""
    return torch.randperm(size, generator=generator_for(seed, tag, epoch))
