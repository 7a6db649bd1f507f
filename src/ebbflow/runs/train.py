"""Training a run: the loop with its folder, metrics, checkpoints, sample grids and resuming."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ebbflow.conditioning import ConditionedNet
from ebbflow.config import RunConfig
from ebbflow.core.entries import spelt
from ebbflow.data import Splits
from ebbflow.files import write_text
from ebbflow.runs.build import (
    DatasetLoader,
    build_denoiser,
    build_objective,
    build_times,
    build_uncertainty,
    conditioner_of,
    drop_of,
    facts_of,
    resolved,
)
from ebbflow.runs.generate import Request, generate, row_name
from ebbflow.runs.spaces import enter, keep
from ebbflow.runs.store import claim, describe, newest_checkpoint
from ebbflow.runs.upkeep import forget_after, is_due, learning_rate, log_metrics, prune
from ebbflow.show import canvas
from ebbflow.show.plots import scatter
from ebbflow.training import checkpoint, engine
from ebbflow.training.ema import EMA
from ebbflow.training.held_out import HeldOut, bins_by_log_snr
from ebbflow.training.loop import TrainStep, fit
from ebbflow.training.optim import adamw

GRID_COLUMNS = 8


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What the caller may show after a step; `note` is a line about something written."""

    step: int
    num_steps: int
    loss: float
    lr: float
    held_out: float | None = None
    note: str | None = None


class Trainer:
    """One run in one folder. Building it claims the folder and restores the newest checkpoint; `events` trains.

    Args:
        config: the configuration.
        splits: the data.
        folder: the run's home, new or with the same run in it.
        command: the command that made it, for the run's card.
        should_stop: asked after each step; True saves and ends.

    Raises:
        ConfigError: parts that do not fit, or a folder that holds something else.
    """

    def __init__(
        self,
        config: RunConfig,
        splits: Splits,
        folder: Path,
        *,
        command: str = "",
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.space, splits = enter(config, splits, folder)
        self.facts = facts_of(splits.train)
        self.config = config = resolved(config, self.facts)
        self.splits, self.folder, self.command, self.should_stop = splits, folder, command, should_stop
        engine.keep_large_blocks()
        self.device = engine.pick_device(config.engine.device)
        self.dtype = engine.pick_precision(config.engine.precision, self.device)
        self.objective = build_objective(config)
        self.denoiser = build_denoiser(config, self.facts)
        self.net.to(self.device)
        claim(folder, config, self.facts)
        self.space_file = keep(self.space, folder)
        self.ema = EMA(self.net, config.ema.decay)
        self.times, self.uncertainty = build_times(config), build_uncertainty(config)
        beside = [] if self.uncertainty is None else self.uncertainty.to(self.device).parameters()
        self.optimiser = adamw(
            [*self.net.parameters(), *beside], lr=config.train.lr, weight_decay=config.train.weight_decay
        )
        self.best: dict[str, Any] | None = None
        self.start = self._restore()
        self.held_out = self._make_held_out()
        self._last_held_out: tuple[int, float] | None = None

    @property
    def net(self) -> ConditionedNet:
        """The module that is trained."""
        assert isinstance(self.denoiser.net, ConditionedNet)
        return self.denoiser.net

    @property
    def num_parameters(self) -> int:
        """Trained parameters."""
        return sum(p.numel() for p in self.net.parameters())

    def events(self) -> Iterator[Progress]:
        """Train from where the folder stands to the end, or until `should_stop`."""
        train = self.config.train
        began, done = time.perf_counter(), self.start
        window: list[TrainStep] = []
        for step in self._fit():
            window.append(step)
            done = step.step
            stop = done == train.num_steps or self.should_stop()
            if done % train.log_every == 0 or stop:
                rate = len(window) * train.batch_size / (time.perf_counter() - began)
                self._log(self._summary(window, rate))
                began, window = time.perf_counter(), []
            yield from self._between(step, stop)
            if stop:
                return

    def _fit(self) -> Iterator[TrainStep]:
        train, conditioner = self.config.train, conditioner_of(self.denoiser)
        loader = DatasetLoader(
            dataset=self.splits.train,
            cond=None if conditioner is None else conditioner.conditions(self.splits.train),
            conditioner=conditioner,
            drop=drop_of(self.config),
            batch_size=train.batch_size,
            seed=train.seed,
        )
        return fit(
            self.denoiser,
            self.objective,
            loader,
            self.optimiser,
            num_steps=train.num_steps,
            start=self.start,
            ema=self.ema,
            lr=learning_rate(train),
            seed=train.seed,
            clip=train.clip,
            dtype=self.dtype,
            times=self.times,
            uncertainty=self.uncertainty,
        )

    def _between(self, step: TrainStep, stop: bool) -> Iterator[Progress]:
        """What is due after a step: held-out loss, a sample grid, a checkpoint."""
        train, done = self.config.train, step.step
        finished = done == train.num_steps
        here = Progress(step=done, num_steps=train.num_steps, loss=step.loss, lr=step.lr)
        yield here
        if self.held_out is not None and (is_due(done, train.held_out_every) or finished):
            loss, by_level = self.held_out(replace(self.denoiser, net=self.ema.module), self.device)
            raw, _ = self.held_out(self.denoiser, self.device)
            self._log({"step": done, "held_out": loss, "held_out_raw": raw, "held_out_by_log_snr": by_level})
            self._last_held_out = (done, loss)
            yield replace(here, held_out=loss)
        if is_due(done, train.sample_every) or finished:
            path = self.folder / "samples" / f"step_{done:06d}.png"
            self.draw(path)
            yield replace(here, note=f"samples: {path}")
        if is_due(done, train.save_every) or stop:
            yield replace(here, note=f"checkpoint: {self._save(done)}")

    def draw(self, path: Path) -> None:
        """A grid from the averaged weights with fixed seeds; rows are classes, captions or vectors where there are
        conditions."""
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
        model = replace(self.denoiser, net=engine.WorkingCopy(self.ema.module, self.dtype).module)
        done = [s for s in generate(model, self.facts, request, self.device, space=self.space) if s.done]
        if points:
            x = torch.cat([s.x for s in done])
            canvas.save_picture(scatter(x, tuple(places) if names else None), path, self.command)
        else:
            images = torch.cat([s.images for s in done])
            canvas.save_picture(canvas.grid(images, columns=GRID_COLUMNS, row_names=names), path, self.command)

    def _summary(self, window: list[TrainStep], rate: float) -> dict[str, Any]:
        t, losses = torch.cat([s.t for s in window]), torch.cat([s.losses.float().cpu() for s in window])
        return {
            "step": window[-1].step,
            "loss": sum(s.loss for s in window) / len(window),
            "lr": window[-1].lr,
            "grad_norm": sum(s.grad_norm for s in window) / len(window),
            "samples_per_second": round(rate, 1),
            "loss_by_log_snr": bins_by_log_snr(self.config.path.log_snr(t), losses),
        }

    def _log(self, row: dict[str, Any]) -> None:
        log_metrics(self.folder, row)

    def _make_held_out(self) -> HeldOut | None:
        data, conditioner = self.splits.held_out, conditioner_of(self.denoiser)
        if len(data) == 0:
            return None
        num = min(len(data), self.config.train.held_out_size)
        rows = torch.arange(num) * len(data) // num  # spread, since folders are listed class by class
        cond = None if conditioner is None else conditioner.conditions(data)
        return HeldOut(
            objective=self.objective,
            x0=data.x0(rows),
            cond=None if cond is None else cond[rows],
            seed=self.config.train.seed,
        )

    def _restore(self) -> int:
        folder = newest_checkpoint(self.folder)
        if folder is None:
            (self.folder / "metrics.jsonl").unlink(missing_ok=True)
            return 0
        found = checkpoint.read(folder)
        checkpoint.restore(found, self.net, self.ema, self.optimiser)
        if self.times is not None:
            self.times.load(found.tensors("times"))
        if self.uncertainty is not None:
            file = found.folder / "uncertainty.safetensors"
            checkpoint.load_weights(self.uncertainty, found.tensors("uncertainty"), file)
        self.best = found.state.get("best")
        forget_after(self.folder, found.step)
        return found.step

    def _save(self, step: int) -> Path:
        if self._last_held_out is not None and (self.best is None or self._last_held_out[1] < self.best["held_out"]):
            measured, loss = self._last_held_out
            if measured == step:
                self.best = {"step": step, "held_out": loss}
        folder = self.folder / "checkpoints" / f"step_{step:06d}"
        state = {"step": step, "best": self.best, **describe(self.config, self.facts)}
        parts = {} if self.times is None else {"times": self.times.state()}
        if self.uncertainty is not None:
            parts["uncertainty"] = self.uncertainty.state_dict()
        checkpoint.save(
            folder,
            model=self.net,
            ema=self.ema,
            optimiser=self.optimiser,
            state=state,
            beside=self.space_file,
            parts=parts,
        )
        prune(self.folder, keep=self.config.train.keep, best=self.best["step"] if self.best else None)
        write_text(self.folder / "README.md", self._card(step))
        return folder

    def _card(self, step: int) -> str:
        held = (
            f" Held-out loss {self._last_held_out[1]:.4f} at step {self._last_held_out[0]}."
            if self._last_held_out
            else ""
        )
        config = self.config
        return (
            f"# {self.folder.name}\n\nA {config.net.__class__.__name__.removesuffix('Options')} of "
            f"{self.num_parameters:,} parameters, "
            f"trained for {step} of {config.train.num_steps} steps on {config.data.name} to predict "
            f"{spelt(config.objective.prediction)} "
            f"on path {config.path.__class__.__name__}.{held}\n\nMade by\n\n```\n{self.command}\n```\n\n"
            f"Sample it with\n\n```\nebbflow sample --ckpt {self.folder} --output samples.png\n```\n"
        )
