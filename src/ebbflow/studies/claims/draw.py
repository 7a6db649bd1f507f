"""Pictures of findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ebbflow.data import to_uint8
from ebbflow.show.canvas import grid
from ebbflow.show.plots import to_picture
from ebbflow.show.style import FAINT, in_style

if TYPE_CHECKING:
    from PIL import Image

WithErrors = tuple[Sequence[float], Sequence[tuple[float, float]]]  # x, and y with its standard error


@in_style
def curves(
    lines: Mapping[str, WithErrors],
    *,
    xlabel: str,
    ylabel: str,
    dashed: Mapping[str, float] | None = None,
    log: str = "",
) -> Image.Image:
    """Curves with bars of two standard errors, and named dashed lines across; `log` names the logarithmic axes."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullLocator

    figure = Figure(figsize=(6.4, 4.2), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for name, (x, values) in lines.items():
        y, bars = [value for value, _ in values], [2 * error for _, error in values]
        axes.errorbar(x, y, yerr=bars, marker="o", markersize=4, capsize=3, label=name)
    for name, at in (dashed or {}).items():
        axes.axhline(at, color=FAINT, linestyle="--", linewidth=1, label=name)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    tops = [value for _, values in lines.values() for value, _ in values]
    if "x" in log:
        marks = sorted({mark for x, _ in lines.values() for mark in x})
        axes.set_xscale("log")
        axes.set_xticks(marks, [f"{mark:g}" for mark in marks])
        axes.xaxis.set_minor_locator(NullLocator())
    if "y" in log:
        axes.set_yscale("log")
        plain = FuncFormatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_major_formatter(plain)
        if max(tops) < 10 * min(tops):
            axes.yaxis.set_minor_formatter(plain)
    figure.legend(loc="outside upper left", ncols=2)
    return to_picture(figure)


def rows_of(named: Mapping[str, Tensor], columns: Sequence[str] = ()) -> Image.Image | None:
    """Rows of samples float32 (N, C, H, W) in [-1, 1], equally many a row; None for what is no image."""
    parts = list(named.values())
    if parts[0].ndim != 4 or parts[0].shape[1] not in (1, 3, 4):
        return None
    images = to_uint8(torch.cat([part.cpu() for part in parts]).float().clamp(-1, 1))
    return grid(images, columns=len(parts[0]), row_names=list(named), column_names=columns)


def pictures(**named: Image.Image | None) -> dict[str, Image.Image]:
    """Those that could be drawn."""
    return {name: picture for name, picture in named.items() if picture is not None}
