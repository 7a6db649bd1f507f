"""The sampler of flow maps: few jumps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor

from ebbflow.core.noise import Noise
from ebbflow.core.paths import Path
from ebbflow.core.shape import weighted
from ebbflow.methods.denoise import FlowMap
from ebbflow.methods.samplers.base import Level, Step, level_at, remix, sampler
from ebbflow.values import Share


@sampler(order=1, evaluations=lambda n: n, jumps=True)
def flow_map(
    denoise: FlowMap, x: Tensor, levels: list[Level], *, renoise: Share = 0.0, noise: Noise | None = None
) -> Iterator[Step]:
    """x_s = X(x_t, t, s), one jump a step: exact for an exact map whatever the grid, of a `FlowMap` only.

    `renoise` in [0, 1] jumps below s, to sigma / alpha = sqrt(1 - renoise^2) sigma_s / alpha_s, and comes back with
    fresh noise: 1 jumps to the data each time, as consistency models do (Song et al., 2023, algorithm 1, 2303.01469),
    values between are the gamma-sampling of Kim et al. (2023, 2310.02279). Marginals stay what they are.
    """
    if renoise and noise is None:
        raise ValueError(f"sampler 'flow_map' with renoise = {renoise} draws noise: pass noise=ebbflow.Noise(seeds).")
    for t, s in pairwise(levels):
        if not renoise or noise is None or s.sigma == 0:
            estimate = denoise.jump(x, t.t, s.t)
            x = remix(estimate, s)
        else:
            low = _below(denoise.path, s, renoise)
            estimate = denoise.jump(x, t.t, low.t)
            x = weighted(s.alpha / low.alpha, remix(estimate, low), renoise * s.sigma, noise.like(x))
        yield Step(s.t, x, estimate)


def _below(path: Path, s: Level, renoise: float) -> Level:
    """The level whose sigma / alpha is sqrt(1 - renoise^2) times that of `s`."""
    if renoise == 1:
        return level_at(path, 0.0)
    return level_at(path, float(path.time_of(2 * s.half_log_snr - math.log1p(-(renoise**2)))))
