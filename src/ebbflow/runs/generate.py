"""Sampling a run: which samples, how, and in batches, so that memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ebbflow.conditioning import DataFacts
from ebbflow.data import to_uint8
from ebbflow.errors import ConfigError
from ebbflow.latent import LatentSpace
from ebbflow.methods.denoise import Denoiser
from ebbflow.methods.guidance import classifier_free
from ebbflow.methods.samplers import Step
from ebbflow.methods.sampling import walk
from ebbflow.runs.spaces import decoded
from ebbflow.runs.store import Run


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to sample and how.

    Args:
        seeds: one a sample.
        labels: class index of each sample, or None for unconditional samples.
        negative: class index that guidance moves away from, or None for the null condition.
        guidance: w of u + w (c - u); 1 is the conditional model, 0 the unconditional one.
        interval: log-SNR window of the guidance.
        rescale: phi in [0, 1] of the guidance.
        sampler, num_steps, grid, options: as in `methods.sampling.walk`.
        batch_size: samples a network evaluation.
    """

    seeds: tuple[int, ...]
    labels: tuple[int, ...] | None = None
    negative: int | None = None
    guidance: float = 1.0
    interval: tuple[float, float] | None = None
    rescale: float = 0.0
    sampler: str = "heun"
    num_steps: int = 10
    grid: str = "uniform"
    options: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 64

    def check(self, facts: DataFacts, conditional: bool) -> None:
        """Refuse what the run cannot do.

        Raises:
            ConfigError: labels or guidance without a condition, a negative label without guidance.
        """
        if not conditional and self.labels is not None:
            raise ConfigError("this run is unconditional: it cannot take labels. Leave --label out.")
        if not conditional and (self.guidance != 1 or self.negative is not None):
            raise ConfigError("this run is unconditional: there is nothing to guide. Leave --guidance out, or set it to 1.")
        if self.labels is not None and len(self.labels) != len(self.seeds):
            raise ConfigError(f"one label a seed is wanted, got {len(self.labels)} labels and {len(self.seeds)} seeds.")
        if self.negative is not None and self.guidance == 1:
            raise ConfigError("a negative label acts through guidance, which is off at --guidance 1. Use --guidance 2, say.")


@dataclass(frozen=True, kw_only=True)
class Samples:
    """A finished batch, with seeds and labels; or a step on its way when `done` is False.

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
        bound = bind(denoiser, request, labels)
        for i, step in enumerate(_steps(bound, facts, request, seeds, device), start=1):
            yield Samples(
                state=step.x.float().cpu(),
                state_x0=step.estimate.x0.float().cpu(),
                seeds=seeds,
                labels=labels,
                step=i,
                done=i == request.num_steps,
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
        device=device,
    )


def bind(denoiser: Denoiser, request: Request, labels: tuple[int, ...] | None) -> Denoiser:
    """`denoiser` with a batch's labels and the guidance of the request."""
    cond = None if labels is None else torch.tensor(labels)
    if request.guidance == 1 or (cond is None and request.negative is None):
        return denoiser if cond is None else denoiser.given(cond)
    negative = None if request.negative is None else torch.tensor([request.negative])
    guided = classifier_free(
        denoiser, guidance=request.guidance, negative=negative, interval=request.interval, rescale=request.rescale
    )
    return guided.given(cond)


def default_request(run: Run, *, seeds: tuple[int, ...], labels: tuple[int, ...] | None) -> Request:
    """How a run is sampled when nothing else is said."""
    sample = run.config.sample
    request = Request(
        seeds=seeds,
        labels=labels,
        sampler=sample.sampler,
        num_steps=sample.num_steps,
        grid=sample.grid,
        options=dict(sample.options),
    )
    return request if labels is None else replace(request, guidance=sample.guidance)
