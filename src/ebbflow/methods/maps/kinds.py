"""The objectives of maps (`MAPS`): what is asked of a jump from t to s beside the ordinary loss, which is at s = t.

All say the same of the exact map, X(x, t, s) = X(x', l, s) for the x' at which its ODE passes l: `midpoint` for an l in
between that the map itself goes to, `consistency` for an x' of the same data and noise, `mean_flow` for l -> t, and
`lsd` for l -> s. Errors are in units of the net's output, so that at s = t each is the ordinary one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Interval
from torch import Tensor

from ebbflow.core.entries import Choice, entry
from ebbflow.core.paths import Path
from ebbflow.core.predictions import Estimate, Prediction
from ebbflow.core.shape import per_sample
from ebbflow.methods.denoise import Denoiser
from ebbflow.methods.maps.forms import Form, form, form_by_s, form_by_t, unit_of
from ebbflow.values import Checked

Derivative = Literal["difference", "jvp"]
Difference = Annotated[float, Interval(ge=1e-4, le=0.1)]  # less is rounding, more is no derivative
Fraction = Annotated[float, Interval(gt=0, le=1)]
Output = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Jumps:
    """The rows of a batch that jump.

    Args:
        output: (x, t, s) -> the net's output, (B, *dims).
        path, prediction: of the net.
        x_t: where they start, (B, *dims).
        t, s: from when to when, s < t, float64 (B,).
        pair: the (x0, eps) whose velocity is learned: those that made x_t, or what a teacher makes of it.
        cut: random numbers in (0, 1), float64 (B,).
        progress: the share of the run that is done, in [0, 1).
        teacher: the denoiser whose map is learned; None for that of the data.
    """

    output: Output
    path: Path
    prediction: Prediction
    x_t: Tensor
    t: Tensor
    s: Tensor
    pair: Estimate
    cut: Tensor
    progress: float = 0.0
    teacher: Denoiser | None = None

    @property
    def velocity(self) -> Tensor:
        """That of the pair."""
        return self.path.velocity(self.pair.x0, self.pair.eps, self.t)

    def form(self, t: Tensor, s: Tensor) -> Form:
        """See `forms.form`."""
        return form(self.prediction, self.path, t, s)

    def total(self, *terms: tuple[Tensor, Tensor]) -> Tensor:
        """The sum of weight (B,) times values (B, *dims)."""
        return torch.stack([per_sample(weight, values) * values for weight, values in terms]).sum(0)

    def arrived(self, x: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """The state that the net's jump arrives at, and the output that said so."""
        out, (skip, weight) = self.output(x, t, s), self.form(t, s)
        return self.total((skip, x), (weight, out)), out


@dataclass(frozen=True, kw_only=True)
class MapKind(Checked, ABC):
    """What is asked of jumps."""

    has_data: ClassVar[bool] = True  # whether a jump's own loss knows the data, so that it can be trained on alone
    is_steep: ClassVar[bool] = False  # whether it differentiates the net in t, which takes a gentle clock
    is_exact: ClassVar[bool] = True  # whether it takes differences of outputs, which bfloat16 rounds away

    @abstractmethod
    def errors(self, jumps: Jumps) -> Tensor:
        """The error of each element (B, *dims), in units of the output; the loss is its mean square."""


@dataclass(frozen=True, kw_only=True)
class Midpoint(MapKind):
    """A jump is two half as long: X(x, t, s) = sg X(X(x, t, m), m, s) (Frans et al., 2024, 2410.12557; for any m,
    Boffi et al., 2025, 2505.18825).

    No derivative, and no bias. Two evaluations without gradients a row.

    Args:
        split: "middle" for m = (t + s) / 2, "uniform" for any m between.
    """

    split: Literal["middle", "uniform"] = "middle"
    has_data: ClassVar[bool] = False
    is_exact: ClassVar[bool] = False

    def errors(self, jumps: Jumps) -> Tensor:
        x, t, s = jumps.x_t, jumps.t, jumps.s
        m = s + (t - s) * (jumps.cut if self.split == "uniform" else 0.5)
        with torch.no_grad():
            x_m, first = jumps.arrived(x, t, m)
            second = jumps.output(x_m, m, s)
        (skip, out), (skip_1, out_1), (skip_2, out_2) = jumps.form(t, s), jumps.form(t, m), jumps.form(m, s)
        rest = (skip_2 * skip_1 - skip) / out
        target = jumps.total((rest, x), (skip_2 * out_1 / out, first), (out_2 / out, second))
        return jumps.output(x, t, s) - target


@dataclass(frozen=True, kw_only=True)
class MeanFlow(MapKind):
    """Where one starts on the way does not matter: dX/dt = 0 along the velocity, solved for the output with its own
    derivative held fixed; on the flow path u = sg[v - (t - s) du/dt] (Geng et al., 2025, eq. 6, 2505.13447).

    Unbiased for an exact derivative. One derivative without gradients a row, which is two evaluations.

    Args:
        tangent: "data" takes du/dt along the velocity of the data and noise at hand; "model" along the net's own,
            which is less noisy and one evaluation more (Geng et al., 2025, 2512.02012).
        derivative: "difference", a central one, or "jvp", by forward differentiation.
        step: half the distance of the central difference, in t.
    """

    tangent: Literal["data", "model"] = "data"
    derivative: Derivative = "difference"
    step: Difference = 0.005
    is_steep: ClassVar[bool] = True

    def errors(self, jumps: Jumps) -> Tensor:
        x, t, s, v = jumps.x_t, jumps.t, jumps.s, jumps.velocity
        out = jumps.output(x, t, s)
        with torch.no_grad():
            w = v if self.tangent == "data" else _own_velocity(jumps)
            slope = self._slope(jumps, w)
        (skip, weight), (skip_t, weight_t) = jumps.form(t, s), form_by_t(jumps.prediction, jumps.path, t, s)
        unit = unit_of(jumps.prediction, jumps.path, t)
        terms = ((skip_t, x), (skip, v), (weight_t, out.detach()), (weight, slope))
        return jumps.total(*((unit * k, values) for k, values in terms)) + (out - out.detach())

    def _slope(self, jumps: Jumps, w: Tensor) -> Tensor:
        """d out / dt along (w, 1), at fixed s."""
        x, t, s = jumps.x_t, jumps.t, jumps.s
        if self.derivative == "jvp":
            return torch.func.jvp(lambda x, t: jumps.output(x, t, s), (x, t), (w, torch.ones_like(t)))[1]
        high, low = (t + self.step).clamp(max=1), torch.maximum(t - self.step, s)
        up, down = (jumps.output(x + per_sample(k - t, x) * w, k, s) for k in (high, low))
        return (up - down) / per_sample(high - low, x)


@dataclass(frozen=True, kw_only=True)
class LSD(MapKind):
    """Where one arrives moves as the ODE does: dX/ds = sg v(X, s), v the net's own without a gap (Boffi et al., 2025,
    2505.18825, "Lagrangian self-distillation").

    Gradients go through the derivative. One evaluation more with gradients and one without a row.

    Args:
        derivative: "difference", of s and s + step taken for the middle between them, or "jvp".
        step: the distance of that difference, at most the jump's.
    """

    derivative: Derivative = "difference"
    step: Difference = 0.01
    has_data: ClassVar[bool] = False

    def errors(self, jumps: Jumps) -> Tensor:
        x, t, (s, out, slope) = jumps.x_t, jumps.t, self._parts(jumps)
        (skip, weight), (skip_s, weight_s) = jumps.form(t, s), form_by_s(jumps.prediction, jumps.path, t, s)
        moved = jumps.total((skip_s, x), (weight_s, out), (weight, slope))
        with torch.no_grad():
            x_s = jumps.total((skip, x), (weight, out.detach()))
            wanted = _velocity(jumps, x_s, s)
        return per_sample(unit_of(jumps.prediction, jumps.path, s), x) * (moved - wanted)

    def _parts(self, jumps: Jumps) -> tuple[Tensor, Tensor, Tensor]:
        """The s that is meant, the output there and its derivative."""
        x, t, s = jumps.x_t, jumps.t, jumps.s
        if self.derivative == "jvp":
            return s, *torch.func.jvp(lambda s: jumps.output(x, t, s), (s,), (torch.ones_like(s),))
        up = torch.minimum(s + self.step, t)
        low, high = jumps.output(x, t, s), jumps.output(x, t, up)
        return (s + up) / 2, (low + high) / 2, (high - low) / per_sample(up - s, x)


@dataclass(frozen=True, kw_only=True)
class Consistency(MapKind):
    """One jumps from nearby as from here: X(x_t, t, s) = sg X(x_l, l, s), l = t - r (t - s), x_l of the same data and
    noise (Luo et al., 2025, 2512.15657, "SoFlow"; r = alpha of Zhang et al., 2025, 2510.20771; for jumps to the data
    alone Geng et al., 2024, 2406.14548).

    At r = 1 it is the ordinary loss, and as r -> 0 `mean_flow` by a one-sided difference; in between the best net is
    biased, by what the ODE curves between l and t. The error is divided by r, so that its gradient keeps its size. One
    evaluation without gradients a row.

    Args:
        first, last: r at the start and at the end of the run, in (0, 1], falling in equal ratios.
        until: the share of the run at which `last` is reached.
    """

    first: Fraction = 1.0
    last: Fraction = 0.05
    until: Fraction = 0.75

    def ratio(self, progress: float) -> float:
        """r when the share `progress` of the run is done."""
        return math.exp(math.log(self.first) + min(progress / self.until, 1) * math.log(self.last / self.first))

    def errors(self, jumps: Jumps) -> Tensor:
        t, s, ratio = jumps.t, jumps.s, self.ratio(jumps.progress)
        near = s if ratio == 1 else t - ratio * (t - s)
        here, there = jumps.path.at(t), jumps.path.at(near)
        (skip, out), (skip_l, out_l) = jumps.form(t, s), jumps.form(near, s)
        x0, eps = jumps.pair.x0, jumps.pair.eps
        with torch.no_grad():
            terms = [
                ((skip_l * there.alpha - skip * here.alpha) / out, x0),
                ((skip_l * there.sigma - skip * here.sigma) / out, eps),
            ]
            if ratio < 1:
                terms.append((out_l / out, jumps.output(jumps.path.mix(x0, eps, near), near, s)))
            target = jumps.total(*terms)
        return (jumps.output(jumps.x_t, t, s) - target) / ratio


def _own_velocity(jumps: Jumps) -> Tensor:
    return _velocity(replace(jumps, teacher=None), jumps.x_t, jumps.t)


def _velocity(jumps: Jumps, x: Tensor, t: Tensor) -> Tensor:
    """That of the teacher, or of the net without a gap."""
    if jumps.teacher is not None:
        estimate = jumps.teacher(x, t)
        return jumps.path.velocity(estimate.x0, estimate.eps, t)
    skip_s, weight_s = form_by_s(jumps.prediction, jumps.path, t, t)
    return jumps.total((skip_s, x), (weight_s, jumps.output(x, t, t)))


MAPS: dict[str, MapKind] = {
    "midpoint": Midpoint(),
    "lsd": LSD(),
    "mean_flow": MeanFlow(),
    "consistency": Consistency(),
}


def map_kind(given: Choice | MapKind) -> MapKind:
    """The objective of maps called `given`, or with options, or itself; see `entry`."""
    return entry(MAPS, given, "objective of maps")
