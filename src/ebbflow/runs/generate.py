"""Sampling a run: which samples, how, and in batches, so that memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from ebbflow.conditioning import DataFacts
from ebbflow.core.condition import Condition
from ebbflow.data import to_uint8
from ebbflow.errors import ConfigError
from ebbflow.latent import LatentSpace
from ebbflow.methods.clipping import Clipped
from ebbflow.methods.denoise import Denoiser, takes_condition
from ebbflow.methods.samplers import Step
from ebbflow.methods.sampling import walk
from ebbflow.runs.build import drop_of
from ebbflow.runs.guiding import Guides, check_guides, guide
from ebbflow.runs.spaces import decoded
from ebbflow.runs.store import Run

T = TypeVar("T")
NAME_LENGTH = 40  # characters of a row's name in a grid


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to sample and how.

    Args:
        seeds: one a sample.
        labels: class index of each sample, or None.
        wanted: what each sample is asked to be in the place of `labels`: a prompt, a vector or a class index, or None.
            Neither of the two makes unconditional samples.
        negative: class index, prompt or vector that guidance moves away from, or None for the null condition.
        guidance: w of u + w (c - u); 1 is the conditional model, 0 the unconditional one.
        interval: log-SNR window of the guidance.
        rescale: phi in [0, 1] of the guidance.
        guides: what else guides, see `Guides`.
        clip: keep every x0 on the way inside [-1, 1]; of images only.
        sampler, num_steps, grid, options: as in `methods.sampling.walk`.
        times: the times themselves, in the place of `grid`; see `runs.grids`.
        batch_size: samples a network evaluation.
    """

    seeds: tuple[int, ...]
    labels: tuple[int, ...] | None = None
    wanted: tuple[Condition, ...] | None = None
    negative: Condition | None = None
    guidance: float = 1.0
    interval: tuple[float, float] | None = None
    rescale: float = 0.0
    guides: Guides = Guides()
    clip: bool = False
    sampler: str = "heun"
    num_steps: int = 10
    grid: str = "uniform"
    options: dict[str, Any] = field(default_factory=dict)
    times: tuple[float, ...] | None = None
    batch_size: int = 64

    @property
    def asked(self) -> tuple[Condition, ...] | None:
        """What each sample is asked to be, by `wanted` or by `labels`."""
        return self.labels if self.wanted is None else self.wanted

    def check(self, facts: DataFacts, conditional: bool) -> None:
        """Refuse what the run cannot do.

        Raises:
            ConfigError: a condition or guidance for an unconditional run, a negative condition without guidance.
        """
        check_guides(self, conditional)
        if self.clip and (not facts.is_image or facts.latent_dims is not None):
            raise ConfigError(
                "clipping is of images in [-1, 1], and this run's model makes points or latents. Leave --clip out."
            )
        if self.labels is not None and self.wanted is not None:
            raise ConfigError("`labels` and `wanted` both say what the samples are to be. Give one.")
        if self.asked is not None and len(self.asked) != len(self.seeds):
            kind = "label" if self.wanted is None else "condition"
            raise ConfigError(
                f"one {kind} a seed is wanted, got {len(self.asked)} {kind}s and {len(self.seeds)} seeds."
            )
        if self.negative is not None and self.guidance == 1:
            what = "prompt" if isinstance(self.negative, str) else "label"
            raise ConfigError(
                f"a negative {what} acts through guidance, which is off at --guidance 1. Use --guidance 2, say."
            )


@dataclass(frozen=True, kw_only=True)
class Samples:
    """A finished batch, with seeds, labels and whatever else was asked for; or a step on its way when `done` is False.

    Args:
        state, state_x0: x and E[x0 | x] as the model has them, float32 (B, *state_dims).
        space: decodes them; None where the model works on the data itself.
    """

    state: Tensor
    state_x0: Tensor
    seeds: tuple[int, ...]
    labels: tuple[int, ...] | None
    step: int
    done: bool
    asked: tuple[Condition, ...] | None = None
    space: LatentSpace | None = None

    @cached_property
    def x(self) -> Tensor:
        """float32 (B, *dims), decoded."""
        return decoded(self.space, self.state)

    @cached_property
    def x0(self) -> Tensor:
        """E[x0 | x], float32 (B, *dims), decoded."""
        return decoded(self.space, self.state_x0)

    @property
    def images(self) -> Tensor:
        """uint8 (B, C, H, W)."""
        return to_uint8(self.x.clamp(-1, 1))


def generate(
    denoiser: Denoiser,
    facts: DataFacts,
    request: Request,
    device: torch.device | str = "cpu",
    *,
    space: LatentSpace | None = None,
) -> Iterator[Samples]:
    """Every step of every batch of a request, in order; those with `done` are results.

    Args:
        space: the run's latent space, `Run.space()`; only what is looked at is decoded.

    Raises:
        ConfigError: a request that the model cannot serve.
        ValueError: a run in a latent space without its space.
    """
    if (space is None) != (facts.latent_dims is None):
        raise ValueError("a run in a latent space is sampled with its `space`, and only such a run: pass run.space().")
    for first in range(0, len(request.seeds), request.batch_size):
        rows = slice(first, first + request.batch_size)
        seeds, labels = request.seeds[rows], None if request.labels is None else request.labels[rows]
        asked = None if request.asked is None else request.asked[rows]
        bound = bind(denoiser, request, asked)
        for i, step in enumerate(_steps(bound, facts, request, seeds, device), start=1):
            yield Samples(
                state=step.x.float().cpu(),
                state_x0=step.estimate.x0.float().cpu(),
                seeds=seeds,
                labels=labels,
                step=i,
                done=i == request.num_steps,
                asked=asked,
                space=space,
            )


def _steps(
    denoiser: Denoiser, facts: DataFacts, request: Request, seeds: tuple[int, ...], device: torch.device | str
) -> Iterator[Step]:
    return walk(
        denoiser,
        facts.state_dims,
        seeds,
        sampler=request.sampler,
        num_steps=request.num_steps,
        grid=request.grid,
        options=request.options,
        times=request.times,
        device=device,
    )


def bind(denoiser: Denoiser, request: Request, asked: tuple[Condition, ...] | None) -> Denoiser:
    """`denoiser` with what a batch is asked to be and the guidance of the request."""
    cond = None if asked is None or not takes_condition(denoiser) else denoiser.read(asked)
    negative = None if request.negative is None else denoiser.read([request.negative])
    labels = None if asked is None else tuple(item for item in asked if isinstance(item, int))
    guided = guide(denoiser, request, labels, cond, negative)
    return Clipped(inner=guided) if request.clip else guided


def default_request(
    run: Run,
    *,
    seeds: tuple[int, ...],
    labels: tuple[int, ...] | None = None,
    wanted: tuple[Condition, ...] | None = None,
) -> Request:
    """How a run is sampled when nothing else is said."""
    sample = run.config.sample
    request = Request(
        seeds=seeds,
        labels=labels,
        wanted=wanted,
        sampler=sample.sampler,
        num_steps=sample.num_steps,
        grid=sample.grid,
        options=dict(sample.options),
        clip=sample.clip,
    )
    guidable = request.asked is not None and drop_of(run.config) > 0
    return replace(request, guidance=sample.guidance) if guidable else request


def deal(items: Sequence[T], num: int) -> tuple[T, ...]:
    """`num` times an item, in equal blocks in the order given.

    Raises:
        ConfigError: no items.
    """
    if not items:
        raise ConfigError("an empty list of conditions was given. Give at least one, or none at all.")
    return tuple(items[i * len(items) // num] for i in range(num))


def row_name(wanted: Condition, label_names: Sequence[str]) -> str:
    """What a row of a grid is called: the class, the prompt, or the parts of the vector."""
    if isinstance(wanted, int):
        return label_names[wanted]
    if isinstance(wanted, str):
        name = wanted
    elif len(wanted) == len(label_names):
        name = " + ".join(f"{value:g} x {label}" for value, label in zip(wanted, label_names, strict=True) if value)
    else:
        name = ", ".join(f"{value:g}" for value in wanted)
    return name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 3] + "..."
