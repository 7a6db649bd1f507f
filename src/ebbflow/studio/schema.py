"""Request classes as JSON Schema, for OpenAPI and for forms, and bodies read as requests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from ebbflow.errors import ConfigError
from ebbflow.requests.base import Entry, complete, entries, known, title, values
from ebbflow.values import limits_of, members

T = TypeVar("T")
PLAIN = {bool: "boolean", int: "integer", float: "number", str: "string", Path: "string"}
LIMITS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def schema_of(cls: type[Any]) -> dict[str, Any]:
    """The JSON Schema of a request class: types, ranges, defaults and sentences of its fields."""
    return {
        "type": "object",
        "title": cls.__name__,
        "description": title(cls),
        "properties": {name: field_schema(entry) for name, entry in entries(cls).items()},
        "required": [name for name, entry in entries(cls).items() if entry.required],
        "additionalProperties": False,
    }


def field_schema(entry: Entry) -> dict[str, Any]:
    """The schema of one field."""
    kind, bounds = _kind(entry.kind), {LIMITS[n]: limit for bound in entry.bounds for n, limit in limits_of(bound)}
    (kind["items"] if kind.get("type") == "array" else kind).update(bounds)
    if entry.optional:
        kind = {"anyOf": [*kind.get("anyOf", [kind]), {"type": "null"}]}
    default = {} if entry.required or entry.default is None else {"default": entry.default}
    return {**kind, "description": entry.doc, **default}


def _kind(kind: Any) -> dict[str, Any]:
    origin, of = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _kind(of[0]) | {LIMITS[n]: limit for bound in of[1:] for n, limit in limits_of(bound)}
    if origin is Literal:
        return {"enum": list(of)}
    if origin is tuple:
        return {"type": "array", "items": _kind(of[0])}
    if origin is dict:
        return {"type": "object"}
    if kind in PLAIN:
        return {"type": PLAIN[kind]}
    several = [_kind(one) for one in members(kind) if one in PLAIN or get_origin(one) in (Annotated, tuple)]
    return several[0] if len(several) == 1 else {"anyOf": several} if several else {}


def object_of(body: bytes) -> dict[str, Any]:
    """A body that is a JSON object.

    Raises:
        ConfigError: it is none.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the body is no JSON: {error}.") from None
    if not isinstance(found, dict):
        raise ConfigError(f"the body must be a JSON object, got {type(found).__name__}.")
    return found


def from_fields(cls: type[T], given: Mapping[str, Any], *, text: bool = False) -> T:
    """The request of these fields; with `text` they are text, as in a form. None is a field that was left out.

    Raises:
        ConfigError: an unknown name, a value of another type or out of range.
    """
    known(cls, given, "this request")
    kept = {name: value for name, value in given.items() if value is not None}
    if text:
        kept = {name: _table(name, v) if get_origin(entries(cls)[name].kind) is dict else v for name, v in kept.items()}
    return complete(cls, values(cls, kept, text=text))


def _table(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ConfigError(f"`{name}` must be a JSON object, got {text[:40]!r}.") from None
