"""The task of a run: a model of the data, or of its latents."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import nn

from ebbflow.config import RunConfig
from ebbflow.data import Splits
from ebbflow.methods.denoise import NetDenoiser
from ebbflow.runs.build import (
    DatasetLoader,
    build_denoiser,
    build_objective,
    conditioner_of,
    drop_of,
    facts_of,
    resolved,
)
from ebbflow.runs.generate import Request, generate, row_name
from ebbflow.runs.latent_files import encode, open_latent_space, store_copy
from ebbflow.runs.tasks.base import RunTask
from ebbflow.show import canvas
from ebbflow.show.plots import scatter
from ebbflow.training.engine import device_of
from ebbflow.training.held_out import HeldOut
from ebbflow.training.task import DenoiserTask

GRID_COLUMNS = 8


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
        self.splits = encode(splits, self.space, folder)
        self.facts = facts_of(self.splits.train)
        self.config = config = resolved(config, self.facts)
        self.conditioned: NetDenoiser = build_denoiser(config, self.facts)
        super().__init__(self.conditioned, build_objective(config))

    @property
    def decay(self) -> float | None:
        return float(self.config.ema.decay)

    def batches(self) -> DatasetLoader:
        train, conditioner, data = self.config.train, conditioner_of(self.conditioned), self.splits.train
        return DatasetLoader(
            dataset=data,
            cond=None if conditioner is None else conditioner.conditions(data),
            conditioner=conditioner,
            drop=drop_of(self.config),
            batch_size=train.batch_size,
            seed=train.seed,
        )

    def store_copies(self) -> Path | None:
        return store_copy(self.space, self.splits, self.folder)

    @cached_property
    def _held_out(self) -> HeldOut | None:
        data, conditioner = self.splits.held_out, conditioner_of(self.conditioned)
        num = min(len(data), self.config.train.held_out_size)
        if num == 0:
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
        sample, examples = self.config.sample, self.config.conditioning.examples(self.facts)[:10]
        names = [row_name(example, self.facts.label_names) for example in examples]
        points = not self.facts.is_image
        rows = len(names) or GRID_COLUMNS
        seeds = tuple(range(1000 if points else GRID_COLUMNS * rows))
        places = [i * rows // len(seeds) for i in seeds]
        request = Request(
            seeds=seeds,
            wanted=tuple(examples[i] for i in places) if examples else None,
            guidance=sample.guidance if names and drop_of(self.config) > 0 else 1.0,
            sampler=sample.sampler,
            num_steps=sample.num_steps,
            grid=sample.grid,
            options=dict(sample.options),
            clip=sample.clip,
            batch_size=250 if points else 64,
        )
        steps = generate(self.model(net), self.facts, request, device_of(net), space=self.space)
        done = [s for s in steps if s.done]
        if points:
            return scatter(torch.cat([s.x for s in done]), tuple(places) if names else None)
        return canvas.grid(torch.cat([s.images for s in done]), columns=GRID_COLUMNS, row_names=names)

    def card(self) -> str:
        config = self.config
        return (
            f"A {type(config.net).__name__.removesuffix('Options')} of "
            f"{sum(p.numel() for p in self.net.parameters()):,} parameters that predicts {config.objective.prediction} "
            f"on path {type(config.path).__name__}.\n\nSample it with\n\n```\nebbflow sample --ckpt {self.folder} "
            "--output samples.png\n```"
        )
