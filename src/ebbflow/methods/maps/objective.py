"""The objective of a net that is an ordinary model and a map: some rows of a batch learn the velocity, the others to
jump."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ebbflow.core.condition import Cond, rows_of
from ebbflow.core.device import sent
from ebbflow.core.entries import Choice, spelt
from ebbflow.core.paths import Path
from ebbflow.core.predictions import Estimate, prediction_of, solve
from ebbflow.core.shape import float64_on, per_sample
from ebbflow.core.times import Importance, TimeSampler, time_sampler
from ebbflow.core.weights import loss_weight, weight_of
from ebbflow.methods.denoise import Denoiser, NetFlowMap, conditional
from ebbflow.methods.maps.forms import check_form
from ebbflow.methods.maps.kinds import Jumps, MapKind, map_kind
from ebbflow.methods.objective import Objective

SHORTEST = 1e-6  # a jump, in t
STEEP_CLOCKS = ("log_snr", "time", "raw_steps")
ROBUST = 1e-3  # what is added to a loss before its power is taken
FEW_DIMS = 64


class MapOutputs(Protocol):
    """What an objective of maps needs of a denoiser."""

    def output(self, x_t: Tensor, t: float | Tensor, cond: Any, s: float | Tensor | None = None) -> Tensor:
        """The raw output at (x_t, t), or for a jump from there to s."""
        ...


@dataclass(frozen=True)
class MapObjective:
    """The ordinary loss on some rows and a loss of jumps on the others; see `MAPS`.

    Args:
        plain: the ordinary objective: path, prediction, and the times and weight of rows that do not jump. Rows that
            jump have its weight at their t.
        map: an entry of `MAPS`: a name, {"kind": name, option: value}, or the object.
        diagonal: the share of rows with s = t, in [0, 1).
        pairs: the time sampling whose draws, two a row and sorted, are t and s of a jump.
        adaptive: p in [0, 1] divides each loss by sg(loss + 0.001)^p (Geng et al., 2025, 2505.13447). Above 0
            it seeks modes and medians in the place of means, which is harmless only in many dimensions.
        teacher: a frozen denoiser on this path, guided or not, whose velocity is learned in the place of the data's:
            distillation. It is given the batch's condition where it takes one.

    Raises:
        ConfigError: unknown names.
        ValueError: values out of range, or parts that do not go together.
    """

    plain: Objective
    map: Choice | MapKind = field(default="midpoint", kw_only=True)
    diagonal: float = field(default=0.5, kw_only=True)
    pairs: Choice | TimeSampler = field(default="uniform", kw_only=True)
    adaptive: float = field(default=0.0, kw_only=True)
    teacher: Denoiser | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        kind, plain = self.kind, self.plain
        if not 0 <= self.diagonal < 1:
            raise ValueError(f"`diagonal` must be in [0, 1), got {self.diagonal}: at 1 nothing would jump.")
        if self.diagonal == 0 and not kind.has_data:
            raise ValueError(
                f"jumps of {spelt(self.map)!r} learn from the net's own velocity, and with `diagonal` 0 nothing "
                "teaches it that: a constant would do. Use `diagonal` 0.5."
            )
        if not 0 <= self.adaptive <= 1:
            raise ValueError(f"`adaptive` must be in [0, 1], got {self.adaptive}.")
        if plain.variance == "learned" or plain.learn_uncertainty or isinstance(self._times, Importance):
            raise ValueError(
                "a map has no learned variance, no uncertainty and no importance sampling of times. Use variance "
                "'fixed', `uncertainty` false and times such as 'logit_normal'."
            )
        if isinstance(time_sampler(self.pairs), Importance):
            raise ValueError("`pairs` are drawn without losses to go by: use uniform or logit_normal.")
        if self.teacher is not None and plain.guidance != 1:
            raise ValueError("guide the teacher, or build guidance in from the data: not both. Use `guidance` 1.")
        if self.teacher is not None and self.teacher.path != plain.path:
            raise ValueError("the teacher is on another path than its map. Take the teacher's path.")
        check_form(plain.prediction, plain.path)

    @property
    def path(self) -> Path:
        """The path that t and s are times of."""
        return self.plain.path

    @cached_property
    def kind(self) -> MapKind:
        """What is asked of jumps."""
        return map_kind(self.map)

    @property
    def fewest_rows(self) -> int:
        """Rows side by side of which some jump and some do not, wherever they begin; 1 where all jump."""
        return 1 if self.diagonal == 0 else math.ceil(1 / min(self.diagonal, 1 - self.diagonal) - 1e-9)

    @property
    def _times(self) -> TimeSampler:
        return time_sampler(self.plain.times)

    def check(self, denoiser: Any) -> None:
        """Refuse a denoiser that this cannot train.

        Raises:
            ValueError: it is told no gap, its clock is too steep, or its dropout differs between passes.
        """
        if not isinstance(denoiser, NetFlowMap):
            raise ValueError(
                f"an objective of maps trains a net that is told the gap of a jump, got a {type(denoiser).__name__}. "
                "Make it an ef.NetFlowMap around a net with gap=True."
            )
        clock = denoiser.clock if isinstance(denoiser.clock, str) else None
        if self.kind.is_steep and clock in STEEP_CLOCKS:
            raise ValueError(
                f"{spelt(self.map)!r} differentiates the net in t, and the clock {clock!r} is so steep that the "
                "derivative is mostly that of its embedding. Use clock 'unit', or 'midpoint', which needs none."
            )
        if isinstance(denoiser.net, nn.Module) and any(_drops(module) for module in denoiser.net.modules()):
            raise ValueError(
                "a map compares passes of the same net, and dropout makes them different nets. Set its rate to 0."
            )

    def caution(self, num_dims: int) -> str | None:
        """What is unwise about this objective for data of so many numbers; None for nothing."""
        if not self.adaptive or num_dims >= FEW_DIMS:
            return None
        return (
            f"`adaptive` {self.adaptive:g} makes a robust loss, which for data of {num_dims} numbers seeks modes in "
            "the place of means, and the map is wrong. Use `adaptive` 0."
        )

    def draw_times(self, num: int, generator: torch.Generator) -> Tensor:
        """t of rows that do not jump, as those of `plain`."""
        return self.plain.draw_times(num, generator)

    def losses(self, model: Any, x0: Tensor, cond: Cond | None, eps: Tensor, t: Tensor) -> Tensor:
        """The ordinary loss of each sample, which held-out losses of models with and without jumps share; of a
        `teacher`, by how far the net is from it."""
        pair = self._pair(x0, cond, eps, t)
        return self.plain.losses(model, pair.x0, cond, pair.eps, t)

    def draw(self, num: int, generator: torch.Generator) -> Tensor:
        """t, s <= t and a number in (0, 1) for each row, float64 (num, 3); s = t in `diagonal` of the rows, spread
        evenly over the batch."""
        row = torch.arange(num, dtype=torch.float64)
        jumps = torch.floor((row + 1) * self.diagonal + 1e-9) == torch.floor(row * self.diagonal + 1e-9)
        t = self.draw_times(num, generator)
        law = time_sampler(self.pairs)
        both = torch.stack([law.draw(num, self.path, generator) for _ in range(2)])
        high, low = both.amax(0).clamp(min=2 * SHORTEST), both.amin(0)
        cut = torch.rand(num, generator=generator, dtype=torch.float64)
        t, s = torch.where(jumps, high, t), torch.where(jumps, torch.minimum(low, high - SHORTEST), t)
        return torch.stack([t, s, cut], dim=1)

    def losses_of(
        self, model: MapOutputs, x0: Tensor, cond: Cond | None, eps: Tensor, drawn: Tensor, progress: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """The loss of each row, (B,), and whether it jumps.

        Args:
            model: raw outputs, in the prediction of `plain`.
            x0, eps: data and noise, (B, *dims).
            cond: their conditions.
            drawn: as `draw` gives it.
            progress: the share of the run that is done, in [0, 1).
        """
        jumps = drawn[:, 1] < drawn[:, 0]
        each = x0.new_zeros(len(x0), dtype=torch.promote_types(x0.dtype, torch.float32))
        for rows, loss in ((~jumps, self._still), (jumps, self._jumping)):
            chosen = rows.nonzero()[:, 0]
            if len(chosen):
                there = sent(chosen, x0.device)
                times = float64_on(drawn[chosen], x0.device).unbind(1)
                part = None if cond is None else rows_of(cond, there)
                found = loss(model, x0[there], part, eps[there], times, progress)
                each = each.index_copy(0, there, found.to(each))
        if self.adaptive:
            each = each / (each.detach() + ROBUST) ** self.adaptive
        return each, jumps

    def _still(
        self, model: Any, x0: Tensor, cond: Any, eps: Tensor, times: tuple[Tensor, ...], progress: float
    ) -> Tensor:
        return self.losses(model, x0, cond, eps, times[0])

    def _jumping(
        self, model: MapOutputs, x0: Tensor, cond: Any, eps: Tensor, times: tuple[Tensor, ...], progress: float
    ) -> Tensor:
        t, s, cut = times
        jumps = Jumps(
            output=lambda x, t, s: model.output(x, t, cond, s),
            path=self.path,
            prediction=prediction_of(self.plain.prediction),
            x_t=self.path.mix(x0, eps, t),
            t=t,
            s=s,
            pair=self._target(model, x0, cond, eps, t),
            cut=cut,
            progress=progress,
            teacher=self._teaches(cond),
        )
        kind = self.kind
        with torch.autocast(x0.device.type, enabled=False) if kind.is_exact else nullcontext():
            error = kind.errors(jumps).flatten(1)
        c = self.path.at(t)
        a, b = jumps.prediction(c)
        weight = loss_weight(weight_of(self.plain.weight), c, a * c.sigma - b * c.alpha)
        error = error.to(torch.promote_types(error.dtype, torch.float32))
        return weight.to(error) * error.pow(2).mean(1)

    @torch.no_grad()
    def _target(self, model: Any, x0: Tensor, cond: Any, eps: Tensor, t: Tensor) -> Estimate:
        """The pair that jumps are to learn, for kinds that go by one: the data's, guided or not, or the teacher's."""
        if not self.kind.has_data:
            return Estimate(x0=x0, eps=eps)
        if self.plain.guidance == 1:
            return self._pair(x0, cond, eps, t)
        x_t, (a, b) = self.path.mix(x0, eps, t), prediction_of(self.plain.prediction)(self.path.at(t))
        plain = per_sample(a, x0) * x0 + per_sample(b, x0) * eps
        target = plain + self.plain.built_in(model, x_t, t, model.output(x_t, t, cond))
        return solve(self.plain.prediction, target, x_t, t, self.path)

    def _teaches(self, cond: Any) -> Denoiser | None:
        return self.teacher if self.teacher is None or cond is None else conditional(self.teacher).given(cond)

    @torch.no_grad()
    def _pair(self, x0: Tensor, cond: Any, eps: Tensor, t: Tensor) -> Estimate:
        """The data and noise whose velocity is learned, or the pair that the teacher sees in their mixture."""
        teacher = self._teaches(cond)
        return Estimate(x0=x0, eps=eps) if teacher is None else teacher(self.path.mix(x0, eps, t), t)


def _drops(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
