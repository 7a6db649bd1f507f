"""A request class and a function become a command: flags, help, and errors that name the flag."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import click
from click.shell_completion import CompletionItem

from ebbflow.errors import ConfigError
from ebbflow.files import require_file, require_place
from ebbflow.requests.base import Entry, complete, entries, read_request, values
from ebbflow.values import members, read_value

EVERYWHERE = [
    ("--request FILE", "A TOML file of these options, such as seed = 3; flags lie on top of it."),
    ("--import MODULE", "A module of yours that adds samplers, paths, nets, data, ...; may be repeated."),
    ("--debug", "Show where an error comes from."),
    ("-h, --help", "Show this."),
]
OUTPUTS = ("output", "trajectory", "into", "save_dir")  # fields that name what is written
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class Failed(Exception):
    """An error, its cause, while a request was served."""

    def __init__(self, cls: type[Any], request: Any) -> None:
        super().__init__(cls, request)
        self.cls, self.request = cls, request


class RequestCommand(click.Command):
    """A command whose flags are the fields of a request class.

    Args:
        name: of the command.
        cls: the request class.
        function: takes the request and returns the exit code, None for 0; its docstring is the help.
        example: a command line that shows it.
    """

    def __init__(self, name: str, cls: type[Any], function: Callable[[Any], int | None], example: str) -> None:
        text = f"{inspect.getdoc(function)}\n\n\b\nExample:\n  {example}"
        params = [param for entry in entries(cls).values() for param in _params(entry)]
        params.append(click.Option(["request_file", "--request"], type=click.Path()))
        super().__init__(name, params=params, help=text, context_settings=SETTINGS, callback=self.serve)
        self.cls, self.function = cls, function

    def read(self, arguments: Sequence[str]) -> Any:
        """The request that these arguments make.

        Raises:
            click.UsageError: an unknown flag.
            ConfigError: a value that is none; the message names the flag.
        """
        return self.request_of(self.make_context(self.name, list(arguments)).params)

    def request_of(self, given: Mapping[str, Any]) -> Any:
        """The request of parsed flags."""
        return read(self.cls, {name: value for name, value in given.items() if value not in (None, ())})

    def serve(self, **given: Any) -> int:
        """Read the request and call the function with it.

        Raises:
            Failed: it could not be read or served.
        """
        request = None
        try:
            request = self.request_of(given)
            require_outputs(request)
            return self.function(request) or 0
        except (click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:
            raise Failed(self.cls, request) from error

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options, in the groups of the request."""
        for title, rows in sections(self.cls).items():
            with formatter.section(title):
                formatter.write_dl(rows, col_max=26)


def require_outputs(request: Any) -> None:
    """Refuse what cannot be written before there is work to lose.

    Raises:
        OSError: an output's place cannot be written, or is taken by what is no file.
    """
    for name in OUTPUTS:
        path = getattr(request, name, None)
        if path is not None and not getattr(request, "dry_run", False):
            if path.suffix and name != "save_dir":
                require_file(path)
            require_place(path)


def read(cls: type[Any], given: Mapping[str, Any]) -> Any:
    """The request of what was given on the command line, over that of its file.

    Raises:
        ConfigError: a value that is none; the message names the flag.
    """
    file = given.get("request_file")
    base = {} if file is None else read_request(cls, Path(file))
    texts: dict[str, Any] = {}
    for name, value in given.items():
        entry = entries(cls).get(name.partition(BY_FLAG)[0])
        if entry is None:
            continue
        if entry.name in texts:
            names = [entry.place, *entry.flags] if entry.place else entry.flags
            raise ConfigError(f"{' and '.join(names)} say the same. Give one.")
        texts[entry.name] = table(value, entry) if get_origin(entry.kind) is dict else value
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
    return entry.flags[0] if entry.flags else entry.place


def spelled(message: str, cls: type[Any] | None) -> str:
    """A message that calls fields `by_name`, or by the key that they set, with the flags of a request instead."""
    known = {"import": "--import"}
    for entry in entries(cls).values() if cls else ():
        known |= {name: spelling(entry) for name in (entry.sets.rpartition(".")[2], entry.sets, entry.name) if name}
    return re.sub(r"`([\w.]+)`", lambda found: known.get(found[1], found[0]), message)


# -- flags -------------------------------------------------------------------------------------------------------------

BY_FLAG = "__by_flag_"  # and a number: each spelling is a parameter of its own, so that two of them can be told


def _params(entry: Entry) -> list[click.Parameter]:
    kind = click.Path() if Path in (entry.kind, *get_args(entry.kind)) else click.STRING
    found: list[click.Parameter] = []
    if entry.place:
        number = -1 if get_origin(entry.kind) is tuple else 1
        shown = in_place(entry) if entry.required else f"[{in_place(entry)}]"
        found.append(click.Argument([entry.name], nargs=number, required=False, type=kind, metavar=shown))
    for i, flag in enumerate(entry.flags):
        name = f"{entry.name}{BY_FLAG}{i}"
        if entry.kind is bool:
            found.append(click.Option([name, _switch(entry, flag)], is_flag=True, default=None))
        else:
            completion = _completion(entry)
            found.append(click.Option([name, flag], multiple=entry.many, type=kind, shell_complete=completion))
    return found


def _switch(entry: Entry, flag: str) -> str:
    """--clip/--no-clip where it could be on, --quick where it is off."""
    return f"{flag}/--no-{flag[2:]}" if entry.default in (None, True) else flag


def _completion(entry: Entry) -> Callable[..., list[CompletionItem]] | None:
    if get_origin(entry.kind) is not Literal:
        return None
    choices = [str(choice) for choice in get_args(entry.kind)]
    return lambda ctx, param, start: [CompletionItem(choice) for choice in choices if choice.startswith(start)]


# -- help --------------------------------------------------------------------------------------------------------------


def sections(cls: type[Any]) -> dict[str, list[tuple[str, str]]]:
    """The help of a request: title of a group -> flag and sentence; what must be given and the request's own come
    first, what all commands have comes last."""
    found: dict[str, list[tuple[str, str]]] = {"Required": [], "Options": []}
    for entry in entries(cls).values():
        if not entry.hidden:
            group = "Required" if entry.required else entry.group or "Options"
            found.setdefault(group, []).append(help_row(entry))
    last = found.pop("Everywhere", []) + EVERYWHERE
    return {title: rows for title, rows in {**found, "Everywhere": last}.items() if rows}


def help_row(entry: Entry) -> tuple[str, str]:
    """The flag with what it takes, and what it does, its default, and whether it must be given."""
    if entry.place:
        flag = " or ".join([in_place(entry), *entry.flags])
    elif entry.kind is bool:
        flag = _switch(entry, entry.flags[0])
    else:
        flag = f"{entry.flags[0]} {wants(get_args(entry.kind)[0] if entry.each else entry.kind)}"
    notes = ["required"] if entry.required else [f"default: {shown}"] if (shown := in_text(entry.default)) else []
    notes += ["may be repeated"] if entry.many else []
    return flag, entry.doc + (f" [{'; '.join(notes)}]" if notes else "")


def in_place(entry: Entry) -> str:
    """What stands for a field that is told by its place."""
    return entry.place + ("..." if get_origin(entry.kind) is tuple else "")


def wants(kind: Any) -> str:
    """What a flag takes: N, NUMBER, PATH, TEXT, a list of them, a pair, or its choices."""
    origin, of = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "|".join(map(str, of))
    if origin is Annotated:
        return wants(of[0])
    if origin is dict:
        return "NAME=VALUE"
    if origin is tuple:
        return f"{wants(of[0])},..." if of[1:] == (...,) else "LOW,HIGH"
    names = {int: "N", float: "NUMBER", Path: "PATH"}
    return "TEXT" if str in members(kind) else next((names[one] for one in members(kind) if one in names), "TEXT")


def in_text(default: Any) -> str:
    """A default as the flag would take it; "" where there is nothing to say."""
    if isinstance(default, tuple):
        return ",".join(map(in_text, default))
    if isinstance(default, float):
        return f"{default:g}"
    return str(default) if isinstance(default, (str, int, Path)) and not isinstance(default, bool) else ""
