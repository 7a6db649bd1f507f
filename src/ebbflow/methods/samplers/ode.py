"""Samplers of the probability-flow ODE dx/dt = v(x, t) in the path's own clock.

Where the path moves at infinite speed (t = 1 of linear_variance, t = 0 of every grid) the step is DDIM's, which is
exact in the coefficients.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from ebbflow.core.shape import combined
from ebbflow.methods.denoise import Denoiser
from ebbflow.methods.samplers.base import Level, Step, level_at, must_be_ddim, remix, sampler, slope


@sampler(order=1, evaluations=lambda n: n)
def euler(denoise: Denoiser, x: Tensor, levels: list[Level]) -> Iterator[Step]:
    """x_s = x_t + (s - t) v(x_t, t). Order 1; the same as DDIM on the flow path. Song et al. (2020), 2011.13456."""
    for t, s in pairwise(levels):
        estimate = denoise(x, t.t)
        x = remix(estimate, s) if must_be_ddim(t, s) else torch.add(x, slope(estimate, t), alpha=s.t - t.t)
        yield Step(s.t, x, estimate)


@sampler(order=2, evaluations=lambda n: 2 * n - 1)
def heun(denoise: Denoiser, x: Tensor, levels: list[Level]) -> Iterator[Step]:
    """Euler, then again with the mean of the slopes at both ends. Order 2; Karras et al. (2022), algorithm 1,
    2206.00364."""
    for t, s in pairwise(levels):
        estimate = denoise(x, t.t)
        if must_be_ddim(t, s):
            x = remix(estimate, s)
        else:
            h, k1 = s.t - t.t, slope(estimate, t)
            k2 = slope(denoise(torch.add(x, k1, alpha=h), s.t), s)
            x = combined((1, x), (h / 2, k1), (h / 2, k2))
        yield Step(s.t, x, estimate)


@sampler(order=2, evaluations=lambda n: 2 * n - 1)
def midpoint(denoise: Denoiser, x: Tensor, levels: list[Level]) -> Iterator[Step]:
    """The slope half a step ahead, used for the whole step. Order 2 (Runge, 1895)."""
    for t, s in pairwise(levels):
        estimate = denoise(x, t.t)
        if must_be_ddim(t, s):
            x = remix(estimate, s)
        else:
            h, m = s.t - t.t, level_at(denoise.path, (t.t + s.t) / 2)
            ahead = torch.add(x, slope(estimate, t), alpha=h / 2)
            x = torch.add(x, slope(denoise(ahead, m.t), m), alpha=h)
        yield Step(s.t, x, estimate)


@sampler(order=4, evaluations=lambda n: 4 * n - 3)
def rk4(denoise: Denoiser, x: Tensor, levels: list[Level]) -> Iterator[Step]:
    """The classical four-stage method. Order 4 (Kutta, 1901)."""
    for t, s in pairwise(levels):
        estimate = denoise(x, t.t)
        if must_be_ddim(t, s):
            x = remix(estimate, s)
        else:
            h, m = s.t - t.t, level_at(denoise.path, (t.t + s.t) / 2)
            k1 = slope(estimate, t)
            k2 = slope(denoise(torch.add(x, k1, alpha=h / 2), m.t), m)
            k3 = slope(denoise(torch.add(x, k2, alpha=h / 2), m.t), m)
            k4 = slope(denoise(torch.add(x, k3, alpha=h), s.t), s)
            x = combined((1, x), (h / 6, k1), (h / 3, k2), (h / 3, k3), (h / 6, k4))
        yield Step(s.t, x, estimate)


@sampler(order=2, evaluations=lambda n: n)
def ab2(denoise: Denoiser, x: Tensor, levels: list[Level]) -> Iterator[Step]:
    """x_s = x_t + h [v + h/(2 h_prev) (v - v_prev)]: Adams-Bashforth on a graded grid, one evaluation a step.

    Order 2; starts with Euler (Bashforth & Adams, 1883).
    """
    previous: tuple[float, Tensor] | None = None
    for t, s in pairwise(levels):
        estimate = denoise(x, t.t)
        if must_be_ddim(t, s):
            x, previous = remix(estimate, s), None
        else:
            h, v = s.t - t.t, slope(estimate, t)
            back = 0.0 if previous is None else h / (2 * previous[0])
            x = torch.add(x, v, alpha=h * (1 + back))
            if previous is not None:
                x = torch.add(x, previous[1], alpha=-h * back)
            previous = (h, v)
        yield Step(s.t, x, estimate)
