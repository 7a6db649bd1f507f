"""What a comparison says of its models: their names, facts and configurations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from ebbflow.config import to_dict
from ebbflow.core.predictions import path_name
from ebbflow.errors import ConfigError
from ebbflow.runs.opened import Opened
from ebbflow.runs.same_data import require_same_data


def is_guidable(model: Opened) -> bool:
    """Whether a model takes conditions and has seen samples without one."""
    return model.is_conditional and model.is_guidable


def require_comparable(models: Sequence[Opened]) -> None:
    """Raise a ConfigError unless all models make the same kind of data, and all runs were trained on the same."""
    first = models[0]
    for model in models[1:]:
        if first.run is not None and model.run is not None:
            require_same_data(first.run, model.run)
        elif model.dims != first.dims:
            raise ConfigError(f"{data_of(first)} and {data_of(model)} cannot be compared: give models of one data.")


def facts_of_models(models: Sequence[Opened], hashes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A few facts of each model, by its name; `hashes` are of their weights."""
    return dict(zip(names_of(models), map(_facts, models, hashes), strict=True))


def _facts(model: Opened, weights: str) -> dict[str, Any]:
    net = getattr(model.denoiser, "net", None)
    known = {
        "parameters": sum(p.numel() for p in net.parameters()) if isinstance(net, nn.Module) else None,
        "path": path_name(model.denoiser.path),
        "weights sha256": weights[:12],
    }
    if model.run is None:
        return {"model": model.name, **known}
    config = to_dict(model.run.config)
    return {
        "folder": str(model.run.folder),
        "step": model.run.checkpoint.step,
        "net": config["net"]["kind"],
        **known,
        "prediction": config["objective"]["prediction"],
    }


def names_of(models: Sequence[Opened]) -> list[str]:
    """The models' names; with the step, then the whole path, where these are not different."""
    for kind in (
        [model.name for model in models],
        [model.name if model.run is None else f"{model.name}@{model.run.checkpoint.step}" for model in models],
        [model.name if model.run is None else str(model.run.checkpoint.folder) for model in models],
    ):
        if len(set(kind)) == len(models):
            return kind
    raise ConfigError("the same model was given twice. Give each once.")


def data_of(model: Opened) -> str:
    """The data of a model in a few words."""
    size = "x".join(map(str, model.dims))
    name = model.name if model.run is None else model.run.config.data.name
    return f"{name!r} of {size} with {len(model.label_names)} classes"


def config_differences(models: Sequence[Opened]) -> dict[str, list[Any]]:
    """The keys of the runs' configurations that are not the same in all models, each with its values; None where
    absent."""
    flat = [{} if model.run is None else dict(_flat(to_dict(model.run.config))) for model in models]
    keys = dict.fromkeys(key for one in flat for key in one)
    rows = {key: [one.get(key) for one in flat] for key in keys}
    return {key: values for key, values in rows.items() if any(value != values[0] for value in values)}


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield before + key, value
