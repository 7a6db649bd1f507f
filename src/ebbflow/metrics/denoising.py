"""How well a denoiser denoises unseen data, by log-SNR, on scales that do not depend on its prediction or its path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ebbflow.core.condition import Cond, rows_of
from ebbflow.core.noise import generator_for
from ebbflow.methods.denoise import Denoiser, conditional
from ebbflow.progress import Stage, Work

LOG_SNRS = (-8.0, -6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0, 8.0)


@torch.no_grad()
def denoising_errors(
    denoiser: Denoiser,
    x0: Tensor,
    cond: Cond | None,
    *,
    log_snrs: Sequence[float] = LOG_SNRS,
    seed: int = 0,
    batch_size: int = 128,
    device: torch.device | str = "cpu",
) -> Work[list[dict[str, Any]]]:
    """E ||x0 - x0^||^2 / numel and E ||eps - eps^||^2 / numel at each log-SNR L; the second is e^L times the first.

    The noise is frozen: the same (x0, eps) at every level and for every model. Levels outside the path's range are left
    out. One network evaluation a sample and level.

    Args:
        denoiser: with no condition bound.
        x0: data, float32 (N, *dims).
        cond: its conditions, a row a sample, or None.
        log_snrs: where.
        seed: of eps.
        batch_size: samples a network evaluation.
        device: where the denoiser is.

    Returns:
        A row {"log_snr", "x0_mse", "eps_mse"} a level.
    """
    eps = torch.randn(x0.shape, generator=generator_for(seed, "denoising"))
    rows = []
    for done, log_snr in enumerate(log_snrs, start=1):
        t = denoiser.path.time_of(log_snr)
        if abs(float(denoiser.path.log_snr(t)) - log_snr) < 1e-3:
            x0_mse, eps_mse = _errors(denoiser, x0, cond, eps, t, batch_size, device)
            rows.append({"log_snr": log_snr, "x0_mse": x0_mse, "eps_mse": eps_mse})
        yield Stage("denoise", done, len(log_snrs))
    return rows


def _errors(
    denoiser: Denoiser,
    x0: Tensor,
    cond: Cond | None,
    eps: Tensor,
    t: Tensor,
    batch_size: int,
    device: torch.device | str,
) -> tuple[float, float]:
    sums = torch.zeros(2, dtype=torch.float64)
    for rows in torch.arange(len(x0)).split(batch_size):
        clean, noise = x0[rows].to(device), eps[rows].to(device)
        bound = denoiser if cond is None else conditional(denoiser).given(rows_of(cond, rows))
        estimate = bound(denoiser.path.mix(clean, noise, t), t)
        errors = ((estimate.x0 - clean), (estimate.eps - noise))
        sums += torch.stack([error.cpu().double().square().sum() for error in errors])
    x0_mse, eps_mse = (sums / x0.numel()).tolist()
    return x0_mse, eps_mse
