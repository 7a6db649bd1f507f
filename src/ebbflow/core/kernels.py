"""The exact Gaussian kernels between two times of a path, free of singularities: what ancestral sampling and
variational bounds are made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from ebbflow.core.noise import Noise
from ebbflow.core.paths import Coefficients, Path


@dataclass(frozen=True, kw_only=True)
class Transition:
    """q(x_t | x_s) = N(scale x_s, variance I) for s < t; DDPM's sqrt(1 - beta) and beta where s is the step before."""

    scale: float
    variance: float


def transition(s: Coefficients, t: Coefficients) -> Transition:
    """The forward kernel from `s` to `t`: scale alpha_t / alpha_s, variance sigma_t^2 - scale^2 sigma_s^2 (Kingma et
    al., 2021, eq. 24, 2107.00630)."""
    scale = float(t.alpha / s.alpha)
    return Transition(scale=scale, variance=max(float(t.sigma**2) - scale**2 * float(s.sigma**2), 0.0))


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


def posterior(t: Coefficients, s: Coefficients) -> Posterior:
    """The kernel from `t` to `s` by Gaussian conditioning (Ho et al., 2020, eq. 6-7, 2006.11239; Kingma et al., 2021,
    eq. 25, 2107.00630)."""
    step = transition(s, t)
    shrink, large = float((s.sigma / t.sigma) ** 2), step.variance
    return Posterior(
        from_x_t=step.scale * shrink,
        from_x0=float(s.alpha) * large / float(t.sigma**2),
        small=large * shrink,
        large=large,
    )
