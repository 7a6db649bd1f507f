"""Results: finished samples that show themselves, and their way into files."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ebbflow.core.condition import Condition, GivenImage
from ebbflow.data import to_uint8
from ebbflow.errors import ConfigError, DataError
from ebbflow.runs.opened import Opened, held_out_of
from ebbflow.runs.plan import Plan
from ebbflow.runs.sample import Samples, start_of
from ebbflow.show import canvas
from ebbflow.show.canvas import npz_file
from ebbflow.show.plots import scatter

if TYPE_CHECKING:
    from PIL import Image

WIDEST = 32  # samples in a row of a grid
NAME_LENGTH = 40  # characters of a row's name in a grid
MOST_COLOURS = 8  # conditions that points are coloured by
BEHIND = 2000  # points of the data that a picture of points shows
CHUNK = 1024  # samples that are turned into bytes at once


@dataclass(frozen=True, kw_only=True, repr=False)
class SampleSet:
    """Finished samples; shows itself as a picture in a notebook.

    Args:
        x: float32 (N, *dims); images in [-1, 1] up to the model's error.
        images: uint8 (N, C, H, W), or None for points.
        seeds: one a sample.
        conditions: what each sample was to be, or None.
        label_names: names of the classes.
        before, after: uint8 images (1, C, H, W) by their names, which a picture shows beside every row.
        behind: points of the data, which a picture shows below these; None for images, and where the data is away.
        command: what remakes it, for the files.
    """

    x: Tensor
    images: Tensor | None
    seeds: tuple[int, ...]
    conditions: tuple[Condition, ...] | None = None
    label_names: tuple[str, ...] = ()
    before: Mapping[str, Tensor] = field(default_factory=dict)
    after: Mapping[str, Tensor] = field(default_factory=dict)
    behind: Tensor | None = None
    command: str = ""

    def __len__(self) -> int:
        return len(self.x)

    @property
    def labels(self) -> tuple[int, ...] | None:
        """The class of each sample; None where they are not all classes."""
        found = tuple(one for one in self.conditions or () if isinstance(one, int))
        return found if found and len(found) == len(self) else None

    def grid(self) -> Image.Image:
        """A picture of all: rows are what was asked for; points as a scatter."""
        shown = self.x if self.images is None else self.images
        return picture(
            shown, self.conditions, self.label_names, before=self.before, after=self.after, behind=self.behind
        )

    def save(self, path: str | Path) -> Path:
        """Write a grid (.png .jpg .webp), all samples (.npz: uint8 NHWC `arr_0`, labels `arr_1`), or a folder of single
        pictures; returns its path.

        Raises:
            ConfigError: a suffix that is none of these, or points into a folder.
        """
        path = Path(path)
        check_output(path)
        if not path.suffix:
            if self.images is None:
                raise ConfigError(f"{path}: points go into a picture or an .npz file, not into a folder of pictures.")
            save_singles(self.images, self.seeds, path, self.command)
        elif path.suffix.lower() == ".npz":
            shown = self.x if self.images is None else self.images
            with npz_file(path, len(self), tuple(shown.shape[1:]), as_tensor(self.labels)) as add:
                add(shown)
        else:
            canvas.save_picture(self.grid(), path, self.command)
        return path

    def __repr__(self) -> str:
        return f"SampleSet({len(self)} x {tuple(self.x.shape[1:])})"

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.grid().save(file, format="PNG")
        return file.getvalue()


def collect(model: Opened, plan: Plan, steps: Iterable[Samples], *, command: str = "") -> SampleSet:
    """The results among the steps of a plan, all in memory.

    Raises:
        ConfigError: a plan of no samples.
    """
    x, made = torch.empty(len(plan.seeds), *model.dims), 0
    for one in steps:
        if one.done:
            x[made : made + len(one.x)] = one.x
            made += len(one.x)
    if not made:
        raise ConfigError("no samples were asked for. Give at least one seed.")
    return made_of(model, plan, x, behind=data_behind(model), command=command)


def made_of(
    model: Opened,
    plan: Plan,
    x: Tensor,
    *,
    before: Mapping[str, Tensor] | None = None,
    after: Mapping[str, Tensor] | None = None,
    behind: Tensor | None = None,
    command: str = "",
) -> SampleSet:
    """The results of a plan, `x`, between images that came before and after them, float32 (1, *dims) by their names."""
    return SampleSet(
        x=x,
        images=torch.cat([to_uint8(part) for part in x.split(CHUNK)]) if model.facts.is_image else None,
        seeds=plan.seeds,
        conditions=plan.conditions,
        label_names=names_of(model, plan),
        before={name: to_uint8(image) for name, image in (before or {}).items()},
        after={name: to_uint8(image) for name, image in (after or {}).items()},
        behind=behind,
        command=command,
    )


def data_behind(model: Opened) -> Tensor | None:
    """Held-out points of the data of a run of points, float32 (N, D); None for images, and where they cannot be had."""
    if model.facts.is_image or model.run is None:
        return None
    try:
        return held_out_of(model, None, BEHIND).x
    except (ConfigError, DataError):
        return None


def write(
    model: Opened,
    plan: Plan,
    steps: Iterable[Samples],
    output: Path,
    *,
    trajectory: Path | None = None,
    command: str = "",
) -> list[str]:
    """Walk the steps of a plan and write what comes out; returns the paths. An .npz file and the pictures of a folder
    are written as they come, in the memory of one batch; a grid keeps the bytes of its images.

    Args:
        output: as in `SampleSet.save`; `check_output` says whether it can be written, before anything is sampled.
        trajectory: an animation (.webp .gif) of the first batch's way from noise.
        command: what remakes it, for the metadata.

    Raises:
        ConfigError: a suffix that cannot be written, or points into a folder.
    """
    way = [] if trajectory is None else [start_of(model, plan)]
    with sink(model, plan, output, command) as put:
        for batch in steps:
            if way and batch.plan.seeds[0] == plan.seeds[0]:
                way.append(batch)
            if batch.done:
                put(batch)
    if trajectory is not None:
        names, behind = names_of(model, plan), data_behind(model)
        frames = [picture(one.shown, one.plan.conditions, names, behind=behind) for one in way]
        canvas.save_animation(frames, trajectory)
    return [str(output), *([str(trajectory)] if trajectory else [])]


@contextmanager
def sink(model: Opened, plan: Plan, output: Path, command: str) -> Iterator[Callable[[Samples], None]]:
    """Where the finished batches of a plan go, in their order; a file is there when all went well."""
    if output.suffix.lower() == ".npz":
        with npz_file(output, len(plan.seeds), model.dims, as_tensor(plan.labels)) as add:
            yield lambda batch: add(batch.shown)
    elif output.suffix:
        kept: list[Tensor] = []
        yield lambda batch: kept.append(batch.shown)
        sheet = picture(torch.cat(kept), plan.conditions, names_of(model, plan), behind=data_behind(model))
        canvas.save_picture(sheet, output, command)
    elif model.facts.is_image:
        yield lambda batch: save_singles(batch.images, batch.plan.seeds, output, command)
    else:
        raise ConfigError("samples of this model are points: give a .png or .npz output in the place of a folder.")


def as_tensor(labels: Sequence[int] | None) -> Tensor | None:
    """Labels as int64 (N,)."""
    return None if labels is None else torch.tensor(labels)


def names_of(model: Opened, plan: Plan) -> tuple[str, ...]:
    """Names of the classes that the model, or what guides it, knows."""
    return model.label_names or plan.guides.label_names


def check_output(output: Path, trajectory: Path | None = None) -> None:
    """Raise a ConfigError unless samples can be written to `output`, and an animation to `trajectory`."""
    if output.suffix:
        canvas.check_suffix(output, (*canvas.PICTURE_SUFFIXES, ".npz"))
    elif output.is_file():
        raise ConfigError(f"{output} is a file. Give a folder, or a file ending in .png, .jpg, .webp or .npz.")
    if trajectory is not None:
        canvas.check_suffix(trajectory, canvas.ANIMATION_SUFFIXES)


def save_singles(images: Tensor, seeds: Sequence[int], folder: Path, command: str) -> None:
    """Pictures of a folder, each named by its seed."""
    for seed, image in zip(seeds, images, strict=True):
        canvas.save_picture(canvas.to_picture(image), folder / f"seed_{seed:06d}.png", command)


def picture(
    samples: Tensor,
    conditions: Sequence[Condition] | None = None,
    label_names: Sequence[str] = (),
    *,
    before: Mapping[str, Tensor] | None = None,
    after: Mapping[str, Tensor] | None = None,
    behind: Tensor | None = None,
) -> Image.Image:
    """Images uint8 (N, C, H, W) as a grid whose rows are what was asked for, each between those that came before and
    after it; points (N, D) as a scatter, over points of the data where there are some."""
    rows = list(dict.fromkeys(conditions or ()))
    if samples.ndim == 2:
        return points_of(samples, conditions, label_names, behind)
    each, names = len(samples) // max(1, len(rows)), [row_name(row, label_names) for row in rows]
    if rows and isinstance(rows[0], GivenImage) and not before:
        before = {"given": torch.cat([shown_given(one, samples) for one in rows if isinstance(one, GivenImage)])}
    if before or after:
        first, last = [*(before or {}).values()], [*(after or {}).values()]
        parts = [
            one
            for i, row in enumerate(samples.split(each))
            for one in (*(k[i : i + 1] if len(k) > 1 else k for k in first), row, *last)
        ]
        columns = [*(before or {}), *[""] * each, *(after or {})]
        return canvas.grid(torch.cat(parts), columns=len(columns), row_names=names, column_names=columns)
    if rows and len(samples) % len(rows) == 0 and each <= WIDEST:
        return canvas.grid(samples, columns=each, row_names=names)
    return canvas.grid(samples, columns=max(1, min(len(samples), round(len(samples) ** 0.5))))


def points_of(
    samples: Tensor, conditions: Sequence[Condition] | None, label_names: Sequence[str], behind: Tensor | None
) -> Image.Image:
    """Points (N, D), the first two coordinates, coloured by what they were to be where that is one of a few."""
    kinds = list(dict.fromkeys(conditions or ()))
    few = conditions is not None and 1 < len(kinds) <= MOST_COLOURS
    return scatter(
        samples,
        [kinds.index(one) for one in conditions or ()] if few else None,
        [row_name(kind, label_names) for kind in kinds],
        behind,
        title=f"{len(samples):,} samples",
    )


def shown_given(condition: GivenImage, samples: Tensor) -> Tensor:
    """A picture to go by as it is shown beside samples uint8 (N, C, H, W): uint8 (1, C, H, W)."""
    image = to_uint8(condition.x.clamp(-1, 1))[None]
    grown = torch.nn.functional.interpolate(image, size=samples.shape[2:])
    return grown if grown.shape[1] == samples.shape[1] else grown[:, :1].expand(-1, samples.shape[1], -1, -1)


def row_name(condition: Condition, label_names: Sequence[str]) -> str:
    """What a row of a grid is called: the class, the prompt, or the parts of the vector."""
    if isinstance(condition, int):
        return label_names[condition] if condition < len(label_names) else str(condition)
    if isinstance(condition, str | GivenImage):
        name = condition if isinstance(condition, str) else condition.name
    elif len(condition) == len(label_names):
        parts = zip(condition, label_names, strict=True)
        name = " + ".join(f"{value:g} x {label}" for value, label in parts if value)
    else:
        name = ", ".join(f"{value:g}" for value in condition)
    return name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 3] + "..."
