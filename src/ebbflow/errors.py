"""Errors that a user can mend, and the look-up that words the commonest of them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")
LAST_RESORTS: list[Callable[[], None]] = []  # asked before a name is unknown: plugins that are installed


class ConfigError(ValueError):
    """An unknown name or key, or a value that the configuration cannot take."""


class CheckpointError(ValueError):
    """A checkpoint that is missing, foreign, incomplete or of another shape than the configuration says."""


class DataError(ValueError):
    """Data that cannot be read, or that does not have the shape, range or labels that were asked for."""


def missing(what: str, package: str, extra: str) -> ImportError:
    """The error for `what`, which needs a package that is not installed, with the command that installs it."""
    return ImportError(f"{what} needs the package {package}: pip install -e '.[{extra}]' in the folder of ebbflow")


def nearest(name: str, known: list[str]) -> str:
    """The sentence that helps after an unknown name: the closest spellings, then the whole list."""
    alike = {_letters(one): one for one in known}
    close = [
        alike[one]
        for one in difflib.get_close_matches(_letters(name), alike, n=2, cutoff=0.6 if len(name) > 3 else 0.5)
    ]
    hint = f"Did you mean {' or '.join(repr(c) for c in close)}? " if close else ""
    return f"{hint}Known: {', '.join(sorted(known))}."


def _letters(name: str) -> str:
    """A name as it is said: no case, one kind of joint, a plus as the p that names have for it."""
    return name.lower().replace("+", "p").replace("-", "_").replace(" ", "_")


def has(registry: Mapping[str, T], name: str) -> bool:
    """Whether `registry` has an entry called `name`, if need be by a plugin that is looked up only now."""
    if not isinstance(name, str):
        return False
    if name not in registry:
        for look in LAST_RESORTS:
            look()
    return name in registry


def choose(registry: Mapping[str, T], name: str, what: str) -> T:
    """The entry of `registry` called `name`.

    Raises:
        ConfigError: no such entry; the message names the nearest entries and lists them all.
    """
    if not has(registry, name):
        raise ConfigError(f"unknown {what} {name!r}. {nearest(str(name), list(registry))}")
    return registry[name]
