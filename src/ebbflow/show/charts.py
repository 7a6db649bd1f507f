"""Curves of quality against cost inside a page: panels that share their axes, and the swatches of their legend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from ebbflow.show.page import figure
from ebbflow.show.style import COLOURS, FAINT, INK, RULE

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

DASHES: tuple[Any, ...] = ("-", (0, (6, 4)), (0, (2, 3)), (0, (9, 3, 2, 3)), (0, (12, 4)), (0, (1, 5)))
LEVEL: dict[str, Any] = {"color": FAINT, "linewidth": 1, "dashes": (3, 4)}
MARKERS = "os^D"  # in turn, so that paper without colours still tells curves apart
WIDTH, HEIGHT = 372, 240  # pixels of a panel
FRAME = (54 / WIDTH, 40 / HEIGHT, 306 / WIDTH, 190 / HEIGHT)  # left, bottom, width, height of its inside


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point of a line: what it says when pointed at, the half length of its bar, whether it is ringed, and what is
    written beside the ring."""

    x: float
    y: float
    title: str
    error: float = 0.0
    ringed: bool = False
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Line:
    """Points joined by a line; colour and marker by one number, the dash by another."""

    points: Sequence[Point]
    colour: int
    dash: int = 0


@dataclass(frozen=True, kw_only=True)
class Scale:
    """An axis from `low` to `high`, in equal ratios (both above 0) or in equal steps."""

    label: str
    low: float
    high: float
    is_log: bool = True


def scale(label: str, values: Sequence[float], *, log: bool | None = None) -> Scale:
    """The axis that holds all values; logarithmic where they span more than a factor of 4, if not said."""
    positive = [value for value in values if 0 < value < math.inf] or [1.0]
    low, high = min(positive), max(positive)
    is_log = (high > 4 * low and min(values, default=1.0) > 0) if log is None else log
    if is_log:
        margin = (high / low) ** 0.08 if high > low else 1.3
        return Scale(label=label, low=low / margin, high=high * margin)
    gap = 0.08 * (high - low) or 0.1 * high
    return Scale(label=label, low=min(low - gap, *values), high=high + gap, is_log=False)


def draw_panel(lines: Sequence[Line], x: Scale, y: Scale, *, floor: float | None = None) -> Figure:
    """Lines in a frame, point k of line i under the gid "point-i-k"; `floor` is a dashed level, where y reaches it."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72)
    axes = drawn.add_axes(FRAME)
    axes.set(xlim=(x.low, x.high), ylim=(y.low, y.high))
    axes.set_xscale("log" if x.is_log else "linear")
    axes.set_yscale("log" if y.is_log else "linear")
    for axis, one in ((axes.xaxis, x), (axes.yaxis, y)):
        axis.set_label_text(one.label, color=FAINT, fontsize=11)
        _tick(axis, one)
    axes.spines[:].set_visible(False)
    axes.grid(color=RULE, linewidth=0.8, clip_on=False)
    axes.set_axisbelow(True)
    if floor is not None and y.low <= floor <= y.high:
        axes.axhline(floor, **LEVEL, clip_on=False)
    for number, line in enumerate(lines):
        x_y = [p.x for p in line.points], [p.y for p in line.points]
        axes.plot(*x_y, clip_on=False, **_stroke(line.colour, line.dash))
        for k, point in enumerate(line.points):
            low, high = (max(y.low, min(y.high, value)) for value in (point.y - point.error, point.y + point.error))
            axes.plot(
                [point.x, point.x],
                [low, high],
                color=_stroke(line.colour, 0)["color"],
                linewidth=1,
                alpha=0.6,
                clip_on=False,
            )
            axes.plot([point.x], [point.y], gid=f"point-{number}-{k}", clip_on=False, **_marker(line.colour))
            if point.ringed:
                axes.plot([point.x], [point.y], "o", markersize=13, color=INK, markerfacecolor="none", clip_on=False)
                at: dict[str, Any] = {"xytext": (0, 9), "textcoords": "offset points", "ha": "center"}
                axes.annotate(point.note, (point.x, point.y), color=FAINT, fontsize=10, **at)
    return drawn


def panel(lines: Sequence[Line], x: Scale, y: Scale, *, title: str, floor: float | None = None) -> Markup:
    """`draw_panel` for a page, with the titles of its points."""
    said = {f"point-{i}-{k}": p.title for i, line in enumerate(lines) for k, p in enumerate(line.points)}
    return figure(draw_panel(lines, x, y, floor=floor), name=title, titles=said)


def _tick(axis: Axis, one: Scale) -> None:
    """Round values, at least two of them: 1, 2, 5 times powers of ten, powers of ten alone, or every so much."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator

    ticks = _log_ticks(one) if one.is_log else []
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    if len(ticks) < 2:
        axis.set_major_locator(MaxNLocator(6))
    else:
        axis.set_ticks(ticks)
    axis.set_tick_params(length=0, labelcolor=FAINT, labelsize=11, pad=6)


def _log_ticks(one: Scale) -> list[float]:
    decades = range(math.floor(math.log10(one.low)), math.ceil(math.log10(one.high)) + 1)
    found = [m * 10.0**d for d in decades for m in (1, 2, 5) if one.low <= m * 10.0**d <= one.high]
    if len(found) <= 9:
        return found
    return [10.0**d for d in decades[:: -(-len(decades) // 9)] if one.low <= 10.0**d <= one.high]


def _stroke(colour: int, dash: int) -> dict[str, Any]:
    return {"color": COLOURS[colour % len(COLOURS)], "linestyle": DASHES[dash % len(DASHES)], "linewidth": 1.7}


def _marker(colour: int) -> dict[str, Any]:
    shape = {"marker": MARKERS[colour % len(MARKERS)], "markersize": 7, "markeredgewidth": 0}
    return shape | {"color": COLOURS[colour % len(COLOURS)]}


def swatch(*, colour: int | None = None, dash: int | None = None, level: bool = False) -> Markup:
    """What stands in a legend for a colour with its marker, for a dash, or for the level of real data."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    width = 14 if colour is not None else 34
    drawn = Figure(figsize=(width / 72, 14 / 72), dpi=72)
    if colour is not None:
        drawn.add_artist(Line2D([0.5], [0.5], **_marker(colour)))
    if dash is not None:
        drawn.add_artist(Line2D([0, 1], [0.5, 0.5], **_stroke(0, dash) | {"color": FAINT}))
    if level:
        drawn.add_artist(Line2D([0, 1], [0.5, 0.5], **LEVEL))
    return figure(drawn, name="")
