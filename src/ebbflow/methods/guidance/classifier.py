"""Classifier guidance: up the slope of log p(y | x_t) of a classifier that knows noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ebbflow.core.device import sent
from ebbflow.core.entries import Choice
from ebbflow.core.paths import Path
from ebbflow.core.predictions import Estimate
from ebbflow.core.shape import as_float64, per_sample
from ebbflow.core.times import TimeSampler, time_sampler
from ebbflow.methods.denoise import Wrapped
from ebbflow.methods.guidance.branches import Interval, check_interval, inside
from ebbflow.methods.told import CLOCKS, SCALES

LOG_SNR_FLOOR = -14.0  # below, alpha / sigma < 1e-3 and grad / alpha is at its limit, which is taken from here


class NoisyClassifier(Protocol):
    """log p(y | x_t): (x_t of shape (B, *dims), t, path) -> differentiable log-probabilities (B, K)."""

    def __call__(self, x_t: Tensor, t: float | Tensor, path: Path) -> Tensor: ...


ClassifierNet = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class NetClassifier:
    """A net as a noisy classifier of any path: it is fed x_t / sqrt(alpha^2 + sigma^2), the log-SNR as its clock, and
    the share of data alpha / sqrt(alpha^2 + sigma^2).

    Args:
        net: (x, clock of shape (B,), share of shape (B,)) -> logits (B, K). The slope of its logits has to vanish with
            the share, as that of log p(y | x_t) does.
    """

    net: ClassifierNet

    def logits(self, x_t: Tensor, t: float | Tensor, path: Path) -> Tensor:
        """The net's logits at (x_t, t), float32 (or wider) of shape (B, K)."""
        c = path.at(t)
        scale = SCALES["unit"](c)
        clock, share = (
            sent(k.float(), x_t.device).expand(x_t.shape[0]) for k in (CLOCKS["log_snr"](path, t), c.alpha * scale)
        )
        out = self.net(per_sample(scale, x_t) * x_t, clock, share)
        return out.to(torch.promote_types(out.dtype, torch.float32))

    def __call__(self, x_t: Tensor, t: float | Tensor, path: Path) -> Tensor:
        return self.logits(x_t, t, path).log_softmax(dim=1)


@dataclass(frozen=True, kw_only=True)
class ClassifierObjective:
    """E over t ~ `times` and eps ~ N(0, I) of -log p(y | x_t), the loss of a noisy classifier.

    Args:
        path: the path whose noise levels are trained on; the classifier then serves any path.
        times: an entry of `TIME_SAMPLERS`, by name or itself.
    """

    path: Path
    times: Choice | TimeSampler = "low_discrepancy"

    def draw_times(self, num: int, generator: torch.Generator) -> Tensor:
        """t, float64 of shape (num,)."""
        return time_sampler(self.times).draw(num, self.path, generator)

    def losses(self, model: NetClassifier, x0: Tensor, cond: Tensor | None, eps: Tensor, t: Tensor) -> Tensor:
        """-log p(cond | x_t) of each sample, shape (B,)."""
        assert cond is not None
        logits = model.logits(self.path.mix(x0, eps, t), t, self.path)
        return torch.nn.functional.cross_entropy(logits, cond, reduction="none")


@dataclass(frozen=True, kw_only=True)
class ClassifierGuidance(Wrapped):
    """score + gamma grad log p(y | x_t), that is eps - gamma sigma grad and x0 + gamma (sigma^2 / alpha) grad (Dhariwal
    & Nichol, 2021, algorithm 2, 2105.05233; Song et al., 2020, eq. 14, 2011.13456).

    gamma = 1 on an unconditional model is the conditional one, exactly so for exact parts. Costs one evaluation of the
    model, and the classifier forward and backward.

    Args:
        inner: any denoiser, conditional or not.
        classifier: log p(y | x_t).
        labels: the class wanted of each sample, int64 of shape (B,) or (1,).
        scale: gamma.
        interval: (low, high) log-SNR window inside which gamma acts.
    """

    classifier: NoisyClassifier
    labels: Tensor
    scale: float = 1.0
    interval: Interval = None

    def __post_init__(self) -> None:
        check_interval(self.interval)

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        estimate = self.inner(x_t, t)
        active = inside(self.path, t, self.interval)
        if self.scale == 0 or active.nowhere:
            return estimate
        near = _not_pure_noise(self.path, t)
        c = self.path.at(near)
        slope = gradient(lambda x: self._log_prob(x, near), x_t)
        x0 = estimate.x0 + self.scale * per_sample(c.sigma**2 / c.alpha, x_t) * slope
        return active.pick(estimate.with_x0(x0, x_t, self.path.at(t)), estimate)

    def _log_prob(self, x: Tensor, t: Tensor) -> Tensor:
        labels = sent(self.labels, x.device).expand(x.shape[0])
        return self.classifier(x, t, self.path).gather(1, labels[:, None])[:, 0]


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The gradient of each entry of function(x), shape (B,), by its own sample, also under `no_grad`."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(function(x).sum(), x)
    return slope


def _not_pure_noise(path: Path, t: float | Tensor) -> Tensor:
    """`t`, or where there is next to no data in x_t the nearest time where there is."""
    t = as_float64(t)
    low = path.log_snr(t) < LOG_SNR_FLOOR
    return torch.where(low, path.time_of(LOG_SNR_FLOOR).to(t.device), t) if bool(low.any()) else t
