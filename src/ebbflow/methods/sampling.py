"""Generation: from seeds to samples, with any sampler on any grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ebbflow.core.device import sent
from ebbflow.core.entries import Choice
from ebbflow.core.noise import Noise
from ebbflow.core.paths import Flow, Path
from ebbflow.core.predictions import Estimate
from ebbflow.core.times import TimeGrid, time_grid
from ebbflow.methods.denoise import Denoiser, FlowMap
from ebbflow.methods.samplers import Sampler, Step, sampler_of
from ebbflow.methods.samplers.base import Times, as_grid


def walk(
    denoiser: Denoiser,
    dims: tuple[int, ...],
    seeds: Sequence[int],
    *,
    sampler: str | Sampler = "ddim",
    num_steps: int = 50,
    grid: Choice | TimeGrid = "uniform",
    options: Mapping[str, object] | None = None,
    times: Times | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[Step]:
    """The steps of one batch from pure noise, sample i from `seeds[i]` alone.

    Args:
        denoiser: with its condition bound, one row a sample.
        dims: shape of one sample.
        seeds: one integer a sample.
        sampler: a name of `SAMPLERS`, or a sampler.
        grid: a name of `TIME_GRIDS`, with options or without, or a function (path, num_steps).
        num_steps: at least 1.
        options: keyword options of the sampler.
        times: the grid itself, num_steps + 1 falling times, in the place of `grid`.
        device: where the state lives.

    Raises:
        ConfigError: unknown sampler, grid or option.
        ValueError: `num_steps` below 1, or an option out of range.
    """
    noise = Noise(seeds)
    falling = grid_times(denoiser, grid, num_steps) if times is None else as_grid(times)
    if len(falling) != num_steps + 1:
        raise ValueError(f"{num_steps} steps need {num_steps + 1} `times`, got {len(falling)}.")
    x = pure_noise(denoiser, sent(noise.draw(dims), device), falling)
    return walk_from(denoiser, x, falling, noise, sampler=sampler, options=options)


@dataclass(frozen=True, kw_only=True)
class _Answer(FlowMap):
    """A denoiser of a single number that knows whatever a sampler may ask of it."""

    path: Path = Flow()

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        return Estimate(x0=x_t / 2, eps=x_t / 2, x0_variance=x_t**2, log_variance_fraction=torch.full_like(x_t, 0.5))

    def jump(self, x_t: Tensor, t: float | Tensor, s: float | Tensor) -> Estimate:
        return self(x_t, t)


def check_sampler(sampler: str | Sampler, options: Mapping[str, object]) -> None:
    """Refuse a sampler or options of it that no walk would take, before anything depends on them: three steps of a
    single number are walked with them.

    Raises:
        ConfigError: unknown sampler or option, or a value of the wrong type.
        ValueError: a value out of range.
    """
    if sampler_of(sampler).checked(options):
        times = torch.tensor([0.9, 0.6, 0.3, 0.0], dtype=torch.float64)
        for _ in walk_from(_Answer(), torch.ones(1, 1), times, Noise([0]), sampler=sampler, options=options):
            pass


def pure_noise(denoiser: Denoiser, eps: Tensor, times: Tensor) -> Tensor:
    """Where generation starts, of the shape of `eps` (B, *dims): sigma eps at times[0]."""
    return eps * float(denoiser.path.at(times[0]).sigma)


def walk_from(
    denoiser: Denoiser,
    x: Tensor,
    times: Times,
    noise: Noise,
    *,
    sampler: str | Sampler = "ddim",
    options: Mapping[str, object] | None = None,
) -> Iterator[Step]:
    """The steps from the state `x` at times[0]; a sampler that draws goes on drawing from `noise`.

    Raises:
        ConfigError: unknown sampler or option.
        ValueError: a grid that does not fall, or an option out of range.
    """
    chosen = sampler_of(sampler)
    extra = {"noise": noise} if chosen.takes_noise else {}
    return chosen(denoiser, x, times, **extra, **chosen.checked(options or {}))


def grid_times(denoiser: Denoiser, grid: Choice | TimeGrid, num_steps: int) -> Tensor:
    """The time grid `grid` on the denoiser's path, float64 (num_steps + 1,), falling from 1 to 0.

    Raises:
        ConfigError: unknown grid or option.
        ValueError: `num_steps` below 1, or more than the grid has.
    """
    if num_steps < 1:
        raise ValueError(f"the number of steps must be at least 1, got {num_steps}.")
    return time_grid(grid)(denoiser.path, num_steps)
