"""Entries of registries and their own numbers: where a name is accepted, so is an object, and a name with options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from ebbflow.errors import ConfigError, choose, nearest
from ebbflow.values import checked_value

T = TypeVar("T")
Choice = str | Mapping[str, Any]  # what a configuration says of an entry: a name, or {"kind": name, option: value}


def entry(registry: Mapping[str, T], given: str | Mapping[str, Any] | T, what: str) -> T:
    """The entry that is meant: by its name, as {"kind": name, option: value, ...}, or the object itself.

    Args:
        registry: entries by name; those with options are dataclasses.
        given: what a user said.
        what: the kind of thing in words, for errors: "weighting".

    Raises:
        ConfigError: an unknown name or option, a value of the wrong type, or no entry at all.
        ValueError: a value out of range.
    """
    if isinstance(given, str):
        return choose(registry, given, what)
    if isinstance(given, Mapping):
        options = dict(given)
        found = choose(registry, options.pop("kind", ""), what)
        return _with_options(found, options, f"{what} {given['kind']!r}")
    if (not is_dataclass(given) and not callable(given)) or isinstance(given, type):
        raise ConfigError(f"a {what} is a name, a table with a `kind`, or an object, got {given!r}. {_known(registry)}")
    if not _is_hashable(given):
        raise ConfigError(f"a {what} is remembered by its value, so make {type(given).__name__} a frozen dataclass.")
    return given


def as_choice(registry: Mapping[str, Any], given: Any, what: str) -> Choice:
    """How a configuration writes what `entry` found: a plain name where all its options are the registry's own, else
    the name and the options that are not.

    Raises:
        ConfigError, ValueError: as `entry`; or an object of no registered kind, which a file cannot hold.
    """
    found = entry(registry, given, what)
    same_kind = {name: one for name, one in registry.items() if type(one) is type(found)}
    equal = [name for name, one in same_kind.items() if one == found]
    if equal:
        return equal[0]
    if not same_kind or not is_dataclass(found):
        raise ConfigError(f"a configuration holds registered kinds of {what} only, got {given!r}. {_known(registry)}")
    kind = given["kind"] if isinstance(given, Mapping) else next(iter(same_kind))
    changed = {f.name for f in fields(found) if getattr(found, f.name) != getattr(registry[kind], f.name)}
    return {"kind": kind, **{f.name: getattr(found, f.name) for f in fields(found) if f.name in changed}}


def spelt(choice: Any) -> str:
    """A choice in one word for tables and file names: its name, and the options that are set: "min_snr(gamma=3)"."""
    if not isinstance(choice, Mapping):
        return str(choice)
    options = ",".join(f"{name}={value}" for name, value in choice.items() if name != "kind")
    return f"{choice['kind']}({options})" if options else str(choice["kind"])


def _is_hashable(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _with_options(found: T, options: Mapping[str, Any], where: str) -> T:
    known = {f.name: getattr(found, f.name) for f in fields(found)} if is_dataclass(found) else {}
    for name in options:
        if name not in known:
            hint = nearest(name, list(known)) if known else "It has none."
            raise ConfigError(f"{where} has no option {name!r}. {hint}")
    values = {name: checked_value(type(found), name, value, where) for name, value in options.items()}
    return replace(found, **values) if values else found  # type: ignore[type-var]


def _known(registry: Mapping[str, Any]) -> str:
    return f"Known: {', '.join(sorted(registry))}."
