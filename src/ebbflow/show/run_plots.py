"""What a training run wrote down, as curves: losses, gap, gradient norm, throughput, learning rate, loss by noise
level."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ebbflow.show.plots import to_picture
from ebbflow.show.style import COLOURS, FAINT, INK, in_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL import Image

Row = Mapping[str, Any]
BY_LOG_SNR = "loss_by_log_snr"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A number of a run over its optimiser steps; both arrays of shape (N,), N may be 0."""

    steps: np.ndarray
    values: np.ndarray

    def smoothed(self, share: float = 0.05) -> Curve:
        """The running mean over `share` of the points, at least one, shorter at both ends."""
        half = max(int(len(self.values) * share / 2), 0)
        total = np.concatenate([[0.0], np.cumsum(self.values)])
        at = np.arange(len(self.values))
        low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(self.values))
        return Curve(steps=self.steps, values=(total[high] - total[low]) / np.maximum(high - low, 1))

    def minus(self, other: Curve) -> Curve:
        """The difference at the steps of this curve, `other` read between its points; empty where either is."""
        if len(self.steps) == 0 or len(other.steps) == 0:
            return Curve(steps=np.zeros(0), values=np.zeros(0))
        return Curve(steps=self.steps, values=self.values - np.interp(self.steps, other.steps, other.values))


def curve(rows: Sequence[Row], key: str, part: str | None = None) -> Curve:
    """The numbers under `key` of the rows that have a finite one; under `part` of it where it is a table."""
    found = [(row["step"], row[key] if part is None else row[key].get(part)) for row in rows if key in row]
    found = [(step, value) for step, value in found if value is not None and math.isfinite(value)]
    return Curve(steps=np.array([s for s, _ in found], float), values=np.array([v for _, v in found], float))


def gap(rows: Sequence[Row]) -> Curve:
    """Held-out loss minus the smoothed training loss: of the raw weights, which the training loss is of, where that
    was measured, and of the averaged ones elsewhere."""
    raw = curve(rows, "held_out_raw")
    return (raw if len(raw.steps) else curve(rows, "held_out")).minus(curve(rows, "loss").smoothed())


def levels_of(rows: Sequence[Row]) -> list[str]:
    """The names of the bins of log-SNR, noisiest first."""
    names = {name for row in rows for name in row.get(BY_LOG_SNR, {})}
    return sorted(names, key=lambda name: float(name.split("..")[0]))


def summary(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    """The last value of each curve of a run; None where there is none."""

    def last(c: Curve) -> float | None:
        return float(c.values[-1]) if len(c.values) else None

    keys = ("loss", "held_out", "held_out_raw", "grad_norm", "samples_per_second")
    return {"run": name, "step": rows[-1]["step"], **{k: last(curve(rows, k)) for k in keys}, "gap": last(gap(rows))}


@in_style
def draw_runs(runs: Mapping[str, Sequence[Row]]) -> Image.Image:
    """Runs in one figure: six panels that compare them, and below them the loss by log-SNR of each.

    Args:
        runs: rows of metrics.jsonl by the name that the legend shows.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(14, 11), dpi=100, layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=(2, 1.1))
    upper, lower = halves
    panels = upper.subplots(2, 3).ravel()
    for number, (name, rows) in enumerate(runs.items()):
        _compare(panels, name, rows, COLOURS[number % len(COLOURS)])
    for panel in panels:
        _finish(panel)
    if len(runs) > 1:
        lines = [Line2D([], [], color=COLOURS[i % len(COLOURS)], label=name) for i, name in enumerate(runs)]
        upper.legend(handles=lines, loc="outside upper center", ncols=min(4, len(runs)))
    below = lower.subplots(1, len(runs), squeeze=False, sharey=True)[0]
    for panel, (name, rows) in zip(below, runs.items(), strict=True):
        _by_level(panel, name, rows)
    return to_picture(figure)


def _compare(panels: Sequence[Axes], name: str, rows: Sequence[Row], colour: str) -> None:
    """The curves of one run in the six panels that all runs share."""
    loss, held, between, norm, rate, speed = panels
    points, label = curve(rows, "loss"), {"color": colour, "label": name}
    loss.plot(points.steps, points.values, color=colour, alpha=0.25, linewidth=0.8)
    _line(loss, points.smoothed(), "training loss, smoothed", **label)
    _line(held, curve(rows, "held_out"), "held-out loss: averaged weights (raw ones dashed)", **label, marker="o")
    _line(held, curve(rows, "held_out_raw"), None, color=colour, linestyle="--", marker="x")
    _line(between, gap(rows), "held-out loss minus training loss", **label, marker="o")
    between.axhline(0, color=FAINT, linewidth=0.6, zorder=0)
    norm.set_yscale("log")
    _line(norm, curve(rows, "grad_norm").smoothed(0.02), "gradient norm, before clipping", **label)
    _line(rate, curve(rows, "lr"), "learning rate", **label)
    _line(speed, curve(rows, "samples_per_second").smoothed(0.02), "samples a second", **label)


def _line(panel: Axes, points: Curve, title: str | None, **style: Any) -> None:
    if title is not None:
        panel.set_title(title)
    if len(points.steps):
        panel.plot(points.steps, points.values, linewidth=1.4, markersize=4, **style)


def _finish(panel: Axes) -> None:
    panel.set_xlabel("step")
    if not panel.get_legend_handles_labels()[1]:
        panel.text(0.5, 0.5, "not recorded", transform=panel.transAxes, ha="center", color=FAINT)


def _by_level(panel: Axes, name: str, rows: Sequence[Row]) -> None:
    """Training loss by bin of log-SNR over the steps of one run; dark is noise, light is data."""
    from matplotlib import colormaps

    names = levels_of(rows)
    for place, level in enumerate(names):
        points = curve(rows, BY_LOG_SNR, level).smoothed()
        colour = colormaps["viridis"](0.9 * place / max(len(names) - 1, 1))
        _line(panel, points, None, color=colour, label=level)
    panel.set_title(f"{name}: training loss by log-SNR")
    panel.set_yscale("log")
    _finish(panel)
    if names:
        panel.legend(fontsize=8, ncols=2, title="dark is noise, light is data", title_fontsize=8)


@in_style
def draw_lengths(name: str, rows: Sequence[Row]) -> Image.Image:
    """The held-out loss of averages of a run's weights by their lengths; the best one is ringed.

    Args:
        name: of the run.
        rows: with the keys "length" and "held_out".
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), dpi=100, layout="constrained")
    panel = figure.subplots()
    ordered = sorted(rows, key=lambda row: row["length"])
    best = min(rows, key=lambda row: row["held_out"])
    panel.plot([row["length"] for row in ordered], [row["held_out"] for row in ordered], marker="o", linewidth=1.4)
    panel.plot([best["length"]], [best["held_out"]], "o", markersize=13, color=INK, markerfacecolor="none")
    panel.set_title(f"{name}: averages of the weights")
    panel.set_xlabel("length, as a share of the training")
    panel.set_ylabel("held-out loss")
    return to_picture(figure)
