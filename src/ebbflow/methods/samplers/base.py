"""`Sampler`, `Step` and `Level`: a sampler's declared order and cost, what it yields, and its grid as plain numbers."""

from __future__ import annotations

import inspect
import math
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial, update_wrapper
from typing import Any

import torch
from torch import Tensor

from ebbflow.core.paths import Path
from ebbflow.core.predictions import Estimate
from ebbflow.core.shape import in_float64
from ebbflow.errors import ConfigError, nearest
from ebbflow.methods.denoise import Denoiser, flow_map
from ebbflow.values import checked_value


@dataclass(frozen=True)
class Step:
    """One step done.

    Args:
        t: where it ended.
        x: the state there, (B, *dims).
        estimate: (x0, eps) as they were seen on the way, by most samplers at the time that the step left.
    """

    t: float
    x: Tensor
    estimate: Estimate


@dataclass(frozen=True)
class Level:
    """A noise level of a grid as Python numbers, so that a step outside the net costs microseconds: the time t, and
    alpha, sigma, dalpha/dt and dsigma/dt there, infinite where the path moves so."""

    t: float
    alpha: float
    sigma: float
    alpha_dot: float
    sigma_dot: float

    @property
    def half_log_snr(self) -> float:
        """lambda = log(alpha / sigma); -inf at pure noise, +inf at clean data."""
        if self.alpha == 0:
            return -math.inf
        return math.inf if self.sigma == 0 else math.log(self.alpha / self.sigma)

    @property
    def is_regular(self) -> bool:
        """Whether the velocity field is finite here; some paths start or end at infinite speed."""
        return math.isfinite(self.alpha_dot) and math.isfinite(self.sigma_dot)


def level_at(path: Path, t: float) -> Level:
    """The level of one time."""
    return Level(t, *path.at(t).numbers)


Times = Tensor | Sequence[float]


def levels_of(path: Path, times: Times) -> list[Level]:
    """The levels of a grid.

    Raises:
        ValueError: no numbers, not strictly decreasing inside [0, 1], or fewer than two entries.
    """
    known: list[float] = as_grid(times).tolist()
    return [Level(t, *c.numbers) for t, c in zip(known, path.at_each(known), strict=True)]


def as_grid(times: Times) -> Tensor:
    """A grid that somebody gave, a tensor, a list or an array, as a float64 tensor (N + 1,).

    Raises:
        ValueError: as in `levels_of`.
    """
    try:
        grid = in_float64(times if isinstance(times, Tensor) else torch.tensor(times, dtype=torch.float64))
        grid = grid.detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        grid = torch.empty(0)
    if grid.ndim != 1 or len(grid) < 2 or not bool((grid.diff() < 0).all()) or not 0 <= grid[-1] < grid[0] <= 1:
        raise ValueError(
            "`times` must fall strictly from at most 1 to at least 0, as two numbers or more; got "
            f"{reprlib.repr(grid.tolist() if grid.numel() else times)}."
        )
    return grid


def remix(estimate: Estimate, s: Level) -> Tensor:
    """alpha_s x0 + sigma_s eps; exactly x0 at clean data."""
    return estimate.x0 if s.sigma == 0 else estimate.mixed(s.alpha, s.sigma)


def slope(estimate: Estimate, t: Level) -> Tensor:
    """dx/dt = alpha' x0 + sigma' eps at level `t`."""
    return estimate.mixed(t.alpha_dot, t.sigma_dot)


def must_be_ddim(t: Level, s: Level) -> bool:
    """Whether the step from t to s has to be DDIM's: to clean data, or at infinite speed."""
    return s.sigma == 0 or not (t.is_regular and s.is_regular)


Run = Callable[..., Iterator[Step]]
Cost = Callable[..., int]


class Sampler:
    """A sampler as a value: call it with (denoise, x, times, **options) and iterate over its Steps.

    The last step of a grid that ends at t = 0 returns x0 itself, so no sampler adds noise to its result or evaluates
    the net at t = 0.

    Args:
        run: generator function (denoise, x, levels, *, options...) -> Steps.
        order: declared order of accuracy in the largest step (weak order for stochastic samplers).
        evaluations: (number of steps, the options that matter) -> number of network evaluations, for a grid that ends
            at 0; fewer are made where a path of infinite speed forces a DDIM step. None where the sampler chooses its
            own steps: then the grid does not set its accuracy, and `order` is that of its inner steps.
        stochastic: whether it always draws noise.
        jumps: whether it walks by the jumps of a `FlowMap`, and refuses any other denoiser.
    """

    def __init__(
        self, run: Run, *, order: int, evaluations: Cost | None, stochastic: bool = False, jumps: bool = False
    ) -> None:
        update_wrapper(self, run)
        self.name = run.__name__
        self.run, self.order, self.cost, self.stochastic = run, order, evaluations, stochastic
        self.jumps = jumps

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        kind = ", ".join([f"order {self.order}", *(["stochastic"] if self.stochastic else [])])
        return f"Sampler({self.name}: {kind})"

    @property
    def is_adaptive(self) -> bool:
        """Whether it chooses its own steps, so that its tolerance and not the grid sets its accuracy."""
        return self.cost is None

    def evaluations(self, num_steps: int, **options: object) -> int | None:
        """Network evaluations of `num_steps` steps down to t = 0 with these options; None where they depend on the
        data."""
        if self.cost is None:
            return None
        known = inspect.signature(self.cost).parameters
        return self.cost(num_steps, **{name: value for name, value in options.items() if name in known})

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """Keyword options besides `noise`, by name."""
        parameters = self._signature.parameters.values()
        return {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "noise"}

    @property
    def takes_noise(self) -> bool:
        """Whether it accepts `noise`."""
        return "noise" in self._signature.parameters

    @cached_property
    def _signature(self) -> inspect.Signature:
        return inspect.signature(self.run)

    def checked(self, options: Mapping[str, object]) -> dict[str, Any]:
        """The options, each of its type and in its range, as the function's annotations say.

        Raises:
            ConfigError: an option that this sampler does not have, or a value that it does not take.
        """
        for name in options:
            if name not in self.options:
                near = nearest(name, list(self.options)) if self.options else "It has none."
                raise ConfigError(f"sampler {self.name!r} has no option {name!r}. {near}")
        of = f"sampler {self.name!r}"
        return {name: checked_value(self.run, name, v, of, self.options[name].default) for name, v in options.items()}

    def __call__(self, denoise: Denoiser, x: Tensor, times: Times, /, **options: object) -> Iterator[Step]:
        """Walk from `x`, the state at times[0], shape (B, *dims), down `times`; `x` is never changed in place.

        Raises:
            ConfigError: an option that this sampler does not have.
            ValueError: no denoiser on a path, no tensor, a grid that does not fall, an option out of range, or jumps of
                a denoiser that has none.
        """
        if not isinstance(getattr(denoise, "path", None), Path):
            raise ValueError(
                f"sampler {self.name!r} walks a denoiser, which has a `path`; got {type(denoise).__name__}. Wrap a "
                "function as ebbflow.FunctionDenoiser(function=..., path=..., prediction=...)."
            )
        if not isinstance(x, Tensor) or x.ndim < 2:
            got = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"`x` must be a tensor with a row a sample, (B, *dims), got {got}.")
        own = self.checked({name: value for name, value in options.items() if name != "noise" or not self.takes_noise})
        if self.stochastic and options.get("noise") is None:
            raise ValueError(f"sampler {self.name!r} draws noise: pass noise=ebbflow.Noise(seeds), one seed a sample.")
        if self.jumps:
            flow_map(denoise)
        levels = levels_of(denoise.path, times)
        return self._checked(torch.no_grad()(self.run)(denoise, x, levels, **{**options, **own}), x, len(levels) - 1)

    def _checked(self, steps: Iterator[Step], x: Tensor, num_steps: int) -> Iterator[Step]:
        """The steps of `run`, which may be anybody's: states of the shape of `x`, so many of them."""
        made = 0
        for step in steps if isinstance(steps, Iterator) else ():
            if not isinstance(step, Step) or step.x.shape != x.shape:
                got = f"a state {tuple(step.x.shape)}" if isinstance(step, Step) else type(step).__name__
                raise ValueError(
                    f"sampler {self.name!r} must yield a Step with x of shape {tuple(x.shape)}, got {got}."
                )
            made += 1
            yield step
        if made != num_steps:
            raise ValueError(f"sampler {self.name!r} must yield a Step for each of {num_steps} steps, and made {made}.")


def sampler(
    *, order: int, evaluations: Cost | None, stochastic: bool = False, jumps: bool = False
) -> Callable[[Run], Sampler]:
    """Declare a generator function `(denoise, x, levels, *, options...)` a sampler of some order and cost.

    It is given the grid as a list of `Level`, numbers t, alpha, sigma and their slopes, and yields a `Step` for each
    of its steps; keywords are its options, and `noise` is where it draws from. DDIM::

        @ef.sampler(order=1, evaluations=lambda n: n)
        def mine(denoise, x, levels):
            for t, s in pairwise(levels):
                estimate = denoise(x, t.t)
                x = ef.remix(estimate, s)  # alpha_s x0 + sigma_s eps
                yield ef.Step(s.t, x, estimate)

    Args:
        order, evaluations, stochastic, jumps: as in `Sampler`.
    """
    return partial(Sampler, order=order, evaluations=evaluations, stochastic=stochastic, jumps=jumps)
