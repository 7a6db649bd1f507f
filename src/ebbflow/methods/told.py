"""Input scales and clocks of nets, what one is shown of x_t and told of t: ours, which know no path, and those of nets
from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ebbflow.core.coefficients import Coefficients
from ebbflow.core.entries import Choice, entry, spelt
from ebbflow.core.paths import Path
from ebbflow.core.predictions import Prediction, path_name, prediction_of
from ebbflow.core.shape import as_float64

Scale = Callable[[Coefficients], Tensor]
Clock = Callable[[Path, float | Tensor], Tensor]
LOG_SNR_LIMIT = 20.0
RADIANS = 2 * math.pi


def unit(c: Coefficients) -> Tensor:
    """1 / sqrt(alpha^2 + sigma^2): what is shown has the size of x0 and eps on every path."""
    return torch.rsqrt(c.alpha**2 + c.sigma**2)


def none(c: Coefficients) -> Tensor:
    """1: x_t as it is, as most nets from elsewhere are shown it."""
    return torch.ones_like(c.alpha)


def log_snr(path: Path, t: float | Tensor) -> Tensor:
    """25 times the log-SNR, limited to +-20: on a scale of about 1000, and the same on every path."""
    return 25 * path.log_snr(t).clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT)


def time(path: Path, t: float | Tensor) -> Tensor:
    """1000 t."""
    return 1000 * as_float64(t)


def gentle(path: Path, t: float | Tensor) -> Tensor:
    """2 pi t: so gentle that what a net makes of it can be differentiated in t, as some objectives of maps have it."""
    return RADIANS * as_float64(t)


def gap(t: float | Tensor, s: float | Tensor) -> Tensor:
    """2 pi (t - s), what a net that jumps is told beside its clock."""
    return RADIANS * (as_float64(t) - as_float64(s).to(as_float64(t).device))


@dataclass(frozen=True, kw_only=True)
class RawSteps:
    """T t - 1 + first, the entry of a table of T that t = (k + 1) / T is, counted from `first`; never below it.

    Args:
        num_steps: T, at least 1.
        first: the number of the first entry: 0 for nets of diffusers' DDPM kin, 1 where steps are counted from 1.
    """

    num_steps: int = 1000
    first: int = 0

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"`num_steps` must be at least 1, got {self.num_steps}.")

    def __call__(self, path: Path, t: float | Tensor) -> Tensor:
        return (self.num_steps * as_float64(t) - 1).clamp(min=0) + self.first


def raw_steps(*, num_steps: int = 1000, first: int = 0) -> RawSteps:
    """The clock of nets that are told a step of a table; see `RawSteps`."""
    return RawSteps(num_steps=num_steps, first=first)


SCALES: dict[str, Scale] = {"unit": unit, "none": none}
CLOCKS: dict[str, Clock] = {"log_snr": log_snr, "time": time, "unit": gentle, "raw_steps": RawSteps()}

UNTOLD = 0.25  # of all times, at which a net may be told what it was told before
NUM_LOG_SNRS = 25
COMPARED = 12.0  # log-SNRs within which two paths are compared; beyond, x_t is one of its parts alone


def require_told(path: Path, clock: Choice | Clock) -> None:
    """Raise where a net could not tell the times of a path apart.

    Raises:
        ValueError: at a quarter of the times and more the clock stands still.
    """
    told = entry(CLOCKS, clock, "clock")(path, torch.linspace(0, 1, 202, dtype=torch.float64)[1:-1])
    share = int((told.diff() == 0).sum()) / (len(told) - 1)
    if share > UNTOLD:
        raise ValueError(
            f"clock {spelt(clock)!r} tells a net the same at {share:.0%} of the times of path {path_name(path)!r}, "
            f"whose log-SNR runs from {float(path.log_snr(0.005)):.0f} to {float(path.log_snr(0.995)):.0f}. Use "
            "`objective.clock` = 'time', or numbers of section `path` that are nearer to the defaults."
        )


def same_to_the_net(
    path: Path, other: Path, *, scale: Choice | Scale, clock: Choice | Clock, prediction: Choice | Prediction
) -> None:
    """Raise unless a net on `path` is shown, is told and means the same at equal log-SNR on `other`.

    With x_t = alpha x0 + sigma eps it is shown (scale alpha) x0 + (scale sigma) eps and means a x0 + b eps, so these
    four numbers and the clock have to agree.

    Raises:
        ValueError: something differs, or the paths share no log-SNR.
    """
    low = max(-COMPARED, *(float(one.log_snr(1.0)) for one in (path, other)))
    if not low < COMPARED:
        raise ValueError(f"paths {path_name(path)!r} and {path_name(other)!r} share no noise levels.")
    log_snrs = torch.linspace(low, COMPARED, NUM_LOG_SNRS, dtype=torch.float64)
    shown, told, meant = (entry(SCALES, scale, "scale"), entry(CLOCKS, clock, "clock"), prediction_of(prediction))

    def views(one: Path) -> dict[str, Tensor]:
        t = one.time_of(log_snrs)
        c = one.at(t)
        return {
            f"scale {spelt(scale)!r} shows the net x_t of another size": torch.stack([c.alpha, c.sigma]) * shown(c),
            f"clock {spelt(clock)!r} tells the net another number": told(one, t),
            f"prediction {spelt(prediction)!r} means another target": torch.stack(meant(c)),
        }

    for (reason, here), there in zip(views(path).items(), views(other).values(), strict=True):
        if not torch.allclose(here, there, rtol=1e-6, atol=1e-6):
            raise ValueError(
                f"this net cannot move from path {path_name(path)!r} to {path_name(other)!r}: at equal log-SNR "
                f"{reason}. Train with prediction eps, x0 or edm, scale 'unit' and clock 'log_snr' to move anywhere."
            )
