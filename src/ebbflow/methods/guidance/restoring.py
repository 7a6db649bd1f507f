"""Restoration without training: what was measured of an image, y = A x0 + noise, corrects the x0 that a model sees."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor

from ebbflow.core.operators import Operator
from ebbflow.core.predictions import Estimate
from ebbflow.core.shape import per_sample
from ebbflow.methods.denoise import Wrapped
from ebbflow.values import check_fields

SLOPE_FLOOR = -6.0  # log-SNR below which a net's slope, times sigma^2 / alpha, is lost in its error


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What is known of an image.

    Args:
        operator: A.
        y: (1, *dims) or (B, *dims).
        noise: standard deviation of the noise of y, at least 0.
        sigma_data: standard deviation of the data, above 0, of which Var[x0 | x_t] is taken as if it were Gaussian:
            r^2 = sigma_data^2 sigma^2 / (alpha^2 sigma_data^2 + sigma^2).
    """

    operator: Operator
    y: Tensor
    noise: Annotated[float, Interval(ge=0, le=1e6)] = 0.0
    sigma_data: Annotated[float, Interval(ge=1e-6, le=1e6)] = 0.5

    def __post_init__(self) -> None:
        check_fields(self, "noise", "sigma_data")

    def correction(self, x0: Tensor, variance: Tensor) -> Tensor:
        """A^T (A A^T + noise^2 / variance)^-1 (y - A x0), of the shape of `x0`."""
        missing = self.y.to(x0) - self.operator.measure(x0)
        return self.operator.back(missing, tuple(x0.shape[1:]), self.noise**2 / variance)


@dataclass(frozen=True, kw_only=True)
class Restoring(Wrapped):
    """A denoiser that knows a measurement of what it is to make.

    Args:
        inner: any denoiser of images, its condition bound.
        measured: the measurement.
    """

    measured: Measurement

    @abstractmethod
    def corrected(self, x_t: Tensor, t: float | Tensor, variance: Tensor) -> tuple[Estimate, Tensor]:
        """The inner estimate, and the x0 that agrees with the measurement; `variance` is r^2, () or (B, 1, ...)."""

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        c, s2 = self.path.at(t), self.measured.sigma_data**2
        variance = per_sample(s2 * c.sigma**2 / (c.alpha**2 * s2 + c.sigma**2), x_t)
        estimate, x0 = self.corrected(x_t, t, variance)
        return estimate.with_x0(x0, x_t, c)


@dataclass(frozen=True, kw_only=True)
class DDNM(Restoring):
    """x0 + A^T (A A^T + (noise / r)^2)^-1 (y - A x0): at noise 0 the null-space decomposition A^+ y + (I - A^+ A) x0
    (Wang et al., 2022, section 3.2, 2212.00490), which the measurement holds of exactly.

    With noise it is the mean of N(x0, r^2 I) given y, in the place of their rescaled steps. Costs one evaluation.
    """

    def corrected(self, x_t: Tensor, t: float | Tensor, variance: Tensor) -> tuple[Estimate, Tensor]:
        estimate = self.inner(x_t, t)
        return estimate, estimate.x0 + self.measured.correction(estimate.x0, variance)


@dataclass(frozen=True, kw_only=True)
class PiGDM(Restoring):
    """Pseudo-inverse guidance: score + J^T A^T (r^2 A A^T + noise^2)^-1 (y - A x0), J the slope of x0 by x_t, as if
    p(x0 | x_t) were N(x0, r^2 I) (Song et al., 2023, section 3, ICLR 2023, but with the score's own
    weight, sigma^2 / alpha in x0).

    Exact where the data is Gaussian with deviation sigma_data. Below a log-SNR of -6 the slope is replaced by its
    Gaussian value, which makes it DDNM's. Costs one evaluation forward and backward, about three of it.
    """

    def corrected(self, x_t: Tensor, t: float | Tensor, variance: Tensor) -> tuple[Estimate, Tensor]:
        early = self.path.log_snr(t) < SLOPE_FLOOR
        if bool(early.all()):
            return DDNM(self.inner, measured=self.measured).corrected(x_t, t, variance)
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            estimate = self.inner(x, t)
            correction = self.measured.correction(estimate.x0.detach(), variance)
            (slope,) = torch.autograd.grad((estimate.x0 * correction).sum(), x)
        c, plain = self.path.at(t), estimate.each(Tensor.detach)
        by_slope = per_sample(c.sigma**2 / c.alpha, x_t) / variance * slope
        return plain, plain.x0 + torch.where(per_sample(early, x_t) > 0, correction, by_slope)


RESTORATIONS: dict[str, type[Restoring]] = {"pigdm": PiGDM, "ddnm": DDNM}
