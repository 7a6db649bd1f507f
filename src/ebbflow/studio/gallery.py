"""The runs of a folder, as the page shows them: read from their files, without opening a model."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebbflow.errors import CheckpointError, ConfigError
from ebbflow.files import LOCK, locked
from ebbflow.metrics.frontier import Cell
from ebbflow.runs.folder import CONFIG, METRICS, checkpoints, description, metrics
from ebbflow.studies.compare import read_cells

DEPTH = 3  # folders within folders in which runs are looked for
POINTS = 240  # of a curve
REPORTS = (".html", ".htm")
CELLS = ".cells.jsonl"


@dataclass(frozen=True, kw_only=True)
class Card:
    """A run at a glance.

    Args:
        name: its folder, from the folder that is shown.
        kind: model, classifier or autoencoder.
        state: training, finished, stopped, new (no checkpoint yet) or damaged.
        what: data, net, path and prediction, in words.
        step, num_steps: how far its training is.
        held_out: the curve, pairs of step and loss.
        picture: step of the newest picture; None where none was drawn.
        classes: how many.
        changed: seconds since 1970.
        taught: whether it learned from another run, which no second student does from it.
        damage: what is wrong with it, "" where nothing is.
    """

    name: str
    kind: str
    state: str
    what: dict[str, Any]
    step: int
    num_steps: int
    held_out: list[tuple[int, float]]
    picture: int | None
    classes: int
    changed: float
    taught: bool = False
    damage: str = ""


def runs_in(folder: Path) -> dict[str, Path]:
    """The runs below a folder by name, wherever links lead inside it, and nothing outside."""
    root = folder.resolve()
    return {path.relative_to(folder).as_posix(): path for path in _walk(folder, DEPTH) if _is_below(path, root)}


def _is_below(path: Path, root: Path) -> bool:
    return path.resolve().is_relative_to(root)


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / CONFIG).is_file():
        yield folder
    elif depth and folder.is_dir():
        for inner in sorted(folder.iterdir()):
            if inner.is_dir() and not inner.name.startswith("."):
                yield from _walk(inner, depth - 1)


def cards(folder: Path) -> list[Card]:
    """A card for each run, the newest first."""
    found = [card_of(name, path) for name, path in runs_in(folder).items()]
    return sorted(found, key=lambda card: (card.state != "training", -card.changed))


def card_of(name: str, path: Path) -> Card:
    """The card of one run."""
    known = described(path)
    config, facts = known.get("config", {}), known.get("facts", {})
    rows = metrics(path)
    step = max((row["step"] for row in rows), default=0)
    num_steps = length_of(config.get("train", {}), rows, step)
    return Card(
        name=name,
        kind=str(known.get("kind", "damaged")),
        state=state_of(path, known, step, num_steps),
        what={
            "data": config.get("data", {}).get("name"),
            "net": config.get("net", {}).get("kind"),
            "path": config.get("path", {}).get("kind"),
            "prediction": _name(config.get("objective", {}).get("prediction")),
            "dims": facts.get("dims", []),
        },
        step=step,
        num_steps=num_steps,
        held_out=thinned([(row["step"], float(row["held_out"])) for row in rows if _finite(row.get("held_out"))]),
        picture=max(pictures(path), default=None),
        classes=len(facts.get("label_names", ())),
        changed=max(file.stat().st_mtime for file in (path, path / CONFIG, path / METRICS) if file.exists()),
        taught=bool(config.get("teacher", {}).get("run")),
        damage=damage_of(path, known),
    )


def length_of(train: dict[str, Any], rows: list[dict[str, Any]], step: int) -> int:
    """Optimiser steps of a whole training; of one of so many minutes, as many as it comes to at its pace so far."""
    if not train.get("minutes"):
        return int(train.get("num_steps") or 0)
    share = max((float(row.get("minutes", 0.0)) for row in rows), default=0.0) / float(train["minutes"])
    return step if share >= 1 else max(step + 1, round(step / share) if share else 0)


def described(path: Path) -> dict[str, Any]:
    """The config.json of a run; empty where it cannot be read."""
    try:
        return description(path)
    except (OSError, CheckpointError):
        return {}


def state_of(path: Path, known: dict[str, Any], step: int, num_steps: int) -> str:
    """training, finished, stopped, new or damaged."""
    if trainer_of(path) is not None:
        return "training"
    if damage_of(path, known):
        return "damaged"
    if not checkpoints(path):
        return "new"
    return "finished" if step >= num_steps else "stopped"


def damage_of(path: Path, known: dict[str, Any]) -> str:
    """What is wrong with a run, as far as a look at its files tells; "" where nothing is."""
    if not known:
        return f"Its {CONFIG} cannot be read as that of a run."
    saved = checkpoints(path)
    if not saved:
        return ""
    newest, state = saved[-1], saved[-1] / "state.json"
    if not state.is_file():
        return f"Its checkpoint {newest.name} has no {state.name}."
    return next(
        (
            f"{file.name} of its checkpoint {newest.name} is empty."
            for file in newest.iterdir()
            if not file.stat().st_size
        ),
        "",
    )


def trainer_of(path: Path) -> int | None:
    """The process that trains in a folder; None where there is none."""
    try:
        number = int((path / LOCK).read_text(encoding="utf-8").split()[-1])
        os.kill(number, 0)
    except (OSError, ValueError, IndexError):
        return None
    try:
        with locked(path):
            return None
    except ConfigError:
        return number


def pictures(path: Path) -> dict[int, Path]:
    """The grids that a training drew, by step."""
    found = (path / "samples").glob("step_*.png")
    return {int(one.stem[5:]): one for one in found if one.stem[5:].isdecimal()}


def curves(path: Path, after: int = -1) -> dict[str, Any]:
    """What a training wrote down after a step, thinned: loss, held-out loss, speed, and the newest loss by log-SNR."""
    rows = [row for row in metrics(path) if row["step"] > after]
    by_level = [row["loss_by_log_snr"] for row in rows if isinstance(row.get("loss_by_log_snr"), dict)]
    series = {
        key: thinned([(row["step"], float(row[key])) for row in rows if _finite(row.get(key))])
        for key in ("loss", "held_out", "samples_per_second", "lr")
    }
    return {**series, "by_log_snr": by_level[-1] if by_level else {}, "pictures": sorted(pictures(path))}


def thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most `POINTS` points: means of neighbours, at the step of the last of them."""
    size = math.ceil(len(points) / POINTS) or 1
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]


def reports(folder: Path) -> dict[str, Path]:
    """The pages that evaluations, comparisons and verifications left in a folder, by name."""
    root, found = folder.resolve(), dict[str, Path]()
    for place in (folder, *runs_in(folder).values()):
        for path in sorted(place.iterdir()) if place.is_dir() else []:
            if path.suffix in REPORTS and path.is_file() and _is_below(path, root):
                found[path.relative_to(folder).as_posix()] = path
    return found


def measured(folder: Path, name: str) -> list[dict[str, Any]]:
    """What the comparisons of a folder measured of a run: settings, milliseconds a sample, Frechet distance and its
    standard error, and the page that shows more."""
    root, found = folder.resolve(), list[dict[str, Any]]()
    for place in (folder, *runs_in(folder).values()):
        for store in (one for one in sorted(place.glob(f"*{CELLS}")) if _is_below(one, root)):
            page = store.with_name(store.name.removesuffix(CELLS) + ".html")
            report = page.relative_to(folder).as_posix() if page.is_file() else None
            cells = [one for one in read_cells(store).values() if one.run == name.rpartition("/")[2]]
            found += [_cell(one) | {"report": report} for one in cells if math.isfinite(one.frechet)]
    return found


def _cell(cell: Cell) -> dict[str, Any]:
    setting = {key: getattr(cell, key) for key in ("sampler", "grid", "steps", "guidance", "evaluations", "num")}
    error = cell.errors.get("frechet")
    return {**setting, "milliseconds": cell.milliseconds, "frechet": cell.frechet, "error": error}


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _name(choice: Any) -> Any:
    return choice.get("kind") if isinstance(choice, dict) else choice
