"""Requests that walk together: samples that differ in seed, condition, guidance and image share every evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ebbflow.core.condition import Cond, Condition, cat_rows, rows_of
from ebbflow.core.noise import Noise
from ebbflow.core.predictions import Estimate
from ebbflow.core.shape import per_sample
from ebbflow.errors import ConfigError
from ebbflow.methods.clipping import Clipped
from ebbflow.methods.denoise import Denoiser, Wrapped, conditional
from ebbflow.methods.editing import FIXED_POINT, invert, invertible, slerp
from ebbflow.methods.samplers import Step
from ebbflow.methods.sampling import grid_times, walk
from ebbflow.runs.edit import Edit, coarse, paste_back, walk_edit
from ebbflow.runs.opened import Opened
from ebbflow.runs.plan import Plan
from ebbflow.runs.sample import bind, grid_of, prepared


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """Samples that somebody asks for.

    Args:
        model: of which.
        plan: seeds, conditions, guidance and the walk.
        image: what is edited, float32 (1, *dims); None for samples from noise.
        edit: how.
    """

    model: Opened
    plan: Plan
    image: Tensor | None = None
    edit: Edit = Edit()

    def __len__(self) -> int:
        return len(self.plan.seeds)

    def rows(self, start: int, stop: int) -> Asked:
        """Some of its samples."""
        return replace(self, plan=self.plan.rows(slice(start, stop)))

    @property
    def num_steps(self) -> int:
        """Steps of its walk."""
        return self.plan.num_steps if self.image is None else self.edit.num_steps(self.model.denoiser, self.plan)

    @property
    def company(self) -> tuple[Any, ...]:
        """Equal where samples may walk together: the model, the walk and how an image is edited.

        What guides besides a condition knows its batch, so such samples keep to their own.
        """
        plan, edit = self.plan, self.edit
        own = None if self.is_plain else id(plan.guides)
        learned = plan.guidance if plan.is_learned else None
        walk = (str(plan.sampler), plan.num_steps, repr(plan.grid), repr(sorted(plan.options.items())), plan.clip)
        how = None if self.image is None else (edit.strength, edit.mask is None, edit.resample, edit.jump)
        return id(self.model), walk, how, own, learned

    @property
    def is_plain(self) -> bool:
        """Whether nothing guides it but its condition, by the linear rule."""
        guides = self.plan.guides
        others = (guides.bad, guides.classifier, guides.loss, self.plan.interval)
        return all(one is None for one in others) and not guides.names_rule and self.plan.rescale == 0

    def check(self) -> None:
        """Raise what sampling would, before anything waits for it.

        Raises:
            ConfigError, ValueError: what the model, the sampler or the grid cannot do.
        """
        first = self.rows(0, 1)
        grid_of(self.model, self.plan)
        bind(prepared(self.model, first.plan), first.plan)
        bound_rows(self.model, [first])


@dataclass(frozen=True, kw_only=True, eq=False)
class Through(Asked):
    """Pictures by way of their noises: each sample is a state on the arc between those of two pictures, decoded; see
    `methods.editing.interpolate`. Glimpses show the states themselves, scaled as a net is shown them.

    Args:
        pair: the pictures, float32 (2, *dims); twice the same one goes there and back.
        fractions: of each sample, in [0, 1].
    """

    pair: Tensor
    fractions: tuple[float, ...]

    def rows(self, start: int, stop: int) -> Through:
        return replace(self, plan=self.plan.rows(slice(start, stop)), fractions=self.fractions[start:stop])

    @property
    def num_steps(self) -> int:
        turns = FIXED_POINT if invertible(self.plan.sampler).order > 1 else 0
        return turns + 2 * self.plan.num_steps - 1

    @property
    def company(self) -> tuple[Any, ...]:
        return "through", id(self.pair)

    def check(self) -> None:
        if invertible(self.plan.sampler) and self.plan.num_steps < 2:
            raise ConfigError("the way to noise and back needs 2 `steps` or more, got 1.")
        super().check()

    def steps(self, bound: Denoiser, model: Opened) -> Iterator[Step]:
        """There, and back."""
        times, sampler = grid_times(model.denoiser, self.plan.grid, self.plan.num_steps), self.plan.sampler
        where = torch.tensor(self.fractions, dtype=torch.float64)
        x = pair = model.encode(self.pair)
        for step in invert(bound, pair, times, sampler=sampler):
            x = step.x
            yield _shown(bound, replace(step, x=x[where.round().long()]))
        for step in invertible(sampler)(bound, slerp(x[:1], x[1:], where), times):
            yield _shown(bound, step)


def _shown(denoiser: Denoiser, step: Step) -> Step:
    """A step whose estimate is its state, scaled as a net is shown it."""
    c = denoiser.path.at(step.t)
    return replace(step, estimate=replace(step.estimate, x0=step.x / float((c.alpha**2 + c.sigma**2).sqrt())))


@dataclass(frozen=True, kw_only=True)
class RowGuided(Wrapped):
    """u + w (c - u) with a w for each sample: `ClassifierFree` where the samples of a batch disagree.

    One evaluation of a batch in which every sample comes once, and those that are guided once more.

    Args:
        inner: the model with the conditions of all samples bound, then those that the guided ones move away from.
        guided: their places, int64 (G,).
        guidance: their w, float32 (G,).
    """

    guided: Tensor
    guidance: Tensor

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        num, again = len(x_t), self.guided
        times = torch.cat([t, t[again]]) if isinstance(t, Tensor) and t.ndim else t
        both = self.inner(torch.cat([x_t, x_t[again]]), times)
        c, u = both.each(lambda values: values[:num]), both.each(lambda values: values[num:])
        return replace(c, x0=self._moved(u.x0, c.x0), eps=self._moved(u.eps, c.eps))

    def _moved(self, u: Tensor, c: Tensor) -> Tensor:
        towards = torch.lerp(u, c[self.guided], per_sample(self.guidance, u))
        return c.index_copy(0, self.guided, towards)


def walk_together(asked: Sequence[Asked]) -> Iterator[Step]:
    """The steps of samples of one `company`, in the order given; sample i from its seed alone.

    Raises:
        ConfigError, ValueError: as `Asked.check`.
    """
    first = asked[0]
    model, plan = prepared(first.model, first.plan), first.plan
    if isinstance(first, Through):
        whole = replace(first, plan=plan, fractions=tuple(f for one in asked for f in one.fractions))  # type: ignore[attr-defined]
        return whole.steps(bind(model, plan.rows(slice(0, 1))), model)
    seeds = [seed for one in asked for seed in one.plan.seeds]
    bound = bound_rows(model, asked)
    if first.image is not None:
        return _edits(model, bound, asked, Noise(seeds))
    times = grid_of(model, plan).tolist()
    return walk(
        bound,
        model.facts.state_dims,
        seeds,
        sampler=plan.sampler,
        num_steps=plan.num_steps,
        options=plan.options,
        times=times,
        device=model.device,
    )


def _edits(model: Opened, bound: Denoiser, asked: Sequence[Asked], noise: Noise) -> Iterator[Step]:
    plan, edit = asked[0].plan, asked[0].edit
    states = {id(one.image): model.encode(one.image) for one in asked if one.image is not None}
    x0 = torch.cat([states[id(one.image)].expand(len(one), *model.facts.state_dims) for one in asked])
    if edit.mask is not None:
        masks = [coarse(one.edit.mask.to(x0.device), x0) for one in asked if one.edit.mask is not None]
        rows = [one.expand(len(part), *one.shape[1:]) for one, part in zip(masks, asked, strict=True)]
        edit = replace(edit, mask=torch.cat(rows))
    return walk_edit(bound, plan, x0, edit, noise)


def finished(asked: Asked, x: Tensor) -> Tensor:
    """Decoded samples `x` with the pixels that an edit keeps."""
    return x if asked.image is None else paste_back(x, asked.image, asked.edit.mask)


def bound_rows(model: Opened, asked: Sequence[Asked]) -> Denoiser:
    """The model with the condition and the guidance of every sample.

    Raises:
        ValueError: a model that was never trained without a condition, and is asked for guidance.
    """
    plans = [one.plan for one in asked]
    if not asked[0].is_plain:
        return bind(model, _joined(plans))
    bound = _guided(model, plans) if model.is_conditional else model.denoiser
    return Clipped(inner=bound) if plans[0].clip else bound


def _joined(plans: Sequence[Plan]) -> Plan:
    """The plans of parts of one request as one."""
    seeds = tuple(seed for plan in plans for seed in plan.seeds)
    conditions = tuple(one for plan in plans for one in plan.conditions or ())
    return replace(plans[0], seeds=seeds, conditions=conditions or None)


def _guided(model: Opened, plans: Sequence[Plan]) -> Denoiser:
    wanted: list[Condition | None] = []
    avoided: list[Condition | None] = []
    guided: list[int] = []
    guidance: list[float] = []
    for plan in plans:
        if plan.guidance != 1 and (plan.conditions or plan.negative is not None):
            guided += range(len(wanted), len(wanted) + len(plan.seeds))
            avoided += [plan.negative] * len(plan.seeds)
            guidance += [plan.guidance] * len(plan.seeds)
        wanted += plan.conditions or [None] * len(plan.seeds)
    inner = conditional(model.denoiser).given(_read(model, [*wanted, *avoided]))
    if not guided:
        return inner
    device = model.device
    weights = torch.tensor(guidance, device=device)
    return RowGuided(inner, guided=torch.tensor(guided, device=device), guidance=weights)


def _read(model: Opened, conditions: Sequence[Condition | None]) -> Cond:
    """Conditions for the net, a row each; the null one where there is None."""
    known = [one for one in conditions if one is not None]
    parts = [model.read(known)] if known else []
    if len(known) < len(conditions):
        parts.append(conditional(model.denoiser).null(1))
    numbers = iter(range(len(known)))
    order = [next(numbers) if one is not None else len(known) for one in conditions]
    return rows_of(cat_rows(parts), torch.tensor(order))
