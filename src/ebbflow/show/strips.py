"""Strips and traces: what noising does to an image, and what a sampler does on the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ebbflow.core.kernels import forward_chain
from ebbflow.core.noise import Noise
from ebbflow.core.paths import Path
from ebbflow.core.shape import per_sample
from ebbflow.data import to_uint8
from ebbflow.methods.denoise import Denoiser
from ebbflow.methods.samplers import Sampler, Step
from ebbflow.methods.sampling import pure_noise, walk_from
from ebbflow.show import canvas
from ebbflow.show.plots import to_picture
from ebbflow.show.style import BEHIND, FAINT, INK, in_style

if TYPE_CHECKING:
    from PIL import Image


Decode = Callable[[Tensor], Tensor]


def itself(x: Tensor) -> Tensor:
    """The states of a model that works on images."""
    return x


def as_image(x0: Tensor, decode: Decode = itself) -> Tensor:
    """Clean states as uint8 images."""
    return to_uint8(decode(x0).clamp(-1, 1))


def as_seen(path: Path, x: Tensor, t: float | Tensor, decode: Decode = itself) -> Tensor:
    """x_t / sqrt(alpha^2 + sigma^2), the scale on which nets see it, as uint8 images."""
    c = path.at(t)
    return as_image(x / per_sample(torch.sqrt(c.alpha**2 + c.sigma**2), x), decode)


# -- noising -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Noising:
    """An image noised many times over, in two ways.

    Args:
        times: shape (K,), rising.
        closed: states by `Path.mix`, a fresh draw each, shape (K, B, *dims).
        chain: states of the one-step chain, shape (K, B, *dims).
    """

    path: Path
    x0: Tensor
    times: Tensor
    closed: Tensor
    chain: Tensor

    def rows(self) -> list[dict[str, float]]:
        """By time: alpha, sigma, and mean and standard deviation of (x_t - alpha x0) / sigma, which is noise of mean 0
        and standard deviation 1 if the states are right."""
        rows = []
        for t, closed, chain in zip(self.times.tolist(), self.closed, self.chain, strict=True):
            c = self.path.at(t)
            row = {"t": t, "alpha": float(c.alpha), "sigma": float(c.sigma)}
            for name, x in (("closed", closed), ("chain", chain)):
                noise = (x - c.alpha * self.x0) / c.sigma
                row |= {f"{name}_mean": float(noise.mean()), f"{name}_std": float(noise.std())}
            rows.append({key: round(value, 4) for key, value in row.items()})
        return rows

    def draw(self) -> Image.Image:
        """The first draw at every time: a row by closed form, a row step by step."""
        closed, chain = (as_seen(self.path, x[:, 0], self.times) for x in (self.closed, self.chain))
        image = to_uint8(self.x0)
        names = ["t = 0", *(f"{t:.3g}" for t in self.times.tolist())]
        tiles = torch.cat([image, closed, image, chain])
        return canvas.grid(tiles, columns=len(names), row_names=["closed form", "step by step"], column_names=names)


def noise_both_ways(
    path: Path, x0: Tensor, *, num_steps: int = 1000, columns: int = 8, num: int = 64, seed: int = 0
) -> Noising:
    """`num` noisings of one image at `columns` times, in closed form and by a chain of `num_steps` steps.

    Args:
        path: the path.
        x0: shape (1, *dims).
        num_steps: steps of the chain from t = 0 to 1, at least `columns`.
        columns, num: at least 1.
        seed: of both; their noises are independent.

    Raises:
        ValueError: fewer steps than columns.
    """
    if not 1 <= columns <= num_steps:
        raise ValueError(f"a chain of {num_steps} steps can be shown at 1 to {num_steps} times, got {columns}.")
    shown = torch.linspace(0, num_steps, columns + 1, dtype=torch.float64).round()[1:].long()
    grid = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    many = x0.expand(num, *x0.shape[1:])
    noise = Noise(range(seed, seed + num))
    wanted = set(shown.tolist())
    steps = forward_chain(path, many, grid, Noise(range(seed + num, seed + 2 * num)))
    chain = torch.stack([x for i, x in enumerate(steps, start=1) if i in wanted])
    closed = torch.stack([path.mix(many, noise.like(many), t) for t in grid[shown].tolist()])
    return Noising(path=path, x0=x0, times=grid[shown], closed=closed, chain=chain)


# -- denoising ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Trace:
    """A sampler's way down: the states at N + 1 times, and the x0 predicted from each of them (the last: itself).

    Args:
        times: falling, N + 1 of them.
        states: shape (N + 1, B, *dims).
        x0: shape (N + 1, B, *dims).
    """

    times: list[float]
    states: Tensor
    x0: Tensor


def traced(x: Tensor, t: float, steps: Iterator[Step]) -> Trace:
    """The trace of a sampler that starts with `x` at `t`."""
    done = list(steps)
    return Trace(
        times=[t, *(s.t for s in done)],
        states=torch.stack([x, *(s.x for s in done)]).float().cpu(),
        x0=torch.stack([*(s.estimate.x0 for s in done), done[-1].x]).float().cpu(),
    )


def trace(
    denoiser: Denoiser,
    dims: tuple[int, ...],
    seeds: Sequence[int],
    times: Tensor,
    *,
    sampler: str | Sampler,
    options: Mapping[str, object] | None = None,
    device: torch.device | str = "cpu",
) -> Trace:
    """The trace of sampling from pure noise, sample i from `seeds[i]` alone; see `methods.sampling.walk`."""
    noise = Noise(seeds)
    x = pure_noise(denoiser, noise.draw(dims).to(device), times)
    return traced(x, float(times[0]), walk_from(denoiser, x, times, noise, sampler=sampler, options=options))


@torch.no_grad()
def toy(denoiser: Denoiser, x: Tensor, times: Tensor) -> Iterator[Step]:
    """The sampler that suggests itself and fails: x_s = x_t - eps(x_t), all of the predicted noise at every step.

    The first step already leaves what should be x0 / alpha; every further one takes noise away that is no longer there.
    """
    for t, s in pairwise(times.tolist()):
        estimate = denoiser(x, t)
        x = x - estimate.eps
        yield Step(s, x, estimate)


def toy_trace(
    denoiser: Denoiser, dims: tuple[int, ...], seeds: Sequence[int], times: Tensor, device: torch.device | str = "cpu"
) -> Trace:
    """The trace of the `toy` from pure noise."""
    start = pure_noise(denoiser, Noise(seeds).draw(dims).to(device), times)
    return traced(start, float(times[0]), toy(denoiser, start, times))


def _columns(num: int, most: int) -> list[int]:
    """At most `most` of 0..num-1, evenly spread, with both ends."""
    return sorted({round(i * (num - 1) / max(1, min(num, most) - 1)) for i in range(min(num, most))})


Row = Callable[[int, list[int]], Tensor]  # a sample and some of the times -> uint8 images of it at those


def _pairs(times: Sequence[float], num: int, most: int, upper: tuple[str, Row], lower: tuple[str, Row]) -> Image.Image:
    """Two named rows a sample, and a column for up to `most` of the times."""
    columns = _columns(len(times), most)
    return canvas.grid(
        torch.cat([row(i, columns) for i in range(num) for _, row in (upper, lower)]),
        columns=len(columns),
        row_names=[upper[0], lower[0]] * num,
        column_names=[f"t = {times[k]:.2g}" if k == columns[0] else f"{times[k]:.2g}" for k in columns],
    )


def _states(path: Path, way: Trace, decode: Decode) -> Row:
    return lambda i, columns: torch.cat(
        [as_seen(path, way.states[k, i : i + 1], way.times[k], decode) for k in columns]
    )


def draw_denoising(path: Path, way: Trace, decode: Decode = itself, most: int = 12) -> Image.Image:
    """Two rows a sample, the state and the x0 predicted from it, and a column for up to `most` of the times; `decode`
    makes images of a latent run's states."""
    upper, num = ("x_t", _states(path, way, decode)), way.states.shape[1]
    return _pairs(way.times, num, most, upper, ("x0(x_t)", lambda i, columns: as_image(way.x0[columns, i], decode)))


def denoising_frames(path: Path, way: Trace, decode: Decode = itself) -> list[Image.Image]:
    """A frame a time: the states in a row, the predicted x0 in the row below."""
    return [
        canvas.grid(
            torch.cat([as_seen(path, x, t, decode), as_image(x0, decode)]), columns=len(x), row_names=["x_t", "x0(x_t)"]
        )
        for t, x, x0 in zip(way.times, way.states, way.x0, strict=True)
    ]


def draw_toy(path: Path, toy: Trace, real: Trace, name: str, decode: Decode = itself, most: int = 11) -> Image.Image:
    """A pair of rows a sample from the same noise: the toy sampler above the real one, called `name`."""
    lower, num = (name, _states(path, real, decode)), real.states.shape[1]
    upper = ("x - eps", lambda i, columns: as_image(toy.states[columns, i], decode))
    return _pairs(real.times, num, most, upper, lower)


@in_style
def draw_trajectories(ways: Mapping[str, Trace], data: Tensor | None = None) -> Image.Image:
    """A panel a sampler: the ways of 2-D points from noise (hollow) to samples (filled), the data below them.

    Args:
        ways: traces by the name of their panel; the same samples have the same colour.
        data: points (N, 2) to lay below.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(ways), 5.4), dpi=110, layout="constrained")
    ends = torch.cat([way.states[[0, -1]].flatten(0, 1) for way in ways.values()])
    low, high = (float(torch.quantile(ends, q)) for q in (0.005, 0.995))
    edge = 0.12 * (high - low)
    for panel, (name, way) in zip(figure.subplots(1, len(ways), squeeze=False)[0], ways.items(), strict=True):
        if data is not None:
            panel.scatter(data[:, 0], data[:, 1], s=4, color=BEHIND, linewidths=0, label="data")
        num = way.states.shape[1]
        colours = colormaps["turbo"](torch.linspace(0.05, 0.95, num).numpy())
        lines = {"lw": 0.8, "alpha": 0.8} if _wander(way) < 3 else {"lw": 0.4, "alpha": 0.45}
        for i, colour in enumerate(colours):
            panel.plot(way.states[:, i, 0], way.states[:, i, 1], color=colour, **lines)
        panel.scatter(*way.states[0].T, s=22, facecolors="none", edgecolors=colours, linewidths=1, zorder=3)
        panel.scatter(*way.states[-1].T, s=30, color=colours, edgecolors=INK, linewidths=0.6, zorder=4)
        panel.scatter([], [], s=22, facecolors="none", edgecolors=INK, linewidths=1, label="noise, t = 1")
        panel.scatter([], [], s=30, color=FAINT, edgecolors=INK, linewidths=0.6, label="sample, t = 0")
        span = (low - edge, high + edge)
        panel.set(title=f"{name}, {len(way.times) - 1} steps", xlim=span, ylim=span, aspect="equal")
        panel.set(xlabel="$x_1$", ylabel="$x_2$")
    figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return to_picture(figure)


def _wander(way: Trace) -> float:
    """How much longer the ways are than straight lines would be."""
    hops = way.states.diff(dim=0).norm(dim=-1).sum(0)
    return float((hops / (way.states[-1] - way.states[0]).norm(dim=-1).clamp_min(1e-6)).median())
