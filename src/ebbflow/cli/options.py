"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ebbflow.cli.common import class_indices, read_options
from ebbflow.errors import ConfigError

if TYPE_CHECKING:
    from ebbflow.core.condition import Condition
    from ebbflow.runs import Request, Run

Ckpt = Annotated[Path, typer.Option(help="The folder of a run or of one of its checkpoints.")]
Label = Annotated[str | None, typer.Option(help="One class, by index or name. Default: no condition.")]
Prompt = Annotated[
    list[str] | None,
    typer.Option(help="A text, for runs trained on text; repeat it where --labels fits."),
]
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
    asked: Sequence[Condition],
    sampler: str | None = None,
    settings: Sequence[str] | None = None,
    **changes: Any,
) -> Request:
    """The run's own way of sampling with what was given changed; another sampler drops the run's options.

    Args:
        run: the run.
        seeds: one a sample.
        asked: classes or prompts, dealt to the seeds in equal blocks; none for no condition.
        sampler, settings, changes: fields of the request; None keeps the run's.
    """
    from ebbflow.runs.generate import deal, default_request

    given = {key: value for key, value in changes.items() if value is not None}
    if sampler is not None:
        given |= {"sampler": sampler, "options": {}}
    if settings is not None:
        given["options"] = read_options(settings)
    dealt = deal(asked, len(seeds)) if asked else ()
    labels = tuple(one for one in dealt if isinstance(one, int)) or None
    request = default_request(run, seeds=tuple(seeds), labels=labels, wanted=None if labels else dealt or None)
    return replace(request, **given)


def asked_of(
    run: Run, *, label: str | None = None, labels: Sequence[str] | None = None, prompts: Sequence[str] | None = None
) -> list[Condition]:
    """What was asked for by at most one of --label, --labels and --prompt; nothing for no condition.

    Raises:
        ConfigError: more than one, or something that an unconditional run cannot take.
    """
    flags = [f for f, v in {"--label": label, "--labels": labels, "--prompt": prompts}.items() if v is not None]
    if len(flags) > 1:
        raise ConfigError(f"{' and '.join(flags)} all choose what to make. Give one.")
    if flags and not run.config.conditioning.examples(run.facts):
        raise ConfigError(f"this run is unconditional. Leave {flags[0]} out.")
    if label is not None or labels is not None:
        return [*class_indices(run, [label] if label is not None else labels or [])]
    return [*(prompts or ())]
