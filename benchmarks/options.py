"""What may be asked of the benchmark."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.environments import DEFAULT, ROOT
from benchmarks.peers import PEERS

SECTIONS = ("limit", "step", "sampling", "wall", "growth")


@dataclass(frozen=True, kw_only=True)
class Options:
    """A run of the benchmark.

    Args:
        only: sections, in their order.
        peers: contestants besides ebbflow.
        repeat: rounds of a timing, after a run that is not counted.
        threads: of every contestant; with one, processor time is measured and not the wall's.
        minutes: marks of the wall-clock contest.
        samples: pictures that are scored at each mark.
        quick: two steps and four samples of everything, to see that it works; no figure of it means anything.
        data_dir: where MNIST lies.
        cache: where environments, runs and samples are kept.
        results: the JSON, which sections are added to.
        page: the page that is written from it; None writes none.
    """

    only: tuple[str, ...] = SECTIONS
    peers: tuple[str, ...] = tuple(PEERS)
    repeat: int = 7
    threads: int = 1
    minutes: tuple[float, ...] = (1.0, 2.0, 6.0, 10.0)
    samples: int = 1000
    quick: bool = False
    data_dir: Path | None = None
    cache: Path = DEFAULT
    results: Path = ROOT / "benchmarks" / "results" / "latest.json"
    page: Path | None = ROOT / "docs" / "performance.md"


def parsed(arguments: Sequence[str] | None = None) -> Options:
    """The options of a command line; a wrong one ends the program with a line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, allow_abbrev=False)
    every = Options()
    parser.add_argument("--only", type=_names(SECTIONS), default=every.only, help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--peers", type=_names(tuple(PEERS)), default=every.peers, help=f"of {', '.join(PEERS)}")
    parser.add_argument("--repeat", type=_whole, default=every.repeat, help="rounds of a timing (%(default)s)")
    parser.add_argument("--threads", type=_whole, default=every.threads, help="of each contestant (%(default)s)")
    parser.add_argument("--minutes", type=_numbers, default=every.minutes, help="marks of the wall-clock contest")
    parser.add_argument("--samples", type=_whole, default=every.samples, help="scored at each mark (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="two steps and four samples of everything: no figures")
    parser.add_argument("--data-dir", type=Path, default=_environment_dir(), help="where MNIST lies")
    parser.add_argument("--cache", type=Path, default=every.cache, help="environments and samples (%(default)s)")
    parser.add_argument("--results", type=Path, default=None, help="the JSON that sections are added to")
    parser.add_argument("--page", type=Path, default=None, help="the page that is written from it")
    found = vars(parser.parse_args(arguments))
    quick, results = found["quick"], found.pop("results")
    page = found.pop("page")
    aside = found["cache"] / "quick.json" if quick else every.results
    return Options(**found, results=results or aside, page=page or (None if quick or results else every.page))


def _environment_dir() -> Path | None:
    found = os.environ.get("EBBFLOW_DATA")
    return Path(found) if found else None


def _names(known: tuple[str, ...]) -> object:
    def read(text: str) -> tuple[str, ...]:
        wanted = [name for name in text.split(",") if name]
        unknown = [name for name in wanted if name not in known]
        if unknown or not wanted:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown) or 'nothing'}; known are {', '.join(known)}")
        return tuple(name for name in known if name in wanted)

    return read


def _numbers(text: str) -> tuple[float, ...]:
    found = tuple(sorted(float(part) for part in text.split(",")))
    if found[0] <= 0:
        raise argparse.ArgumentTypeError("minutes are above 0")
    return found


def _whole(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)
