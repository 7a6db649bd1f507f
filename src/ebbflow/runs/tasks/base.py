"""`RunTask`: what a trainer needs of a task beyond its loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from torch import nn

from ebbflow.conditioning import DataFacts
from ebbflow.data import Splits
from ebbflow.progress import Work
from ebbflow.training.batches import Loader
from ebbflow.training.ema import EmaOptions
from ebbflow.training.task import Task


class RunTask(Task, Protocol):
    """A task that is trained in a folder of its own.

    Args:
        config: its configuration, with sections `data`, `train` and `engine`.
        facts: what it knows of its data.
        splits: the data that it works on.
        folder: where it is trained.
        products: files that `finish` writes into the folder; none of them is there before.
    """

    config: Any
    facts: DataFacts
    splits: Splits
    folder: Path
    products: tuple[str, ...] = ()

    @property
    def averaging(self) -> EmaOptions | None:
        """How its weights are averaged; None for not at all."""
        return None

    def prepare(self) -> Work[None]:
        """Do what has to be done once, before the first step, and is kept in the folder."""
        yield from ()

    def batches(self) -> Loader:
        """The training data by step, once prepared."""
        ...

    def store_copies(self) -> Path | None:
        """Write what the run has to carry into its folder; a file that goes into every checkpoint, or None."""
        return None

    def finish(self, net: nn.Module) -> None:
        """Write `products`, when the training came to its end."""
        return
