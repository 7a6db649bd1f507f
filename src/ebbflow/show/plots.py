"""Plots, as pictures in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ebbflow.core.paths import Path

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image


def to_picture(figure: Figure, mode: str = "RGB") -> Image.Image:
    """A drawn matplotlib figure as a picture; `mode` "RGBA" keeps what is transparent."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    surface = FigureCanvasAgg(figure)
    surface.draw()
    return Image.fromarray(np.asarray(surface.buffer_rgba())).convert(mode)


def draw_schedules(paths: Mapping[str, Path], num_steps: int = 1000) -> Image.Image:
    """The six curves of each path over steps 1..num_steps, and log-SNR of all of them.

    beta_i = 1 - alpha_bar_i / alpha_bar_{i-1} and alpha_i = 1 - beta_i are those of the strided chain; sqrt(1 -
    alpha_bar) is drawn as
    sigma, which it is on variance-preserving paths.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * (len(paths) + 1), 4.2), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(paths) + 1, squeeze=False)[0]
    t = torch.arange(0, num_steps + 1, dtype=torch.float64) / num_steps
    step = np.arange(1, num_steps + 1)
    for panel, (name, path) in zip(panels, paths.items(), strict=False):
        c = path.at(t)
        bar = (c.alpha**2).numpy()
        beta = 1 - bar[1:] / bar[:-1]
        panel.plot(step, np.ones(num_steps), label="no scaling")
        panel.plot(step, beta, label=r"$\beta_t$")
        panel.plot(step, 1 - beta, label=r"$\alpha_t$")
        panel.plot(step, bar[1:], label=r"$\bar{\alpha}_t$")
        panel.plot(step, c.alpha[1:], label=r"$\sqrt{\bar{\alpha}_t}$")
        panel.plot(
            step, c.sigma[1:], label=r"$\sigma_t$" if name == "ve" else r"$\sqrt{1-\bar{\alpha}_t}$", color="black"
        )
        panel.set(title=name, xlabel=f"step of {num_steps}", ylim=(-0.05, max(1.05, min(2.0, float(c.sigma.max())))))
        panel.legend(fontsize="x-large" if len(paths) < 3 else "medium")
    inner = torch.linspace(1e-3, 1 - 1e-3, 500, dtype=torch.float64)
    for name, path in paths.items():
        panels[-1].plot(inner, path.log_snr(inner), label=name)
    panels[-1].set(title="log-SNR", xlabel="t", ylim=(-20, 20))
    panels[-1].legend()
    return to_picture(figure)


def scatter(points: Tensor, labels: tuple[int, ...] | None = None) -> Image.Image:
    """Points float32 (N, 2) in the square [-2, 2]^2, coloured by label."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), dpi=110, layout="tight")
    axes = figure.add_subplot()
    axes.scatter(
        points[:, 0],
        points[:, 1],
        s=4,
        c="#1f4e79" if labels is None else labels,
        cmap=None if labels is None else "tab10",
        linewidths=0,
    )
    axes.set(xlim=(-2, 2), ylim=(-2, 2), aspect="equal")
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
