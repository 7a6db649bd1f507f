"""What several commands share: printing tables and JSON, remembering the command."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def this_command(instead: Mapping[str, str] | None = None) -> str:
    """The command line of this process, ready to be pasted; with flags and values in the place of those flags."""
    kept, given = [], iter(sys.argv[1:])
    for one in given:
        name, equals, _ = one.partition("=")
        if name not in (instead or {}):
            kept.append(one)
        elif not equals:
            next(given, None)
    return shlex.join(["ebbflow", *kept, *(part for pair in (instead or {}).items() for part in pair)])


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(plain(value), indent=2, allow_nan=False))


def plain(value: Any) -> Any:
    """The value with "nan" and "inf" as text, which JSON has no numbers for."""
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def print_rows(rows: Sequence[Mapping[str, Any]], *, headed: bool = False) -> None:
    """Rows of equal keys as `print_lines`, below their keys where `headed`."""
    if rows:
        keys = list(rows[0])
        print_lines([*([keys] if headed else []), *([row[key] for key in keys] for row in rows)])


def print_lines(lines: Sequence[Sequence[Any]]) -> None:
    """Lines of equally many entries as aligned columns; the last column wraps freely."""
    words = [[visible(entry) for entry in line] for line in lines]
    widths = [*(max(map(len, column)) for column in list(zip(*words, strict=True))[:-1]), 0]
    for line in words:
        print("  ".join(map(str.ljust, line, widths)).rstrip())


def visible(value: Any) -> str:
    """The value as text that moves no cursor: what a file of others holds may reach the terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(value))
