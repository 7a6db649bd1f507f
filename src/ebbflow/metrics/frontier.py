"""Quality against cost: what no other setting beats, and the cheapest that is good enough."""

from __future__ import annotations

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


def advice(cells: Sequence[Cell], *, within: float, floor: float | None) -> list[str]:
    """What follows from a comparison, in sentences."""
    good = [cell for cell in cells if cell.failed is None]
    if not good:
        return ["No setting could be measured, so nothing can be recommended."]
    best = min(good, key=lambda cell: cell.frechet)
    said = [f"Best is {_of(best)}.", _cheapest(good, best, within)]
    quick = good[cheapest_within([cell.seconds for cell in good], [cell.frechet for cell in good], within)]
    if quick != _pick(good, within):
        said.append(f"By the clock, the fastest of these is {_of(quick)}.")
    said += [
        f"Of {run} alone, the cheapest within {within:g} % of its own best is {_of(_pick(own, within))}."
        for run, own in _by_run(good).items()
        if len(_by_run(good)) > 1
    ]
    said += [*_labels(good), *_certainty(good, best, floor)]
    return said


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
        return f"It is also the cheapest in network evaluations within {within:g} % of the best."
    saved = (
        f", {best.evaluations / found.evaluations:.2g} times cheaper" if found.evaluations < best.evaluations else ""
    )
    return f"The cheapest in network evaluations within {within:g} % of it is {_of(found)}{saved}."


def _labels(cells: Sequence[Cell]) -> list[str]:
    rated = [(value, cell) for cell in cells if (value := cell.values.get("label_accuracy")) is not None]
    if not rated:
        return []
    top = max(value for value, _ in rated)
    cell = min((cell for value, cell in rated if value == top), key=lambda cell: (cell.evaluations, cell.frechet))
    return [
        f"Most often taken for the class that was asked for, {top:.1%} of the time, are the samples of {cell.name}."
    ]


def _certainty(cells: Sequence[Cell], best: Cell, floor: float | None) -> list[str]:
    said = []
    if floor is not None:
        below = sum(cell.frechet <= floor for cell in cells)
        said.append(
            f"Real data of the other split in the place of samples has a Frechet distance of {floor:.4g}; "
            f"{below or 'no'} setting{'' if below == 1 else 's'} of {len(cells)} came as near as that"
            f"{', among which it cannot tell better from worse' if below > 1 else ''}."
        )
    error = best.errors.get("frechet")
    if error is not None:
        near = sum(cell.frechet <= best.frechet + 2 * error for cell in cells) - 1
        said.append(
            f"{near} other setting{'' if near == 1 else 's'} within two standard errors of the best: their order may "
            "change with other seeds or more samples."
            if near
            else "No other setting is within two standard errors of the best."
        )
    return said
