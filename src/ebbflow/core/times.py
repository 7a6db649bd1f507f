"""Times, twice: the random t that a training step draws (`TIME_SAMPLERS`) and the grid that a sampler walks
(`TIME_GRIDS`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ebbflow.core.paths import DiscretePath, Path, warp

Draw = Callable[[int, Path, torch.Generator], Tensor]
Density = Callable[[Tensor, Path], Tensor]


@dataclass(frozen=True, kw_only=True)
class TimeSampler:
    """How training draws t.

    Args:
        draw: (num, path, generator) -> t, float64 of shape (num,), in (0, 1] for tables and (0, 1) otherwise.
        density: (t, path) -> its probability density pi(t) (for a table, of the uniform law between its entries).
    """

    draw: Draw
    density: Density


def _rand(num: int, generator: torch.Generator) -> Tensor:
    """Uniform in the open interval (0, 1)."""
    return (torch.rand(num, generator=generator, dtype=torch.float64)).clamp(min=2.0**-53)


def _randn(num: int, generator: torch.Generator) -> Tensor:
    return torch.randn(num, generator=generator, dtype=torch.float64)


def num_table_steps(path: Path) -> int:
    """Entries of a discrete path's table; 1000 for a continuous path."""
    return path.num_steps if isinstance(path, DiscretePath) else 1000


def _uniform(num: int, path: Path, generator: torch.Generator) -> Tensor:
    return _rand(num, generator)


def _discrete(num: int, path: Path, generator: torch.Generator) -> Tensor:
    steps = num_table_steps(path)
    return (torch.randint(steps, (num,), generator=generator) + 1).double() / steps


def _stratified(num: int, path: Path, generator: torch.Generator) -> Tensor:
    return (torch.arange(num) + _rand(num, generator)) / num


def _low_discrepancy(num: int, path: Path, generator: torch.Generator) -> Tensor:
    return ((_rand(1, generator) + torch.arange(num, dtype=torch.float64) / num) % 1).clamp(min=2.0**-53)


def _flat(t: Tensor, path: Path) -> Tensor:
    return torch.ones_like(t)


def logit_normal(mean: float = 0.0, std: float = 1.0) -> TimeSampler:
    """t = sigmoid(mean + std z), z ~ N(0, 1) (Esser et al., 2024, eq. 19, 2403.03206)."""

    def density(t: Tensor, path: Path) -> Tensor:
        z = (torch.logit(t) - mean) / std
        return torch.exp(-z * z / 2) / (std * math.sqrt(2 * math.pi) * t * (1 - t))

    return TimeSampler(draw=lambda num, path, g: torch.sigmoid(mean + std * _randn(num, g)), density=density)


def log_normal_sigma(mean: float = -1.2, std: float = 1.2) -> TimeSampler:
    """log(sigma / alpha) ~ N(mean, std^2) (Karras et al., 2022, table 1, 2206.00364); a logit-normal t on the flow
    path."""

    def density(t: Tensor, path: Path) -> Tensor:
        c = path.at(t)
        z = (-c.log_snr / 2 - mean) / std
        return torch.exp(-z * z / 2) / (std * math.sqrt(2 * math.pi)) * c.determinant / (c.alpha * c.sigma)

    return TimeSampler(draw=lambda num, path, g: path.time_of(-2 * (mean + std * _randn(num, g))), density=density)


def mode(scale: float = 1.29) -> TimeSampler:
    """t = 1 - u - scale (cos^2(pi u / 2) - 1 + u), u uniform: heavy in the middle, never 0 density (Esser et al., 2024,
    eq. 20)."""

    def of(u: Tensor) -> Tensor:
        return 1 - u - scale * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)

    def density(t: Tensor, path: Path) -> Tensor:
        low, high = torch.zeros_like(t), torch.ones_like(t)
        for _ in range(60):
            middle = (low + high) / 2
            low, high = torch.where(of(middle) > t, middle, low), torch.where(of(middle) > t, high, middle)
        return 1 / (1 + scale * (1 - math.pi / 2 * torch.sin(math.pi * low)))

    return TimeSampler(draw=lambda num, path, g: of(_rand(num, g)).clamp(2.0**-53, 1), density=density)


def _cosmap(num: int, path: Path, generator: torch.Generator) -> Tensor:
    return (1 - 1 / (torch.tan(math.pi / 2 * _rand(num, generator)) + 1)).clamp(min=2.0**-53)


TIME_SAMPLERS: dict[str, TimeSampler] = {
    "uniform": TimeSampler(draw=_uniform, density=_flat),
    "discrete": TimeSampler(draw=_discrete, density=_flat),
    "stratified": TimeSampler(draw=_stratified, density=_flat),
    "low_discrepancy": TimeSampler(draw=_low_discrepancy, density=_flat),
    "logit_normal": logit_normal(),
    "log_normal_sigma": log_normal_sigma(),
    "mode": mode(),
    "cosmap": TimeSampler(draw=_cosmap, density=lambda t, path: 2 / (math.pi * (1 - 2 * t + 2 * t * t))),
    "importance": TimeSampler(draw=_uniform, density=_flat),  # the law that training, by importance, is an estimate of
}


# -- grids -------------------------------------------------------------------------------------------------------------
# -----------------
# A grid is a strictly decreasing float64 tensor with num_steps + 1 entries, from 1 to 0.

SIGMA_RANGE = (0.002, 80.0)  # sigma / alpha between which grids in noise level are laid (Karras et al., 2022)


def _grid(inner: Tensor) -> Tensor:
    """`inner`, any tensor of num_steps entries, with its first set to 1 and a final 0."""
    times = torch.cat([inner.double(), torch.zeros(1, dtype=torch.float64)])
    times[0] = 1.0
    return times


def uniform(path: Path, num_steps: int) -> Tensor:
    """Equal steps in t from 1 to 0."""
    return torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)


def trailing(path: Path, num_steps: int) -> Tensor:
    """Entries T, T - T/N, ... of a table of T, rounded to whole entries, then 0 (Lin et al., 2023, section 3.3,
    2305.08891).

    Raises:
        ValueError: more steps than the table has entries.
    """
    table = num_table_steps(path)
    if num_steps > table:
        raise ValueError(
            f"grid 'trailing' visits entries of a table of {table}; got {num_steps} steps. Use fewer, or grid "
            "'uniform'."
        )
    return torch.round(uniform(path, num_steps) * table) / table


def karras(path: Path, num_steps: int, rho: float = 7.0) -> Tensor:
    """sigma / alpha = (a + i/(N-1) (b - a))^rho between the rho-th roots of 80 and 0.002 (Karras et al., 2022, eq. 5,
    2206.00364)."""
    if not rho > 0:
        raise ValueError(f"`rho` must be above 0, got {rho}.")
    high, low = (level ** (1 / rho) for level in _sigma_range(path))
    return _grid(path.time_of(-2 * rho * torch.linspace(high, low, num_steps, dtype=torch.float64).log()))


def log_snr(path: Path, num_steps: int) -> Tensor:
    """Equal steps in log-SNR between sigma / alpha = 80 and 0.002, then 0 (Lu et al., 2022, 2211.01095)."""
    high, low = (math.log(level) for level in _sigma_range(path))
    return _grid(path.time_of(-2 * torch.linspace(high, low, num_steps, dtype=torch.float64)))


def cosine(path: Path, num_steps: int) -> Tensor:
    """Equal steps in the angle atan(sigma / alpha): the uniform grid of the cosine path, carried to any path by its
    log-SNR."""
    start = torch.atan(torch.exp(-path.log_snr(1.0) / 2))
    angles = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)[:-1] * start
    return _grid(path.time_of(-2 * torch.tan(angles).log()))


def quadratic(path: Path, num_steps: int) -> Tensor:
    """t = (1 - i/N)^2: small steps near the data (Song et al., 2020, appendix D.2, 2010.02502)."""
    return uniform(path, num_steps) ** 2


def shifted(path: Path, num_steps: int, shift: float = 3.0) -> Tensor:
    """The uniform grid warped by t' = k t / (1 + (k - 1) t): large steps near the data for k > 1 (Esser et al., 2024,
    2403.03206)."""
    if not shift > 0:
        raise ValueError(f"`shift` must be above 0, got {shift}.")
    return warp(uniform(path, num_steps), shift)


def _sigma_range(path: Path) -> tuple[float, float]:
    top = float(torch.exp(-path.log_snr(1.0) / 2))
    return min(SIGMA_RANGE[1], top), SIGMA_RANGE[0]


TIME_GRIDS: dict[str, Callable[..., Tensor]] = {
    "uniform": uniform,
    "trailing": trailing,
    "karras": karras,
    "log_snr": log_snr,
    "cosine": cosine,
    "quadratic": quadratic,
    "shifted": shifted,
}
