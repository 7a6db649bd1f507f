"""Verdicts put into tables: by sampler and path, as rows for print, and as a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ebbflow.proof.verify import Verdict
from ebbflow.show.page import render


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


def page(rows: Sequence[Verdict], command: str) -> str:
    """The page of all rows; `command` is shown as what made it."""
    return render(
        "verify.html",
        title="ebbflow verify",
        command=command,
        summary=summary(rows),
        failures=failures(rows),
        declared=declared(rows),
        paths=list(dict.fromkeys(row.path for row in rows)),
        groups=grouped(rows),
        sampler_table=sampler_table(rows),
    )
