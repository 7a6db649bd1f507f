"""The task of a run: a model of the data, or of its latents."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import nn

from ebbflow.conditioning import ImageConditioner, ImageConditioning
from ebbflow.config import RunConfig
from ebbflow.core.condition import Condition
from ebbflow.core.entries import spelt
from ebbflow.data import Splits
from ebbflow.data.augment import mirrored
from ebbflow.errors import ConfigError
from ebbflow.methods.couplings import Pairing
from ebbflow.methods.denoise import NetDenoiser
from ebbflow.methods.maps import MapObjective
from ebbflow.methods.told import require_told
from ebbflow.progress import Stage, Work, finish
from ebbflow.runs.buckets import BucketLoader, loader_in_buckets
from ebbflow.runs.build import (
    DatasetLoader,
    augmentation_of,
    build_denoiser,
    clock_of,
    conditioner_of,
    drop_of,
    facts_of,
    resolved,
)
from ebbflow.runs.couplings import learned_pairing, pool_of
from ebbflow.runs.folder import checkpoints, description
from ebbflow.runs.latent_files import encode, open_latent_space, store_copy
from ebbflow.runs.opened import Opened
from ebbflow.runs.pictures import images_of
from ebbflow.runs.plan import default_plan, repeat_in_blocks
from ebbflow.runs.results import collect
from ebbflow.runs.sample import generate
from ebbflow.runs.start import start_from
from ebbflow.runs.tasks.base import RunTask
from ebbflow.runs.teacher import Pairs, objective_of, open_teacher, paired, store_teacher, taught_by
from ebbflow.runs.text_files import shelve
from ebbflow.training.ema import EmaOptions
from ebbflow.training.engine import device_of, pick_device
from ebbflow.training.held_out import HeldOut
from ebbflow.training.task import DenoiserTask

GRID_COLUMNS, MAX_ROWS = 8, 10
ROWS = 6  # of pictures to go by
NUM_POINTS = 1000


class ModelTask(DenoiserTask, RunTask):
    """A model of the data, in its latent space where it has one.

    Args:
        config: the configuration.
        splits: the data.
        folder: the run's, which may hold its own copy of the latent space.

    Raises:
        ConfigError: parts that do not fit.
    """

    def __init__(self, config: RunConfig, splits: Splits, folder: Path) -> None:
        self.space, self.folder = open_latent_space(config, splits.train, folder), folder
        if self.space is not None and config.data.flip:
            splits = replace(splits, train=mirrored(splits.train))
        self.splits = encode(splits, self.space)
        self.facts = facts_of(self.splits.train)
        begun = description(folder).get("config", {}).get("objective", {})
        self.config = config = resolved(config, self.facts, begun.get("prediction"))
        self._augment = augmentation_of(config, self.facts)
        if config.data.flip or config.data.crop:
            _check_augmented(config)
        self.teacher = open_teacher(config, self.facts, self.space, folder)
        self.conditioned: NetDenoiser = build_denoiser(config, self.facts)
        if not (goes_on := bool(checkpoints(folder))):
            require_told(config.path, clock_of(config))
        begins = config.init.run is not None and not goes_on
        self._started = start_from(self.conditioned.net, config) if begins else ""  # type: ignore[arg-type]
        super().__init__(self.conditioned, objective_of(config, self.teacher))
        self._pool = pool_of(config, self.splits.train, conditioner_of(self.conditioned))
        self._pairing: tuple[Pairing | None] | None = None
        self._pairs: Pairs | None = None
        if isinstance(self.objective, MapObjective):
            caution = self.objective.caution(math.prod(self.facts.state_dims))
            if caution is not None:
                warnings.warn(caution, stacklevel=2)

    @property
    def averaging(self) -> EmaOptions:
        return self.config.ema

    def prepare(self) -> Work[None]:
        """The weights to start from are said, a pretrained encoder reads all captions, a teacher makes its pairs, the
        coupling of data and noise is learned."""
        if self._started:
            yield Stage("start", 1, 1, note=self._started)
        parts = (self.splits.train, self.splits.held_out)
        yield from shelve(conditioner_of(self.conditioned), parts, pick_device(self.config.engine.device))
        if self.teacher is not None and self.config.teacher.pairs:
            self._pairs = yield from paired(
                self.config, self.teacher, self.splits.train, conditioner_of(self.conditioned), self.folder
            )
        self._pairing = ((yield from learned_pairing(self.config, self._pool, self.folder)),)

    def batches(self) -> DatasetLoader | BucketLoader:
        if self._pairing is None:
            finish(self.prepare())
        assert self._pairing is not None
        train, conditioner = self.config.train, conditioner_of(self.conditioned)
        data = self.splits.train if self._pairs is None else self._pairs
        cond = None if conditioner is None else conditioner.conditions(data)
        make = partial(
            DatasetLoader,
            noise=None if self._pairs is None else self._pairs.noise,
            conditioner=conditioner,
            drop=drop_of(self.config),
            batch_size=train.batch_size,
            pairing=self._pairing[0],
            augment=self._augment if self._pairs is None else None,  # pairs are of the teacher's pictures
        )
        if self.config.data.buckets:
            return loader_in_buckets(self.config, data, cond, make)
        return make(dataset=data, cond=cond, seed=train.seed)

    def store_copies(self) -> Path | None:
        store_teacher(self.teacher, self.folder)
        return store_copy(self.space, self.folder)

    @cached_property
    def _held_out(self) -> HeldOut | None:
        data, conditioner = self.splits.held_out, conditioner_of(self.conditioned)
        num = min(len(data), self.config.train.held_out_size)
        if num == 0 or self.config.teacher.pairs:  # the data is not what pairs teach
            return None
        rows = torch.arange(num) * len(data) // num  # spread, since folders are listed class by class
        cond = None if conditioner is None else conditioner.conditions(data)
        cond = None if cond is None else cond[rows]
        return HeldOut(objective=self.objective, x0=data.x0(rows), cond=cond, seed=self.config.train.seed)

    def held_out(self, net: nn.Module) -> dict[str, Any]:
        if self._held_out is None:
            return {}
        loss, by_log_snr = self._held_out(self.model(net), device_of(net))
        return {"held_out": loss, "held_out_by_log_snr": by_log_snr}

    def picture(self, net: nn.Module) -> Image:
        """A grid with fixed seeds; rows are classes, captions or vectors where there are conditions."""
        denoiser = self.model(net)
        model = Opened.described(denoiser, self.config, self.facts, self.space, device=device_of(net))
        rows: Sequence[Condition] = model.examples[:MAX_ROWS]
        points, conditioner = not self.facts.is_image, conditioner_of(denoiser)
        if isinstance(conditioner, ImageConditioner):
            rows = images_of(
                conditioner, self.splits.held_out if len(self.splits.held_out) else self.splits.train, ROWS
            )
        seeds = range(NUM_POINTS if points else GRID_COLUMNS * (len(rows) or GRID_COLUMNS))
        plan = default_plan(model, seeds=seeds, conditions=repeat_in_blocks(rows, len(seeds)))
        made = collect(model, plan, generate(model, plan))
        return replace(made, behind=self.splits.held_out.x[:NUM_POINTS] if points else None).grid()

    def card(self) -> str:
        config = self.config
        meant = spelt(config.objective.prediction)
        return (
            f"A {type(config.net).__name__.removesuffix('Options')} of "
            f"{sum(p.numel() for p in self.net.parameters()):,} parameters that predicts {meant} "
            f"on path {type(config.path).__name__}."
            + (f" It started from {config.init.run}." if config.init.run else "")
            + (f" {taught_by(config)}" if config.teacher.run else "")
        )


def _check_augmented(config: RunConfig) -> None:
    """Refuse to change pictures on which something else of the run depends.

    Raises:
        ConfigError: a condition or a coupling that goes by the pictures as they are.
    """
    bound = {
        "conditioning.kind=image goes by": isinstance(config.conditioning, ImageConditioning),
        "objective.coupling pairs noise with": config.objective.coupling != "independent",
    }
    for what, is_so in bound.items():
        if is_so:
            raise ConfigError(f"{what} the pictures as they are. Use data.flip=false and data.crop=0.")
