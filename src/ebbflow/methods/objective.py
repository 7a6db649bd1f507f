"""The objective: draw t and eps, noise the data, and weigh how far the net's output is from a x0 + b eps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from ebbflow.core.paths import Path
from ebbflow.core.predictions import PREDICTIONS, check_pair
from ebbflow.core.shape import expand
from ebbflow.core.times import TIME_SAMPLERS
from ebbflow.core.weights import WEIGHTS, loss_weight
from ebbflow.errors import choose


class Outputs(Protocol):
    """What an objective needs of a denoiser: the raw output in its own prediction."""

    def output(self, x_t: Tensor, t: float | Tensor, cond: Tensor | None) -> Tensor: ...


class Losses(Protocol):
    """What training needs of an objective: the times, and the loss of each sample."""

    @property
    def path(self) -> Path: ...

    def draw_times(self, num: int, generator: torch.Generator) -> Tensor: ...

    def losses(self, model: Any, x0: Tensor, cond: Tensor | None, eps: Tensor, t: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Objective:
    """E over t ~ `times`, eps ~ N(0, I) of w(t) ||out(x_t, t) - (a x0 + b eps)||^2 / numel, w by `weight`.

    Args:
        path: the path.
        prediction: a name of `PREDICTIONS`.
        times: a name of `TIME_SAMPLERS`.
        weight: a name of `WEIGHTS`.

    Raises:
        ConfigError: unknown name.
        ValueError: the prediction is singular on the path, or the loss would diverge as sigma -> 0.
    """

    path: Path
    prediction: str = field(default="velocity", kw_only=True)
    times: str = field(default="uniform", kw_only=True)
    weight: str = field(default="uniform", kw_only=True)

    def __post_init__(self) -> None:
        choose(TIME_SAMPLERS, self.times, "time sampling")
        choose(WEIGHTS, self.weight, "weighting")
        check_pair(self.prediction, self.path)
        if self.prediction == "score" and self.weight == "uniform":
            raise ValueError(
                "the unweighted score loss diverges as sigma -> 0. Use weight 'snr', which is sigma^2 times the "
                "score loss."
            )

    def draw_times(self, num: int, generator: torch.Generator) -> Tensor:
        """t, float64 of shape (num,)."""
        return TIME_SAMPLERS[self.times].draw(num, self.path, generator)

    def losses(self, model: Outputs, x0: Tensor, cond: Tensor | None, eps: Tensor, t: Tensor) -> Tensor:
        """The weighted loss of each sample, a mean over its elements, float32 (or wider) of shape (B,). One network
        evaluation."""
        c = self.path.at(t)
        a, b = PREDICTIONS[self.prediction](c)
        out = model.output(self.path.mix(x0, eps, t), t, cond)
        error = (out - (expand(a, x0) * x0 + expand(b, x0) * eps)).flatten(1)
        weight = loss_weight(WEIGHTS[self.weight], c, a * c.sigma - b * c.alpha)
        return weight.to(x0) * error.pow(2).mean(1)
