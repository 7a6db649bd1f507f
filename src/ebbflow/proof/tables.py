"""Verdicts put into tables: by sampler and path, as rows for print, and as a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ebbflow.proof.maps import MapVerdict, map_table, maps_summary
from ebbflow.proof.verify import Verdict
from ebbflow.show.charts import Line, Point, panel, scale, swatch
from ebbflow.show.page import render

TINY = 1e-13  # errors below it are rounding, and are not drawn


@dataclass(frozen=True, kw_only=True)
class Group:
    """The verdicts of one sampler on one path."""

    rows: tuple[Verdict, ...]

    @property
    def num_ok(self) -> int:
        """How many of them are ok."""
        return sum(row.ok for row in self.rows)

    @property
    def ok(self) -> bool:
        """Whether all of them are."""
        return self.num_ok == len(self.rows)

    @property
    def mark(self) -> str:
        """The measured order, "-" where none can be told, with "!" where a row failed."""
        order = self.rows[0].order_measured
        return ("-" if order is None else f"{order:.2f}") + ("" if self.ok else " !")


def grouped(rows: Iterable[Verdict]) -> dict[tuple[str, str], Group]:
    """Rows by (sampler, path), in the order of their first appearance."""
    groups: dict[tuple[str, str], list[Verdict]] = {}
    for row in rows:
        groups.setdefault((row.sampler, row.path), []).append(row)
    return {key: Group(rows=tuple(group)) for key, group in groups.items()}


def order_matrix(rows: Sequence[Verdict]) -> list[list[str]]:
    """A header and one line a sampler: declared order, measured order by path ("!" where something failed)."""
    groups, paths = grouped(rows), list(dict.fromkeys(row.path for row in rows))
    marks = {key: group.mark for key, group in groups.items()}
    lines = [["measured order", "declared", *paths]]
    lines += [[name, str(order), *(marks.get((name, path), "") for path in paths)] for name, order in declared(rows)]
    return lines


def declared(rows: Sequence[Verdict]) -> list[tuple[str, int]]:
    """Each sampler and the order it declares."""
    found: dict[str, int] = {}
    for row in rows:
        found.setdefault(row.sampler, row.order_declared)
    return list(found.items())


def sampler_table(rows: Sequence[Verdict]) -> list[list[str]]:
    """A header and one line a sampler: cost, and the middle and the worst of its errors over all combinations that were
    run."""
    steps = rows[0].num_steps if rows else 0
    lines = [[f"with {steps} steps", "evaluations", "error", "mean off", "variance ratio", "modes off", "rows ok"]]
    for name in dict.fromkeys(row.sampler for row in rows):
        own = [row for row in rows if row.sampler == name]
        lines.append(
            [
                name,
                str(max(row.evaluations for row in own)),
                *(_middle(own, field) for field in ("error", "mean_error", "variance_ratio", "mode_weight_error")),
                f"{sum(row.ok for row in own)}/{len(own)}",
            ]
        )
    return lines


def _middle(rows: Sequence[Verdict], field: str) -> str:
    """The median of a field."""
    values = sorted(value for row in rows if (value := getattr(row, field)) is not None)
    return f"{values[len(values) // 2]:.4f}" if values else "-"


def failures(rows: Sequence[Verdict]) -> list[tuple[str, list[Verdict]]]:
    """What went wrong, most frequent first: a reason and the rows that it befell."""
    groups: dict[str, list[Verdict]] = {}
    for row in rows:
        if not row.ok:
            groups.setdefault(f"{row.sampler} on {row.path}: {row.reason}", []).append(row)
    return sorted(groups.items(), key=lambda group: -len(group[1]))


def summary(rows: Sequence[Verdict]) -> str:
    """One sentence about all rows."""
    bad, refused = sum(not row.ok for row in rows), sum(row.refused and row.ok for row in rows)
    note = f" ({refused} singular pairs refused, as they must be)" if refused else ""
    return f"{len(rows)} combinations, {len(rows) - bad} ok{note}, {bad} not ok."


def page(rows: Sequence[Verdict], command: str, maps: Sequence[MapVerdict] = ()) -> str:
    """The page of all rows; `command` is shown as what made it."""
    paths = list(dict.fromkeys(row.path for row in rows))
    orders = sorted({row.order_declared for row in rows})
    return render(
        "verify.html",
        title="ebbflow verify",
        command=command,
        summary=" ".join([*([summary(rows)] if rows else []), *([maps_summary(maps)] if maps else [])]),
        failures=failures(rows),
        declared=declared(rows),
        paths=paths,
        groups=grouped(rows),
        sampler_table=sampler_table(rows),
        convergence=convergence(rows),
        orders=[(order, swatch(colour=i)) for i, order in enumerate(orders)],
        map_table=map_table(maps),
        map_failures=[row for row in maps if not row.ok],
    )


def convergence(rows: Sequence[Verdict]) -> list[tuple[str, Markup]]:
    """A path and a panel for each: the error over the interior by the number of steps, a line a sampler, coloured by
    the order that it declares."""
    orders = sorted({row.order_declared for row in rows})
    firsts = [group.rows[0] for group in grouped(rows).values() if len(group.rows[0].order_errors) > 1]
    if not firsts:
        return []
    pairs = [pair for row in firsts for pair in row.order_errors if pair[1] > TINY]
    x = scale("steps", [steps for steps, _ in pairs], log=True)
    y = scale("error", [error for _, error in pairs], log=True)
    found = []
    for path in dict.fromkeys(row.path for row in firsts):
        own = [row for row in firsts if row.path == path]
        lines = [Line(points=_points(row), colour=orders.index(row.order_declared)) for row in own]
        found.append((path, panel([line for line in lines if line.points], x, y, title=f"error by steps on {path}")))
    return found


def _points(row: Verdict) -> list[Point]:
    said = "no order" if row.order_measured is None else f"order {row.order_measured:.2f}"
    return [
        Point(x=steps, y=error, title=f"{row.sampler}, {steps} steps: error {error:.2g}, {said}")
        for steps, error in row.order_errors
        if error > TINY
    ]
