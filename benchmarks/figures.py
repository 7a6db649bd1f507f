"""The pictures of the page, as SVG."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
matplotlib.rcParams["svg.hashsalt"] = "ebbflow"  # the same figures make the same file

from matplotlib import pyplot  # noqa: E402


def growth_figure(series: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Seconds and MiB of every series over its work, relative to its first point, on logarithmic axes."""
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5))
    for title, one in series.items():
        power = 2 if one["axis"] == "size" else 1
        work = [(point[one["axis"]] / one["points"][0][one["axis"]]) ** power for point in one["points"]]
        for axis, what in zip(axes, ("seconds", "bytes"), strict=True):
            axis.plot(
                work, [p[what] / one["points"][0][what] for p in one["points"]], marker="o", label=title.strip("`")
            )
    for axis, what in zip(axes, ("time", "peak memory"), strict=True):
        most = axis.get_xlim()[1]
        axis.plot([1, most], [1, most], color="0.7", linestyle="--", zorder=0)
        axis.set(
            xscale="log", yscale="log", xlabel="work, times the first point", ylabel=f"{what}, times the first point"
        )
        axis.grid(visible=True, alpha=0.3)
    axes[0].annotate("linear", (most, most), color="0.5", ha="right", va="bottom")
    axes[1].legend(fontsize=7, loc="upper left")
    _save(figure, path)


def minutes_figure(entries: Mapping[str, Mapping[str, Any]], names: Mapping[str, str], path: Path) -> None:
    """The Frechet distance of every contestant over the minutes that it trained."""
    figure, axis = pyplot.subplots(figsize=(7, 4.5))
    for name, entry in entries.items():
        known = [mark for mark in entry["marks"] if mark["scores"]]
        values = [mark["scores"]["frechet"] for mark in known]
        bold = 3 if name == "ebbflow" else 1.5
        axis.plot([m["minutes"] for m in known], values, marker="o", linewidth=bold, label=names[name].strip("*"))
    axis.set(xscale="log", yscale="log", xlabel="minutes of training", ylabel="Frechet distance, lower is better")
    axis.grid(visible=True, alpha=0.3)
    axis.legend(fontsize=8)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
