"""What a request is: the markers of its fields, what is told of them, and how one is made from keywords or a file."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from ebbflow.documents import read_toml, unread
from ebbflow.errors import ConfigError, nearest
from ebbflow.values import Wrong, bounded, convert, limits_of, members, one_of

R = TypeVar("R")
T = TypeVar("T")


@dataclass(frozen=True)
class Doc:
    """What a field means, in one sentence: its help, and its line of a docstring."""

    text: str


@dataclass(frozen=True, init=False)
class Flag:
    """How a field is spelled on the command line.

    Args:
        names: its spellings, the first one is shown; none for `--` and the field's name with hyphens.
        each: repeated, one entry each time; a tuple is otherwise read from one list with commas.
        hidden: not in the help.
    """

    names: tuple[str, ...]
    each: bool
    hidden: bool

    def __init__(self, *names: str, each: bool = False, hidden: bool = False) -> None:
        for key, value in {"names": names, "each": each, "hidden": hidden}.items():
            object.__setattr__(self, key, value)


@dataclass(frozen=True)
class Place:
    """On the command line the field is told by its place, not by a flag, unless it has a `Flag` too.

    Args:
        name: how it is called; "" for the field's own name.
    """

    name: str = ""


@dataclass(frozen=True, init=False)
class Ending:
    """The suffixes that a file may have."""

    suffixes: tuple[str, ...]

    def __init__(self, *suffixes: str) -> None:
        object.__setattr__(self, "suffixes", suffixes)

    def checked(self, value: Any) -> Any:
        """The path.

        Raises:
            Wrong: it ends otherwise.
        """
        if value is not None and value.suffix.lower() not in self.suffixes:
            raise Wrong(f"must be a file ending in {one_of(self.suffixes)}, got {str(value)!r}.")
        return value


@dataclass(frozen=True)
class Sets:
    """The key of a configuration, "section.key", that the field sets where it is given."""

    key: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is known of a field of a request.

    Args:
        name: its name, a keyword of the Python function and a key of a file.
        kind: its type without markers and None.
        default: `MISSING` where it must be given.
        doc: its sentence.
        bounds: markers of `annotated_types`; of a tuple, for its entries.
        ending: which files it may name.
        sets: the key of a configuration that it sets; "" for none.
        optional: None is a value of it.
        flags: its spellings on the command line.
        each, hidden: as in `Flag`.
        place: how it is called where it is told by its place; "" for not.
        group: the first sentence of the class that declares it; "" for one of a request, not of a part of several.
    """

    name: str
    kind: Any
    default: Any
    doc: str
    bounds: tuple[Any, ...]
    ending: Ending | None
    sets: str
    optional: bool
    flags: tuple[str, ...]
    each: bool
    hidden: bool
    place: str
    group: str

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is MISSING

    @property
    def many(self) -> bool:
        """Whether its flag may be repeated: one entry, or one name=value, each time."""
        return self.each or get_origin(self.kind) is dict

    def value(self, given: Any, *, text: bool = False) -> Any:
        """What was given as a value of this field.

        Raises:
            Wrong: it is none.
        """
        if given is None and self.optional:
            return None
        value = bounded(convert(self.kind, given, text=text), self.bounds)
        return value if self.ending is None else self.ending.checked(value)


RENAMED = {"known": "mask"}  # names of before: names of now
Spell = Callable[[Entry], str]


def by_name(entry: Entry) -> str:
    """`name`, as errors call a field in Python."""
    return f"`{entry.name}`"


def entries(cls: type[Any]) -> dict[str, Entry]:
    """The fields of a request class by name, in their order."""
    return _entries(cast(Hashable, cls))


@functools.cache
def _entries(cls: Any) -> dict[str, Entry]:
    hints = get_type_hints(cls, include_extras=True)
    return {f.name: _entry(cls, f, hints[f.name]) for f in fields(cls)}


def _entry(cls: type[Any], field: Field[Any], hint: Any) -> Entry:
    kind, markers, optional = _bare(hint)
    flag = next((m for m in markers if isinstance(m, Flag)), None)
    place = next((m.name or field.name.upper() for m in markers if isinstance(m, Place)), "")
    spellings = flag.names if flag and flag.names else (f"--{field.name.replace('_', '-').strip('-')}",)
    owner = next(c for c in reversed(cls.__mro__) if field.name in getattr(c, "__annotations__", {}))
    return Entry(
        name=field.name,
        kind=kind,
        default=field.default if field.default_factory is MISSING else field.default_factory(),
        doc=next((m.text for m in markers if isinstance(m, Doc)), ""),
        bounds=tuple(m for m in markers if limits_of(m)),
        ending=next((m for m in markers if isinstance(m, Ending)), None),
        sets=next((m.key for m in markers if isinstance(m, Sets)), ""),
        optional=optional,
        flags=() if place and flag is None else spellings,
        each=flag is not None and flag.each,
        hidden=flag is not None and flag.hidden,
        place=place,
        group="" if owner is cls or owner.__name__.endswith(("Request", "Command")) else title(owner),
    )


def _bare(hint: Any) -> tuple[Any, tuple[Any, ...], bool]:
    """A type without its markers and without None, its markers, and whether None was there."""
    markers: tuple[Any, ...] = ()
    optional = False
    while True:
        if get_origin(hint) is Annotated:
            hint, *more = get_args(hint)
            markers += tuple(reversed(more))
        elif len(parts := members(hint)) > 1 and types.NoneType in parts:
            optional = True
            hint = Union[tuple(part for part in parts if part is not types.NoneType)]  # noqa: UP007
        else:
            return hint, markers, optional or hint is Any


def title(documented: Any) -> str:
    """The first sentence of a docstring, up to a semicolon."""
    return " ".join((inspect.getdoc(documented) or "").split("\n\n")[0].split(";")[0].split()).removesuffix(".")


def values(cls: type[Any], given: Mapping[str, Any], *, spell: Spell = by_name, text: bool = False) -> dict[str, Any]:
    """What was given by field name, each read, of its type and in its range.

    Args:
        cls: a request class.
        given: values by name of the field; with `text`, text as on a command line.
        spell: how errors call a field.

    Raises:
        ConfigError: a value that is none; the field is named as `spell` says.
    """
    read = {}
    for name, value in given.items():
        entry = entries(cls)[name]
        try:
            read[name] = entry.value(value, text=text)
        except Wrong as wrong:
            raise ConfigError(f"{spell(entry)} {wrong}") from None
    return read


def known(cls: type[Any], names: Iterable[str], what: str) -> None:
    """Raise a ConfigError unless all names are fields of the request; `what` has them, such as "sample"."""
    for name in names:
        if name not in entries(cls):
            raise ConfigError(f"unknown argument {name!r} of {what}. {now_called(name, entries(cls))}")


def now_called(name: str, known: Iterable[str]) -> str:
    """What an unknown name may have meant: its new one, or those that come near."""
    return f"It is now {RENAMED[name]!r}; see docs/words.md." if name in RENAMED else nearest(name, list(known))


def complete(cls: type[T], given: Mapping[str, Any], *, spell: Spell = by_name) -> T:
    """The request of values that have been read.

    Raises:
        ConfigError: a field that must be given is missing, or what the request itself finds.
    """
    for entry in entries(cls).values():
        if entry.required and entry.name not in given:
            raise ConfigError(f"{spell(entry)} is missing. {entry.doc}")
    return cls(**given)


def from_keywords(cls: type[T], /, **given: Any) -> T:
    """The request of keywords.

    Args:
        cls: a request class.
        given: its fields; lists, pairs and tables may also be the text that a flag takes, such as "0-9,cat".

    Raises:
        ConfigError: an unknown name, a value of another type or out of range, or one that is missing.
    """
    known(cls, given, "this call")
    return complete(cls, values(cls, given))


def read_request(cls: type[Any], path: Path) -> dict[str, Any]:
    """The fields that a TOML file sets, read and checked.

    Raises:
        ConfigError: missing or malformed; an unknown name, a value of another type or out of range.
    """
    try:
        given = read_toml(path)
    except FileNotFoundError as error:
        raise ConfigError(f"request file {path} does not exist.") from error
    except (Wrong, OSError) as error:
        raise ConfigError(f"request file {path} cannot be read: {unread(error)}") from error
    given = {name.replace("-", "_"): value for name, value in given.items()}
    known(cls, given, str(path))
    return values(cls, given, spell=lambda entry: f"{path}: {entry.name}")


def check(request: T) -> T:
    """The request with every field of its type: lists as tuples, text forms read.

    Raises:
        ConfigError: a value of another type or out of range.
    """
    return complete(type(request), values(type(request), vars(request)))


def narrowed(cls: type[T], request: Any, **given: Any) -> T:
    """The request of another class that has the fields which both have, and `given` on top."""
    shared = entries(cls).keys() & entries(type(request)).keys()
    return cls(**{**{name: getattr(request, name) for name in shared}, **given})


def takes(cls: type[Any], *, without: Iterable[str] = ()) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Make a function of a request, its last parameter, into one of the request's keywords.

    `inspect.signature` shows the keywords with their types and defaults, the docstring lists them, and `__wrapped__` is
    the function of the request.

    Args:
        cls: the request class.
        without: fields that Python does not need, such as where a command writes; they keep their defaults.

    The function then raises a ConfigError for an unknown keyword, and as `from_keywords`.
    """
    hidden = tuple(without)

    def wrap(function: Callable[..., R]) -> Callable[..., R]:
        *own, _ = inspect.signature(function).parameters.values()
        kept = [entry for entry in entries(cls).values() if entry.name not in (*hidden, *(p.name for p in own))]
        front = inspect.Signature(own)

        @functools.wraps(function)
        def call(*args: Any, **given: Any) -> R:
            bound = front.bind(*args, **{name: given.pop(name) for name in front.parameters if name in given})
            for name in given:
                if name not in (names := [entry.name for entry in kept]):
                    raise ConfigError(f"unknown argument {name!r} of {function.__name__}. {now_called(name, names)}")
            shared = {name: value for name, value in bound.arguments.items() if name in entries(cls)}
            return function(*bound.args, from_keywords(cls, **shared, **given), **bound.kwargs)

        call.__doc__ = documented(inspect.getdoc(function) or "", kept)
        call.__signature__ = front.replace(parameters=[*own, *map(_parameter, kept)])  # type: ignore[attr-defined]
        return call

    return wrap


def _parameter(entry: Entry) -> inspect.Parameter:
    kind = entry.kind if not entry.optional else entry.kind | None
    default = inspect.Parameter.empty if entry.required else entry.default
    return inspect.Parameter(entry.name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)


def documented(text: str, kept: Iterable[Entry]) -> str:
    """A docstring with a line for each keyword, before its Raises."""
    lines = "".join(f"    {entry.name}: {entry.doc}\n" for entry in kept)
    head, raises, rest = text.partition("\nRaises:")
    joint = "" if "\nArgs:" in head else "\n\nArgs:"
    return f"{head.rstrip()}{joint}\n{lines}{raises}{rest}"
