"""Couplings: which data a training step pairs with which noise. A row of the registry is one dataclass here.

Whatever the coupling, the noise is drawn as if there were none and every image is as likely as any other, so the path's
marginals stay what they are; only the pairs change. Near pairs make straighter trajectories, which need fewer steps.
Where there are classes, pairs are made inside a class, so that the noise says nothing of the label.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Interval
from numpy.typing import NDArray
from torch import Tensor

from ebbflow.core.noise import generator_for
from ebbflow.core.shape import in_float64
from ebbflow.progress import Stage, Work
from ebbflow.values import Checked, Repeats, Width

Pairing = Callable[[Tensor, Tensor], Tensor]  # rows (B,) and eps (B, *dims) -> the rows that meet this eps
AGREED = 1024  # noises by which the outcome is judged
FALL = 12  # the rate of the potentials ends at 1 / sqrt(1 + 12) of where it starts


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The data that is paired.

    Args:
        x0: rows (B,) -> float32 (B, *dims).
        classes: int64 (N,), inside which pairs are made; all 0 where there are none.
    """

    x0: Callable[[Tensor], Tensor]
    classes: Tensor

    def rows_by_class(self) -> dict[int, Tensor]:
        """The rows of each class."""
        return {int(c): (self.classes == c).nonzero().flatten() for c in self.classes.unique()}


@dataclass(frozen=True, kw_only=True)
class Coupling(ABC):
    """A joint law of data and noise with the data's and the noise's own marginals."""

    @property
    def by_cost(self) -> bool:
        """Whether pairs depend on what they are, which a condition of free form would leak into the noise."""
        return True

    def learn(self, pool: Pool, seed: int) -> Work[Tensor | None]:
        """What has to be known of all data first, float64 (N,), or None; the same for the same seed."""
        yield from ()
        return None

    @abstractmethod
    def pairing(self, pool: Pool, learned: Tensor | None) -> Pairing:
        """The function from drawn rows and their noise to the rows that meet it, of the same classes."""


@dataclass(frozen=True, kw_only=True)
class Independent(Coupling):
    """x0 and eps are drawn apart, as in every diffusion model (Ho et al., 2020, 2006.11239)."""

    @property
    def by_cost(self) -> bool:
        return False

    def pairing(self, pool: Pool, learned: Tensor | None) -> Pairing:
        return lambda rows, eps: rows


@dataclass(frozen=True, kw_only=True)
class MinibatchOT(Coupling):
    """The permutation of a batch with the smallest sum of ||eps - x0||^2, exactly, inside each class (Pooladian et al.,
    2023, 2304.14772; Tong et al., 2023, 2302.00482).

    The smaller the batch (of a class), the nearer to independent; an assignment of 128 pairs costs a few milliseconds.
    """

    def pairing(self, pool: Pool, learned: Tensor | None) -> Pairing:
        def paired(rows: Tensor, eps: Tensor) -> Tensor:
            found, classes = rows.clone(), pool.classes[rows]
            for c in classes.unique():
                places = (classes == c).nonzero().flatten()
                scores = in_float64(eps[places].flatten(1)) @ in_float64(pool.x0(rows[places]).flatten(1)).T
                found[places] = rows[places[torch.from_numpy(assignment(-scores.numpy()))]]
            return found

        return paired


@dataclass(frozen=True, kw_only=True)
class Semidiscrete(Checked, Coupling):
    """eps meets x_j, j = argmax of <eps, x_j> - ||x_j||^2 / 2 + g_j, the optimal transport of all noise to all data of
    a class (Mousavi-Hosseini et al., 2025, 2509.25519).

    The potentials g are found before training by stochastic ascent of the dual: g_j rises by a rate times (1/n - the
    share of noises that chose j), with the mean of the second half kept. They are stored in the run. A batch costs a
    product of its noise with all images of its classes. Too few iterations leave images that are never chosen.

    Args:
        iterations: at least 1.
        batch_size: noises an iteration, at least 1.
        rate: above 0, in units of the distance of two images.
    """

    iterations: Repeats = 1000
    batch_size: Width = 256
    rate: Annotated[float, Interval(gt=0, le=1e6)] = 2.0

    def learn(self, pool: Pool, seed: int) -> Work[Tensor | None]:
        """The potentials of all rows."""
        groups, found = pool.rows_by_class(), torch.zeros(len(pool.classes), dtype=torch.float64)
        for i, (c, rows) in enumerate(groups.items(), start=1):
            generator, field_of_class = generator_for(seed, "coupling", c), Cells(pool.x0(rows))
            found[rows] = self._potentials(field_of_class, generator)
            said = field_of_class.said(found[rows], generator)
            yield Stage("semidiscrete coupling", i, len(groups), note=f"class {c}: {said}" if len(groups) > 1 else said)
        return found

    def _potentials(self, cells: Cells, generator: torch.Generator) -> Tensor:
        num, rate = len(cells.flat), self.rate * cells.distance
        g, mean = torch.zeros(num, dtype=torch.float64), torch.zeros(num, dtype=torch.float64)
        first_kept = self.iterations // 2
        for k in range(self.iterations):
            counts = torch.bincount(cells.choice(cells.noise(self.batch_size, generator), g), minlength=num)
            g += rate / math.sqrt(1 + FALL * k / self.iterations) * (1 / num - counts / self.batch_size)
            if k >= first_kept:
                mean += g
        return mean / (self.iterations - first_kept)

    def pairing(self, pool: Pool, learned: Tensor | None) -> Pairing:
        assert learned is not None
        groups = pool.rows_by_class()
        cells = {c: Cells(pool.x0(rows)) for c, rows in groups.items()}

        def paired(rows: Tensor, eps: Tensor) -> Tensor:
            found, classes = rows.clone(), pool.classes[rows]
            for c in classes.unique().tolist():
                places = (classes == c).nonzero().flatten()
                chosen = cells[c].choice(eps[places].flatten(1), learned[groups[c]])
                found[places] = groups[c][chosen]
            return found

        return paired


class Cells:
    """The images of a class, and which of them a noise chooses.

    Args:
        x0: float32 (n, *dims).
    """

    def __init__(self, x0: Tensor) -> None:
        self.flat = x0.flatten(1)
        self.half_norms = in_float64(self.flat).square().sum(1) / 2
        spread = in_float64(self.flat).var(0, correction=0).sum()
        self.distance = max(math.sqrt(2 * float(spread)), 1e-6)

    def noise(self, num: int, generator: torch.Generator) -> Tensor:
        """Standard normal (num, D)."""
        return torch.randn(num, self.flat.shape[1], generator=generator)

    def choice(self, eps: Tensor, g: Tensor) -> Tensor:
        """j of each noise, int64 (B,)."""
        return torch.addmm((g - self.half_norms).float(), eps.float(), self.flat.T).argmax(1)

    def said(self, g: Tensor, generator: torch.Generator) -> str:
        """Of fresh noises: E||eps - x0||^2, against that of independent pairs, and how many images share the noise."""
        eps, num = self.noise(AGREED, generator), len(self.flat)
        chosen = self.choice(eps, g)
        cost = float((eps - self.flat[chosen]).square().sum(1).mean())
        apart = float(eps.square().sum(1).mean() + 2 * self.half_norms.mean())
        return f"cost {cost:.4g} against {apart:.4g} apart, about {effective(chosen, num):.0f} of {num} images in use"


def effective(chosen: Tensor, num: int) -> float:
    """1 / sum p_j^2 of the law that `chosen`, int64 (B,), was drawn from: all `num` where it is even; at most `num`.

    The share of equal pairs among the draws estimates sum p_j^2 without bias.
    """
    draws = len(chosen)
    counts = in_float64(torch.bincount(chosen, minlength=num))
    equal = float((counts * (counts - 1)).sum()) / (draws * (draws - 1))
    return min(float(num), 1 / max(equal, 1e-12))


def assignment(cost: NDArray[Any]) -> NDArray[np.int64]:
    """The column of each row in the permutation of least total cost, (n, n) -> (n,): shortest augmenting paths (Kuhn,
    1955; Jonker & Volgenant, 1987), at most n^2 passes over a row."""
    num = len(cost)
    reduced = cost - cost.min(0)
    rows, columns = reduced.min(1), cost.min(0)
    of_row, of_column = np.full(num, -1), np.full(num, -1)
    for i in range(num):  # what is cheapest for both sides needs no search
        j = int(np.argmin(reduced[i]))
        if of_column[j] < 0:
            of_row[i], of_column[j] = j, i
    for alone in np.flatnonzero(of_row < 0).tolist():
        _augment(cost, rows, columns, of_row, of_column, alone)
    return of_row.astype(np.int64)


def _augment(
    cost: NDArray[Any], rows: NDArray[Any], columns: NDArray[Any], of_row: NDArray[Any], of_column: NDArray[Any], i: int
) -> None:
    """Match row `i` along the shortest path to a free column, and keep the prices `rows` and `columns` feasible."""
    num = len(cost)
    distance, before, done = np.full(num, np.inf), np.full(num, -1), np.zeros(num, dtype=bool)
    row, reached, here = i, -1, 0.0
    while reached < 0:
        through = here + cost[row] - rows[row] - columns
        closer = ~done & (through < distance)
        distance[closer], before[closer] = through[closer], row
        j = int(np.argmin(np.where(done, np.inf, distance)))
        here, done[j] = float(distance[j]), True
        row = int(of_column[j])
        reached = j if row < 0 else -1
    seen = np.flatnonzero(done & (np.arange(num) != reached))
    rows[i] += here
    rows[of_column[seen]] += here - distance[seen]
    columns[seen] -= here - distance[seen]
    free = reached
    while free >= 0:
        row = int(before[free])
        was = int(of_row[row])
        of_column[free], of_row[row] = row, free
        free = -1 if row == i else was


COUPLINGS: dict[str, Coupling] = {
    "independent": Independent(),
    "minibatch_ot": MinibatchOT(),
    "semidiscrete": Semidiscrete(),
}
