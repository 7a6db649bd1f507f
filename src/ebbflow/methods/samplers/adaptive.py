"""An ODE sampler that chooses its own steps, sample by sample.

Every sample has its own time and step in one batched evaluation, so that it does not depend on its batch mates, as it
does where one step is taken for the whole batch by an error norm over all of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor

from ebbflow.core.predictions import Estimate
from ebbflow.core.shape import per_sample
from ebbflow.methods.denoise import Denoiser
from ebbflow.methods.samplers.base import Level, Step, must_be_ddim, remix, sampler, slope
from ebbflow.values import Repeats

LARGEST_FIRST = 0.02  # of the clock: an error estimate is blind to what lies between the stages of a giant step
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


Tolerance = tuple[float, float]  # rtol and atol
Tolerated = Annotated[float, Interval(gt=0, lt=1)]


@sampler(order=5, evaluations=None)
def dopri5(
    denoise: Denoiser,
    x: Tensor,
    levels: list[Level],
    *,
    rtol: Tolerated = 1e-4,
    atol: Tolerated = 1e-4,
    max_steps: Repeats = 10_000,
) -> Iterator[Step]:
    """The Dormand-Prince pair 5(4) on dx/dt = v: between two entries of the grid each sample takes as many steps as
    keep the root mean square of error / (atol + rtol |x|) below 1 (Dormand & Prince, 1980).

    The grid says where states are wanted, not how accurate they are; its last piece, down to t = 0, is one step to x0,
    so let it be short. Six evaluations a step, of the batch until its slowest sample has arrived, and one for the first
    step's length. `rtol` and `atol` lie in (0, 1). A velocity that is not finite ends in a FloatingPointError; more
    than `max_steps` attempts between two entries of the grid, in a ValueError.
    """
    dtype, sizes = x.dtype, None
    x = x.to(torch.promote_types(dtype, torch.float32))
    for t, s in pairwise(levels):
        estimate = denoise(x, t.t)
        if must_be_ddim(t, s):
            x = remix(estimate, s)
        else:
            k = slope(estimate, t)
            if sizes is None:
                sizes = first_steps(denoise, x, k, t, s, (rtol, atol))
            x, sizes = _piece(denoise, x, k, t, s, sizes, (rtol, atol), max_steps)
        yield Step(s.t, x.to(dtype), _in(estimate, dtype))


def first_steps(denoise: Denoiser, x: Tensor, k: Tensor, t: Level, s: Level, tolerance: Tolerance) -> Tensor:
    """The step that each sample tries first, float64 of shape (B,): where an Euler step's error would be a hundredth of
    what is tolerated, by the size of the velocity k and of its change over a trial step (Hairer, Norsett & Wanner,
    1993, section II.4); at most `LARGEST_FIRST`. One evaluation."""
    scale = tolerance[1] + tolerance[0] * x.abs()
    left, towards = abs(s.t - t.t), math.copysign(1.0, s.t - t.t)
    size, speed = _norm(x / scale), _norm(k / scale)
    trial = torch.where((size < 1e-5) | (speed < 1e-5), 1e-6, 0.01 * size / speed).clamp(MIN_STEP, left)
    trial = trial.nan_to_num(nan=min(MIN_STEP, left))
    there = x + per_sample(towards * trial, x) * k
    change = _norm((_velocity(denoise, there, t.t + towards * trial) - k) / scale) / trial
    wanted = (0.01 / torch.maximum(speed, change).clamp(min=1e-15)) ** 0.2
    return torch.minimum(100 * trial, wanted).nan_to_num(nan=MIN_STEP).clamp(MIN_STEP, LARGEST_FIRST)


def _piece(
    denoise: Denoiser,
    x: Tensor,
    k: Tensor,
    t: Level,
    s: Level,
    sizes: Tensor,
    tolerance: Tolerance,
    max_steps: int,
) -> tuple[Tensor, Tensor]:
    """The states at s and the steps that were about to be tried, from x at t with velocity k."""
    now, towards = torch.full_like(sizes, t.t), math.copysign(1.0, s.t - t.t)
    for _ in range(max_steps):
        left = (s.t - now) * towards
        if not bool((left > 0).any()):
            return x, sizes
        h = torch.minimum(sizes, left)
        there, k_there, error = _attempt(denoise, x, k, now, towards * h, tolerance)
        shortest = h <= MIN_STEP
        _require_finite(error, shortest & (left > 0), now)
        good = (error <= 1) | shortest
        factor = (0.9 * error.clamp(min=1e-10) ** -0.2).clamp(0.2, 5.0)
        wanted = torch.where(good & (h < sizes), torch.maximum(sizes, h * factor), h * factor)
        sizes = torch.where(left > 0, wanted.clamp(min=MIN_STEP), sizes)
        moved = per_sample(good & (left > 0), x) > 0
        x, k = torch.where(moved, there, x), torch.where(moved, k_there, k)
        now = torch.where(good, torch.where(h >= left, s.t, now + towards * h), now)
    if not bool(((s.t - now) * towards > 0).any()):
        return x, sizes
    raise ValueError(
        f"sampler 'dopri5' tried {max_steps} steps between t = {t.t:.4g} and {s.t:.4g} and is at "
        f"{float(now.max() if towards < 0 else now.min()):.4g}, in steps of {float(h.min()):.2g}: the velocity changes "
        "too fast for this tolerance. Use a larger `rtol` and `atol`, or more `max_steps`."
    )


def _require_finite(error: Tensor, tried_all: Tensor, now: Tensor) -> None:
    """Raise where even the shortest step has no finite error; one that overflows is mended by shortening."""
    broken = ~torch.isfinite(error) & tried_all
    if bool(broken.any()):
        sample = int(broken.nonzero()[0])
        raise FloatingPointError(
            f"the velocity of sample {sample} is not finite near t = {float(now[sample]):.4g}: the model answers NaN "
            "or infinity there, at any step length. Check its weights, its precision and its condition."
        )


def _attempt(
    denoise: Denoiser, x: Tensor, k: Tensor, now: Tensor, h: Tensor, tolerance: Tolerance
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of h, of either sign, from `now`: the state there, its velocity, and the error of each sample in units
    of what is tolerated."""
    slopes, step, there = [k], per_sample(h, x), x
    for node, weights in zip(NODES, STAGES, strict=True):
        there = x + step * sum((w * one for w, one in zip(weights, slopes, strict=True)), torch.zeros_like(x))
        slopes.append(_velocity(denoise, there, now + node * h))
    error = step * sum((w * one for w, one in zip(ERRORS, slopes, strict=True)), torch.zeros_like(x))
    scale = tolerance[1] + tolerance[0] * torch.maximum(x.abs(), there.abs())
    return there, slopes[-1], _norm(error / scale).nan_to_num(nan=math.inf)


def _velocity(denoise: Denoiser, x: Tensor, t: Tensor) -> Tensor:
    estimate = denoise(x, t)
    return denoise.path.velocity(estimate.x0, estimate.eps, t)


def _norm(x: Tensor) -> Tensor:
    """Root mean square of each sample, float64 on the CPU."""
    return x.flatten(1).square().mean(1).sqrt().cpu().double()


def _in(estimate: Estimate, dtype: torch.dtype) -> Estimate:
    return Estimate(x0=estimate.x0.to(dtype), eps=estimate.eps.to(dtype))
