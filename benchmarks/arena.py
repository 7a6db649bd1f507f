"""The parent's side: contestants as child processes, taking turns."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import IO, Any, Self

from benchmarks.environments import ROOT, EnvironmentFailed, environment, python_of


class ContestantFailed(RuntimeError):
    """A contestant that answered with an error, or not at all."""


class Handle:
    """A contestant's process; use as a context."""

    def __init__(self, command: list[str], env: Mapping[str, str], log: IO[str] | None = None) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=dict(env), cwd=ROOT
        )
        try:
            self._answer()
        except ContestantFailed:
            self.close()
            raise

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            ContestantFailed: it is an error, or the process has ended.
        """
        assert self.process.stdin is not None
        try:
            print(json.dumps({"do": do, **fields}), file=self.process.stdin, flush=True)
        except BrokenPipeError as error:
            raise ContestantFailed("its process has ended") from error
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found: dict[str, Any] = json.loads(line) if line else {"error": "its process has ended"}
        if "error" in found:
            raise ContestantFailed(found["error"])
        return found

    def close(self) -> None:
        """End the process."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def opened(name: str, *, cache: Path, threads: int, data_dir: Path | None, log: IO[str] | None = None) -> Handle:
    """A contestant, started.

    Raises:
        ContestantFailed: its environment cannot be made, or it does not start.
    """
    try:
        python = python_of(name, cache)
    except EnvironmentFailed as error:
        raise ContestantFailed(f"its environment could not be made: {error}") from error
    command = [str(python), "-m", "benchmarks.child", name, *([] if data_dir is None else [str(data_dir)])]
    return Handle(command, environment(threads, data_dir), log)


def turns(names: Iterable[str], run: Callable[[str], float], rounds: int) -> dict[str, list[float]]:
    """Figures of each in rounds A B C, A B C, so that a slow minute is everybody's; all have run once before."""
    names = list(names)
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            found[name].append(run(name))
    return found


def ratios(seconds: Mapping[str, list[float]], to: str) -> dict[str, dict[str, float]]:
    """How many times as fast as `to` each is: the median of the ratios within a round, their least and greatest."""
    found = {}
    for name, own in seconds.items():
        each = [theirs / ours for theirs, ours in zip(seconds[to], own, strict=True)]
        found[name] = {"median": median(each), "least": min(each), "greatest": max(each)}
    return found


def best(seconds: Mapping[str, list[float]], among: Iterable[str]) -> str | None:
    """The fastest of some by its median; None where none of them has figures."""
    known = [name for name in among if seconds.get(name)]
    return min(known, key=lambda name: median(seconds[name]), default=None)


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)
