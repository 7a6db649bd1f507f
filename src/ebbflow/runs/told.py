"""What a training tells of itself after a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebbflow.documents import fenced, in_markdown


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What the caller may show after a step: how many are done of `num_steps` (None where minutes say the length), in
    how many minutes of work, which share of the training is `done`; `note` is a line about something written or
    found, `row` the line of metrics and `picture` the file that were written."""

    step: int
    num_steps: int | None
    loss: float
    lr: float
    minutes: float = 0.0
    done: float = 0.0
    held_out: float | None = None
    note: str | None = None
    row: Mapping[str, Any] | None = None
    picture: Path | None = None


def said(found: dict[str, Any]) -> str:
    """Held-out quantities in a line: "held-out loss 1.2345, accuracy 0.98"."""
    names = {key: key.removeprefix("held_out").strip("_") or "loss" for key in found if key not in ("step", "minutes")}
    numbers = [f"{name} {found[key]:.4f}" for key, name in names.items() if isinstance(found[key], float)]
    return f"held-out {', '.join(numbers)}"


def card(
    names: tuple[str, str, str], *, trained: str, seen: int, held_out: dict[str, Any], commands: Mapping[str, str]
) -> str:
    """The README of a run's folder.

    Args:
        names: of the run, of what it trains, and of the data.
        trained: how long.
        seen: samples.
        held_out: what was measured last, with its step.
        commands: by what they are for; an empty one is left out.
    """
    name, what, data = map(in_markdown, names)
    held = f" {said(held_out).capitalize()} at step {held_out['step']}." if held_out else ""
    shown = "".join(f"\n{why}\n\n{fenced(command)}" for why, command in commands.items() if command)
    return f"# {name}\n\n{what}\n\nTrained for {trained} on {data}, {seen:,} samples seen.{held}\n{shown}"
