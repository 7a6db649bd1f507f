"""An ODE sampler that chooses its own steps, sample by sample.

A library's solver takes one step for the whole batch, by an error norm over all of it, so that a sample depends on its
batch mates; solving sample by sample would cost the batch. Here every sample has its own time and step in one batched
evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from ebbflow.core.predictions import Estimate
from ebbflow.core.shape import expand
from ebbflow.methods.denoise import Denoiser
from ebbflow.methods.samplers.base import Level, Step, jumps, remix, sampler, slope

FIRST_STEP = 0.02  # of the clock: an error estimate is blind to what lies between the stages of a giant step
MIN_STEP = 1e-5  # a step this short is taken whatever its error: the velocity itself is not smooth there

# Nodes and weights of Dormand & Prince (1980), table 2; the last row is also the fifth-order result.
NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERRORS = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


@sampler(order=5, evaluations=None)
def dopri5(
    denoise: Denoiser, x: Tensor, levels: list[Level], *, rtol: float = 1e-4, atol: float = 1e-4
) -> Iterator[Step]:
    """The Dormand-Prince pair 5(4) on dx/dt = v: between two entries of the grid each sample takes as many steps as
    keep the root mean square of error / (atol + rtol |x|) below 1 (Dormand & Prince, 1980).

    The grid says where states are wanted, not how accurate they are; its last piece, down to t = 0, is one step to x0,
    so let it be short. Six evaluations a step, of the batch until its slowest sample has arrived.
    """
    for name, value in (("rtol", rtol), ("atol", atol)):
        if not 0 < value < 1:
            raise ValueError(f"`{name}` must be in (0, 1), got {value}.")
    dtype = x.dtype
    x = x.to(torch.promote_types(dtype, torch.float32))
    sizes = torch.full((len(x),), FIRST_STEP, dtype=torch.float64)
    for t, s in pairwise(levels):
        estimate = denoise(x, t.t)
        if jumps(t, s):
            x = remix(estimate, s)
        else:
            x, sizes = _piece(denoise, x, slope(estimate, t), t, s, sizes, (rtol, atol))
        yield Step(s.t, x.to(dtype), _in(estimate, dtype))


def _piece(
    denoise: Denoiser, x: Tensor, k: Tensor, t: Level, s: Level, sizes: Tensor, tolerance: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """The states at s and the steps that were about to be tried, from x at t with velocity k."""
    now, towards = torch.full_like(sizes, t.t), math.copysign(1.0, s.t - t.t)
    while bool(((left := (s.t - now) * towards) > 0).any()):
        h = torch.minimum(sizes, left)
        there, k_there, error = _attempt(denoise, x, k, now, towards * h, tolerance)
        good = (error <= 1) | (h <= MIN_STEP)
        factor = (0.9 * error.clamp(min=1e-10) ** -0.2).clamp(0.2, 5.0)
        wanted = torch.where(good & (h < sizes), torch.maximum(sizes, h * factor), h * factor)
        sizes = torch.where(left > 0, wanted.clamp(min=MIN_STEP), sizes)
        moved = expand(good & (left > 0), x) > 0
        x, k = torch.where(moved, there, x), torch.where(moved, k_there, k)
        now = torch.where(good, torch.where(h >= left, s.t, now + towards * h), now)
    return x, sizes


def _attempt(
    denoise: Denoiser, x: Tensor, k: Tensor, now: Tensor, h: Tensor, tolerance: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of h, of either sign, from `now`: the state there, its velocity, and the error of each sample in units
    of what is tolerated."""
    slopes, step, there = [k], expand(h, x), x
    for node, weights in zip(NODES, STAGES, strict=True):
        there = x + step * sum((w * one for w, one in zip(weights, slopes, strict=True)), torch.zeros_like(x))
        t = now + node * h
        estimate = denoise(there, t)
        slopes.append(denoise.path.velocity(estimate.x0, estimate.eps, t))
    error = step * sum((w * one for w, one in zip(ERRORS, slopes, strict=True)), torch.zeros_like(x))
    scale = tolerance[1] + tolerance[0] * torch.maximum(x.abs(), there.abs())
    return there, slopes[-1], (error / scale).flatten(1).pow(2).mean(1).sqrt().double().cpu()


def _in(estimate: Estimate, dtype: torch.dtype) -> Estimate:
    return Estimate(x0=estimate.x0.to(dtype), eps=estimate.eps.to(dtype))
