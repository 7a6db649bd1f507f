"""Samplers made of exact Gaussian kernels: DDPM, and DDIM with everything between it and DDPM."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ebbflow.core.kernels import Posterior, posterior
from ebbflow.core.noise import Noise
from ebbflow.core.predictions import Estimate
from ebbflow.core.shape import combined, in_float64
from ebbflow.methods.denoise import Denoiser
from ebbflow.methods.samplers.base import Level, Step, remix, sampler
from ebbflow.values import Share

Variance = Literal["small", "large", "optimal", "learned"]


@sampler(order=1, evaluations=lambda n: n)
def ddim(
    denoise: Denoiser, x: Tensor, levels: list[Level], *, eta: Share = 0.0, noise: Noise | None = None
) -> Iterator[Step]:
    """x_s = alpha_s x0 + sqrt(sigma_s^2 - eta^2 q2) eps + eta sqrt(q2) z, q2 the posterior variance of the strided
    chain.

    eta = 0 re-mixes (x0, eps) at s, which is Euler on the flow path; eta = 1 is DDPM with the small variance. Any grid:
    skipping steps is choosing a coarser one. `eta` lies in [0, 1], and above 0 `noise` is needed (else a ValueError).
    Song et al. (2020), eq. 12 and 16, 2010.02502.
    """
    if eta > 0 and noise is None:
        raise ValueError(
            f"sampler 'ddim' with eta = {eta} draws noise: pass noise=ebbflow.Noise(seeds), one seed a sample."
        )
    for t, s in pairwise(levels):
        estimate = denoise(x, t.t)
        if eta == 0 or noise is None or s.sigma == 0:
            x = remix(estimate, s)
        else:
            fresh = eta**2 * posterior(t, s).small
            kept = math.sqrt(max(s.sigma**2 - fresh, 0.0))
            x = combined((s.alpha, estimate.x0), (kept, estimate.eps), (math.sqrt(fresh), noise.like(x)))
        yield Step(s.t, x, estimate)


@sampler(order=1, evaluations=lambda n: n, stochastic=True)
def ddpm(
    denoise: Denoiser, x: Tensor, levels: list[Level], *, noise: Noise, variance: Variance = "small"
) -> Iterator[Step]:
    """x_s = posterior mean of x0's estimate + sqrt(var) z (Ho et al., 2020, algorithm 2, 2006.11239).

    variance: "small" is the posterior variance q2, "large" the forward step's s2(t|s), "optimal" adds what x0 does not
    know of itself (Bao et al., 2022, eq. 9, 2201.06503; needs a denoiser that knows Var[x0 | x_t]), "learned" takes the
    net's second half of channels (Nichol & Dhariwal, 2021, eq. 15, 2102.09672).
    """
    for t, s in pairwise(levels):
        estimate = denoise(x, t.t)
        if s.sigma == 0:
            x = estimate.x0
        else:
            kernel = posterior(t, s)
            fresh = _weighed(noise.like(x), step_variance(kernel, estimate, variance))
            x = combined((kernel.from_x_t, x), (kernel.from_x0, estimate.x0), fresh)
        yield Step(s.t, x, estimate)


def _weighed(z: Tensor, variance: float | Tensor) -> tuple[float, Tensor]:
    """sqrt(variance) z as a weight and a tensor."""
    return (1, variance.sqrt().to(z) * z) if isinstance(variance, Tensor) else (math.sqrt(variance), z)


def step_variance(kernel: Posterior[float], estimate: Estimate, variance: Variance) -> float | Tensor:
    """The variance of an ancestral step, a number or of the shape of the estimate.

    Raises:
        ValueError: unknown choice, or one that the denoiser cannot serve.
    """
    small, large = kernel.small, kernel.large
    if variance in ("small", "large"):
        return small if variance == "small" else large
    if variance == "optimal":
        if estimate.x0_variance is None:
            raise ValueError("variance 'optimal' needs a denoiser that knows Var[x0 | x_t]. Use 'small' or 'large'.")
        return small + kernel.from_x0**2 * estimate.x0_variance
    if variance == "learned":
        if estimate.log_variance_fraction is None:
            raise ValueError(
                "variance 'learned' needs a net trained with objective.variance=learned. Use 'small' or 'large'."
            )
        low, high = (math.log(max(value, sys.float_info.min)) for value in (small, large))
        return torch.exp(low + (high - low) * in_float64(estimate.log_variance_fraction))
    raise ValueError(f"`variance` must be small, large, optimal or learned, got {variance!r}.")
