"""The optimal variance of ancestral steps for a trained net: how far its x0 is off at each noise level, measured on
data once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ebbflow.core.condition import Cond, rows_of
from ebbflow.core.noise import generator_for
from ebbflow.core.predictions import Estimate
from ebbflow.core.shape import in_float64, per_sample
from ebbflow.methods.denoise import Denoiser, Wrapped, conditional

NUM_LOG_SNRS = 29
LOG_SNR_RANGE = (-14.0, 14.0)


@dataclass(frozen=True, kw_only=True)
class VarianceTable:
    """E ||x0 - x0(x_t)||^2 / d by log-SNR; between entries its logarithm is linear.

    Args:
        log_snr: increasing, two entries or more.
        variance: above 0, one each.
    """

    log_snr: tuple[float, ...]
    variance: tuple[float, ...]

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.log_snr, self.log_snr[1:], strict=False))
        if len(self.log_snr) < 2 or len(self.log_snr) != len(self.variance) or not rising or min(self.variance) <= 0:
            raise ValueError("a table of variances needs two or more rising log-SNRs and as many variances above 0.")

    def at(self, log_snr: Tensor) -> Tensor:
        """The variance at `log_snr`, float64 of its shape; never above e^{-L}, which it is where eps stays unknown."""
        nodes, values = (torch.tensor(k, dtype=torch.float64) for k in (self.log_snr, self.variance))
        place = torch.searchsorted(nodes, log_snr).clamp(1, len(nodes) - 1)
        share = ((log_snr - nodes[place - 1]) / (nodes[place] - nodes[place - 1])).clamp(0, 1)
        between = torch.lerp(values.log()[place - 1], values.log()[place], share)
        return torch.minimum(between, -log_snr).exp()


@dataclass(frozen=True, kw_only=True)
class AnalyticVariance(Wrapped):
    """A denoiser that also knows Var[x0 | x_t], one number for each noise level out of a table.

    For an exact x0 the mean squared error is the mean of Var[x0 | x_t], and (sigma/alpha)^2 (1 - E ||eps(x_t)||^2 / d)
    of Analytic-DPM (Bao et al., 2022, eq. 9, 2201.06503); for a net's x0 it is what maximises the likelihood of
    ancestral steps with one variance a level (Bao et al., 2022, theorem 1, 2206.07309).

    Args:
        inner: the denoiser.
        table: its errors; see `measure_variance`.
    """

    table: VarianceTable

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        rows = per_sample(self.table.at(self.path.log_snr(t).cpu()).expand(len(x_t)), x_t).expand(x_t.shape)
        return replace(self.inner(x_t, t), x0_variance=rows)


@torch.no_grad()
def measure_variance(
    denoiser: Denoiser, x0: Tensor, cond: Cond | None, *, seed: int = 0, batch_size: int = 128
) -> VarianceTable:
    """The table of a denoiser on data x0, (N, *dims), with the conditions `cond` of its rows.

    Cost: 29 evaluations a row, at equal steps of log-SNR inside [-14, 14] and inside the path's own range.

    Raises:
        ValueError: conditions for a denoiser that takes none.
    """
    path, generator = denoiser.path, generator_for(seed, "variance")
    low, high = max(LOG_SNR_RANGE[0], float(path.log_snr(1.0))), LOG_SNR_RANGE[1]
    log_snrs: Sequence[float] = torch.linspace(low, high, NUM_LOG_SNRS, dtype=torch.float64).tolist()
    eps = torch.randn(x0.shape, generator=generator)
    found = [_error(denoiser, x0, cond, eps.to(x0), float(path.time_of(log_snr)), batch_size) for log_snr in log_snrs]
    return VarianceTable(log_snr=tuple(log_snrs), variance=tuple(max(value, 1e-12) for value in found))


def _error(denoiser: Denoiser, x0: Tensor, cond: Cond | None, eps: Tensor, t: float, batch_size: int) -> float:
    total = 0.0
    for rows in torch.arange(len(x0)).split(batch_size):
        bound = denoiser if cond is None else conditional(denoiser).given(rows_of(cond, rows))
        guess = bound(denoiser.path.mix(x0[rows], eps[rows], t), t).x0
        total += float(in_float64(guess - x0[rows]).pow(2).sum())
    return total / x0.numel()
