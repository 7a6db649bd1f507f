"""Editing: what a model does to an image that is already there, on any path and with any sampler.

SDEdit starts part of the way down from a noised image; inpainting keeps a region by telling the sampler what x0 is
there; inversion walks the sampler's own grid backwards, which makes reconstruction and interpolation possible.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ebbflow.core.entries import Choice
from ebbflow.core.kernels import renoise
from ebbflow.core.noise import Noise
from ebbflow.core.predictions import Estimate
from ebbflow.core.shape import in_float64, per_sample
from ebbflow.core.times import TimeGrid
from ebbflow.methods.denoise import Denoiser, Wrapped
from ebbflow.methods.samplers import SAMPLERS, Sampler, Step, sampler_of
from ebbflow.methods.samplers.base import Level, Times, levels_of, remix
from ebbflow.methods.sampling import grid_times, pure_noise, walk_from

FIXED_POINT = 6  # evaluations that inverting a sampler of order 2 or more spends on its first step


# -- SDEdit and inpainting ---------------------------------------------------------------------------------------------


def sub_grid(times: Tensor, strength: float) -> Tensor:
    """The last ceil(strength N) of the N steps of a grid, float64; all of it at strength 1.

    On the uniform grid the editing starts at t = strength, rounded up to the grid.

    Raises:
        ValueError: `strength` is not in (0, 1].
    """
    if not 0 < strength <= 1:
        raise ValueError(f"`strength` must be in (0, 1], got {strength}: 1 keeps nothing of the image.")
    num_steps = len(times) - 1
    return times[num_steps - max(1, math.ceil(strength * num_steps - 1e-9)) :]


@dataclass(frozen=True, kw_only=True)
class Inpainting(Wrapped):
    """A denoiser that knows x0 where the mask is False: there it answers (known, (x_t - alpha known) / sigma).

    Every sampler then carries the known region along one noising of it, and its last step, which returns x0, gives the
    region back exactly. A call costs what a call of `inner` costs.

    Args:
        inner: the model, its condition bound.
        known: the image, shape (B, *dims) or (1, *dims).
        mask: bool, broadcastable to the image; True is to be generated.
    """

    known: Tensor
    mask: Tensor

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        estimate = self.inner(x_t, t)
        known = estimate.with_x0(self.known, x_t, self.path.at(t))
        return Estimate(
            x0=torch.where(self.mask, estimate.x0, known.x0),
            eps=torch.where(self.mask, estimate.eps, known.eps),
            x0_variance=self._masked(estimate.x0_variance),
            log_variance_fraction=self._masked(estimate.log_variance_fraction),
        )

    def _masked(self, values: Tensor | None) -> Tensor | None:
        return None if values is None else torch.where(self.mask, values, 0.0)


def sdedit(
    denoiser: Denoiser,
    x0: Tensor,
    noise: Noise,
    *,
    strength: float = 0.6,
    sampler: str | Sampler = "ddim",
    num_steps: int = 50,
    grid: Choice | TimeGrid = "uniform",
    options: Mapping[str, object] | None = None,
) -> Iterator[Step]:
    """SDEdit: noise the image to the start of a sub-grid, x = alpha x0 + sigma eps, and sample from there (Meng et al.,
    2021, algorithm 1, 2108.01073).

    `strength` is the fraction of the grid's steps that is walked (`sub_grid`). At strength 1 the image plays no part:
    the start is sigma eps, as in `walk`, with the same samples for the same seeds. Mixing would be the same where
    alpha(1) = 0, but would leave alpha(1) x0 in the start on a path that does not reach it (a trace on `vp_discrete`,
    all of the image on `ve`).

    Args:
        denoiser: with its condition bound.
        x0: shape (B, *dims), or (1, *dims) for one image edited many times.
        noise: one seed a sample, unused so far.
        strength: in (0, 1].
        sampler, num_steps, grid, options: as in `methods.sampling.walk`; the cost is that of ceil(strength num_steps)
            steps.

    Raises:
        ConfigError: unknown sampler, grid or option.
        ValueError: `strength` or another value out of range.
    """
    times = sub_grid(grid_times(denoiser, grid, num_steps), strength)
    x = _start(denoiser, x0, noise, times, from_noise=strength == 1)
    return walk_from(denoiser, x, times, noise, sampler=sampler, options=options)


def _start(denoiser: Denoiser, x0: Tensor, noise: Noise, times: Tensor, *, from_noise: bool | Tensor) -> Tensor:
    """alpha x0 + sigma eps at times[0], and sigma eps alone where `from_noise` is True."""
    x0 = x0.expand(len(noise.seeds), *x0.shape[1:])
    eps = noise.like(x0)
    return torch.where(
        torch.as_tensor(from_noise, device=x0.device),
        pure_noise(denoiser, eps, times),
        denoiser.path.mix(x0, eps, float(times[0])),
    )


def inpaint(
    denoiser: Denoiser,
    x0: Tensor,
    mask: Tensor,
    noise: Noise,
    *,
    strength: float = 1.0,
    resample: int = 1,
    jump: int = 1,
    sampler: str | Sampler = "ddim",
    num_steps: int = 50,
    grid: Choice | TimeGrid = "uniform",
    options: Mapping[str, object] | None = None,
) -> Iterator[Step]:
    """Generate where the mask is True and keep the rest exactly (`Inpainting`), with RePaint's resampling: every `jump`
    steps are undone by the forward kernel and walked again, `resample` times in all.

    The model sees the known region only through its noise, so a single walk does not sample the exact conditional law;
    resampling comes nearer to it (Lugmayr et al., 2022, algorithm 1, 2201.09865; there the known region's noise is
    redrawn at every step, here it stays one trajectory, so that deterministic samplers can be used). A sampler with a
    memory starts afresh at every jump.

    Args:
        denoiser, x0, noise, sampler, num_steps, grid, options: as in `sdedit`.
        mask: bool, broadcastable to `x0`; True is to be generated.
        strength: in (0, 1]; below 1 the region to be generated starts from its noised self.
        resample: walks over every piece of the grid, at least 1; multiplies the cost.
        jump: steps a piece, at least 1.

    Raises:
        ConfigError: unknown sampler, grid or option.
        ValueError: a value out of range.
    """
    if resample < 1 or jump < 1:
        raise ValueError(f"`resample` and `jump` must be at least 1, got {resample} and {jump}.")
    times = sub_grid(grid_times(denoiser, grid, num_steps), strength)
    x = _start(denoiser, x0, noise, times, from_noise=mask if strength == 1 else False)
    keeping = Inpainting(inner=denoiser, known=x0, mask=mask)
    if resample == 1:
        return walk_from(keeping, x, times, noise, sampler=sampler, options=options)
    pieces = [times[i : i + jump + 1] for i in range(0, len(times) - 1, jump) for _ in range(resample)]
    return _resampled(keeping, x, pieces, noise, sampler, options)


def _resampled(
    denoiser: Denoiser,
    x: Tensor,
    pieces: list[Tensor],
    noise: Noise,
    sampler: str | Sampler,
    options: Mapping[str, object] | None,
) -> Iterator[Step]:
    t = float(pieces[0][0])
    for times in pieces:
        if t < times[0]:
            x = renoise(denoiser.path, x, t, float(times[0]), noise.like(x))
        for step in walk_from(denoiser, x, times, noise, sampler=sampler, options=options):
            t, x = step.t, step.x
            yield step


# -- inversion ---------------------------------------------------------------------------------------------------------


def invertible(sampler: str | Sampler) -> Sampler:
    """The sampler called `sampler`, which must be deterministic.

    Raises:
        ConfigError: unknown sampler.
        ValueError: it draws noise.
    """
    chosen = sampler_of(sampler)
    if chosen.stochastic:
        known = ", ".join(name for name, other in SAMPLERS.items() if not other.stochastic)
        raise ValueError(f"sampler {sampler!r} draws noise, so it cannot be walked backwards. Use one of {known}.")
    return chosen


def invert(
    denoiser: Denoiser, x0: Tensor, times: Times, *, sampler: str | Sampler = "ddim", iterations: int | None = None
) -> Iterator[Step]:
    """Walk a sampler's grid backwards, from an image to the noise that it comes from: the same integrator with s > t
    (Song et al., 2020, section 4.3, 2010.02502). The Steps' times rise; the last `x` is the state at times[0].

    Where the grid ends at 0 the net is not asked there, since most predictions have no eps at sigma = 0. Sampling ends
    by returning x0(x_m) of the last positive time m, so the first step looks for the x_m whose x0 is the image, by
    `iterations` turns of x_m <- alpha_m x0 + sigma_m eps(x_m, m) from x_m = x0. With 0 turns the image itself is taken
    for x_m, which is an error of order 1: the default of samplers of order 1, whose own errors it half cancels; others
    take 6 turns, and the whole way there and back keeps their order.

    Args:
        denoiser: with its condition bound. Guidance other than 1 is not undone well.
        x0: the image, shape (B, *dims); where the grid ends above 0, the state there.
        times: the grid that is sampled with, falling.
        sampler: a deterministic one of `SAMPLERS`; its order is that of inversion and sampling together.
        iterations: 0 or more, one evaluation each; None chooses as above.

    Raises:
        ConfigError: unknown sampler.
        ValueError: a stochastic sampler, fewer than two steps, or a grid that does not fall.
    """
    chosen, levels = invertible(sampler), levels_of(denoiser.path, times)[::-1]
    if len(levels) < 3:
        raise ValueError("inversion needs 2 steps or more, got 1: a single step returns the same x0 for any noise.")
    turns = (FIXED_POINT if chosen.order > 1 else 0) if iterations is None else iterations
    if turns < 0:
        raise ValueError(f"`iterations` must be 0 or more, got {iterations}.")
    return torch.no_grad()(_inverted)(chosen, denoiser, x0, levels, turns)


def _inverted(sampler: Sampler, denoiser: Denoiser, x0: Tensor, levels: list[Level], iterations: int) -> Iterator[Step]:
    x = x0
    if levels[0].sigma == 0:
        levels = levels[1:]
        for _ in range(iterations):
            estimate = denoiser(x, levels[0].t)
            x = remix(replace(estimate, x0=x0), levels[0])
            yield Step(levels[0].t, x, estimate)
    yield from sampler.run(denoiser, x, levels)


def reconstruct(
    denoiser: Denoiser, x0: Tensor, times: Times, *, sampler: str | Sampler = "ddim", iterations: int | None = None
) -> Tensor:
    """The image out of its own noise: `invert`, then sample on the same grid; shape (B, *dims). Arguments and errors as
    in `invert`."""
    return last(there_and_back(denoiser, x0, times, sampler=sampler, iterations=iterations))


def there_and_back(
    denoiser: Denoiser, x0: Tensor, times: Times, *, sampler: str | Sampler = "ddim", iterations: int | None = None
) -> Iterator[Step]:
    """The steps of `reconstruct`: first those of `invert`, then those of sampling."""
    x = x0
    for step in invert(denoiser, x0, times, sampler=sampler, iterations=iterations):
        yield step
        x = step.x
    yield from invertible(sampler)(denoiser, x, times)


def decode(denoiser: Denoiser, x: Tensor, times: Times, sampler: str | Sampler = "ddim") -> Tensor:
    """Sample with a deterministic sampler from the state `x` at times[0]; shape (B, *dims)."""
    return last(invertible(sampler)(denoiser, x, times))


def last(steps: Iterator[Step]) -> Tensor:
    """The state after the last of `steps`."""
    *_, final = steps
    return final.x


def slerp(a: Tensor, b: Tensor, fraction: Tensor) -> Tensor:
    """Along the arc from a to b: [sin((1 - f) w) a + sin(f w) b] / sin(w), w the angle between them (Shoemake, 1985).

    Straight interpolation of two noises of n numbers would shrink their norm by up to sqrt(2); along the arc it is
    kept, so every state between is as likely as its ends.

    Args:
        a, b: one state each, shape (1, *dims).
        fraction: shape (N,) in [0, 1].

    Returns:
        Shape (N, *dims); exactly a at 0 and b at 1.
    """
    first, second = in_float64(a), in_float64(b)
    u, v = first.flatten() / first.norm(), second.flatten() / second.norm()
    angle = 2 * torch.atan2((u - v).norm(), (u + v).norm())
    f = per_sample(in_float64(fraction), first.expand(len(fraction), *a.shape[1:]))
    if angle < 1e-6 or angle > math.pi - 1e-6:
        return ((1 - f) * first + f * second).to(a)
    return ((torch.sin((1 - f) * angle) * first + torch.sin(f * angle) * second) / torch.sin(angle)).to(a)


def interpolate(
    denoiser: Denoiser,
    pair: Tensor,
    times: Times,
    *,
    num: int = 8,
    sampler: str | Sampler = "ddim",
    iterations: int | None = None,
) -> Tensor:
    """From one image to another by way of their noises: invert both, `slerp`, decode (Song et al., 2020, section 5.3,
    2010.02502).

    Args:
        denoiser: with no condition, or one of a single row, bound.
        pair: the two images, shape (2, *dims).
        times, sampler, iterations: as in `invert`.
        num: states from the first to the second, ends (the images' reconstructions) included, at least 2.

    Returns:
        Shape (num, *dims).

    Raises:
        ValueError: `num` below 2, or as `invert`.
    """
    if num < 2:
        raise ValueError(f"`num` must be at least 2 (both ends count), got {num}.")
    noises = last(invert(denoiser, pair, times, sampler=sampler, iterations=iterations))
    between = slerp(noises[:1], noises[1:], torch.linspace(0, 1, num, dtype=torch.float64))
    return decode(denoiser, between, times, sampler)


def psnr(x: Tensor, y: Tensor, peak: float = 2.0) -> Tensor:
    """10 log10(peak^2 / mean squared difference) of each sample in decibels, float64 of shape (B,); `peak` is the range
    of the values, 2 for images in [-1, 1]."""
    return 10 * torch.log10(peak**2 / in_float64(x - y).flatten(1).square().mean(1))
