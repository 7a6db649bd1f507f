"""Training the small nets that measure: a generator that may be stopped, and goes on from what it kept."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ebbflow.data import Dataset
from ebbflow.errors import CheckpointError
from ebbflow.training import checkpoint
from ebbflow.training.batches import Batch, permutation
from ebbflow.training.engine import Engine
from ebbflow.training.loop import fit
from ebbflow.training.optim import LearningRate, adamw
from ebbflow.training.task import Task

SAVE_SECONDS = 5.0  # between two states that are kept


@dataclass(frozen=True, kw_only=True)
class LearnerSettings:
    """How such a net is built and trained; the defaults are a classifier's.

    Args:
        num_features: width of the layer that gives features.
        epochs: passes over the training data, where that gives at least `min_steps` optimiser steps.
        min_steps, max_steps: bounds of the number of optimiser steps.
        batch_size, lr, weight_decay: of AdamW, with a linear warm-up and a cosine decay to 0.
        seed: of the initial weights and of the data order.
        dtype: "float32", or "bfloat16" beside a float32 master.
    """

    num_features: int = 128
    epochs: float = 4.0
    min_steps: int = 600
    max_steps: int = 4000
    batch_size: int = 128
    lr: float = 2e-3
    weight_decay: float = 0.02
    seed: int = 0
    dtype: str = "float32"

    def num_steps(self, num_train: int) -> int:
        """Optimiser steps for `num_train` training examples."""
        wanted = math.ceil(self.epochs * num_train / self.batch_size)
        return min(max(wanted, self.min_steps), self.max_steps)


@dataclass(frozen=True, kw_only=True)
class LearnerTask(Task):
    """What such a net learns of a data set; batches are whole within an epoch.

    Args:
        data: the entries.
        settings: batch size and seed.
        known: what is known of each entry, a row of it beside every x0; None for nothing.
    """

    data: Dataset
    settings: LearnerSettings
    known: torch.Tensor | None = None

    def batch(self, step: int) -> Batch:
        """Rows from permutations of the data laid end to end."""
        num = min(self.settings.batch_size, len(self.data))
        per_epoch = len(self.data) // num
        order = permutation(len(self.data), self.settings.seed, "order", step // per_epoch)
        rows = order[(step % per_epoch) * num :][:num]
        return Batch(x0=self.data.x0(rows), cond=None if self.known is None else self.known[rows])


def learn(task: LearnerTask, device: torch.device, keep: Path | None = None) -> Generator[tuple[int, int], None, None]:
    """Train the net of `task` in place by AdamW; yields (steps done, steps in all).

    Args:
        keep: a folder for its state, written every few seconds and removed at the end: who stops it and calls again
            gets the very net that he would have got.
    """
    net: nn.Module = task.net.to(device)
    settings, num_steps = task.settings, task.settings.num_steps(len(task.data))
    optimiser = adamw(net.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    rate = LearningRate(peak=settings.lr, warmup_steps=num_steps // 20, schedule="cosine", num_steps=num_steps)
    engine = Engine(device=None, precision="bf16" if settings.dtype == "bfloat16" else "fp32", clip=math.inf)
    start, saved = _restored(keep, net, optimiser), time.monotonic()
    for one in fit(task, task, optimiser, num_steps=num_steps, start=start, engine=engine, lr=rate, seed=settings.seed):
        if keep is not None and time.monotonic() - saved >= SAVE_SECONDS:
            _save(keep, net, optimiser, one.step)
            saved = time.monotonic()
        yield one.step, num_steps
    net.eval().requires_grad_(False)
    if keep is not None:
        shutil.rmtree(keep, ignore_errors=True)


def _save(keep: Path, net: nn.Module, optimiser: torch.optim.Optimizer, step: int) -> None:
    older = list(keep.glob("step_*"))
    checkpoint.save(keep / f"step_{step:06d}", model=net, ema=None, optimiser=optimiser, state={"step": step})
    for folder in older:
        shutil.rmtree(folder, ignore_errors=True)


def _restored(keep: Path | None, net: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """The step of the newest state that can be read, which is put in place; 0 where there is none."""
    for folder in sorted(keep.glob("step_*"), reverse=True) if keep is not None else ():
        try:
            found = checkpoint.read(folder)
            checkpoint.restore(found, net, None, optimiser)
            return found.step
        except CheckpointError:
            continue
    return 0
