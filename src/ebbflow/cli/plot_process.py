"""`ebbflow plot noising`, `denoising`, `toy-sampler` and `trajectories`: the process, step by step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ebbflow.cli import options
from ebbflow.cli.common import check_weights, print_json, print_rows, this_command
from ebbflow.cli.options import asked_of, request_for
from ebbflow.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from ebbflow.methods.denoise import Denoiser
    from ebbflow.runs import Request, Run

Picture = Annotated[Path, typer.Option(help="A picture (.png .jpg .webp).")]


def noising(
    output: Picture = Path("noising.png"),
    data: Annotated[str, typer.Option(help="A data set's name, an image folder, or an .npz file.")] = "digits",
    path: Annotated[str, typer.Option(help="See `ebbflow list paths`.")] = "vp_discrete",
    index: Annotated[int, typer.Option(min=0, help="Which of the held-out images.")] = 0,
    columns: Annotated[int, typer.Option(min=1, help="How many times to show.")] = 8,
    num_steps: Annotated[int, typer.Option(min=1, help="Steps of the chain.")] = 1000,
    num: Annotated[int, typer.Option(min=1, help="Noisings that the statistics are over.")] = 64,
    seed: options.Seed = 0,
    data_dir: Annotated[Path | None, typer.Option(help="Where named data sets lie. Default: $EBBFLOW_DATA.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the statistics as an array of objects.")] = False,
) -> None:
    """Noise one image in closed form and step by step, and compare the two: (x_t - alpha x0) / sigma has mean 0 and
    standard deviation 1 both ways."""
    import torch

    from ebbflow.core.paths import PATHS
    from ebbflow.data import load_dataset
    from ebbflow.errors import choose
    from ebbflow.show import canvas
    from ebbflow.show.strips import noise_both_ways

    canvas.check_suffix(output, canvas.PICTURE_SUFFIXES)
    chosen = choose(PATHS, path, "path")()
    source = load_dataset(data, data_dir=data_dir).held_out
    if not source.is_image:
        raise DataError(f"data set {source.name!r} holds points; `plot noising` shows images.")
    if index >= len(source):
        raise DataError(f"--index must be below the {len(source)} held-out images of {source.name!r}, got {index}.")
    x0 = source.x0(torch.tensor([index]))
    both = noise_both_ways(chosen, x0, num_steps=num_steps, columns=columns, num=num, seed=seed)
    canvas.save_picture(both.draw(), output, this_command())
    if json:
        print_json(both.rows())
        return
    rows: list[dict[str, Any]] = [{key: key for key in both.rows()[0]}, *both.rows()]
    print_rows(rows)
    print(f"over {num} noisings of {x0.numel()} values each: {output}")


def denoising(
    ckpt: options.Ckpt,
    output: Annotated[Path, typer.Option(help="A strip (.png .jpg) or an animation (.webp .gif).")] = Path(
        "denoising.png"
    ),
    num: Annotated[int, typer.Option(min=1, help="How many samples.")] = 3,
    label: options.Label = None,
    prompt: options.Prompt = None,
    guidance: options.Guidance = None,
    sampler: options.SamplerName = None,
    steps: options.Steps = None,
    grid: options.Grid = None,
    set_: options.Settings = None,
    seed: options.Seed = 0,
    weights: options.WeightsName = "ema",
    device: options.Device = "auto",
) -> None:
    """Show x_t and the x0 predicted from it on the way from noise to samples."""
    from ebbflow.show import canvas
    from ebbflow.show.strips import denoising_frames, draw_denoising, trace

    moving = output.suffix.lower() in canvas.ANIMATION_SUFFIXES
    canvas.check_suffix(output, (*canvas.PICTURE_SUFFIXES, *canvas.ANIMATION_SUFFIXES))
    changes: dict[str, Any] = {"guidance": guidance, "num_steps": steps, "grid": grid, "settings": set_}
    run, request = _ask(ckpt, num, label, seed, sampler, prompts=prompt, **changes)
    denoiser, times, place = _model(run, request, weights, device, images=True)
    seeds = range(seed, seed + num)
    way = trace(
        denoiser, run.facts.state_dims, seeds, times, sampler=request.sampler, options=request.options, device=place
    )
    if moving:
        canvas.save_animation(denoising_frames(denoiser.path, way, _decoder(run)), output)
    else:
        canvas.save_picture(draw_denoising(denoiser.path, way, _decoder(run)), output, this_command())
    print(output)


def toy_sampler(
    ckpt: options.Ckpt,
    output: Picture = Path("toy_sampler.png"),
    num: Annotated[int, typer.Option(min=1, help="How many samples.")] = 3,
    label: options.Label = None,
    prompt: options.Prompt = None,
    guidance: options.Guidance = None,
    sampler: options.SamplerName = None,
    steps: options.Steps = None,
    grid: options.Grid = None,
    seed: options.Seed = 0,
    weights: options.WeightsName = "ema",
    device: options.Device = "auto",
) -> None:
    """Show why x_t minus the predicted noise is no sampler: it, above a real one, from the same noise."""
    from ebbflow.show import canvas
    from ebbflow.show.strips import draw_toy, toy_trace, trace

    canvas.check_suffix(output, canvas.PICTURE_SUFFIXES)
    changes: dict[str, Any] = {"guidance": guidance, "num_steps": steps, "grid": grid}
    run, request = _ask(ckpt, num, label, seed, sampler, prompts=prompt, **changes)
    denoiser, times, place = _model(run, request, weights, device, images=True)
    seeds = range(seed, seed + num)
    real = trace(
        denoiser, run.facts.state_dims, seeds, times, sampler=request.sampler, options=request.options, device=place
    )
    toy = toy_trace(denoiser, run.facts.state_dims, seeds, times, place)
    canvas.save_picture(draw_toy(denoiser.path, toy, real, request.sampler, _decoder(run)), output, this_command())
    print(output)


def trajectories(
    ckpt: options.Ckpt,
    output: Picture = Path("trajectories.png"),
    num: Annotated[int, typer.Option(min=1, help="How many points.")] = 24,
    label: Annotated[str | None, typer.Option(help="One class. Default: all of them in equal shares.")] = None,
    guidance: Annotated[float, typer.Option(help="w of u + w (c - u).")] = 1.0,
    ode: Annotated[str, typer.Option(help="The sampler on the left.")] = "heun",
    sde: Annotated[str, typer.Option(help="The sampler on the right.")] = "sde",
    steps: Annotated[int, typer.Option(min=1, help="Number of steps of both.")] = 100,
    grid: options.Grid = None,
    seed: options.Seed = 0,
    weights: options.WeightsName = "ema",
    device: options.Device = "auto",
    data_dir: Annotated[
        Path | None, typer.Option(help="Where the run's data lies, if not where it was trained from.")
    ] = None,
) -> None:
    """Draw the ways of 2-D points from the same noises, with an ODE sampler and with an SDE sampler."""
    from ebbflow.cli.invert import held_out
    from ebbflow.show import canvas
    from ebbflow.show.strips import draw_trajectories, trace

    canvas.check_suffix(output, canvas.PICTURE_SUFFIXES)
    run, request = _ask(ckpt, num, label, seed, ode, guidance=guidance, num_steps=steps, grid=grid, every=True)
    if run.facts.dims != (2,):
        raise ConfigError("this run is not of 2-D points. Train one with --data moons --set net.kind=mlp.")
    denoiser, times, place = _model(run, request, weights, device, images=False)
    seeds = range(seed, seed + num)
    ways = {
        name: trace(denoiser, run.facts.state_dims, seeds, times, sampler=name, device=place)
        for name in dict.fromkeys((ode, sde))
    }
    data = held_out(run, 2000, data_dir)
    canvas.save_picture(draw_trajectories(ways, data.x), output, this_command())
    print(output)


def _ask(
    ckpt: Path,
    num: int,
    label: str | None,
    seed: int,
    sampler: str | None,
    *,
    prompts: list[str] | None = None,
    every: bool = False,
    **changes: Any,
) -> tuple[Run, Request]:
    """The run, and the request of `num` samples of one label, or of none, or with `every` of all there are."""
    from ebbflow.runs import open_run

    run = open_run(ckpt)
    asked = asked_of(run, label=label, prompts=prompts)
    if every and not asked:
        asked = [*run.config.conditioning.examples(run.facts)]
    return run, request_for(run, seeds=range(seed, seed + num), asked=asked, sampler=sampler, **changes)


def _decoder(run: Run) -> Callable[[Tensor], Tensor]:
    """From the model's states to images."""
    from functools import partial

    from ebbflow.runs.latent_files import decoded

    return partial(decoded, run.space())


def _model(run: Run, request: Request, weights: str, device: str, *, images: bool) -> tuple[Denoiser, Tensor, Any]:
    """The denoiser with the request's labels and guidance bound, its grid, and the device."""
    from ebbflow.methods.sampling import grid_times
    from ebbflow.runs.edit import require_images
    from ebbflow.runs.generate import bind
    from ebbflow.training.engine import pick_device

    check_weights(weights)
    if images:
        require_images(run.facts, "this picture")
    place = pick_device(device)
    denoiser = run.denoiser("ema" if weights == "ema" else "raw", device=place)
    request.check(run.facts, denoiser.make_null is not None)
    return bind(denoiser, request, request.asked), grid_times(denoiser, request.grid, request.num_steps), place
