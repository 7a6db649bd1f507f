"""`ebbflow edit`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ebbflow.cli import options
from ebbflow.cli.common import check_weights, print_json, read_items, this_command, watched
from ebbflow.cli.options import asked_of, request_for
from ebbflow.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from ebbflow.methods.denoise import NetDenoiser
    from ebbflow.runs import Request, Run
    from ebbflow.runs.edit import Edit


def edit(
    ckpt: options.Ckpt,
    output: Annotated[
        Path,
        typer.Option(
            help="A picture with the input in front (.png .jpg .webp), all edits (.npz), or a folder of them."
        ),
    ],
    input: Annotated[
        Path | None, typer.Option(help="The image to edit; it is brought to the run's size and channels.")
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            help="In (0, 1]: the share of the steps that is walked; 1 keeps nothing. Default: 0.6, or 1 with --mask."
        ),
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Inpainting: generate where this picture is white, keep the rest exactly.")
    ] = None,
    resample: Annotated[
        int, typer.Option(min=1, help="With --mask: walk every piece of the way so often, which blends better.")
    ] = 1,
    jump: Annotated[int, typer.Option(min=1, help="With --resample: steps a piece.")] = 1,
    interpolate_with: Annotated[
        Path | None, typer.Option(help="A second image: --num images from --input to it, through their noises.")
    ] = None,
    noise: Annotated[
        Path | None, typer.Option(help="Instead of --input: the file of `ebbflow invert`; sampled as it was inverted.")
    ] = None,
    num: Annotated[
        int | None, typer.Option(min=1, help="How many edits a label, or images of an interpolation.")
    ] = None,
    label: options.Label = None,
    labels: Annotated[str | None, typer.Option(help="Several classes, such as 0-9 or cat,dog: a row each.")] = None,
    prompt: options.Prompt = None,
    guidance: options.Guidance = None,
    sampler: options.SamplerName = None,
    steps: options.Steps = None,
    grid: options.Grid = None,
    set_: options.Settings = None,
    seed: options.Seed = 0,
    weights: options.WeightsName = "ema",
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
    json: options.AsJson = False,
) -> None:
    """Edit an image with a trained run: vary it (SDEdit), fill in a part of it, or go from it to another one."""
    from ebbflow.runs import open_run
    from ebbflow.runs.edit import Edit, read_noise, require_images
    from ebbflow.show import canvas
    from ebbflow.training.engine import pick_device

    check_weights(weights)
    if output.suffix:
        canvas.check_suffix(output, (*canvas.PICTURE_SUFFIXES, ".npz"))
    _check_choice(input, noise, mask, interpolate_with, strength, resample)
    run = open_run(ckpt)
    require_images(run.facts, "`ebbflow edit`")
    wanted = asked_of(run, label=label, labels=None if labels is None else read_items(labels), prompts=prompt)
    whole = noise is not None or interpolate_with is not None
    if whole and len(wanted) > 1:
        raise ConfigError("--noise and --interpolate-with take one --label or --prompt for all their images.")
    each = num or (8 if interpolate_with or not wanted else 1 if len(wanted) == 1 else 4)
    count = each if whole else each * max(1, len(wanted))
    states, found = (None, {}) if noise is None else read_noise(noise, run.facts)
    given = {"guidance": guidance, "num_steps": steps, "grid": grid, "sampler": sampler, "batch_size": batch_size}
    request = request_for(
        run,
        seeds=range(seed, seed + count),
        asked=wanted,
        settings=set_,
        **{**found, **{key: value for key, value in given.items() if value is not None}},
    )
    denoiser = run.denoiser("ema" if weights == "ema" else "raw", device=pick_device(device))
    request.check(run.facts, denoiser.make_null is not None)
    began = time.perf_counter()
    if states is not None:
        said = _from_noise(run, denoiser, request, states, output, pick_device(device))
    elif interpolate_with is not None and input is not None:
        said = _between(run, denoiser, request, (input, interpolate_with), each, output, pick_device(device))
    else:
        assert input is not None
        how = Edit(strength=strength or (0.6 if mask is None else 1.0), resample=resample, jump=jump)
        said = _edit(run, denoiser, request, how, (input, mask), output, pick_device(device))
    said |= {"output": str(output), "seconds": round(time.perf_counter() - began, 3), "sampler": request.sampler}
    if json:
        print_json({**said, "num_steps": request.num_steps, "grid": request.grid, "guidance": request.guidance})
    else:
        start = f", started at t = {said['start']:.3g}" if "start" in said else ""
        print(f"{said['num']} images in {said['seconds']:.1f} s{start}: {output}")


def _check_choice(
    image: Path | None,
    noise: Path | None,
    mask: Path | None,
    second: Path | None,
    strength: float | None,
    resample: int,
) -> None:
    """Refuse flags that contradict each other."""
    if (image is None) == (noise is None):
        raise ConfigError("give the image to edit with --input, or a file of `ebbflow invert` with --noise.")
    if strength is not None and not 0 < strength <= 1:
        raise ConfigError(f"--strength must be in (0, 1], got {strength}: 1 keeps nothing of the image.")
    whole = noise is not None or second is not None
    if whole and (mask is not None or strength is not None):
        raise ConfigError("--mask and --strength belong to an edit of one --input, without --interpolate-with.")
    if resample > 1 and mask is None:
        raise ConfigError("--resample belongs to inpainting: give a --mask.")


def _read(run: Run, path: Path) -> Tensor:
    """The image of a file, with a line on standard error about what had to be done to it."""
    from ebbflow.runs.edit import read_image

    x0, note = read_image(path, run.facts)
    if note:
        print(note, file=sys.stderr)
    return x0


def _edit(
    run: Run,
    denoiser: NetDenoiser,
    request: Request,
    how: Edit,
    files: tuple[Path, Path | None],
    output: Path,
    device: Any,
) -> dict[str, Any]:
    from dataclasses import replace

    import torch

    from ebbflow.methods.editing import sub_grid
    from ebbflow.methods.sampling import grid_times
    from ebbflow.runs import edit as editing

    x0 = _read(run, files[0])
    shown = {"input": x0}
    if files[1] is not None:
        mask = editing.read_mask(files[1], files[0], run.facts)
        how, shown["kept"] = replace(how, mask=mask), torch.where(mask, torch.zeros(()), x0)
    batches = -(-len(request.seeds) // request.batch_size)
    steps = editing.edit(denoiser, request, x0, how, device, space=run.space(device))
    done = [b for b in watched(steps, batches * how.num_steps(denoiser, request)) if b.done]
    _write(run, request, output, editing.keep(torch.cat([b.x for b in done]), x0, how.mask), shown)
    times = sub_grid(grid_times(denoiser, request.grid, request.num_steps), how.strength)
    return {"num": len(request.seeds), "strength": how.strength, "start": float(times[0])}


def _between(
    run: Run,
    denoiser: NetDenoiser,
    request: Request,
    files: tuple[Path, Path],
    num: int,
    output: Path,
    device: Any,
) -> dict[str, Any]:
    import torch

    from ebbflow.runs import edit as editing

    first, second = (_read(run, path) for path in files)
    inverter = editing.Inverter.of(denoiser, request, device, run.space(device))
    x = inverter.between(torch.cat([first, second]), num)
    _write(run, request, output, x, {"first": first}, {"second": second})
    return {"num": num}


def _from_noise(
    run: Run, denoiser: NetDenoiser, request: Request, states: Tensor, output: Path, device: Any
) -> dict[str, Any]:
    from ebbflow.runs import edit as editing

    x = editing.Inverter.of(denoiser, request, device, run.space(device)).images_of(states)
    _write(run, request, output, x, {})
    return {"num": len(x)}


def _write(
    run: Run,
    request: Request,
    output: Path,
    x: Tensor,
    before: dict[str, Tensor],
    after: dict[str, Tensor] | None = None,
) -> None:
    """The edits as a file or a folder; a picture shows the inputs beside them, a row for each class."""
    import torch

    from ebbflow.data import to_uint8
    from ebbflow.runs.generate import row_name
    from ebbflow.show import canvas

    images = to_uint8(x.clamp(-1, 1))
    labels = request.labels if request.labels is not None and len(request.labels) == len(x) else None
    rows_of = list(dict.fromkeys(request.asked or ())) if request.asked and len(request.asked) == len(x) else []
    if not output.suffix:
        for i, image in enumerate(images):
            canvas.save_picture(canvas.to_picture(image), output / f"edit_{i:04d}.png", this_command())
        return
    if output.suffix.lower() == ".npz":
        canvas.save_npz(images, None if labels is None else torch.tensor(labels), output)
        return
    after = after or {}
    each = len(images) // max(1, len(rows_of))
    rows = [
        torch.cat([*map(to_uint8, before.values()), row, *map(to_uint8, after.values())]) for row in images.split(each)
    ]
    names = [row_name(one, run.facts.label_names) for one in rows_of]
    columns = [*before, *[""] * each, *after]
    picture = canvas.grid(torch.cat(rows), columns=len(columns), row_names=names, column_names=columns)
    canvas.save_picture(picture, output, this_command())
