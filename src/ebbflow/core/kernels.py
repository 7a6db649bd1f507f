"""The exact Gaussian kernels between two times of a path, free of singularities: what ancestral sampling and
variational bounds are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ebbflow.core.paths import Coefficients

HALF_LEVEL = 1 / 255  # half the distance of two of the 256 levels of x = u8 / 127.5 - 1


@dataclass(frozen=True, kw_only=True)
class Posterior:
    """q(x_s | x_t, x0) = N(from_x_t x_t + from_x0 x0, small I) for s < t.

    Args:
        small: s2(t|s) sigma_s^2 / sigma_t^2, the posterior variance (DDPM's beta-tilde).
        large: s2(t|s) = sigma_t^2 - (alpha_t/alpha_s)^2 sigma_s^2, the variance of the forward step (DDPM's beta).
    """

    from_x_t: float
    from_x0: float
    small: float
    large: float


@dataclass(frozen=True, kw_only=True)
class Posteriors:
    """`Posterior` for many pairs (t, s) at once; float64 tensors of the shape of t."""

    from_x_t: Tensor
    from_x0: Tensor
    small: Tensor
    large: Tensor


def posteriors(t: Coefficients, s: Coefficients) -> Posteriors:
    """The kernels from each `t` to its `s` by Gaussian conditioning (Ho et al., 2020, eq. 6-7, 2006.11239; Kingma et
    al., 2021, eq. 25, 2107.00630)."""
    ratio, shrink = t.alpha / s.alpha, (s.sigma / t.sigma) ** 2
    large = (t.sigma**2 - ratio**2 * s.sigma**2).clamp(min=0)
    return Posteriors(from_x_t=ratio * shrink, from_x0=s.alpha * large / t.sigma**2, small=large * shrink, large=large)


def posterior(t: Coefficients, s: Coefficients) -> Posterior:
    """The kernel of one pair as plain numbers; see `posteriors`."""
    k = posteriors(t, s)
    return Posterior(from_x_t=float(k.from_x_t), from_x0=float(k.from_x0), small=float(k.small), large=float(k.large))


def step_divergence(shift: Tensor, log_small: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(m, small) || N(m + shift, variance)) per element, in nats."""
    ratio = log_small - log_variance
    return (ratio.exp() - ratio - 1 + shift**2 * torch.exp(-log_variance)) / 2


def log_density(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log N(x; mean, variance) per element, in nats."""
    return -((x - mean) ** 2 * torch.exp(-log_variance) + log_variance + math.log(2 * math.pi)) / 2


def log_level(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log of the mass that N(mean, variance) gives to the level of `x`, per element, in nats; x = u8 / 127.5 - 1.

    The outermost of the 256 levels take the tails, so the masses add up to one (Ho et al., 2020, eq. 13, 2006.11239).
    Finite wherever the density is, however far the mean.
    """
    scale = torch.exp(-log_variance / 2)
    low, high = (x - HALF_LEVEL - mean) * scale, (x + HALF_LEVEL - mean) * scale
    low = torch.where(x < -1 + HALF_LEVEL, torch.minimum(high, torch.zeros_like(high)) - 100, low)
    high = torch.where(x > 1 - HALF_LEVEL, torch.maximum(low, torch.zeros_like(low)) + 100, high)
    low, high = torch.where(low > 0, -high, low), torch.where(low > 0, -low, high)  # the lower tail keeps its digits
    above, below = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
    return above + torch.log(-torch.expm1((below - above).clamp(max=-1e-30)))
