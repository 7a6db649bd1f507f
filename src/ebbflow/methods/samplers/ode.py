"""Samplers of the probability-flow ODE dx/dt = v(x, t) in the path's own clock.

Where the path moves at infinite speed (t = 1 of linear_variance, t = 0 of every grid) the step is DDIM's, which is
exact in the coefficients.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor

from ebbflow.methods.denoise import Denoiser
from ebbflow.methods.samplers.base import Level, Step, jumps, level_at, remix, sampler, slope


@sampler(order=1, evaluations=lambda n: n)
def euler(denoise: Denoiser, x: Tensor, levels: list[Level]) -> Iterator[Step]:
    """x_s = x_t + (s - t) v(x_t, t). Order 1; the same as DDIM on the flow path. Song et al. (2020), 2011.13456."""
    for t, s in pairwise(levels):
        estimate = denoise(x, t.t)
        x = remix(estimate, s) if jumps(t, s) else x + (s.t - t.t) * slope(estimate, t)
        yield Step(s.t, x, estimate)


@sampler(order=2, evaluations=lambda n: 2 * n - 1)
def heun(denoise: Denoiser, x: Tensor, levels: list[Level]) -> Iterator[Step]:
    """Euler, then again with the mean of the slopes at both ends. Order 2; Karras et al. (2022), algorithm 1,
    2206.00364."""
    for t, s in pairwise(levels):
        estimate = denoise(x, t.t)
        if jumps(t, s):
            x = remix(estimate, s)
        else:
            h, k1 = s.t - t.t, slope(estimate, t)
            k2 = slope(denoise(x + h * k1, s.t), s)
            x = x + h / 2 * (k1 + k2)
        yield Step(s.t, x, estimate)


@sampler(order=2, evaluations=lambda n: 2 * n - 1)
def midpoint(denoise: Denoiser, x: Tensor, levels: list[Level]) -> Iterator[Step]:
    """The slope half a step ahead, used for the whole step. Order 2 (Runge, 1895)."""
    for t, s in pairwise(levels):
        estimate = denoise(x, t.t)
        if jumps(t, s):
            x = remix(estimate, s)
        else:
            h, m = s.t - t.t, level_at(denoise.path, (t.t + s.t) / 2)
            x = x + h * slope(denoise(x + h / 2 * slope(estimate, t), m.t), m)
        yield Step(s.t, x, estimate)


@sampler(order=4, evaluations=lambda n: 4 * n - 3)
def rk4(denoise: Denoiser, x: Tensor, levels: list[Level]) -> Iterator[Step]:
    """The classical four-stage method. Order 4 (Kutta, 1901)."""
    for t, s in pairwise(levels):
        estimate = denoise(x, t.t)
        if jumps(t, s):
            x = remix(estimate, s)
        else:
            h, m = s.t - t.t, level_at(denoise.path, (t.t + s.t) / 2)
            k1 = slope(estimate, t)
            k2 = slope(denoise(x + h / 2 * k1, m.t), m)
            k3 = slope(denoise(x + h / 2 * k2, m.t), m)
            k4 = slope(denoise(x + h * k3, s.t), s)
            x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        yield Step(s.t, x, estimate)


@sampler(order=2, evaluations=lambda n: n)
def ab2(denoise: Denoiser, x: Tensor, levels: list[Level]) -> Iterator[Step]:
    """x_s = x_t + h [v + h/(2 h_prev) (v - v_prev)]: Adams-Bashforth on a graded grid, one evaluation a step.

    Order 2; starts with Euler (Bashforth & Adams, 1883).
    """
    previous: tuple[float, Tensor] | None = None
    for t, s in pairwise(levels):
        estimate = denoise(x, t.t)
        if jumps(t, s):
            x, previous = remix(estimate, s), None
        else:
            h, v = s.t - t.t, slope(estimate, t)
            ahead = v if previous is None else v + h / (2 * previous[0]) * (v - previous[1])
            x, previous = x + h * ahead, (h, v)
        yield Step(s.t, x, estimate)
