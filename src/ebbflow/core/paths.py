"""Paths: how data turns into noise, x_t = alpha(t) x0 + sigma(t) eps with t = 0 data and t = 1 noise.

The only constraint is that the signal-to-noise ratio alpha^2 / sigma^2 falls strictly with t. Everything else follows
from the four numbers that `Path.at` returns: the marginal, the velocity, the posterior kernels, the samplers, the loss
weights.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import islice
from typing import Annotated, Literal, cast

import torch
from annotated_types import Interval
from torch import Tensor

from ebbflow.core.coefficients import Coefficients
from ebbflow.core.shape import as_float64, per_sample
from ebbflow.core.table_curve import TableCurve
from ebbflow.values import Checked

SMALLEST = 1e-15  # of alpha and sigma inside of (0, 1): float32 carries what nets are shown and answer there
LEAST_NOISE = 0.01  # sigma / alpha near t = 1, where sampling starts from noise alone
REMEMBERED = 4096  # times at which a path keeps its coefficients
Beta = Annotated[float, Interval(gt=0, le=1000)]
LANES = 16  # a multiple of what processors compute at once: a float rounds alike in any company that fills the lanes


def warp(t: Tensor, shift: float) -> Tensor:
    """t' = k t / (1 + (k - 1) t), which keeps 0 and 1 and spends more time at high noise for k > 1 (Esser et al., 2024,
    eq. 23, 2403.03206)."""
    return (shift * t / (1 + (shift - 1) * t)).clamp(max=1)  # rounding would pass 1, where alpha would be negative


@dataclass(frozen=True, kw_only=True)
class Path(Checked, ABC):
    """A Gaussian path x_t = alpha(t) x0 + sigma(t) eps.

    Args:
        shift: k > 0 warps the clock by t' = k t / (1 + (k - 1) t); on the flow path this lowers log-SNR by 2 log k
            everywhere.
    """

    shift: Annotated[float, Interval(ge=1e-4, le=1e4)] = 1.0

    def require_range(self, *keys: str) -> None:
        """Refuse numbers, those of `keys`, that take alpha or sigma out of the range of floats on the way from t = 0 to
        1, keep log-SNR from falling, or leave next to no noise to start from.

        Raises:
            ValueError: they do; names the keys.
        """
        c = self._at(torch.linspace(0, 1, 65, dtype=torch.float64)[1:-1])
        scales, said = torch.stack([c.alpha, c.sigma]), ", ".join(f"`{key}` = {getattr(self, key)}" for key in keys)
        inside = bool(((scales >= SMALLEST) & (scales <= 1 / SMALLEST)).all())
        if not inside or not bool((c.log_snr.diff() < 0).all()) or float(c.sigma[-1] / c.alpha[-1]) < LEAST_NOISE:
            raise ValueError(
                f"with {said} alpha lies in [{c.alpha.min():.2g}, {c.alpha.max():.2g}] and sigma in "
                f"[{c.sigma.min():.2g}, {c.sigma.max():.2g}] where 0 < t < 1; both must stay within [{SMALLEST:g}, "
                f"{1 / SMALLEST:g}], and alpha / sigma fall, to {1 / LEAST_NOISE:g} or less. Use numbers nearer to the "
                "defaults."
            )

    @abstractmethod
    def scales(self, t: Tensor) -> Coefficients:
        """Coefficients on the unshifted clock; `t` float64 in [0, 1]."""

    @abstractmethod
    def unshifted_time_of(self, log_snr: Tensor) -> Tensor:
        """Inverse of the log-SNR on the unshifted clock."""

    def at(self, t: float | Tensor) -> Coefficients:
        """alpha, sigma, alpha', sigma' at `t`, a number or a tensor of shape () or (B,) in [0, 1].

        Those of numbers are on the CPU and remembered; of tensors, those of the last are.
        """
        if not isinstance(t, Tensor):
            return self._remembered.get(t) or self.at_each([t])[0]
        if t.requires_grad or t.is_inference() or torch.is_inference_mode_enabled():
            return self._at(as_float64(t))
        last, version, c = self.__dict__.get("_latest", (None, 0, None))
        if last is not t or version != t._version:
            c = self._at(as_float64(t))
            self.__dict__["_latest"] = t, t._version, c  # replaced as one: threads may share a path
        return cast(Coefficients, c)

    def at_each(self, times: Sequence[float]) -> list[Coefficients]:
        """`at` of several numbers, those not remembered yet in one go."""
        known = self._remembered
        found = {t: known[t] for t in times if t in known}
        if new := [t for t in times if t not in found]:
            found.update(zip(new, self._apart(new), strict=True))
            if len(known) + len(new) > REMEMBERED:
                known.clear()
            known.update(found)
        return [found[t] for t in times]

    @cached_property
    def _remembered(self) -> dict[float, Coefficients]:
        return {}

    def _apart(self, times: Sequence[float]) -> Iterator[Coefficients]:
        """The coefficients of each number, to the last bit the same whatever the others are."""
        filled = [*times, *[times[-1]] * (-len(times) % LANES)]
        with torch.inference_mode(False), torch.no_grad():
            c = self._at(torch.tensor(filled, dtype=torch.float64, device="cpu"))
        rows = ([*k.expand(len(filled))] for k in (c.alpha, c.sigma, c.alpha_dot, c.sigma_dot))
        for alpha, sigma, alpha_dot, sigma_dot in islice(zip(*rows, strict=True), len(times)):
            yield Coefficients(alpha=alpha, sigma=sigma, alpha_dot=alpha_dot, sigma_dot=sigma_dot)

    def _at(self, t: Tensor) -> Coefficients:
        if self.shift == 1:
            return self.scales(t)
        c = self.scales(warp(t, self.shift))
        rate = self.shift / (1 + (self.shift - 1) * t) ** 2
        return replace(c, alpha_dot=c.alpha_dot * rate, sigma_dot=c.sigma_dot * rate)

    def mix(self, x0: Tensor, eps: Tensor, t: float | Tensor) -> Tensor:
        """x_t = alpha x0 + sigma eps, shape (B, *dims): training noises data with it, and a DDIM step ends with it."""
        c = self.at(t)
        return per_sample(c.alpha, x0) * x0 + per_sample(c.sigma, x0) * eps

    def velocity(self, x0: Tensor, eps: Tensor, t: float | Tensor) -> Tensor:
        """dx_t/dt = alpha' x0 + sigma' eps, shape (B, *dims)."""
        c = self.at(t)
        return per_sample(c.alpha_dot, x0) * x0 + per_sample(c.sigma_dot, x0) * eps

    def log_snr(self, t: float | Tensor) -> Tensor:
        """L(t) = log(alpha^2 / sigma^2), strictly decreasing."""
        return self.at(t).log_snr

    def time_of(self, log_snr: float | Tensor) -> Tensor:
        """The t in [0, 1] whose log-SNR is `log_snr`; values outside the path's range give the nearer end."""
        t = self.unshifted_time_of(as_float64(log_snr)).clamp(0, 1)
        return warp(t, 1 / self.shift)


@dataclass(frozen=True, kw_only=True)
class Flow(Path):
    """Rectified flow: alpha = 1 - t, sigma = t, so the velocity of a pair is eps - x0 (Liu et al., 2022, 2209.03003;
    Lipman et al., 2022, 2210.02747)."""

    def scales(self, t: Tensor) -> Coefficients:
        one = torch.ones_like(t)
        return Coefficients(alpha=1 - t, sigma=t, alpha_dot=-one, sigma_dot=one)

    def unshifted_time_of(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr / 2)


@dataclass(frozen=True, kw_only=True)
class Cosine(Path):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2): variance preserving, at constant angular speed (Salimans & Ho,
    2022, 2202.00512)."""

    def scales(self, t: Tensor) -> Coefficients:
        q = math.pi / 2
        alpha, sigma = torch.sin(q * (1 - t)), torch.sin(q * t)
        return Coefficients(alpha=alpha, sigma=sigma, alpha_dot=-q * sigma, sigma_dot=q * alpha)

    def unshifted_time_of(self, log_snr: Tensor) -> Tensor:
        return torch.atan(torch.exp(-log_snr / 2)) * (2 / math.pi)


@dataclass(frozen=True, kw_only=True)
class LinearVariance(Path):
    """alpha = sqrt(1 - t), sigma = sqrt(t): the variance-preserving path whose noise variance is t itself."""

    def scales(self, t: Tensor) -> Coefficients:
        alpha, sigma = (1 - t).sqrt(), t.sqrt()
        return Coefficients(alpha=alpha, sigma=sigma, alpha_dot=-0.5 / alpha, sigma_dot=0.5 / sigma)

    def unshifted_time_of(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr)


@dataclass(frozen=True, kw_only=True)
class _LinearBeta(Path):
    beta_min: Beta = 0.1
    beta_max: Beta = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta_max < self.beta_min:
            raise ValueError(f"`beta_max` must be at least `beta_min` = {self.beta_min}, got {self.beta_max}.")
        self.require_range("beta_min", "beta_max")

    def rate_and_total(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """beta(t) and its integral from 0 to t."""
        slope = self.beta_max - self.beta_min
        return self.beta_min + slope * t, self.beta_min * t + slope * t * t / 2

    def time_of_total(self, total: Tensor) -> Tensor:
        """The t at which the integral of beta reaches `total`; the stable root of a quadratic."""
        slope, total = self.beta_max - self.beta_min, total.clamp(max=1e12)
        return 2 * total / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * slope * total))


@dataclass(frozen=True, kw_only=True)
class VP(_LinearBeta):
    """Variance preserving with beta(t) linear: alpha = exp(-1/2 int beta), sigma = sqrt(1 - alpha^2) (Song et al.,
    2020, eq. 32, 2011.13456).

    The defaults 0.1 and 20 are the continuous limit of DDPM's 1e-4 to 0.02 over 1000 steps.
    """

    def scales(self, t: Tensor) -> Coefficients:
        beta, total = self.rate_and_total(t)
        alpha, sigma = torch.exp(-total / 2), torch.sqrt(-torch.expm1(-total))
        return Coefficients(
            alpha=alpha, sigma=sigma, alpha_dot=-beta * alpha / 2, sigma_dot=beta * alpha**2 / (2 * sigma)
        )

    def unshifted_time_of(self, log_snr: Tensor) -> Tensor:
        return self.time_of_total(torch.nn.functional.softplus(-log_snr, threshold=1e6))


@dataclass(frozen=True, kw_only=True)
class SubVP(_LinearBeta):
    """alpha as in `VP`, sigma = 1 - alpha^2: less noise than VP at every t (Song et al., 2020, eq. 35, 2011.13456)."""

    def scales(self, t: Tensor) -> Coefficients:
        beta, total = self.rate_and_total(t)
        alpha = torch.exp(-total / 2)
        return Coefficients(
            alpha=alpha, sigma=-torch.expm1(-total), alpha_dot=-beta * alpha / 2, sigma_dot=beta * alpha**2
        )

    def unshifted_time_of(self, log_snr: Tensor) -> Tensor:
        return self.time_of_total(2 * torch.asinh(torch.exp(-log_snr / 2) / 2))


@dataclass(frozen=True, kw_only=True)
class VE(Path):
    """Variance exploding: alpha = 1, sigma^2 = sigma_min^2 (r^{2t} - 1) with r = sigma_max / sigma_min.

    This is the exact transition kernel of the geometric SDE of Song et al. (2020, eq. 30, 2011.13456) from t = 0, so
    sigma(0) = 0; sigma(1) is sigma_max up to one part in r^2. The defaults are the range of Karras et al. (2022,
    2206.00364).
    """

    sigma_min: Annotated[float, Interval(ge=1e-15, le=1e15)] = 0.002
    sigma_max: Annotated[float, Interval(gt=0, le=1e15)] = 80.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma_max <= self.sigma_min:
            raise ValueError(f"`sigma_max` must be above `sigma_min` = {self.sigma_min}, got {self.sigma_max}.")
        self.require_range("sigma_min", "sigma_max")

    def scales(self, t: Tensor) -> Coefficients:
        log_ratio = math.log(self.sigma_max / self.sigma_min)
        variance = self.sigma_min**2 * torch.expm1(2 * log_ratio * t)
        sigma = variance.sqrt()
        sigma_dot = log_ratio * (variance + self.sigma_min**2) / sigma
        return Coefficients(alpha=torch.ones_like(t), sigma=sigma, alpha_dot=torch.zeros_like(t), sigma_dot=sigma_dot)

    def unshifted_time_of(self, log_snr: Tensor) -> Tensor:
        return torch.log1p(torch.exp(-log_snr) / self.sigma_min**2) / (2 * math.log(self.sigma_max / self.sigma_min))


@dataclass(frozen=True, kw_only=True)
class DiscretePath(Path):
    """A variance-preserving path given by a table of betas: alpha_bar_i = prod_{j <= i} (1 - beta_j) holds exactly at t
    = i / num_steps.

    Between and beyond entries log-SNR follows a `TableCurve`.

    Args:
        num_steps: length T of the table.
        zero_terminal_snr: rescale sqrt(alpha_bar) linearly so that the last entry is exactly 0 (Lin et al., 2023,
            algorithm 1, 2305.08891).
    """

    num_steps: Annotated[int, Interval(ge=4, le=100_000)] = 1000
    zero_terminal_snr: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        betas = self.table_betas()
        if not bool(((betas > 0) & (betas < 1)).all()):
            raise ValueError(
                f"every beta must lie in (0, 1), got {betas.min():.3g} to {betas.max():.3g}; use more steps or "
                "smaller betas."
            )
        self.require_range(*(f.name for f in fields(self) if isinstance(getattr(self, f.name), float)))

    @abstractmethod
    def table_betas(self) -> Tensor:
        """The betas of the table before any rescaling, float64 of shape (num_steps,)."""

    @cached_property
    def alpha_bars(self) -> Tensor:
        """alpha^2 at t = 1/T, 2/T, ..., 1; float64 of shape (num_steps,)."""
        alpha_bars = torch.cumprod(1 - self.table_betas(), dim=0)
        if not self.zero_terminal_snr:
            return alpha_bars
        roots = alpha_bars.sqrt()
        return ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2

    @property
    def betas(self) -> Tensor:
        """beta_i = 1 - alpha_bar_i / alpha_bar_{i-1} of the table in use, with alpha_bar_0 = 1."""
        previous = torch.cat([torch.ones(1, dtype=torch.float64), self.alpha_bars[:-1]])
        return 1 - self.alpha_bars / previous

    @cached_property
    def _curve(self) -> TableCurve:
        finite = self.alpha_bars[self.alpha_bars > 0]
        return TableCurve((finite.log() - torch.log1p(-finite)) / 2, self.num_steps)

    def scales(self, t: Tensor) -> Coefficients:
        half, slope = self._curve(t)
        alpha, sigma = torch.sigmoid(2 * half).sqrt(), torch.sigmoid(-2 * half).sqrt()
        inner, clean = (alpha > 0) & (sigma > 0), sigma == 0
        alpha_dot = torch.where(inner, alpha * sigma**2 * slope, torch.where(clean, 0.0, -torch.inf))
        sigma_dot = torch.where(inner, -sigma * alpha**2 * slope, torch.where(clean, torch.inf, 0.0))
        return Coefficients(alpha=alpha, sigma=sigma, alpha_dot=alpha_dot, sigma_dot=sigma_dot)

    def unshifted_time_of(self, log_snr: Tensor) -> Tensor:
        low, high = torch.zeros_like(log_snr), torch.ones_like(log_snr)
        for _ in range(60):
            middle = (low + high) / 2
            noisier = 2 * self._curve(middle)[0] < log_snr
            low, high = torch.where(noisier, low, middle), torch.where(noisier, middle, high)
        return (low + high) / 2


@dataclass(frozen=True, kw_only=True)
class VPDiscrete(DiscretePath):
    """DDPM's table of betas, 1e-4 to 0.02 over 1000 steps (Ho et al., 2020, section 4, 2006.11239).

    Args:
        beta_start, beta_end: first and last beta of a table of 1000 steps; for another `num_steps` = T both scale by
            1000 / T.
        spacing: "linear" in beta, or "scaled_linear": linear in sqrt(beta), the table of latent diffusion.
    """

    beta_start: Annotated[float, Interval(gt=0, lt=1)] = 1e-4
    beta_end: Annotated[float, Interval(gt=0, lt=1)] = 0.02
    spacing: Literal["linear", "scaled_linear"] = "linear"

    def table_betas(self) -> Tensor:
        power = 1 if self.spacing == "linear" else 2
        roots = torch.linspace(
            self.beta_start ** (1 / power), self.beta_end ** (1 / power), self.num_steps, dtype=torch.float64
        )
        return roots**power * (1000 / self.num_steps)


@dataclass(frozen=True, kw_only=True)
class CosineDiscrete(DiscretePath):
    """The cosine table: alpha_bar(u) ~ cos^2(pi/2 (u + s)/(1 + s)), betas clipped, alpha_bar recomputed (Nichol &
    Dhariwal, 2021, eq. 17, 2102.09672).

    Args:
        offset: s = 0.008 keeps the first betas from vanishing.
        beta_limit: upper limit 0.999 of every beta.
    """

    offset: Annotated[float, Interval(ge=0, le=1)] = 0.008
    beta_limit: Annotated[float, Interval(gt=0, lt=1)] = 0.999

    def table_betas(self) -> Tensor:
        u = torch.linspace(0, 1, self.num_steps + 1, dtype=torch.float64)
        alpha_bars = torch.cos((u + self.offset) / (1 + self.offset) * (math.pi / 2)) ** 2
        return (1 - alpha_bars[1:] / alpha_bars[:-1]).clamp(max=self.beta_limit)


PATHS: dict[str, type[Path]] = {
    "flow": Flow,
    "cosine": Cosine,
    "cosine_discrete": CosineDiscrete,
    "vp": VP,
    "vp_discrete": VPDiscrete,
    "sub_vp": SubVP,
    "ve": VE,
    "linear_variance": LinearVariance,
}
