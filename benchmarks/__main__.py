"""`python -m benchmarks`: measure, store, and write the page."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch

from benchmarks import growth, machine, sampling, training, wall
from benchmarks.arena import say
from benchmarks.options import Options, parsed
from benchmarks.page import write_page
from ebbflow.errors import ConfigError
from ebbflow.files import locked, write_text

RUNS: dict[str, Callable[[Options, dict[str, Any]], Iterable[dict[str, Any]]]] = {
    "limit": lambda options, kept: [{"rates": machine.rates()}],
    "step": lambda options, kept: [training.run(options)],
    "sampling": lambda options, kept: [sampling.run(options)],
    "wall": wall.run,
    "growth": lambda options, kept: [growth.run(options)],
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the sections that were asked for; each is stored as soon as it is done, beside what is there."""
    options = parsed(arguments)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(options.cache))
        except ConfigError:
            sys.exit(f"another benchmark runs in {options.cache}, and two would measure each other: wait for it.")
        _measure(options)


def _measure(options: Options) -> None:
    torch.set_num_threads(options.threads)
    found = json.loads(options.results.read_text()) if options.results.is_file() else {}
    for name in options.only:
        say(name)
        facts, began = machine.facts(), time.perf_counter()
        if not facts["quiet"]:
            say(f"  others load this machine ({facts['load']}): its figures are marked as not quiet")
        for section in RUNS[name](options, found.get(name, {})):
            found[name] = {"machine": {**facts, **_made(options, time.perf_counter() - began)}, **section}
            write_text(options.results, json.dumps(found, indent=1) + "\n")
    if options.page is not None:
        write_page(found, options.page)
        say(f"{options.results} and {options.page}")


def _made(options: Options, seconds: float) -> dict[str, Any]:
    """How a section was made."""
    return {
        "ebbflow": version("ebbflow"),
        "date": datetime.now(UTC).date().isoformat(),
        "minutes": round(seconds / 60, 1),
        "quick": options.quick,
        "repeat": options.repeat,
    }


if __name__ == "__main__":
    sys.exit(main())
