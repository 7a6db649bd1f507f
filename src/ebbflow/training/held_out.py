"""The held-out loss on a frozen set of (x0, t, eps), so that two numbers differ only by the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ebbflow.core.noise import generator_for
from ebbflow.methods.objective import Losses
from ebbflow.training.world import here

LOG_SNR_EDGES = (-6.0, -3.0, 0.0, 3.0, 6.0)


def bins_by_log_snr(log_snr: Tensor, losses: Tensor) -> dict[str, float]:
    """Mean loss in bins of log-SNR, named by their edges; empty bins are left out."""
    edges = torch.tensor(LOG_SNR_EDGES, dtype=torch.float64)
    place = torch.bucketize(log_snr.cpu().double(), edges)
    losses = losses.detach().cpu().double()
    names = ["-inf", *(f"{edge:g}" for edge in LOG_SNR_EDGES), "inf"]
    return {
        f"{names[i]}..{names[i + 1]}": float(losses[place == i].mean())
        for i in range(len(names) - 1)
        if bool((place == i).any())
    }


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """A frozen evaluation of an objective.

    Args:
        objective: what is measured.
        x0: held-out data, float32 (N, *dims).
        cond: its conditions, or None.
        seed: of t and eps.
        batch_size: samples a network evaluation.
    """

    objective: Losses
    x0: Tensor
    cond: Tensor | None
    seed: int = 0
    batch_size: int = 128

    def draws(self) -> tuple[Tensor, Tensor]:
        """The frozen t and eps."""
        generator = generator_for(self.seed, "held_out")
        t = self.objective.draw_times(len(self.x0), generator)
        return t, torch.randn(self.x0.shape, generator=generator)

    @torch.no_grad()
    def __call__(self, model: Any, device: torch.device) -> tuple[float, dict[str, float]]:
        """The mean loss, and the mean by bin of log-SNR; several processes take its batches in turn."""
        t, eps = self.draws()
        losses, world = [], here()
        batches = torch.arange(len(t)).split(self.batch_size)
        for rows in batches[world.rank :: world.size]:
            cond = None if self.cond is None else self.cond[rows].to(device)
            losses.append(
                self.objective.losses(model, self.x0[rows].to(device), cond, eps[rows].to(device), t[rows]).cpu()
            )
        every = torch.cat(world.in_turn(losses, len(batches)))
        return float(every.mean()), bins_by_log_snr(self.objective.path.log_snr(t), every)
