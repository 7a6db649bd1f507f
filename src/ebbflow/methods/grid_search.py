"""Time grids made for one denoiser: where a sampler may step far and where not, seen along a teacher's trajectory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ebbflow.core.condition import Cond
from ebbflow.core.predictions import Estimate
from ebbflow.core.shape import in_float64
from ebbflow.errors import ConfigError
from ebbflow.methods.denoise import Denoiser, Wrapped, conditional
from ebbflow.methods.samplers import SAMPLERS, Sampler, sampler_of

TEACHER = "dpmpp_2m"  # exact in the linear part of every path, so that few times serve even where sigma grows fast


@dataclass(frozen=True, kw_only=True)
class FirstCallShared(Wrapped):
    """A denoiser that answers the same question about the same tensor once: all steps that leave one state share their
    first evaluation.

    Args:
        inner: the denoiser.
    """

    _known: list[tuple[Tensor, float, Estimate]] = field(default_factory=list)

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        for x, time, estimate in self._known:
            if x is x_t and time == float(t):
                return estimate
        found = self.inner(x_t, t)
        if not self._known:
            self._known.append((x_t, float(t), found))
        return found

    def given(self, cond: Cond | None) -> FirstCallShared:
        return FirstCallShared(inner=conditional(self.inner).given(cond))


def trajectory(denoiser: Denoiser, x: Tensor, times: Tensor) -> Iterator[Tensor]:
    """The teacher's states at `times`, the given x first; len(times) - 1 evaluations."""
    yield x
    for step in SAMPLERS[TEACHER](denoiser, x, times):
        yield step.x


def deviations(
    bind: Callable[[], Denoiser],
    states: Sequence[Tensor],
    times: Tensor,
    *,
    sampler: str | Sampler = "ddim",
    options: Mapping[str, object] | None = None,
    first: int = 0,
) -> Iterator[Tensor]:
    """For each time t_i but the last, from the first that is asked for: the mean squared distance of one step from the
    teacher's x at t_i to t_j from the teacher's x at t_j, float64 (len(times),), infinite for j <= i.

    Each distance is carried to the end as the exact flow of a Gaussian would carry it, in proportion to the mean square
    of the teacher's states; otherwise a path whose x is large at t = 1 would count nothing but its first steps.

    Args:
        bind: makes the denoiser, with its condition bound to the rows of the states.
        states: the teacher's at each time, as `trajectory` makes them, each of shape (B, *dims).
        times: M + 1 candidates, falling.
        sampler: a deterministic one of `SAMPLERS`; one with a memory takes its first step, which is DDIM's.
        options: of the sampler.
        first: which time to begin with.

    Raises:
        ConfigError: an unknown sampler, or one that draws noise.

    Cost: M evaluations for a sampler of one evaluation a step, and M (M - 1) / 2 more for each further evaluation of a
    step.
    """
    chosen = drawless(sampler, options)
    sizes = [float(in_float64(state).square().mean()) for state in states]
    for i in range(first, len(times) - 1):
        once, row = FirstCallShared(inner=bind()), torch.full((len(times),), torch.inf, dtype=torch.float64)
        for j in range(i + 1, len(times)):
            (step,) = chosen(once, states[i], times[[i, j]], **(options or {}))
            row[j] = in_float64(step.x - states[j]).square().mean() * sizes[-1] / sizes[j]
        yield row


def drawless(sampler: str | Sampler, options: Mapping[str, object] | None = None) -> Sampler:
    """The sampler, whose steps can be held against a teacher's.

    Raises:
        ConfigError: an unknown one, or one that draws noise.
    """
    chosen = sampler_of(sampler)
    if chosen.stochastic or (options or {}).get("eta"):
        raise ConfigError(
            f"sampler {sampler!r} draws noise, so its steps cannot be held against a teacher's. Search with ddim; the "
            "grid found serves other samplers too."
        )
    return chosen


def cheapest_path(costs: Tensor, num_steps: int) -> tuple[list[int], float]:
    """Indices 0 = i_0 < i_1 < ... < i_N = M that minimise the sum of costs[i_k, i_{k+1}], and that sum.

    Args:
        costs: float64 (M, M + 1) or more columns alike; entry (i, j) for j > i, infinite or unused otherwise.
        num_steps: N, from 1 to M.

    Raises:
        ValueError: more steps than candidates allow.

    Source: the dynamic programme of Watson et al. (2021), 2106.03802, on the costs of Chen et al. (2024), "On the
    trajectory regularity of ODE-based diffusion sampling", 2405.11326. O(N M^2).
    """
    last = costs.shape[1] - 1
    if not 1 <= num_steps <= last:
        raise ValueError(f"a grid of {num_steps} steps cannot be chosen out of {last} candidates. Use 1 to {last}.")
    later = torch.arange(last + 1) > torch.arange(len(costs))[:, None]
    allowed = torch.where(later, costs, torch.inf)
    rest = torch.full((last + 1,), torch.inf, dtype=torch.float64)
    rest[last] = 0.0  # what it costs from each time to the end in k steps
    choices = []
    for _ in range(num_steps):
        best = (allowed + rest).min(1)
        choices.append(best.indices.tolist())
        rest = torch.cat([best.values, torch.full((last + 1 - len(costs),), torch.inf, dtype=torch.float64)])
    found = [0]
    for choice in reversed(choices):
        found.append(choice[found[-1]])
    return found, float(rest[0])
