"""The task of a noisy classifier."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ebbflow.config import ClassifierConfig
from ebbflow.core.noise import generator_for
from ebbflow.data import Splits
from ebbflow.errors import DataError
from ebbflow.methods.guidance import ClassifierObjective
from ebbflow.runs.build import DatasetLoader, augmentation_of, facts_of
from ebbflow.runs.classifier import accuracy, build_classifier
from ebbflow.runs.tasks.base import RunTask
from ebbflow.training.engine import device_of
from ebbflow.training.held_out import HeldOut
from ebbflow.training.task import DenoiserTask


class ClassifierTask(DenoiserTask, RunTask):
    """A classifier of noisy data, which guides runs.

    Args:
        config: the configuration.
        splits: the data, with labels.
        folder: the classifier's.

    Raises:
        DataError: data without labels, or with a single class.
    """

    def __init__(self, config: ClassifierConfig, splits: Splits, folder: Path) -> None:
        self.config, self.splits, self.folder, self.facts = config, splits, folder, facts_of(splits.train)
        if len(self.facts.label_names) < 2:
            raise DataError(
                f"a classifier needs data with two classes or more, and {config.data.name!r} has "
                f"{len(self.facts.label_names)}. Give labelled data, for example one folder of images a class."
            )
        super().__init__(build_classifier(config, self.facts), ClassifierObjective(path=config.path))

    def batches(self) -> DatasetLoader:
        data, train = self.splits.train, self.config.train
        return DatasetLoader(
            dataset=data,
            cond=data.labels,
            batch_size=train.batch_size,
            seed=train.seed,
            augment=augmentation_of(self.config, self.facts),
        )

    @cached_property
    def _held_out(self) -> HeldOut | None:
        data, train = self.splits.held_out, self.config.train
        if len(data) == 0 or data.labels is None:
            return None
        rows = torch.randperm(len(data), generator=generator_for(train.seed, "held_out_rows"))[: train.held_out_size]
        return HeldOut(objective=self.objective, x0=data.x0(rows), cond=data.labels[rows], seed=train.seed)

    def held_out(self, net: nn.Module) -> dict[str, Any]:
        return {} if self._held_out is None else accuracy(self.model(net), self._held_out, device_of(net))

    def card(self) -> str:
        return (
            f"A noisy classifier of {len(self.facts.label_names)} classes, at the noise levels of path "
            f"{type(self.config.path).__name__}."
        )
