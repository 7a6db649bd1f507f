"""Weightings: which noise levels the loss cares about.

Every loss in use is E[ W ||out - target||^2 / d^2 ] with d = a sigma - b alpha of its prediction, because out - target
errs by d times what x0 errs by over sigma, and by d times what eps errs by over alpha. So one function W(alpha, sigma),
the weight on the common scale W = sigma^2 w_x0 = alpha^2 w_eps, says the same objective in every prediction, and no
pairwise table is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor

from ebbflow.core.coefficients import Coefficients
from ebbflow.core.entries import Choice, entry
from ebbflow.core.paths import Path
from ebbflow.core.predictions import Prediction, prediction_of
from ebbflow.core.times import TimeSampler, time_sampler
from ebbflow.values import Checked, Positive

Weight = Callable[[Coefficients, Tensor], Tensor]


def uniform(c: Coefficients, d: Tensor) -> Tensor:
    """1 on the net's own output: L_simple for eps (Ho et al., 2020, eq. 14), the rectified-flow loss for velocity."""
    return d**2


def snr(c: Coefficients, d: Tensor) -> Tensor:
    """SNR on the x0 loss, which is 1 on the eps loss: L_simple in whatever prediction."""
    return c.alpha**2


def truncated_snr(c: Coefficients, d: Tensor) -> Tensor:
    """max(SNR, 1) on the x0 loss (Salimans & Ho, 2022, section 4, 2202.00512)."""
    return torch.maximum(c.alpha**2, c.sigma**2)


@dataclass(frozen=True, kw_only=True)
class MinSNR(Checked):
    """min(SNR, gamma) on the x0 loss; min(SNR, gamma) / SNR on the eps loss (Hang et al., 2023, 2303.09556).

    Args:
        gamma: above 0; 5 in the paper.
    """

    gamma: Positive = 5.0

    def __call__(self, c: Coefficients, d: Tensor) -> Tensor:
        return torch.minimum(c.alpha**2, self.gamma * c.sigma**2)


@dataclass(frozen=True, kw_only=True)
class Sigmoid(Checked):
    """sigmoid(bias - L) on the eps loss (Kingma & Gao, 2023, 2303.00848; Hoogeboom et al., 2024, 2410.19324).

    Args:
        bias: finite; the log-SNR below which levels count, in the middle of its fall.
    """

    bias: float = 0.0

    def __call__(self, c: Coefficients, d: Tensor) -> Tensor:
        return c.alpha**2 * torch.sigmoid(self.bias - c.log_snr)


def cosine_smooth(c: Coefficients, d: Tensor) -> Tensor:
    """sech(L / 2) on the eps loss: the smooth bump that a cosine schedule gives (Kingma & Gao, 2023, table 1,
    2303.00848)."""
    return c.alpha**2 * 2 * c.alpha * c.sigma / (c.alpha**2 + c.sigma**2)


@dataclass(frozen=True, kw_only=True)
class P2(Checked):
    """(k + SNR)^-gamma on the eps loss (Choi et al., 2022, eq. 8, 2204.00227).

    Args:
        k: above 0.
        gamma: at least 0; 0 is weight "snr".
    """

    k: Positive = 1.0
    gamma: Annotated[float, Interval(ge=0, le=100)] = 1.0

    def __call__(self, c: Coefficients, d: Tensor) -> Tensor:
        return c.alpha**2 * (self.k + torch.exp(c.log_snr)) ** -self.gamma


def debiased(c: Coefficients, d: Tensor) -> Tensor:
    """1 / sqrt(SNR) on the eps loss (Yu et al., 2023, 2310.08442)."""
    return c.alpha * c.sigma


WEIGHTS: dict[str, Weight] = {
    "uniform": uniform,
    "snr": snr,
    "truncated_snr": truncated_snr,
    "min_snr": MinSNR(),
    "sigmoid": Sigmoid(),
    "cosine_smooth": cosine_smooth,
    "p2": P2(),
    "debiased": debiased,
}


def weight_of(given: Choice | Weight) -> Weight:
    """The weighting called `given`, or with options, or itself; see `entry`."""
    return entry(WEIGHTS, given, "weighting")


def loss_weight(weight: Weight, c: Coefficients, d: Tensor) -> Tensor:
    """The factor W / d^2 on ||out - target||^2, float64 of the shape of t."""
    return weight(c, d) / d**2


def effective_weight(
    path: Path,
    prediction: Choice | Prediction,
    times: Choice | TimeSampler,
    weight: Choice | Weight,
    log_snr: Tensor,
) -> Tensor:
    """w(L) = 2 pi(t) k(t) / |dL/dt| with k the weight of the loss on eps: any objective is 1/2 int w(L) E ||eps -
    eps(x)||^2 dL (Kingma & Gao, 2023, eq. 5 to 8, 2303.00848).

    Objectives with the same w up to a constant have the same optimum and the same gradient in expectation, whatever
    path, prediction and time sampling they are written in; they differ in the variance of the gradient.

    Args:
        path: the path.
        prediction, times, weight: entries of `PREDICTIONS`, `TIME_SAMPLERS` and `WEIGHTS`, by name or themselves.
        log_snr: float64, any shape, inside the path's range.

    Raises:
        ConfigError: unknown name.
    """
    t = path.time_of(log_snr)
    c = path.at(t)
    a, b = prediction_of(prediction)(c)
    common = weight_of(weight)(c, a * c.sigma - b * c.alpha)
    density = time_sampler(times).density(t, path)
    return density * common * c.sigma / (c.alpha * c.determinant)
