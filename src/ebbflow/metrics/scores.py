"""Metrics: pure functions of features, real against generated, computed in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ebbflow.core.noise import generator_for

CHUNK = 1024  # rows of a matrix of distances in memory at a time
NEIGHBOURS = 5
PAIRWISE_ROWS = 10_000  # of the real side, for metrics that cost its square


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
    """The Frechet distance of Gaussians fitted to features (N, D) and (M, D), at least 2 rows each; see
    `frechet_of`."""
    return frechet_of(moments(real), moments(generated))


def frechet_infinity(real: Moments, generated: Tensor, *, num_shuffles: int = 8, seed: int = 0) -> float:
    """The Frechet distance extrapolated to infinitely many generated rows: 2 F(N) - F(N/2), where a line in 1/n ends.

    F(N/2) is the mean over both halves of `num_shuffles` shuffles. The bias of a finite reference stays in it, a bias
    of second order in D/N too, and the value may fall a little below 0.

    Args:
        real: moments of the reference.
        generated: (N, D) with N at least 4 and, to be of use, several times D.
        num_shuffles: at least 1.
        seed: of the shuffles.

    Source: Chong & Forsyth (2020), 1911.07023, with all rows used at both sizes.
    """
    halves = []
    for shuffle in range(num_shuffles):
        order = torch.randperm(len(generated), generator=generator_for(seed, "frechet_infinity", shuffle))
        halves += [frechet_of(real, moments(generated[part])) for part in order.tensor_split(2)]
    return 2 * frechet_of(real, moments(generated)) - sum(halves) / len(halves)


def kid(real: Tensor, generated: Tensor) -> float:
    """The unbiased squared maximum mean discrepancy under k(x, y) = (x . y / D + 1)^3; 0 on average for equal laws.

    E k(x, x') + E k(y, y') - 2 E k(x, y), the diagonals of the first two left out, over all pairs of rows.

    Args:
        real, generated: (N, D) and (M, D), at least 2 rows each.

    Source: Binkowski et al. (2018), eq. 4, 1801.01401. Cost O((N + M)^2 D), a chunk of rows at a time.
    """
    real, generated = real.double(), generated.double()
    return mean_kernel_within(real) + mean_kernel_within(generated) - 2 * mean_kernel_between(real, generated)


def mean_kernel_between(x: Tensor, y: Tensor) -> float:
    """The mean of (x . y / D + 1)^3 over all pairs of rows of float64 (N, D) and (M, D)."""
    total = sum(float((part @ y.T / x.shape[1] + 1).pow(3).sum()) for part in x.split(CHUNK))
    return total / (len(x) * len(y))


def mean_kernel_within(x: Tensor) -> float:
    """The mean of (x . x' / D + 1)^3 over all pairs of different rows of float64 (N, D)."""
    diagonal = float((x.square().sum(1) / x.shape[1] + 1).pow(3).sum())
    return (mean_kernel_between(x, x) * len(x) ** 2 - diagonal) / (len(x) * (len(x) - 1))


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


def manifold(real: Tensor, generated: Tensor, *, k: int = NEIGHBOURS) -> Manifold:
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
    inside = hits = 0
    recalled, covered = torch.zeros(len(real), dtype=torch.bool), torch.zeros(len(real), dtype=torch.bool)
    for rows in torch.arange(len(generated)).split(CHUNK):
        distances = torch.cdist(generated[rows], real)
        within = distances <= real_radii
        inside += int(within.any(1).sum())
        hits += int(within.sum())
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
    return torch.cat([torch.cdist(part, rows).kthvalue(k + 1, dim=1).values for part in rows.split(CHUNK)])


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
        rows, others: (N, ...) and (M, ...) with M at least 1, flattened; bytes or floats. Exact for bytes.
    """
    rows, found = rows.flatten(1).double(), []
    for part in others.split(4 * CHUNK):
        flat = part.flatten(1).double()
        squares = rows.square().sum(1, keepdim=True) + flat.square().sum(1) - 2 * rows @ flat.T
        found.append(squares.min(1).values)
    return torch.stack(found).min(0).values.clamp(min=0).sqrt()


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Two sets of features, with what is known of their classes; what several metrics need is computed once.

    Args:
        real: features (N, D).
        generated: features (M, D).
        real_classes: class indices of the real entries, int64 (N,), or None.
        classes: what the classifier takes each generated entry for, int64 (M,), or None.
        labels: what each generated entry was meant to be, int64 (M,), or None.
        num_classes: 0 without labels.
        agrees: whether the caption that each generated entry was asked to be fits it best, (M,) of 0 and 1, or None.
    """

    real: Tensor
    generated: Tensor
    real_classes: Tensor | None = None
    classes: Tensor | None = None
    labels: Tensor | None = None
    num_classes: int = 0
    agrees: Tensor | None = None

    @cached_property
    def real_moments(self) -> Moments:
        """Moments of the real features."""
        return accumulated(self.real.split(CHUNK))

    @cached_property
    def moments(self) -> Moments:
        """Moments of the generated features."""
        return accumulated(self.generated.split(CHUNK))

    @cached_property
    def few_real(self) -> Tensor:
        """At most `PAIRWISE_ROWS` of the real features."""
        return spread_rows(self.real, PAIRWISE_ROWS)

    @property
    def is_full(self) -> bool:
        """Whether there are rows enough on both sides for covariances of full rank."""
        return min(len(self.real), len(self.generated)) > self.real.shape[1]

    @cached_property
    def manifold(self) -> Manifold | None:
        """Precision, recall, density and coverage, at no more real rows than generated ones: recall and coverage fall
        with the ratio of the two. None where there are too few rows for neighbours."""
        if min(len(self.real), len(self.generated)) <= NEIGHBOURS:
            return None
        return manifold(spread_rows(self.few_real, len(self.generated)), self.generated)


def spread_rows(rows: Tensor, num: int) -> Tensor:
    """At most `num` of `rows`, spread evenly over them."""
    return rows if len(rows) <= num else rows[torch.arange(num) * len(rows) // num]


def _frechet(c: Comparison) -> float | None:
    """Frechet distance of Gaussians fitted to the features; lower is better (Heusel et al., 2017, 1706.08500)."""
    return frechet_of(c.real_moments, c.moments) if c.is_full else None


def _frechet_infinity(c: Comparison) -> float | None:
    """Frechet distance extrapolated to infinitely many samples (Chong & Forsyth, 2020, 1911.07023)."""
    return frechet_infinity(c.real_moments, c.generated) if c.is_full and len(c.generated) > 3 else None


def _kid(c: Comparison) -> float:
    """Kernel distance, unbiased: 0 on average for equal laws (Binkowski et al., 2018, 1801.01401)."""
    return kid(c.few_real, c.generated)


def _precision(c: Comparison) -> float | None:
    """Fraction of samples that lie among the real ones: fidelity (Kynkaanniemi et al., 2019, 1904.06991)."""
    return None if c.manifold is None else c.manifold.precision


def _recall(c: Comparison) -> float | None:
    """Fraction of real entries that lie among the samples: diversity (Kynkaanniemi et al., 2019, 1904.06991)."""
    return None if c.manifold is None else c.manifold.recall


def _density(c: Comparison) -> float | None:
    """How crowded the real neighbourhoods are that samples fall in; 1 for equal laws (Naeem et al., 2020,
    2002.09797)."""
    return None if c.manifold is None else c.manifold.density


def _coverage(c: Comparison) -> float | None:
    """Fraction of real neighbourhoods that hold a sample (Naeem et al., 2020, 2002.09797)."""
    return None if c.manifold is None else c.manifold.coverage


def _label_accuracy(c: Comparison) -> float | None:
    """Fraction of samples that the classifier takes for the class they were asked to be; None without labels."""
    if c.classes is None or c.labels is None:
        return None
    return float((c.classes == c.labels).double().mean())


def _class_distance(c: Comparison) -> float | None:
    """Total variation between the classes of samples and of the real split; None without labels."""
    if c.classes is None or c.real_classes is None:
        return None
    return histogram_distance(c.real_classes, c.classes, c.num_classes)


def _caption_agreement(c: Comparison) -> float | None:
    """Fraction of samples that their own caption fits better than 15 others do; None without captions (as in Hessel et
    al., 2021, 2104.08718, by a scorer of this data)."""
    return None if c.agrees is None else float(c.agrees.mean())


Metric = Callable[[Comparison], "float | None"]
METRICS: dict[str, Metric] = {
    "frechet": _frechet,
    "frechet_infinity": _frechet_infinity,
    "kid": _kid,
    "precision": _precision,
    "recall": _recall,
    "density": _density,
    "coverage": _coverage,
    "label_accuracy": _label_accuracy,
    "class_distance": _class_distance,
    "caption_agreement": _caption_agreement,
}
HIGHER = frozenset(("precision", "recall", "density", "coverage", "label_accuracy", "caption_agreement"))  # is better


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Count, mean and scatter sum (x - mean)(x - mean)^T of some rows; memory does not grow with their number.

    Args:
        count: rows seen.
        mean: float64 (D,).
        scatter: float64 (D, D).
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance, float64 (D, D).

        Raises:
            ValueError: fewer than two rows.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 rows, got {self.count}.")
        return self.scatter / (self.count - 1)

    def __add__(self, other: Moments) -> Moments:
        """The moments of both sets of rows together (Chan, Golub & LeVeque, 1983)."""
        count = self.count + other.count
        if count == 0:
            return self
        apart = other.mean - self.mean
        return Moments(
            count=count,
            mean=self.mean + apart * (other.count / count),
            scatter=self.scatter + other.scatter + torch.outer(apart, apart) * (self.count * other.count / count),
        )


def moments(rows: Tensor) -> Moments:
    """The moments of `rows`, any floating dtype, shape (N, D) with N at least 1."""
    rows = rows.double()
    mean = rows.mean(0)
    centred = rows - mean
    return Moments(count=len(rows), mean=mean, scatter=centred.T @ centred)


def accumulated(batches: Iterable[Tensor]) -> Moments:
    """The moments of all rows of `batches`, one batch in memory at a time.

    Raises:
        ValueError: no batch at all.
    """
    total: Moments | None = None
    for batch in batches:
        total = moments(batch) if total is None else total + moments(batch)
    if total is None:
        raise ValueError("no rows to take the mean and covariance of.")
    return total
