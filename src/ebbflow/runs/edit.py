"""Editing with an open model: pictures in, edited samples out, in batches."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from ebbflow.core.condition import rows_of
from ebbflow.core.entries import Choice
from ebbflow.core.noise import Noise
from ebbflow.data import Dataset, to_uint8
from ebbflow.data.npz import read_arrays
from ebbflow.documents import parsed
from ebbflow.errors import ConfigError, DataError
from ebbflow.files import whole_file
from ebbflow.methods.denoise import Denoiser, conditional
from ebbflow.methods.editing import inpaint, interpolate, invert, last, psnr, sdedit, sub_grid, there_and_back
from ebbflow.methods.samplers import Step
from ebbflow.methods.sampling import grid_times, walk_from
from ebbflow.progress import Stage, Work
from ebbflow.requests.base import entries
from ebbflow.requests.sampling import EditRequest
from ebbflow.runs.opened import Opened, require_finite, require_images
from ebbflow.runs.parts import Parts
from ebbflow.runs.pictures import as_mask, read_mask
from ebbflow.runs.plan import Plan, conditions_of, named_any, plan_beside
from ebbflow.runs.sample import Samples, bind, results
from ebbflow.values import Wrong, convert

SDEDIT, INPAINT = 0.6, 1.0  # strengths when nothing is said


@dataclass(frozen=True, kw_only=True)
class Edit:
    """What to make of an image; see `methods.editing`.

    Args:
        strength: in (0, 1], the fraction of the grid that is walked.
        mask: bool (1, 1, H, W), True is to be generated; None edits everything.
        resample, jump: of the inpainting.
    """

    strength: float = SDEDIT
    mask: Tensor | None = None
    resample: int = 1
    jump: int = 1

    def times(self, denoiser: Denoiser, plan: Plan) -> Tensor:
        """The part of the plan's grid that is walked, float64 and falling."""
        return sub_grid(grid_times(denoiser, plan.grid, plan.num_steps), self.strength)

    def num_steps(self, denoiser: Denoiser, plan: Plan) -> int:
        """Steps of one batch."""
        return (len(self.times(denoiser, plan)) - 1) * (self.resample if self.mask is not None else 1)


def edit_of(request: EditRequest, dims: tuple[int, ...], image: Path | None) -> Edit:
    """The edit that a request asks for.

    Args:
        dims: of the model's images.
        image: the file that is edited, of whose size a mask may be; None where it is no file.

    Raises:
        ConfigError: settings of the inpainting without a mask, or a mask that is none.
        DataError: a mask that cannot be read, or of another size.
    """
    if request.resample > 1 and request.mask is None:
        raise ConfigError("`resample` belongs to inpainting: give a `mask`.")
    mask = request.mask
    if mask is not None:
        mask = read_mask(mask, image, dims) if isinstance(mask, Path) else as_mask(mask, dims)
    strength = request.strength or (SDEDIT if mask is None else INPAINT)
    return Edit(strength=strength, mask=mask, resample=request.resample, jump=request.jump)


def edit_plan(model: Opened, request: EditRequest, *, as_one: bool = False) -> Plan:
    """What an edit's request means for a model, checked: by default 8 edits, one of a single condition, 4 of each of
    several; `num` is of all of them.

    Args:
        as_one: all images belong together (an interpolation, states that are decoded) and take one condition.

    Raises:
        ConfigError, ValueError: what the model cannot do.
    """
    require_images(model, "editing")
    rows = conditions_of(model, request) if named_any(request) else ()
    if as_one and len(rows) > 1:
        raise ConfigError("images that belong together take one condition. Give one of `labels` or `prompts`.")
    return plan_beside(model, request, rows, each=8 if as_one or not rows else 1 if len(rows) == 1 else 4)


def edit_image(model: Opened, plan: Plan, x0: Tensor, how: Edit) -> Iterator[Samples]:
    """Every step of every batch of edits of one image, in order; those with `done` are results.

    Args:
        model: in a latent space a mask is a coarse one, and what it keeps has been through the autoencoder:
            `paste_back` puts the image's own pixels back.
        plan: seeds (one an edit), conditions, guidance, sampler and grid.
        x0: the image, float32 (1, *dims).
        how: strength and mask.

    Raises:
        ConfigError, ValueError: a plan that the model or the sampler cannot serve.
    """
    total, state = how.num_steps(model.denoiser, plan), model.encode(x0)
    if how.mask is not None:
        how = replace(how, mask=coarse(how.mask.to(state.device), state))
    for part in plan.batches():
        yield from results(model, part, walk_edit(bind(model, part), part, state, how, Noise(part.seeds)), total)


def walk_edit(bound: Denoiser, plan: Plan, x0: Tensor, how: Edit, noise: Noise) -> Iterator[Step]:
    """The steps of an edit of states `x0`, one or a row of `noise` each; a mask is of the size of the states."""
    walk: dict[str, Any] = {
        "strength": how.strength,
        "sampler": plan.sampler,
        "num_steps": plan.num_steps,
        "grid": plan.grid,
        "options": plan.options,
    }
    if how.mask is None:
        return sdedit(bound, x0, noise, **walk)
    return inpaint(bound, x0, how.mask, noise, resample=how.resample, jump=how.jump, **walk)


def coarse(mask: Tensor, state: Tensor) -> Tensor:
    """A mask of the size of the states: a place is generated where any of its pixels is."""
    return adaptive_max_pool2d(mask.float(), state.shape[2:]) > 0


def paste_back(x: Tensor, x0: Tensor, mask: Tensor | None) -> Tensor:
    """Edits `x` with the pixels of the image `x0` where the mask is False."""
    return x if mask is None else torch.where(mask, x, x0)


# -- inversion ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Inverter:
    """An open model with a plan that asks one thing of all its samples, or nothing: from images to their noises and
    back.

    Args:
        model: the model.
        plan: sampler, grid, guidance and condition.
    """

    model: Opened
    plan: Plan

    @property
    def denoiser(self) -> Denoiser:
        """The model with condition and guidance bound, for any batch size."""
        return bind(self.model, self.plan.rows(slice(0, 1)))

    @property
    def times(self) -> Tensor:
        """The grid of the plan."""
        return grid_times(self.model.denoiser, self.plan.grid, self.plan.num_steps)

    def noise_of(self, x0: Tensor) -> Tensor:
        """The states from which the sampler makes the images `x0` (N, *dims), float32 (N, *state_dims)."""
        steps = invert(self.denoiser, self.model.encode(x0), self.times, sampler=self.plan.sampler)
        return self._finite(last(steps).float(), "the noises").cpu()

    def images_of(self, noise: Tensor) -> Tensor:
        """Samples from given starting states in the place of seeds, float32 (N, *dims)."""
        fresh = Noise([self.plan.seeds[0] + i for i in range(len(noise))])
        state = noise.to(self.model.device)
        steps = walk_from(self.denoiser, state, self.times, fresh, sampler=self.plan.sampler, options=self.plan.options)
        return self.model.decode(self._finite(last(steps), "the images"))

    def between(self, pair: Tensor, num: int) -> Tensor:
        """`num` images from the first of `pair` to the second by way of their noises, float32 (num, *dims)."""
        x = interpolate(self.denoiser, self.model.encode(pair), self.times, num=num, sampler=self.plan.sampler)
        return self.model.decode(self._finite(x, "the images between"))

    def _finite(self, x: Tensor, what: str) -> Tensor:
        require_finite(self.model, x, what)
        return x


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """How well a number of steps brings images back.

    Args:
        num_steps: of inversion, and of sampling again.
        psnr: decibels of each image, float64 (N,).
        x: the reconstructions, float32 (N, *dims) in [-1, 1].
    """

    num_steps: int
    psnr: Tensor
    x: Tensor

    def row(self) -> dict[str, float | int]:
        """Number of steps, mean PSNR and its standard error."""
        num = len(self.psnr)
        error = float(self.psnr.std() / num**0.5) if num > 1 else 0.0
        return {"num_steps": self.num_steps, "num": num, "psnr": float(self.psnr.mean()), "standard_error": error}

    @property
    def images(self) -> Tensor:
        """uint8 (N, C, H, W)."""
        return to_uint8(self.x)


def reconstructions(
    model: Opened, plan: Plan, data: Dataset, steps: Sequence[int], kept: Parts
) -> Work[list[Reconstruction]]:
    """The reconstruction of the images of `data`, each with its own condition where the model takes one, by number of
    steps. In a latent space what the autoencoder loses is lost too. The stages count steps, there and back.

    Args:
        plan: sampler, grid and batch size.
        kept: where finished batches are kept until the end.

    Raises:
        ConfigError, ValueError: a sampler or grid that cannot be walked backwards, fewer than 2 steps.
        FloatingPointError: reconstructions that are not finite.
    """
    x0, cond = data.x0(torch.arange(len(data))), model.conditions_of(data)
    batches, found, done = torch.arange(len(data)).split(plan.batch_size), [], 0
    total = 2 * sum(steps) * len(batches)
    for num_steps in steps:
        times = grid_times(model.denoiser, plan.grid, num_steps)
        parts = []
        for rows in batches:
            name = f"steps-{num_steps}-batch-{int(rows[0]):08d}"
            part = kept.made(name)
            if part is None:
                bound = model.denoiser if cond is None else conditional(model.denoiser).given(rows_of(cond, rows))
                state = model.encode(x0[rows])
                for i, step in enumerate(there_and_back(bound, state, times, sampler=plan.sampler), start=1):
                    yield Stage("reconstruct", done + min(i, 2 * num_steps), total, f"{num_steps} steps")
                    state = step.x
                require_finite(model, state, "the reconstructions")
                part = {"x": model.decode(state)}
                kept.keep(name, part)
            parts.append(part["x"])
            done += 2 * num_steps
        x = torch.cat(parts).clamp(-1, 1)
        found.append(Reconstruction(num_steps=num_steps, psnr=psnr(x, x0), x=x))
    kept.end()
    return found


# -- files of noise ----------------------------------------------------------------------------------------------------


NOISE_KEYS = {"sampler": "sampler", "grid": "grid", "num_steps": "steps", "guidance": "guidance"}  # in a file: asked


def write_noise(path: Path, noise: Tensor, plan: Plan) -> None:
    """Write the states at the start of a plan's grid, and how they were found, as an .npz file."""
    known = {key: getattr(plan, key) for key in NOISE_KEYS} | {
        "sampler": str(plan.sampler),
        "grid": json.dumps(plan.named_grid),
    }
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, noise=noise.numpy(), **{key: np.array(one) for key, one in known.items()})  # type: ignore[arg-type]


def read_noise(path: Path, model: Opened) -> tuple[Tensor, dict[str, Any]]:
    """What `write_noise` wrote: the states, float32 (N, *dims), and the sampler, grid, steps and guidance of a request
    with which sampling gives the images back.

    Raises:
        DataError: missing, not such a file, or made for another shape.
    """
    try:
        arrays = read_arrays(path, ("noise", *NOISE_KEYS))
        noise = torch.from_numpy(arrays["noise"]).float()
        settings = {name: arrays[key].item() for key, name in NOISE_KEYS.items()}  # type: ignore[union-attr]
        with suppress(Wrong):  # older files hold a bare name
            settings["grid"] = convert(Choice | None, parsed(settings["grid"]))  # type: ignore[arg-type]
        settings |= {
            name: entries(EditRequest)[name].value(settings[name]) for name in ("sampler", "steps", "guidance")
        }
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist.") from error
    except (KeyError, AttributeError, TypeError, ValueError, Wrong) as error:
        raise DataError(f"{path} is not a file that `ebbflow invert` writes: {error}") from error
    if not (len(noise) and bool(noise.isfinite().all())):
        said = "holds noise that is not finite" if len(noise) else "holds no noise"
        raise DataError(f"{path} {said}. Invert the image again.")
    if tuple(noise.shape[1:]) != model.facts.state_dims:
        got, want = ("x".join(map(str, dims)) for dims in (noise.shape[1:], model.facts.state_dims))
        raise DataError(f"{path} holds noise of shape {got}; this model wants {want}.")
    return noise, settings
