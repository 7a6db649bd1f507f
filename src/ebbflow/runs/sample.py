"""Sampling an open model: a plan becomes samples, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from ebbflow.core.device import sent
from ebbflow.core.noise import Noise
from ebbflow.data import to_uint8
from ebbflow.methods.clipping import Clipped
from ebbflow.methods.denoise import Denoiser, NetDenoiser
from ebbflow.methods.samplers import Step
from ebbflow.methods.sampling import grid_times, pure_noise, walk
from ebbflow.methods.variance import AnalyticVariance
from ebbflow.runs.derived import learned_times, variance_table
from ebbflow.runs.opened import Opened, require_finite
from ebbflow.runs.plan import Plan
from ebbflow.training.engine import in_precision, pick_precision
from ebbflow.training.world import World

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Samples:
    """A finished batch; or a step on its way when `done` is False. Nothing is decoded or copied before it is read.

    Args:
        state, state_x0: x and E[x0 | x] as the model has them, (B, *state_dims) where it lives.
        plan: of this batch.
        step: how many steps are done.
        done: whether these are results.
        model: decodes them.
    """

    state: Tensor
    state_x0: Tensor
    plan: Plan
    step: int
    done: bool
    model: Opened

    @cached_property
    def x(self) -> Tensor:
        """float32 (B, *dims) on the CPU, decoded."""
        return self.model.decode(self.state)

    @cached_property
    def x0(self) -> Tensor:
        """E[x0 | x], float32 (B, *dims) on the CPU, decoded."""
        return self.model.decode(self.state_x0)

    @property
    def images(self) -> Tensor:
        """uint8 (B, C, H, W)."""
        return to_uint8(self.x.clamp(-1, 1))

    @property
    def for_features(self) -> Tensor:
        """Float32 in [-1, 1] as feature nets see it: images rounded to their levels, points as they are."""
        return self.images.float() / 127.5 - 1 if self.model.facts.is_image else self.x

    @property
    def shown(self) -> Tensor:
        """Images where the model makes images, else the points."""
        return self.images if self.model.facts.is_image else self.x


def generate(model: Opened, plan: Plan, world: World = World()) -> Iterator[Samples]:
    """Every step of every batch of a plan, in order; those with `done` are results.

    Args:
        world: takes the batches in turn; those of this process come.

    Raises:
        ConfigError: an unknown sampler, grid or option, a learned grid that was not searched.
        ValueError: an option out of range.
        FloatingPointError: results that are not finite, of which a picture would show nothing.
    """
    ready = prepared(model, plan)
    times = grid_of(model, plan).tolist()
    for part in islice(plan.batches(), world.rank, None, world.size):
        bound = bind(ready, part)
        steps = walk(
            bound,
            model.facts.state_dims,
            part.seeds,
            sampler=part.sampler,
            num_steps=part.num_steps,
            options=part.options,
            times=times,
            device=model.device,
        )
        yield from results(model, part, steps, part.num_steps)


def shared(plan: Plan, world: World) -> Plan:
    """The plan in batches that give every process something to do."""
    return replace(plan, batch_size=max(1, min(plan.batch_size, -(-len(plan.seeds) // world.size))))


def in_turn(
    model: Opened, plan: Plan, world: World, keep: Callable[[Samples], T], spoiled: T | None = None
) -> Iterator[tuple[Samples | None, Plan, T | None]]:
    """The batches of a plan by the processes of a world in turn, each of which holds one at a time.

    Args:
        keep: makes of a finished batch what goes to rank 0.
        spoiled: what goes there of a batch that is not finite, and of those after it; None raises it.

    Yields:
        Each step of this process's own, its batch's plan, and None; on rank 0, of every batch in order, what `keep`
        made of it, the step None where it is another's.
    """
    own = generate(model, plan, world)
    for i, part in enumerate(plan.batches()):
        step, kept = None, None
        if i % world.size == world.rank:
            try:
                for step in own:
                    if step.done:
                        kept = keep(step)
                        break
                    yield step, part, None
                else:
                    kept = spoiled
            except FloatingPointError:
                if spoiled is None:
                    raise
                kept = spoiled
        kept = world.passed(kept, i % world.size)
        if kept is not None:
            yield step, part, kept


def sampled(model: Opened, plan: Plan, world: World) -> Iterator[Samples]:
    """`generate` in several processes: the results of all of them on rank 0."""
    if world.size == 1:
        yield from generate(model, plan)
        return
    for step, part, kept in in_turn(model, shared(plan, world), world, lambda one: (one.state.cpu(), one.x)):
        if kept is not None and step is None:
            state, x = kept
            step = Samples(state=state, state_x0=state, plan=part, step=part.num_steps, done=True, model=model)
            vars(step)["x"] = x  # decoded where it was made
        if step is not None:
            yield step


def start_of(model: Opened, plan: Plan) -> Samples:
    """The noise that the first batch of a plan starts from, as the step before its first."""
    part, times = next(plan.batches()), grid_of(model, plan)
    noise = sent(Noise(part.seeds).draw(model.facts.state_dims), model.device)
    x = pure_noise(model.denoiser, noise, times)
    return Samples(state=x, state_x0=x, plan=part, step=0, done=False, model=model)


def results(model: Opened, plan: Plan, steps: Iterator[Step], num_steps: int) -> Iterator[Samples]:
    """The steps of one batch as samples; the last of `num_steps` is done."""
    for i, step in enumerate(steps, start=1):
        if i == num_steps:
            require_finite(model, step.x, f"the samples of seeds {plan.seeds[0]} to {plan.seeds[-1]}")
        yield Samples(state=step.x, state_x0=step.estimate.x0, plan=plan, step=i, done=i == num_steps, model=model)


def prepared(model: Opened, plan: Plan) -> Opened:
    """The model with what a plan asks for: its net's precision, and Var[x0 | x_t] for the variance 'optimal'."""
    dtype = dtype_of(model, plan)
    if dtype != torch.float32:
        model = model.with_denoiser(in_net_precision(model.denoiser, dtype))
    if plan.options.get("variance") != "optimal":
        return model
    return model.with_denoiser(AnalyticVariance(inner=model.denoiser, table=variance_table(model)))


def dtype_of(model: Opened, plan: Plan) -> torch.dtype:
    """What the net multiplies in where a plan is walked with a model whose weights are float32."""
    return pick_precision(plan.precision, model.device)


def in_net_precision(denoiser: Denoiser, dtype: torch.dtype) -> Denoiser:
    """A denoiser with its net in a precision, what it answers in that of x_t; one without a net as it is."""
    if not isinstance(denoiser, NetDenoiser) or not isinstance(denoiser.net, torch.nn.Module):
        return denoiser
    return replace(denoiser, net=in_precision(denoiser.net, dtype))


def grid_of(model: Opened, plan: Plan) -> Tensor:
    """The times of a plan, float64 (num_steps + 1,).

    Raises:
        ConfigError: an unknown grid, or a learned one that was not searched.
    """
    if not plan.is_learned:
        return grid_times(model.denoiser, plan.grid, plan.num_steps)
    times = learned_times(model, steps=plan.num_steps, sampler=str(plan.sampler), guidance=plan.guidance)
    return torch.tensor(times, dtype=torch.float64)


def bind(model: Opened, plan: Plan) -> Denoiser:
    """The model's denoiser with a batch's conditions and guidance."""
    read = plan.conditions is not None and model.is_conditional
    guided = plan.guides.around(
        model.denoiser,
        guidance=plan.guidance,
        cond=model.read(plan.conditions or ()) if read else None,
        negative=None if plan.negative is None else model.read([plan.negative]),
        labels=None if plan.labels is None else torch.tensor(plan.labels),
        interval=plan.interval,
        rescale=plan.rescale,
    )
    return Clipped(inner=guided) if plan.clip else guided
