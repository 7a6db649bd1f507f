"""The training loop, a generator: the caller owns the progress bar, the files and the moment to stop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from ebbflow.core.noise import generator_for
from ebbflow.core.predictions import prediction_of
from ebbflow.core.times import Importance, time_sampler
from ebbflow.methods.denoise import NetDenoiser
from ebbflow.methods.objective import Losses, Objective
from ebbflow.training.adaptive import ImportanceTimes, Uncertainty
from ebbflow.training.ema import EMA
from ebbflow.training.engine import WorkingCopy, descend
from ebbflow.training.optim import LearningRate


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Data of one step: `x0` float32 (B, *dims), `cond` a row a sample or None."""

    x0: Tensor
    cond: Tensor | None = None


class Model(Protocol):
    """What `fit` trains: a dataclass around a net, such as a NetDenoiser."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def net(self) -> Any: ...


class Loader(Protocol):
    """Batches as a pure function of the step, so that resuming needs no state."""

    def batch(self, step: int) -> Batch:
        """The batch of step `step`, counted from 0."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrainStep:
    """What one step did: its number (1 for the first), mean loss, learning rate, gradient norm before clipping, and t
    and loss per sample."""

    step: int
    loss: float
    lr: float
    grad_norm: float
    t: Tensor
    losses: Tensor


def fit(
    denoiser: Model,
    objective: Losses,
    loader: Loader,
    optimiser: torch.optim.Optimizer,
    *,
    num_steps: int,
    start: int = 0,
    ema: EMA | None = None,
    lr: LearningRate | None = None,
    seed: int = 0,
    clip: float = 1.0,
    dtype: torch.dtype = torch.float32,
    times: ImportanceTimes | None = None,
    uncertainty: Uncertainty | None = None,
) -> Iterator[TrainStep]:
    """Train `denoiser.net` in place from step `start` to `num_steps`.

    All randomness of step n comes from (seed, n), so a run stopped at any step and started again there is the same run,
    bit for bit on one
    device.

    Args:
        denoiser: a NetDenoiser, or another model, whose net is a module with float32 weights.
        objective: its loss; for a NetDenoiser it must have the denoiser's path and prediction.
        loader: batches by step.
        optimiser: over the net's parameters.
        ema: updated after each step.
        lr: learning rate by step; the optimiser's own when None.
        clip: largest gradient norm.
        dtype: bfloat16 trains a copy in that precision beside the float32 master.
        times: draws t, and is told the losses, for an objective whose times are "importance"; a fresh one when None.
        uncertainty: divides the losses by what it learns of them; its parameters belong in the optimiser too.

    Raises:
        FloatingPointError: a loss or gradient that is not finite, before it touches the weights.
    """
    if isinstance(denoiser, NetDenoiser) and isinstance(objective, Objective):
        _require_same_meaning(denoiser, objective)
    if not isinstance(denoiser.net, torch.nn.Module):
        raise ValueError("fit() trains a model whose net is a torch module.")
    working = WorkingCopy(denoiser.net.train(), dtype)
    model = replace(denoiser, net=working.module)
    if times is None and isinstance(objective, Objective) and time_sampler(objective.times) == Importance():
        times = ImportanceTimes(objective.path)
    device = next(denoiser.net.parameters()).device
    measure = _Measure(objective=objective, times=times, uncertainty=uncertainty, device=device)
    for step in range(start, num_steps):
        rate = optimiser.param_groups[0]["lr"] if lr is None else lr.at(step)
        t, losses, loss = measure(model, loader.batch(step), generator_for(seed, "step", step))
        require_finite = partial(_require_finite, step=step + 1, rate=rate, t=t, losses=losses)
        norm = descend(loss, working, optimiser, lr=rate, clip=clip, require_finite=require_finite)
        if ema is not None:
            ema.update(denoiser.net)
        yield TrainStep(
            step=step + 1, loss=float(loss.detach()), lr=rate, grad_norm=float(norm), t=t, losses=losses.detach()
        )


def _require_same_meaning(denoiser: NetDenoiser, objective: Objective) -> None:
    meant, learnt = prediction_of(denoiser.prediction), prediction_of(objective.prediction)
    if (denoiser.path, meant) != (objective.path, learnt):
        raise ValueError("the denoiser and the objective must share their path and prediction.")


@dataclass(frozen=True, kw_only=True)
class _Measure:
    """(model, batch, generator) -> t, the loss of each sample, and what is minimised."""

    objective: Losses
    times: ImportanceTimes | None
    uncertainty: Uncertainty | None
    device: torch.device

    def __call__(self, model: Model, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        x0, num, weights = batch.x0.to(self.device), len(batch.x0), None
        if self.times is None:
            t = self.objective.draw_times(num, generator)
        else:
            t, weights = self.times.draw(num, generator)
        eps = torch.randn(batch.x0.shape, generator=generator).to(self.device)
        cond = None if batch.cond is None else batch.cond.to(self.device)
        losses = total = self.objective.losses(model, x0, cond, eps, t)
        if self.uncertainty is not None:
            u = self.uncertainty(t)
            total = losses * torch.exp(-u) + u
        if self.times is not None and weights is not None:
            self.times.observe(t, losses if self.uncertainty is None else losses * torch.exp(-u))
            total = total * weights.to(total)
        return t, losses, total.mean()


def _require_finite(value: Tensor, step: int, rate: float, t: Tensor, losses: Tensor) -> None:
    if torch.isfinite(value):
        return
    quarters = (4 * t).long().clamp(0, 3)
    means = [f"{losses.detach().cpu()[quarters == q].mean():.3g}" if (quarters == q).any() else "-" for q in range(4)]
    raise FloatingPointError(
        f"the loss or its gradient is not finite at step {step} (learning rate {rate:.3g}; mean loss by quarter "
        f"of t: {', '.join(means)}). "
        "The weights were not touched. Lower the learning rate, or use engine.precision=fp32."
    )
