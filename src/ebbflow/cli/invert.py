"""`ebbflow invert` and `ebbflow reconstruct`: from images to their noise, and back."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ebbflow.cli import options
from ebbflow.cli.common import check_weights, print_json, print_rows, read_integers, this_command, watched
from ebbflow.cli.options import asked_of, request_for
from ebbflow.errors import ConfigError

if TYPE_CHECKING:
    from ebbflow.data import Dataset
    from ebbflow.runs import Run
    from ebbflow.runs.edit import Reconstruction


def invert(
    ckpt: options.Ckpt,
    input: Annotated[Path, typer.Option(help="The image; it is brought to the run's size and channels.")],
    output: Annotated[Path, typer.Option(help="An .npz for the noise; `ebbflow edit --noise` goes on from it.")],
    steps: Annotated[int, typer.Option(min=2, help="Number of steps.")] = 50,
    label: options.Label = None,
    prompt: options.Prompt = None,
    guidance: Annotated[float, typer.Option(help="w of u + w (c - u); other values than 1 are not undone well.")] = 1.0,
    sampler: options.SamplerName = None,
    grid: options.Grid = None,
    weights: options.WeightsName = "ema",
    device: options.Device = "auto",
    json: options.AsJson = False,
) -> None:
    """Find the noise from which a run makes an image, by walking the sampler's grid backwards."""
    from ebbflow.methods.editing import psnr
    from ebbflow.runs import edit as editing
    from ebbflow.runs import open_run
    from ebbflow.show import canvas
    from ebbflow.training.engine import pick_device

    check_weights(weights)
    canvas.check_suffix(output, (".npz",))
    run, place = open_run(ckpt), pick_device(device)
    x0, note = editing.read_image(input, run.facts)
    if note:
        print(note, file=sys.stderr)
    request = request_for(
        run,
        seeds=[0],
        asked=asked_of(run, label=label, prompts=prompt)[:1],
        sampler=sampler,
        guidance=guidance,
        num_steps=steps,
        grid=grid,
    )
    denoiser = run.denoiser("ema" if weights == "ema" else "raw", device=place)
    request.check(run.facts, denoiser.make_null is not None)
    inverter = editing.Inverter.of(denoiser, request, place, run.space(place))
    noise = inverter.noise_of(x0)
    again = inverter.images_of(noise).clamp(-1, 1)
    editing.write_noise(output, noise, request)
    facts = {
        "output": str(output),
        "sampler": request.sampler,
        "num_steps": steps,
        "noise_std": round(float(noise.std()), 4),
        "psnr": round(float(psnr(again, x0)), 2),
    }
    if json:
        print_json(facts)
    else:
        print(
            f"noise of standard deviation {facts['noise_std']}; sampling from it again gives the image back at "
            f"{facts['psnr']} dB: {output}"
        )


def reconstruct(
    ckpt: options.Ckpt,
    steps: Annotated[str, typer.Option(help="Numbers of steps to compare.")] = "5,10,20,50",
    num: Annotated[int, typer.Option(min=1, help="Held-out images.")] = 64,
    output: Annotated[
        Path | None, typer.Option(help="Also a picture: the first images and their reconstructions.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where the run's data lies, if not where it was trained from.")
    ] = None,
    sampler: options.SamplerName = None,
    grid: options.Grid = None,
    weights: options.WeightsName = "ema",
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print an array of objects.")] = False,
) -> None:
    """Measure how well held-out images survive the way to noise and back, by number of steps."""
    from ebbflow.runs import open_run
    from ebbflow.runs.edit import reconstructions, require_images
    from ebbflow.show import canvas
    from ebbflow.training.engine import pick_device

    check_weights(weights)
    counts = read_integers(steps, "--steps")
    if any(count < 2 for count in counts):
        raise ConfigError(f"--steps must be 2 or more each to be walked back and forth, got {steps}.")
    if output is not None:
        canvas.check_suffix(output, canvas.PICTURE_SUFFIXES)
    run = open_run(ckpt)
    require_images(run.facts, "`ebbflow reconstruct`")
    data = held_out(run, num, data_dir)
    request = request_for(run, seeds=[0], asked=[], sampler=sampler, grid=grid, batch_size=batch_size)
    denoiser = run.denoiser("ema" if weights == "ema" else "raw", device=pick_device(device))
    place = pick_device(device)
    found = reconstructions(denoiser, request, data, counts, place, space=run.space(place))
    done = list(watched(found, len(counts), unit="report"))
    if output is not None:
        _draw(data, done, output)
    rows = [{"sampler": request.sampler, **r.row()} for r in done]
    if json:
        print_json(rows)
    else:
        print_rows(
            [{**row, "psnr": f"{row['psnr']:.2f} dB", "standard_error": f"{row['standard_error']:.2f}"} for row in rows]
        )


def held_out(run: Run, num: int, data_dir: Path | None) -> Dataset:
    """The first `num` entries that the run was not trained on.

    Raises:
        ConfigError, DataError: the data is not where it was; `data_dir` says where.
    """
    import torch

    from ebbflow.runs import load_splits

    config = run.config
    if data_dir is not None:
        config = replace(config, data=replace(config.data, dir=str(data_dir)))
    data = load_splits(config).held_out
    return data.select(torch.arange(min(num, len(data))))


def _draw(data: Dataset, done: list[Reconstruction], output: Path) -> None:
    import torch

    from ebbflow.data import to_uint8
    from ebbflow.show import canvas

    columns = min(10, len(data))
    rows = [data.x[:columns], *(to_uint8(r.x[:columns]) for r in done)]
    names = ["held-out", *(f"{r.num_steps} steps, {float(r.psnr.mean()):.1f} dB" for r in done)]
    canvas.save_picture(canvas.grid(torch.cat(rows), columns=columns, row_names=names), output, this_command())
