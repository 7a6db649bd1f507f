"""Exponential integrators: the linear part is solved exactly, x0 is extrapolated in lambda = log(alpha / sigma).

    x_s = (sigma_s / sigma_t) x_t + sigma_s * integral over lambda from lambda_t to lambda_s of exp(lambda) x0(lambda)

With h = lambda_s - lambda_t the first-order step is DDIM. At either end of a path lambda is infinite; there the
first-order step, whose limit is finite, is taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor

from ebbflow.core.noise import Noise
from ebbflow.core.shape import combined
from ebbflow.methods.denoise import Denoiser
from ebbflow.methods.samplers.base import Level, Step, remix, sampler

Terms = list[tuple[float, Tensor]]


def _extrapolated(weight: float, x0: Tensor, h: float, previous: tuple[float, Tensor] | None) -> Terms:
    """weight * D, D = (1 + 1/(2r)) x0 - 1/(2r) x0_prev with r = h_prev / h: x0 half a step ahead; x0 itself where there
    is no finite history."""
    if previous is None or not math.isfinite(h + previous[0]):
        return [(weight, x0)]
    ahead = h / (2 * previous[0])
    return [(weight * (1 + ahead), x0), (-weight * ahead, previous[1])]


@sampler(order=2, evaluations=lambda n: n)
def dpmpp_2m(denoise: Denoiser, x: Tensor, levels: list[Level]) -> Iterator[Step]:
    """x_s = (sigma_s/sigma_t) x - alpha_s (e^{-h} - 1) D. Order 2, one evaluation a step; Lu et al. (2022), algorithm
    2, 2211.01095."""
    previous: tuple[float, Tensor] | None = None
    for t, s in pairwise(levels):
        estimate, h = denoise(x, t.t), s.half_log_snr - t.half_log_snr
        if s.alpha == 0:  # reached only when the grid is walked backwards
            x = remix(estimate, s)
        else:
            x = combined((s.sigma / t.sigma, x), *_extrapolated(-s.alpha * math.expm1(-h), estimate.x0, h, previous))
        previous = (h, estimate.x0)
        yield Step(s.t, x, estimate)


@sampler(order=1, evaluations=lambda n: n, stochastic=True)
def dpmpp_2m_sde(denoise: Denoiser, x: Tensor, levels: list[Level], *, noise: Noise) -> Iterator[Step]:
    """x_s = (sigma_s/sigma_t) e^{-h} x + alpha_s (1 - e^{-2h}) D + sigma_s sqrt(1 - e^{-2h}) z (Lu et al., 2022,
    section 5, 2211.01095).

    The reverse SDE with x0 extrapolated to second order; its noise is exact for constant x0, so its weak order is 1.
    """
    previous: tuple[float, Tensor] | None = None
    for t, s in pairwise(levels):
        estimate, h = denoise(x, t.t), s.half_log_snr - t.half_log_snr
        gain = -math.expm1(-2 * h)
        terms = [(s.sigma / t.sigma * math.exp(-h), x), *_extrapolated(s.alpha * gain, estimate.x0, h, previous)]
        if s.sigma > 0:
            terms.append((s.sigma * math.sqrt(gain), noise.like(x)))
        x = combined(*terms)
        previous = (h, estimate.x0)
        yield Step(s.t, x, estimate)


@sampler(order=2, evaluations=lambda n: n)
def unipc(denoise: Denoiser, x: Tensor, levels: list[Level]) -> Iterator[Step]:
    """UniPC-2, B(h) = e^h - 1: a second-order predictor whose next evaluation also corrects the last step, at no extra
    cost.

    Order 2 declared (3 is reached where the corrector has its history). Zhao et al. (2023), algorithms 5 to 8,
    2302.04867.
    """
    t_before: Level | None = None
    x_before, x0_before, older = x, x, None  # the last corrected state, its x0, and (lambda, x0) of the level before it
    for t, s in pairwise(levels):
        estimate = denoise(x, t.t)
        if t_before is not None and math.isfinite(t_before.half_log_snr):
            x = _unified(x_before, t_before, t, x0_before, older, corrected=estimate.x0)
        known = (
            (t_before.half_log_snr, x0_before)
            if t_before is not None and math.isfinite(t_before.half_log_snr)
            else None
        )
        t_before, x_before, x0_before, older = t, x, estimate.x0, known
        singular = not math.isfinite(s.half_log_snr - t.half_log_snr)
        x = remix(estimate, s) if singular else _unified(x, t, s, estimate.x0, older, corrected=None)
        yield Step(s.t, x, estimate)


def _unified(
    x: Tensor, t: Level, s: Level, x0: Tensor, older: tuple[float, Tensor] | None, *, corrected: Tensor | None
) -> Tensor:
    """One step from t to s with the differences that are known: to the level before t, and to x0 at s when
    correcting."""
    h = s.half_log_snr - t.half_log_snr
    nodes: Terms = []
    if older is not None:
        nodes.append(((older[0] - t.half_log_snr) / h, older[1]))
    if corrected is not None:
        nodes.append((1.0, corrected))
    rest = whole = -s.alpha * math.expm1(-h)
    terms: Terms = []
    for weight, (ratio, other) in zip(_unified_weights(h, [r for r, _ in nodes]), nodes, strict=True):
        terms.append((whole * weight / ratio, other))
        rest -= whole * weight / ratio
    return combined((s.sigma / t.sigma, x), (rest, x0), *terms)


def _unified_weights(h: float, ratios: list[float]) -> list[float]:
    """The a_i of sum_i a_i r_i^{k-1} = k! phi_{k+1}(-h)-terms / B(h) for k = 1, 2 at two nodes; one node takes 1/2,
    which keeps order 2 (section 3.3)."""
    if len(ratios) < 2:
        return [0.5] * len(ratios)
    phi = math.expm1(-h) / -h - 1
    first, second = phi / math.expm1(-h), 2 * (phi / -h - 0.5) / math.expm1(-h)
    last = (second - ratios[0] * first) / (ratios[1] - ratios[0])
    return [first - last, last]
