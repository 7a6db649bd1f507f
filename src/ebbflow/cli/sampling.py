"""`ebbflow sample`, `edit`, `restore`, `invert` and `reconstruct`."""

from __future__ import annotations

import sys
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebbflow.cli.common import print_json, print_lines, this_command
from ebbflow.cli.progress import BY_BATCH, shown, watched
from ebbflow.errors import ConfigError
from ebbflow.requests.base import narrowed
from ebbflow.requests.sampling import (
    EditCommand,
    EditRequest,
    InvertCommand,
    ReconstructCommand,
    RestoreCommand,
    SampleCommand,
    Sampling,
    Where,
    WhereRun,
)

if TYPE_CHECKING:
    from torch import Tensor

    from ebbflow.runs.edit import Reconstruction
    from ebbflow.runs.model import Model
    from ebbflow.runs.plan import Plan


def sample(request: SampleCommand) -> None:
    """Sample a trained model with any sampler, grid, number of steps and guidance."""
    from ebbflow.runs.plan import plan_of
    from ebbflow.runs.results import check_output, write
    from ebbflow.runs.sample import dtype_of, sampled
    from ebbflow.training.world import here

    check_output(request.output, request.trajectory)
    model = opened(request)
    model = model if request.img_size is None else model.of_size(request.img_size)
    plan = plan_of(model, request)
    began = time.perf_counter()
    if plan.chosen and not request.json:
        print(f"sampler auto: {plan.chosen}")
    world = here()
    steps = watched(sampled(model, plan, world), plan.num_batches * plan.num_steps)
    if not world.leads:
        deque(steps, maxlen=0)
        return
    command = this_command(_resolved(plan))
    written = write(model, plan, steps, request.output, trajectory=request.trajectory, command=command)
    seconds = time.perf_counter() - began
    dtype = str(dtype_of(model, plan)).removeprefix("torch.")
    if request.json:
        said = _said(plan, request.output, seconds)
        print_json({**said, "net_dtype": dtype, "num": len(plan.seeds), "written": written})
    else:
        kind = "" if dtype == "float32" else f", net in {dtype}"
        print(f"{_counted(len(plan.seeds), 'sample')} in {seconds:.1f} s{kind}: {', '.join(written)}")


def _counted(num: int, what: str) -> str:
    return f"{num:,} {what}" if num == 1 else f"{num:,} {what}s"


def opened(request: Where | WhereRun) -> Model:
    """The model that a request names.

    Raises:
        CheckpointError: nothing there, or a model from elsewhere where a run is wanted.
    """
    from ebbflow.api import open as open_model
    from ebbflow.runs.model import Model

    if isinstance(request, WhereRun):
        return Model.from_run(request.ckpt, weights=request.weights, device=request.device)
    return open_model(request.ckpt, weights=request.weights, device=request.device)


def _resolved(plan: Plan) -> dict[str, str]:
    """What stands in a command for what sampler auto chose, so that it remakes the same whatever is best by then."""
    if not plan.chosen:
        return {}
    return {"--sampler": str(plan.sampler), "--steps": str(plan.num_steps), "--grid": str(plan.grid)}


def _said(plan: Plan, output: Path, seconds: float) -> dict[str, Any]:
    return {
        "output": str(output),
        "seconds": round(seconds, 3),
        "sampler": str(plan.sampler),
        "num_steps": plan.num_steps,
        "grid": plan.named_grid,
        "guidance": plan.guidance,
        **({"chosen": plan.chosen} if plan.chosen else {}),
    }


# -- edit --------------------------------------------------------------------------------------------------------------


def edit(request: EditCommand) -> None:
    """Edit an image with a trained model: vary it (SDEdit), fill in a part of it, or go from it to another one."""
    from ebbflow.runs.edit import Inverter, edit_of, edit_plan, read_noise
    from ebbflow.runs.model import between, edited
    from ebbflow.runs.results import check_output, made_of

    check_output(request.output)
    _check_choice(request)
    model = opened(request)
    began, started = time.perf_counter(), {}
    if request.noise is not None:
        states, found = read_noise(request.noise, model)
        found = {key: value for key, value in found.items() if getattr(request, key) is None}
        plan = edit_plan(model, replace(request, num=len(states), **found), as_one=True)
        made = made_of(model, plan, Inverter(model=model, plan=plan).images_of(states))
    elif request.interpolate_with is not None:
        plan = edit_plan(model, request, as_one=True)
        made = between(model, plan, *(_read(model, path) for path in (request.input, request.interpolate_with)))
    else:
        plan, x0 = edit_plan(model, request), _read(model, request.input)
        how = edit_of(request, model.dims, request.input)
        made = edited(model, plan, x0, how, watched)
        started = {"strength": how.strength, "start": float(how.times(model.denoiser, plan)[0])}
    replace(made, command=this_command(_resolved(plan))).save(request.output)
    seconds = time.perf_counter() - began
    if request.json:
        print_json({**_said(plan, request.output, seconds), "num": len(made), **started})
    else:
        start = f", started at t = {started['start']:.3g}" if started else ""
        print(f"{_counted(len(made), 'image')} in {seconds:.1f} s{start}: {request.output}")


def _check_choice(request: EditCommand) -> None:
    """Refuse settings that contradict each other."""
    if (request.input is None) == (request.noise is None):
        raise ConfigError("give the image to edit as `input`, or a file of `ebbflow invert` as `noise`.")
    whole = request.noise is not None or request.interpolate_with is not None
    if whole and (request.mask is not None or request.strength is not None):
        raise ConfigError("`mask` and `strength` belong to an edit of one `input`, without `interpolate_with`.")


def _read(model: Model, path: Path | None) -> Tensor:
    """The image of a file, with a line on standard error about what had to be done to it."""
    from ebbflow.runs.pictures import read_picture

    assert path is not None
    x0, note = read_picture(path, model.dims)
    if note:
        print(note, file=sys.stderr)
    return x0


# -- there and back ----------------------------------------------------------------------------------------------------


def invert(request: InvertCommand) -> None:
    """Find the noise from which a model makes an image, by walking the sampler's grid backwards."""
    from ebbflow.methods.editing import psnr
    from ebbflow.runs.edit import Inverter, edit_plan, write_noise
    from ebbflow.runs.opened import require_images
    from ebbflow.show import canvas

    canvas.check_suffix(request.output, (".npz",))
    model = opened(request)
    require_images(model, "inversion")
    x0 = _read(model, request.input)
    plan = edit_plan(model, narrowed(EditRequest, request, num=1), as_one=True)
    inverter = Inverter(model=model, plan=plan)
    noise = inverter.noise_of(x0)
    again = inverter.images_of(noise).clamp(-1, 1)
    write_noise(request.output, noise, plan)
    facts = {
        "output": str(request.output),
        "sampler": str(plan.sampler),
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
    from ebbflow.runs.edit import reconstructions
    from ebbflow.runs.opened import held_out_of, require_images
    from ebbflow.runs.parts import parts_of
    from ebbflow.runs.plan import changes_of, default_plan
    from ebbflow.show import canvas

    if request.output is not None:
        canvas.check_suffix(request.output, canvas.PICTURE_SUFFIXES)
    model = opened(request)
    require_images(model, "reconstruction")
    data = held_out_of(model, request.data_dir, request.num)
    plan = replace(default_plan(model, seeds=[0]), **changes_of(model, narrowed(Sampling, request, steps=None)))
    work = reconstructions(model, plan, data, request.steps, parts_of(model, request, data))
    done = shown(work, BY_BATCH, unit="step")
    if request.output is not None:
        _draw(data.x, done, request.output)
    rows = [{"sampler": str(plan.sampler), **one.row()} for one in done]
    if request.json:
        print_json(rows)
        return
    print_lines(
        [
            ("sampler", "steps", "images", "PSNR (higher is better)", "+-"),
            *(
                (row["sampler"], row["num_steps"], row["num"], f"{row['psnr']:.2f} dB", f"{row['standard_error']:.2f}")
                for row in rows
            ),
        ]
    )


def _draw(originals: Tensor, done: list[Reconstruction], output: Path) -> None:
    import torch

    from ebbflow.show import canvas

    columns = min(10, len(originals))
    rows = [originals[:columns], *(one.images[:columns] for one in done)]
    names = ["held-out", *(f"{one.num_steps} steps, {float(one.psnr.mean()):.1f} dB" for one in done)]
    canvas.save_picture(canvas.grid(torch.cat(rows), columns=columns, row_names=names), output, this_command())


def restore(request: RestoreCommand) -> None:
    """Restore an image that was blurred, shrunk, masked or robbed of its colour, with a model trained on whole ones.

    The model is not trained for it: what is known of the image corrects what the model sees at every step.
    """
    from ebbflow.runs.model import restored
    from ebbflow.runs.restore import degrade, distances, measurement_of, read_degraded, restore_plan
    from ebbflow.runs.results import check_output

    check_output(request.output)
    if (request.input is None) == (request.truth is None):
        raise ConfigError("give the degraded image as `input`, or a whole one as `truth`, which is degraded first.")
    model = opened(request)
    plan = restore_plan(model, request)
    truth = None if request.truth is None else _read(model, request.truth)
    if truth is not None:
        y = degrade(plan, truth)
    else:
        assert request.input is not None
        y = read_degraded(request.input, model, plan)
    began = time.perf_counter()
    made = restored(model, plan, y, truth, watched)
    seconds = time.perf_counter() - began
    replace(made, command=this_command()).save(request.output)
    found = {}
    if truth is not None:
        given = measurement_of(plan).operator.shown(y, model.dims).clamp(-1, 1)
        found = {name: round(value, 2) for name, value in distances(made.x, truth, given).items()}
    if request.json:
        print_json({**_said(plan, request.output, seconds), "method": request.method, "num": len(made), **found})
        return
    said = (
        f"; {found['psnr']} dB from the truth, their mean {found['psnr_of_mean']} dB, given {found['psnr_of_given']} dB"
        if found
        else ""
    )
    print(f"{len(made):,} restorations in {seconds:.1f} s{said}: {request.output}")
