"""Times, twice: the random t that a training step draws (`TIME_SAMPLERS`) and the grid that a sampler walks
(`TIME_GRIDS`)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor

from ebbflow.core.entries import Choice, entry
from ebbflow.core.paths import DiscretePath, Path, warp
from ebbflow.errors import ConfigError
from ebbflow.values import Checked

Mean = Annotated[float, Interval(ge=-100, le=100)]
Spread = Annotated[float, Interval(gt=0, le=100)]


@dataclass(frozen=True, kw_only=True)
class TimeSampler(Checked, ABC):
    """How training draws t."""

    @abstractmethod
    def draw(self, num: int, path: Path, generator: torch.Generator) -> Tensor:
        """t, float64 of shape (num,), in (0, 1] for tables and (0, 1) otherwise."""

    @abstractmethod
    def density(self, t: Tensor, path: Path) -> Tensor:
        """The probability density pi(t) of each t (for a table, of the uniform law between its entries)."""


def _rand(num: int, generator: torch.Generator) -> Tensor:
    """Uniform in the open interval (0, 1)."""
    return (torch.rand(num, generator=generator, dtype=torch.float64)).clamp(min=2.0**-53)


def _randn(num: int, generator: torch.Generator) -> Tensor:
    return torch.randn(num, generator=generator, dtype=torch.float64)


def num_table_steps(path: Path) -> int:
    """Entries of a discrete path's table; 1000 for a continuous path."""
    return path.num_steps if isinstance(path, DiscretePath) else 1000


@dataclass(frozen=True, kw_only=True)
class Uniform(TimeSampler):
    """t uniform in (0, 1)."""

    def draw(self, num: int, path: Path, generator: torch.Generator) -> Tensor:
        return _rand(num, generator)

    def density(self, t: Tensor, path: Path) -> Tensor:
        return torch.ones_like(t)


@dataclass(frozen=True, kw_only=True)
class Discrete(Uniform):
    """The entries of the path's table, each as likely."""

    def draw(self, num: int, path: Path, generator: torch.Generator) -> Tensor:
        steps = num_table_steps(path)
        return (torch.randint(steps, (num,), generator=generator) + 1).double() / steps


@dataclass(frozen=True, kw_only=True)
class Stratified(Uniform):
    """One t in each of as many equal parts as there are samples."""

    def draw(self, num: int, path: Path, generator: torch.Generator) -> Tensor:
        return (torch.arange(num) + _rand(num, generator)) / num


@dataclass(frozen=True, kw_only=True)
class LowDiscrepancy(Uniform):
    """(u + i/B) mod 1 for one uniform u a batch (Kingma et al., 2021, 2107.00630)."""

    def draw(self, num: int, path: Path, generator: torch.Generator) -> Tensor:
        return ((_rand(1, generator) + torch.arange(num, dtype=torch.float64) / num) % 1).clamp(min=2.0**-53)


@dataclass(frozen=True, kw_only=True)
class Importance(Uniform):
    """As often as a bin's losses are large, weighted back (Nichol & Dhariwal, 2021, eq. 18, 2102.09672): an estimate of
    the uniform law, which it is until training has shown it losses."""


@dataclass(frozen=True, kw_only=True)
class _Normal(TimeSampler):
    mean: Mean
    std: Spread

    def _draws(self, num: int, generator: torch.Generator) -> Tensor:
        return self.mean + self.std * _randn(num, generator)

    def _density_at(self, value: Tensor) -> Tensor:
        z = (value - self.mean) / self.std
        return torch.exp(-z * z / 2) / (self.std * math.sqrt(2 * math.pi))


@dataclass(frozen=True, kw_only=True)
class LogitNormal(_Normal):
    """t = sigmoid(mean + std z), z ~ N(0, 1) (Esser et al., 2024, eq. 19, 2403.03206).

    Args:
        mean: finite; above 0 draws more noise.
        std: above 0.
    """

    mean: Mean = 0.0
    std: Spread = 1.0

    def draw(self, num: int, path: Path, generator: torch.Generator) -> Tensor:
        return torch.sigmoid(self._draws(num, generator))

    def density(self, t: Tensor, path: Path) -> Tensor:
        return self._density_at(torch.logit(t)) / (t * (1 - t))


@dataclass(frozen=True, kw_only=True)
class LogNormalSigma(_Normal):
    """log(sigma / alpha) ~ N(mean, std^2) (Karras et al., 2022, table 1, 2206.00364); a logit-normal t on the flow
    path.

    Args:
        mean: finite; -1.2 in the paper.
        std: above 0.
    """

    mean: Mean = -1.2
    std: Spread = 1.2

    def draw(self, num: int, path: Path, generator: torch.Generator) -> Tensor:
        return path.time_of(-2 * self._draws(num, generator))

    def density(self, t: Tensor, path: Path) -> Tensor:
        c = path.at(t)
        return self._density_at(-c.log_snr / 2) * c.determinant / (c.alpha * c.sigma)


@dataclass(frozen=True, kw_only=True)
class Mode(TimeSampler):
    """t = 1 - u - scale (cos^2(pi u / 2) - 1 + u), u uniform: heavy in the middle, never of density 0 (Esser et al.,
    2024, eq. 20, 2403.03206).

    Args:
        scale: in [-1, 2 / (pi - 2)), where t falls with u; 0 is uniform, below 0 the ends are heavy.
    """

    scale: Annotated[float, Interval(ge=-1, lt=round(2 / (math.pi - 2), 3))] = 1.29

    def _of(self, u: Tensor) -> Tensor:
        return 1 - u - self.scale * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)

    def draw(self, num: int, path: Path, generator: torch.Generator) -> Tensor:
        return self._of(_rand(num, generator)).clamp(2.0**-53, 1)

    def density(self, t: Tensor, path: Path) -> Tensor:
        low, high = torch.zeros_like(t), torch.ones_like(t)
        for _ in range(60):
            middle = (low + high) / 2
            above = self._of(middle) > t
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        return 1 / (1 + self.scale * (1 - math.pi / 2 * torch.sin(math.pi * low)))


@dataclass(frozen=True, kw_only=True)
class CosMap(TimeSampler):
    """The density of the cosine path's clock on the flow path, 2 / (pi (1 - 2t + 2t^2)) (Esser et al., 2024,
    2403.03206)."""

    def draw(self, num: int, path: Path, generator: torch.Generator) -> Tensor:
        return (1 - 1 / (torch.tan(math.pi / 2 * _rand(num, generator)) + 1)).clamp(min=2.0**-53)

    def density(self, t: Tensor, path: Path) -> Tensor:
        return 2 / (math.pi * (1 - 2 * t + 2 * t * t))


TIME_SAMPLERS: dict[str, TimeSampler] = {
    "uniform": Uniform(),
    "discrete": Discrete(),
    "stratified": Stratified(),
    "low_discrepancy": LowDiscrepancy(),
    "logit_normal": LogitNormal(),
    "log_normal_sigma": LogNormalSigma(),
    "mode": Mode(),
    "cosmap": CosMap(),
    "importance": Importance(),
}


def time_sampler(given: Choice | TimeSampler) -> TimeSampler:
    """The time sampling called `given`, or with options, or itself; see `entry`.

    Raises:
        ConfigError: an unknown name or option, or an object that is no `TimeSampler`.
    """
    found = entry(TIME_SAMPLERS, given, "time sampling")
    if not isinstance(found, TimeSampler):
        raise ConfigError(f"a time sampling draws times and knows their density: make {found!r} a `TimeSampler`.")
    return found


# -- grids -------------------------------------------------------------------------------------------------------------
# A grid is a function (path, num_steps) -> strictly decreasing float64 tensor with num_steps + 1 entries, from 1 to 0.

TimeGrid = Callable[[Path, int], Tensor]
SIGMA_RANGE = (0.002, 80.0)  # sigma / alpha between which grids in noise level are laid (Karras et al., 2022)


def _grid(inner: Tensor) -> Tensor:
    """`inner`, any tensor of num_steps entries, with its first set to 1 and a final 0."""
    times = torch.cat([inner.double(), torch.zeros(1, dtype=torch.float64)])
    times[0] = 1.0
    return times


def _even(num_steps: int) -> Tensor:
    return torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)


def uniform_grid(path: Path, num_steps: int) -> Tensor:
    """Equal steps in t from 1 to 0."""
    return _even(num_steps)


def trailing_grid(path: Path, num_steps: int) -> Tensor:
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
    return torch.round(_even(num_steps) * table) / table


@dataclass(frozen=True, kw_only=True)
class KarrasGrid(Checked):
    """sigma / alpha = (a + i/(N-1) (b - a))^rho between the rho-th roots of 80 and 0.002 (Karras et al., 2022, eq. 5,
    2206.00364).

    Args:
        rho: above 0; larger puts more steps near the data.
    """

    rho: Annotated[float, Interval(ge=0.01, le=1000)] = 7.0

    def __call__(self, path: Path, num_steps: int) -> Tensor:
        high, low = (level ** (1 / self.rho) for level in _sigma_range(path))
        return _grid(path.time_of(-2 * self.rho * torch.linspace(high, low, num_steps, dtype=torch.float64).log()))


def log_snr_grid(path: Path, num_steps: int) -> Tensor:
    """Equal steps in log-SNR between sigma / alpha = 80 and 0.002, then 0 (Lu et al., 2022, 2211.01095)."""
    high, low = (math.log(level) for level in _sigma_range(path))
    return _grid(path.time_of(-2 * torch.linspace(high, low, num_steps, dtype=torch.float64)))


def cosine_grid(path: Path, num_steps: int) -> Tensor:
    """Equal steps in the angle atan(sigma / alpha): the uniform grid of the cosine path, carried to any path by its
    log-SNR."""
    start = torch.atan(torch.exp(-path.log_snr(1.0) / 2))
    return _grid(path.time_of(-2 * torch.tan(_even(num_steps)[:-1] * start).log()))


def quadratic_grid(path: Path, num_steps: int) -> Tensor:
    """t = (1 - i/N)^2: small steps near the data (Song et al., 2020, appendix D.2, 2010.02502)."""
    return _even(num_steps) ** 2


@dataclass(frozen=True, kw_only=True)
class ShiftedGrid(Checked):
    """The uniform grid warped by t' = k t / (1 + (k - 1) t): large steps near the data for k > 1 (Esser et al., 2024,
    2403.03206).

    Args:
        shift: k above 0.
    """

    shift: Annotated[float, Interval(ge=1e-4, le=1e4)] = 3.0

    def __call__(self, path: Path, num_steps: int) -> Tensor:
        return warp(_even(num_steps), self.shift)


def _sigma_range(path: Path) -> tuple[float, float]:
    top = float(torch.exp(-path.log_snr(1.0) / 2))
    return min(SIGMA_RANGE[1], top), SIGMA_RANGE[0]


TIME_GRIDS: dict[str, TimeGrid] = {
    "uniform": uniform_grid,
    "trailing": trailing_grid,
    "karras": KarrasGrid(),
    "log_snr": log_snr_grid,
    "cosine": cosine_grid,
    "quadratic": quadratic_grid,
    "shifted": ShiftedGrid(),
}


def time_grid(given: Choice | TimeGrid) -> TimeGrid:
    """The time grid called `given`, or with options, or itself; see `entry`."""
    return entry(TIME_GRIDS, given, "time grid")
