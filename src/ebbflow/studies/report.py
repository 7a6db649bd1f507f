"""A finished comparison: its frontiers, its advice, and itself as a page and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from html import escape
from typing import Any, TypeVar

from markupsafe import Markup

from ebbflow.metrics.frontier import Cell, advice, frontier
from ebbflow.show.charts import Line, Point, panel, scale, swatch
from ebbflow.show.page import render

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, repr=False)
class Report:
    """A finished comparison; shows itself as its page in a notebook.

    Args:
        command: what repeats it.
        cells: all cells, in order.
        floor: each metric of real data in the place of samples, or None where that is too small.
        within: per cent.
        settings: names and values of what was held fixed.
        runs: a name and facts for each run.
        differences: configuration keys that the runs do not share, and their value in each.
        notes: what should be known.
        is_image: whether strips are rows of images.
    """

    command: str
    cells: Sequence[Cell]
    floor: Mapping[str, float | None] | None
    within: float
    settings: Mapping[str, Any]
    runs: Mapping[str, Mapping[str, Any]]
    differences: Mapping[str, Sequence[Any]]
    notes: Sequence[str] = ()
    is_image: bool = True

    def __repr__(self) -> str:
        return f"Report({len(self.cells)} settings. {' '.join(self.advice[:1])})"

    def _repr_html_(self) -> str:
        return f'<iframe sandbox srcdoc="{escape(page(self))}" style="width: 100%; height: 40em; border: 0"></iframe>'

    @cached_property
    def by_evaluations(self) -> list[str]:
        """Keys on the frontier of quality against evaluations."""
        return self._frontier([cell.evaluations for cell in self.cells])

    @cached_property
    def by_seconds(self) -> list[str]:
        """Keys on the frontier of quality against seconds."""
        return self._frontier([cell.seconds for cell in self.cells])

    def _frontier(self, costs: list[float]) -> list[str]:
        return [self.cells[i].key for i in frontier(costs, [cell.frechet for cell in self.cells])]

    @property
    def advice(self) -> list[str]:
        """What follows, in sentences."""
        floor = None if self.floor is None else self.floor.get("frechet")
        return advice(self.cells, within=self.within, floor=floor)

    def marks(self, cell: Cell) -> str:
        """ "*" on the frontier by evaluations, "t" on that by the clock."""
        found = (("*", self.by_evaluations), ("t", self.by_seconds))
        return " ".join(mark for mark, keys in found if cell.key in keys)


def as_json(report: Report) -> dict[str, Any]:
    """The report without its pictures."""
    rows, on_frontier, on_time_frontier = [], report.by_evaluations, report.by_seconds
    for cell in report.cells:
        row = {key: value for key, value in asdict(cell).items() if key not in ("strip", "values", "errors")}
        row |= {**cell.values, "standard_errors": cell.errors, "milliseconds": cell.milliseconds}
        rows.append(row | {"on_frontier": cell.key in on_frontier, "on_time_frontier": cell.key in on_time_frontier})
    return {
        "command": report.command,
        "within": report.within,
        "settings": dict(report.settings),
        "floor": report.floor,
        "runs": dict(report.runs),
        "differences": dict(report.differences),
        "cells": rows,
        "advice": report.advice,
        "notes": list(report.notes),
    }


def page(report: Report) -> str:
    """The page of a report: curves, table, the same seeds side by side, what differs, what follows."""
    by_evaluations = _panels(report, "network evaluations a sample", report.by_evaluations, seconds=False)
    by_seconds = _panels(report, "milliseconds a sample", report.by_seconds, seconds=True)
    facts = dict.fromkeys(key for run in report.runs.values() for key in run)
    return render(
        "compare.html",
        title="ebbflow compare",
        command=report.command,
        report=report,
        advice=report.advice,
        several=[kind for kind in ("run", "grid") if len(_names(report, kind)) > 1],
        samplers=_names(report, "sampler"),
        grids=_names(report, "grid"),
        swatch=swatch,
        rows_of_panels=_laid(by_evaluations, by_seconds),
        rated=any(cell.values.get("label_accuracy") is not None for cell in report.cells),
        facts=[(key, [run.get(key) for run in report.runs.values()]) for key in facts],
    )


def _laid(upper: list[list[T]], lower: list[list[T]]) -> list[list[T]]:
    """The rows of both, in one row where there is one panel of each."""
    single = [len(row) for row in upper] == [1]
    return [[*upper[0], *lower[0]]] if single else [*upper, *lower]


def _names(report: Report, kind: str) -> list[Any]:
    return list(dict.fromkeys(getattr(cell, kind) for cell in report.cells))


def _panels(report: Report, label: str, ringed: Sequence[str], *, seconds: bool) -> list[list[tuple[str, Markup]]]:
    """A title and a panel for each run and guidance, all on the same axes; a row a run where it has several."""
    good = [cell for cell in report.cells if cell.failed is None]
    if not good:
        return []
    floor = None if report.floor is None else report.floor.get("frechet")
    x = scale(label, [_cost(cell, seconds) for cell in good], log=True)
    tops = [cell.frechet + 2 * cell.errors.get("frechet", 0.0) for cell in good]
    y = scale("Frechet distance", [*(cell.frechet for cell in good), *tops, floor or good[0].frechet])
    found = []
    for run in _names(report, "run"):
        row = []
        for guidance in _names(report, "guidance"):
            own = [cell for cell in good if (cell.run, cell.guidance) == (run, guidance)]
            if own:
                title, lines = f"{run}, guidance {guidance:g}", _lines(report, own, ringed, seconds)
                row.append((title, panel(lines, x, y, floor=floor, title=f"{title}, {label}")))
        found.append(row)
    return found if max(map(len, found)) > 1 else [[one for row in found for one in row]]


def _cost(cell: Cell, seconds: bool) -> float:
    return cell.milliseconds if seconds else cell.evaluations


def _lines(report: Report, cells: Sequence[Cell], ringed: Sequence[str], seconds: bool) -> list[Line]:
    found = []
    for colour, sampler in enumerate(_names(report, "sampler")):
        for dash, grid in enumerate(_names(report, "grid")):
            own = sorted((c for c in cells if (c.sampler, c.grid) == (sampler, grid)), key=lambda c: _cost(c, seconds))
            points = [_point(c, x=_cost(c, seconds), ringed=c.key in ringed) for c in own]
            if points:
                found.append(Line(points=points, colour=colour, dash=dash))
    return found


def _point(cell: Cell, *, x: float, ringed: bool) -> Point:
    error = cell.errors.get("frechet", 0.0)
    bar = f" ± {error:.2g}" if error else ""
    title, note = f"{cell.name}: {cell.frechet:.4g}{bar}", str(cell.steps)
    return Point(x=x, y=cell.frechet, title=title, error=2 * error, ringed=ringed, note=note)
