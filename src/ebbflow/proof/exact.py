"""Data whose every marginal is known in closed form, and what a sampler does to it, without Monte Carlo where that is
possible.

The data law has independent coordinates, so each coordinate of the probability-flow ODE keeps its quantiles: the
solution that carries x at t to s is F_s^{-1}(F_t(x)), with no integrator in it. On Gaussian data a stochastic sampler
is affine in its draws, so its mean and variance are sums over the draws, one impulse each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ebbflow.core.coefficients import Coefficients
from ebbflow.core.kernels import posterior
from ebbflow.core.noise import Noise
from ebbflow.core.paths import Path
from ebbflow.core.predictions import PREDICTIONS, Estimate, solve
from ebbflow.core.shape import as_float64, per_sample
from ebbflow.methods.denoise import FlowMap
from ebbflow.methods.oracles import Gaussian, MixtureProduct
from ebbflow.methods.samplers import Sampler

F64 = torch.float64
MODES = torch.tensor([-1.4, 0.3, 1.5], dtype=F64)  # the first coordinate: three modes of unequal width and weight
MODE_STDS = torch.tensor([0.3, 0.2, 0.25], dtype=F64)
MODE_WEIGHTS = torch.tensor([0.3, 0.5, 0.2], dtype=F64)
CENTRE, WIDTH = 0.4, 0.8  # the second coordinate: a Gaussian of another scale
GAUSSIAN_MEAN, GAUSSIAN_STD = torch.tensor([0.5, -1.0], dtype=F64), torch.tensor([0.3, 1.2], dtype=F64)


def mixture(path: Path) -> MixtureProduct:
    """The data law as a denoiser and as a map: three modes times a Gaussian, in two dimensions."""
    second = torch.full_like(MODES, CENTRE), torch.full_like(MODES, WIDTH)
    means, stds = torch.stack([MODES, second[0]], dim=1), torch.stack([MODE_STDS, second[1]], dim=1)
    return MixtureProduct(means, stds, MODE_WEIGHTS, path)


def lattice(num: int) -> Tensor:
    """Evenly spread points of the unit square, float64 of shape (num, 2)."""
    i = torch.arange(num, dtype=F64)
    return torch.stack([(i + 0.5) / num, (0.5 + i * (math.sqrt(5) - 1) / 2) % 1], dim=1)


def quantiles(path: Path, t: float, u: Tensor) -> Tensor:
    """The points of p_t at levels `u` in (0, 1), shape (N, 2): the exact ODE solution, as a function of t."""
    c = path.at(t)
    spread = torch.sqrt((c.alpha * WIDTH) ** 2 + c.sigma**2)
    second = c.alpha * CENTRE + spread * torch.special.ndtri(u[:, 1])
    return torch.stack([_mixture_quantiles(c, u[:, 0]), second], dim=1)


def _mixture_quantiles(c: Coefficients, u: Tensor) -> Tensor:
    centres, spreads = c.alpha * MODES, torch.sqrt((c.alpha * MODE_STDS) ** 2 + c.sigma**2)
    low = torch.full_like(u, float(centres.min() - 9 * spreads.max()))
    high = torch.full_like(u, float(centres.max() + 9 * spreads.max()))
    for _ in range(70):
        x = (low + high) / 2
        below = torch.special.ndtr((x[:, None] - centres) / spreads) @ MODE_WEIGHTS < u
        low, high = torch.where(below, x, low), torch.where(below, high, x)
    return (low + high) / 2


def mode_shares(x: Tensor) -> Tensor:
    """How many of the points `x` (N, 2) lie nearest to each mode, as shares, shape (3,)."""
    return torch.bincount((x[:, :1] - MODES).abs().argmin(dim=1), minlength=len(MODES)).double() / len(x)


class Layered(FlowMap):
    """An oracle asked in several languages at once: the first rows directly, each further block of rows by way of a
    prediction.

    A block's rows repeat the first `block` rows, so that a walk of the whole batch is one walk a prediction. It notes
    the times at which it is asked.

    Args:
        oracle: the exact denoiser.
        num: rows that are answered directly.
        block: rows a prediction.
        predictions: names of `PREDICTIONS`; a block's target a x0 + b eps is built from the oracle and solved again.
    """

    def __init__(self, oracle: FlowMap, num: int, block: int = 0, predictions: Sequence[str] = ()) -> None:
        self.oracle, self.path, self.num, self.block, self.predictions = oracle, oracle.path, num, block, predictions
        self.asked: list[float] = []

    def rows(self, index: int) -> slice:
        """The rows of the prediction number `index`."""
        start = self.num + index * self.block
        return slice(start, start + self.block)

    def layered(self, x: Tensor) -> Tensor:
        """`x` (num, *dims) followed by one copy of its first rows a prediction."""
        return torch.cat([x, *[x[: self.block]] * len(self.predictions)])

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        return self._spoken(self.oracle(x_t, t), x_t, t)

    def jump(self, x_t: Tensor, t: float | Tensor, s: float | Tensor) -> Estimate:
        return self._spoken(self.oracle.jump(x_t, t, s), x_t, t)

    def _spoken(self, known: Estimate, x_t: Tensor, t: float | Tensor) -> Estimate:
        """What the oracle knows, by way of the predictions."""
        self.asked.append(float(as_float64(t).min()))
        parts = [Estimate(x0=known.x0[: self.num], eps=known.eps[: self.num])]
        for index, prediction in enumerate(self.predictions):
            rows = self.rows(index)
            when = t[rows] if isinstance(t, Tensor) and t.ndim else t
            a, b = PREDICTIONS[prediction](self.path.at(when))
            out = per_sample(a, x_t[rows]) * known.x0[rows] + per_sample(b, x_t[rows]) * known.eps[rows]
            parts.append(solve(prediction, out, x_t[rows], when, self.path))
        return Estimate(
            x0=torch.cat([part.x0 for part in parts]),
            eps=torch.cat([part.eps for part in parts]),
            x0_variance=known.x0_variance,
        )


class Stream(Noise):
    """Noise from one generator for a layered batch: `num` rows of draws, then `copies` repeats of the first `block`."""

    def __init__(self, seed: int, num: int, block: int = 0, copies: int = 0) -> None:
        super().__init__([])
        self._generator, self._num, self._again, self._copies = torch.Generator().manual_seed(seed), num, block, copies

    def draw(self, dims: tuple[int, ...]) -> Tensor:
        draw = torch.randn(self._num, *dims, generator=self._generator, dtype=F64)
        return torch.cat([draw, *[draw[: self._again]] * self._copies])

    def like(self, x: Tensor) -> Tensor:
        return self.draw(tuple(x.shape[1:])).to(x)


class Impulses(Noise):
    """Noise for `num` rows: the k-th draw (from 1) is 1 in row k + 1 and in the last row, 0 elsewhere."""

    def __init__(self, num: int) -> None:
        super().__init__([])
        self._num, self.num_drawn = num, 0

    def draw(self, dims: tuple[int, ...]) -> Tensor:
        self.num_drawn += 1
        draw = torch.zeros(self._num, *dims, dtype=F64)
        draw[[min(self.num_drawn + 1, self._num - 1), -1]] = 1
        return draw

    def like(self, x: Tensor) -> Tensor:
        return self.draw(tuple(x.shape[1:])).to(x)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean and variance by coordinate, shape (2,)."""

    mean: Tensor
    variance: Tensor


def gaussian_moments(path: Path, t: float) -> Spread:
    """Those of p_t for the Gaussian data."""
    c = path.at(t)
    return Spread(mean=c.alpha * GAUSSIAN_MEAN, variance=(c.alpha * GAUSSIAN_STD) ** 2 + c.sigma**2)


def sampled_moments(sampler: Sampler, path: Path, times: Tensor, **options: object) -> Spread | None:
    """Exact mean and variance of what a stochastic sampler makes of Gaussian data; None where it is not affine in its
    draws.

    Row 0 walks without noise, row 1 starts one standard deviation off, row k + 1 sees the k-th draw alone, the last
    row sees all of them.
    """
    denoise, start = Gaussian(GAUSSIAN_MEAN, GAUSSIAN_STD, path), gaussian_moments(path, float(times[0]))

    def end(num_rows: int) -> tuple[Tensor, int]:
        x, noise = start.mean.repeat(num_rows, 1), Impulses(num_rows)
        x[1] += start.variance.sqrt()
        x[-1] += start.variance.sqrt()
        for step in sampler(denoise, x, times, noise=noise, **options):
            x = step.x
        return x, noise.num_drawn

    x, num_drawn = end(len(times) + 2)
    if num_drawn > len(times) - 1:
        x, num_drawn = end(num_drawn + 3)
    answers = x[1 : num_drawn + 2] - x[0]
    if not torch.allclose(answers.sum(0), x[-1] - x[0], rtol=1e-7, atol=1e-9):
        return None
    return Spread(mean=x[0], variance=answers.square().sum(0))


def ancestral_variance(path: Path, times: Tensor, variance: str) -> Tensor:
    """The variance of ancestral sampling on Gaussian data, by its recursion V_s = (p + q k)^2 V_t + var, shape (2,).

    x0(x_t) has slope k = alpha s^2 / (alpha^2 s^2 + sigma^2); p and q are the posterior's weights of x_t and x0, and
    var is q2 ("small"), s2(t|s) ("large"), or q2 + q^2 Var[x0 | x_t] ("optimal").
    """
    total = gaussian_moments(path, float(times[0])).variance
    for t, s in pairwise(times.tolist()):
        c, kernel = path.at(t), posterior(path.at(t), path.at(s))
        spread = (c.alpha * GAUSSIAN_STD) ** 2 + c.sigma**2
        slope, unknown = c.alpha * GAUSSIAN_STD**2 / spread, (GAUSSIAN_STD * c.sigma) ** 2 / spread
        fresh = torch.tensor(kernel.large if variance == "large" else kernel.small, dtype=F64)
        if variance == "optimal":
            fresh = fresh + kernel.from_x0**2 * unknown
        total = (kernel.from_x_t + kernel.from_x0 * slope) ** 2 * total + (0 if s == 0 else fresh)
    return total
