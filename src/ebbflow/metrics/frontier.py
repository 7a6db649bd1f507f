"""Quality against cost: what no other setting beats, and the cheapest that is good enough."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge

from ebbflow.values import Endless

Number = Annotated[float, Endless]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One setting of a comparison, measured.

    Args:
        key: of everything that decides its numbers.
        run, sampler, grid, steps, guidance: the setting.
        evaluations: network evaluations a sample, counted.
        seconds: of making all samples.
        num: samples.
        values: each metric, None where it does not apply.
        errors: standard errors of some of them.
        strip: its first samples, a PNG in base64.
        failed: why there are no values, or None.
        times: the grid, where it was learned.
        setting: what `key` stands for but for the code that made the numbers.
    """

    key: str
    run: str
    sampler: str
    grid: str
    steps: Annotated[int, Ge(1)]
    guidance: float
    evaluations: Annotated[float, Ge(0)]
    seconds: Annotated[float, Ge(0)]
    num: int
    values: dict[str, Number | None] = field(default_factory=dict)
    errors: dict[str, Number] = field(default_factory=dict)
    strip: str = ""
    failed: str | None = None
    times: tuple[float, ...] | None = None
    setting: str = ""

    @property
    def name(self) -> str:
        """The setting in words."""
        steps = f"{self.steps} step{'' if self.steps == 1 else 's'}"
        return f"{self.run}: {self.sampler}, {steps}, grid {self.grid}, guidance {self.guidance:g}"

    @property
    def frechet(self) -> float:
        """The Frechet distance; infinite where there is none."""
        value = self.values.get("frechet")
        return float("inf") if value is None else value

    @property
    def milliseconds(self) -> float:
        """Of one sample."""
        return 1000 * self.seconds / self.num


def frontier(costs: Sequence[float], errors: Sequence[float]) -> list[int]:
    """Indices of the points that no other point dominates, by rising cost: none is as cheap and as good, and better in
    one of the two. Of equal points the first stands for all.

    Args:
        costs, errors: the lower the better; points of infinite error are left out.
    """
    found: list[int] = []
    for i in sorted(range(len(costs)), key=lambda i: (costs[i], errors[i], i)):
        if errors[i] < (errors[found[-1]] if found else float("inf")):
            found.append(i)
    return found


def cheapest_within(costs: Sequence[float], errors: Sequence[float], percent: float) -> int:
    """The index of the cheapest point whose error is at most `percent` above the lowest; of equals the best.

    Raises:
        ValueError: no point has a finite error.
    """
    limit = min(errors, default=float("inf")) * (1 + percent / 100)
    if limit == float("inf"):
        raise ValueError("no point has a finite error.")
    return min((i for i in range(len(costs)) if errors[i] <= limit), key=lambda i: (costs[i], errors[i], i))


def alike(cells: Sequence[Cell], floor: float | None) -> list[Cell]:
    """The cells that cannot be told from the best one: within two standard errors of the difference, as if the two were
    independent, or, as the best itself, no further from the reference than real data of the other split (`floor`)."""
    best = min(cells, key=lambda cell: cell.frechet)
    real = floor if floor is not None and best.frechet <= floor else -math.inf

    def near(cell: Cell) -> bool:
        noise = 2 * math.hypot(best.errors.get("frechet", 0.0), cell.errors.get("frechet", 0.0))
        return cell.frechet <= max(best.frechet + noise, real)

    return [cell for cell in cells if near(cell)]


def advice(cells: Sequence[Cell], *, within: float, floor: float | None) -> list[str]:
    """What follows from a comparison, in sentences; the first one says no more than the intervals support."""
    good = [cell for cell in cells if cell.failed is None]
    if not good:
        return ["No setting could be measured, so nothing can be recommended."]
    best, same = min(good, key=lambda cell: cell.frechet), alike(good, floor)
    said = [_headline(good, best, same), _cheapest(good, best, within)]
    quick = good[cheapest_within([cell.seconds for cell in good], [cell.frechet for cell in good], within)]
    if quick != _pick(good, within):
        said.append(f"By the clock, the fastest of these is {_of(quick)}.")
    said += [
        f"Of {run} alone, the cheapest within {within:g} % of its own best is {_of(_pick(own, within))}."
        for run, own in _by_run(good).items()
        if len(_by_run(good)) > 1
    ]
    return [*said, *_labels(good), *_floor(good, floor)]


def _headline(cells: Sequence[Cell], best: Cell, same: Sequence[Cell]) -> str:
    if len(same) == 1:
        if len(cells) == 1:
            return f"One setting was measured: {_of(best)}."
        return f"Best is {_of(best)}; no other of the {len(cells)} settings comes within the error."
    cheapest = min(same, key=lambda cell: (cell.evaluations, cell.frechet))
    every = "All" if len(same) == len(cells) else f"{len(same)} of"
    return (
        f"{every} {len(cells)} settings cannot be told apart by {best.num:,} samples each; the cheapest of them is "
        f"{_of(cheapest)}."
    )


def _of(cell: Cell) -> str:
    error = f" +- {cell.errors['frechet']:.2g}" if "frechet" in cell.errors else ""
    return (
        f"{cell.name} (Frechet distance {cell.frechet:.4g}{error}, {cell.evaluations:g} evaluations and "
        f"{cell.milliseconds:.3g} ms a sample)"
    )


def _pick(cells: Sequence[Cell], within: float) -> Cell:
    return cells[cheapest_within([cell.evaluations for cell in cells], [cell.frechet for cell in cells], within)]


def _by_run(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    return {run: [cell for cell in cells if cell.run == run] for run in dict.fromkeys(cell.run for cell in cells)}


def _cheapest(cells: Sequence[Cell], best: Cell, within: float) -> str:
    found = _pick(cells, within)
    if found == best:
        return f"The lowest number is that of {_of(best)}, also the cheapest within {within:g} % of it."
    saved = (
        f", {best.evaluations / found.evaluations:.2g} times cheaper" if found.evaluations < best.evaluations else ""
    )
    return f"The lowest number is that of {_of(best)}; the cheapest within {within:g} % of it is {_of(found)}{saved}."


def _labels(cells: Sequence[Cell]) -> list[str]:
    rated = [(value, cell) for cell in cells if (value := cell.values.get("label_accuracy")) is not None]
    if not rated:
        return []
    top = max(value for value, _ in rated)
    tied = [cell for value, cell in rated if value == top]
    cell = min(tied, key=lambda cell: (cell.evaluations, cell.frechet))
    more = "" if len(tied) == 1 else f"; so are those of {len(tied) - 1} others, of which it is the cheapest"
    return [f"Samples of {cell.name} are taken for the class that was asked for in {top:.1%} of the cases{more}."]


def _floor(cells: Sequence[Cell], floor: float | None) -> list[str]:
    if floor is None:
        return []
    below = sum(cell.frechet <= floor for cell in cells)
    near = (
        f"{below} of {len(cells)} settings come" if below > 1 else "one setting comes" if below else "no setting comes"
    )
    return [
        f"Real data of the other split, in the place of samples, is at {floor:.4g}: {near} as near as that. Below it "
        "the distance tells nothing but how a model differs from data that nobody made."
    ]
