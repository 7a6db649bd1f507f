"""Requests written down again: as the command line and as the Python that ask the same."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ebbflow.requests.base import Entry, entries


def command_of(verb: str, cls: type[Any], given: Mapping[str, Any]) -> str:
    """The command line of a verb with these fields of its request `cls`, ready to be pasted; what has its default is
    left out."""
    words = ["ebbflow", *verb.split()]
    for entry in entries(cls).values():
        value = given.get(entry.name)
        if value is not None and value != entry.default:
            places = value if isinstance(value, tuple) else (value,)
            words += _flagged(entry, value) if entry.flags else map(str, places)
    return shlex.join(words)


def python_of(call: str, model: str, cls: type[Any], given: Mapping[str, Any]) -> str:
    """The call of a function of ebbflow on a model's folder that asks the same."""
    known = {
        name: given[name] for name, entry in entries(cls).items() if given.get(name, entry.default) != entry.default
    }
    return f"ebbflow.{call}({', '.join([repr(model), *(f'{name}={_plain(v)!r}' for name, v in known.items())])})"


def _flagged(entry: Entry, value: Any) -> list[str]:
    flag = entry.flags[0]
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    if isinstance(value, Mapping):
        return [word for name, one in value.items() for word in (flag, f"{name}={_toml(one)}")]
    if isinstance(value, tuple) and entry.each:
        return [word for one in value for word in _joint(flag, _text(one))]
    return _joint(flag, _text(value))


def _joint(flag: str, text: str) -> list[str]:
    """A flag and its value; as one word where the value looks like a flag."""
    return [f"{flag}={text}"] if text.startswith("-") else [flag, text]


def _text(value: Any) -> str:
    return ",".join(map(_text, value)) if isinstance(value, tuple) else str(value)


def _toml(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool | list | str) else str(value)


def _plain(value: Any) -> Any:
    """Tuples as lists, paths as text."""
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value
