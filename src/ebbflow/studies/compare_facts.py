"""What a comparison says of its runs: their names, facts and configurations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from ebbflow.config import to_dict
from ebbflow.errors import ConfigError
from ebbflow.runs.build import drop_of
from ebbflow.runs.store import Run
from ebbflow.studies.evaluate import Loaded, by_label


def is_guidable(run: Run) -> bool:
    """Whether a run takes labels and has seen samples without one."""
    return by_label(run) and drop_of(run.config) > 0


def facts_of_runs(loaded: Sequence[Loaded]) -> dict[str, dict[str, Any]]:
    """A few facts of each run, by its name."""
    return dict(zip(names_of([one.run for one in loaded]), map(_facts, loaded), strict=True))


def _facts(loaded: Loaded) -> dict[str, Any]:
    run, net = loaded.run, loaded.denoiser.net
    assert isinstance(net, nn.Module)
    config = to_dict(run.config)
    return {
        "folder": str(run.folder),
        "step": run.checkpoint.step,
        "net": config["net"]["kind"],
        "parameters": sum(p.numel() for p in net.parameters()),
        "path": config["path"]["kind"],
        "prediction": config["objective"]["prediction"],
        "weights sha256": loaded.sha256[:12],
    }


def names_of(runs: Sequence[Run]) -> list[str]:
    """The folders' names; with the step, then the whole path, where these are not different."""
    for kind in (
        [run.folder.name for run in runs],
        [f"{run.folder.name}@{run.checkpoint.step}" for run in runs],
        [str(run.checkpoint.folder) for run in runs],
    ):
        if len(set(kind)) == len(runs):
            return kind
    raise ConfigError("the same checkpoint was given twice. Give each run once.")


def data_of(run: Run) -> str:
    """The data of a run in a few words."""
    size = "x".join(map(str, run.facts.dims))
    return f"{run.config.data.name!r} of {size} with {len(run.facts.label_names)} classes"


def config_differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """The keys of the configurations that are not the same in all runs, each with its values; None where absent."""
    flat = [dict(_flat(to_dict(run.config))) for run in runs]
    keys = dict.fromkeys(key for one in flat for key in one)
    rows = {key: [one.get(key) for one in flat] for key in keys}
    return {key: values for key, values in rows.items() if any(value != values[0] for value in values)}


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield before + key, value
