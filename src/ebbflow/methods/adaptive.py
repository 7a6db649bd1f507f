"""Importance sampling of t and learned uncertainty: what training may learn about its own loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ebbflow.core.paths import Path
from ebbflow.core.times import TIME_SAMPLERS, num_table_steps
from ebbflow.methods.told import CLOCKS
from ebbflow.nets.blocks import frequencies

HISTORY = 10
UNIFORM_SHARE = 0.001


class ImportanceTimes:
    """Times drawn in proportion to the root mean square of their recent losses, weighted so that the expected loss is
    that of uniform times (Nichol & Dhariwal, 2021, eq. 18, 2102.09672).

    The clock is cut into bins; bin k is drawn with p_k ~ sqrt(E[L^2]) over its last 10 losses, plus a share of 0.001
    that is uniform, and its samples weigh 1 / (K p_k). Until every bin has 10 losses, times are stratified and weigh 1.

    Args:
        path: the path, whose table bounds the number of bins.
        num_bins: K; the warm-up takes a little over 10 K samples.
    """

    def __init__(self, path: Path, num_bins: int = 100) -> None:
        if num_bins < 1:
            raise ValueError(f"`num_bins` must be at least 1, got {num_bins}.")
        self.path, self.num_bins = path, min(num_bins, num_table_steps(path))
        self._losses = torch.zeros(self.num_bins, HISTORY, dtype=torch.float64)
        self._counts = torch.zeros(self.num_bins, dtype=torch.int64)

    @property
    def is_warm(self) -> bool:
        """Whether every bin has its losses."""
        return bool((self._counts >= HISTORY).all())

    def probabilities(self) -> Tensor:
        """p, float64 of shape (K,); uniform until warm, and where all losses are 0."""
        flat = torch.full((self.num_bins,), 1 / self.num_bins, dtype=torch.float64)
        sizes = self._losses.pow(2).mean(1).sqrt()
        if not self.is_warm or float(sizes.sum()) == 0:
            return flat
        return torch.lerp(sizes / sizes.sum(), flat, UNIFORM_SHARE)

    def draw(self, num: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """t and the weights of its losses, float64 of shape (num,)."""
        if not self.is_warm:
            return TIME_SAMPLERS["stratified"].draw(num, self.path, generator), torch.ones(num, dtype=torch.float64)
        p = self.probabilities()
        bins = torch.multinomial(p, num, replacement=True, generator=generator)
        inside = torch.rand(num, generator=generator, dtype=torch.float64).clamp(min=2.0**-53)
        return (bins + inside) / self.num_bins, 1 / (self.num_bins * p[bins])

    def observe(self, t: Tensor, losses: Tensor) -> None:
        """Remember the unweighted losses of a step; the oldest of a bin give way."""
        bins = (torch.ceil(t.cpu() * self.num_bins - 1e-9).long() - 1).clamp(0, self.num_bins - 1).tolist()
        for k, loss in zip(bins, losses.detach().cpu().double().tolist(), strict=True):
            if math.isfinite(loss):  # a step that is passed over may be told before that is known
                self._losses[k, int(self._counts[k]) % HISTORY] = loss
                self._counts[k] += 1

    def state(self) -> dict[str, Tensor]:
        """All there is to remember."""
        return {"losses": self._losses, "counts": self._counts}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`.

        Raises:
            ValueError: it has another number of bins.
        """
        if state["losses"].shape != self._losses.shape:
            raise ValueError(
                f"these losses have {len(state['losses'])} bins of times, this run has {self.num_bins}. Set "
                f"objective.time_bins={len(state['losses'])}."
            )
        self._losses, self._counts = state["losses"].clone(), state["counts"].clone()


class Uncertainty(nn.Module):
    """u(L), a linear function of sinusoids of log-SNR trained beside the net: e^{-u} loss + u makes every noise level
    count alike, because at its best u is the logarithm of the level's own loss (Karras et al., 2023, eq. 21 and 22,
    2312.02696).

    Args:
        path: the path.
        num_frequencies: sinusoids; u starts at 0.
    """

    def __init__(self, path: Path, num_frequencies: int = 128) -> None:
        super().__init__()
        self.path, self.num_frequencies = path, num_frequencies
        self.weight, self.bias = nn.Parameter(torch.zeros(num_frequencies)), nn.Parameter(torch.zeros(()))

    def forward(self, t: Tensor) -> Tensor:
        """u of each t, float32 of shape (B,)."""
        clock = CLOCKS["log_snr"](self.path, t).float().to(self.weight.device)
        with torch.autocast(clock.device.type, enabled=False):
            return frequencies(clock, self.num_frequencies) @ self.weight + self.bias
