"""Loss guidance: down the slope of any loss of the x0 that the model sees in x_t."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ebbflow.core.coefficients import Coefficients
from ebbflow.core.predictions import Estimate
from ebbflow.core.shape import per_sample
from ebbflow.errors import choose
from ebbflow.methods.denoise import Wrapped
from ebbflow.methods.guidance.branches import Interval, check_interval, inside
from ebbflow.methods.guidance.losses import Loss

EMPHASES: dict[str, Callable[[Coefficients], Tensor]] = {
    "early": lambda c: c.sigma,
    "late": lambda c: c.alpha,
    "none": lambda c: torch.sqrt(c.alpha**2 + c.sigma**2),
}


@dataclass(frozen=True, kw_only=True)
class LossGuidance(Wrapped):
    """x0 - zeta k(t) grad_{x_t} loss(x0(x_t)), and the eps that goes with it; the gradient runs through the model
    (after Chung et al., 2022, algorithm 1, 2209.14687, inside the denoiser, so that every sampler takes part).

    k is sigma with emphasis "early" (shape), alpha with "late" (texture), and sqrt(alpha^2 + sigma^2) with "none"; on a
    variance-preserving path these are sqrt(1 - alpha-bar), sqrt(alpha-bar) and 1. At equal log-SNR the guided x0 is
    the same on every path. Where x0 follows x_t one to one, as close to the data, zeta = 1 with "late" or "none" moves
    x0 to the minimum of a loss of `LOSSES`, and above 2 they overshoot it. Costs one evaluation of the model forward
    and backward, about three of it.

    Args:
        inner: any denoiser; what of it is itself a gradient is held fixed.
        loss: x0 (B, *dims) -> (B,).
        weight: zeta, at least 0.
        emphasis: "early", "late" or "none".
        interval: (low, high) log-SNR window inside which zeta acts.
    """

    loss: Loss
    weight: float = 1.0
    emphasis: str = "none"
    interval: Interval = None

    def __post_init__(self) -> None:
        check_interval(self.interval)
        choose(EMPHASES, self.emphasis, "loss emphasis")
        if not self.weight >= 0:
            raise ValueError(f"the weight of a loss must be at least 0, got {self.weight}.")

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        active = inside(self.path, t, self.interval)
        if self.weight == 0 or active.nowhere:
            return self.inner(x_t, t)
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            estimate = self.inner(x, t)
            (slope,) = torch.autograd.grad(self.loss(estimate.x0).sum(), x)
        c, plain = self.path.at(t), estimate.each(Tensor.detach)
        x0 = plain.x0 - self.weight * per_sample(EMPHASES[self.emphasis](c), x_t) * slope
        return active.pick(plain.with_x0(x0, x_t, c), plain)
