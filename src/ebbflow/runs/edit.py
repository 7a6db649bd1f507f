"""Editing with a run: pictures in, edited samples out, in batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from ebbflow.conditioning import DataFacts
from ebbflow.core.noise import Noise
from ebbflow.data import Dataset
from ebbflow.data.folder import read_picture
from ebbflow.errors import ConfigError, DataError
from ebbflow.files import whole_file
from ebbflow.latent import LatentSpace
from ebbflow.methods.denoise import Denoiser, NetDenoiser
from ebbflow.methods.editing import inpaint, interpolate, invert, last, psnr, reconstruct, sdedit, sub_grid
from ebbflow.methods.samplers import Step
from ebbflow.methods.sampling import grid_times, walk_from
from ebbflow.runs.build import conditioner_of
from ebbflow.runs.generate import Request, Samples, bind
from ebbflow.runs.latent_files import decoded

MASK_LEVEL = 128  # grey from which a pixel of a mask counts as white


@dataclass(frozen=True, kw_only=True)
class Edit:
    """What to make of an image; see `methods.editing`.

    Args:
        strength: in (0, 1], the fraction of the grid that is walked.
        mask: bool (1, 1, H, W), True is to be generated; None edits everything.
        resample, jump: of the inpainting.
    """

    strength: float = 0.6
    mask: Tensor | None = None
    resample: int = 1
    jump: int = 1

    def num_steps(self, denoiser: Denoiser, request: Request) -> int:
        """Steps of one batch."""
        times = sub_grid(grid_times(denoiser, request.grid, request.num_steps), self.strength)
        return (len(times) - 1) * (self.resample if self.mask is not None else 1)


def edit(
    denoiser: Denoiser,
    request: Request,
    x0: Tensor,
    how: Edit,
    device: torch.device | str = "cpu",
    *,
    space: LatentSpace | None = None,
) -> Iterator[Samples]:
    """Every step of every batch of edits of one image, in order; those with `done` are results.

    Args:
        denoiser: the model.
        request: seeds (one an edit), labels or prompts, guidance, sampler and grid.
        x0: the image, float32 (1, *dims).
        how: strength and mask.
        space: the run's latent space, `Run.space()`. There a mask is a coarse one, and what it keeps has been through
            the autoencoder: `keep` puts the image's own pixels back.

    Raises:
        ConfigError, ValueError: a request that the model or the sampler cannot serve.
    """

    total, state = how.num_steps(denoiser, request), entered(space, x0.to(device))
    if how.mask is not None:
        how = replace(how, mask=_coarse(how.mask.to(device), state))
    for first in range(0, len(request.seeds), request.batch_size):
        rows = slice(first, first + request.batch_size)
        seeds, labels = request.seeds[rows], None if request.labels is None else request.labels[rows]
        asked = None if request.asked is None else request.asked[rows]
        bound = bind(denoiser, request, asked)
        for i, step in enumerate(_steps(bound, request, state, how, Noise(seeds)), start=1):
            yield Samples(
                state=step.x.float().cpu(),
                state_x0=step.estimate.x0.float().cpu(),
                seeds=seeds,
                labels=labels,
                step=i,
                done=i == total,
                asked=asked,
                space=space,
            )


def _steps(bound: Denoiser, request: Request, x0: Tensor, how: Edit, noise: Noise) -> Iterator[Step]:
    if how.mask is None:
        return sdedit(
            bound,
            x0,
            noise,
            strength=how.strength,
            sampler=request.sampler,
            num_steps=request.num_steps,
            grid=request.grid,
            options=request.options,
        )
    return inpaint(
        bound,
        x0,
        how.mask,
        noise,
        strength=how.strength,
        resample=how.resample,
        jump=how.jump,
        sampler=request.sampler,
        num_steps=request.num_steps,
        grid=request.grid,
        options=request.options,
    )


def entered(space: LatentSpace | None, x0: Tensor) -> Tensor:
    """Images as the model has them: the inverse of `runs.latent_files.decoded`."""
    if space is None:
        return x0
    with torch.no_grad():
        return space.encode(x0)


def _coarse(mask: Tensor, state: Tensor) -> Tensor:
    """A mask of the size of the states: a place is generated where any of its pixels is."""
    return adaptive_max_pool2d(mask.float(), state.shape[2:]) > 0


def keep(x: Tensor, x0: Tensor, mask: Tensor | None) -> Tensor:
    """Edits `x` with the pixels of the image `x0` where the mask is False."""
    return x if mask is None else torch.where(mask, x, x0)


# -- inversion ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Inverter:
    """A run's model with everything that inversion needs: condition and guidance bound, grid, device, latent space.

    Args:
        denoiser: of any batch size: its condition is a single row.
        request: sampler and grid.
        device: where it runs.
        space: the run's latent space, or None.
    """

    denoiser: Denoiser
    request: Request
    device: torch.device | str = "cpu"
    space: LatentSpace | None = None

    @classmethod
    def of(
        cls, denoiser: Denoiser, request: Request, device: torch.device | str = "cpu", space: LatentSpace | None = None
    ) -> Inverter:
        """For a request that asks one thing of all its samples, or nothing."""
        asked = None if request.asked is None else request.asked[:1]
        return cls(denoiser=bind(denoiser, request, asked), request=request, device=device, space=space)

    @property
    def times(self) -> Tensor:
        """The grid of the request."""
        return grid_times(self.denoiser, self.request.grid, self.request.num_steps)

    def noise_of(self, x0: Tensor) -> Tensor:
        """The states from which the sampler makes the images `x0` (N, *dims), float32 (N, *state_dims)."""
        state = entered(self.space, x0.to(self.device))
        return last(invert(self.denoiser, state, self.times, sampler=self.request.sampler)).float().cpu()

    def images_of(self, noise: Tensor) -> Tensor:
        """Samples from given starting states instead of seeds, float32 (N, *dims)."""
        fresh = Noise([self.request.seeds[0] + i for i in range(len(noise))])
        request = self.request
        steps = walk_from(
            self.denoiser,
            noise.to(self.device),
            self.times,
            fresh,
            sampler=request.sampler,
            options=request.options,
        )
        return decoded(self.space, last(steps)).float().cpu()

    def between(self, pair: Tensor, num: int) -> Tensor:
        """`num` images from the first of `pair` to the second by way of their noises, float32 (num, *dims)."""
        state = entered(self.space, pair.to(self.device))
        x = interpolate(self.denoiser, state, self.times, num=num, sampler=self.request.sampler)
        return decoded(self.space, x).float().cpu()


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


def reconstructions(
    denoiser: NetDenoiser,
    request: Request,
    data: Dataset,
    steps: list[int],
    device: torch.device | str = "cpu",
    *,
    space: LatentSpace | None = None,
) -> Iterator[Reconstruction]:
    """The reconstruction of the images of `data`, each with its own condition where the model takes one, by number of
    steps. In a latent space what the autoencoder loses is lost too.

    Raises:
        ConfigError, ValueError: a sampler or grid that cannot be walked backwards, fewer than 2 steps.
    """
    x0, conditioner = data.x0(torch.arange(len(data))), conditioner_of(denoiser)
    cond = None if conditioner is None else conditioner.conditions(data)
    for num_steps in steps:
        times = grid_times(denoiser, request.grid, num_steps)
        parts = []
        for rows in torch.arange(len(data)).split(request.batch_size):
            bound = denoiser if cond is None else denoiser.given(cond[rows])
            state = entered(space, x0[rows].to(device))
            again = reconstruct(bound, state, times, sampler=request.sampler)
            parts.append(decoded(space, again).float().cpu())
        x = torch.cat(parts).clamp(-1, 1)
        yield Reconstruction(num_steps=num_steps, psnr=psnr(x, x0), x=x)


# -- files -------------------------------------------------------------------------------------------------------------


def require_images(facts: DataFacts, what: str) -> None:
    """Refuse a run of points with a ConfigError."""
    if not facts.is_image:
        raise ConfigError(f"this run is of {facts.dims[0]}-D points: {what} wants a run of images.")


def read_image(path: Path, facts: DataFacts) -> tuple[Tensor, str]:
    """A picture as the run sees images, float32 (1, *dims) in [-1, 1], and what was done to it in words, or "".

    Raises:
        ConfigError: a run of points.
        DataError: a file that is missing or cannot be read, a run whose images are not square.
    """
    require_images(facts, "editing")
    channels, height, width = facts.dims
    if height != width:
        raise DataError(f"only square images can be read from a picture; this run's are {height} x {width}.")
    picture = read_picture(path, size=height, channels=channels)
    pixels = torch.from_numpy(picture.pixels)[None]
    x = Dataset(name=path.name, x=pixels, labels=None, label_names=()).x0(torch.tensor([0]))
    if picture.file_size == (width, height):
        return x, ""
    was = "x".join(map(str, picture.file_size))
    cut = "" if picture.file_size[0] == picture.file_size[1] else "cut to its centre square and "
    return x, f"{path}: {was} pixels, {cut}resized to {width}x{height}"


def read_mask(path: Path, image: Path, facts: DataFacts) -> Tensor:
    """A black and white picture of the size of `image` as bool (1, 1, H, W), True where it is white.

    Raises:
        DataError: missing, unreadable, of another size than the image, or without any white.
    """
    mask = read_picture(path, size=facts.dims[1], channels=1)
    wanted = read_picture(image, channels=facts.dims[0]).file_size
    if mask.file_size not in (wanted, (facts.dims[2], facts.dims[1])):
        got, want = ("x".join(map(str, size)) for size in (mask.file_size, wanted))
        raise DataError(f"the mask {path} has {got} pixels, the image {want}. Make them the same size.")
    generated = torch.from_numpy(mask.pixels)[None] >= MASK_LEVEL
    if not generated.any():
        raise DataError(f"the mask {path} has no white pixel, so there is nothing to generate.")
    return generated


NOISE_KEYS = ("sampler", "grid", "num_steps", "guidance")


def write_noise(path: Path, noise: Tensor, request: Request) -> None:
    """Write the states at the start of a request's grid, and how they were found, as an .npz file."""
    with whole_file(path) as partial, partial.open("wb") as file:
        settings = {key: np.array(getattr(request, key)) for key in NOISE_KEYS}
        np.savez_compressed(file, noise=noise.numpy(), **settings)  # type: ignore[arg-type]


def read_noise(path: Path, facts: DataFacts) -> tuple[Tensor, dict[str, Any]]:
    """What `write_noise` wrote: the states, float32 (N, *dims), and the request's sampler, grid, number of steps and
    guidance, with which sampling gives the images back.

    Raises:
        DataError: missing, not such a file, or made for another shape.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            noise, settings = torch.from_numpy(file["noise"]).float(), {key: file[key].item() for key in NOISE_KEYS}
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist.") from error
    except Exception as error:  # zip, header and key errors of many types
        raise DataError(f"{path} is not a file that `ebbflow invert` writes: {error}") from error
    if tuple(noise.shape[1:]) != facts.state_dims:
        got, want = ("x".join(map(str, dims)) for dims in (noise.shape[1:], facts.state_dims))
        raise DataError(f"{path} holds noise of shape {got}; this run wants {want}.")
    return noise, settings
