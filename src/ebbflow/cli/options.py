"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ebbflow.cli.common import class_indices, read_options

if TYPE_CHECKING:
    from ebbflow.runs import Request, Run

Ckpt = Annotated[Path, typer.Option(help="The folder of a run or of one of its checkpoints.")]
Label = Annotated[str | None, typer.Option(help="One class, by index or name. Default: no condition.")]
Guidance = Annotated[float | None, typer.Option(help="w of u + w (c - u): 1 is conditional, 0 unconditional.")]
SamplerName = Annotated[str | None, typer.Option("--sampler", help="See `ebbflow list samplers`. Default: the run's.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Number of steps. Default: the run's.")]
Grid = Annotated[str | None, typer.Option(help="Where the steps lie; see `ebbflow list grids`. Default: the run's.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Option of the sampler, such as eta=0.5; may be repeated.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the first sample; the next ones count up.")]
WeightsName = Annotated[str, typer.Option("--weights", help="ema (averaged) or raw.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Samples a network evaluation.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")]


def request_for(
    run: Run,
    *,
    seeds: Sequence[int],
    labels: Sequence[int] | None,
    sampler: str | None = None,
    settings: Sequence[str] | None = None,
    **changes: Any,
) -> Request:
    """The run's own way of sampling with what was given changed; another sampler drops the run's options."""
    from ebbflow.runs.generate import default_request

    given = {key: value for key, value in changes.items() if value is not None}
    if sampler is not None:
        given |= {"sampler": sampler, "options": {}}
    if settings is not None:
        given["options"] = read_options(settings)
    request = default_request(run, seeds=tuple(seeds), labels=None if labels is None else tuple(labels))
    return replace(request, **given)


def dealt(run: Run, labels: Sequence[str], num: int) -> list[int] | None:
    """`num` class indices in equal blocks, one for each of `labels`; None without labels."""
    classes = class_indices(run, labels) if labels else []
    return [classes[i * len(classes) // num] for i in range(num)] if classes else None
