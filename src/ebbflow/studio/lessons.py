"""What the notes explain, computed to be touched: paths, an image noised, exact fields of points in the plane."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ebbflow.core.noise import Noise
from ebbflow.core.paths import PATHS, Path
from ebbflow.data import load_dataset, to_uint8
from ebbflow.errors import ConfigError, choose
from ebbflow.methods.denoise import Denoiser
from ebbflow.methods.guidance import classifier_free
from ebbflow.methods.oracles import FiniteData, GaussianMixture
from ebbflow.methods.samplers import SAMPLERS
from ebbflow.methods.sampling import grid_times, pure_noise, walk_from

MANY = 61  # times of a curve, and frames of a noised image
PLANE = ("gaussians", "moons", "rings", "checkerboard", "swiss_roll")
LAW = 600  # points that stand for a law
FINE = 160  # steps of the walk that shows where the field leads
CEILING = 30.0  # of |log-SNR| in a curve


def curves(path: str) -> dict[str, Any]:
    """alpha, sigma and log-SNR of a path over time.

    Raises:
        ConfigError: an unknown path.
    """
    chosen, times = path_of(path), torch.linspace(0, 1, MANY, dtype=torch.float64)
    c, log_snr = chosen.at(times), chosen.log_snr(times).clamp(-CEILING, CEILING)
    rows = {"t": times, "alpha": c.alpha, "sigma": c.sigma, "log_snr": log_snr}
    return {name: [round(one, 4) for one in values.tolist()] for name, values in rows.items()}


def path_of(name: str) -> Path:
    """The path of a name, with its defaults."""
    return choose(PATHS, name, "path")()


def noised(path: str, index: int) -> Tensor:
    """A digit at every time of `curves`, as it looks where it is scaled to what a net is shown: uint8 (N, C, H, W).

    Raises:
        ConfigError: an unknown path, or no such digit.
    """
    data = load_dataset("digits").train
    if not 0 <= index < len(data):
        raise ConfigError(f"`index` must be in [0, {len(data)}), got {index}.")
    chosen, x0 = path_of(path), data.x0(torch.tensor([index]))
    eps = Noise([index]).like(x0)
    frames = []
    for t in torch.linspace(0, 1, MANY, dtype=torch.float64).tolist():
        c = chosen.at(t)
        frames.append(chosen.mix(x0, eps, t) / float((c.alpha**2 + c.sigma**2).sqrt()))
    return to_uint8(torch.cat(frames).clamp(-1, 1))


@functools.lru_cache(maxsize=16)
def law(data: str) -> Tensor:
    """Points that stand for a data set of the plane, float64 (N, 2).

    Raises:
        ConfigError: another data set.
    """
    if data not in PLANE:
        raise ConfigError(f"`data` must be one of {', '.join(PLANE)}, got {data!r}.")
    return load_dataset(data).train.x[:LAW].double()


def field(data: str, path: Path, guidance: float = 1.0, label: int | None = None) -> Denoiser:
    """The exact denoiser of a data set of the plane; eight normal distributions can be told which one, and guided."""
    if data != "gaussians":
        return FiniteData(law(data), path)
    angles = torch.arange(8, dtype=torch.float64) * math.pi / 4
    means = 1.1 * torch.stack([angles.cos(), angles.sin()], dim=1)
    mixture = GaussianMixture(means, 0.07 * torch.ones(8), torch.ones(8), path)
    if label is None:
        return mixture
    return classifier_free(mixture, guidance=guidance).given(torch.tensor([label]))


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """Points on their way from noise to data.

    Args:
        data: a name of `PLANE`.
        path, sampler, grid: by name.
        steps: in [1, 200].
        num: points, in [1, 400].
        seed: of the first.
        guidance, label: of the eight normal distributions alone.
    """

    data: str = "gaussians"
    path: str = "flow"
    sampler: str = "euler"
    steps: int = 10
    grid: str = "uniform"
    num: int = 120
    seed: int = 0
    guidance: float = 1.0
    label: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 200 or not 1 <= self.num <= 400:
            raise ConfigError(f"`steps` must be in [1, 200] and `num` in [1, 400], got {self.steps} and {self.num}.")
        if self.label is not None and not 0 <= self.label < 8:
            raise ConfigError(f"`label` must be in [0, 8), got {self.label}.")


def ways(asked: Lesson) -> dict[str, Any]:
    """The ways of points from noise with a sampler, and where the same noises belong: the walk of many small steps.

    Returns:
        `ways` (steps + 1, N, 2), `ends` (N, 2) of the fine walk, the `law`, `error` (root mean square of the distance
        to the ends, None for a sampler that draws noise) and `bend` of the fine ways (0: one Euler step is exact).

    Raises:
        ConfigError, ValueError: an unknown name.
    """
    chosen, seeds = choose(SAMPLERS, asked.sampler, "sampler"), range(asked.seed, asked.seed + asked.num)
    denoiser = field(asked.data, path_of(asked.path), asked.guidance, asked.label)
    eps = Noise(seeds).draw((2,)).double()
    made = _walked(denoiser, eps, asked.sampler, asked.steps, asked.grid, seeds)
    fine = _walked(denoiser, eps, "heun", FINE, "uniform", seeds)
    error = float((made[-1] - fine[-1]).square().sum(1).mean().sqrt())
    return {
        "ways": rounded(made),
        "ends": rounded(fine[-1]),
        "law": rounded(law(asked.data)),
        "error": None if chosen.stochastic else round(error, 4),
        "bend": round(float(_bend(fine)), 4),
    }


def rounded(x: Tensor) -> Any:
    """Numbers to a thousandth."""
    return x.mul(1e3).round().div(1e3).tolist()


def _walked(denoiser: Denoiser, eps: Tensor, sampler: str, steps: int, grid: str, seeds: range) -> Tensor:
    times = grid_times(denoiser, grid, steps)
    x = pure_noise(denoiser, eps, times)
    noise = Noise(seeds)
    noise.draw((2,))
    return torch.stack([x, *(step.x for step in walk_from(denoiser, x, times, noise, sampler=sampler))])


def _bend(ways: Tensor) -> Tensor:
    """sqrt of E |v - chord|^2 over E |chord|^2 along ways of even steps of t: 0 where all are straight and walked at an
    even pace, which one Euler step follows exactly (Liu et al., 2022, eq. 8, 2209.03003, over the chord)."""
    chord, velocity = ways[-1] - ways[0], ways.diff(dim=0) * (len(ways) - 1)
    return ((velocity - chord).square().mean() / chord.square().mean().clamp(min=1e-9)).sqrt()


def views(*, data: str, path: str, t: float, x: float, y: float) -> dict[str, Any]:
    """The three views of one prediction at a point of the plane: x0, eps, and the velocity.

    Raises:
        ConfigError: an unknown name, or t outside (0, 1).
    """
    if not 0 < t < 1:
        raise ConfigError(f"`t` must be in (0, 1), got {t}.")
    way = path_of(path)
    point = torch.tensor([[x, y]], dtype=torch.float64)
    estimate = field(data, way)(point, t)
    c = way.at(t)
    velocity = way.velocity(estimate.x0, estimate.eps, torch.tensor(t, dtype=torch.float64))
    numbers = {"x0": estimate.x0, "eps": estimate.eps, "velocity": velocity}
    return {
        **{name: [round(one, 4) for one in value[0].tolist()] for name, value in numbers.items()},
        "alpha": round(float(c.alpha), 4),
        "sigma": round(float(c.sigma), 4),
        "log_snr": round(float(way.log_snr(t).clamp(-CEILING, CEILING)), 3),
    }
