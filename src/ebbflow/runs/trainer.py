"""Training in a folder: one trainer for every task, with its lock, metrics, checkpoints, pictures and resuming."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ebbflow.config import to_dict
from ebbflow.core.device import keep_large_blocks
from ebbflow.errors import CheckpointError
from ebbflow.files import write_text
from ebbflow.runs.ahead import ahead
from ebbflow.runs.folder import (
    METRICS,
    checkpoint_of,
    checkpoints,
    describe,
    forget_after,
    is_due,
    log_metrics,
    metrics,
    prune,
    set_aside,
    take_folder,
)
from ebbflow.runs.same_data import require_same_everywhere
from ebbflow.runs.snapshots import forget_snapshots_after, keep_snapshot
from ebbflow.runs.tasks import RunTask
from ebbflow.runs.told import Progress, card, said
from ebbflow.show import canvas
from ebbflow.training import checkpoint, engine
from ebbflow.training.dealt import is_finite
from ebbflow.training.held_out import bins_by_log_snr
from ebbflow.training.loop import Budget, TrainStep, fit
from ebbflow.training.optim import LearningRate
from ebbflow.training.trackers import Trackers
from ebbflow.training.world import here, require_joined


class Trainer:
    """A task in its folder. Building it takes the folder and restores the newest checkpoint; `events` trains.

    After each step it logs and saves what is due, and then measures and draws, so that what fails there costs no work.

    Args:
        task: what is trained.
        command: the command that made it, for the card and the pictures.
        use: a command that uses it, for the card.
        should_stop: asked after each step; True saves and ends.
        clock: what minutes are read from, in seconds; by default the machine's.

    Raises:
        ConfigError: a folder that holds something else, or that another process trains; one of several processes.
        CheckpointError: no checkpoint of the folder can be read.
    """

    def __init__(
        self,
        task: RunTask,
        *,
        command: str = "",
        use: str = "",
        should_stop: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] | None = None,
    ) -> None:
        require_joined()
        self.world = here()
        self.world.share(task.config.train.batch_size)
        keep_large_blocks()
        self.task, self.folder, self.config, self.facts = task, task.folder, task.config, task.facts
        self.command, self.use, self.should_stop, self.train = command, use, should_stop, task.config.train
        self.clock, self.budget = clock, Budget(num_steps=self.train.num_steps, minutes=self.train.minutes)
        self.engine = self.config.engine.build(accumulate=self.train.accumulate, clip=self.train.clip)
        task.net.to(self.engine.workshop)
        self.ema = None if task.averaging is None else task.averaging.build(task.net)
        self.optimiser = self.config.optimiser.build(task.net, lr=self.train.lr, weight_decay=self.train.weight_decay)
        with ExitStack() as held:
            self._remarks: list[str] = []
            self._beside, self.skipped = None, 0
            if self.world.leads:
                self._remarks, self._still = held.enter_context(take_folder(self.folder, self.config, self.facts))
                self._beside = task.store_copies()
            begun = (*self._restore(), self.skipped) if self.world.leads else (0, 0.0, 0)
            require_same_everywhere(self.world, self.config, task.splits)
            self.start, self.minutes, self.skipped = checkpoint.share(self.world, task, self.ema, self.optimiser, begun)
            self.step = self.start
            rows = self.world.first(metrics(self.folder) if self.world.leads else [])
            self._loss = next((float(row["loss"]) for row in reversed(rows) if "loss" in row), math.nan)
            self._measured = [row for row in rows if any(key.startswith("held_out") for key in row)]
            names = () if self.is_finished or not self.world.leads else self.train.trackers
            self._trackers = Trackers(names=names, folder=self.folder, config=to_dict(self.config), step=self.start)
            held.callback(self._trackers.close)
            self._held = held.pop_all()

    @property
    def device(self) -> torch.device:
        """Where it is trained."""
        return engine.device_of(self.task.net)

    @property
    def precision(self) -> str:
        """What the forward pass multiplies in, whether it is compiled and where freed memory goes, and why."""
        kept = "; freed memory is kept for the next step" if keep_large_blocks() else ""
        return f"{self.engine.said(self.device)}{kept}"

    @property
    def measured(self) -> dict[str, Any]:
        """The last held-out measurement; {} before the first."""
        return self._measured[-1] if self._measured else {}

    @property
    def share(self) -> float:
        """How much of the training is done, in [0, 1]."""
        return self.budget.done(self.step, self.minutes)

    @property
    def spent(self) -> dict[str, Any]:
        """Optimiser steps, samples seen and minutes of work so far; minutes of versions that kept none are 0."""
        return {"step": self.step, "samples_seen": self.step * self.train.batch_size, "minutes": round(self.minutes, 4)}

    @property
    def is_finished(self) -> bool:
        """Whether the folder already holds the task, trained to the end."""
        made = all((self.folder / name).is_file() for name in self.task.products)
        return self.share >= 1 and self.world.first(made)

    def events(self) -> Iterator[Progress]:
        """Train from where the folder stands to the end, or until `should_stop`; then the folder is let go."""
        here = self._progress(self._loss, 0.0)
        for here in self._events():
            yield here
            yield from self._told(here, self._trackers.take(here.step, here.row, here.picture))
        yield from self._told(here, self._trackers.take(here.step, None, None))

    @staticmethod
    def _told(here: Progress, said: Iterable[str]) -> Iterator[Progress]:
        return (replace(here, note=one, row=None, picture=None) for one in said)

    def _events(self) -> Iterator[Progress]:
        with self._held:
            whole = self.is_finished  # but for what was due at its end, before which it may have been killed
            for name in () if whole or not self.world.leads else self.task.products:
                (self.folder / name).unlink(missing_ok=True)
            here = self._progress(self._loss, 0.0)
            if self.start:
                yield from (replace(here, note=remark) for remark in self._remarks)
            if not whole or self.measured.get("step") != self.start:
                with self.world.leader_first():
                    for stage in self.task.prepare():
                        yield replace(here, note=f"{stage.name} {stage.done} of {stage.total}: {stage.note}")
            if self.start:
                self._tidy(self.start)
                yield from self._look(here, again=True)  # it may have been stopped right after it had saved
            for here, stopped in self._trained():
                yield here
                here = replace(here, row=None)
                if self.ema is not None and self.task.averaging is not None:
                    keep_snapshot(self.folder, here.step, self.ema, self.task.averaging.num_snapshots)
                if is_due(here.step, self.train.save_every) or stopped or self._is_last:
                    yield replace(here, note=f"checkpoint: {self._save(here.step)}")
                if stopped:
                    break
                yield from self._look(here)
            if self._is_last and not whole:
                yield from self._finish(here)

    def _trained(self) -> Iterator[tuple[Progress, bool]]:
        """Each step, logged, and whether it was asked to stop there."""
        steps, window, before, unread = self._fit(), list[TrainStep](), self.minutes, deque[TrainStep]()
        while True:
            try:
                step = next(steps, None)
            except FloatingPointError as error:
                raise FloatingPointError(f"{error} {self._last_good()}") from None
            if step is None:
                return
            self.step, self.minutes = step.step, step.minutes
            stopped = self.world.any(self.should_stop()) and not self._is_last
            due = is_due(step.step, self.train.log_every) or is_due(step.step, self.train.save_every)
            due, note = due or stopped or self._is_last, None
            unread.append(step)
            while unread and (due or unread[0].sizes.have_come):  # a device is waited for where something is due
                self._loss = unread[0].loss
                if unread[0].skipped:
                    self.skipped += 1
                    note = f"passed over, {self.skipped} of {self.train.skip_nonfinite}: not finite"
                else:
                    window.append(unread[0])
                unread.popleft()
            here = replace(self._progress(self._loss, step.lr), note=note)
            if window and due:  # what is saved has been told: lines are made once
                row = self._summary(window, 60 * (self.minutes - before))
                self._log(row, required=True)
                here = replace(here, row=row)
                window, before = [], self.minutes
            yield here, stopped

    def _require_folder(self) -> None:
        """Raise where the folder is not the one that was taken: another run may live there now."""
        if not self._still():
            raise CheckpointError(
                f"{self.folder} was removed or replaced while it was trained, at step {self.step}. Run the command "
                "again to start anew."
            )

    def _progress(self, loss: float, lr: float) -> Progress:
        return Progress(
            step=self.step, num_steps=self.train.num_steps, loss=loss, lr=lr, minutes=self.minutes, done=self.share
        )

    def _fit(self) -> Iterator[TrainStep]:
        train = self.train
        return fit(
            self.task,
            ahead(self.task.batches(), self.config.engine.workers),
            self.optimiser,
            num_steps=train.num_steps,
            minutes=train.minutes,
            start=self.start,
            spent=self.minutes,
            clock=self.clock,
            engine=self.engine,
            ema=self.ema,
            lr=LearningRate(
                peak=train.lr,
                warmup_steps=train.warmup_steps,
                schedule=train.schedule,
                num_steps=train.num_steps or 1,
                decay_every=train.lr_decay_step,
                decay_rate=train.lr_decay_rate,
            ),
            seed=train.seed,
            skip_nonfinite=max(0, train.skip_nonfinite - self.skipped),
        )

    @property
    def _is_last(self) -> bool:
        return self.share >= 1

    def _look(self, here: Progress, *, again: bool = False) -> Iterator[Progress]:
        """Held-out quantities and a picture, where they are due; `again` those of them alone that are not there."""
        step, net = here.step, self.task.net if self.ema is None else self.ema.module
        measured = again and self.measured.get("step") == step
        if not measured and (is_due(step, self.train.held_out_every) or self._is_last):
            found = self._measure(net)
            if self.ema is not None and "held_out" in found:
                found["held_out_raw"] = self._measure(self.task.net)["held_out"]
            if found:
                self._measured.append({**self.spent, **found})
                self._log(self.measured)
                self._tidy(step)
                yield replace(here, held_out=found.get("held_out"), note=said(found), row=self.measured)
        path = self.folder / "samples" / f"step_{step:06d}.png"
        if not (again and path.exists()) and (is_due(step, self.train.sample_every) or self._is_last):
            drawn = self._draw(net, here, path)
            if not again or drawn.picture is not None:
                yield drawn

    def _log(self, row: dict[str, Any], *, required: bool = False) -> None:
        if self.world.leads:
            if required:
                self._require_folder()
            log_metrics(self.folder, row)

    def _tidy(self, step: int) -> None:
        """Let old checkpoints go, and bring the card up to date with a saved step."""
        if not self.world.leads:
            return
        prune(self.folder, keep=self.train.keep, rows=self._measured)
        if checkpoint_of(self.folder, step).exists():
            write_text(self.folder / "README.md", self._card(step))

    @torch.no_grad()
    def _measure(self, net: torch.nn.Module) -> dict[str, Any]:
        net = self.engine.whole(net)
        with engine.mode(net, training=False):
            return self.task.held_out(net)

    @torch.no_grad()
    def _draw(self, net: torch.nn.Module, here: Progress, path: Path) -> Progress:
        """Save a picture; a failure is told, and costs no more."""
        net = self.engine.whole(net)
        if not self.world.leads:
            return here
        try:
            with engine.mode(net, training=False), self.engine.autocast(self.device):
                picture = self.task.picture(net)
            if picture is None:
                return replace(here, note="nothing to draw")
            canvas.save_picture(picture, path, self.command)
        except Exception as error:
            return replace(here, note=f"no picture: {type(error).__name__}: {error}")
        return replace(here, note=f"picture: {path}", picture=path)

    def _finish(self, here: Progress) -> Iterator[Progress]:
        net = self.engine.whole(self.task.net)
        if self.world.leads:
            self.task.finish(net)
        for name in self.task.products:
            yield replace(here, note=f"made: {self.folder / name}")

    def _summary(self, window: list[TrainStep], seconds: float) -> dict[str, Any]:
        last, num = window[-1], len(window)
        row = {
            **self.spent,
            **({"skipped": self.skipped} if self.skipped else {}),
            "loss": sum(s.loss for s in window) / num,
            "lr": last.lr,
            "grad_norm": sum(s.grad_norm for s in window) / num,
            "samples_per_second": round(num * self.train.batch_size / max(seconds, 1e-9), 1),
            **{name: sum(s.report[name] for s in window) / num for name in last.report},
        }
        times = [s.level for s in window if s.level is not None]
        if times and self.task.path is not None:
            losses = torch.cat([s.losses.float().cpu() for s in window])
            row["loss_by_log_snr"] = bins_by_log_snr(self.task.path.log_snr(torch.cat(times)), losses)
        return row

    def _restore(self) -> tuple[int, float]:
        """Step and minutes of the newest checkpoint that can be read, put in place; the damaged ones are set aside."""
        first: CheckpointError | None = None
        for folder in reversed(checkpoints(self.folder)):
            try:
                found = checkpoint.read(folder)
                checkpoint.restore(found, self.task.net, self.ema, self.optimiser)
                if self.task.state():
                    self.task.load_state(found.tensors("task"))
                minutes, self.skipped = found.number("minutes"), int(found.number("skipped"))
            except CheckpointError as error:
                first = first or error
                continue
            for later in checkpoints(self.folder):
                if first is not None and int(later.name[5:]) > found.step:
                    self._remarks.append(f"{first} It is now {set_aside(later)}; going on from step {found.step}.")
            forget_after(self.folder, found.step)
            forget_snapshots_after(self.folder, found.step)
            return found.step, minutes
        if first is not None:
            raise first
        (self.folder / METRICS).unlink(missing_ok=True)
        forget_snapshots_after(self.folder, 0)
        return 0, 0.0

    def _last_good(self) -> str:
        found = checkpoints(self.folder)
        return f"The last checkpoint is {found[-1]}." if found else "There is no checkpoint yet."

    def _save(self, step: int) -> Path:
        folder = checkpoint_of(self.folder, step)
        if self.world.leads:
            self._require_folder()
        self._require_finite()
        spent = {"minutes": self.minutes, "skipped": self.skipped}
        checkpoint.save(
            folder,
            model=self.task.net,
            ema=self.ema,
            optimiser=self.optimiser,
            state={**self.spent, **spent, **describe(self.config, self.facts)},
            beside=self._beside,
            parts={"task": self.task.state()},
        )
        self._tidy(step)
        return folder

    def _require_finite(self) -> None:
        """Raise where weights have become something that no checkpoint should replace a good one with."""
        if self.world.any(not is_finite(self.task.net)):
            raise FloatingPointError(
                f"the weights are not finite after step {self.step}: a step was too large. Lower the learning rate. "
                f"{self._last_good()}"
            )

    def _card(self, step: int) -> str:
        length = f" of {self.train.num_steps} steps" if self.train.num_steps else " steps"
        spent = f" in {self.minutes:.1f} of {self.train.minutes:g} minutes" if self.train.minutes else ""
        return card(
            (self.folder.name, self.task.card(), self.config.data.name),
            trained=f"{step}{length}{spent}",
            seen=self.spent["samples_seen"],
            held_out=self.measured,
            commands={"Use it with": self.use, "Made by": self.command},
        )
