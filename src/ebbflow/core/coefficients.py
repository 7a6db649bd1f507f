"""What a path is at a time: alpha, sigma, their slopes, and what follows of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Coefficients:
    """alpha, sigma and their time derivatives at some times; float64 tensors of the shape of t."""

    alpha: Tensor
    sigma: Tensor
    alpha_dot: Tensor
    sigma_dot: Tensor

    @cached_property
    def numbers(self) -> tuple[float, float, float, float]:
        """alpha, sigma, alpha' and sigma' at a single time as Python numbers."""
        return float(self.alpha), float(self.sigma), float(self.alpha_dot), float(self.sigma_dot)

    @cached_property
    def derived(self) -> dict[Any, Any]:
        """What was computed of these coefficients, by what it is; they are remembered together."""
        return {}

    @cached_property
    def log_snr(self) -> Tensor:
        """L = log(alpha^2 / sigma^2); +inf at clean data, -inf at pure noise."""
        return 2 * (self.alpha.log() - self.sigma.log())

    @property
    def determinant(self) -> Tensor:
        """D = alpha sigma' - alpha' sigma > 0, the rate at which data turns into noise."""
        return self.alpha * self.sigma_dot - self.alpha_dot * self.sigma
