"""Conditions: what a sample is asked to be, in a user's words and as the rows of tensors that a net takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ebbflow.core.device import sent


@dataclass(frozen=True, kw_only=True, eq=False)
class GivenImage:
    """A picture to go by: what it is called, and float32 (C, H, W) in [-1, 1]."""

    name: str
    x: Tensor


Condition = int | str | tuple[float, ...] | GivenImage  # in a user's words: the index of a class, a prompt, a vector
Cond = Tensor | Mapping[str, Tensor]  # for a net: one tensor, or several by name, with a row a sample


def num_rows(cond: Cond) -> int:
    """Samples that a condition speaks of.

    Raises:
        ValueError: tensors of different lengths, or none.
    """
    if isinstance(cond, Tensor):
        return len(cond)
    lengths = {name: len(value) for name, value in cond.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"the tensors of a condition must have one row a sample each, got {lengths}.")
    return next(iter(lengths.values()))


def rows_of(cond: Cond, rows: Tensor | slice) -> Cond:
    """The condition of some samples."""
    return cond[rows] if isinstance(cond, Tensor) else {name: value[rows] for name, value in cond.items()}


def to_device(cond: Cond, device: torch.device | str) -> Cond:
    """The condition on a device."""
    return sent(cond, device) if isinstance(cond, Tensor) else {name: sent(part, device) for name, part in cond.items()}


def expand_rows(cond: Cond, num: int) -> Cond:
    """A condition of one row repeated for `num` samples; another one as it is."""
    if num_rows(cond) != 1 or num == 1:
        return cond
    if isinstance(cond, Tensor):
        return cond.expand(num, *cond.shape[1:])
    return {name: value.expand(num, *value.shape[1:]) for name, value in cond.items()}


def cat_rows(conds: Sequence[Cond]) -> Cond:
    """Conditions of several batches as one.

    Raises:
        ValueError: they differ in kind or in their names.
    """
    first = conds[0]
    if isinstance(first, Tensor):
        if not all(isinstance(cond, Tensor) for cond in conds):
            raise ValueError("a tensor and a dict of tensors cannot be one condition. Give all in one form.")
        return torch.cat(list(conds))  # type: ignore[arg-type]
    named = [cond for cond in conds if not isinstance(cond, Tensor)]
    if len(named) != len(conds) or any(set(cond) != set(first) for cond in named):
        raise ValueError(f"conditions of one batch must have the same names, got {[sorted(cond) for cond in named]}.")
    return {name: torch.cat([cond[name] for cond in named]) for name in first}
