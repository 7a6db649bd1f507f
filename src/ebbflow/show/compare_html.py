"""A comparison as one self-contained page: curves, table, the same seeds side by side, what differs, what follows."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from ebbflow.metrics.frontier import Cell, advice, frontier
from ebbflow.show.page import data_uri, shell, table
from ebbflow.show.svg import DASHES, Curve, Point, axis, chart, marker
from ebbflow.show.svg import STYLE as CURVES

STYLE = (
    CURVES
    + """.panels { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; } figure { margin: .5rem 0; max-width: 100%; }
figcaption { font-weight: 600; font-size: .92em; } figure svg { max-width: 100%; height: auto; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; align-items: center; color: var(--faint); }
.legend span { display: inline-flex; align-items: center; gap: .35rem; }
img.strip { image-rendering: pixelated; display: block; height: 44px; } img.strip.points { height: 170px; }
td.strip { padding: .1rem .3rem; } ul.advice li { margin: .35rem 0; } tr.chosen td { background: var(--soft); }
pre { white-space: pre-wrap; font-size: .85em; color: var(--faint); }
@media print { img.strip { height: 26px; } figure svg { width: 19rem; } }
"""
)
SETTING = ("run", '<th class="word">sampler</th>', "steps", '<th class="word">grid</th>', "guidance", "evaluations")
METRICS = (("frechet", "Frechet"), ("kid", "KID"), ("precision", "precision"), ("recall", "recall"))
LEGEND = """<p>Every cell makes samples of the same seeds and labels. <b>Frechet</b> distance and <b>KID</b> compare
their features with those of real data, lower is better; +- is a standard error by the jackknife over ten blocks.
<b>Evaluations</b> are passes of the net a sample, counted; <b>ms</b> a sample is measured on this machine. <b>*</b>
marks the frontier: no other cell is as cheap in evaluations and better; <b>t</b> marks the frontier by the clock. In
the curves a ring marks the frontier of all panels together.</p>"""


@dataclass(frozen=True, kw_only=True)
class Report:
    """A finished comparison.

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

    @property
    def by_evaluations(self) -> list[str]:
        """Keys on the frontier of quality against evaluations."""
        return self._frontier([cell.evaluations for cell in self.cells])

    @property
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


def page(report: Report) -> str:
    """The page of a report."""
    parts = [
        f"<p><b>{escape(report.advice[0])}</b></p>",
        *(f'<p class="note">{escape(note)}</p>' for note in report.notes),
        "<h2>Quality against cost</h2>",
        _legend(report),
        _panels(report, "network evaluations a sample", report.by_evaluations, seconds=False),
        _panels(report, "milliseconds a sample", report.by_seconds, seconds=True),
        "<h2>All cells</h2>",
        LEGEND,
        _cells(report),
        "<h2>The same seeds side by side</h2>",
        _strips(report),
        "<h2>Runs</h2>",
        _runs(report),
        "<h2>What was held fixed</h2>",
        table(
            [
                ["setting", "value"],
                *([escape(k), f'<td class="why">{_text(v)}</td>'] for k, v in report.settings.items()),
            ]
        ),
        "<h2>What follows</h2>",
        '<ul class="advice">' + "".join(f"<li>{escape(line)}</li>" for line in report.advice) + "</ul>",
        f"<p>Repeat it:</p><pre>{escape(report.command)}</pre>",
    ]
    return shell("ebbflow compare", report.command, parts, style=STYLE)


def _names(report: Report, kind: str) -> list[Any]:
    return list(dict.fromkeys(getattr(cell, kind) for cell in report.cells))


def _legend(report: Report) -> str:
    samplers = [
        f'<span><svg width="14" height="14">{marker(7, 7, i)}</svg>{escape(name)}</span>'
        for i, name in enumerate(_names(report, "sampler"))
    ]
    grids = _names(report, "grid")
    lines = [
        f'<span><svg width="34" height="8"><line x1="0" x2="34" y1="4" y2="4" stroke="var(--faint)" stroke-width="1.7" '
        f'stroke-dasharray="{DASHES[i % len(DASHES)]}"/></svg>grid {escape(name)}</span>'
        for i, name in enumerate(grids)
    ]
    return f'<div class="legend">{"".join(samplers)}{"".join(lines)}</div>'


def _panels(report: Report, label: str, ringed: Sequence[str], *, seconds: bool) -> str:
    """A panel for each run and guidance, all on the same axes."""
    good = [cell for cell in report.cells if cell.failed is None]
    if not good:
        return ""
    floor = None if report.floor is None else report.floor.get("frechet")
    x = axis(label, [_cost(cell, seconds) for cell in good], 62, 400, log=True)
    y = axis("Frechet distance", [cell.frechet for cell in good] + [floor or good[0].frechet], 210, 10)
    figures = []
    for run in _names(report, "run"):
        for guidance in _names(report, "guidance"):
            own = [cell for cell in good if (cell.run, cell.guidance) == (run, guidance)]
            if own:
                title = f"{run}, guidance {guidance:g}"
                drawn = chart(_curves(report, own, ringed, seconds), x, y, floor=floor, title=f"{title}, {label}")
                figures.append(f"<figure><figcaption>{escape(title)}</figcaption>{drawn}</figure>")
    return f'<div class="panels">{"".join(figures)}</div>'


def _cost(cell: Cell, seconds: bool) -> float:
    return cell.milliseconds if seconds else cell.evaluations


def _curves(report: Report, cells: Sequence[Cell], ringed: Sequence[str], seconds: bool) -> list[Curve]:
    found = []
    for colour, sampler in enumerate(_names(report, "sampler")):
        for dash, grid in enumerate(_names(report, "grid")):
            own = sorted((c for c in cells if (c.sampler, c.grid) == (sampler, grid)), key=lambda c: _cost(c, seconds))
            points = [
                Point(x=_cost(c, seconds), y=c.frechet, title=f"{c.name}: {c.frechet:.4g}", ringed=c.key in ringed)
                for c in own
            ]
            if points:
                found.append(Curve(points=points, colour=colour, dash=dash))
    return found


def _cells(report: Report) -> str:
    by_evaluations, by_seconds = report.by_evaluations, report.by_seconds
    rated = any(cell.values.get("label_accuracy") is not None for cell in report.cells)
    head = [*SETTING, "ms", *(name for _, name in METRICS)]
    head.insert(8, "+-")
    lines = [head + (["label accuracy"] if rated else []) + ['<th class="word">frontier</th>']]
    for cell in sorted(report.cells, key=lambda cell: cell.frechet):
        marks = " ".join(m for m, keys in (("*", by_evaluations), ("t", by_seconds)) if cell.key in keys)
        lines.append(_line(cell, rated, marks))
    if report.floor is not None:
        values = report.floor
        real = ["real data", *[""] * 6, *(_number(values.get(key)) for key, _ in METRICS)]
        real.insert(8, "")
        lines.append(real + ([_share(values.get("label_accuracy"))] if rated else []) + [""])
    return table(lines)


def _line(cell: Cell, rated: bool, marks: str) -> list[str]:
    setting = [escape(cell.run), _word(cell.sampler), str(cell.steps), _word(cell.grid), f"{cell.guidance:g}"]
    cost = [f"{cell.evaluations:g}", f"{cell.milliseconds:.3g}"]
    if cell.failed is not None:
        return [*setting, *cost, f'<td class="why bad" colspan="{len(METRICS) + 2 + rated}">{escape(cell.failed)}</td>']
    values = [_number(cell.values.get(key)) for key, _ in METRICS]
    values.insert(1, _number(cell.errors.get("frechet"), ".2g"))
    share = [_share(cell.values.get("label_accuracy"))] if rated else []
    return [*setting, *cost, *values, *share, f'<td class="word{" good" if marks else ""}">{marks}</td>']


def _word(text: str) -> str:
    return f'<td class="word">{escape(text)}</td>'


def _number(value: float | None, form: str = ".4g") -> str:
    return "" if value is None else format(value, form)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _strips(report: Report) -> str:
    lines = [[*SETTING, "Frechet", '<th class="word">first samples</th>']]
    kind = "strip" if report.is_image else "strip points"
    for cell in report.cells:
        if cell.strip:
            uri = data_uri(base64.b64decode(cell.strip))
            alt = f"samples of {escape(cell.name, quote=True)}"
            image = f'<td class="strip"><img class="{kind}" alt="{alt}" src="{uri}"></td>'
            line = _line(cell, False, "")
            lines.append([*line[:6], _number(cell.values.get("frechet")), image])
    return table(lines)


def _runs(report: Report) -> str:
    """Facts of each run, then what their configurations do not share."""
    facts = list(dict.fromkeys(key for run in report.runs.values() for key in run))
    head = ["", *(f'<th class="word">{escape(name)}</th>' for name in report.runs)]
    lines = [
        head,
        *([escape(k), *(f'<td class="word">{_text(run.get(k))}</td>' for run in report.runs.values())] for k in facts),
    ]
    if len(report.runs) == 1:
        return table(lines)
    if not report.differences:
        return table(lines) + "<p>Their configurations are the same.</p>"
    rows = [
        [escape(k), *(f'<td class="word">{_text(v)}</td>' for v in values)] for k, values in report.differences.items()
    ]
    return table(lines) + "<p>Where their configurations differ:</p>" + table([head, *rows])


def _text(value: Any) -> str:
    return escape(value if isinstance(value, str) else json.dumps(value))
