"""Denoisers: (x_t, t) -> Estimate. Whatever can answer that, a net, a guided net or a closed form, every sampler can
walk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, nn

from ebbflow.conditioning import ConditionedNet
from ebbflow.core.coefficients import Coefficients
from ebbflow.core.condition import Cond, expand_rows, to_device
from ebbflow.core.device import sent
from ebbflow.core.entries import Choice, entry, spelt
from ebbflow.core.paths import Path
from ebbflow.core.predictions import Estimate, Prediction, check_pair, solve
from ebbflow.core.shape import per_sample
from ebbflow.methods.told import CLOCKS, SCALES, Clock, Scale, gap, same_to_the_net
from ebbflow.nets import Context


class UntrainedNullError(ValueError):
    """The null condition was asked of a model that was never trained without a condition."""


class Denoiser(ABC):
    """A callable (x_t, t) -> Estimate on a path.

    Call with `x_t` of shape (B, *dims) and `t` a number or a tensor of shape () or (B,) in (0, 1]; a call is one
    network evaluation unless the denoiser says otherwise.
    """

    path: Path

    @abstractmethod
    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        """E[x0 | x_t] and E[eps | x_t]."""


class FlowMap(Denoiser):
    """A denoiser that also jumps: one call takes x_t to the state x_s at which its ODE dx/dt = v(x, t) arrives."""

    @abstractmethod
    def jump(self, x_t: Tensor, t: float | Tensor, s: float | Tensor) -> Estimate:
        """The pair (x0, eps) that x_t and x_s share: `path.mix(x0, eps, t)` is x_t and `path.mix(x0, eps, s)` is x_s =
        X(x_t, t, s).

        At s = t it is the estimate of a call; elsewhere the pair is no conditional mean, and stands for the jump alone.

        Args:
            x_t: shape (B, *dims).
            t, s: numbers, or tensors of shape () or (B,), 0 <= s <= t <= 1 and t above 0.
        """


def flow_map(denoiser: Denoiser) -> FlowMap:
    """`denoiser`, which jumps.

    Raises:
        ValueError: it does not; says why, as far as can be told.
    """
    if isinstance(denoiser, FlowMap):
        return denoiser
    why = (
        "its net is told no gap. Train one that is: objective.map=midpoint"
        if isinstance(denoiser, NetDenoiser)
        else "guidance, clipping and masks change the way that a map has learned. Leave them out (`guidance` 1)"
        if isinstance(denoiser, Wrapped)
        else "it has no method `jump`. Make it an ef.FlowMap"
    )
    raise ValueError(f"a {type(denoiser).__name__} cannot jump from one time to another: {why}.")


class Conditional(Denoiser):
    """A denoiser that takes a condition: a tensor, or a dict of tensors, with a row a sample. A denoiser of one's own
    that has both methods is one, whether it inherits from here or not."""

    @abstractmethod
    def given(self, cond: Cond | None) -> Conditional:
        """The same denoiser with a condition bound, one row a sample (or a single row for all); None binds the null
        condition."""

    @abstractmethod
    def null(self, num: int) -> Cond:
        """The null condition of `num` samples, in the form that `given` takes.

        Raises:
            ValueError: this denoiser knows no null condition.
        """

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        if cls is not Conditional:
            return NotImplemented
        return all(any(name in base.__dict__ for base in other.__mro__) for name in ("given", "null"))


def conditional(denoiser: Denoiser) -> Conditional:
    """`denoiser`, which takes conditions.

    Raises:
        ValueError: it takes none.
    """
    if not isinstance(denoiser, Conditional):
        raise ValueError(f"a {type(denoiser).__name__} takes no condition, so it has no null one and nothing to guide.")
    return denoiser


def takes_condition(denoiser: Denoiser) -> bool:
    """Whether a denoiser knows conditions, which is whether it has a null one."""
    try:
        conditional(denoiser).null(1)
    except UntrainedNullError:
        return True
    except ValueError:
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class Wrapped(Conditional):
    """A denoiser around another one, whose path and null condition it keeps; it takes conditions where that does."""

    inner: Denoiser = field(kw_only=False)

    @property
    def path(self) -> Path:  # type: ignore[override]
        """The inner denoiser's path."""
        return self.inner.path

    def given(self, cond: Cond | None) -> Self:
        return replace(self, inner=conditional(self.inner).given(cond))

    def null(self, num: int) -> Cond:
        return conditional(self.inner).null(num)


@dataclass(frozen=True, kw_only=True)
class OutputDenoiser(Conditional):
    """A denoiser whose raw output is a x0 + b eps in the meaning of a prediction, and is solved for both.

    Args:
        path: the path.
        prediction: what the output means: a name of `PREDICTIONS`, with options or without, or a prediction.
        make_null: num -> null conditions; None where there are no conditions.
        cond: the bound condition.

    Raises:
        ConfigError: unknown prediction.
        ValueError: the prediction cannot recover x0 on this path.
    """

    path: Path
    prediction: Choice | Prediction = "velocity"
    make_null: Callable[[int], Cond] | None = None
    cond: Cond | None = None

    def __post_init__(self) -> None:
        check_pair(self.prediction, self.path)

    @abstractmethod
    def output(self, x_t: Tensor, t: float | Tensor, cond: Any) -> Tensor:
        """The raw output at (x_t, t), shape (B, C, ...) or, with a learned variance, (B, 2C, ...)."""

    def _bound(self, x_t: Tensor) -> Any:
        """The bound condition, or the null one, with a row for each of `x_t`; None where there are no conditions."""
        if self.cond is not None:
            return to_device(expand_rows(self.cond, len(x_t)), x_t.device)
        return None if self.make_null is None else to_device(self.null(len(x_t)), x_t.device)

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        return self._estimate(self.output(x_t, t, self._bound(x_t)), x_t, t)

    def _estimate(self, out: Tensor, x_t: Tensor, t: float | Tensor) -> Estimate:
        channels = x_t.shape[1]
        if out.shape[1] not in (channels, 2 * channels):
            raise ValueError(
                f"for data of {channels} channels a model answers {channels}, or {2 * channels} with a learned "
                f"variance; got {out.shape[1]}."
            )
        if out.shape[1] == channels:
            return solve(self.prediction, out, x_t, t, self.path)
        fraction = (out[:, channels:] + 1) / 2
        return replace(solve(self.prediction, out[:, :channels], x_t, t, self.path), log_variance_fraction=fraction)

    def given(self, cond: Cond | None) -> Self:
        if cond is not None and self.make_null is None:
            raise ValueError("this model was trained without a condition; it cannot take one.")
        return replace(self, cond=cond)

    def null(self, num: int) -> Cond:
        if self.make_null is None:
            raise ValueError(
                "this model was trained without a condition, so it has no null condition and guidance has "
                "nothing to guide."
            )
        return self.make_null(num)


Net = Callable[[Tensor, Tensor, Any], Tensor]


@dataclass(frozen=True, kw_only=True, repr=False)
class NetDenoiser(OutputDenoiser):
    """A net as a denoiser: it is shown scale * x_t and told a clock, and its output is solved for x0 and eps.

    By default the net is shown x_t / sqrt(alpha^2 + sigma^2) and told the log-SNR, so it never hears of the path and
    can serve others; see `on`. A net that is a torch module is shown x_t in the dtype of its parameters; the clock is
    float32.

    Args:
        net: (x, clock of shape (B,), condition or None) -> output, shape (B, C, ...) or (B, 2C, ...) where the variance
            is learned.
        path, prediction, make_null, cond: as in `OutputDenoiser`.
        scale: what x_t is multiplied by: a name of `SCALES` or a function of coefficients.
        clock: what the net is told of t: a name of `CLOCKS` or a function (path, t).
        null_trained: whether training ever dropped the condition; without, the null one means nothing and is refused.

    Raises:
        ConfigError: unknown prediction, scale or clock.
        ValueError: the prediction cannot recover x0 on this path.
    """

    net: Net
    scale: Choice | Scale = "unit"
    clock: Choice | Clock = "log_snr"
    null_trained: bool = True
    _context: _ReadOnce = field(default_factory=lambda: _ReadOnce(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        entry(SCALES, self.scale, "scale")
        entry(CLOCKS, self.clock, "clock")

    def __repr__(self) -> str:
        num = sum(p.numel() for p in self.net.parameters()) if isinstance(self.net, nn.Module) else 0
        net = f"{type(self.net).__name__} of {num:,} parameters" if num else type(self.net).__name__
        bound = ", given a condition" if self.cond is not None else ""
        return f"{type(self).__name__}({net}, predicts {spelt(self.prediction)} on {self.path}{bound})"

    def output(self, x_t: Tensor, t: float | Tensor, cond: Any) -> Tensor:
        """The net's raw output at (x_t, t), in the dtype of `x_t`."""
        return self._answer(*self._views(x_t, t), cond, x_t)

    def _views(self, x_t: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """What the net is shown of x_t and what it is told of t."""
        c, scale, clock = self.path.at(t), entry(SCALES, self.scale, "scale"), entry(CLOCKS, self.clock, "clock")
        if isinstance(t, Tensor):
            shown = per_sample(scale(c), x_t) * x_t
            told = sent(clock(self.path, t).float(), x_t.device).expand(x_t.shape[0])
        else:
            factor, number = self._numbers(c, scale, clock, t)
            shown = x_t if factor == 1 else factor * x_t
            told = torch.full((len(x_t),), number, dtype=torch.float32, device=x_t.device)
        return shown, told

    def _answer(self, shown: Tensor, told: Tensor, cond: Any, x_t: Tensor) -> Tensor:
        shown = shown if self._parameter is None else shown.to(self._parameter.dtype)
        return _like(self.net(shown, told, cond), x_t).to(x_t.dtype)

    def _numbers(self, c: Coefficients, scale: Scale, clock: Clock, t: float) -> tuple[float, float]:
        """The scale and the clock of a single time; remembered with its coefficients."""
        if (scale, clock) not in c.derived:
            factor = float(scale(c))
            c.derived[scale, clock] = 1.0 if abs(factor - 1) < 1e-12 else factor, float(clock(self.path, t))
        found: tuple[float, float] = c.derived[scale, clock]
        return found

    @cached_property
    def _parameter(self) -> Tensor | None:
        if not isinstance(self.net, nn.Module):
            return None
        return next((p for p in self.net.parameters() if p.is_floating_point()), None)

    def _bound(self, x_t: Tensor) -> Any:
        if not isinstance(self.net, ConditionedNet) or self.make_null is None:
            return super()._bound(x_t)
        return self._context(self.net, self.null(1) if self.cond is None else self.cond).expanded(len(x_t))

    def null(self, num: int) -> Cond:
        if self.make_null is not None and not self.null_trained:
            raise UntrainedNullError(
                "this model never saw the null condition in training (conditioning.drop = 0): it can neither be guided "
                "from it nor sampled without a condition. Use guidance 1 with a condition, or train with "
                "conditioning.drop=0.1."
            )
        return super().null(num)

    def on(self, path: Path) -> Self:
        """The same net as a model of the same data on another path.

        At equal log-SNR the states of two paths differ by a factor only, so this is exact wherever the net is shown the
        same, is told the same and means the same on both: with scale "unit" and clock "log_snr", for eps, x0 and edm on
        any two paths, for v and score where alpha^2 + sigma^2 agree (any two variance-preserving paths), and for
        velocity only where the paths move at the same speed too.

        Raises:
            ValueError: one of the three differs; the message says which.
        """
        same_to_the_net(self.path, path, scale=self.scale, clock=self.clock, prediction=self.prediction)
        return replace(self, path=path)


@dataclass(frozen=True, kw_only=True, repr=False)
class NetFlowMap(NetDenoiser, FlowMap):
    """A net that is told the gap t - s of a jump beside its clock, as a denoiser that jumps.

    What it is told is (clock, 2 pi (t - s)), shape (B, 2); its output, of the same meaning as without a gap, is solved
    at t for the pair that the jump mixes anew at s. On the flow path with prediction velocity the output is the mean
    velocity of the jump, (x_t - x_s) / (t - s) (Geng et al., 2025, eq. 3, 2505.13447); on the cosine path with v it is
    that of Lu & Song (2024, 2410.11081); with edm, the map's form in Karras et al. (2022, eq. 7,
    2206.00364). Without a gap, and with one of 0, it is the `NetDenoiser` of the same net, to the last bit where its
    embedding of the gap vanishes at 0.

    The arguments are those of `NetDenoiser`; the net takes a clock of shape (B,) or (B, 2).
    """

    def jump(self, x_t: Tensor, t: float | Tensor, s: float | Tensor) -> Estimate:
        if not torch.compiler.is_exporting() and bool((gap(t, s) < 0).any()):
            raise ValueError("a jump leads to less noise: `s` must be at most `t`.")
        return self._estimate(self.output(x_t, t, self._bound(x_t), s), x_t, t)

    def output(self, x_t: Tensor, t: float | Tensor, cond: Any, s: float | Tensor | None = None) -> Tensor:
        """The net's raw output at (x_t, t), or for a jump from there to s at most t, in the dtype of `x_t`."""
        shown, told = self._views(x_t, t)
        if s is not None:
            wide = gap(t, s)
            told = torch.stack([told, sent(wide.float(), told.device).expand(x_t.shape[0])], dim=1)
        return self._answer(shown, told, cond, x_t)


class _ReadOnce:
    """The context of a bound condition, found when it is first asked for and again when the weights that read it have
    changed. Where gradients are wanted of those weights, or of the condition, it is read afresh."""

    def __init__(self) -> None:
        self._known: tuple[list[tuple[int, int]], Context] | None = None
        self._weights: list[Tensor] | None = None

    def __call__(self, net: ConditionedNet, cond: Cond) -> Context:
        if self._weights is None:
            self._weights = list(net.reading_weights())
        parts = [cond] if isinstance(cond, Tensor) else cond.values()
        if torch.is_grad_enabled() and any(k.requires_grad for k in (*self._weights, *parts)):
            return net.read(cond)
        state = [(w.data_ptr(), 0 if w.is_inference() else w._version) for w in self._weights]
        if self._known is None or self._known[0] != state:
            with torch.inference_mode(False), torch.no_grad():
                self._known = state, net.read(cond)
        return self._known[1]


@dataclass(frozen=True, kw_only=True)
class FunctionDenoiser(OutputDenoiser):
    """Any function (x_t, t) -> output, or (x_t, t, cond) -> output, as a denoiser; the way in for a model from
    elsewhere.

    Args:
        function: x_t of shape (B, *dims), t as the denoiser is asked, and where there is a `make_null` the condition
            with a row a sample -> output in the meaning of `prediction`, same shape.
        path: the path it was trained on.
        prediction: a name of `PREDICTIONS`, with options or without, or a prediction.
        make_null: num -> null conditions of a conditional function, which every guidance rule then takes; None for
            one without conditions.
        cond: the bound condition.
    """

    function: Callable[..., Tensor]

    def output(self, x_t: Tensor, t: float | Tensor, cond: Any) -> Tensor:
        return _like(self.function(x_t, t) if self.make_null is None else self.function(x_t, t, cond), x_t)


def _like(out: Any, x_t: Tensor) -> Tensor:
    """A model's answer.

    Raises:
        ValueError: it is no tensor, or of other sizes than `x_t` in anything but channels.
    """
    if not isinstance(out, Tensor):
        raise ValueError(
            f"a model must answer a tensor, got {type(out).__name__}. Have its function return the tensor."
        )
    if out.ndim != x_t.ndim or out.shape[0] != x_t.shape[0] or out.shape[2:] != x_t.shape[2:]:
        raise ValueError(
            f"a model must answer the shape of what it is shown, {tuple(x_t.shape)}; got {tuple(out.shape)}."
        )
    return out
