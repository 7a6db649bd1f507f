"""Restart: a deterministic walk that goes back up by fresh noise and down again, where errors are best forgotten."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor

from ebbflow.core.kernels import renoise
from ebbflow.core.noise import Noise
from ebbflow.core.paths import Path
from ebbflow.methods.denoise import Denoiser
from ebbflow.methods.samplers.base import Level, Step, level_at, sampler
from ebbflow.methods.samplers.churn import heun_in_ratio, sigma_over_alpha

Ratio = Annotated[float, Interval(ge=1e-9, le=1e9)]  # of sigma to alpha


def _length(num_steps: int, share: float) -> int:
    """Steps of one way down again."""
    return max(1, math.ceil(share * num_steps - 1e-9))


@sampler(
    order=2,
    evaluations=lambda n, restarts=2, share=0.2: 2 * n - 1 + (2 * restarts * _length(n, share) if n > 1 else 0),
    stochastic=True,
)
def restart(
    denoise: Denoiser,
    x: Tensor,
    levels: list[Level],
    *,
    noise: Noise,
    restarts: Annotated[int, Interval(ge=0, le=1000)] = 2,
    s_min: Ratio = 0.06,
    s_max: Ratio = 0.3,
    share: Annotated[float, Interval(gt=0, le=1)] = 0.2,
) -> Iterator[Step]:
    """Heun's steps in sigma / alpha; at the grid's time nearest to sigma / alpha = s_min, `restarts` times: fresh noise
    up by the factor s_max / s_min, then down again in ceil(share N) Heun steps even in log-SNR.

    Order 2 in law. Fresh noise contracts the errors made so far, which a deterministic walk keeps; between the levels
    the ODE makes few of its own (Xu et al., 2023, algorithm 1, 2306.14878, whose CIFAR-10 levels are the defaults). The
    way up is the forward process, so the marginals are kept. One step alone has no time to restart at. `restarts` is 0
    to 1000, 0 < s_min < s_max, `share` in (0, 1].
    """
    if s_min >= s_max:
        raise ValueError(f"`s_min` and `s_max` must satisfy 0 < s_min < s_max, got {s_min} and {s_max}.")
    inner = range(1, len(levels) - 1)
    where = min(inner, key=lambda i: abs(math.log(sigma_over_alpha(levels[i]) / s_min)), default=0)
    for i, (t, s) in enumerate(pairwise(levels), start=1):
        estimate = denoise(x, t.t)
        x = heun_in_ratio(denoise, x, estimate, t, s)
        if i == where:
            way = _way_down(denoise.path, s, s_max / s_min, _length(len(levels) - 1, share))
            for _ in range(restarts):
                x = renoise(denoise.path, x, s.t, way[0].t, noise.like(x))
                for a, b in pairwise(way):
                    x = heun_in_ratio(denoise, x, denoise(x, a.t), a, b)
        yield Step(s.t, x, estimate)


def _way_down(path: Path, end: Level, factor: float, num_steps: int) -> list[Level]:
    """Levels from `factor` times the sigma / alpha of `end`, at most pure noise, down to it."""
    low, top = math.log(sigma_over_alpha(end)), sigma_over_alpha(level_at(path, 1.0))
    high = min(low + math.log(factor), math.log(top))
    logs = torch.linspace(high, low, num_steps + 1, dtype=torch.float64)
    return [*(level_at(path, t) for t in path.time_of(-2 * logs[:-1]).tolist()), end]
