"""Curves as inline SVG, coloured by the page's own variables, so that they follow it from light to dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

NUM_COLOURS = 8
LIGHT = ("#1f5fa8", "#b8500b", "#1d7a4c", "#9b2fae", "#a8281f", "#5b6b00", "#00768a", "#6b4a2b")
DARK = ("#7fb4f0", "#f3a261", "#6fd3a0", "#d98ae8", "#ff8f86", "#c5d44e", "#59d0e4", "#d6ae86")
DASHES = ("none", "6 4", "2 3", "9 3 2 3", "12 4", "1 5")


def _colours(colours: Sequence[str]) -> str:
    return " ".join(f"--c{i}: {colour};" for i, colour in enumerate(colours))


STYLE = (
    f":root {{ {_colours(LIGHT)} }}\n"
    f"@media (prefers-color-scheme: dark) {{ :root {{ {_colours(DARK)} }} }}\n"
    f"@media print {{ :root {{ {_colours(LIGHT)} }} }}\n"
    "svg { font: 11px system-ui, sans-serif; } svg text { fill: var(--faint); }\n"
    "svg .axis { stroke: var(--rule); } svg .ring { fill: none; stroke: var(--ink); stroke-width: 1.2; }\n"
    "svg .floor { stroke: var(--faint); stroke-dasharray: 3 4; } svg .line { fill: none; stroke-width: 1.7; }\n"
)


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point of a curve: what it says when pointed at, and whether it is ringed."""

    x: float
    y: float
    title: str
    ringed: bool = False


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points joined by a line; colour and marker by one number, the dash by another."""

    points: Sequence[Point]
    colour: int
    dash: int = 0


@dataclass(frozen=True, kw_only=True)
class Axis:
    """From `low` to `high`, both above 0, in equal ratios (or in equal steps) over the pixels from `start` to `end`."""

    label: str
    low: float
    high: float
    start: float
    end: float
    is_log: bool = True

    def at(self, value: float) -> float:
        """The pixel of a value."""
        if self.is_log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values: 1, 2, 5 times powers of ten, or every so much."""
        if not self.is_log:
            step = _round_step((self.high - self.low) / 6)
            first = math.ceil(self.low / step)
            return [step * i for i in range(first, int(self.high / step) + 1)]
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        found = [m * 10.0**d for d in decades for m in (1, 2, 5) if self.low <= m * 10.0**d <= self.high]
        if len(found) <= 9:
            return found
        return [10.0**d for d in decades[:: -(-len(decades) // 9)] if self.low <= 10.0**d <= self.high]


def _round_step(step: float) -> float:
    unit = 10 ** math.floor(math.log10(step))
    return next(m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= step)


def axis(label: str, values: Sequence[float], start: float, end: float, *, log: bool | None = None) -> Axis:
    """The axis that holds all values; logarithmic where they span more than a factor of 4, if not said."""
    positive = [value for value in values if 0 < value < math.inf] or [1.0]
    low, high = min(positive), max(positive)
    is_log = (high > 4 * low and min(values, default=1.0) > 0) if log is None else log
    margin = (high / low) ** 0.08 if high > low else 1.3
    if is_log:
        return Axis(label=label, low=low / margin, high=high * margin, start=start, end=end)
    gap = 0.08 * (high - low) or 0.1 * high
    return Axis(label=label, low=min(low - gap, *values), high=high + gap, start=start, end=end, is_log=False)


def chart(curves: Sequence[Curve], x: Axis, y: Axis, *, floor: float | None = None, title: str = "") -> str:
    """Curves in a frame; `floor` is a dashed level where the axis reaches it."""
    width, height = x.end + 14, y.start + 40
    parts = [f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img" aria-label="{escape(title)}">']
    parts += [_tick_x(x, y, value) for value in x.ticks()] + [_tick_y(x, y, value) for value in y.ticks()]
    parts.append(
        f'<text x="{(x.start + x.end) / 2:g}" y="{height - 6:g}" text-anchor="middle">{escape(x.label)}</text>'
    )
    middle = (y.start + y.end) / 2
    turned = f'text-anchor="middle" transform="rotate(-90 12 {middle:g})"'
    parts.append(f'<text x="12" y="{middle:g}" {turned}>{escape(y.label)}</text>')
    if floor is not None and y.low <= floor <= y.high:
        at = y.at(floor)
        parts.append(f'<line class="floor" x1="{x.start:g}" x2="{x.end:g}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{x.end:g}" y="{at - 3:.1f}" text-anchor="end">real data</text>')
    parts += [_curve(curve, x, y) for curve in curves]
    return "\n".join([*parts, "</svg>"])


def _tick_x(x: Axis, y: Axis, value: float) -> str:
    at = x.at(value)
    line = f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{y.start:g}" y2="{y.end:g}"/>'
    return line + f'<text x="{at:.1f}" y="{y.start + 15:g}" text-anchor="middle">{value:g}</text>'


def _tick_y(x: Axis, y: Axis, value: float) -> str:
    at = y.at(value)
    line = f'<line class="axis" x1="{x.start:g}" x2="{x.end:g}" y1="{at:.1f}" y2="{at:.1f}"/>'
    return line + f'<text x="{x.start - 5:g}" y="{at + 4:.1f}" text-anchor="end">{value:.4g}</text>'


def _curve(curve: Curve, x: Axis, y: Axis) -> str:
    colour = f"var(--c{curve.colour % NUM_COLOURS})"
    at = [(x.at(point.x), y.at(point.y), point) for point in curve.points]
    line = " ".join(f"{px:.1f},{py:.1f}" for px, py, _ in at)
    parts = [
        f'<polyline class="line" stroke="{colour}" stroke-dasharray="{DASHES[curve.dash % len(DASHES)]}" '
        f'points="{line}"/>'
    ]
    for px, py, point in at:
        ring = f'<circle class="ring" cx="{px:.1f}" cy="{py:.1f}" r="7"/>' if point.ringed else ""
        parts.append(f"<g><title>{escape(point.title)}</title>{marker(px, py, curve.colour)}{ring}</g>")
    return "\n".join(parts)


def marker(x: float, y: float, colour: int) -> str:
    """A filled shape; four shapes in turn, so that paper without colours still tells curves apart."""
    fill = f'fill="var(--c{colour % NUM_COLOURS})"'
    if colour % 4 == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.6" {fill}/>'
    corners = {
        1: ((-3.4, -3.4), (3.4, -3.4), (3.4, 3.4), (-3.4, 3.4)),
        2: ((0, -4.4), (4.2, 3.2), (-4.2, 3.2)),
        3: ((0, -4.8), (4.8, 0), (0, 4.8), (-4.8, 0)),
    }[colour % 4]
    return f'<polygon points="{" ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)}" {fill}/>'
