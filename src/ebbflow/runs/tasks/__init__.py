"""What is trained in a folder: the three tasks, by the class of their configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ebbflow.config import AnyConfig, AutoencoderConfig, ClassifierConfig, RunConfig
from ebbflow.data import Splits
from ebbflow.memory import require
from ebbflow.runs.build import require_batch
from ebbflow.runs.tasks.autoencoder import AutoencoderTask
from ebbflow.runs.tasks.base import RunTask
from ebbflow.runs.tasks.classifier import ClassifierTask
from ebbflow.runs.tasks.model import ModelTask

__all__ = ["AutoencoderTask", "ModelTask", "RunTask", "task_of"]

TASKS: dict[type, Any] = {RunConfig: ModelTask, ClassifierConfig: ClassifierTask, AutoencoderConfig: AutoencoderTask}


def task_of(config: AnyConfig, splits: Splits, folder: Path) -> RunTask:
    """The task that a configuration describes, on its data; `folder` is where it is or will be trained.

    Raises:
        ConfigError: parts that do not fit each other or the data.
        DataError: data that lacks what the task needs.
    """
    require_batch(config, splits.train)
    task: RunTask = TASKS[type(config)](config, splits, folder)
    weights = sum(p.numel() * p.element_size() for p in task.net.parameters())
    require(5 * weights, "training this net", "Its weights, gradients, moments and averages count. Make it smaller.")
    return task
