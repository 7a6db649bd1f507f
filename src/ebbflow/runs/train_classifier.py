"""Training a noisy classifier in a folder of its own, by the rules of a run's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ebbflow.config import ClassifierConfig
from ebbflow.core.noise import generator_for
from ebbflow.data import Splits
from ebbflow.errors import DataError
from ebbflow.files import write_text
from ebbflow.methods.guidance import ClassifierObjective
from ebbflow.nets.classifier import Classifier
from ebbflow.runs.build import DatasetLoader, facts_of
from ebbflow.runs.classifier import Accuracy, build_classifier, measure
from ebbflow.runs.store import claim, describe, newest_checkpoint
from ebbflow.runs.train import Progress
from ebbflow.runs.upkeep import forget_after, is_due, learning_rate, log_metrics, prune
from ebbflow.training import checkpoint, engine
from ebbflow.training.held_out import HeldOut, bins_by_log_snr
from ebbflow.training.loop import TrainStep, fit
from ebbflow.training.optim import adamw


class ClassifierTrainer:
    """One classifier in one folder, as `Trainer` is one run. Building it claims the folder and restores its newest
    checkpoint; `events` trains.

    Args:
        config: the configuration.
        splits: the data, with labels.
        folder: new, or with the same classifier in it.
        command: the command that made it, for its card.
        should_stop: asked after each step; True saves and ends.

    Raises:
        ConfigError: a folder that holds something else.
        DataError: data without labels, or with a single class.
    """

    def __init__(
        self,
        config: ClassifierConfig,
        splits: Splits,
        folder: Path,
        *,
        command: str = "",
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.facts = facts_of(splits.train)
        if len(self.facts.label_names) < 2:
            raise DataError(
                f"a classifier needs data with two classes or more, and {config.data.name!r} has "
                f"{len(self.facts.label_names)}. Give labelled data, for example one folder of images a class."
            )
        self.config, self.splits, self.folder = config, splits, folder
        self.command, self.should_stop = command, should_stop
        engine.keep_large_blocks()
        self.device = engine.pick_device(config.engine.device)
        self.dtype = engine.pick_precision(config.engine.precision, self.device)
        self.objective = ClassifierObjective(path=config.path)
        self.classifier = build_classifier(config, self.facts)
        self.net.to(self.device)
        claim(folder, config, self.facts)
        self.optimiser = adamw(self.net.parameters(), lr=config.train.lr, weight_decay=config.train.weight_decay)
        self.accuracy: Accuracy | None = None
        self.start = self._restore()
        self.held_out = self._make_held_out()

    @property
    def net(self) -> Classifier:
        """The module that is trained."""
        assert isinstance(self.classifier.net, Classifier)
        return self.classifier.net

    def events(self) -> Iterator[Progress]:
        """Train from where the folder stands to the end, or until `should_stop`."""
        train, window, began = self.config.train, [], time.perf_counter()
        for step in self._fit():
            window.append(step)
            stop = step.step == train.num_steps or self.should_stop()
            if step.step % train.log_every == 0 or stop:
                self._log(window, time.perf_counter() - began)
                window, began = [], time.perf_counter()
            yield from self._between(step, stop)
            if stop:
                return

    def _fit(self) -> Iterator[TrainStep]:
        train = self.config.train
        loader = DatasetLoader(
            dataset=self.splits.train,
            cond=self.splits.train.labels,
            conditioner=None,
            drop=0.0,
            batch_size=train.batch_size,
            seed=train.seed,
        )
        return fit(
            self.classifier,
            self.objective,
            loader,
            self.optimiser,
            num_steps=train.num_steps,
            start=self.start,
            lr=learning_rate(train),
            seed=train.seed,
            clip=train.clip,
            dtype=self.dtype,
        )

    def _between(self, step: TrainStep, stop: bool) -> Iterator[Progress]:
        """What is due after a step: held-out accuracy, a checkpoint."""
        train, done = self.config.train, step.step
        here = Progress(step=done, num_steps=train.num_steps, loss=step.loss, lr=step.lr)
        yield here
        if self.held_out is not None and (is_due(done, train.held_out_every) or done == train.num_steps):
            self.accuracy = self._measured(self.held_out)
            log_metrics(self.folder, {"step": done, "held_out": self.accuracy.loss, **_row(self.accuracy)})
            note = f"held-out loss {self.accuracy.loss:.4f}, accuracy {self.accuracy.accuracy:.3f}"
            yield replace(here, held_out=self.accuracy.loss, note=note)
        if is_due(done, train.save_every) or stop:
            yield replace(here, note=f"checkpoint: {self._save(done)}")

    def _measured(self, held_out: HeldOut) -> Accuracy:
        self.net.eval()
        found = measure(self.classifier, held_out, self.device)
        self.net.train()
        return found

    def _log(self, window: list[TrainStep], seconds: float) -> None:
        t, losses = torch.cat([s.t for s in window]), torch.cat([s.losses.float().cpu() for s in window])
        row = {
            "step": window[-1].step,
            "loss": sum(s.loss for s in window) / len(window),
            "lr": window[-1].lr,
            "samples_per_second": round(len(window) * self.config.train.batch_size / seconds, 1),
            "loss_by_log_snr": bins_by_log_snr(self.config.path.log_snr(t), losses),
        }
        log_metrics(self.folder, row)

    def _make_held_out(self) -> HeldOut | None:
        data = self.splits.held_out
        if len(data) == 0 or data.labels is None:
            return None
        rows = torch.randperm(len(data), generator=generator_for(self.config.train.seed, "held_out_rows"))
        rows = rows[: self.config.train.held_out_size]
        return HeldOut(objective=self.objective, x0=data.x0(rows), cond=data.labels[rows], seed=self.config.train.seed)

    def _restore(self) -> int:
        folder = newest_checkpoint(self.folder)
        if folder is None:
            (self.folder / "metrics.jsonl").unlink(missing_ok=True)
            return 0
        found = checkpoint.read(folder)
        checkpoint.restore(found, self.net, None, self.optimiser)
        forget_after(self.folder, found.step)
        if (accuracy := found.state.get("accuracy")) is not None:
            self.accuracy = Accuracy(**accuracy)
        return found.step

    def _save(self, step: int) -> Path:
        folder = self.folder / "checkpoints" / f"step_{step:06d}"
        accuracy = None if self.accuracy is None else vars(self.accuracy)
        state = {"step": step, "accuracy": accuracy, **describe(self.config, self.facts)}
        checkpoint.save(folder, model=self.net, ema=None, optimiser=self.optimiser, state=state)
        prune(self.folder, keep=self.config.train.keep)
        write_text(self.folder / "README.md", self._card(step))
        return folder

    def _card(self, step: int) -> str:
        held = (
            "" if self.accuracy is None else f" Held-out accuracy over all noise levels {self.accuracy.accuracy:.3f}."
        )
        return (
            f"# {self.folder.name}\n\nA noisy classifier of {len(self.facts.label_names)} classes, trained for "
            f"{step} of {self.config.train.num_steps} steps on {self.config.data.name}, at the noise levels of path "
            f"{type(self.config.path).__name__}.{held}\n\nMade by\n\n```\n{self.command}\n```\n\n"
            f"Guide a run with it by\n\n```\nebbflow sample --ckpt RUN --classifier {self.folder} --classifier-scale 2 "
            "--output samples.png\n```\n"
        )


def _row(accuracy: Accuracy) -> dict[str, Any]:
    return {"accuracy": accuracy.accuracy, "accuracy_by_log_snr": accuracy.by_log_snr}
