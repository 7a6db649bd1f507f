"""Verdicts put into tables: cells by sampler and path, and rows for print."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ebbflow.proof.verify import Verdict


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The verdicts of one sampler on one path.

    Args:
        order: measured, None where none can be told.
        num_ok, num_refused: of the `rows`.
    """

    sampler: str
    path: str
    rows: tuple[Verdict, ...]

    @property
    def order(self) -> float | None:
        return self.rows[0].order_measured

    @property
    def num_ok(self) -> int:
        return sum(row.ok for row in self.rows)

    @property
    def num_refused(self) -> int:
        return sum(row.refused for row in self.rows)

    @property
    def ok(self) -> bool:
        return self.num_ok == len(self.rows)


def cells(rows: Iterable[Verdict]) -> dict[tuple[str, str], Cell]:
    """Rows by (sampler, path), in the order of their first appearance."""
    groups: dict[tuple[str, str], list[Verdict]] = {}
    for row in rows:
        groups.setdefault((row.sampler, row.path), []).append(row)
    return {key: Cell(sampler=key[0], path=key[1], rows=tuple(group)) for key, group in groups.items()}


def order_matrix(rows: Sequence[Verdict]) -> list[list[str]]:
    """A header and one line a sampler: declared order, measured order by path ("!" where something failed)."""
    table = cells(rows)
    paths = list(dict.fromkeys(row.path for row in rows))
    lines = [["measured order", "declared", *paths]]
    for name in dict.fromkeys(row.sampler for row in rows):
        of = [table.get((name, path)) for path in paths]
        declared = next(cell.rows[0].order_declared for cell in of if cell is not None)
        lines.append([name, str(declared), *("" if cell is None else order_mark(cell) for cell in of)])
    return lines


def order_mark(cell: Cell) -> str:
    """The order of a cell, with "!" where one of its combinations failed."""
    return ("-" if cell.order is None else f"{cell.order:.2f}") + ("" if cell.ok else " !")


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
