"""The map of any denoiser by its own ODE, and the pair that stands for a known map."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ebbflow.core.paths import Path
from ebbflow.core.predictions import Estimate
from ebbflow.core.shape import as_float64, in_float64, per_sample
from ebbflow.methods.denoise import FlowMap, Wrapped
from ebbflow.methods.samplers.adaptive import dopri5
from ebbflow.methods.samplers.base import level_at

SHORT = 1e-4  # of the clock: how near to t = 0, and to a start of infinite speed, the solver takes over or leaves off


def pair_of(x_t: Tensor, x_s: Tensor, t: float | Tensor, s: float | Tensor, path: Path) -> Estimate:
    """The (x0, eps) with path.mix(x0, eps, t) = x_t and path.mix(x0, eps, s) = x_s: what a jump from one to the other
    answers; shape (B, *dims), in the dtype of `x_t`. Where s = t there is none, and it is not finite."""
    c, d = path.at(t), path.at(s)
    here, there = in_float64(x_t), in_float64(x_s)
    alpha, sigma, alpha_s, sigma_s = (per_sample(k, here) for k in (c.alpha, c.sigma, d.alpha, d.sigma))
    turn = alpha * sigma_s - alpha_s * sigma
    x0, eps = (sigma_s * here - sigma * there) / turn, (alpha * there - alpha_s * here) / turn
    return Estimate(x0=x0.to(x_t), eps=eps.to(x_t))


def or_here(jump: Estimate, here: Estimate, t: float | Tensor, s: float | Tensor, x_t: Tensor) -> Estimate:
    """`jump`, and where s = t the estimate `here`."""
    still = (as_float64(t) == as_float64(s)).to(x_t.device)
    rows = still if still.ndim == 0 else still.reshape(-1, *[1] * (x_t.ndim - 1))
    return Estimate(x0=torch.where(rows, here.x0, jump.x0), eps=torch.where(rows, here.eps, jump.eps))


@dataclass(frozen=True, kw_only=True)
class ODEMap(Wrapped, FlowMap):
    """Any denoiser as a `FlowMap`: a jump is its ODE dx/dt = v(x, t) solved by `dopri5`, as exactly as is asked. A
    jump costs dozens of evaluations; a call, one of the inner denoiser.

    Args:
        inner: the denoiser, guided or not, its condition bound.
        rtol, atol: of the solver, in (0, 1).
    """

    rtol: float = 1e-6
    atol: float = 1e-6

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        return self.inner(x_t, t)

    def jump(self, x_t: Tensor, t: float | Tensor, s: float | Tensor) -> Estimate:
        starts, ends = (as_float64(k).cpu().expand(len(x_t)) for k in (t, s))
        x0, eps = torch.empty_like(x_t), torch.empty_like(x_t)
        for high, low in {*zip(starts.tolist(), ends.tolist(), strict=True)}:
            rows = ((starts == high) & (ends == low)).to(x_t.device)
            found = self._jump(x_t[rows], high, low)
            x0[rows], eps[rows] = found.x0, found.eps
        return Estimate(x0=x0, eps=eps)

    @torch.no_grad()
    def _jump(self, x_t: Tensor, t: float, s: float) -> Estimate:
        if t == s:
            return self.inner(x_t, t)
        first = [t] if level_at(self.path, t).is_regular else [t, t - (t - s) * SHORT]
        last = [s] if s > 0 else [min(SHORT, t / 2), 0.0]
        times = torch.tensor([*first, *last], dtype=torch.float64)
        x = x_t
        for step in dopri5(self.inner, x_t, times, rtol=self.rtol, atol=self.atol):
            x = step.x
        return pair_of(x_t, x, t, s, self.path)
