"""Long work: a generator yields how far it is and returns its result, so that whoever runs it may watch or stop it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from tqdm import tqdm

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


class Bars:
    """A bar for each stage of a work, the next where the last one was.

    Args:
        unit: of what is counted.
        visible: whether there is anybody to see it.
    """

    def __init__(self, unit: str = "it", *, visible: bool) -> None:
        self._unit, self._visible, self._name = unit, visible, ""
        self._bar: tqdm[Any] | None = None

    def __call__(self, stage: Stage) -> bool:
        """Show how far it is; whether a stage begins."""
        from tqdm import tqdm

        begins = self._bar is None or stage.name != self._name
        if begins:
            self.close()
            self._bar = tqdm(
                total=stage.total, unit=self._unit, disable=not self._visible, leave=False, dynamic_ncols=True
            )
        assert self._bar is not None
        self._name, self._bar.n, self._bar.total = stage.name, stage.done, stage.total
        self._bar.set_description(stage.note or stage.name)
        return begins

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()


def retold(work: Generator[E, None, T], tell: Callable[[E], Stage]) -> Work[T]:
    """`work` with what it yields told in other words."""
    while True:
        try:
            event = next(work)
        except StopIteration as end:
            return end.value
        yield tell(event)
