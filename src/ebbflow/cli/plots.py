"""`ebbflow plot`: pictures of paths, of weights, of runs, of one image noised, and of what a model's samplers do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebbflow.cli.common import print_json, print_lines, print_rows, this_command
from ebbflow.cli.sampling import opened
from ebbflow.errors import ConfigError, DataError, choose
from ebbflow.requests.base import narrowed
from ebbflow.requests.plots import NoisingRequest, RunRequest, SchedulesRequest, WeightsRequest
from ebbflow.requests.sampling import (
    DenoisingCommand,
    SampleRequest,
    ToySamplerCommand,
    TrajectoriesCommand,
    WayCommand,
)

if TYPE_CHECKING:
    from ebbflow.runs.model import Model
    from ebbflow.runs.plan import Plan
    from ebbflow.show.strips import Trace


def schedules(request: SchedulesRequest) -> None:
    """Draw beta, alpha, alpha-bar, their square roots and log-SNR of any paths."""
    from ebbflow.core.paths import PATHS
    from ebbflow.show import canvas
    from ebbflow.show.plots import draw_schedules

    chosen = {name: choose(PATHS, name, "path")() for name in request.paths}
    canvas.save_picture(draw_schedules(chosen, request.num_steps), request.output, this_command())
    print(request.output)


def weights(request: WeightsRequest) -> None:
    """Draw how objectives weigh noise levels, and say which are the same up to a constant."""
    from dataclasses import asdict

    from ebbflow.show import canvas
    from ebbflow.show.loss_weights import compare, draw, read_term

    terms = [read_term(text, request.path) for text in request.objectives]
    if len({term.name for term in terms}) < len(terms):
        raise ConfigError("an objective is named twice. Name each once.")
    pairs = compare(terms)
    canvas.save_picture(draw(terms), request.output, this_command())
    if request.json:
        print_json({"output": str(request.output), "pairs": [asdict(pair) for pair in pairs]})
        return
    same, others = ([pair for pair in pairs if pair.same is wanted] for wanted in (True, False))
    print_lines(
        [
            *((pair.first, f"= {pair.factor:.6g} x", pair.second) for pair in same),
            *(
                (pair.first, "is not", f"{pair.second} (their ratio varies by {pair.spread + 1:.3g})")
                for pair in others
            ),
        ]
    )
    print(request.output)


def run(request: RunRequest) -> None:
    """Draw what runs wrote down: training and held-out loss (averaged and raw weights), their gap, gradient norm,
    learning rate, throughput, and loss by log-SNR over the steps."""
    from ebbflow.runs.folder import read_metrics
    from ebbflow.show import canvas
    from ebbflow.show.run_plots import draw_runs, summary

    rows: dict[str, Any] = {name: read_metrics(folder) for name, folder in _named(request.runs).items()}
    canvas.save_picture(draw_runs(rows), request.output, this_command())
    if request.json:
        print_json([summary(name, lines) for name, lines in rows.items()])
    else:
        print(request.output)


def _named(runs: tuple[Path, ...]) -> dict[str, Path]:
    """Runs by folder name where that tells them apart, else by path; each once."""
    folders = list(dict.fromkeys(runs))
    names = [folder.resolve().name for folder in folders]
    return {name if names.count(name) == 1 else str(path): path for name, path in zip(names, folders, strict=True)}


def noising(request: NoisingRequest) -> None:
    """Noise one image in closed form and step by step, and compare the two: (x_t - alpha x0) / sigma has mean 0 and
    standard deviation 1 both ways."""
    import torch

    from ebbflow.core.paths import PATHS
    from ebbflow.data import load_dataset
    from ebbflow.show import canvas
    from ebbflow.show.strips import noise_both_ways

    path = choose(PATHS, request.path, "path")()
    source = load_dataset(request.data, data_dir=request.data_dir).held_out
    if not source.is_image:
        raise DataError(f"data set {source.name!r} holds points; `plot noising` shows images.")
    if request.index >= len(source):
        raise DataError(
            f"`index` must be below the {len(source)} held-out images of {source.name!r}, got {request.index}."
        )
    x0 = source.x0(torch.tensor([request.index]))
    both = noise_both_ways(
        path, x0, num_steps=request.num_steps, columns=request.columns, num=request.num, seed=request.seed
    )
    canvas.save_picture(both.draw(), request.output, this_command())
    rows: list[dict[str, Any]] = both.rows()
    if request.json:
        print_json(rows)
        return
    print_rows(rows, headed=True)
    print(f"over {request.num} noisings of {x0.numel()} values each: {request.output}")


def denoising(request: DenoisingCommand) -> None:
    """Show x_t and the x0 predicted from it on the way from noise to samples."""
    from ebbflow.show import canvas
    from ebbflow.show.strips import denoising_frames, draw_denoising

    moving = request.output.suffix.lower() in canvas.ANIMATION_SUFFIXES
    canvas.check_suffix(request.output, (*canvas.PICTURE_SUFFIXES, *canvas.ANIMATION_SUFFIXES))
    model, plan = _planned(request)
    path, way = model.denoiser.path, _way(model, plan)
    if moving:
        canvas.save_animation(denoising_frames(path, way, model.decode), request.output)
    else:
        canvas.save_picture(draw_denoising(path, way, model.decode), request.output, this_command())
    print(request.output)


def toy_sampler(request: ToySamplerCommand) -> None:
    """Show why x_t minus the predicted noise is no sampler: it, above a real one, from the same noise."""
    from ebbflow.runs.sample import bind, grid_of
    from ebbflow.show import canvas
    from ebbflow.show.strips import draw_toy, toy_trace

    canvas.check_suffix(request.output, canvas.PICTURE_SUFFIXES)
    model, plan = _planned(request)
    dims, times = model.facts.state_dims, grid_of(model, plan)
    toy = toy_trace(bind(model, plan), dims, plan.seeds, times, model.device)
    picture = draw_toy(model.denoiser.path, toy, _way(model, plan), str(plan.sampler), model.decode)
    canvas.save_picture(picture, request.output, this_command())
    print(
        f"x - eps takes all of the noise away in its first step and goes on taking what is no longer there; below it "
        f"{plan.sampler}, from the same noise: {request.output}"
    )


def trajectories(request: TrajectoriesCommand) -> None:
    """Draw the ways of 2-D points from the same noises, with an ODE sampler and with an SDE sampler."""
    from ebbflow.runs.opened import held_out_of
    from ebbflow.runs.plan import plan_of
    from ebbflow.show import canvas
    from ebbflow.show.strips import draw_trajectories

    canvas.check_suffix(request.output, canvas.PICTURE_SUFFIXES)
    model = opened(request)
    if model.dims != (2,):
        raise ConfigError(
            "this model is not of 2-D points. Train one with `ebbflow train --data moons --set net.kind=mlp`."
        )
    plan = replace(plan_of(model, narrowed(SampleRequest, request)), options={})
    ways = {name: _way(model, replace(plan, sampler=name)) for name in dict.fromkeys((request.ode, request.sde))}
    data = held_out_of(model, request.data_dir, 2000)
    canvas.save_picture(draw_trajectories(ways, data.x), request.output, this_command())
    print(request.output)


def _planned(request: WayCommand) -> tuple[Model, Plan]:
    """The model and the plan of its samples, of no condition where none was asked for."""
    from ebbflow.runs.opened import require_images
    from ebbflow.runs.plan import named_any, plan_of

    model = opened(request)
    require_images(model, "this picture")
    return model, plan_of(model, narrowed(SampleRequest, request, labels=request.labels if named_any(request) else ()))


def _way(model: Model, plan: Plan) -> Trace:
    from ebbflow.runs.opened import require_finite
    from ebbflow.runs.sample import bind, grid_of
    from ebbflow.show.strips import trace

    way = trace(
        bind(model, plan),
        model.facts.state_dims,
        plan.seeds,
        grid_of(model, plan),
        sampler=plan.sampler,
        options=plan.options,
        device=model.device,
    )
    require_finite(model, way.states, "the states on the way")
    return way
