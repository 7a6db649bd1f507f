"""Likelihoods: the variational bound of ancestral sampling, and the exact change of variables of the ODE.

Both return nats of the density of x0 (or of its 256 levels); `to_bits` turns them into bits a dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor

from ebbflow.core.kernels import log_density, log_level, posterior, step_divergence
from ebbflow.core.paths import Path
from ebbflow.core.predictions import Estimate
from ebbflow.core.shape import as_float64, in_float64
from ebbflow.errors import choose
from ebbflow.methods.denoise import Denoiser
from ebbflow.methods.samplers.ancestral import Variance, step_variance
from ebbflow.methods.samplers.base import levels_of
from ebbflow.progress import finish

T = TypeVar("T")
Steps = Generator[int, None, T]  # how many steps are done, and the result

Trace = Literal["auto", "exact", "hutchinson", "known"]
BYTES_OFFSET = math.log2(127.5)  # bits a dimension between the density of x = u8 / 127.5 - 1 and the mass of a level
EXACT_LIMIT = 16  # up to this many dimensions the trace is summed axis by axis
START = 0.002  # sigma / alpha where the ODE starts: the density of the data with this much noise on it
HIGHEST = 20.0  # sigma / alpha up to which steps are equal in log-SNR; what is left of the angle is one step


class Draws(Protocol):
    """A stream of standard normal draws, such as `ebbflow.Noise`."""

    def like(self, x: Tensor) -> Tensor:
        """The next draw, of the shape, dtype and device of `x`."""
        ...


def to_bits(nats: Tensor, num_dims: int, *, of_bytes: bool) -> Tensor:
    """Bits a dimension, -nats / (d ln 2); plus log2(127.5) where `nats` is the density of images dequantised over their
    256 levels.

    Args:
        nats: log-likelihoods, any shape.
        num_dims: d, numbers a sample.
        of_bytes: whether they are such densities.
    """
    return -nats / (num_dims * math.log(2)) + (BYTES_OFFSET if of_bytes else 0.0)


def dequantised(x0: Tensor, uniform: Tensor) -> Tensor:
    """x0 = u8 / 127.5 - 1 spread evenly over its level: x0 + (uniform - 1/2) / 127.5, `uniform` in [0, 1)."""
    return x0 + (uniform - 0.5) / 127.5


# -- the variational bound --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Bound:
    """The parts of -log p(x0) <= prior + steps + decoder, nats, shape (B,).

    Args:
        prior: KL(q(x_1 | x0) || N(0, sigma_1^2 I)).
        steps: sum of KL(q(x_s | x_t, x0) || p(x_s | x_t)) over all steps but the last.
        decoder: -log p(x0 | x_t) of the last step.
    """

    prior: Tensor
    steps: Tensor
    decoder: Tensor

    @property
    def total(self) -> Tensor:
        """The bound."""
        return self.prior + self.steps + self.decoder


@torch.no_grad()
def variational_bound(
    denoiser: Denoiser,
    x0: Tensor,
    times: Tensor,
    *,
    noise: Draws,
    variance: Variance = "large",
    of_bytes: bool = True,
) -> Bound:
    """The bound that ancestral sampling along `times` optimises, one draw of x_t a step: unbiased, and exact in
    expectation where the reverse kernels are (Ho et al., 2020, eq. 5, 2006.11239).

    Args:
        denoiser: with its condition bound.
        x0: data (B, *dims); float64 keeps the digits of small steps.
        times: a grid from 1 down to 0.
        noise: one draw a step.
        variance: of the reverse steps, as in sampler `ddpm`. With "large" the bound tightens as steps are added; with
            "small" it stays loose near clean data. The last step, whose posterior variance is 0, takes the small
            variance of the step before it (Nichol & Dhariwal, 2021, 2102.09672).
        of_bytes: the last step gives the mass of x0's level out of 256; False, the density at x0.

    Cost: one evaluation a step.

    Raises:
        ValueError: a grid that does not run down to 0, or a variance that the denoiser cannot serve.
    """
    return finish(bound_steps(denoiser, x0, times, noise=noise, variance=variance, of_bytes=of_bytes))


def bound_steps(
    denoiser: Denoiser, x0: Tensor, times: Tensor, *, noise: Draws, variance: Variance, of_bytes: bool
) -> Steps[Bound]:
    """`variational_bound` step by step: yields how many are done, and returns the bound."""
    ladder = levels_of(denoiser.path, times)
    if ladder[-1].sigma != 0:
        raise ValueError(f"the variational bound needs a grid that ends at t = 0, got {ladder[-1].t}.")
    top = ladder[0]
    steps = decoder = torch.zeros(len(x0), dtype=x0.dtype, device=x0.device)
    small = None
    for done, (t, s) in enumerate(pairwise(ladder), start=1):
        estimate = denoiser(t.alpha * x0 + t.sigma * noise.like(x0), t.t)
        kernel = posterior(t, s)
        if s.sigma > 0:
            small = kernel.small
            log_variance = as_float64(step_variance(kernel, estimate, variance)).log().to(x0)
            shift = kernel.from_x0 * (estimate.x0 - x0)
            terms = step_divergence(shift, torch.tensor(math.log(small), dtype=x0.dtype), log_variance)
            steps = steps + terms.flatten(1).sum(1)
        else:
            if variance != "optimal":
                kernel = replace(kernel, small=kernel.large if small is None else small)
            log_variance = as_float64(step_variance(kernel, estimate, variance)).log().to(x0)
            decoder = -(log_level if of_bytes else log_density)(x0, estimate.x0, log_variance).flatten(1).sum(1)
        yield done
    return Bound(prior=(top.alpha / top.sigma * x0).pow(2).flatten(1).sum(1) / 2, steps=steps, decoder=decoder)


# -- the probability-flow ODE -----------------------------------------------------------------------------------------
# Solved for u = x_t / sqrt(alpha^2 + sigma^2) over the angle phi = atan(sigma / alpha), where every path is
# u = cos(phi) x0 + sin(phi) eps and du/dphi = -sin(phi) x0 + cos(phi) eps is bounded at both ends.


def log_likelihood(
    denoiser: Denoiser,
    x0: Tensor,
    *,
    num_steps: int = 32,
    method: str = "rk4",
    trace: Trace = "auto",
    probe: Tensor | None = None,
    start: float = START,
) -> Tensor:
    """log p(x0) = log p_1(x(1)) + int div v dt along the probability-flow ODE, nats, shape (B,) (Song et al., 2020,
    eq. 39, 2011.13456; Grathwohl et al., 2018, 1810.01367).

    What is measured is the law of x0 with noise of sigma / alpha = `start` on it; images are to be dequantised first.
    Steps are equal in log-SNR.

    Args:
        denoiser: with its condition bound.
        x0: data (B, *dims), any floating dtype; the trace is summed in float64.
        num_steps: at least 2.
        method: a name of `INTEGRATORS`: "rk4" (4 evaluations a step) or "heun" (2).
        trace: "exact" sums the Jacobian's diagonal axis by axis, d backward passes an evaluation; "hutchinson" takes
            probe . J probe; "known" trusts the denoiser's x0_variance, which is exact for oracles; "auto" is exact up
            to 16 dimensions.
        probe: entries of mean 0 and variance 1, shape of x0, the same at every evaluation: the integrand is smooth, and
            the estimate unbiased.
        start: sigma / alpha above 0.

    Raises:
        ConfigError: unknown method.
        ValueError: an argument out of range, or a probe or variance that is wanted and missing.
    """
    return finish(
        likelihood_steps(denoiser, x0, num_steps=num_steps, method=method, trace=trace, probe=probe, start=start)
    )


def likelihood_steps(
    denoiser: Denoiser, x0: Tensor, *, num_steps: int, method: str, trace: Trace, probe: Tensor | None, start: float
) -> Steps[Tensor]:
    """`log_likelihood` step by step: yields how many are done, and returns it."""
    if num_steps < 2 or not 0 < start < 1:
        raise ValueError(f"`num_steps` must be at least 2 and `start` in (0, 1), got {num_steps} and {start}.")
    advance = choose(INTEGRATORS, method, "integrator of the likelihood")
    x0 = x0.detach()
    num_dims = x0[0].numel()
    angles = angle_grid(denoiser.path, num_steps, start)
    field = _Field(
        denoiser=denoiser, divergence=_divergence(trace, num_dims, probe), times=_times(denoiser.path, angles)
    )
    u, total = math.cos(angles[0]) * x0, in_float64(torch.zeros(len(x0), device=x0.device))
    for done, (here, there) in enumerate(pairwise(angles), start=1):
        u, gained = advance(field, u, here, there)
        total = total + gained
        yield done
    end = denoiser.path.at(1.0)
    radius, sigma = float(torch.hypot(end.alpha, end.sigma)), float(end.sigma)
    prior = log_density(radius * in_float64(u), torch.zeros_like(total[0]), torch.tensor(2 * math.log(sigma)).to(total))
    return prior.flatten(1).sum(1) + num_dims * math.log(radius * math.cos(angles[0])) + total


def angle_grid(path: Path, num_steps: int, start: float) -> list[float]:
    """num_steps + 1 angles atan(sigma / alpha) from `start` to the path's end: equal steps of log-SNR up to `HIGHEST`,
    and one for what is left."""
    end = path.at(1.0)
    last = math.atan2(float(end.sigma), float(end.alpha))
    goes_on = math.tan(last) > HIGHEST
    top = HIGHEST if goes_on else math.tan(last)
    rows = torch.linspace(math.log(start), math.log(top), num_steps + (not goes_on), dtype=torch.float64)
    angles: list[float] = rows.exp().atan().tolist()
    return [*angles, last] if goes_on else [*angles[:-1], last]


Divergence = Callable[[Tensor, Tensor, Estimate, float], Tensor]


@dataclass(frozen=True, kw_only=True)
class _Field:
    """(u, phi) -> (du/dphi, its divergence) at the angles of `times`."""

    denoiser: Denoiser
    divergence: Divergence
    times: dict[float, float]

    def __call__(self, u: Tensor, angle: float) -> tuple[Tensor, Tensor]:
        t = self.times[angle]
        c = self.denoiser.path.at(t)
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            estimate = self.denoiser(float(torch.hypot(c.alpha, c.sigma)) * u, t)
            slope = math.cos(angle) * estimate.eps - math.sin(angle) * estimate.x0
            gained = self.divergence(u, slope, estimate, angle)
        return slope.detach(), gained.detach()


def _times(path: Path, angles: list[float]) -> dict[float, float]:
    """t of each angle and of the middle of each step, found in one go: a table's clock is inverted by bisection."""
    asked = [*angles, *((here + there) / 2 for here, there in pairwise(angles))]
    found = path.time_of(-2 * torch.tensor(asked, dtype=torch.float64).tan().log())
    return dict(zip(asked, found.tolist(), strict=True))


def _divergence(trace: Trace, num_dims: int, probe: Tensor | None) -> Divergence:
    if trace == "known":
        return _known_divergence
    if trace == "exact" or (trace == "auto" and num_dims <= EXACT_LIMIT):
        return _exact_divergence
    if trace not in ("auto", "hutchinson"):
        raise ValueError(f"`trace` must be auto, exact, hutchinson or known, got {trace!r}.")
    if probe is None:
        raise ValueError(f"the trace in {num_dims} dimensions is estimated: pass `probe`, of the shape of x0.")
    kept = probe

    def hutchinson(u: Tensor, slope: Tensor, estimate: Estimate, angle: float) -> Tensor:
        (back,) = torch.autograd.grad((slope * kept.to(slope)).sum(), u)
        return in_float64(back * kept.to(back)).flatten(1).sum(1)

    return hutchinson


def _exact_divergence(u: Tensor, slope: Tensor, estimate: Estimate, angle: float) -> Tensor:
    flat, total = slope.flatten(1), in_float64(torch.zeros(len(u), device=u.device))
    for i in range(flat.shape[1]):
        (back,) = torch.autograd.grad(flat[:, i].sum(), u, retain_graph=True)
        total = total + in_float64(back.flatten(1)[:, i])
    return total


def _known_divergence(u: Tensor, slope: Tensor, estimate: Estimate, angle: float) -> Tensor:
    """From the second-order Tweedie identity d x0 / d x_t = alpha Var[x0 | x_t] / sigma^2."""
    if estimate.x0_variance is None:
        raise ValueError("trace 'known' needs a denoiser that knows Var[x0 | x_t]. Use 'exact' or 'hutchinson'.")
    kept = 1 - in_float64(estimate.x0_variance) / math.sin(angle) ** 2
    return kept.flatten(1).sum(1) / math.tan(angle)


Advance = Callable[[_Field, Tensor, float, float], tuple[Tensor, Tensor]]


def _rk4(field: _Field, u: Tensor, here: float, there: float) -> tuple[Tensor, Tensor]:
    h, middle = there - here, (here + there) / 2
    k1, d1 = field(u, here)
    k2, d2 = field(u + h / 2 * k1, middle)
    k3, d3 = field(u + h / 2 * k2, middle)
    k4, d4 = field(u + h * k3, there)
    return u + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)


def _heun(field: _Field, u: Tensor, here: float, there: float) -> tuple[Tensor, Tensor]:
    h = there - here
    k1, d1 = field(u, here)
    k2, d2 = field(u + h * k1, there)
    return u + h / 2 * (k1 + k2), h / 2 * (d1 + d2)


INTEGRATORS: dict[str, Advance] = {"rk4": _rk4, "heun": _heun}
EVALUATIONS = {"rk4": 4, "heun": 2}
