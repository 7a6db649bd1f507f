"""Which objectives are one and the same: their weight over log-SNR, compared and drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ebbflow.core.paths import PATHS, Path
from ebbflow.core.weights import effective_weight
from ebbflow.errors import ConfigError, choose
from ebbflow.show.plots import to_picture
from ebbflow.show.style import in_style

if TYPE_CHECKING:
    from PIL import Image

LOG_SNR_RANGE = (-12.0, 12.0)
NUM_POINTS = 481
SAME = 1e-6  # largest relative spread of a ratio that counts as constant


@dataclass(frozen=True, kw_only=True)
class Term:
    """An objective by its names.

    Args:
        prediction, times, weight: names of the registries.
        path_name: a name of `PATHS`.
    """

    prediction: str
    times: str
    weight: str
    path_name: str

    @property
    def name(self) -> str:
        """As it is read: prediction:times:weight@path."""
        return f"{self.prediction}:{self.times}:{self.weight}@{self.path_name}"

    @property
    def said(self) -> str:
        """In words: "velocity, weight uniform, times logit_normal, path flow"."""
        return f"{self.prediction}, weight {self.weight}, times {self.times}, path {self.path_name}"

    @property
    def path(self) -> Path:
        """Its path, with defaults."""
        return choose(PATHS, self.path_name, "path")()

    def weights(self, log_snr: Tensor) -> Tensor:
        """w(L), NaN outside the path's range."""
        path = self.path
        inside = (log_snr >= path.log_snr(1.0)) & (log_snr <= path.log_snr(0.0))
        found = effective_weight(path, self.prediction, self.times, self.weight, log_snr)
        return torch.where(inside & torch.isfinite(found), found, torch.nan)


def read_term(text: str, path_name: str) -> Term:
    """The objective that "prediction:times:weight" names, on `path_name` or on the path after an @.

    Raises:
        ConfigError: another form, or an unknown name.
    """
    names, _, own = text.strip().partition("@")
    parts = names.split(":")
    if len(parts) != 3 or not all(parts):
        raise ConfigError(f"an objective is prediction:times:weight or prediction:times:weight@path, got {text!r}.")
    term = Term(prediction=parts[0], times=parts[1], weight=parts[2], path_name=own or path_name)
    term.weights(grid()[:1])
    return term


def grid() -> Tensor:
    """The log-SNRs at which objectives are compared."""
    return torch.linspace(*LOG_SNR_RANGE, NUM_POINTS, dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """The ratio of two objectives' weights where both are defined.

    Args:
        first, second: their names.
        factor: geometric mean of w_first / w_second.
        spread: largest over smallest of that ratio, minus 1; 0 for the same objective up to `factor`.
        same: whether that is no more than rounding.
    """

    first: str
    second: str
    factor: float
    spread: float
    same: bool


def compare(terms: Sequence[Term]) -> list[Ratio]:
    """Every pair of `terms`."""
    found = {term.name: term.weights(grid()) for term in terms}
    return [_ratio(a, b, found[a], found[b]) for a, b in combinations(found, 2)]


def _ratio(first: str, second: str, a: Tensor, b: Tensor) -> Ratio:
    ratio = (a / b).log()
    ratio = ratio[torch.isfinite(ratio)]
    spread = float((ratio.max() - ratio.min()).expm1())
    return Ratio(first=first, second=second, factor=float(ratio.mean().exp()), spread=spread, same=spread <= SAME)


@in_style
def draw(terms: Sequence[Term]) -> Image.Image:
    """w(L), each scaled to 1 at L = 0; what is one and the same lies on one line, drawn thick and dashed in turn."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.4 + 0.2 * len(terms)), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    log_snrs, middle = grid(), torch.zeros(1, dtype=torch.float64)
    styles = ["-", "--", "-.", ":"]
    for i, term in enumerate(terms):
        scaled = term.weights(log_snrs) / term.weights(middle)
        axes.plot(log_snrs, scaled, styles[i % 4], linewidth=max(1.2, 4.0 - 0.8 * i), label=term.said)
    axes.set(
        title="How objectives weigh noise levels",
        xlabel="log-SNR  (noise on the left, data on the right)",
        ylabel="w(L) of the loss on eps, 1 at L = 0",
        yscale="log",
        ylim=(1e-4, 1e4),
    )
    figure.legend(loc="outside lower center", fontsize=9)
    return to_picture(figure)
