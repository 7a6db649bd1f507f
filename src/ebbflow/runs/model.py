"""The one handle on a trained model: sample it, edit with it, encode and decode, in notebooks and on the command
line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ebbflow.errors import ConfigError
from ebbflow.methods.denoise import NetDenoiser
from ebbflow.requests.base import takes
from ebbflow.requests.sampling import EditRequest, RestoreRequest, SampleRequest
from ebbflow.runs.edit import Edit, Inverter, edit_image, edit_of, edit_plan, paste_back
from ebbflow.runs.opened import Opened
from ebbflow.runs.pictures import as_image, read_picture
from ebbflow.runs.plan import Plan, plan_of
from ebbflow.runs.restore import measured_of, restore_plan
from ebbflow.runs.results import SampleSet, collect, made_of
from ebbflow.runs.sample import Samples, generate
from ebbflow.training.batches import as_floats

ImageLike = str | Path | Tensor | Image.Image | NDArray[Any]
Watch = Callable[[Iterator[Samples], int], Iterator[Samples]]


@dataclass(frozen=True, kw_only=True, repr=False)
class Model(Opened):
    """An open model: `ef.open(path)` makes one of a run, `ef.load_diffusers(name)` one of somebody else's pipeline."""

    @takes(SampleRequest)
    def sample(self, request: SampleRequest) -> SampleSet:
        """Samples, sample i from its seed alone.

        Raises:
            ConfigError, ValueError: what the model cannot do.
        """
        return sample_model(self, request)

    @takes(SampleRequest)
    def batches(self, request: SampleRequest) -> Iterator[SampleSet]:
        """The samples of `sample` batch by batch, so that any number of them takes the memory of one batch."""
        plan = plan_of(self, request)
        return (made_of(self, one.plan, one.x) for one in generate(self, plan) if one.done)

    @takes(SampleRequest)
    def steps(self, request: SampleRequest) -> Iterator[Samples]:
        """Every step of every batch of `sample`, to be watched, shown or stopped; those with `done` are results."""
        return generate(self, plan_of(self, request))

    @takes(EditRequest)
    def edit(self, image: ImageLike, request: EditRequest) -> SampleSet:
        """Edits of an image: variations (SDEdit), or a part filled in where the mask is white.

        Args:
            image: a picture file, a tensor (C, H, W) or (1, C, H, W) in [-1, 1] or of bytes, a picture of Pillow, or an
                array of bytes (H, W, C).

        Raises:
            ConfigError, ValueError: what the model cannot do.
            DataError: a picture that cannot be read.
        """
        return edit_with(self, image, request)

    @takes(EditRequest)
    def interpolate(self, first: ImageLike, second: ImageLike, request: EditRequest) -> SampleSet:
        """Images from the first to the second by way of their noises; `num` of them, ends included."""
        plan = edit_plan(self, request, as_one=True)
        return between(self, plan, self.image(first), self.image(second))

    @takes(RestoreRequest)
    def restore(self, degraded: Tensor, request: RestoreRequest) -> SampleSet:
        """Images of which `degraded` may have been made, without training for it.

        Args:
            degraded: what the operator made, float32 (1, *dims) or (*dims) in [-1, 1], of the dims that it makes.

        Raises:
            ConfigError, ValueError: what the model cannot do, or a measurement of another shape.
        """
        return restored(self, restore_plan(self, request), degraded)

    def image(self, image: ImageLike) -> Tensor:
        """A picture file, a tensor in [-1, 1] or of bytes, a picture of Pillow or an array, as float32 (1, *dims).

        Raises:
            ConfigError: a tensor of another shape, or neither.
            ValueError: whole numbers that are no bytes.
            DataError: a picture that cannot be read.
        """
        if isinstance(image, str | Path):
            return read_picture(Path(image), self.dims)[0]
        image = as_image(image, self.dims[0])
        if not isinstance(image, Tensor):
            raise ConfigError(
                f"an image is a picture file, a picture, an array or a tensor, got {type(image).__name__}."
            )
        x = image if image.ndim == len(self.dims) + 1 else image[None]
        if tuple(x.shape) != (1, *self.dims):
            raise ConfigError(f"one image of shape {self.dims} in [-1, 1] is wanted, got {tuple(image.shape)}.")
        x = as_floats(x, torch.float32)
        if not bool(x.isfinite().all()):
            raise ConfigError("the image holds numbers that are not finite.")
        return x

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same model elsewhere or in another precision; the weights are moved, not copied.

        Raises:
            ConfigError: a model without a net of its own.
        """
        if not isinstance(self.denoiser, NetDenoiser) or not isinstance(self.denoiser.net, torch.nn.Module):
            raise ConfigError("only a model with a net of its own can be moved.")
        place = self.device if device is None else torch.device(device)
        self.denoiser.net.to(device=place, dtype=dtype)
        space = self.space.to(place) if isinstance(self.space, torch.nn.Module) else self.space
        return replace(self, device=place, space=space)

    def _repr_png_(self) -> bytes | None:
        """The newest grid that its training drew, if there is one; nothing is sampled for it."""
        drawn = [] if self.run is None else sorted((self.run.folder / "samples").glob("step_*.png"), key=len_then_name)
        return drawn[-1].read_bytes() if drawn else None


def sample_model(model: Opened, request: SampleRequest) -> SampleSet:
    """The samples that a request asks for."""
    plan = plan_of(model, request)
    return collect(model, plan, generate(model, plan))


def edit_with(model: Model, image: ImageLike, request: EditRequest) -> SampleSet:
    """The edits that a request asks for; see `Model.edit`."""
    plan, file = edit_plan(model, request), Path(image) if isinstance(image, str | Path) else None
    return edited(model, plan, model.image(image), edit_of(request, model.dims, file))


def edited(model: Opened, plan: Plan, x0: Tensor, how: Edit, watch: Watch = lambda steps, total: steps) -> SampleSet:
    """The edits of the image `x0` (1, *dims) that a plan makes, with the image in front.

    Args:
        watch: is given the steps and how many there will be, and gives them back.
    """
    steps = watch(edit_image(model, plan, x0, how), plan.num_batches * how.num_steps(model.denoiser, plan))
    kept = {} if how.mask is None else {"kept": torch.where(how.mask, torch.zeros(()), x0)}
    x = paste_back(collect(model, plan, steps).x, x0, how.mask)
    return made_of(model, plan, x, before={"input": x0, **kept})


def restored(
    model: Opened,
    plan: Plan,
    degraded: Tensor,
    truth: Tensor | None = None,
    watch: Watch = lambda steps, total: steps,
) -> SampleSet:
    """The restorations of a plan that `restore_plan` made, between what was given and the truth, where it is known."""
    plan, given = measured_of(model, plan, degraded)
    steps = watch(generate(model, plan), plan.num_batches * plan.num_steps)
    after = {} if truth is None else {"truth": truth}
    return made_of(model, plan, collect(model, plan, steps).x, before={"given": given}, after=after)


def between(model: Opened, plan: Plan, first: Tensor, second: Tensor) -> SampleSet:
    """Images from the first to the second, each (1, *dims), by way of their noises; one a seed of the plan."""
    x = Inverter(model=model, plan=plan).between(torch.cat([first, second]), len(plan.seeds))
    return made_of(model, plan, x, before={"first": first}, after={"second": second})


def len_then_name(path: Path) -> tuple[int, str]:
    """Sorts names that end in numbers by the number."""
    return len(path.name), path.name
