"""Small files of text, TOML and JSON that may be anybody's: regular, short, and of the kind that is asked for."""

from __future__ import annotations

import json
import re
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, overload

from ebbflow.values import Wrong, convert

T = TypeVar("T")
LARGEST = 16 << 20  # bytes of a document
LONGEST = 4 << 20  # bytes of a line of one that has many


def regular(path: Path, largest: int | None = None) -> Path:
    """The path of a file, not of a pipe, a device, a socket or a folder, nor of a file above `largest` bytes.

    Raises:
        Wrong: it is one of those.
        OSError: it is not there, or may not be looked at.
    """
    found = path.stat()
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}
    if not stat.S_ISREG(found.st_mode):
        raise Wrong(f"is {kinds.get(stat.S_IFMT(found.st_mode), 'a device')}, and a file is wanted.")
    if largest is not None and found.st_size > largest:
        raise Wrong(f"has {found.st_size:,} bytes, and at most {largest:,} are read here.")
    return path


def read_text(path: Path, largest: int = LARGEST) -> str:
    """What a file of text says.

    Raises:
        Wrong: it is no file, too large or not UTF-8.
        OSError: it cannot be read.
    """
    try:
        return regular(path, largest).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise Wrong(f"is not UTF-8 text: byte {error.start}.") from None


def unread(error: Exception) -> str:
    """Why a file could not be read, after its name: "it is a pipe, and a file is wanted."."""
    return f"it {error}" if isinstance(error, Wrong) else f"{getattr(error, 'strerror', None) or error}."


def read_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, without their ends; one that is too long is not held in memory, and is empty here.

    Raises:
        Wrong: it is no file.
        OSError: it cannot be read.
    """
    with regular(path).open("rb") as file:
        while line := file.readline(LONGEST):
            whole = len(line) < LONGEST or line.endswith(b"\n")
            while not whole:
                more = file.readline(LONGEST)
                line, whole = b"", len(more) < LONGEST or more.endswith(b"\n")
            yield line.rstrip(b"\r\n")


def read_toml(path: Path) -> dict[str, Any]:
    """The table of a TOML file.

    Raises:
        Wrong: as in `read_text`; no TOML, or nested too deeply.
        OSError: it cannot be read.
    """
    try:
        return tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise Wrong(f"is no TOML: {error}.") from None
    except RecursionError:
        raise Wrong("is nested too deeply.") from None


@overload
def parsed(text: str | bytes, kind: type[T]) -> T: ...
@overload
def parsed(text: str | bytes, kind: Any = Any) -> Any: ...
def parsed(text: str | bytes, kind: Any = Any) -> Any:
    """What JSON says, as a `kind`; see `values.convert`.

    Raises:
        Wrong: no JSON, nested too deeply, or of another kind.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        deep = isinstance(error, RecursionError)
        raise Wrong("is nested too deeply." if deep else f"is no JSON: {error}.") from None
    return found if kind is Any else convert(kind, found)


def read_json(path: Path, kind: Any = Any) -> Any:
    """What a JSON file says, as a `kind`.

    Raises:
        Wrong: as in `read_text` and `parsed`.
        OSError: it cannot be read.
    """
    return parsed(read_text(path), kind)


def in_markdown(text: str) -> str:
    """Words of anybody's in a page of Markdown, where they are no tags, links or code."""
    return re.sub(r"[<>&`\[\]|]", lambda found: f"&#{ord(found[0])};", text)


def fenced(text: str) -> str:
    """A block of code in Markdown, which nothing inside can end."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}\n"
