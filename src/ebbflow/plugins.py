"""What a third party's module adds to the registries: by name, for a while or for good, or because it is installed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from pathlib import Path as File
from types import ModuleType
from typing import Any

from ebbflow.errors import LAST_RESORTS, ConfigError

GROUP = "ebbflow.plugins"  # of the entry points that installed packages declare
REGISTRIES = {  # as `ebbflow list` calls them
    "samplers": "methods.samplers.SAMPLERS",
    "paths": "core.paths.PATHS",
    "predictions": "core.predictions.PREDICTIONS",
    "grids": "core.times.TIME_GRIDS",
    "times": "core.times.TIME_SAMPLERS",
    "weights": "core.weights.WEIGHTS",
    "couplings": "methods.couplings.COUPLINGS",
    "maps": "methods.maps.MAPS",
    "guidance": "methods.guidance.GUIDANCE",
    "losses": "methods.guidance.LOSSES",
    "operators": "core.operators.OPERATORS",
    "nets": "nets.NETS",
    "optimisers": "training.optim.OPTIMISERS",
    "emas": "training.ema.EMAS",
    "conditionings": "conditioning.CONDITIONINGS",
    "autoencoders": "latent.AUTOENCODERS",
    "datasets": "data.DATASETS",
    "metrics": "metrics.scores.METRICS",
    "exporters": "interop.export.EXPORTERS",
    "trackers": "training.trackers.TRACKERS",
}
CLOSED = ("maps", "guidance", "emas", "autoencoders", "exporters", "trackers")  # to which a plugin adds nothing
_OPEN = [place for kind, place in REGISTRIES.items() if kind not in CLOSED] + ["methods.guidance.CONDITION_RULES"]
WHERE = {registry: room for room, _, registry in (place.rpartition(".") for place in _OPEN)}
SHOWN_IN = {"CONDITION_RULES": REGISTRIES["guidance"]}  # whose entries another registry has too
CLASSES = ("NETS", "OPTIMISERS", "CONDITIONINGS")
OBJECTS = {"COUPLINGS": "Coupling", "OPERATORS": "Operator"}  # registry -> the class of its entries


@dataclass(frozen=True, kw_only=True)
class Extension:
    """What a module adds.

    Args:
        name: the module.
        entries: registry -> name -> entry.
    """

    name: str
    entries: Mapping[str, dict[str, Any]] = field(default_factory=lambda: {kind: {} for kind in WHERE})

    @property
    def names(self) -> frozenset[tuple[str, str]]:
        """Pairs (registry, name)."""
        return frozenset((kind, name) for kind, entries in self.entries.items() for name in entries)


_known: dict[str, Extension] = {}  # a module runs once in a process, its entries may come and go
_active: list[Extension] = []


def loaded() -> tuple[Extension, ...]:
    """The modules whose entries are in the registries now."""
    return tuple(_active)


def is_of_a_plugin(module: str) -> bool:
    """Whether code lies in a module that was loaded, its entries being in the registries still or not."""
    return any(f"{module}.".startswith(f"{name}.") for name in _known)


def load(name: str) -> Extension:
    """Import the module `name`, from the working directory too, and add what it holds to the registries.

    Taken are its dicts of the registries' names (SAMPLERS, PATHS, NETS, ...), what it put into ebbflow's own, the
    samplers that it defines with `sampler(...)` and its instances of `Path`.

    Raises:
        ConfigError: it cannot be imported, holds nothing, or an entry is of the wrong kind or has a name that is taken.
    """
    extension = _known.get(name) or _known.setdefault(name, _read(name))
    if extension not in _active:
        for kind, entry, value in _all(extension):
            for registry in _registries(kind):
                registry[entry] = value
        _active.append(extension)
    return extension


@contextmanager
def imported(names: Iterable[str]) -> Iterator[None]:
    """The registries with what these modules add, and as they were afterwards."""
    before = loaded()
    try:
        for name in names:
            load(name)
        yield
    finally:
        for extension in [one for one in _active if one not in before]:
            _active.remove(extension)
            for kind, entry, _ in _all(extension):
                for registry in _registries(kind):
                    registry.pop(entry, None)


def find_installed() -> None:
    """Load the plugins that installed packages declare as entry points of the group `ebbflow.plugins`.

    Raises:
        ConfigError: as in `load`.
    """
    from importlib.metadata import entry_points

    for name in sorted({point.value.partition(":")[0] for point in entry_points(group=GROUP)}):
        load(name)


LAST_RESORTS.append(find_installed)


def registry_at(place: str) -> dict[str, Any]:
    """The registry of a place such as "core.paths.PATHS"."""
    room, _, name = place.rpartition(".")
    found: dict[str, Any] = getattr(importlib.import_module(f"ebbflow.{room}"), name)
    return found


def _registries(kind: str) -> list[dict[str, Any]]:
    shown = [SHOWN_IN[kind]] if kind in SHOWN_IN else []
    return [registry_at(place) for place in (f"{WHERE[kind]}.{kind}", *shown)]


def _all(extension: Extension) -> Iterator[tuple[str, str, Any]]:
    for kind, entries in extension.entries.items():
        for name, entry in entries.items():
            yield kind, name, entry


def _read(name: str) -> Extension:
    """What the module adds; the registries are left as they were."""
    own = {kind: _registries(kind)[0] for kind in WHERE}
    before = {kind: dict(registry) for kind, registry in own.items()}
    try:
        module = _module(name)
        found = {kind: _declared(module, kind, before[kind], own[kind]) for kind in WHERE}
    finally:
        for kind, registry in own.items():
            registry.clear()
            registry.update(before[kind])
    _add_loose(module, found)
    extension = Extension(name=name, entries={kind: _checked(name, kind, found[kind]) for kind in WHERE})
    if not extension.names:
        raise ConfigError(
            f"module {name!r} holds nothing that ebbflow knows: give it a dict {', '.join(WHERE)}, "
            "a function decorated with sampler(...), or an instance of Path."
        )
    return extension


def _module(name: str) -> ModuleType:
    if not name or name.endswith(".py") or "/" in name:
        known = File(name).stem or "my_samplers"
        raise ConfigError(f"`import` wants a module's name such as {known!r}, not {name!r}.")
    here = str(File.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name.split(".")[0] or error.name == name:
            raise ConfigError(f"no module {name!r} in {here} or among the installed packages.") from error
        raise ConfigError(f"module {name!r} cannot be imported: {error}.") from error
    except (Exception, SystemExit) as error:
        raise ConfigError(f"module {name!r} cannot be imported: {type(error).__name__}: {error}.") from error
    finally:
        sys.path.remove(here)


def _declared(module: ModuleType, kind: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of the module's own dict, and those that it put into the registry; without the built-in ones."""
    own = getattr(module, kind, {})
    if not isinstance(own, Mapping):
        raise ConfigError(f"{module.__name__}.{kind} must be a dict of names, got {type(own).__name__}.")
    entries = {**now, **own}
    taken = [name for name, entry in before.items() if entries.get(name) is not entry]
    if taken:
        raise ConfigError(
            f"{module.__name__}.{kind} names {taken[0]!r}, which ebbflow has already. Give it another name."
        )
    return {name: entry for name, entry in entries.items() if name not in before}


def _add_loose(module: ModuleType, found: dict[str, dict[str, Any]]) -> None:
    """The samplers that the module defines and its paths, where no dict names them."""
    from ebbflow.core.paths import Path
    from ebbflow.methods.samplers import Sampler

    listed = {id(entry) for entries in found.values() for entry in entries.values()}
    for name, value in vars(module).items():
        if id(value) in listed:
            continue
        if isinstance(value, Sampler) and f"{value.run.__module__}.".startswith(f"{module.__name__}."):
            found["SAMPLERS"].setdefault(value.name, value)
        elif isinstance(value, Path):
            found["PATHS"].setdefault(name, value)


def _checked(module: str, kind: str, entries: Mapping[str, Any]) -> dict[str, Any]:
    """The entries, each of its kind; an instance of a path is made into a class with its numbers as defaults."""
    from ebbflow.methods.samplers import Sampler

    checked = {}
    for name, entry in entries.items():
        where = f"{module}.{kind}[{name!r}]"
        if kind == "SAMPLERS" and not isinstance(entry, Sampler):
            raise ConfigError(f"{where} is no sampler. Decorate the function: @sampler(order=..., evaluations=...).")
        builds = isinstance(entry, type) and is_dataclass(entry) and callable(getattr(entry, "build", None))
        if kind in CLASSES and not builds:
            raise ConfigError(f"{where} must be a frozen dataclass with a method `build`, got {entry!r}.")
        if kind in OBJECTS:
            wanted = getattr(importlib.import_module(f"ebbflow.{WHERE[kind]}"), OBJECTS[kind])
            if not isinstance(entry, wanted):
                raise ConfigError(f"{where} must be a {wanted.__module__}.{wanted.__name__}, got {entry!r}.")
        elif kind not in ("SAMPLERS", "PATHS", "TIME_SAMPLERS") and not callable(entry):
            raise ConfigError(f"{where} must be a function, got {type(entry).__name__}.")
        checked[str(name)] = _path_class(where, entry) if kind == "PATHS" else entry
    return checked


def _path_class(where: str, entry: Any) -> Any:
    from ebbflow.core.paths import Path

    try:
        path = entry if isinstance(entry, Path) else entry()
    except Exception as error:
        raise ConfigError(f"{where} cannot be made without arguments: {type(error).__name__}: {error}.") from error
    if not isinstance(path, Path):
        raise ConfigError(f"{where} must be a Path or a class of Path, got {type(path).__name__}.")
    if isinstance(entry, type):
        return entry
    kind = type(path)
    return make_dataclass(
        kind.__name__,
        [(f.name, f.type, getattr(path, f.name)) for f in fields(path)],
        bases=(kind,),
        namespace={"__module__": kind.__module__, "__doc__": kind.__doc__},
        frozen=True,
        kw_only=True,
    )
