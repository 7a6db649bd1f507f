"""Learned time grids of a run: searched along a teacher's trajectory, kept with the checkpoint, used by the grid name
"learned"."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebbflow.conditioning import LabelConditioning
from ebbflow.core.noise import Noise
from ebbflow.core.times import TIME_GRIDS
from ebbflow.errors import CheckpointError, ConfigError, choose
from ebbflow.files import write_text
from ebbflow.methods.denoise import Denoiser
from ebbflow.methods.grid_search import TEACHER, cheapest_path, deviations, trajectory
from ebbflow.methods.samplers import SAMPLERS
from ebbflow.methods.sampling import grid_times, pure_noise
from ebbflow.progress import Stage, Work
from ebbflow.runs.generate import Request, bind
from ebbflow.runs.store import Run, Weights

FILE = "grids.json"
LEARNED = "learned"


@dataclass(frozen=True, kw_only=True)
class GridSearch:
    """What to search for.

    Args:
        steps: the numbers of steps to find a grid for.
        sampler: whose single steps are held against the teacher's; a deterministic one.
        guidance: of both.
        candidates: steps of the teacher, among whose times the grids are chosen.
        candidate_grid: where these lie, a name of `TIME_GRIDS`.
        num: trajectories; as many others judge the result.
        seed: of the first.
        weights: averaged or raw.
    """

    steps: tuple[int, ...]
    sampler: str = "ddim"
    guidance: float = 1.0
    candidates: int = 48
    candidate_grid: str = "cosine"
    num: int = 32
    seed: int = 0
    weights: Weights = "ema"

    def __post_init__(self) -> None:
        choose(TIME_GRIDS, self.candidate_grid, "time grid")
        worst = next((n for n in self.steps if not 1 <= n <= self.candidates), None)
        if worst is not None:
            raise ConfigError(
                f"a grid of {worst} steps cannot be chosen out of {self.candidates} candidates. Use 1 to "
                f"{self.candidates} steps, or more --candidates."
            )


def with_times(run: Run, request: Request, weights: Weights = "ema") -> Request:
    """`request` itself, or with the run's own times where its grid is "learned".

    A grid searched for the request's own sampler and guidance comes first, then one for the nearest guidance.

    Raises:
        ConfigError: none was searched for these weights and this number of steps.
    """
    if request.grid != LEARNED:
        return request
    found = [one for one in learned_grids(run) if one["weights"] == weights]
    fitting = [one for one in found if one["steps"] == request.num_steps]
    if not fitting:
        known = ", ".join(map(str, sorted({one["steps"] for one in found})))
        extra = "" if weights == "ema" else " --weights raw"
        raise ConfigError(
            f"{run.folder} has no learned grid of {request.num_steps} steps{f' (it has {known})' if known else ''}. "
            f"Make one with: ebbflow search-grid --ckpt {run.folder} --steps {request.num_steps}{extra}"
        )
    best = min(fitting, key=lambda one: (one["sampler"] != request.sampler, abs(one["guidance"] - request.guidance)))
    return replace(request, times=tuple(best["times"]))


def learned_grids(run: Run) -> list[dict[str, Any]]:
    """The grids that were searched for a checkpoint.

    Raises:
        CheckpointError: its file is damaged.
    """
    file = run.checkpoint.folder / FILE
    if not file.is_file():
        return []
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        assert all({"steps", "sampler", "guidance", "weights", "times"} <= one.keys() for one in found)
    except (ValueError, AttributeError, TypeError, AssertionError) as error:
        raise CheckpointError(f"{file} does not hold learned grids. Remove it and search again.") from error
    return list(found)


def search_grids(run: Run, wanted: GridSearch, device: torch.device | str = "cpu") -> Work[list[dict[str, Any]]]:
    """Search a grid for each number of steps and keep them with the checkpoint.

    Each result is judged on other seeds: `error` is the mean squared distance of its last state from the teacher's, and
    `error_uniform` that of the uniform grid.

    Raises:
        ConfigError: a sampler that draws noise, or guidance that the run cannot take.
    """
    denoiser = run.denoiser(wanted.weights, device=device)
    request = _request(run, wanted, wanted.seed)
    request.check(run.facts, denoiser.make_null is not None)
    bound = bind(denoiser, request, request.asked)
    times = grid_times(bound, wanted.candidate_grid, wanted.candidates)
    x = _start(run, bound, request, times, device)
    rows: list[Tensor] = []
    for row in deviations(lambda: bound, x, times, sampler=wanted.sampler):
        rows.append(row)
        yield Stage("search", len(rows), wanted.candidates)
    other = _request(run, wanted, wanted.seed + wanted.num)
    judge = bind(denoiser, other, other.asked)
    start = _start(run, judge, other, times, device)
    found = [_found(judge, wanted, torch.stack(rows), times, start, n) for n in wanted.steps]
    _keep(run, found)
    return found


def _request(run: Run, wanted: GridSearch, seed: int) -> Request:
    """Labels in turn, where the run knows any."""
    classes = len(run.facts.label_names) if isinstance(run.config.conditioning, LabelConditioning) else 0
    labels = tuple(i % classes for i in range(wanted.num)) if classes else None
    seeds, clip = tuple(range(seed, seed + wanted.num)), run.config.sample.clip
    return Request(seeds=seeds, labels=labels, guidance=wanted.guidance, clip=clip)


def _start(run: Run, denoiser: Denoiser, request: Request, times: Tensor, device: torch.device | str) -> Tensor:
    return pure_noise(denoiser, Noise(request.seeds).draw(run.facts.state_dims).to(device), times)


def _found(
    judge: Denoiser, wanted: GridSearch, costs: Tensor, times: Tensor, x: Tensor, num_steps: int
) -> dict[str, Any]:
    chosen, cost = cheapest_path(costs, num_steps)
    grid, uniform = times[chosen], grid_times(judge, "uniform", num_steps)
    *_, end = trajectory(judge, x, times)
    return {
        "steps": num_steps,
        "sampler": wanted.sampler,
        "guidance": wanted.guidance,
        "weights": wanted.weights,
        "times": grid.tolist(),
        "cost": cost,
        "error": _error(judge, wanted.sampler, x, grid, end),
        "error_uniform": _error(judge, wanted.sampler, x, uniform, end),
        "teacher": f"{TEACHER}, {wanted.candidates} steps, grid {wanted.candidate_grid}",
        "seeds": [wanted.seed, wanted.seed + wanted.num - 1],
    }


def _error(denoiser: Denoiser, sampler: str, x: Tensor, times: Tensor, end: Tensor) -> float:
    *_, last = SAMPLERS[sampler](denoiser, x, times)
    return float((last.x.double() - end.double()).square().mean())


def _keep(run: Run, found: Sequence[dict[str, Any]]) -> Path:
    """Add to the checkpoint's grids; one for the same steps, sampler, guidance and weights is replaced."""

    def key(one: dict[str, Any]) -> tuple[Any, ...]:
        return one["steps"], one["sampler"], one["guidance"], one["weights"]

    new = {key(one) for one in found}
    file = run.checkpoint.folder / FILE
    write_text(file, json.dumps([*(one for one in learned_grids(run) if key(one) not in new), *found], indent=2))
    return file
