"""What every kind of training does in its folder: lines of metrics, old checkpoints, the learning rate."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ebbflow.config import TrainConfig
from ebbflow.errors import DataError
from ebbflow.files import whole_file
from ebbflow.training.optim import LearningRate

METRICS = "metrics.jsonl"


def learning_rate(train: TrainConfig) -> LearningRate:
    """The learning rate of a configuration."""
    return LearningRate(
        peak=train.lr,
        warmup_steps=train.warmup_steps,
        schedule=train.schedule,
        num_steps=train.num_steps,
        decay_every=train.lr_decay_step,
        decay_rate=train.lr_decay_rate,
    )


def log_metrics(folder: Path, row: dict[str, Any]) -> None:
    """Append a line to the metrics of a folder."""
    with (folder / METRICS).open("a") as file:
        file.write(json.dumps(row) + "\n")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of the metrics of a folder; a last line that is still being written is left out.

    Raises:
        DataError: no such file, nothing in it, or lines that are no metrics.
    """
    path = folder / METRICS
    if not path.is_file():
        raise DataError(f"{folder} holds no {METRICS}. Name the folder of a run of `ebbflow train`.")
    rows = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if isinstance(row, dict) and "step" in row:
            rows.append(row)
        elif number < len(lines):
            raise DataError(f"line {number} of {path} is not a line of metrics. Mend or remove it.")
    if not rows:
        raise DataError(f"{path} holds no steps yet. Train the run for longer.")
    return rows


def forget_after(folder: Path, step: int) -> None:
    """Drop the metrics of steps that will be done again."""
    path = folder / METRICS
    if path.is_file():
        lines = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= step]
        with whole_file(path) as partial:
            partial.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def prune(folder: Path, *, keep: int, best: int | None = None) -> None:
    """Remove all checkpoints but the newest `keep` and that of step `best`."""
    for old in sorted((folder / "checkpoints").glob("step_*"))[:-keep]:
        if best is None or old.name != f"step_{best:06d}":
            shutil.rmtree(old)


def is_due(step: int, every: int) -> bool:
    """Whether something done every so many steps, 0 for never, is due."""
    return every > 0 and step % every == 0
