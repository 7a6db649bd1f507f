"""Errors as sentences: what the user can mend, what only memory can, and what is a bug of ours."""

from __future__ import annotations

import dis
import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from ebbflow.cli.command import spelled
from ebbflow.errors import CheckpointError, ConfigError, DataError
from ebbflow.plugins import is_of_a_plugin

PACKAGE = Path(__file__).parents[1]
MENDABLE = (ConfigError, CheckpointError, DataError)
ON_PURPOSE = (ValueError, ImportError, FloatingPointError)  # the user's where ebbflow or a plugin raises them
BUG = 70  # as sysexits.h has it: an internal software error
LOST = 75  # and a failure for a time: another process of the same work ended


class OutOfMemory(Exception):
    """Memory ran out, its cause, at this batch size."""

    def __init__(self, batch_size: int) -> None:
        super().__init__(batch_size)
        self.batch_size = batch_size


@contextmanager
def at_batch_size(batch_size: int) -> Iterator[None]:
    """Say of memory that runs out inside at which batch size it did."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise OutOfMemory(batch_size) from error


def out_of_memory(error: BaseException) -> bool:
    """Whether memory, of the device or the machine, ran out."""
    if isinstance(error, (MemoryError, OutOfMemory)) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and bool(
        re.search(r"can't allocate memory|not enough memory|out of memory", str(error))
    )


def explained(error: BaseException, cls: type[Any] | None = None, request: Any = None) -> tuple[str, int]:
    """What to say of an error, and the exit code: 2 for what the user can mend, 70 for a bug of ours.

    Args:
        error: the error.
        cls: the class of the request that was served; its flags are named.
        request: the request, as far as it came.
    """
    if out_of_memory(error):
        return _memory(error, getattr(request, "batch_size", None)), 2
    if isinstance(error, MENDABLE) or (isinstance(error, ON_PURPOSE) and on_purpose(error)):
        return spelled(str(error), cls), 2
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        place = error.filename or "while writing"
        return f"the disk is full ({place}). Free some space and run the same command again.", 2
    if isinstance(error, ConnectionAbortedError) and error.strerror:
        return error.strerror, LOST
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror, 2
    if plugin := _plugin_of(error):
        return f"{plugin} raised {type(error).__name__}: {error}. `--debug` shows where it comes from.", 2
    return (
        f"this is a bug of ebbflow: {type(error).__name__}: {error}{_where(error)}. "
        "Run the same command with --debug and report what it prints.",
        BUG,
    )


def on_purpose(error: BaseException) -> bool:
    """Whether a `raise` of ebbflow, or of a plugin, made the error, and not a call that it made into something else."""
    if not (places := _places(error)):
        return False
    code = places[-1].tb_frame.f_code
    raised = dis.opname[code.co_code[places[-1].tb_lasti]] == "RAISE_VARARGS"
    return raised and (_ours(code.co_filename) or is_of_a_plugin(_module(places[-1])))


def _places(error: BaseException) -> list[TracebackType]:
    """Where an error came through, the place that it came from last."""
    found, place = [], error.__traceback__
    while place is not None:
        found.append(place)
        place = place.tb_next
    return found


def _module(place: TracebackType) -> str:
    return str(place.tb_frame.f_globals.get("__name__", ""))


def _plugin_of(error: BaseException) -> str:
    """The line of a plugin that made the error, where what came after it is neither the plugin's nor ours."""
    for place in reversed(_places(error)):
        file = place.tb_frame.f_code.co_filename
        if is_of_a_plugin(_module(place)):
            return f"the plugin in {file}, line {place.tb_lineno},"
        if _ours(file):
            break
    return ""


def _ours(file: str) -> bool:
    return Path(file).is_relative_to(PACKAGE)


def _where(error: BaseException) -> str:
    """The last line of ours that the error came through."""
    lines = [(Path(one.tb_frame.f_code.co_filename), one.tb_lineno) for one in _places(error)]
    return next((f" ({f.relative_to(PACKAGE)}, line {n})" for f, n in reversed(lines) if _ours(str(f))), "")


def _memory(error: BaseException, batch_size: int | None) -> str:
    batch_size = error.batch_size if isinstance(error, OutOfMemory) else batch_size
    if batch_size is None:
        return "there is not enough memory for this. Take a smaller --batch-size, smaller images or a smaller net."
    if batch_size < 2:
        return "there is not enough memory even for a batch of one. Take smaller images or a smaller net."
    return f"there is not enough memory for a batch of {batch_size}. Try --batch-size {batch_size // 2}."
