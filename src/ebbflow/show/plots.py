"""Plots, as pictures in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ebbflow.core.paths import Path
from ebbflow.show.fonts import let_be_read
from ebbflow.show.style import BEHIND, COLOURS, FAINT, INK, in_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL import Image

DENSE = 4000  # points from which a density is drawn


def to_picture(figure: Figure, mode: str = "RGB") -> Image.Image:
    """A drawn matplotlib figure as a picture; `mode` "RGBA" keeps what is transparent."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    let_be_read(figure)
    surface = FigureCanvasAgg(figure)
    surface.draw()
    return Image.fromarray(np.asarray(surface.buffer_rgba())).convert(mode)


@in_style
def draw_schedules(paths: Mapping[str, Path], num_steps: int = 1000) -> Image.Image:
    """The curves of each path over steps 1..num_steps in a panel of its own, and log-SNR of all of them in the last.

    beta_i = 1 - alpha_bar_i / alpha_bar_{i-1} and alpha_i = 1 - beta_i are those of the strided chain; sigma is
    sqrt(1 - alpha_bar) on variance-preserving paths. The line at 1 is no scaling at all.
    """
    from matplotlib.figure import Figure

    columns = min(4, len(paths) + 1) if len(paths) != 4 else 3
    rows = -(-(len(paths) + 1) // columns)
    figure = Figure(figsize=(3.7 * columns, 3.1 * rows + 0.5), dpi=110, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, (name, path) in zip(panels, paths.items(), strict=False):
        _curves(panel, path, num_steps)
        panel.set_title(name)
        panel.set_xlabel(f"step of {num_steps}")
    last = panels[len(paths)]
    inner = torch.linspace(1e-3, 1 - 1e-3, 500, dtype=torch.float64)
    for i, (name, path) in enumerate(paths.items()):
        dash: Any = (0, (5, 3)) if i % 2 else "-"  # lines that lie on each other are told apart
        last.plot(inner, path.log_snr(inner), color=_shade(i, len(paths)), linestyle=dash, label=name)
    last.set(title="log-SNR", xlabel="t", ylim=(-16, 16))
    last.legend(fontsize=9, ncols=1 + len(paths) // 5, loc="lower left")
    for empty in panels[len(paths) + 1 :]:
        empty.set_axis_off()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=6, fontsize=12)
    return to_picture(figure)


def _curves(panel: Axes, path: Path, num_steps: int) -> None:
    """Every factor of a path that the literature plots, by step."""
    step, t = np.arange(1, num_steps + 1), torch.arange(0, num_steps + 1, dtype=torch.float64) / num_steps
    c = path.at(t)
    bar = (c.alpha**2).numpy()
    beta = 1 - bar[1:] / bar[:-1]
    named = {
        r"$\beta$": beta,
        r"$1-\beta$": 1 - beta,
        r"$\bar{\alpha}$": bar[1:],
        r"$\alpha = \sqrt{\bar{\alpha}}$": c.alpha[1:],
        r"$\sigma$": c.sigma[1:],
    }
    panel.plot(step, np.ones(num_steps), color=FAINT, linewidth=1, linestyle=(0, (1, 3)), label="no scaling")
    for (name, values), colour in zip(named.items(), (*COLOURS[1:5], INK), strict=True):
        panel.plot(step, values, color=colour, label=name)
    panel.set_ylim(-0.05, max(1.08, min(2.0, float(c.sigma.max()))))


def _shade(i: int, num: int) -> Any:
    """A colour of its own for each of some paths, none of them a quantity's."""
    from matplotlib import colormaps

    return colormaps["viridis"](0.85 * i / max(num - 1, 1))


@in_style
def scatter(
    points: Tensor,
    rows: Sequence[int] | None = None,
    names: Sequence[str] = (),
    behind: Tensor | None = None,
    title: str = "",
) -> Image.Image:
    """Points float32 (N, 2), as a density from 4,000 on, on axes of equal scale.

    Args:
        points: what a model made.
        rows: of each, the place of its name in `names`, by which it is coloured; None for one colour.
        names: of the legend.
        behind: points of the data, drawn below in grey.
        title: above.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 5.6), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    far = 1.05 * max(1.5, float(torch.quantile(points.abs().flatten()[: 2**23], 0.999)))
    if behind is not None:
        axes.scatter(behind[:, 0], behind[:, 1], s=5, c=BEHIND, linewidths=0, label="data")
    kinds = [None] if rows is None else list(range(len(names)))
    if len(points) >= DENSE and len(kinds) == 1:
        extent = (-far, far, -far, far)
        axes.hexbin(*points.T, gridsize=110, extent=extent, cmap="Blues", norm=LogNorm(), mincnt=1, linewidths=0)
    else:
        size = max(3.0, min(24.0, 6000 / len(points)))
        for kind in kinds:
            own = points if rows is None or kind is None else points[torch.tensor(rows) == kind]
            label = "samples" if kind is None else names[kind]
            axes.scatter(own[:, 0], own[:, 1], s=size, alpha=0.75, linewidths=0, label=label)
    if behind is not None or len(kinds) > 1:
        axes.legend(loc="upper right", fontsize=9, markerscale=1.5)
    axes.set(xlim=(-far, far), ylim=(-far, far), aspect="equal", xlabel="$x_1$", ylabel="$x_2$", title=title)
    return to_picture(figure)


def thumbnail(points: Tensor) -> Image.Image:
    """Points float32 (N, 2) in the square [-2, 2]^2 without a frame, on nothing, so that any page may lie below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.7, 1.7), dpi=200)
    figure.patch.set_alpha(0)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.scatter(points[:, 0], points[:, 1], s=1.6, c="#4a8fd6", linewidths=0)
    axes.set(xlim=(-2, 2), ylim=(-2, 2))
    return to_picture(figure, "RGBA")
