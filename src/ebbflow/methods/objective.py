"""The objective: draw t and eps, noise the data, and weigh how far the net's output is from a x0 + b eps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ebbflow.core.condition import Cond
from ebbflow.core.entries import Choice, spelt
from ebbflow.core.kernels import log_density, log_level, posteriors, step_divergence
from ebbflow.core.paths import Path
from ebbflow.core.predictions import PREDICTIONS, Prediction, check_pair, path_name, prediction_of, solve
from ebbflow.core.shape import per_sample
from ebbflow.core.times import TIME_SAMPLERS, Importance, TimeSampler, num_table_steps, time_sampler
from ebbflow.core.weights import WEIGHTS, Weight, loss_weight, weight_of
from ebbflow.methods.adaptive import ImportanceTimes, Uncertainty


class Outputs(Protocol):
    """What an objective needs of a denoiser: the raw output in its own prediction."""

    def output(self, x_t: Tensor, t: float | Tensor, cond: Cond | None) -> Tensor:
        """a x0 + b eps as the net sees it at `x_t` (B, *dims) and t, () or (B,) in (0, 1]: (B, C, ...), or (B, 2C, ...)
        with a learned variance; `cond` has a row a sample."""
        ...

    def null(self, num: int) -> Cond:
        """The null condition of `num` samples; asked for with `guidance` alone."""
        ...


class Losses(Protocol):
    """What training needs of an objective: the times, and the loss of each sample."""

    @property
    def path(self) -> Path:
        """The path that t is a time of."""
        ...

    def draw_times(self, num: int, generator: torch.Generator) -> Tensor:
        """t in (0, 1], float64 (num,), from `generator` alone."""
        ...

    def losses(self, model: Any, x0: Tensor, cond: Any, eps: Tensor, t: Tensor) -> Tensor:
        """The loss of each sample, (B,), of data `x0` and noise `eps`, both (B, *dims), at t (B,)."""
        ...


@dataclass(frozen=True)
class Objective:
    """E over t ~ `times`, eps ~ N(0, I) of w(t) ||out(x_t, t) - (a x0 + b eps)||^2 / numel, w by `weight`.

    Args:
        path: the path.
        prediction, times, weight: entries of `PREDICTIONS`, `TIME_SAMPLERS` and `WEIGHTS`: a name, {"kind": name,
            option: value}, or the object.
        variance: "learned" takes a net of 2C output channels, whose second half is trained by `vlb_weight` times the
            variational bound: the hybrid objective of Nichol & Dhariwal (2021, eq. 16, 2102.09672).
        of_bytes: whether images are u8 / 127.5 - 1, so that the bound measures the mass of a byte; False for latents.
        vlb_weight: 0.001 as there; the bound is in bits a dimension, a sum over all steps of the chain.
        time_bins: bins of times "importance", whose history is this objective's `importance`.
        guidance: w of u + w (c - u), built into the model (model guidance, Tang et al., 2025, 2502.12154): the target
            is a x0 + b eps + (1 - 1/w) sg(out(cond) - out(null)), of which the guided model is the fixed point, and
            what is dropped to the null learns u. One evaluation without gradients more, none at 1.
        guidance_below: the largest t that it is built in at.
        learn_uncertainty: divide the losses by what is learned of them, this objective's `uncertainty`, whose
            parameters belong in the optimiser beside the net's.

    Raises:
        ConfigError: unknown name.
        ValueError: the prediction is singular on the path, or the loss would diverge as sigma -> 0.
    """

    path: Path
    prediction: Choice | Prediction = field(default="velocity", kw_only=True)
    times: Choice | TimeSampler = field(default="uniform", kw_only=True)
    weight: Choice | Weight = field(default="uniform", kw_only=True)
    variance: Literal["fixed", "learned"] = field(default="fixed", kw_only=True)
    vlb_weight: float = field(default=0.001, kw_only=True)
    of_bytes: bool = field(default=True, kw_only=True)
    time_bins: int = field(default=100, kw_only=True)
    learn_uncertainty: bool = field(default=False, kw_only=True)
    guidance: float = field(default=1.0, kw_only=True)
    guidance_below: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        if not 1 <= self.guidance < math.inf:
            raise ValueError(f"`guidance` that is built in must be 1 or more, got {self.guidance}.")
        if not 0 < self.guidance_below <= 1:
            raise ValueError(f"`guidance_below` must be in (0, 1], got {self.guidance_below}.")
        time_sampler(self.times)
        is_uniform = weight_of(self.weight) == WEIGHTS["uniform"]
        check_pair(self.prediction, self.path)
        if prediction_of(self.prediction) == PREDICTIONS["score"] and is_uniform:
            raise ValueError(
                "the unweighted score loss diverges as sigma -> 0. Use weight 'snr', which is sigma^2 times the "
                "score loss."
            )
        if is_uniform and self._diverges():
            raise ValueError(
                f"the uniform loss of prediction {spelt(self.prediction)!r} diverges as t -> 0 on path "
                f"{path_name(self.path)!r}, which starts at infinite speed, with times {spelt(self.times)!r}. "
                "Use prediction v, weight 'snr' or times 'logit_normal'."
            )

    def _diverges(self) -> bool:
        """Whether the target is unbounded at t = 0 while t has a density there; a table never reaches t = 0."""
        bounded = all(bool(torch.isfinite(k)) for k in prediction_of(self.prediction)(self.path.at(0.0)))
        near = torch.tensor(1e-12, dtype=torch.float64)
        times = time_sampler(self.times)
        return not bounded and times != TIME_SAMPLERS["discrete"] and float(times.density(near, self.path)) > 1e-3

    @cached_property
    def importance(self) -> ImportanceTimes | None:
        """What training remembers of its losses by t; None where times are not "importance"."""
        return ImportanceTimes(self.path, self.time_bins) if time_sampler(self.times) == Importance() else None

    @cached_property
    def uncertainty(self) -> Uncertainty | None:
        """What training learns of its losses by t; None unless `learn_uncertainty`."""
        return Uncertainty(self.path) if self.learn_uncertainty else None

    def draw_times(self, num: int, generator: torch.Generator) -> Tensor:
        """t, float64 of shape (num,)."""
        return time_sampler(self.times).draw(num, self.path, generator)

    def losses(self, model: Outputs, x0: Tensor, cond: Cond | None, eps: Tensor, t: Tensor) -> Tensor:
        """The weighted loss of each sample, a mean over its elements, float32 (or wider) of shape (B,). One network
        evaluation.

        Raises:
            ValueError: the net has not the number of output channels that `variance` asks for.
        """
        c = self.path.at(t)
        a, b = prediction_of(self.prediction)(c)
        x_t = self.path.mix(x0, eps, t)
        out = model.output(x_t, t, cond)
        wanted = x0.shape[1] * (2 if self.variance == "learned" else 1)
        if out.shape[1] != wanted:
            raise ValueError(
                f"objective.variance = {self.variance!r} wants a net of {wanted} output channels for data of "
                f"{x0.shape[1]}, got {out.shape[1]}."
            )
        mean = out[:, : x0.shape[1]]
        target = per_sample(a, x0) * x0 + per_sample(b, x0) * eps
        if self.guidance != 1:
            target = target + self.built_in(model, x_t, t, mean.detach())
        error = (mean - target).flatten(1)
        error = error.to(torch.promote_types(error.dtype, torch.float32))
        weight = loss_weight(weight_of(self.weight), c, a * c.sigma - b * c.alpha)
        simple = weight.to(error) * error.pow(2).mean(1)
        if self.variance == "fixed":
            return simple
        guess = solve(self.prediction, mean.detach(), x_t, t, self.path).x0
        return simple + self.vlb_weight * self._bound(x0, guess, (out[:, x0.shape[1] :] + 1) / 2, t)

    def built_in(self, model: Outputs, x_t: Tensor, t: Tensor, out: Tensor) -> Tensor:
        """(1 - 1/w) (out - out(null)) where t is at most `guidance_below`, 0 elsewhere."""
        with torch.no_grad():
            none = model.output(x_t, t, model.null(len(x_t)))[:, : x_t.shape[1]]
        share = (1 - 1 / self.guidance) * (t <= self.guidance_below).to(torch.float64)
        return per_sample(share, out) * (out - none)

    def _bound(self, x0: Tensor, guess: Tensor, fraction: Tensor, t: Tensor) -> Tensor:
        """T times the term of each sample's own step t -> t - 1/T in the variational bound, in bits a dimension.

        `guess` is the net's x0 and `fraction` its nu. The first step has no posterior variance: its decoder's small
        variance is that of the step before it in sampling order.
        """
        num_steps = num_table_steps(self.path)
        first = t <= (1 + 1e-6) / num_steps
        here, later = self.path.at(t), self.path.at((t + 1 / num_steps).clamp(max=1))
        kernel = posteriors(here, self.path.at(torch.where(first, 0.0, t - 1 / num_steps)))
        log_small = torch.where(first, posteriors(later, here).small, kernel.small).log()
        known, large = per_sample(log_small, x0), per_sample(kernel.large.log(), x0)
        log_variance = torch.lerp(known, large, fraction.to(x0))
        shift = per_sample(kernel.from_x0, x0) * (guess - x0)
        decoder = -(log_level if self.of_bytes and x0.ndim == 4 else log_density)(x0, guess, log_variance)
        terms = torch.where(per_sample(first, x0) > 0, decoder, step_divergence(shift, known, log_variance))
        return num_steps / math.log(2) * terms.flatten(1).mean(1)
