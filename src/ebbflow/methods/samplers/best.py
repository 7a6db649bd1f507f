"""Which sampler on which grid: what gave the best samples for a number of network evaluations, by measurement."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ebbflow.core.paths import Path
from ebbflow.core.predictions import path_name
from ebbflow.methods.samplers.base import Sampler

AUTO = "auto"
Choices = dict[int, tuple[str, str]]  # network evaluations: sampler, grid

# Measured by benchmarks/best_sampler.py, whose rows are in best_sampler.jsonl beside it.
MEASURED: dict[str, Choices] = {
    "flow": {5: ("midpoint", "uniform"), 10: ("dpmpp_2m_sde", "shifted"), 20: ("ddpm", "uniform")},
    "vp": {5: ("unipc", "uniform"), 10: ("dpmpp_2m_sde", "quadratic"), 20: ("ddpm", "quadratic")},
}
# Of pairs that know x0 and the noise level alone, not the path's clock: at equal log-SNR they take the same steps on
# every path, up to its scale, so that what one path has shown holds on the others.
ON_EVERY_PATH: Choices = {5: ("dpmpp_2m", "cosine"), 10: ("dpmpp_2m", "cosine"), 20: ("dpmpp_2m", "karras")}


@dataclass(frozen=True, kw_only=True)
class Best:
    """A sampler, a grid and a number of steps.

    Args:
        sampler, grid: names of the registries.
        num_steps: the most that the evaluations allow.
        reason: why these, in a sentence.
    """

    sampler: str
    grid: str
    num_steps: int
    reason: str


def best_for(path: Path, evaluations: int, samplers: dict[str, Sampler]) -> Best:
    """What is best on a path for a number of network evaluations, guidance counted once: the choice for the nearest
    number that was measured.

    Args:
        path: any; one that was not measured itself takes what is the same on every path.
        evaluations: at least 1.
        samplers: the registry.
    """
    name = path_name(path)
    choices = MEASURED.get(name, ON_EVERY_PATH)
    near = min(choices, key=lambda known: abs(math.log(known / evaluations)))
    sampler, grid = choices[near]
    num_steps = most_steps(samplers[sampler], evaluations)
    where = (
        f"on path {name}" if name in MEASURED else f"of those that step alike on every path; {name} was not measured"
    )
    steps = "1 step" if num_steps == 1 else f"{num_steps} steps"
    reason = f"{sampler}, {steps} on grid {grid}: the best at {near} evaluations {where}"
    return Best(sampler=sampler, grid=grid, num_steps=num_steps, reason=reason)


def most_steps(sampler: Sampler, evaluations: int) -> int:
    """The most steps of a sampler that cost no more than so many evaluations, at least 1."""
    fitting = (n for n in range(evaluations, 0, -1) if (sampler.evaluations(n) or math.inf) <= evaluations)
    return next(fitting, 1)
