"""Oracles: denoisers in closed form for data of known law, and their exact flow maps. They make every claim about a
sampler or a map provable without training."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ebbflow.core.coefficients import Coefficients
from ebbflow.core.condition import Cond
from ebbflow.core.paths import Path
from ebbflow.core.predictions import Estimate
from ebbflow.core.shape import in_float64, per_sample
from ebbflow.methods.denoise import Conditional, FlowMap
from ebbflow.methods.guidance.branches import combine
from ebbflow.methods.maps.solved import ODEMap, or_here, pair_of

Values = float | list[float] | Tensor
BISECTIONS = 100
EXACT = 1e-9  # tolerance of what is solved


@dataclass(frozen=True)
class Gaussian(FlowMap):
    """Data N(mean, std^2), independent per element: x0(x_t) = m + alpha s^2 (x_t - alpha m) / (alpha^2 s^2 + sigma^2).

    A jump to time r is X(x_t, t, r) = alpha_r m + (S_r / S_t) (x_t - alpha_t m) with S^2 = alpha^2 s^2 + sigma^2.

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

    def jump(self, x_t: Tensor, t: float | Tensor, s: float | Tensor) -> Estimate:
        x = in_float64(x_t)
        (c, mean, _, here), (c_s, _, _, there) = self._terms(x, t), self._terms(x, s)
        x_s = per_sample(c_s.alpha, x) * mean + (there / here).sqrt() * (x - per_sample(c.alpha, x) * mean)
        return or_here(pair_of(x, x_s, t, s, self.path), self(x, t), t, s, x).each(lambda values: values.to(x_t))

    def log_prob(self, x_t: Tensor, t: float | Tensor) -> Tensor:
        """log p_t(x_t), shape (B,)."""
        c, mean, _, spread = self._terms(x_t, t)
        terms = (x_t - per_sample(c.alpha, x_t) * mean) ** 2 / spread + torch.log(2 * math.pi * spread)
        return -terms.expand(x_t.shape).flatten(1).sum(1) / 2


@dataclass(frozen=True)
class GuidedGaussian(FlowMap):
    """Gaussian data of two laws with one mean, guided: u + w (c - u) of c = Gaussian(mean, std) and u = Gaussian(mean,
    null_std).

    A jump to time r is X(x_t, t, r) = alpha_r m + (U_r / U_t)^(1 - w) (C_r / C_t)^w (x_t - alpha_t m) with U^2 =
    alpha^2 null_std^2 + sigma^2 and C^2 = alpha^2 std^2 + sigma^2.

    Args:
        mean, std, null_std: numbers, or tensors that broadcast against one sample's dims.
        guidance: w.
        path: the path.
    """

    mean: Values
    std: Values
    null_std: Values
    guidance: float
    path: Path

    @property
    def _given(self) -> Gaussian:
        """c, the law under the condition."""
        return Gaussian(self.mean, self.std, self.path)

    @property
    def _null(self) -> Gaussian:
        """u, the law without one."""
        return Gaussian(self.mean, self.null_std, self.path)

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        return combine(self._null(x_t, t), self._given(x_t, t), self.guidance)

    def jump(self, x_t: Tensor, t: float | Tensor, s: float | Tensor) -> Estimate:
        x, w = in_float64(x_t), self.guidance
        (c, mean, _, here), (c_s, _, _, there) = self._given._terms(x, t), self._given._terms(x, s)
        ratio, null_ratio = there / here, self._null._terms(x, s)[3] / self._null._terms(x, t)[3]
        moved = (ratio**w * null_ratio ** (1 - w)).sqrt() * (x - per_sample(c.alpha, x) * mean)
        found = pair_of(x, per_sample(c_s.alpha, x) * mean + moved, t, s, self.path)
        return or_here(found, self(x, t), t, s, x).each(lambda values: values.to(x_t))


@dataclass(frozen=True)
class MixtureProduct(FlowMap):
    """Data whose elements are independent, each a mixture on the line: sum_k w_k N(means_k, stds_k^2) element by
    element.

    Its ODE keeps the quantiles of each element, so that a jump to time s is X(x_t, t, s) = F_s^-1(F_t(x_t)), F the
    distribution function of x_t; by bisection, to rounding.

    Args:
        means, stds: shape (K, *dims).
        weights: shape (K,) or (K, *dims), non-negative; normalised here.
        path: the path.
    """

    means: Tensor | list[list[float]]
    stds: Tensor | list[list[float]]
    weights: Tensor | list[float]
    path: Path

    def _parts(self, x_t: Tensor, t: float | Tensor) -> tuple[Tensor, ...]:
        """alpha, sigma, means, variances and weights, each to broadcast against (B, K, *dims)."""
        c = self.path.at(t)
        means, stds, weights = (
            torch.as_tensor(k, dtype=torch.float64).to(x_t) for k in (self.means, self.stds, self.weights)
        )
        weights = weights.reshape(*weights.shape, *[1] * (means.ndim - weights.ndim))
        alpha, sigma = (
            per_sample(k, x_t) if k.ndim == 0 else per_sample(k, x_t).unsqueeze(1) for k in (c.alpha, c.sigma)
        )
        return alpha, sigma, means, stds**2, weights / weights.sum(0)

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        alpha, sigma, means, variances, weights = self._parts(x_t, t)
        spreads = alpha**2 * variances + sigma**2
        residuals = (x_t[:, None] - alpha * means) / spreads
        r = torch.softmax(weights.log() - (residuals**2 * spreads + spreads.log()) / 2, dim=1)
        centres = means + alpha * variances * residuals
        x0 = (r * centres).sum(1)
        variance = (r * (variances * sigma**2 / spreads + (centres - x0[:, None]) ** 2)).sum(1)
        return Estimate(x0=x0, eps=(r * sigma * residuals).sum(1), x0_variance=variance)

    def jump(self, x_t: Tensor, t: float | Tensor, s: float | Tensor) -> Estimate:
        x = in_float64(x_t)
        (alpha, sigma, means, variances, weights), (alpha_s, sigma_s, *_) = self._parts(x, t), self._parts(x, s)
        here, there = (alpha**2 * variances + sigma**2).sqrt(), (alpha_s**2 * variances + sigma_s**2).sqrt()
        x_s = same_quantile(x, (alpha * means, here), (alpha_s * means, there), weights)
        return or_here(pair_of(x, x_s, t, s, self.path), self(x, t), t, s, x).each(lambda values: values.to(x_t))


def same_quantile(x: Tensor, before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor], weights: Tensor) -> Tensor:
    """The y below which lies as much of a mixture's law `after` as of its law `before` lies below x, shape (B, *dims).

    Laws are centres and standard deviations that broadcast against (B, K, *dims). The logarithms of the smaller tail
    are compared, so that nothing is lost far out.
    """

    logs = weights.log()

    def tails(z: Tensor) -> tuple[Tensor, Tensor]:
        below, above = torch.special.log_ndtr(z), torch.special.log_ndtr(-z)
        return torch.logsumexp(logs + below, dim=1), torch.logsumexp(logs + above, dim=1)

    z, (centres, spreads) = (x[:, None] - before[0]) / before[1], after
    lower, upper = tails(z)
    low = (centres + z.amin(1, keepdim=True) * spreads).amin(1)
    high = (centres + z.amax(1, keepdim=True) * spreads).amax(1)
    for _ in range(BISECTIONS):
        y = (low + high) / 2
        below, above = tails((y[:, None] - centres) / spreads)
        left = torch.where(lower < upper, below < lower, above > upper)
        low, high = torch.where(left, y, low), torch.where(left, high, y)
    return (low + high) / 2


@dataclass(frozen=True)
class GaussianMixture(Conditional, FlowMap):
    """Data sum_k w_k N(means_k, stds_k^2): x0(x_t) = sum_k r_k(x_t) [m_k + alpha s_k^2 (x_t - alpha m_k) / (alpha^2
    s_k^2 + sigma^2)].

    Its condition is the index of a component, -1 for the whole mixture, so that guidance has a closed form too. On the
    line a jump keeps the quantile, X(x_t, t, s) = F_s^-1(F_t(x_t)); in more dimensions its ODE is solved (`ODEMap`).

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

    def jump(self, x_t: Tensor, t: float | Tensor, s: float | Tensor) -> Estimate:
        if x_t[0].numel() > 1:
            found = ODEMap(self, rtol=EXACT, atol=EXACT).jump(in_float64(x_t), t, s)
            return Estimate(x0=found.x0.to(x_t), eps=found.eps.to(x_t))
        x = in_float64(x_t)
        alpha, _, means, _, spreads, _ = self._components(x, t)
        alpha_s, _, _, _, spreads_s, _ = self._components(x, s)
        weights = self._log_weights(x).exp().reshape(-1, len(means), *[1] * (x.ndim - 1))
        x_s = same_quantile(x, (alpha * means, spreads.sqrt()), (alpha_s * means, spreads_s.sqrt()), weights)
        found = or_here(pair_of(x, x_s, t, s, self.path), self(x, t), t, s, x)
        return Estimate(x0=found.x0.to(x_t), eps=found.eps.to(x_t))

    def given(self, cond: Cond | None) -> GaussianMixture:
        if not (cond is None or isinstance(cond, Tensor)):
            raise ValueError(f"a GaussianMixture takes a tensor of component indices, got {sorted(cond)}.")
        return GaussianMixture(self.means, self.stds, self.weights, self.path, cond=cond)

    def null(self, num: int) -> Tensor:
        return torch.full((num,), -1, dtype=torch.long)


@dataclass(frozen=True)
class FiniteData(FlowMap):
    """A data set as its own law: x0(x_t) = softmax(-||x_t - alpha x_i||^2 / (2 sigma^2)) over the data. Works on real
    images.

    This is what a net of unlimited capacity would learn: it only ever generates training images. A jump is its ODE
    solved, in float64 (`ODEMap`).

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

    def jump(self, x_t: Tensor, t: float | Tensor, s: float | Tensor) -> Estimate:
        found = ODEMap(self, rtol=EXACT, atol=EXACT).jump(in_float64(x_t), t, s)
        return Estimate(x0=found.x0.to(x_t), eps=found.eps.to(x_t))
