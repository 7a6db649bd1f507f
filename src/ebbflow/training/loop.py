"""The training loop, a generator: the caller owns the progress bar, the files and the moment to stop."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor, nn

from ebbflow.methods.objective import Losses
from ebbflow.training import dealt
from ebbflow.training.batches import Batch, Batches, Read, batches_from
from ebbflow.training.ema import EMA
from ebbflow.training.engine import Engine, mode
from ebbflow.training.optim import LearningRate
from ebbflow.training.sizes import Sizes, stepped
from ebbflow.training.task import DenoiserTask, Joined, Loss, Task, Trainable
from ebbflow.training.world import here

AHEAD = 2  # steps that may be queued on a device beyond the last one whose numbers have come


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long to train: so many steps, or so many minutes of work.

    Only what happens inside of steps is work: what the caller does between them, such as measuring, drawing and saving,
    takes nothing from the minutes.

    Args:
        num_steps: the steps, or None.
        minutes: the minutes, a finite number above 0, or None.

    Raises:
        ValueError: both or neither, or no time at all.
    """

    num_steps: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if (self.num_steps is None) == (self.minutes is None):
            raise ValueError(
                f"give `num_steps` or `minutes`, one of the two, to say how long to train; got {self.num_steps} and "
                f"{self.minutes}."
            )
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise ValueError(f"`minutes` must be a finite number above 0, got {self.minutes}.")

    def done(self, step: int, minutes: float) -> float:
        """The share of it that so many steps, in so many minutes, have taken, in [0, 1]."""
        if self.num_steps is not None:
            return 1.0 if step >= self.num_steps else step / self.num_steps
        assert self.minutes is not None
        return min(1.0, minutes / self.minutes)


@dataclass(frozen=True, kw_only=True)
class TrainStep:
    """What one step did: its number (1 for the first), the first group's learning rate, time t (or None) and loss of
    each sample; the minutes of work up to its end, and the share of the training that is done then, 1 for the last
    step. Its mean loss, gradient norm before clipping, means of what else the task reports, and whether it was
    `skipped`, its loss or gradient not finite, are read from the device when they are asked for.
    """

    step: int
    lr: float
    sizes: Sizes
    level: Tensor | None
    losses: Tensor
    minutes: float = 0.0
    done: float = 0.0

    @property
    def loss(self) -> float:
        """The mean loss."""
        return self.sizes.read[0]

    @property
    def grad_norm(self) -> float:
        """The gradient norm before clipping."""
        return self.sizes.read[1]

    @property
    def report(self) -> dict[str, float]:
        """The means of what else the task reports."""
        return self.sizes.read[2]

    @property
    def skipped(self) -> bool:
        """Whether loss or gradient was not finite, so that it changed no weight."""
        return not self.sizes.are_finite


@overload
def fit(
    task: Task,
    batches: Batches,
    optimiser: torch.optim.Optimizer,
    /,
    *,
    num_steps: int | None = None,
    minutes: float | None = None,
    start: int = 0,
    spent: float = 0.0,
    engine: Engine | None = None,
    ema: EMA | None = None,
    lr: LearningRate | None = None,
    seed: int = 0,
    read: Read | None = None,
    clock: Callable[[], float] | None = None,
    skip_nonfinite: int = 0,
) -> Iterator[TrainStep]: ...
@overload
def fit(
    denoiser: Trainable,
    objective: Losses,
    batches: Batches,
    optimiser: torch.optim.Optimizer,
    /,
    *,
    num_steps: int | None = None,
    minutes: float | None = None,
    start: int = 0,
    spent: float = 0.0,
    engine: Engine | None = None,
    ema: EMA | None = None,
    lr: LearningRate | None = None,
    seed: int = 0,
    read: Read | None = None,
    clock: Callable[[], float] | None = None,
    skip_nonfinite: int = 0,
) -> Iterator[TrainStep]: ...
def fit(
    *what: Any,
    num_steps: int | None = None,
    minutes: float | None = None,
    start: int = 0,
    spent: float = 0.0,
    engine: Engine | None = None,
    ema: EMA | None = None,
    lr: LearningRate | None = None,
    seed: int = 0,
    read: Read | None = None,
    clock: Callable[[], float] | None = None,
    skip_nonfinite: int = 0,
) -> Iterator[TrainStep]:
    """Train a task, `fit(task, batches, optimiser)`, or a denoiser, `fit(denoiser, objective, batches, optimiser)`: in
    place, from step `start` to `num_steps`, or for `minutes` of work.

    All randomness of step n comes from (seed, n), so a run whose batches are a function of the step, stopped anywhere
    and started again there, is the same run, bit for bit on one CPU. The net is left in the mode (training or
    evaluation) that it came in.

    Args:
        denoiser: a NetDenoiser, or another model whose net is a module.
        objective: its loss; for a NetDenoiser it must have the denoiser's path and prediction.
        batches: any iterable of tensors, (data, condition) pairs, dicts or `Batch`es, gone through again when it ends;
            or an object whose `batch(step)` gives that of a step, which resumes exactly. Bytes become [-1, 1].
        optimiser: over the net's parameters, and over `objective.uncertainty`'s where there is one.
        num_steps, minutes: how long, one of the two. Minutes are of work inside of steps, and the step in which they
            run out is the last one; the learning rate follows the share of them that is spent.
        start, spent: the steps done and the minutes spent before.
        engine: device, precision, microbatches, clipping; by default float32 where the net is, clipped at 1.
        ema: updated after each step.
        lr: rate of the first parameter group by step, the others in the proportion that they came with; when None no
            rate is touched.
        read: makes tensors of conditions that come as lists of prompts, class indices or vectors.
        clock: what minutes are read from, in seconds; by default the machine's.
        skip_nonfinite: how many steps whose loss or gradient is not finite may be passed over, the weights as they
            were.

    Raises:
        ValueError: parts that do not belong together, batches that are none, or no length.
        FloatingPointError: a loss or gradient that is not finite, before it touches the weights, beyond those.
    """
    if len(what) == 3:
        task, batches, optimiser = what
        if not callable(getattr(task, "loss", None)):
            raise ValueError(
                f"a {type(task).__name__} has no loss of its own. Give its objective: fit(denoiser, objective, "
                "batches, optimiser), such as ef.Objective(path, prediction='velocity')."
            )
        followed = task.net
    elif len(what) == 4:
        denoiser, objective, batches, optimiser = what
        task, followed = DenoiserTask(denoiser, objective), denoiser.net
    else:
        raise TypeError("fit() takes (task, batches, optimiser) or (denoiser, objective, batches, optimiser).")
    _require_stepped(task, optimiser)
    return _steps(
        task,
        batches_from(batches, start, read),
        optimiser,
        engine or Engine(device=None, precision="fp32"),
        budget=Budget(num_steps=num_steps, minutes=minutes),
        start=start,
        spent=spent,
        clock=clock,
        ema=ema,
        followed=followed,
        lr=lr,
        seed=seed,
        skip_nonfinite=skip_nonfinite,
    )


def _steps(
    task: Task,
    batches: Iterator[Batch],
    optimiser: torch.optim.Optimizer,
    engine: Engine,
    *,
    budget: Budget,
    start: int,
    spent: float,
    clock: Callable[[], float] | None,
    ema: EMA | None,
    followed: nn.Module,
    lr: LearningRate | None,
    seed: int,
    skip_nonfinite: int,
) -> Iterator[TrainStep]:
    clock = clock or time.perf_counter
    engine.settle(task, [] if ema is None else ema.modules, optimiser)
    task.net.zero_grad(set_to_none=True)
    with mode(task.net, training=True):
        step, unread = start, deque[_Unread]()
        while (done := budget.done(step, spent)) < 1:
            began = clock()
            rate = _set_rates(optimiser, None if lr is None else lr.at(step, done if budget.minutes else None))
            batch = next(batches)
            loss = engine.backward(task, batch, seed=seed, step=step, done=done)
            sizes = Sizes(loss, dealt.clip(task.net.parameters(), engine.clip))
            good = stepped(optimiser, sizes)
            task.net.zero_grad(set_to_none=True)
            if good:
                if ema is not None:
                    ema.update(followed)
                task.observe(loss)
            unread.append(_Unread(sizes=sizes, loss=loss, batch=batch, step=step, rate=rate))
            while unread and (unread[0].sizes.are_here or len(unread) > AHEAD):  # in every process alike
                skip_nonfinite = _read(unread.popleft(), task.net, skip_nonfinite)
            took = max(0.0, clock() - began) / 60  # clocks may be set back
            step, spent = step + 1, spent + (here().first(took) if budget.minutes else took)
            yield TrainStep(
                step=step,
                lr=rate,
                sizes=sizes,
                level=loss.level,
                losses=loss.each if loss.plain is None else loss.plain,
                minutes=spent,
                done=budget.done(step, spent),
            )
        for late in unread:
            skip_nonfinite = _read(late, task.net, skip_nonfinite)


def _set_rates(optimiser: torch.optim.Optimizer, rate: float | None) -> float:
    """Set the learning rates of a step, each group's in the proportion it came with; that of the first group."""
    groups = optimiser.param_groups
    if rate is not None:
        first = groups[0].setdefault("initial_lr", groups[0]["lr"])
        for group in groups:
            share = group.setdefault("initial_lr", group["lr"]) / first if first else 1.0
            group["lr"] = rate * share
    return float(groups[0]["lr"])


@dataclass(frozen=True, kw_only=True)
class _Unread:
    """A step whose numbers nobody has looked at, and what is said of it where they are not finite."""

    sizes: Sizes
    loss: Loss
    batch: Batch
    step: int
    rate: float


def _read(late: _Unread, net: nn.Module, skip_nonfinite: int) -> int:
    """How many steps may still be passed over after this one.

    Raises:
        FloatingPointError: it may not be.
    """
    if late.sizes.are_finite:
        return skip_nonfinite
    _require_may_skip(net, late.batch, late.loss, skip_nonfinite > 0, step=late.step, rate=late.rate)
    return skip_nonfinite - 1


def _require_may_skip(net: nn.Module, batch: Batch, loss: Loss, may: bool, *, step: int, rate: float) -> None:
    """Raise where a step that is not finite cannot be passed over, with the cause.

    Raises:
        FloatingPointError: it may not be, or the weights are lost, so that the next step would not be either.
    """
    if here().any(not dealt.is_finite(net)):  # of weights that are dealt out each process knows its own
        why = "The weights are not finite either: an earlier step was too large. Lower the learning rate."
    elif may:
        return
    elif not bool(torch.as_tensor(batch.x0).isfinite().all()):
        why = "The data of this batch is not finite. Mend the data."
    else:
        why = "The weights were not touched. Lower the learning rate, or use engine.precision=fp32."
    how = f"learning rate {rate:.3g}{_by_quarter(loss)}"
    raise FloatingPointError(f"the loss or its gradient is not finite at step {step + 1} ({how}). {why}")


def _by_quarter(loss: Loss) -> str:
    if loss.level is None:
        return ""
    losses = (loss.each if loss.plain is None else loss.plain).cpu()
    quarters = (4 * loss.level.cpu()).long().clamp(0, 3)
    means = [f"{losses[quarters == q].mean():.3g}" if bool((quarters == q).any()) else "-" for q in range(4)]
    return f"; mean loss by quarter of t: {', '.join(means)}"


def _require_stepped(task: Task, optimiser: Any) -> None:
    """The optimiser has to be one, of the net, and of what an objective learns."""
    if not isinstance(optimiser, torch.optim.Optimizer):
        raise ValueError(f"the last of fit's arguments is an optimiser of torch, got {type(optimiser).__name__}.")
    stepped = {id(p) for group in optimiser.param_groups for p in group["params"]}
    learned = task.net.objective.parameters() if isinstance(task.net, Joined) else ()
    if any(id(p) not in stepped for p in learned):
        raise ValueError(
            "this objective learns its uncertainty, and the optimiser does not step it. Give the optimiser "
            "[*net.parameters(), *objective.uncertainty.parameters()]."
        )
    if not any(id(p) in stepped for p in task.net.parameters() if p.requires_grad):
        raise ValueError(
            "the optimiser steps no parameter of this net that learns. Make it of net.parameters(), of the very net "
            "that is trained, with requires_grad."
        )
