"""The one look of ebbflow's plots: colours and lines, in pictures and on pages."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
INK, FAINT, RULE = "#1d2733", "#5d6875", "#d5dbe3"
COLOURS = ("#1f5fa8", "#b8500b", "#1d7a4c", "#9b2fae", "#a8281f", "#5b6b00", "#00768a", "#6b4a2b")
BEHIND = "#c9cfd7"  # data below what a model makes
STYLE: dict[str, Any] = {
    "axes.edgecolor": RULE, "axes.labelcolor": FAINT, "axes.titlecolor": INK, "axes.titlesize": 11,
    "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlepad": 8, "axes.labelsize": 10,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "grid.color": RULE, "grid.linewidth": 0.6, "lines.linewidth": 1.6, "text.color": INK,
    "xtick.color": RULE, "ytick.color": RULE, "xtick.labelcolor": FAINT, "ytick.labelcolor": FAINT,
    "xtick.labelsize": 9, "ytick.labelsize": 9, "legend.frameon": False, "legend.fontsize": 10,
}  # fmt: skip


def in_style(draw: Callable[P, R]) -> Callable[P, R]:
    """A function that draws with matplotlib, in the one style of ebbflow's plots."""

    @wraps(draw)
    def drawn(*args: P.args, **given: P.kwargs) -> R:
        from cycler import cycler
        from matplotlib import rc_context

        style: Any = {**STYLE, "axes.prop_cycle": cycler(color=COLOURS)}
        with rc_context(style):
            return draw(*args, **given)

    return drawn
