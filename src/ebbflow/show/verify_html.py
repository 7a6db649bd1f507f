"""Verdicts as one self-contained page: no script, no network, light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ebbflow.proof.tables import Cell, cells, failures, order_mark, sampler_table, summary
from ebbflow.proof.verify import Verdict
from ebbflow.show.page import shell, table

LEGEND = """
<p>Each row is one combination of sampler, path, prediction and time grid, run on data whose law is known in closed
form: three modes of unequal width and weight in one coordinate, a Gaussian in the other, float64. The coordinates are
independent, so the exact solution of the probability-flow ODE is known without an integrator: it keeps quantiles.</p>
<p><b>Order</b> is the slope of the error between the two finest runs on t in [0.95, 0.05]; of a stochastic sampler, the
weak order of mean and variance on Gaussian data, computed without Monte Carlo. It may stay 0.25 below the declared one.
<b>Error</b> is the mean distance of the points from their exact places after a run from t = 1 to t = 0; of a stochastic
sampler it is the error of mean and variance together, so the two kinds do not compare. <b>Rate</b> is the order seen in
that run, ends included. A run is ok when its error is below 0.01 (stochastic: 0.02) or falls by 15 % or more as the
steps are doubled, and when each mode holds its share of the points. These numbers come from the exact denoiser itself;
<b>prediction off</b> is how far a point moves when it is asked by way of the prediction. A pair that is singular at
t = 1 must be refused. A small error of method can hide: what is proved is the order and the limit, not each
coefficient.</p>
"""

COLUMNS = (
    "prediction", "grid", "order", "evaluations", "error", "rate", "mean off", "variance ratio", "modes off",
    "prediction off", "verdict",
)  # fmt: skip
WORDS = ("prediction", "grid", "verdict")


def page(rows: Sequence[Verdict], command: str) -> str:
    """The page of all rows; `command` is shown as what made it."""
    parts = [
        f"<p><b>{escape(summary(rows))}</b></p>",
        *_failures(rows),
        "<h2>Measured order, by sampler and path</h2>",
        _matrix(rows),
        "<h2>Cost and errors, by sampler: the median over its rows</h2>",
        table([[escape(entry) for entry in line] for line in sampler_table(rows)]),
        "<h2>What is measured</h2>",
        LEGEND,
        "<h2>All rows</h2>",
        *(_details(cell) for cell in cells(rows).values()),
    ]
    return shell("ebbflow verify", command, parts)


def _failures(rows: Sequence[Verdict]) -> list[str]:
    found = failures(rows)
    if not found:
        return []
    return ["<h2>Not ok</h2>", table([["what", "rows"], *([escape(why), str(len(rows))] for why, rows in found)])]


def _anchor(cell: Cell) -> str:
    return escape(f"{cell.sampler}-{cell.path}", quote=True)


def _matrix(rows: Sequence[Verdict]) -> str:
    of_all = cells(rows)
    paths, samplers = (list(dict.fromkeys(getattr(row, kind) for row in rows)) for kind in ("path", "sampler"))
    head = "".join(f"<th>{escape(name)}</th>" for name in ("sampler", "declared", *paths))
    lines = []
    for name in samplers:
        of = [of_all.get((name, path)) for path in paths]
        declared = next(cell.rows[0].order_declared for cell in of if cell is not None)
        lines.append(f"<tr><td>{escape(name)}</td><td>{declared}</td>{''.join(map(_order_entry, of))}</tr>")
    body = "\n".join(lines)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _order_entry(cell: Cell | None) -> str:
    if cell is None:
        return "<td></td>"
    return f'<td class="{_tint(cell.ok)}"><a href="#{_anchor(cell)}">{order_mark(cell)}</a></td>'


def _tint(ok: bool) -> str:
    return "good" if ok else "bad"


def _details(cell: Cell) -> str:
    """The rows of one sampler on one path; open where something failed."""
    bad = len(cell.rows) - cell.num_ok
    state = f'<b class="bad">{bad} of {len(cell.rows)} not ok</b>' if bad else f"<span>{len(cell.rows)} ok</span>"
    top = "".join(f'<th class="word">{c}</th>' if c in WORDS else f"<th>{c}</th>" for c in COLUMNS)
    body = "\n".join(map(_row, cell.rows))
    return (
        f'<details id="{_anchor(cell)}"{" open" if bad else ""}><summary>{escape(cell.sampler)} on '
        f'{escape(cell.path)} {state}</summary>\n<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>\n'
        f"{body}\n</tbody></table></div></details>"
    )


def _row(row: Verdict) -> str:
    numbers = (
        _text(row.order_measured, ".2f"), str(row.evaluations) if row.evaluations else "", _text(row.error, ".2e"),
        _text(row.rate, ".2f"), _text(row.mean_error, ".4f"), _text(row.variance_ratio, ".4f"),
        _text(row.mode_weight_error, ".4f"), _text(row.prediction_error, ".0e"),
    )  # fmt: skip
    verdict = "refused: ok" if row.refused and row.ok else "ok" if row.ok else escape(str(row.reason))
    return (
        f'<tr><td class="word">{escape(row.prediction)}</td><td class="word">{escape(row.grid)}</td>'
        + "".join(f"<td>{number}</td>" for number in numbers)
        + f'<td class="why {_tint(row.ok)}">{verdict}</td></tr>'
    )


def _text(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
