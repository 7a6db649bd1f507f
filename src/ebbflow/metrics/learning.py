"""Training the small nets that measure: a generator that may be stopped, and goes on from what it kept."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Generator
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from ebbflow.data import Dataset
from ebbflow.errors import CheckpointError
from ebbflow.training import checkpoint
from ebbflow.training.batches import Loader, permutation
from ebbflow.training.engine import Engine
from ebbflow.training.loop import fit
from ebbflow.training.optim import LearningRate, adamw
from ebbflow.training.task import Task

SAVE_SECONDS = 5.0  # between two states that are kept


class LearnerSettings(Protocol):
    """How such a net is trained; see `ClassifierSettings`."""

    @property
    def batch_size(self) -> int: ...
    @property
    def lr(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def seed(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    def num_steps(self, num_train: int) -> int: ...


def rows_of_step(data: Dataset, settings: LearnerSettings, step: int) -> torch.Tensor:
    """Rows from permutations of the data laid end to end, int64; batches are whole within an epoch."""
    num = min(settings.batch_size, len(data))
    per_epoch = len(data) // num
    order = permutation(len(data), settings.seed, "order", step // per_epoch)
    return order[(step % per_epoch) * num :][:num]


def learn(
    task: Task,
    batches: Loader,
    num_train: int,
    settings: LearnerSettings,
    device: torch.device,
    keep: Path | None = None,
) -> Generator[tuple[int, int], None, None]:
    """Train the net of `task` in place by AdamW on `batches` of so many entries; yields (steps done, steps in all).

    Args:
        keep: a folder for its state, written every few seconds and removed at the end: who stops it and calls again
            gets the very net that he would have got.
    """
    net: nn.Module = task.net.to(device)
    num_steps = settings.num_steps(num_train)
    optimiser = adamw(net.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    rate = LearningRate(peak=settings.lr, warmup_steps=num_steps // 20, schedule="cosine", num_steps=num_steps)
    engine = Engine(device=None, precision="bf16" if settings.dtype == "bfloat16" else "fp32", clip=math.inf)
    start, saved = _restored(keep, net, optimiser), time.monotonic()
    for one in fit(
        task, batches, optimiser, num_steps=num_steps, start=start, engine=engine, lr=rate, seed=settings.seed
    ):
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
