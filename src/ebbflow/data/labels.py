"""Labels as class indices, whatever a source writes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ebbflow.errors import DataError

MAX_CLASSES = 100_000


def class_indices(labels: Sequence[str] | Sequence[int], where: str) -> tuple[Tensor, tuple[str, ...]]:
    """Class indices int64 (N,) and the name of every class.

    Strings are numbered in sorted order, by their value where all are whole numbers. Integers are class indices already
    and are named by their digits.

    Args:
        labels: all strings, or all integers in [0, 100_000).
        where: the file or folder they come from, for the message.

    Raises:
        DataError: strings and integers are mixed, or an integer is out of range.
    """
    if all(isinstance(label, str) for label in labels):
        names = tuple(sorted(set(map(str, labels))))
        if all(name.isdecimal() and len(name) < 19 for name in names):
            names = tuple(sorted(names, key=lambda name: (int(name), name)))
        index = {name: i for i, name in enumerate(names)}
        return torch.tensor([index[str(label)] for label in labels], dtype=torch.int64), names
    numbers = [label for label in labels if isinstance(label, int) and not isinstance(label, bool)]
    if len(numbers) != len(labels):
        raise DataError(f"{where}: labels must be all strings or all integers.")
    wrong = [number for number in numbers if not 0 <= number < MAX_CLASSES]
    if wrong:
        raise DataError(
            f"{where}: integer labels must be in [0, {MAX_CLASSES}), got {wrong[0]}. Write such labels as strings."
        )
    return torch.tensor(numbers, dtype=torch.int64), tuple(str(i) for i in range(max(numbers) + 1))
