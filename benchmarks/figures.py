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
    """Seconds and MiB of every series over its work, relative to its first point, on logarithmic axes: those of one net
    above, the number of samples, which goes much further, below."""
    rows = [kept for kept in _rows(series) if kept]
    figure, grid = pyplot.subplots(len(rows), 2, figsize=(11, 4.2 * len(rows)), squeeze=False)
    for kept, axes in zip(rows, grid, strict=True):
        for title, one in kept.items():
            for axis, what in zip(axes, ("seconds", "bytes"), strict=True):
                axis.plot(
                    _work(one), [p[what] / one["points"][0][what] for p in one["points"]], marker="o", label=title
                )
        most = max(_work(one)[-1] for one in kept.values())
        for axis, what in zip(axes, ("time", "peak memory"), strict=True):
            axis.plot([1, most], [1, most], color="0.7", linestyle="--", zorder=0, label="linear")
            axis.set(xscale="log", yscale="log", xlabel="work", ylabel=what)
            axis.grid(visible=True, alpha=0.3)
        axes[0].legend(fontsize=7, loc="upper left")
    figure.suptitle("times what the first point of the series takes", fontsize=9)
    figure.tight_layout()
    _save(figure, path)


def _rows(series: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Mapping[str, Any]]]:
    titles = {title.replace("`", ""): one for title, one in series.items()}
    return [{t: one for t, one in titles.items() if (one["axis"] == "num") == far} for far in (False, True)]


def _work(one: Mapping[str, Any]) -> list[float]:
    """The work of every point over that of the first; an image's is its pixels."""
    power = 2 if one["axis"] == "size" else 1
    return [(point[one["axis"]] / one["points"][0][one["axis"]]) ** power for point in one["points"]]


def minutes_figure(entries: Mapping[str, Mapping[str, Any]], names: Mapping[str, str], path: Path) -> None:
    """The Frechet distance of every contestant over the minutes that it trained."""
    figure, axis = pyplot.subplots(figsize=(7, 4.5))
    for name, entry in entries.items():
        known = [mark for mark in entry["marks"] if mark["scores"]]
        values = [mark["scores"]["frechet"] for mark in known]
        bold = 3 if name == "ebbflow" else 1.5
        axis.plot([m["minutes"] for m in known], values, marker="o", linewidth=bold, label=names[name].strip("*"))
    axis.set(xscale="log", yscale="log", xlabel="minutes of training", ylabel="Frechet distance, lower is better")
    minutes = sorted({mark["minutes"] for entry in entries.values() for mark in entry["marks"]})
    axis.set_xticks(minutes, [f"{m:g}" for m in minutes], minor=False)
    axis.minorticks_off()
    axis.grid(visible=True, alpha=0.3)
    axis.legend(fontsize=8)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
