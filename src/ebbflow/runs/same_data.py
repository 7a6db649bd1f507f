"""The data of a run, read anew, and whether two things are of the same data."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import torch

from ebbflow.config import AnyConfig, to_dict
from ebbflow.data import Dataset, Splits
from ebbflow.errors import ConfigError, DataError
from ebbflow.runs.build import facts_of, load_splits
from ebbflow.runs.folder import Run, description, read_facts, versions
from ebbflow.training.world import World

ROWS = 256  # of large data that a fingerprint reads


def splits_of_run(run: Run, data_dir: Path | None = None) -> Splits:
    """The data of a run.

    Args:
        data_dir: where it lies, if not where the run was trained from.

    Raises:
        ConfigError, DataError: it is not there.
        DataError: it has another shape or other classes than the run.
    """
    data = run.config.data if data_dir is None else replace(run.config.data, dir=str(data_dir))
    splits = _renumbered(load_splits(replace(run.config, data=data)), run.facts.label_names)
    require_same_data(run, splits.train)
    return splits


def in_order_of(splits: Splits, folder: Path) -> Splits:
    """The data of what is trained in a folder, its classes in the order in which they were when it was begun: earlier
    versions sorted the names of numbers as text."""
    return _renumbered(splits, tuple(description(folder).get("facts", {}).get("label_names", ())))


def _renumbered(splits: Splits, names: tuple[str, ...]) -> Splits:
    own = splits.train.label_names
    if names == own or sorted(names) != sorted(own):
        return splits
    place = torch.tensor([names.index(name) for name in own])
    parts = {
        part: replace(data, labels=None if data.labels is None else place[data.labels], label_names=names)
        for part, data in vars(splits).items()
    }
    return Splits(**parts)


def require_same_data(run: Run, other: Run | Dataset) -> None:
    """Refuse `other` unless it has the shape and the classes that `run` was trained on.

    Raises:
        ConfigError: a run on other data, by its name too.
        DataError: a data set of another shape or other classes.
    """
    own = read_facts(run.checkpoint.state["facts"])
    its = facts_of(other) if isinstance(other, Dataset) else other.facts
    same = (own.dims, own.label_names) == (its.dims, its.label_names)
    mine, yours = (f"{'x'.join(map(str, one.dims))} with {len(one.label_names)} classes" for one in (own, its))
    if isinstance(other, Dataset):
        if not same:
            raise DataError(
                f"{run.folder}: the run was trained on samples of {mine}; data set {other.name!r} has {yours}. Give "
                "the data it was trained on."
            )
    elif not same or run.config.data.name != other.config.data.name:
        raise ConfigError(
            f"the runs were trained on different data, so they cannot be compared: {run.folder} on "
            f"{run.config.data.name!r} of {mine}, {other.folder} on {other.config.data.name!r} of {yours}. Give runs "
            "on the same data."
        )


def require_same_everywhere(world: World, config: AnyConfig, splits: Splits) -> None:
    """Refuse to train with processes of another configuration, other data or another version.

    Raises:
        ConfigError: the first thing that differs, and on which of them.
    """
    if world.size > 1:
        keys = {f"{section}.{key}": value for section, part in to_dict(config).items() for key, value in part.items()}
        world.require_same({**versions(), **keys, "data": fingerprint(splits)})


def fingerprint(splits: Splits) -> str:
    """A hash of the data: of the whole of what is small, of rows spread over what is large."""
    digest = hashlib.sha256()
    for data in (splits.train, splits.held_out):
        rows = torch.arange(0, len(data), max(1, len(data) // ROWS))
        digest.update(repr((len(data), data.dims, data.label_names)).encode())
        digest.update(data.x0(rows).contiguous().numpy().data)
        digest.update(data.x.digest.encode() if data.on_demand else b"")  # type: ignore[attr-defined]
        if data.labels is not None:
            digest.update(data.labels[rows].contiguous().numpy().data)
    return digest.hexdigest()[:16]
