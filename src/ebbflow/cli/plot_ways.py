"""`ebbflow plot denoising`, `toy-sampler` and `trajectories`: what a model's samplers do, step by step."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ebbflow.cli.common import this_command
from ebbflow.cli.sampling import opened
from ebbflow.errors import ConfigError
from ebbflow.requests.base import narrowed
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
    none = {} if named_any(request) else {"labels": ()}
    return model, plan_of(model, narrowed(SampleRequest, request, **none))


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
