"""The exact Gaussian kernels between two times of a path, free of singularities: what ancestral sampling and
variational bounds are made of."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from ebbflow.core.coefficients import Coefficients
from ebbflow.core.noise import Noise
from ebbflow.core.paths import Path

Number = TypeVar("Number", float, Tensor)
HALF_LEVEL = 1 / 255  # half the distance of two of the 256 levels of x = u8 / 127.5 - 1


@dataclass(frozen=True, kw_only=True)
class Transition:
    """q(x_t | x_s) = N(scale x_s, variance I) for s < t; DDPM's sqrt(1 - beta) and beta where s is the step before."""

    scale: Tensor
    variance: Tensor


def transition(s: Coefficients, t: Coefficients) -> Transition:
    """The forward kernel from `s` to `t`: scale alpha_t / alpha_s, variance sigma_t^2 - scale^2 sigma_s^2 (Kingma et
    al., 2021, eq. 24, 2107.00630); float64 tensors of the shape of the coefficients."""
    scale = t.alpha / s.alpha
    return Transition(scale=scale, variance=(t.sigma**2 - scale**2 * s.sigma**2).clamp(min=0))


def renoise(path: Path, x_s: Tensor, s: float, t: float, eps: Tensor) -> Tensor:
    """One step of the forward chain, x_t = scale x_s + sqrt(variance) eps, for 0 <= s < t <= 1.

    Any chain of such steps has the marginals of `path.mix` (Ho et al., 2020, eq. 2 and 4, 2006.11239).

    Args:
        path: the path.
        x_s: the state at s, shape (B, *dims).
        s, t: the two times.
        eps: fresh standard normal noise of the shape of `x_s`.

    Raises:
        ValueError: not 0 <= s < t <= 1.
    """
    if not 0 <= s < t <= 1:
        raise ValueError(f"noise is added from s to a later t, 0 <= s < t <= 1; got s = {s} and t = {t}.")
    step = transition(path.at(s), path.at(t))
    return step.scale * x_s + step.variance**0.5 * eps


def forward_chain(path: Path, x0: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
    """Noise data step by step: the states at times[1], times[2], ... of the Markov chain from x0 at times[0].

    Args:
        path: the path.
        x0: the state at times[0], shape (B, *dims); the data where times[0] = 0.
        times: rising, within [0, 1].
        noise: a fresh draw a step, one seed a sample.

    Raises:
        ValueError: `times` do not rise.
    """
    x = x0
    for s, t in pairwise(times.tolist()):
        x = renoise(path, x, s, t, noise.like(x))
        yield x


@dataclass(frozen=True, kw_only=True)
class Posterior(Generic[Number]):
    """q(x_s | x_t, x0) = N(from_x_t x_t + from_x0 x0, small I) for s < t: of one pair (t, s) as numbers, or of many as
    float64 tensors of the shape of t.

    Args:
        small: s2(t|s) sigma_s^2 / sigma_t^2, the posterior variance (DDPM's beta-tilde).
        large: s2(t|s) = sigma_t^2 - (alpha_t/alpha_s)^2 sigma_s^2, the variance of the forward step (DDPM's beta).
    """

    from_x_t: Number
    from_x0: Number
    small: Number
    large: Number


def posteriors(t: Coefficients, s: Coefficients) -> Posterior[Tensor]:
    """The kernels from each `t` to its `s` by Gaussian conditioning (Ho et al., 2020, eq. 6-7, 2006.11239; Kingma et
    al., 2021, eq. 25, 2107.00630)."""
    step, shrink = transition(s, t), (s.sigma / t.sigma) ** 2
    return Posterior(
        from_x_t=step.scale * shrink,
        from_x0=s.alpha * step.variance / t.sigma**2,
        small=step.variance * shrink,
        large=step.variance,
    )


class Scales(Protocol):
    """alpha and sigma of a single time: `Coefficients` of shape (), or plain numbers."""

    @property
    def alpha(self) -> float | Tensor: ...

    @property
    def sigma(self) -> float | Tensor: ...


def posterior(t: Scales, s: Scales) -> Posterior[float]:
    """The kernel of one pair as plain numbers; see `posteriors`."""
    alpha_t, sigma_t, alpha_s, sigma_s = float(t.alpha), float(t.sigma), float(s.alpha), float(s.sigma)
    scale, shrink = alpha_t / alpha_s, (sigma_s / sigma_t) ** 2
    large = max(sigma_t**2 - scale**2 * sigma_s**2, 0.0)
    return Posterior(from_x_t=scale * shrink, from_x0=alpha_s * large / sigma_t**2, small=large * shrink, large=large)


@dataclass(frozen=True, kw_only=True)
class Factors:
    """The factors of DDPM's mean form, x_s = s1 (x_t - s2 eps) + s3 z: computed from the path, never predicted."""

    s1: float
    s2: float
    s3: float


def ddpm_factors(t: Coefficients, s: Coefficients, variance: Literal["small", "large"] = "small") -> Factors:
    """The ancestral step from `t` to `s` in eps: s1 = alpha_s / alpha_t, s2 = s2(t|s) / sigma_t, s3 = sqrt(variance).

    On neighbours of DDPM's table s1 = 1 / sqrt(1 - beta_t) and s2 = beta_t / sqrt(1 - alpha_bar_t) (Ho et al., 2020,
    algorithm 2, 2006.11239). It is `posterior` with x0 = (x_t - sigma_t eps) / alpha_t; s3 = 0 where s is clean data.

    Args:
        t, s: coefficients of one time each, s < t, with alpha_t > 0.
        variance: "small" is the posterior variance (beta-tilde), "large" the forward step's (beta).

    Raises:
        ValueError: alpha_t = 0, where eps does not say x0; or an unknown variance.
    """
    if float(t.alpha) == 0:
        raise ValueError("the mean form needs alpha_t > 0, got alpha_t = 0. Use `posterior` with x0.")
    if variance not in ("small", "large"):
        raise ValueError(f"`variance` must be small or large, got {variance!r}.")
    k = posterior(t, s)
    chosen = 0.0 if float(s.sigma) == 0 else k.small if variance == "small" else k.large
    return Factors(s1=float(s.alpha / t.alpha), s2=k.large / float(t.sigma), s3=math.sqrt(chosen))


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
