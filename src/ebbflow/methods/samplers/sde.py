"""Samplers of the family of reverse SDEs that keep the path's marginals."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Literal

from annotated_types import Interval
from torch import Tensor

from ebbflow.core.kernels import posterior
from ebbflow.core.noise import Noise
from ebbflow.core.shape import combined
from ebbflow.methods.denoise import Denoiser
from ebbflow.methods.samplers.base import Level, Step, remix, sampler

Diffusion = Literal["sigma", "forward"]


def diffusion_squared(t: Level, diffusion: Diffusion) -> float:
    """g(t)^2: "sigma" is 2 sigma sigma', finite wherever the velocity is; "forward" is the forward SDE's own 2 sigma D
    / alpha.

    Raises:
        ValueError: unknown choice.
    """
    if diffusion == "sigma":
        return 2 * t.sigma * t.sigma_dot
    if diffusion == "forward":
        if t.alpha == 0:
            return math.inf
        return 2 * t.sigma * (t.alpha * t.sigma_dot - t.alpha_dot * t.sigma) / t.alpha
    raise ValueError(f"`diffusion` must be 'sigma' or 'forward', got {diffusion!r}.")


@sampler(order=1, evaluations=lambda n: n, stochastic=True)
def sde(
    denoise: Denoiser,
    x: Tensor,
    levels: list[Level],
    *,
    noise: Noise,
    diffusion: Diffusion = "sigma",
    scale: Annotated[float, Interval(ge=0, le=1e6)] = 1.0,
) -> Iterator[Step]:
    """Euler-Maruyama on x_s = x + (v - g^2 score / 2)(s - t) + g sqrt(t - s) z, whose marginals are the path's for
    every g >= 0.

    g^2 = scale times `diffusion`: scale 0 is Euler on the ODE, "forward" with scale 1 is Anderson's reverse SDE (Song
    et al., 2020, eq. 6, 2011.13456; Ma et al., 2024, eq. 4, 2401.08740). `scale` is 0 or more. Where g or v is infinite
    the exact ancestral kernel takes the step.
    """
    for t, s in pairwise(levels):
        estimate, h = denoise(x, t.t), t.t - s.t
        squared = scale * diffusion_squared(t, diffusion) if scale > 0 else 0.0
        if s.sigma == 0:
            x = estimate.x0
        elif scale == 0 and not t.is_regular:
            x = remix(estimate, s)
        elif t.is_regular and math.isfinite(squared):
            drift = estimate.mixed(t.alpha_dot, t.sigma_dot + squared / (2 * t.sigma))
            x = combined((1, x), (-h, drift), (math.sqrt(squared * h), noise.like(x)))
        else:
            kernel = posterior(t, s)
            x = combined((kernel.from_x_t, x), (kernel.from_x0, estimate.x0), (math.sqrt(kernel.small), noise.like(x)))
        yield Step(s.t, x, estimate)
