"""A command in several processes that a launcher started: they meet, rank 0 prints, and an error is said once."""

from __future__ import annotations

import io
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from typing import Any

from ebbflow.cli.errors import LOST

TOGETHER = ("train", "train-classifier", "train-autoencoder", "distill", "sample", "evaluate", "compare", "likelihood")
PATIENCE = 1.0  # seconds in which rank 0 may say the same first


def launched() -> bool:
    """Whether a launcher started several processes; needs no torch."""
    size = os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_STEP_NUM_TASKS") or "1"
    return size != "1"


def run_together(run: Callable[[Sequence[str]], int], arguments: Sequence[str], say: Callable[[str, int], int]) -> int:
    """Meet the other processes, run the command in all of them, and part; the exit code.

    Args:
        run: runs a command line, and prints what it has to say.
        arguments: the command line.
        say: prints an error and gives its exit code.
    """
    from ebbflow.training import world

    verb = next((one for one in arguments if not one.startswith("-")), "")
    try:
        its = world.launched()
        if verb not in TOGETHER or {"-h", "--help"} & {*arguments}:
            return run(arguments) if its.leads else 0
        store = world.join()
    except ValueError as error:
        return say(str(error), 2)
    try:
        if its.leads:
            return _ended(store, run(arguments))
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as kept:
            code = run(arguments)
        if code:  # a launcher ends the others when one fails, and this one has something to say
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
    finally:
        with suppress(RuntimeError):
            world.leave()
    said = kept.getvalue().strip().rpartition("\n")[2].removeprefix("ebbflow: ")
    if code in (0, 130) or _is_said(store, code):
        return _code(code)
    return say(f"process {its.rank} of {its.size}: {said}", _code(code))


def _ended(store: Any, code: int) -> int:
    """Tell the others how rank 0 ended, which has said so itself."""
    if code:
        with suppress(RuntimeError):
            store.set("ebbflow_ended", str(code))
        time.sleep(2 * PATIENCE)  # the others ask, and the answer may be kept in this process
    return _code(code)


def _code(code: int) -> int:
    return 2 if code == LOST else code


def _is_said(store: Any, code: int) -> bool:
    """Whether what a process has to say is said: by rank 0 where it failed alike, else by the first that comes here."""
    time.sleep(PATIENCE)
    try:
        if store.check(["ebbflow_ended"]) and (code == LOST or int(store.get("ebbflow_ended")) != LOST):
            return True
        return bool(store.add(f"ebbflow_says_{code}", 1) > 1)
    except RuntimeError:
        return False
