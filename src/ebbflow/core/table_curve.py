"""A table of log-SNRs as a smooth curve in t."""

from __future__ import annotations

import torch
from torch import Tensor

from ebbflow.core.device import sent


class TableCurve:
    """lambda(t) = log(alpha / sigma) through the entries of a falling table, entry i at t = i / num_steps.

    Between entries it is a monotone cubic (slopes by fourth-order differences, limited as in Fritsch & Carlson, 1980);
    below the first entry, and above the last finite one, it goes on as a logarithm to the end of the clock, with the
    same slope.

    Args:
        values: the finite entries, float64.
        num_steps: length of the table, whose last entries may be -inf.
    """

    def __init__(self, values: Tensor, num_steps: int) -> None:
        self.values, self.slopes, self.num_steps = values, _monotone_slopes(values), num_steps
        self._sent: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """lambda and its derivative at `t`, float64 of any shape in [0, 1]."""
        values, slopes = self._on(t.device)
        place = t * self.num_steps
        low = place.floor().clamp(1, len(values) - 1).long()
        u = place - low
        y0, y1, m0, m1 = values[low - 1], values[low], slopes[low - 1], slopes[low]
        curve, bend = 3 * (y1 - y0) - 2 * m0 - m1, 2 * (y0 - y1) + m0 + m1
        value, slope = y0 + u * (m0 + u * (curve + u * bend)), m0 + u * (2 * curve + 3 * u * bend)
        value, slope = _log_end(place, values[0], slopes[0], value, slope, place < 1)
        if len(values) < self.num_steps:
            left, past = self.num_steps - place, place > len(values)
            value, slope = _log_end(left, values[-1], -slopes[-1], value, -slope, past)
            slope = -slope
        return value, slope * self.num_steps

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The table where it is asked for, sent there once."""
        if device not in self._sent:
            self._sent[device] = sent(self.values, device), sent(self.slopes, device)
        return self._sent[device]


def _monotone_slopes(values: Tensor) -> Tensor:
    """Slope at each knot of a decreasing table: a five-point difference, kept between 0 and three times the flatter
    neighbouring secant."""
    secants = values.diff()
    before, after = torch.cat([secants[:1], secants]), torch.cat([secants, secants[-1:]])
    slopes = (before + after) / 2
    slopes[0], slopes[-1] = (3 * secants[0] - secants[1]) / 2, (3 * secants[-1] - secants[-2]) / 2
    slopes[2:-2] = (values[:-4] - 8 * values[1:-3] + 8 * values[3:-1] - values[4:]) / 12
    flattest = torch.maximum(before, after)
    return torch.minimum(torch.maximum(slopes, 3 * flattest), flattest / 3)


def _log_end(
    place: Tensor, end_value: Tensor, end_slope: Tensor, value: Tensor, slope: Tensor, outside: Tensor
) -> tuple[Tensor, Tensor]:
    """Outside the table, value = end_value + end_slope log(place), which meets the table at place = 1 with its
    slope."""
    safe = torch.where(outside, place, 1.0)
    return torch.where(outside, end_value + end_slope * safe.log(), value), torch.where(
        outside, end_slope / safe, slope
    )
