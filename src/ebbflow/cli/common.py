"""What several commands share: printing tables and JSON, remembering the command."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def this_command() -> str:
    """The command line of this process, ready to be pasted."""
    return shlex.join(["ebbflow", *sys.argv[1:]])


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, indent=2))


def print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of equal keys as aligned columns; the last column wraps freely."""
    if not rows:
        return
    keys = list(rows[0])
    widths = {key: max(len(str(row[key])) for row in rows) for key in keys[:-1]}
    for row in rows:
        print("  ".join([*(str(row[key]).ljust(widths[key]) for key in keys[:-1]), str(row[keys[-1]])]).rstrip())
