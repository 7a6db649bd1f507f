"""Samplers, paths, predictions and grids out of a third party's module, added to the registries for as long as a run
takes."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path as File
from types import ModuleType
from typing import Any

from ebbflow.core.paths import PATHS, Path
from ebbflow.core.predictions import PREDICTIONS
from ebbflow.core.times import TIME_GRIDS
from ebbflow.errors import ConfigError
from ebbflow.methods.samplers import SAMPLERS, Sampler

REGISTRIES: dict[str, dict[str, Any]] = {
    "SAMPLERS": SAMPLERS,
    "PATHS": PATHS,
    "PREDICTIONS": PREDICTIONS,
    "TIME_GRIDS": TIME_GRIDS,
}


@dataclass(frozen=True, kw_only=True)
class Extension:
    """What a module adds, by name of the registry; paths are instances.

    Args:
        name: the module.
        entries: registry -> name -> entry.
    """

    name: str
    entries: Mapping[str, dict[str, Any]] = field(default_factory=lambda: {kind: {} for kind in REGISTRIES})

    @property
    def names(self) -> frozenset[tuple[str, str]]:
        """Pairs (registry, name)."""
        return frozenset((kind, name) for kind, entries in self.entries.items() for name in entries)


def load_extension(name: str) -> Extension:
    """Import the module `name`, from the working directory too, and collect what it adds.

    Taken are the entries of its dicts SAMPLERS, PATHS, PREDICTIONS and TIME_GRIDS, what it put into ebbflow's own, the
    samplers that it defines with `sampler(...)` and its instances of `Path`.

    Raises:
        ConfigError: it cannot be imported, holds nothing, or an entry is of the wrong kind or has a name that is taken.
    """
    before = {kind: dict(registry) for kind, registry in REGISTRIES.items()}
    try:
        module = _imported(name)
        found = {kind: _declared(module, kind, before[kind]) for kind in REGISTRIES}
    finally:
        for kind, registry in REGISTRIES.items():
            registry.clear()
            registry.update(before[kind])
    _add_loose(module, found)
    extension = Extension(name=name, entries={kind: _checked(name, kind, found[kind]) for kind in REGISTRIES})
    if not any(extension.entries.values()):
        raise ConfigError(
            f"module {name!r} holds nothing that ebbflow knows: give it a dict SAMPLERS, PATHS, PREDICTIONS or "
            "TIME_GRIDS, a function decorated with sampler(...), or an instance of Path."
        )
    return extension


@contextmanager
def extended(extension: Extension) -> Iterator[None]:
    """The registries with the extension's entries, and as they were afterwards."""
    try:
        for kind, entries in extension.entries.items():
            for name, entry in entries.items():
                REGISTRIES[kind][name] = _maker(entry) if kind == "PATHS" else entry
        yield
    finally:
        for kind, entries in extension.entries.items():
            for name in entries:
                REGISTRIES[kind].pop(name, None)


def _maker(path: Path) -> Callable[[], Path]:
    return lambda: path


def _imported(name: str) -> ModuleType:
    if name.endswith(".py") or "/" in name:
        raise ConfigError(f"--import wants a module's name such as {File(name).stem!r}, not the file {name!r}.")
    here = str(File.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name.split(".")[0] or error.name == name:
            raise ConfigError(f"no module {name!r} in {here} or among the installed packages.") from error
        raise ConfigError(f"module {name!r} cannot be imported: {error}.") from error
    except Exception as error:
        raise ConfigError(f"module {name!r} cannot be imported: {type(error).__name__}: {error}.") from error
    finally:
        sys.path.remove(here)


def _declared(module: ModuleType, kind: str, before: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of the module's own dict, and those that it put into the registry; without the built-in ones."""
    own = getattr(module, kind, {})
    if not isinstance(own, Mapping):
        raise ConfigError(f"{module.__name__}.{kind} must be a dict of names, got {type(own).__name__}.")
    entries = {**REGISTRIES[kind], **own}
    taken = [name for name in own if name in before and own[name] is not before[name]]
    if taken:
        raise ConfigError(
            f"{module.__name__}.{kind} names {taken[0]!r}, which ebbflow has already. Give it another name."
        )
    return {name: entry for name, entry in entries.items() if name not in before}


def _add_loose(module: ModuleType, found: dict[str, dict[str, Any]]) -> None:
    """The samplers that the module defines and its paths, where no dict names them."""
    listed = {id(entry) for entries in found.values() for entry in entries.values()}
    for name, value in vars(module).items():
        if id(value) in listed:
            continue
        if isinstance(value, Sampler) and f"{value.run.__module__}.".startswith(f"{module.__name__}."):
            found["SAMPLERS"].setdefault(value.name, value)
        elif isinstance(value, Path):
            found["PATHS"].setdefault(name, value)


def _checked(module: str, kind: str, entries: Mapping[str, Any]) -> dict[str, Any]:
    """The entries, each of its kind; a class of path is made into a path with its defaults."""
    checked = {}
    for name, entry in entries.items():
        where = f"{module}.{kind}[{name!r}]"
        if kind == "SAMPLERS" and not isinstance(entry, Sampler):
            raise ConfigError(f"{where} is no sampler. Decorate the function: @sampler(order=..., evaluations=...).")
        if kind in ("PREDICTIONS", "TIME_GRIDS") and not callable(entry):
            raise ConfigError(f"{where} must be a function, got {type(entry).__name__}.")
        checked[str(name)] = _as_path(where, entry) if kind == "PATHS" else entry
    return checked


def _as_path(where: str, entry: Any) -> Path:
    try:
        path = entry if isinstance(entry, Path) else entry()
    except Exception as error:
        raise ConfigError(f"{where} cannot be made without arguments: {type(error).__name__}: {error}.") from error
    if not isinstance(path, Path):
        raise ConfigError(f"{where} must be a Path or a class of Path, got {type(path).__name__}.")
    return path
