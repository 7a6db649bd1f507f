"""The exact Gaussian kernels between two times of a path, free of singularities: what ancestral sampling and
variational bounds are made of."""

from __future__ import annotations

from dataclasses import dataclass

from ebbflow.core.paths import Coefficients


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
    ratio = float(t.alpha / s.alpha)
    shrink = float((s.sigma / t.sigma) ** 2)
    large = max(float(t.sigma**2) - ratio**2 * float(s.sigma**2), 0.0)
    return Posterior(
        from_x_t=ratio * shrink, from_x0=float(s.alpha) * large / float(t.sigma**2), small=large * shrink, large=large
    )
