"""How a configuration is read: from TOML, settings a.b=c and JSON, in layers, with errors that name the key and the
cure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path as FilePath
from typing import Any, TypeVar

from ebbflow import documents
from ebbflow.config.sections import KINDS, LENGTHS, AutoencoderConfig, ClassifierConfig, Layer, RunConfig
from ebbflow.errors import ConfigError, choose, nearest
from ebbflow.values import Wrong, checked_value

C = TypeVar("C", RunConfig, ClassifierConfig, AutoencoderConfig)


def parse(values: Mapping[str, Any]) -> RunConfig:
    """The configuration of a run from nested values, e.g. {"net": {"kind": "dit", "depth": 4}}; see `parse_as`."""
    return parse_as(RunConfig, values)


def parse_as(cls: type[C], values: Mapping[str, Any]) -> C:
    """The configuration of class `cls`, its sections' defaults overlaid by `values`.

    Raises:
        ConfigError: unknown section, kind or key; a value of the wrong type or out of range.
    """
    defaults = {f.name: f.default for f in fields(cls)}
    sections = {}
    for name, given in values.items():
        if name not in defaults:
            raise ConfigError(f"unknown section {name!r} of the configuration. {nearest(name, list(defaults))}")
        _require_keys(name, given)
        default: Any = defaults[name]
        sections[name] = (
            _of_kind(name, dict(given))
            if name in KINDS
            else _checked(type(default), merge({name: asdict(default)}, {name: given})[name], name)
        )
    return cls(**sections)


def _require_keys(name: str, given: Any) -> None:
    if not isinstance(given, Mapping):
        raise ConfigError(f"section {name!r} must hold keys, got {given!r}. Write {name}.key=value.")


def _of_kind(name: str, given: dict[str, Any]) -> Any:
    registry, default = KINDS[name]
    kind = given.pop("kind", default)
    return _checked(choose(registry, kind, f"{name}.kind"), given, name, f" of kind {kind!r}")


def _checked(cls: type[Any], given: dict[str, Any], section: str, of_kind: str = "") -> Any:
    known = [f.name for f in fields(cls)]
    for key in given:
        if key not in known:
            hint = nearest(key, known) if known else "It has no keys."
            raise ConfigError(f"unknown key '{section}.{key}'{of_kind and ' (' + section + of_kind + ')'}. {hint}")
    try:
        return cls(**{key: checked_value(cls, key, value) for key, value in given.items()})
    except ValueError as error:
        keys = re.sub(r"`(\w+)`", lambda key: f"`{section}.{key[1]}`" if key[1] in known else key[0], str(error))
        raise ConfigError(keys) from error


def merge(*layers: Mapping[str, Mapping[str, Any]]) -> Layer:
    """Layers one over the other; a layer that changes a section's kind replaces the section, because the keys of kinds
    differ, and so it is with an entry and its options, and with a sampler and its options. A length in steps replaces
    one in minutes, and the other way round.

    Raises:
        ConfigError: a section that is none, or a layer that gives both lengths.
    """
    merged: Layer = {}
    for layer in layers:
        for name, given in layer.items():
            _require_keys(name, given)
            below = merged.get(name, {})
            if name == "train" and one_length(given):
                below = {key: value for key, value in below.items() if key not in LENGTHS}
            replaced = "kind" in given and given["kind"] != below.get("kind", KINDS.get(name, ({}, None))[1])
            merged[name] = _over({} if replaced else below, given)
    return merged


def _over(below: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a section, or of an entry's options, over those below."""
    kept = dict(below)
    if given.get("sampler", below.get("sampler")) != below.get("sampler"):
        kept.pop("options", None)
    for key, value in given.items():
        kept[key] = _entry_over(below.get(key), value) if isinstance(value, Mapping) else value
    return kept


def one_length(*trains: Mapping[str, Any], epochs: int | None = None) -> bool:
    """Whether sections `train` of one layer, and a number of epochs, say how long to train.

    Raises:
        ConfigError: they say it in two ways.
    """
    said = {f"train.{name}": train[name] for train in trains for name in LENGTHS if train.get(name) is not None}
    said |= {} if epochs is None else {"epochs": epochs}
    if len(said) > 1:
        both = " and ".join(f"`{name}` ({value})" for name, value in said.items())
        raise ConfigError(f"{both} both say how long to train. Give one.")
    return bool(said)


def _entry_over(below: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Options over an entry: they join those of the same kind and replace those of another; none at all empty them."""
    named = {"kind": below} if isinstance(below, str) else dict(below) if isinstance(below, Mapping) else {}
    same_kind = given.get("kind", named.get("kind")) == named.get("kind")
    return _over(named, given) if given and same_kind else dict(given)


def read_toml(path: FilePath) -> Layer:
    """The sections of a TOML file.

    Raises:
        ConfigError: missing or malformed.
    """
    try:
        return documents.read_toml(path)
    except FileNotFoundError as error:
        raise ConfigError(f"configuration file {path} does not exist.") from error
    except (Wrong, OSError) as error:
        raise ConfigError(f"configuration file {path} cannot be read: {documents.unread(error)}") from error


def read_settings(settings: Mapping[str, Any]) -> Layer:
    """The layer of settings "section.key": value, with as many keys as there are tables in each other; names come
    before the options of what they name, in whatever order they are given.

    Raises:
        ConfigError: not of that form.
    """
    found = sorted(_leaves(settings), key=lambda one: (len(one[0]), one[0][-1] != "kind"))
    one_length({keys[1]: value for keys, value in found if keys[0] == "train"})
    return merge(*(_nested(keys, value) for keys, value in found))


def _leaves(settings: Mapping[str, Any], before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in settings.items():
        keys = (*before, *name.strip().split("."))
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, keys)
        elif len(keys) < 2 or not all(keys):
            raise ConfigError(f"a setting is section.key=value, for example train.lr=3e-4; got {'.'.join(keys)!r}.")
        else:
            yield keys, value


def _nested(keys: Sequence[str], value: Any) -> Layer:
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def preset_folder() -> FilePath:
    """Where the shipped presets lie: inside an installed package, or at the root of a checkout."""
    packaged = FilePath(__file__).parents[1] / "configs"
    return packaged if packaged.is_dir() else FilePath(__file__).parents[3] / "configs"


def presets() -> dict[str, FilePath]:
    """The shipped presets by name."""
    return {path.stem: path for path in sorted(preset_folder().glob("*.toml"))}


def read_preset(name: str) -> Layer:
    """The sections of the preset called `name`."""
    return read_toml(choose(presets(), name, "preset"))
