"""How a value is read, wherever it comes from: the text forms that flags and files share, types, and ranges."""

from __future__ import annotations

import functools
import math
import operator
import os
import re
import reprlib
import tomllib
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import Gt, Interval

from ebbflow.errors import ConfigError

T = TypeVar("T")
Positive = Annotated[float, Gt(0)]
Share = Annotated[float, Interval(ge=0, le=1)]
Below1 = Annotated[float, Interval(ge=0, lt=1)]
Width = Annotated[int, Interval(ge=1, le=1 << 16)]  # channels and the like
Depth = Annotated[int, Interval(ge=1, le=1024)]  # of nets
Repeats = Annotated[int, Interval(ge=1, le=1_000_000)]
LIMIT = 1_000_000  # entries of a list written as ranges


class Wrong(Exception):
    """What is wrong with a value, without the name of what was to have it: "must be above 0, got -1."."""


class Endless:
    """A marker: the number may be infinite, or none at all."""


def read_value(text: str) -> Any:
    """A value as TOML writes it (3, 0.5, true, [1, 2]), a list of bare words ([cat, dog]), or else the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        words = re.fullmatch(r"\[([\w-]+(?:, *[\w-]+)*)\]", text)
        return text if words is None else [word.strip() for word in words[1].split(",")]


def read_items(text: str) -> list[str]:
    """The items of "0-9", "1,3,5-7" or "cat,dog".

    Raises:
        Wrong: a range that runs backwards or is too long.
    """
    items: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        found = re.fullmatch(r"([0-9]+)-([0-9]+)", part)
        if found is None:
            items.append(part)
            continue
        low, high = int(found[1]), int(found[2])
        if high < low:
            raise Wrong(f"holds the range {part!r}, which runs backwards.")
        if len(items) + high - low >= LIMIT:
            raise Wrong(f"holds the range {part!r}, which is too long: at most {LIMIT:,} entries.")
        items.extend(map(str, range(low, high + 1)))
    return items


def members(kind: Any) -> tuple[Any, ...]:
    """The types that `kind` is a union of; itself where it is none."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def convert(kind: Any, value: Any, *, text: bool = False) -> Any:
    """`value` as a `kind`.

    Args:
        kind: a type as fields have it: bool, int, float, str, Path, Literal, Any, dataclasses, tuples, tables and
            unions of these, with bounds of `annotated_types`; a number is finite unless it is marked `Endless`.
        value: what was given; a tuple, a pair or a vector may be text everywhere.
        text: everything is text, as on a command line.

    Raises:
        Wrong: it is none.
    """
    if get_origin(kind) is Annotated:
        inner, *bounds = get_args(kind)
        endless = inner is float and Endless in bounds
        return bounded(_number(value, text) if endless else convert(inner, value, text=text), bounds)
    if len(members(kind)) > 1:
        return _of_union(members(kind), value, text)
    origin = get_origin(kind)
    if origin is Literal:
        return _choice(get_args(kind), value, text)
    if origin is tuple:
        return _tuple(get_args(kind), value, text)
    if origin in (dict, Mapping):
        return _dict(get_args(kind)[1], value)
    if is_dataclass(kind) and isinstance(kind, type) and not isinstance(value, kind):
        return record(kind, value)
    if kind in PLAIN:
        return PLAIN[kind](value, text)
    if kind is Any:
        return read_value(value) if text else value
    try:
        fits = isinstance(value, origin or kind)
    except TypeError:  # a type that cannot be asked, of a plugin
        fits = True
    if not fits:
        raise Wrong(f"must be a {getattr(kind, '__name__', kind)}, got {reprlib.repr(value)}.")
    return value


def record(cls: type[T], given: Any) -> T:
    """The dataclass that a table describes; of what is left out, the defaults.

    Raises:
        Wrong: no table, an unknown or missing name, or a value of another type or out of range.
        ValueError: what the class itself finds.
    """
    if not isinstance(given, Mapping):
        raise Wrong(f"must be a table of {cls.__name__}, got {reprlib.repr(given)}.")
    known: dict[Any, Any] = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    for name, f in known.items():
        if name not in given and f.default is MISSING and f.default_factory is MISSING:
            raise Wrong(f"has no `{name}`.")
    for name in given:
        if name not in known:
            raise Wrong(f"has a `{name}`, which is unknown.")
    read = {}
    for name, value in given.items():
        try:
            read[name] = of_field(cls, name, value)
        except Wrong as wrong:
            raise Wrong(f"has a `{name}` that {wrong}") from None
    return cls(**read)


def of_field(owner: Any, name: str, value: Any, default: Any = MISSING) -> Any:
    """A value of a field of a dataclass, or of a parameter of a function, whose annotation says type and range. Its own
    default is one, and so is an empty list.

    Raises:
        Wrong: it is none.
    """
    if default is MISSING and is_dataclass(owner):
        default = next(f.default for f in fields(owner) if f.name == name)
    if value is default or (type(value) is type(default) and value == default):
        return value
    hint = hints_of(owner).get(name, Any if default in (None, MISSING) else type(default))
    return () if isinstance(value, (list, tuple)) and not value and _is_list(hint) else convert(hint, value)


def check_fields(entry: Any, *names: str) -> None:
    """Refuse values of a dataclass that its fields' annotations do not take, as `Annotated[float, Gt(0)]`; for its
    `__post_init__`; of those named, or of all. A whole number where one with a fraction is wanted becomes one.

    Raises:
        ConfigError: of another type, out of range, or not finite.
    """
    for name in names or [f.name for f in fields(entry) if f.init]:
        object.__setattr__(entry, name, checked_value(type(entry), name, getattr(entry, name)))


class Checked:
    """A dataclass whose fields are held to their annotations when it is made; see `check_fields`."""

    def __post_init__(self) -> None:
        check_fields(self)


def checked_value(owner: Any, name: str, value: Any, where: str = "", default: Any = MISSING) -> Any:
    """`value` for a field of the class, or a parameter of the function, that declares its type and range.

    Args:
        owner: the class or function.
        where: what it is, for errors: "weighting 'p2'".
        default: of the parameter.

    Raises:
        ConfigError: of another type, out of range, or not finite.
    """
    try:
        return of_field(owner, name, value, default)
    except Wrong as wrong:
        raise ConfigError(f"`{name}`{where and f' of {where}'} {wrong}") from None


@functools.cache
def hints_of(owner: Any) -> dict[str, Any]:
    """The annotations of a class or a function by name; none of a plugin's that only a type checker can read."""
    try:
        return get_type_hints(owner, include_extras=True)
    except Exception:
        return {}


def _is_list(hint: Any) -> bool:
    return any(get_origin(_bare(kind)) is tuple for kind in members(_bare(hint)))


def bounded(value: Any, bounds: Iterable[Any]) -> Any:
    """`value`, whose numbers keep the bounds; of a tuple, each entry.

    Raises:
        Wrong: one does not.
    """
    limits = [(name, limit) for bound in bounds for name, limit in limits_of(bound)]
    for entry in value if isinstance(value, tuple) else (value,):
        if entry is not None and not all(KEPT[name](entry, limit) for name, limit in limits):
            raise Wrong(f"must be {in_words(limits)}, got {entry!r}.")
    return value


KEPT: dict[str, Callable[[Any, Any], bool]] = {
    "ge": operator.ge,
    "gt": operator.gt,
    "le": operator.le,
    "lt": operator.lt,
}


def limits_of(bound: Any) -> list[tuple[str, Any]]:
    """The limits of Ge, Gt, Le, Lt or Interval, as pairs such as ("ge", 1); none of any other marker."""
    return [(name, limit) for name in KEPT if (limit := getattr(bound, name, None)) is not None]


def in_words(limits: Iterable[tuple[str, Any]]) -> str:
    """The limits as words: "in [0, 1]", "at least 1"."""
    low = next(((name, limit) for name, limit in limits if name in ("ge", "gt")), None)
    high = next(((name, limit) for name, limit in limits if name in ("le", "lt")), None)
    if low and high:
        return f"in {'[' if low[0] == 'ge' else '('}{low[1]}, {high[1]}{']' if high[0] == 'le' else ')'}"
    name, limit = low or high or ("", "")
    return {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}[name] + f" {limit}"


def one_of(choices: Iterable[Any]) -> str:
    """The choices as words: "a, b or c"."""
    *rest, last = map(str, choices)
    return f"{', '.join(rest)} or {last}" if rest else last


def _int(value: Any, text: bool) -> int:
    if text:
        value = int(value) if re.fullmatch(r"\s*[+-]?[0-9]{1,30}\s*", str(value)) else value
    if isinstance(value, (bool, str)):
        raise Wrong(f"must be a whole number, got {reprlib.repr(value)}.")
    try:
        number = int(value) if isinstance(value, float) and value.is_integer() else operator.index(value)
    except TypeError:
        raise Wrong(f"must be a whole number, got {reprlib.repr(value)}.") from None
    if abs(number) >= 2**63:
        raise Wrong(f"must be below 2^63, got {number}.")
    return number


def _number(value: Any, text: bool) -> float:
    try:
        if isinstance(value, bool) or (isinstance(value, str) and not text):
            raise ValueError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise Wrong(f"must be a number, got {reprlib.repr(value)}.") from None


def _float(value: Any, text: bool) -> float:
    number = _number(value, text)
    if not math.isfinite(number):
        raise Wrong(f"must be finite, got {value}.")
    return number


def _bool(value: Any, text: bool) -> bool:
    known = {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(known, bool):
        raise Wrong(f"must be true or false, got {reprlib.repr(value)}.")
    return known


def _str(value: Any, _: bool) -> str:
    if not isinstance(value, str):
        raise Wrong(f"must be text, got {reprlib.repr(value)}.")
    return value


def _path(value: Any, _: bool) -> Path:
    if not isinstance(value, (str, os.PathLike)) or not str(value):
        raise Wrong(f"must be the path of a file or folder, got {reprlib.repr(value)}.")
    return Path(value)


PLAIN: dict[Any, Callable[[Any, bool], Any]] = {int: _int, float: _float, bool: _bool, str: _str, Path: _path}


def _choice(choices: tuple[Any, ...], value: Any, text: bool) -> Any:
    for choice in choices:
        if value == (str(choice) if text else choice) and (text or type(value) is type(choice)):
            return choice
    raise Wrong(f"must be {one_of(choices)}, got {reprlib.repr(value)}.")


def _of_union(kinds: tuple[Any, ...], value: Any, text: bool) -> Any:
    """The first that takes it; text stays text where that is allowed."""
    if value is None and types.NoneType in kinds:
        return None
    kinds = tuple(kind for kind in kinds if kind is not types.NoneType)
    if isinstance(value, str) and str in kinds:
        return value
    reasons = []
    for kind in kinds:
        try:
            return convert(kind, value, text=text)
        except Wrong as wrong:
            reasons.append(wrong)
    if len(reasons) == 1:
        raise reasons[0]
    said = " or ".join(dict.fromkeys(map(_wanted, kinds, reasons)))
    raise Wrong(f"must be {said}, got {reprlib.repr(value)}.")


def _wanted(kind: Any, reason: Wrong) -> str:
    members = get_args(kind) if get_origin(kind) is tuple else (...,)
    if members[-1] is not ...:
        return f"{len(members)} numbers with commas between them"
    return str(reason).partition(", got")[0].removeprefix("must be ")


def _tuple(kinds: tuple[Any, ...], value: Any, text: bool) -> tuple[Any, ...]:
    if kinds[1:] == (...,):
        return _list(kinds[0], value, text)
    parts = re.split("[,x]", value) if isinstance(value, str) else value  # 24x40 is a size
    text = text or isinstance(value, str)
    if not isinstance(parts, Iterable) or len(parts := list(parts)) != len(kinds):
        raise Wrong(
            f"must be {len(kinds)} numbers with commas between them (LOW,HIGH where two), got {reprlib.repr(value)}."
        )
    return tuple(convert(kind, part, text=text) for kind, part in zip(kinds, parts, strict=True))


def _list(kind: Any, value: Any, text: bool) -> tuple[Any, ...]:
    if isinstance(value, str):
        ranges = bool({int, str} & set(members(_bare(kind))))
        parts: Iterable[Any] = read_items(value) if ranges else [p for p in value.split(",") if p.strip()]
        text = True
    elif isinstance(value, Iterable) and not isinstance(value, Mapping):
        parts = value
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        parts = [value]
    else:
        raise Wrong(f"must be a list, got {reprlib.repr(value)}.")
    try:
        entries = tuple(convert(kind, part, text=text) for part in parts)
    except Wrong as wrong:
        if get_origin(_bare(kind)) is tuple:
            raise
        raise Wrong(f"must be a list such as {example(kind)}; each entry {wrong}") from None
    if not entries:
        raise Wrong("is an empty list. Leave it out, or give at least one entry.")
    return entries


def _bare(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def example(kind: Any) -> str:
    """A list of such entries, as text."""
    kinds = members(_bare(kind))
    return "0-9,cat" if str in kinds else "0-63 or 1,5,9" if int in kinds else "1,2.5"


def _dict(kind: Any, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise Wrong(f"must be a table of names and values, got {reprlib.repr(value)}.")
    for name in value:
        if not isinstance(name, str) or not name.strip():
            raise Wrong(f"must have names as keys, got {name!r}.")
    return {name: convert(kind, entry) for name, entry in value.items()}
