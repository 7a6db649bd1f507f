"""The stochastic sampler of Karras et al.: Heun's method in sigma / alpha, with noise added before each step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated

import torch
from annotated_types import Ge, Interval
from torch import Tensor

from ebbflow.core.noise import Noise
from ebbflow.core.paths import Path
from ebbflow.core.predictions import Estimate
from ebbflow.core.shape import combined, weighted
from ebbflow.methods.denoise import Denoiser
from ebbflow.methods.samplers.base import Level, Step, level_at, remix, sampler
from ebbflow.values import Endless


@sampler(order=2, evaluations=lambda n: 2 * n - 1, stochastic=True)
def edm(
    denoise: Denoiser,
    x: Tensor,
    levels: list[Level],
    *,
    noise: Noise,
    s_churn: Annotated[float, Interval(ge=0, le=1e6)] = 10.0,
    s_noise: Annotated[float, Interval(gt=0, le=100)] = 1.0,
    s_min: Annotated[float, Ge(0), Endless] = 0.0,
    s_max: Annotated[float, Ge(0), Endless] = math.inf,
) -> Iterator[Step]:
    """Raise sigma / alpha by a factor 1 + min(s_churn / N, sqrt(2) - 1) with fresh noise, then take Heun's step down to
    s; order 2 in law (Karras et al., 2022, algorithm 2, 2206.00364).

    Churn acts where s_min <= sigma / alpha <= s_max and never leaves the path; s_noise, the standard deviation of the
    fresh noise, is exact at 1 and 1.003 to 1.007 in the paper, whose s_churn of 30 to 80 belongs to 256 steps and more.
    s_churn is 0 or more, and 0 is Heun on dx/dsigma of the scaled state; s_noise is above 0.
    """
    if s_min > s_max:
        raise ValueError(f"`s_min` and `s_max` must satisfy 0 <= s_min <= s_max, got {s_min} and {s_max}.")
    growth = 1 + min(s_churn / (len(levels) - 1), math.sqrt(2) - 1)
    for (t, s), up in zip(pairwise(levels), _raised(denoise.path, levels[:-1], growth, s_min, s_max), strict=True):
        if up.t > t.t:
            fresh = math.sqrt(max(sigma_over_alpha(up) ** 2 - sigma_over_alpha(t) ** 2, 0.0))
            x = weighted(up.alpha / t.alpha, x, up.alpha * s_noise * fresh, noise.like(x))
        estimate = denoise(x, up.t)
        x = heun_in_ratio(denoise, x, estimate, up, s)
        yield Step(s.t, x, estimate)


def sigma_over_alpha(level: Level) -> float:
    """sigma / alpha; infinite at pure noise."""
    return level.sigma / level.alpha if level.alpha > 0 else math.inf


def _raised(path: Path, levels: list[Level], growth: float, s_min: float, s_max: float) -> list[Level]:
    """The level each step is taken from: sigma / alpha raised by `growth` where churn acts, never beyond t = 1."""
    top = sigma_over_alpha(level_at(path, 1.0))
    acts = [growth > 1 and s_min <= sigma_over_alpha(t) <= s_max and sigma_over_alpha(t) < top for t in levels]
    wanted = [min(growth * sigma_over_alpha(t), top) for t, churns in zip(levels, acts, strict=True) if churns]
    times = path.time_of(-2 * torch.tensor(wanted, dtype=torch.float64).log()) if wanted else torch.empty(0)
    raised = iter(times.tolist())
    return [level_at(path, next(raised)) if churns else t for t, churns in zip(levels, acts, strict=True)]


def heun_in_ratio(denoise: Denoiser, x: Tensor, estimate: Estimate, t: Level, s: Level) -> Tensor:
    """Heun's step of dx/d(sigma/alpha) of the scaled state from t, where `estimate` was seen, to s; to clean data it is
    x0 itself, without a second evaluation."""
    return estimate.x0 if s.sigma == 0 else _corrected(x, estimate, denoise(remix(estimate, s), s.t), t, s)


def _corrected(x: Tensor, here: Estimate, there: Estimate, t: Level, s: Level) -> Tensor:
    """Trapezoidal rule on d(x/alpha) = eps d(sigma/alpha), and on d(x/sigma) = x0 d(alpha/sigma) at high noise, where
    sigma / alpha takes giant steps, or is infinite."""
    if s.sigma >= s.alpha or t.alpha == 0:
        half = (s.alpha - s.sigma * t.alpha / t.sigma) / 2
        return combined((s.sigma / t.sigma, x), (half, here.x0), (half, there.x0))
    half = s.alpha * (sigma_over_alpha(s) - sigma_over_alpha(t)) / 2
    return combined((s.alpha / t.alpha, x), (half, here.eps), (half, there.eps))
