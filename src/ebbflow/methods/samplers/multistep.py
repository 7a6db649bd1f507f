"""Multistep samplers that extrapolate eps: DDIM's step with a mean of eps over the step in the place of its value.

    x_s = (alpha_s / alpha_t) x_t + alpha_s (sigma_s / alpha_s - sigma_t / alpha_t) e,  e a mean of eps from t to s

The mean is that of the polynomial through the last few values of eps. At either end of a path sigma / alpha is 0 or
infinite; there DDIM's own step, whose limit is finite, is taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from torch import Tensor

from ebbflow.core.shape import combined
from ebbflow.methods.denoise import Denoiser
from ebbflow.methods.samplers.base import Level, Step, remix, sampler

POINTS, WEIGHTS = np.polynomial.legendre.leggauss(24)  # of Gauss and Legendre, on [-1, 1]


@sampler(order=2, evaluations=lambda n: n)
def deis(denoise: Denoiser, x: Tensor, levels: list[Level]) -> Iterator[Step]:
    """tAB-DEIS of three values: e is the mean over d(sigma/alpha) of the parabola in log(sigma/alpha) through the last
    eps.

    Order 2 declared: the first step is DDIM's and the second has one value before it; the rest is of order 3. One
    evaluation a step. In log-SNR and not in t, so that the clock of the path plays no part. Zhang & Chen (2022),
    section 3.3 and eq. 15, 2204.13902.
    """
    known: list[tuple[float, Tensor]] = []
    for t, s in pairwise(levels):
        estimate, here, there = denoise(x, t.t), -t.half_log_snr, -s.half_log_snr
        known = [*known, (here, estimate.eps)][-3:] if math.isfinite(here) else []
        if math.isfinite(here) and math.isfinite(there):
            x = _moved(x, t, s, mean_terms(known, there, growth=1.0))
        else:
            x = remix(estimate, s)
        yield Step(s.t, x, estimate)


@sampler(order=2, evaluations=lambda n: n + (n > 1))
def pndm(denoise: Denoiser, x: Tensor, levels: list[Level]) -> Iterator[Step]:
    """PNDM with linear multistep (PLMS): e is the mean over t of the cubic in t through the last four eps, which on an
    even grid is (55 e - 59 e' + 37 e'' - 9 e''') / 24.

    Order 2: the mean over t stands for that over sigma / alpha. The first step is taken again with the mean of eps at
    both its ends, one evaluation more than there are steps, in the place of the paper's Runge-Kutta steps, nine more;
    the next two have fewer values. Liu et al. (2022), eq. 9 and 12 and algorithm 2, 2202.09778.
    """
    known: list[tuple[float, Tensor]] = []
    for t, s in pairwise(levels):
        estimate = denoise(x, t.t)
        known = [*known, (t.t, estimate.eps)][-4:]
        if s.sigma == 0:
            x = estimate.x0
        elif len(known) > 1 and t.alpha > 0:
            x = _moved(x, t, s, mean_terms(known, s.t))
        else:
            again = denoise(remix(estimate, s), s.t)
            halves: list[tuple[float, Tensor]] = [(0.5, estimate.eps), (0.5, again.eps)]
            if t.alpha > 0:
                x = _moved(x, t, s, halves)
            else:  # pure noise does not tell x0 by its eps, so their x0 is averaged
                x = combined((s.sigma / t.sigma, x), (s.alpha / 2, estimate.x0), (s.alpha / 2, again.x0))
        yield Step(s.t, x, estimate)


def _moved(x: Tensor, t: Level, s: Level, mean: Sequence[tuple[float, Tensor]]) -> Tensor:
    """x_s from x_t by the weighted sum `mean` of values of eps."""
    reach = s.sigma - s.alpha * t.sigma / t.alpha
    return combined((s.alpha / t.alpha, x), *((reach * weight, eps) for weight, eps in mean))


def mean_terms(known: Sequence[tuple[float, Tensor]], end: float, *, growth: float = 0.0) -> list[tuple[float, Tensor]]:
    """The mean, over [the last place, `end`] with density exp(growth u), of the polynomial in u through the values
    `known` at their places: a weight for each value."""
    places, last = [place for place, _ in known], known[-1][0]
    u = last + (end - last) * (POINTS + 1) / 2
    density = WEIGHTS * np.exp(growth * (u - max(last, end)))
    weights = []
    for i, place in enumerate(places):
        others = [other for j, other in enumerate(places) if j != i]
        basis = np.prod([(u - other) / (place - other) for other in others], axis=0) if others else np.ones_like(u)
        weights.append(float((density * basis).sum() / density.sum()))
    return [(weight, value) for weight, (_, value) in zip(weights, known, strict=True)]
