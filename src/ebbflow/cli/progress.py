"""What is shown while work is done, and how it is stopped."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, TypeVar

import click

from ebbflow.cli.together import launched
from ebbflow.progress import Bars, Stage, Work, finish

BY_BATCH = "stopped; the same command goes on from the last finished batch."
T = TypeVar("T")
ECHO = 5.0  # seconds in which a launcher passes on a signal that its processes had from the terminal too
HANGUP = getattr(signal, "SIGHUP", None)  # Windows has none


def tell(line: str) -> None:
    """Print a line; where nobody reads any more, work goes on in silence."""
    _say(line, sys.stdout)


def warn(line: str) -> None:
    """Print a line as one of errors; where the terminal is gone, work goes on in silence."""
    _say(line, sys.stderr)


def _say(line: str, stream: TextIO) -> None:
    try:
        print(line, file=stream, flush=True)
    except OSError:  # a closed pipe, a terminal that went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def watched(steps: Iterable[T], total: int, unit: str = "step") -> Iterator[T]:
    """The same, with a progress bar when someone watches."""
    from tqdm import tqdm

    shown = sys.stderr.isatty()
    return iter(tqdm(steps, total=total, unit=unit, disable=not shown, leave=False, dynamic_ncols=True))


def shown(work: Work[T], stopped: str, *, unit: str = "it", lines: bool = False) -> T:
    """Run to the end, with a bar for each stage when someone watches; what the work returns.

    Args:
        work: yields its stages.
        stopped: what to say when it is interrupted.
        unit: of the bars.
        lines: when nobody watches, a line for each stage.

    Raises:
        click.exceptions.Exit: interrupted.
    """
    visible = sys.stderr.isatty()
    bars = Bars(unit, visible=visible)

    def watch(stage: Stage) -> None:
        if bars(stage) and lines and not visible:
            print(stage.name, file=sys.stderr)

    try:
        return finish(work, watch)
    except KeyboardInterrupt as error:
        bars.close()
        print(stopped, file=sys.stderr)
        raise click.exceptions.Exit(130) from error
    finally:
        bars.close()


def follow(trainer: Any) -> bool:
    """Show the training's progress; True when it came to its end."""
    from tqdm import tqdm

    timed, visible, told = bool(trainer.train.minutes), sys.stderr.isatty(), int(20 * trainer.share)
    smooth, seen = 0.0, 0
    total = round(60 * trainer.train.minutes) if timed else trainer.train.num_steps
    begun, unit = round(total * trainer.share), "s" if timed else "step"
    with tqdm(total=total, initial=begun, unit=unit, disable=not visible, dynamic_ncols=True) as bar:
        for progress in trainer.events():
            bar.update(round(total * progress.done) - bar.n)
            seen = 1 if smooth != smooth else seen + 1
            smooth = progress.loss if seen == 1 else smooth + max(0.05, 1 / seen) * (progress.loss - smooth)
            bar.set_postfix({"step": progress.step} if timed else {}, loss=f"{smooth:.4f}", refresh=False)
            line = progress.note or (None if progress.held_out is None else f"held-out loss {progress.held_out:.4f}")
            if line is not None:
                with bar.external_write_mode(file=sys.stdout):
                    tell(f"step {progress.step}: {line}")
            elif not visible and int(20 * progress.done) > told:
                told = int(20 * progress.done)
                of = f" ({progress.minutes:.2f} of {trainer.train.minutes:g} min)" if timed else f"/{total}"
                tell(f"step {progress.step}{of}: loss {smooth:.4f}")
    return bool(trainer.share >= 1)


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """A question that answers True after SIGINT, SIGTERM or SIGHUP, but for those that were ignored when this began; a
    second signal ends the process at once, but for the one by which a launcher passes the first on."""
    asked: list[float] = []

    def ask(number: int, frame: object) -> None:
        if asked and not (launched() and time.monotonic() - asked[0] < ECHO):
            raise KeyboardInterrupt
        if asked:
            return
        asked.append(time.monotonic())
        if number != HANGUP:  # after which there is no terminal to print to
            warn("\nstopping after this step; again to stop at once")

    known = [number for number in (signal.SIGINT, signal.SIGTERM, HANGUP) if number]
    heard = [number for number in known if signal.getsignal(number) is not signal.SIG_IGN]  # as nohup has it
    previous = {number: signal.signal(number, ask) for number in heard}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
