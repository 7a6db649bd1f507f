"""Predictor-corrector sampling: an ancestral step, then Langevin steps that stay at the new noise level."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Literal

import torch
from annotated_types import Interval
from torch import Tensor

from ebbflow.core.kernels import posterior
from ebbflow.core.noise import Noise
from ebbflow.core.predictions import Estimate
from ebbflow.core.shape import combined, per_sample
from ebbflow.methods.denoise import Denoiser
from ebbflow.methods.samplers.base import Level, Step, sampler

Norms = Literal["typical", "sample"]


@sampler(order=1, evaluations=lambda n, corrector_steps=1: n + (n - 1) * corrector_steps, stochastic=True)
def pc(
    denoise: Denoiser,
    x: Tensor,
    levels: list[Level],
    *,
    noise: Noise,
    corrector_steps: Annotated[int, Interval(ge=0, le=10_000)] = 1,
    snr: Annotated[float, Interval(gt=0, lt=1)] = 0.16,
    norms: Norms = "typical",
) -> Iterator[Step]:
    """The ancestral kernel to s, then `corrector_steps` of x + h score + sqrt(2 h) z at s, h = 2 (snr |z| / |score|)^2
    (Song et al., 2020, algorithms 1, 4 and 5, 2011.13456).

    `corrector_steps` is from 0 to 10,000, `snr` in (0, 1).

    norms: "sample" measures |z| and |score| in each sample, never over the batch; right for images, but in few
    dimensions h explodes where the score vanishes and follows its own z. "typical" puts sqrt(d) and sqrt(d) / sigma in
    their places, what they are near thin data: h = 2 (snr sigma)^2 is then a number, stable for every snr below 1,
    because no density that carries noise sigma is curved more than 1 / sigma^2.
    """
    for t, s in pairwise(levels):
        estimate = denoise(x, t.t)
        if s.sigma == 0:
            x = estimate.x0
        else:
            kernel = posterior(t, s)
            x = combined((kernel.from_x_t, x), (kernel.from_x0, estimate.x0), (math.sqrt(kernel.small), noise.like(x)))
            for _ in range(corrector_steps):
                x = _langevin(x, denoise(x, s.t), s, noise.like(x), snr, norms)
        yield Step(s.t, x, estimate)


def _langevin(x: Tensor, estimate: Estimate, s: Level, z: Tensor, snr: float, norms: Norms) -> Tensor:
    """One step at level s; sqrt(h) = sqrt(2) snr sigma |z| / |eps| because score = -eps / sigma."""
    root = math.sqrt(2) * snr * s.sigma
    if norms == "typical":
        return combined((1, x), (-(root**2) / s.sigma, estimate.eps), (math.sqrt(2) * root, z))
    own = per_sample(root * _norm(z) / _norm(estimate.eps).clamp(min=1e-12), x)
    return x - own**2 / s.sigma * estimate.eps + math.sqrt(2) * own * z


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x.flatten(1), dim=1)
