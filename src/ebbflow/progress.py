"""Long work: a generator yields how far it is and returns its result, so that whoever runs it may watch or stop it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

E = TypeVar("E")
T = TypeVar("T")


@dataclass(frozen=True)
class Stage:
    """How far one part of the work is: `done` of `total`; `note` says what is being done of it."""

    name: str
    done: int
    total: int
    note: str = ""


Work = Generator[Stage, None, T]


def finish(work: Generator[E, None, T], watch: Callable[[E], object] = lambda event: None) -> T:
    """Run `work` to its end, show `watch` what it yields on the way, and return its result."""
    while True:
        try:
            event = next(work)
        except StopIteration as end:
            return end.value
        watch(event)


def retold(work: Generator[E, None, T], tell: Callable[[E], Stage]) -> Work[T]:
    """`work` with what it yields told in other words."""
    while True:
        try:
            event = next(work)
        except StopIteration as end:
            return end.value
        yield tell(event)
