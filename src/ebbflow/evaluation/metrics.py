"""Metrics: pure functions of features, real against generated, computed in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ebbflow.core.noise import generator_for
from ebbflow.evaluation.statistics import Moments, moments

CHUNK = 1024  # rows of a distance matrix in memory at a time


def frechet_of(real: Moments, generated: Moments) -> float:
    """||m_r - m_g||^2 + tr C_r + tr C_g - 2 tr (C_r^1/2 C_g C_r^1/2)^1/2, at least 0.

    Both roots are taken of symmetric matrices by their eigenvalues, so the result is real whatever the rank.

    Args:
        real, generated: moments of at least 2 rows each.

    Source: Dowson & Landau (1982); Heusel et al. (2017), eq. 6, 1706.08500. Cost O(D^3).
    """
    c_r, c_g = real.covariance, generated.covariance
    values, vectors = torch.linalg.eigh(c_r)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    inner = root @ c_g @ root
    cross = torch.linalg.eigvalsh((inner + inner.T) / 2).clamp(min=0).sqrt().sum()
    distance = (real.mean - generated.mean).square().sum() + c_r.trace() + c_g.trace() - 2 * cross
    return max(float(distance), 0.0)


def frechet(real: Tensor, generated: Tensor) -> float:
    """The Frechet distance of Gaussians fitted to two sets of features; see `frechet_of`.

    Args:
        real, generated: (N, D) and (M, D), at least 2 rows each.
    """
    return frechet_of(moments(real), moments(generated))


def frechet_infinity(real: Tensor, generated: Tensor, *, num_sizes: int = 10, seed: int = 0) -> float:
    """The Frechet distance extrapolated to infinitely many generated rows: the intercept of a line in 1/n.

    Fitted to subsets of n = N/2 .. N rows, drawn without replacement. The bias of a finite reference stays in it, and
    so may a value a little below 0.

    Args:
        real, generated: (N, D) and (M, D); M at least 4 and, to be of use, several times D.
        num_sizes: subset sizes.
        seed: of the subsets.

    Source: Chong & Forsyth (2020), 1911.07023.
    """
    reference = moments(real)
    num = len(generated)
    sizes = torch.linspace(num / 2, num, num_sizes).round().long().tolist()
    values = []
    for i, size in enumerate(sizes):
        rows = torch.randperm(num, generator=generator_for(seed, "frechet_infinity", i))[:size]
        values.append(frechet_of(reference, moments(generated[rows])))
    return intercept([1 / n for n in sizes], values)


def intercept(x: Sequence[float], y: Sequence[float]) -> float:
    """The value at x = 0 of the least-squares line through (x, y)."""
    a, b = torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.float64)
    slope = ((a - a.mean()) * (b - b.mean())).sum() / (a - a.mean()).square().sum()
    return float(b.mean() - slope * a.mean())


def kid(real: Tensor, generated: Tensor) -> float:
    """The unbiased squared maximum mean discrepancy under k(x, y) = (x . y / D + 1)^3; 0 on average for equal laws.

    E k(x, x') + E k(y, y') - 2 E k(x, y), the diagonals of the first two left out, over all pairs of rows.

    Args:
        real, generated: (N, D) and (M, D), at least 2 rows each.

    Source: Binkowski et al. (2018), eq. 4, 1801.01401. Cost O((N + M)^2 D), in chunks of rows.
    """
    real, generated = real.double(), generated.double()
    return _within(real) + _within(generated) - 2 * _kernel_sum(real, generated) / (len(real) * len(generated))


def _kernel_sum(x: Tensor, y: Tensor) -> float:
    return float(sum(((part @ y.T / x.shape[1] + 1) ** 3).sum() for part in x.split(CHUNK)))


def _within(x: Tensor) -> float:
    """The mean kernel over pairs of different rows."""
    diagonal = float(((x.square().sum(1) / x.shape[1] + 1) ** 3).sum())
    return (_kernel_sum(x, x) - diagonal) / (len(x) * (len(x) - 1))


@dataclass(frozen=True, kw_only=True)
class Manifold:
    """How two sets of rows lie to each other; each a fraction in [0, 1], but density, which may exceed 1.

    Args:
        precision: generated rows inside some ball of the real ones.
        recall: real rows inside some ball of the generated ones.
        density: real balls that hold a generated row, over k, on average.
        coverage: real balls that hold at least one generated row.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def manifold(real: Tensor, generated: Tensor, *, k: int = 5) -> Manifold:
    """Precision, recall, density and coverage, with a ball around each row out to its k-th neighbour in its own set.

    Args:
        real, generated: (N, D) and (M, D).
        k: at least 1 and below both N and M.

    Raises:
        ValueError: too few rows for `k`.

    Source: Kynkaanniemi et al. (2019), 1904.06991; Naeem et al. (2020), 2002.09797. Cost O((N + M)^2 D), in chunks.
    """
    if not 1 <= k < min(len(real), len(generated)):
        raise ValueError(f"`k` = {k} neighbours need more rows on both sides, got {len(real)} and {len(generated)}.")
    real, generated = real.double(), generated.double()
    real_radii, generated_radii = _radii(real, k), _radii(generated, k)
    inside = hits = 0.0
    recalled, covered = torch.zeros(len(real), dtype=torch.bool), torch.zeros(len(real), dtype=torch.bool)
    for rows in torch.arange(len(generated)).split(CHUNK):
        distances = torch.cdist(generated[rows], real)
        within = distances <= real_radii
        inside += float(within.any(1).sum())
        hits += float(within.sum())
        covered |= within.any(0)
        recalled |= (distances <= generated_radii[rows, None]).any(0)
    return Manifold(
        precision=inside / len(generated),
        recall=float(recalled.double().mean()),
        density=hits / (k * len(generated)),
        coverage=float(covered.double().mean()),
    )


def _radii(rows: Tensor, k: int) -> Tensor:
    """The distance of each row to its k-th nearest other row."""
    found = [torch.cdist(part, rows).kthvalue(k + 1, dim=1).values for part in rows.split(CHUNK)]
    return torch.cat(found)


def precision(real: Tensor, generated: Tensor) -> float:
    """The fraction of generated rows in a ball of 5 neighbours of a real row: fidelity; see `manifold`."""
    return manifold(real, generated).precision


def recall(real: Tensor, generated: Tensor) -> float:
    """The fraction of real rows in a ball of 5 neighbours of a generated row: diversity; see `manifold`."""
    return manifold(real, generated).recall


def density(real: Tensor, generated: Tensor) -> float:
    """How many real balls hold a generated row, over 5, on average; 1 for equal laws; see `manifold`."""
    return manifold(real, generated).density


def coverage(real: Tensor, generated: Tensor) -> float:
    """The fraction of real balls that hold a generated row; see `manifold`."""
    return manifold(real, generated).coverage


METRICS: dict[str, Callable[[Tensor, Tensor], float]] = {
    "frechet": frechet,
    "frechet_infinity": frechet_infinity,
    "kid": kid,
    "precision": precision,
    "recall": recall,
    "density": density,
    "coverage": coverage,
}


def histogram_distance(real: Tensor, generated: Tensor, num_classes: int) -> float:
    """The total variation 1/2 sum |p_k - q_k| between two sets of class indices, in [0, 1].

    Args:
        real, generated: int64 (N,) and (M,) in [0, num_classes).
        num_classes: at least 1.
    """
    p, q = (torch.bincount(x, minlength=num_classes).double() / len(x) for x in (real, generated))
    return float((p - q).abs().sum() / 2)


def nearest_distances(rows: Tensor, others: Tensor) -> Tensor:
    """The Euclidean distance of each row to the nearest of `others`, float64 (N,).

    Args:
        rows, others: (N, ...) and (M, ...), flattened; bytes or floats.
    """
    rows, found = rows.flatten(1).double(), []
    for part in others.split(4 * CHUNK):
        flat = part.flatten(1).double()
        squares = rows.square().sum(1, keepdim=True) + flat.square().sum(1) - 2 * rows @ flat.T
        found.append(squares.min(1).values)
    return torch.stack(found).min(0).values.clamp(min=0).sqrt()


def jackknife_error(parts: Sequence[Moments], statistic: Callable[[Moments], float]) -> float:
    """The standard error of `statistic` by leaving out one of g blocks of rows at a time.

    sqrt((g - 1) / g sum_i (s_i - mean s)^2); right for smooth statistics of independent rows.

    Args:
        parts: moments of g blocks of equal size, g at least 2.
        statistic: of the moments of all rows but one block's.

    Source: Efron & Stein (1981).
    """
    values = []
    for i in range(len(parts)):
        rest = [part for j, part in enumerate(parts) if j != i]
        values.append(statistic(sum(rest[1:], rest[0])))
    left_out = torch.tensor(values, dtype=torch.float64)
    return float(((len(parts) - 1) / len(parts) * (left_out - left_out.mean()).square().sum()).sqrt())
