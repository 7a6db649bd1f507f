"""`ebbflow sample`, `edit`, `invert` and `reconstruct`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebbflow.cli.common import print_json, print_rows, this_command
from ebbflow.cli.progress import watched
from ebbflow.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from ebbflow.requests.sampling import (
        EditCommand,
        InvertCommand,
        ReconstructCommand,
        SampleCommand,
        Where,
    )
    from ebbflow.runs.edit import Reconstruction
    from ebbflow.runs.model import Model
    from ebbflow.runs.plan import Plan
    from ebbflow.runs.sample import Samples


def sample(request: SampleCommand) -> None:
    """Sample a trained model with any sampler, grid, number of steps and guidance."""
    from ebbflow.runs.plan import plan_of
    from ebbflow.runs.results import check_output, write
    from ebbflow.runs.sample import generate

    check_output(request.output, request.trajectory)
    model = opened(request)
    plan = plan_of(model, request)
    began = time.perf_counter()
    steps = _watched(generate(model, plan), plan, plan.num_steps)
    written = write(model, plan, steps, request.output, trajectory=request.trajectory, command=this_command())
    seconds = time.perf_counter() - began
    if request.json:
        print_json({**_said(plan, request.output, seconds), "num": len(plan.seeds), "written": written})
    else:
        print(f"{len(plan.seeds)} samples in {seconds:.1f} s: {', '.join(written)}")


def opened(request: Where) -> Model:
    """The model that a request names."""
    from ebbflow.api import open as open_model

    return open_model(request.ckpt, weights=request.weights, device=request.device)


def _watched(steps: Iterator[Samples], plan: Plan, num_steps: int) -> Iterator[Samples]:
    """The same, with a progress bar over all steps when someone watches."""
    return watched(steps, plan.num_batches * num_steps)


def _said(plan: Plan, output: Path, seconds: float) -> dict[str, Any]:
    return {
        "output": str(output),
        "seconds": round(seconds, 3),
        "sampler": plan.sampler,
        "num_steps": plan.num_steps,
        "grid": plan.grid,
        "guidance": plan.guidance,
    }


# -- edit --------------------------------------------------------------------------------------------------------------


def edit(request: EditCommand) -> None:
    """Edit an image with a trained model: vary it (SDEdit), fill in a part of it, or go from it to another one."""
    from ebbflow.runs.edit import edit_plan, read_noise
    from ebbflow.runs.opened import require_images
    from ebbflow.runs.results import check_output

    check_output(request.output)
    _check_choice(request)
    model = opened(request)
    require_images(model, "editing")
    began = time.perf_counter()
    if request.noise is not None:
        states, found = read_noise(request.noise, model)
        request = replace(request, **{key: value for key, value in found.items() if getattr(request, key) is None})
        plan = edit_plan(model, request, as_one=True)
        said = _from_noise(model, plan, states, request.output)
    elif request.interpolate_with is not None:
        plan = edit_plan(model, request, as_one=True)
        said = _between(model, plan, request)
    else:
        plan = edit_plan(model, request)
        said = _edit(model, plan, request)
    said = {**_said(plan, request.output, time.perf_counter() - began), **said}
    if request.json:
        print_json(said)
    else:
        start = f", started at t = {said['start']:.3g}" if "start" in said else ""
        print(f"{said['num']} images in {said['seconds']:.1f} s{start}: {request.output}")


def _check_choice(request: EditCommand) -> None:
    """Refuse settings that contradict each other."""
    if (request.input is None) == (request.noise is None):
        raise ConfigError("give the image to edit as `input`, or a file of `ebbflow invert` as `noise`.")
    whole = request.noise is not None or request.interpolate_with is not None
    if whole and (request.mask is not None or request.strength is not None):
        raise ConfigError("`mask` and `strength` belong to an edit of one `input`, without `interpolate_with`.")


def _read(model: Model, path: Path) -> Tensor:
    """The image of a file, with a line on standard error about what had to be done to it."""
    from ebbflow.runs.pictures import read_picture

    x0, note = read_picture(path, model.dims)
    if note:
        print(note, file=sys.stderr)
    return x0


def _edit(model: Model, plan: Plan, request: EditCommand) -> dict[str, Any]:
    import torch

    from ebbflow.runs.edit import edit_image, edit_of, paste_back
    from ebbflow.runs.pictures import read_mask

    assert request.input is not None
    x0 = _read(model, request.input)
    mask = None if request.mask is None else read_mask(request.mask, request.input, model.dims)
    how = edit_of(request, mask)
    shown = {"input": x0} if mask is None else {"input": x0, "kept": torch.where(mask, torch.zeros(()), x0)}
    steps = _watched(edit_image(model, plan, x0, how), plan, how.num_steps(model.denoiser, plan))
    x = torch.cat([batch.x for batch in steps if batch.done])
    _write(model, plan, request.output, paste_back(x, x0, how.mask), shown)
    start = float(how.times(model.denoiser, plan)[0])
    return {"num": len(plan.seeds), "strength": how.strength, "start": start}


def _between(model: Model, plan: Plan, request: EditCommand) -> dict[str, Any]:
    import torch

    from ebbflow.runs.edit import Inverter

    assert request.input is not None and request.interpolate_with is not None
    first, second = (_read(model, path) for path in (request.input, request.interpolate_with))
    x = Inverter(model=model, plan=plan).between(torch.cat([first, second]), len(plan.seeds))
    _write(model, plan, request.output, x, {"first": first}, {"second": second})
    return {"num": len(plan.seeds)}


def _from_noise(model: Model, plan: Plan, states: Tensor, output: Path) -> dict[str, Any]:
    from ebbflow.runs.edit import Inverter

    x = Inverter(model=model, plan=plan).images_of(states)
    _write(model, plan, output, x, {})
    return {"num": len(x)}


def _write(
    model: Model,
    plan: Plan,
    output: Path,
    x: Tensor,
    before: dict[str, Tensor],
    after: dict[str, Tensor] | None = None,
) -> None:
    """The edits as a file or a folder; a picture shows the inputs beside them, a row for each condition."""
    import torch

    from ebbflow.data import to_uint8
    from ebbflow.runs.results import row_name
    from ebbflow.show import canvas

    images, after = to_uint8(x.clamp(-1, 1)), after or {}
    fitting = plan.conditions is not None and len(plan.conditions) == len(x)
    conditions = list(dict.fromkeys(plan.conditions or ())) if fitting else []
    if not output.suffix:
        for i, image in enumerate(images):
            canvas.save_picture(canvas.to_picture(image), output / f"edit_{i:04d}.png", this_command())
        return
    if output.suffix.lower() == ".npz":
        labels = torch.tensor(plan.labels) if fitting and plan.labels is not None else None
        canvas.save_npz(images, labels, output)
        return
    each = len(images) // max(1, len(conditions))
    sides = [*map(to_uint8, before.values())], [*map(to_uint8, after.values())]
    rows = [torch.cat([*sides[0], row, *sides[1]]) for row in images.split(each)]
    names = [row_name(one, model.label_names) for one in conditions]
    columns = [*before, *[""] * each, *after]
    picture = canvas.grid(torch.cat(rows), columns=len(columns), row_names=names, column_names=columns)
    canvas.save_picture(picture, output, this_command())


# -- there and back ----------------------------------------------------------------------------------------------------


def invert(request: InvertCommand) -> None:
    """Find the noise from which a model makes an image, by walking the sampler's grid backwards."""
    from ebbflow.methods.editing import psnr
    from ebbflow.requests.sampling import EditRequest
    from ebbflow.runs.edit import Inverter, edit_plan, write_noise
    from ebbflow.runs.opened import require_images
    from ebbflow.show import canvas

    canvas.check_suffix(request.output, (".npz",))
    model = opened(request)
    require_images(model, "inversion")
    x0 = _read(model, request.input)
    asked = {key: getattr(request, key) for key in ("labels", "prompts", "vectors", "sampler", "steps", "grid")}
    plan = edit_plan(model, EditRequest(**asked, guidance=request.guidance, num=1), as_one=True)
    inverter = Inverter(model=model, plan=plan)
    noise = inverter.noise_of(x0)
    again = inverter.images_of(noise).clamp(-1, 1)
    write_noise(request.output, noise, plan)
    facts = {
        "output": str(request.output),
        "sampler": plan.sampler,
        "num_steps": plan.num_steps,
        "noise_std": round(float(noise.std()), 4),
        "psnr": round(float(psnr(again, x0)), 2),
    }
    if request.json:
        print_json(facts)
        return
    print(
        f"noise of standard deviation {facts['noise_std']}; sampling from it again gives the image back at "
        f"{facts['psnr']} dB: {request.output}"
    )


def reconstruct(request: ReconstructCommand) -> None:
    """Measure how well held-out images survive the way to noise and back, by number of steps."""
    from ebbflow.requests.sampling import Sampling
    from ebbflow.runs.edit import reconstructions
    from ebbflow.runs.opened import held_out_of, require_images
    from ebbflow.runs.plan import changes_of, default_plan
    from ebbflow.show import canvas

    if request.output is not None:
        canvas.check_suffix(request.output, canvas.PICTURE_SUFFIXES)
    model = opened(request)
    require_images(model, "reconstruction")
    data = held_out_of(model, request.data_dir, request.num)
    how = Sampling(sampler=request.sampler, grid=request.grid, batch_size=request.batch_size)
    plan = replace(default_plan(model, seeds=[0]), **changes_of(how))
    done = list(watched(reconstructions(model, plan, data, request.steps), len(request.steps), unit="report"))
    if request.output is not None:
        _draw(data.x, done, request.output)
    rows = [{"sampler": plan.sampler, **one.row()} for one in done]
    if request.json:
        print_json(rows)
        return
    print_rows(
        [{**row, "psnr": f"{row['psnr']:.2f} dB", "standard_error": f"{row['standard_error']:.2f}"} for row in rows]
    )


def _draw(originals: Tensor, done: list[Reconstruction], output: Path) -> None:
    import torch

    from ebbflow.show import canvas

    columns = min(10, len(originals))
    rows = [originals[:columns], *(one.images[:columns] for one in done)]
    names = ["held-out", *(f"{one.num_steps} steps, {float(one.psnr.mean()):.1f} dB" for one in done)]
    canvas.save_picture(canvas.grid(torch.cat(rows), columns=columns, row_names=names), output, this_command())
