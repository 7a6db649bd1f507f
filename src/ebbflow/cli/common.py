"""What several commands share: reading ranges, printing tables, remembering the command."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from ebbflow.errors import ConfigError

if TYPE_CHECKING:
    from ebbflow.progress import Stage, Work
    from ebbflow.runs import Run

T = TypeVar("T")


def this_command() -> str:
    """The command line of this process, ready to be pasted."""
    return shlex.join(["ebbflow", *sys.argv[1:]])


def read_items(text: str) -> list[str]:
    """The items of "0-9", "1,3,5-7" or "cat,dog"."""
    items: list[str] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+)-(\d+)\s*", part)
        if found is None:
            items.append(part.strip())
        elif int(found[2]) < int(found[1]):
            raise ConfigError(f"the range {part.strip()!r} runs backwards.")
        else:
            items.extend(str(i) for i in range(int(found[1]), int(found[2]) + 1))
    return items


def read_integers(text: str, flag: str) -> list[int]:
    """The whole numbers of a list such as "0-63" or "1,5".

    Raises:
        ConfigError: something else; names the flag.
    """
    items = read_items(text)
    if not all(item.isdigit() for item in items):
        raise ConfigError(f"{flag} wants whole numbers such as 0-63 or 1,5,9; got {text!r}.")
    return [int(item) for item in items]


def read_options(settings: Sequence[str], flag: str = "--set") -> dict[str, Any]:
    """Options given as `--set name=value`, or by another flag."""
    from ebbflow.config import read_value

    options = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"{flag} wants name=value, for example {flag} eta=0.5; got {setting!r}.")
        options[name.strip()] = read_value(value.strip())
    return options


def class_indices(run: Run, labels: Sequence[str]) -> list[int]:
    """The indices of a run's classes, given by name or index.

    Raises:
        ConfigError: the run has no labels.
        ValueError: one that it does not know.
    """
    from ebbflow.conditioning import label_indices

    if not run.facts.label_names:
        raise ConfigError("this run knows no labels. Leave --label, --labels and --negative-label out.")
    return label_indices(labels, run.facts.label_names)


def check_weights(weights: str) -> None:
    """Raise a ConfigError unless `weights` is "ema" or "raw"."""
    if weights not in ("ema", "raw"):
        raise ConfigError(f"--weights must be ema or raw, got {weights!r}.")


def watched(steps: Iterable[T], total: int, unit: str = "step") -> Iterator[T]:
    """The same, with a progress bar when someone watches."""
    from tqdm import tqdm

    shown = sys.stderr.isatty()
    return iter(tqdm(steps, total=total, unit=unit, disable=not shown, leave=False, dynamic_ncols=True))


def shown(work: Work[T], stopped: str) -> T:
    """Run `work` to its end, with a bar a stage when someone watches and a line a stage when nobody does; Ctrl-C says
    `stopped`."""
    from tqdm import tqdm

    from ebbflow.progress import finish

    watched, name = sys.stderr.isatty(), ""
    bar = tqdm(disable=True)

    def watch(stage: Stage) -> None:
        nonlocal bar, name
        if stage.name != name:
            bar.close()
            name = stage.name
            if not watched:
                print(name, file=sys.stderr)
            bar = tqdm(total=stage.total, disable=not watched, leave=False, dynamic_ncols=True, miniters=1)
        bar.set_description(f"{name}: {stage.note}" if stage.note else name, refresh=False)
        bar.update(stage.done - bar.n)

    try:
        return finish(work, watch)
    except KeyboardInterrupt as error:
        print(stopped, file=sys.stderr)
        raise typer.Exit(130) from error
    finally:
        bar.close()


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
