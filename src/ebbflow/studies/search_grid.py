"""Searching a time grid for a model: along a teacher's trajectory, kept with the checkpoint, used as grid "learned"."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ebbflow.core.noise import Noise
from ebbflow.core.shape import in_float64
from ebbflow.core.times import TIME_GRIDS
from ebbflow.errors import ConfigError, choose
from ebbflow.methods.denoise import Denoiser
from ebbflow.methods.grid_search import TEACHER, cheapest_path, deviations, drawless, trajectory
from ebbflow.methods.samplers import SAMPLERS
from ebbflow.methods.sampling import grid_times, pure_noise
from ebbflow.progress import Stage, Work
from ebbflow.requests.studies import SearchGridRequest
from ebbflow.runs.derived import store_grids
from ebbflow.runs.opened import Opened
from ebbflow.runs.parts import parts_of
from ebbflow.runs.plan import Plan, check
from ebbflow.runs.sample import bind


def search_grids(model: Opened, request: SearchGridRequest) -> Work[list[dict[str, Any]]]:
    """Search a grid for each number of steps and keep them with the checkpoint; the stages count candidate times, each
    of which is kept beside the run's results until the end.

    Each result is judged on other seeds: `error` is the mean squared distance of its last state from the teacher's, and
    `error_uniform` that of the uniform grid.

    Raises:
        ConfigError: more steps than candidates, a sampler that draws noise, guidance that the model cannot take, or a
            model that is no run of ours.
    """
    _check(model, request)
    plan = _plan(model, request, request.seed)
    bound = bind(model, plan)
    times = grid_times(bound, request.candidate_grid, request.candidates)
    x = _start(model, bound, plan, times)
    states: list[Tensor] = []
    rows: list[Tensor] = []
    for state in trajectory(bound, x, times):
        states.append(state)
        yield Stage("teacher", len(states), len(times))
    kept = parts_of(model, request)
    while len(rows) < request.candidates and (part := kept.made(f"time-{len(rows):04d}")) is not None:
        rows.append(part["row"])
    for row in deviations(lambda: bound, states, times, sampler=request.sampler, first=len(rows)):
        kept.keep(f"time-{len(rows):04d}", {"row": row})
        rows.append(row)
        yield Stage("candidates", len(rows), request.candidates)
    other = _plan(model, request, request.seed + request.num)
    judge = bind(model, other)
    start = _start(model, judge, other, times)
    found: list[dict[str, Any]] = []
    for n in request.steps:
        yield Stage("judge on other seeds", len(found), len(request.steps))
        found.append(_found(judge, request, torch.stack(rows), times, start, n))
    assert model.run is not None
    store_grids(model.run, found)
    kept.end()
    return found


def _check(model: Opened, request: SearchGridRequest) -> None:
    if model.run is None:
        raise ConfigError(f"{model.name} is no run of ebbflow, so there is no checkpoint to keep a grid with.")
    choose(TIME_GRIDS, request.candidate_grid, "time grid")
    drawless(request.sampler)
    worst = next((n for n in request.steps if not 1 <= n <= request.candidates), None)
    if worst is not None:
        raise ConfigError(
            f"a grid of {worst} steps cannot be chosen out of {request.candidates} candidates. Use 1 to "
            f"{request.candidates} steps, or more `candidates`."
        )


def _plan(model: Opened, request: SearchGridRequest, seed: int) -> Plan:
    """Classes in turn, where the model takes any."""
    classes = len(model.label_names) if all(isinstance(one, int) for one in model.examples) else 0
    labels = tuple(i % classes for i in range(request.num)) if classes and model.is_conditional else None
    plan = Plan(
        seeds=tuple(range(seed, seed + request.num)),
        conditions=labels,
        guidance=request.guidance,
        clip=model.defaults.clip,
    )
    check(model, plan)
    return plan


def _start(model: Opened, denoiser: Denoiser, plan: Plan, times: Tensor) -> Tensor:
    return pure_noise(denoiser, Noise(plan.seeds).draw(model.facts.state_dims).to(model.device), times)


def _found(
    judge: Denoiser, request: SearchGridRequest, costs: Tensor, times: Tensor, x: Tensor, num_steps: int
) -> dict[str, Any]:
    chosen, cost = cheapest_path(costs, num_steps)
    grid, uniform = times[chosen], grid_times(judge, "uniform", num_steps)
    *_, end = trajectory(judge, x, times)
    return {
        "steps": num_steps,
        "sampler": request.sampler,
        "guidance": request.guidance,
        "weights": request.weights,
        "times": grid.tolist(),
        "cost": cost,
        "error": _error(judge, request.sampler, x, grid, end),
        "error_uniform": _error(judge, request.sampler, x, uniform, end),
        "teacher": f"{TEACHER}, {request.candidates} steps, grid {request.candidate_grid}",
        "seeds": [request.seed, request.seed + request.num - 1],
    }


def _error(denoiser: Denoiser, sampler: str, x: Tensor, times: Tensor, end: Tensor) -> float:
    *_, last = SAMPLERS[sampler](denoiser, x, times)
    return float((in_float64(last.x) - in_float64(end)).square().mean())
