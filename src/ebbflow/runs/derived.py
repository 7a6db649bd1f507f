"""Tables that are kept beside a checkpoint: the optimal ancestral variance and the learned time grids."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Interval

from ebbflow.core.condition import rows_of
from ebbflow.documents import read_json, unread
from ebbflow.errors import CheckpointError, ConfigError
from ebbflow.files import write_text
from ebbflow.latent import encoded
from ebbflow.methods.variance import VarianceTable, measure_variance
from ebbflow.runs.folder import Run
from ebbflow.runs.opened import Opened, as_latent_space
from ebbflow.runs.same_data import splits_of_run
from ebbflow.values import Wrong, convert, record

GRIDS = "grids.json"
Time = Annotated[float, Interval(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class LearnedGrid:
    """What is read of a grid that was searched.

    Args:
        steps, sampler, guidance, weights: what it was searched for.
        times: it.
    """

    steps: int
    sampler: str
    guidance: float
    weights: str
    times: tuple[Time, ...]


LEARNED = "learned"
NUM_SAMPLES = 256


def variance_table(model: Opened) -> VarianceTable:
    """The table in the checkpoint's folder, or else measured on 256 held-out samples (with their own conditions) and
    written there; 29 evaluations a sample.

    Raises:
        ConfigError: a model that is no run of ours.
        DataError: the data of the run cannot be read, or is not what it was trained on.
    """
    run = model.require_run("the optimal variance is measured on a run's own data")
    file = run.checkpoint.folder / f"x0_variance_{model.weights}.json"
    if file.is_file():
        return _read_variance(file)
    splits = splits_of_run(run)
    data = splits.held_out if len(splits.held_out) else splits.train
    rows = torch.arange(min(NUM_SAMPLES, len(data)))
    cond = model.conditions_of(data)
    space = as_latent_space(model.space)
    known = data if space is None else encoded(data.select(rows), space)
    table = measure_variance(
        model.denoiser, known.x0(rows).to(model.device), None if cond is None else rows_of(cond, rows)
    )
    with suppress(PermissionError):  # a run of someone else's: it is measured again next time
        write_text(file, json.dumps(asdict(table), indent=2))
    return table


def _read_variance(file: Path) -> VarianceTable:
    try:
        found: VarianceTable = read_json(file, VarianceTable)
    except (Wrong, ValueError) as error:
        raise CheckpointError(
            f"{file} is no table of variances: {unread(error)} Remove it; it is made again."
        ) from error
    return found


def learned_times(model: Opened, *, steps: int, sampler: str, guidance: float) -> tuple[float, ...]:
    """The times of the model's learned grid of so many steps.

    A grid searched for the same sampler and guidance comes first, then one for the nearest guidance.

    Raises:
        ConfigError: none was searched for these weights and this number of steps.
    """
    run = model.require_run("a learned grid is kept with a run's checkpoint")
    found = [one for one in learned_grids(run) if one["weights"] == model.weights]
    fitting = [one for one in found if one["steps"] == steps]
    if not fitting:
        known = ", ".join(map(str, sorted({one["steps"] for one in found})))
        which = "" if model.weights == "ema" else " for the raw weights"
        raise ConfigError(
            f"{run.folder} has no learned grid of {steps} steps{which}{f' (it has {known})' if known else ''}. "
            "Find one first: `ebbflow search-grid`."
        )
    best = min(fitting, key=lambda one: (one["sampler"] != sampler, abs(one["guidance"] - guidance)))
    return tuple(best["times"])


def learned_grids(run: Run) -> list[dict[str, Any]]:
    """The grids that were searched for a checkpoint.

    Raises:
        CheckpointError: its file is damaged.
    """
    file = run.checkpoint.folder / GRIDS
    if not file.is_file():
        return []
    try:
        found = read_json(file)
        for one in convert(tuple[dict[str, Any], ...], found):
            record(LearnedGrid, {f.name: one.get(f.name) for f in fields(LearnedGrid)})
    except Wrong as wrong:
        raise CheckpointError(f"{file} does not hold learned grids: it {wrong} Remove it and search again.") from wrong
    return list(found)


def store_grids(run: Run, found: Sequence[dict[str, Any]]) -> Path:
    """Add to a checkpoint's grids; one for the same steps, sampler, guidance and weights is replaced."""

    def key(one: dict[str, Any]) -> tuple[Any, ...]:
        return one["steps"], one["sampler"], one["guidance"], one["weights"]

    new = {key(one) for one in found}
    file = run.checkpoint.folder / GRIDS
    write_text(file, json.dumps([*(one for one in learned_grids(run) if key(one) not in new), *found], indent=2))
    return file
