"""Oracles: denoisers in closed form for data of known law. They make every claim about a sampler provable without
training."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ebbflow.core.condition import Cond
from ebbflow.core.paths import Coefficients, Path
from ebbflow.core.predictions import Estimate
from ebbflow.core.shape import per_sample
from ebbflow.methods.denoise import Conditional, Denoiser

Values = float | list[float] | Tensor


@dataclass(frozen=True)
class Gaussian(Denoiser):
    """Data N(mean, std^2), independent per element: x0(x_t) = m + alpha s^2 (x_t - alpha m) / (alpha^2 s^2 + sigma^2).

    Args:
        mean, std: numbers, or tensors that broadcast against one sample's dims (different stds make it anisotropic).
        path: the path.
    """

    mean: Values
    std: Values
    path: Path

    def _terms(self, x_t: Tensor, t: float | Tensor) -> tuple[Coefficients, Tensor, Tensor, Tensor]:
        c = self.path.at(t)
        mean, variance = (
            torch.as_tensor(self.mean, dtype=torch.float64).to(x_t),
            torch.as_tensor(self.std, dtype=torch.float64).to(x_t) ** 2,
        )
        spread = per_sample(c.alpha, x_t) ** 2 * variance + per_sample(c.sigma, x_t) ** 2
        return c, mean, variance, spread

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        c, mean, variance, spread = self._terms(x_t, t)
        alpha, sigma = per_sample(c.alpha, x_t), per_sample(c.sigma, x_t)
        residual = (x_t - alpha * mean) / spread
        return Estimate(
            x0=mean + alpha * variance * residual,
            eps=sigma * residual,
            x0_variance=(variance * sigma**2 / spread).expand(x_t.shape),
        )

    def log_prob(self, x_t: Tensor, t: float | Tensor) -> Tensor:
        """log p_t(x_t), shape (B,)."""
        c, mean, _, spread = self._terms(x_t, t)
        terms = (x_t - per_sample(c.alpha, x_t) * mean) ** 2 / spread + torch.log(2 * math.pi * spread)
        return -terms.expand(x_t.shape).flatten(1).sum(1) / 2


@dataclass(frozen=True)
class GaussianMixture(Conditional):
    """Data sum_k w_k N(means_k, stds_k^2): x0(x_t) = sum_k r_k(x_t) [m_k + alpha s_k^2 (x_t - alpha m_k) / (alpha^2
    s_k^2 + sigma^2)].

    Its condition is the index of a component, -1 for the whole mixture, so that guidance has a closed form too.

    Args:
        means: shape (K, *dims).
        stds: shape (K,) or (K, *dims).
        weights: shape (K,), non-negative; normalised here.
        path: the path.
        cond: bound component indices, shape (B,) or (1,).
    """

    means: Tensor | list[list[float]]
    stds: Values
    weights: Tensor | list[float]
    path: Path
    cond: Tensor | None = field(default=None, kw_only=True)

    def _components(self, x_t: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """alpha, sigma, means, variances, spreads (B or 1, K, *dims) and unnormalised log-responsibilities (B, K)."""
        c = self.path.at(t)
        means = torch.as_tensor(self.means, dtype=torch.float64).to(x_t)
        stds = torch.as_tensor(self.stds, dtype=torch.float64).to(x_t)
        variances = stds.reshape(*stds.shape, *[1] * (means.ndim - stds.ndim)).expand_as(means) ** 2
        alpha, sigma = (
            per_sample(k, x_t) if k.ndim == 0 else per_sample(k, x_t).unsqueeze(1) for k in (c.alpha, c.sigma)
        )
        spreads = (alpha**2 * variances + sigma**2) * torch.ones_like(means)[None]
        terms = (x_t[:, None] - alpha * means) ** 2 / spreads + torch.log(2 * math.pi * spreads)
        return alpha, sigma, means, variances, spreads, self._log_weights(x_t) - terms.flatten(2).sum(2) / 2

    def _log_weights(self, x_t: Tensor) -> Tensor:
        weights = torch.as_tensor(self.weights, dtype=torch.float64).to(x_t)
        logs = (weights / weights.sum()).log()
        if self.cond is None:
            return logs
        wanted = self.cond.to(x_t.device)[:, None]
        only = torch.where(torch.arange(len(weights), device=x_t.device) == wanted, 0.0, -torch.inf).to(x_t)
        return torch.where(wanted < 0, logs, only)

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        alpha, sigma, means, variances, spreads, logs = self._components(x_t, t)
        r = torch.softmax(logs, dim=1).reshape(*logs.shape, *[1] * (means.ndim - 1))
        residuals = (x_t[:, None] - alpha * means) / spreads
        centres = means + alpha * variances * residuals
        x0 = (r * centres).sum(1)
        variance = (r * (variances * sigma**2 / spreads + (centres - x0[:, None]) ** 2)).sum(1)
        return Estimate(x0=x0, eps=(r * sigma * residuals).sum(1), x0_variance=variance)

    def log_prob(self, x_t: Tensor, t: float | Tensor) -> Tensor:
        """log p_t(x_t), shape (B,)."""
        return torch.logsumexp(self._components(x_t, t)[-1], dim=1)

    def given(self, cond: Cond | None) -> GaussianMixture:
        if not (cond is None or isinstance(cond, Tensor)):
            raise ValueError(f"a GaussianMixture takes a tensor of component indices, got {sorted(cond)}.")
        return GaussianMixture(self.means, self.stds, self.weights, self.path, cond=cond)

    def null(self, num: int) -> Tensor:
        return torch.full((num,), -1, dtype=torch.long)


@dataclass(frozen=True)
class FiniteData(Denoiser):
    """A data set as its own law: x0(x_t) = softmax(-||x_t - alpha x_i||^2 / (2 sigma^2)) over the data. Works on real
    images.

    This is what a net of unlimited capacity would learn: it only ever generates training images.

    Args:
        x: the data, shape (N, *dims).
        path: the path.
    """

    x: Tensor
    path: Path

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        c = self.path.at(t)
        data, flat = self.x.to(x_t).flatten(1), x_t.flatten(1)
        alpha, sigma = per_sample(c.alpha, flat), per_sample(c.sigma, flat)
        logits = (alpha * (flat @ data.T) - alpha**2 * (data**2).sum(1) / 2) / sigma**2
        r = torch.softmax(logits, dim=1)
        x0 = r @ data
        eps = (flat - alpha * x0) / sigma
        variance = (r @ data**2 - x0**2).clamp(min=0)
        return Estimate(x0=x0.view_as(x_t), eps=eps.view_as(x_t), x0_variance=variance.view_as(x_t))
