"""A request class and a function become a command: flags, help, and errors that name the flag."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from typer.core import TyperCommand

from ebbflow.errors import ConfigError
from ebbflow.requests.base import Entry, complete, entries, read_request, values
from ebbflow.requests.reading import members, read_value

EVERYWHERE = [
    ("--import MODULE", "A Python module of yours that adds samplers, paths, nets, data, ...; may be repeated."),
    ("--debug", "Show where an error comes from."),
    ("-h, --help", "Show this."),
]
REQUEST = ("--request FILE", "A TOML file of these options, such as num_steps = 20; flags lie on top of it.")


class Failed(Exception):
    """An error, its cause, while a request was served."""

    def __init__(self, cls: type[Any], request: Any) -> None:
        super().__init__(cls, request)
        self.cls, self.request = cls, request


def add(app: typer.Typer, name: str, cls: type[Any], function: Callable[[Any], int | None], example: str) -> None:
    """Give `app` the command `name`: its flags are the fields of `cls`, its help is the docstring of `cls`.

    Args:
        app: where it belongs.
        name: of the command.
        cls: a request class.
        function: takes the request and returns the exit code, None for 0.
        example: a command line that shows it.
    """

    def run(**given: Any) -> int:
        request = None
        try:
            request = read(cls, {key: value for key, value in given.items() if value not in (None, [])})
            return function(request) or 0
        except typer.Exit:
            raise
        except Exception as error:
            raise Failed(cls, request) from error

    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [_parameter(entry) for entry in entries(cls).values()]
        + [_keyword("request_file", Annotated[Path | None, typer.Option("--request")])]
    )
    text = f"{inspect.getdoc(cls)}\n\n\b\nExample:\n  {example}"
    app.command(name, cls=_help_of(cls), help=text, short_help=summary(cls))(run)


def summary(cls: type[Any]) -> str:
    """The first sentence of a request's docstring."""
    return " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split())


def read(cls: type[Any], given: Mapping[str, Any]) -> Any:
    """The request of what was given on the command line, over that of its file.

    Raises:
        ConfigError: a value that is none; the message names the flag.
    """
    file = given.get("request_file")
    base = {} if file is None else read_request(cls, file)
    texts = {}
    for name, value in given.items():
        if name != "request_file":
            entry = entries(cls)[name]
            texts[name] = table(value, entry) if get_origin(entry.kind) is dict else value
    flags = values(cls, texts, spell=spelling, text=True)
    for name, value in flags.items():
        if isinstance(value, dict):
            flags[name] = {**(base.get(name) or {}), **value}
    return complete(cls, {**base, **flags}, spell=spelling)


def table(settings: Sequence[str], entry: Entry) -> dict[str, Any]:
    """The names and values of repeated name=value flags."""
    found = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"{spelling(entry)} wants name=value, got {setting!r}. {entry.doc}")
        found[name.strip()] = read_value(value.strip())
    return found


def spelling(entry: Entry) -> str:
    """How the command line calls a field: its flag, or the name of its place."""
    return entry.flags[0] if entry.flags else place_name(entry)


def spelled(message: str, cls: type[Any] | None) -> str:
    """A message that calls fields `by_name`, with the flags of a request instead."""
    known = {} if cls is None else entries(cls)
    return re.sub(r"`(\w+)`", lambda found: spelling(known[found[1]]) if found[1] in known else found[0], message)


def place_name(entry: Entry) -> str:
    """RUNS, as the usage line has it."""
    return entry.name.upper()


def _keyword(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=None)


def _parameter(entry: Entry) -> inspect.Parameter:
    kind = bool if entry.kind is bool else Path if Path in (entry.kind, *get_args(entry.kind)) else str
    if entry.place:
        marker: Any = typer.Argument(metavar=place_name(entry) + ("..." if _is_list(entry) else ""))
        return _keyword(entry.name, Annotated[(list[kind] if _is_list(entry) else kind) | None, marker])  # type: ignore[valid-type]
    names = list(entry.flags)
    if entry.kind is bool and (entry.default is None or entry.default is True):
        names[0] += f"/--no-{names[0][2:]}"
    choices = get_args(entry.kind) if get_origin(entry.kind) is Literal else ()
    offered = [str(choice) for choice in choices]
    option = typer.Option(*names, autocompletion=(lambda: offered) if offered else None)
    return _keyword(entry.name, Annotated[(list[kind] if entry.many else kind) | None, option])  # type: ignore[valid-type]


def _is_list(entry: Entry) -> bool:
    return get_origin(entry.kind) is tuple


def _help_of(cls: type[Any]) -> type[TyperCommand]:
    """A command whose options are listed in the groups of the request."""

    class Described(TyperCommand):
        def format_options(self, ctx: Any, formatter: Any) -> None:
            for title, rows in sections(cls).items():
                with formatter.section(title):
                    formatter.write_dl(rows, col_max=26)

    return Described


def sections(cls: type[Any]) -> dict[str, list[tuple[str, str]]]:
    """The help of a request: title of a group -> flag and sentence."""
    shown = [entry for entry in entries(cls).values() if not entry.hidden]
    found: dict[str, list[tuple[str, str]]] = {"Options": []}
    for entry in shown:
        if not entry.group:
            found["Options"].append(help_row(entry))
    for entry in shown:
        if entry.group:
            found.setdefault(entry.group, []).append(help_row(entry))
    found["Everywhere"] = [REQUEST, *EVERYWHERE]
    return {title: rows for title, rows in found.items() if rows}


def help_row(entry: Entry) -> tuple[str, str]:
    """The flag with what it takes, and what it does, its default, and whether it must be given."""
    if entry.place:
        flag = place_name(entry) + ("..." if _is_list(entry) else "")
    elif entry.kind is bool:
        flag = entry.flags[0] + (f"/--no-{entry.flags[0][2:]}" if entry.default in (None, True) else "")
    else:
        flag = f"{entry.flags[0]} {takes(entry)}"
    notes = ["required"] if entry.required else [f"default: {shown}"] if (shown := in_text(entry.default)) else []
    notes += ["may be repeated"] if entry.many else []
    return flag, entry.doc + (f" [{'; '.join(notes)}]" if notes else "")


def takes(entry: Entry) -> str:
    """What a flag wants: N, NUMBER, PATH, a list, or its choices."""
    return _wants(get_args(entry.kind)[0] if entry.each else entry.kind)


def _wants(kind: Any) -> str:
    origin, of = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "|".join(map(str, of))
    if origin is Annotated:
        return _wants(of[0])
    if origin is dict:
        return "NAME=VALUE"
    if origin is tuple:
        return f"{_wants(of[0])},..." if of[1:] == (...,) else "LOW,HIGH"
    names = {int: "N", float: "NUMBER", Path: "PATH"}
    return next((names[one] for one in members(kind) if one in names and str not in members(kind)), "TEXT")


def in_text(default: Any) -> str:
    """A default as the flag would take it; "" where there is nothing to say."""
    if isinstance(default, tuple):
        return ",".join(map(in_text, default))
    if isinstance(default, float):
        return f"{default:g}"
    return str(default) if isinstance(default, (str, int, Path)) and not isinstance(default, bool) else ""
