"""Comparing runs, samplers, grids, steps and guidance on the same seeds: cells that are measured once and kept."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebbflow.core.entries import spelt
from ebbflow.core.times import TIME_GRIDS
from ebbflow.data import Dataset
from ebbflow.errors import ConfigError, choose
from ebbflow.methods.denoise import Net, NetDenoiser
from ebbflow.methods.samplers import SAMPLERS
from ebbflow.methods.samplers.base import levels_of
from ebbflow.methods.sampling import grid_times
from ebbflow.metrics import features as maps
from ebbflow.metrics.cache import data_hash, key_of
from ebbflow.metrics.frontier import Cell
from ebbflow.metrics.measure import Sets, block_errors, table
from ebbflow.metrics.scores import Comparison
from ebbflow.runs.generate import Request, generate
from ebbflow.runs.grids import LEARNED
from ebbflow.runs.store import Run, describe
from ebbflow.show import canvas
from ebbflow.show.compare_html import Report
from ebbflow.show.plots import scatter
from ebbflow.studies.compare_facts import (
    config_differences,
    data_of,
    facts_of_runs,
    is_guidable,
    names_of,
    weights_hash,
)
from ebbflow.studies.evaluate import (
    Evaluation,
    Eyes,
    Stage,
    by_label,
    eyes_of,
    request_of,
    sides_of,
    splits_of,
    staged,
    working_denoiser,
)

STRIP = 10  # samples of a cell that are shown
STRIP_POINTS = 1000
ADAPTIVE_COST = 6  # a guess, for the progress bar, of evaluations a grid step where the sampler chooses its own


@dataclass(frozen=True, kw_only=True)
class Comparing:
    """What to compare: every run with every sampler, grid, number of steps and guidance.

    Args:
        samplers, grids, steps, guidance: at least one of each; a grid may be "learned".
        within: per cent of the best Frechet distance that is good enough.
        base: number of samples, first seed, weights, features, reference, precision, place of the data, batch size.
    """

    samplers: tuple[str, ...]
    grids: tuple[str, ...] = ("uniform",)
    steps: tuple[int, ...] = (10,)
    guidance: tuple[float, ...] = (1.0,)
    within: float = 5.0
    base: Evaluation = field(default_factory=Evaluation)

    def __post_init__(self) -> None:
        for name in self.samplers:
            choose(SAMPLERS, name, "sampler")
        for name in self.grids:
            choose({**TIME_GRIDS, LEARNED: None}, name, "time grid")
        for flag, given in (("samplers", self.samplers), ("grids", self.grids), ("steps", self.steps)):
            if not given or len(set(given)) != len(given):
                raise ConfigError(f"--{flag} wants at least one entry and each once, got {list(given)}.")
        if not self.guidance or min(self.steps) < 1:
            raise ConfigError(f"--steps must be 1 or more and --guidance not empty; got {self.steps}, {self.guidance}.")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A cell to come: whose, how it is sampled, the name under which it is kept, and about what it costs."""

    run: int
    request: Request
    key: str
    cost: int


@dataclass(kw_only=True, eq=False)
class Counting:
    """A net that counts the rows it is given."""

    net: Net
    rows: int = 0

    def __call__(self, x: Tensor, clock: Tensor, cond: Tensor | None) -> Tensor:
        self.rows += len(x)
        return self.net(x, clock, cond)


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """What every cell is measured with."""

    eyes: Eyes
    reference: Dataset
    real: Tensor
    floor: dict[str, float | None] | None


def compare(
    runs: Sequence[Run], wanted: Comparing, store: Path, *, device: torch.device, command: str = ""
) -> Generator[Stage, None, Report]:
    """Measure every cell that is not in `store` yet, append it there, and report on all; yields its progress.

    Stages called "cells: ..." count network evaluations a sample, over all cells that are still to be made.

    Raises:
        ConfigError: runs on different data, an unknown name, a grid that was not searched, too few samples.
        DataError: the data is not what the runs were trained on.
    """
    require_same_data(runs)
    maps.check_kind(wanted.base.features)
    splits = splits_of(runs[0], wanted.base.data_dir)
    reference, other = sides_of(splits, wanted.base)
    denoisers = [working_denoiser(run, wanted.base, device) for run in runs]
    requests = [_requests(run, denoiser, wanted) for run, denoiser in zip(runs, denoisers, strict=True)]
    eyes = yield from eyes_of(splits, wanted.base, len(reference), device)
    bench = yield from _bench(eyes, reference, other)
    plans = [
        _plan(i, run, request, wanted, bench, device)
        for i, run in enumerate(runs)
        for request in requests[i]
    ]  # fmt: skip
    names, kept = names_of(runs), read_cells(store)
    missing = [plan for plan in plans if plan.key not in kept]
    total, done = sum(plan.cost for plan in missing), 0
    for plan in missing:
        work = _measure(runs[plan.run], names[plan.run], denoisers[plan.run], plan, bench, device)
        label = f"cells: {len(kept) + 1} of {len(plans)}, {names[plan.run]} {_short(plan.request)}"
        cell = yield from _scaled(work, label, done, plan.cost, total)
        append_cell(store, cell)
        kept[plan.key] = cell
        done += plan.cost
    cells = [replace(kept[plan.key], run=names[plan.run]) for plan in plans]
    return Report(
        command=command,
        cells=cells,
        floor=bench.floor,
        within=wanted.within,
        settings=_settings(runs, wanted.base, bench, device),
        runs=facts_of_runs(runs, denoisers, wanted.base.weights),
        differences=config_differences(runs),
        notes=_notes(runs, wanted),
        is_image=runs[0].facts.is_image,
    )


def require_same_data(runs: Sequence[Run]) -> None:
    """Raise a ConfigError unless all runs make the same kind of data, with the same classes."""
    first = runs[0]
    for run in runs[1:]:
        own, its = (
            (one.config.data.name, one.facts.dims, one.facts.label_names) for one in (first, run)
        )  # fmt: skip
        if own != its:
            raise ConfigError(
                f"{first.folder} makes {data_of(first)}, {run.folder} makes {data_of(run)}: they cannot be compared. "
                "Give runs that were trained on the same data."
            )


def _requests(run: Run, denoiser: NetDenoiser, wanted: Comparing) -> list[Request]:
    """How each cell of a run is sampled, checked; guidance is 1 alone where the run cannot be guided."""
    guidance = wanted.guidance if is_guidable(run) else (1.0,)
    found = []
    for sampler in wanted.samplers:
        for grid in wanted.grids:
            for steps in wanted.steps:
                for w in guidance:
                    asked = replace(
                        wanted.base.request,
                        sampler=sampler,
                        grid=grid,
                        num_steps=steps,
                        guidance=w,
                        options={},
                        clip=run.config.sample.clip,
                    )
                    base = replace(wanted.base, request=asked, repeats=1)
                    found.append(request_of(run, base, denoiser.make_null is not None))
                    _check_times(denoiser, found[-1])
    return found


def _check_times(denoiser: NetDenoiser, request: Request) -> None:
    if request.times is None:
        levels_of(denoiser.path, grid_times(denoiser, request.grid, request.num_steps))


def _bench(eyes: Eyes, reference: Dataset, other: Dataset) -> Generator[Stage, None, Bench]:
    real = yield from staged("real features", maps.features_of(eyes.features, reference))
    apart = yield from staged("real features", maps.features_of(eyes.features, other))
    seen = None
    if eyes.judge is not None and len(other):
        seen = eyes.judge.classes(eyes.judge(other.x0(torch.arange(len(other)))))
    c = _comparison(real, reference, apart, None, None)
    floor = Sets(comparison=c, num=1, other=apart, other_classes=seen, other_labels=other.labels).floor
    return Bench(eyes=eyes, reference=reference, real=real, floor=None if floor is None else table(floor))


def _comparison(
    real: Tensor, reference: Dataset, made: Tensor, classes: Tensor | None, labels: Tensor | None
) -> Comparison:
    return Comparison(
        real=real,
        generated=made,
        real_classes=reference.labels,
        classes=classes,
        labels=labels,
        num_classes=reference.num_classes,
    )


def _plan(i: int, run: Run, request: Request, wanted: Comparing, bench: Bench, device: torch.device) -> Plan:
    """The key stands for everything that decides a cell's numbers, the machine's kind and the batch size for its
    seconds."""
    key = key_of(
        weights_hash(run, wanted.base.weights),
        (request.sampler, request.num_steps, request.grid, request.times, request.guidance, request.labels is None),
        (request.seeds[0], request.seeds[-1], request.batch_size, *(("clip",) if request.clip else ())),
        (wanted.base.precision, device.type, torch.get_num_threads()),
        (wanted.base.reference, data_hash(bench.reference), bench.eyes.features.facts["sha256"]),
    )
    branches = 1 if request.guidance in (0, 1) else 2
    cost = (SAMPLERS[request.sampler].evaluations(request.num_steps) or ADAPTIVE_COST * request.num_steps) * branches
    return Plan(run=i, request=request, key=key, cost=cost)


def _short(request: Request) -> str:
    return f"{request.sampler} {request.num_steps} {spelt(request.grid)} w {request.guidance:g}"


def _scaled(
    work: Generator[float, None, Cell], name: str, before: int, cost: int, total: int
) -> Generator[Stage, None, Cell]:
    while True:
        try:
            share = next(work)
        except StopIteration as end:
            return end.value
        yield Stage(name=name, done=round(before + share * cost), total=total)


def _measure(
    run: Run, name: str, denoiser: NetDenoiser, plan: Plan, bench: Bench, device: torch.device
) -> Generator[float, None, Cell]:
    """One cell; yields the share that is done. Memory grows with the number of samples by their features only."""
    request, net = plan.request, Counting(net=denoiser.net)
    counted, space = replace(denoiser, net=net), run.space(device)
    _warm_up(run, denoiser, request, device)
    features, classes, first, seconds, made = [], [], [], 0.0, 0
    batches = generate(counted, run.facts, request, device, space=space)
    while True:
        began = time.perf_counter()
        batch = next(batches, None)
        x = None if batch is None or not batch.done else batch.images if run.facts.is_image else batch.x
        seconds += time.perf_counter() - began
        if batch is None:
            break
        yield (made + len(batch.seeds) * batch.step / request.num_steps) / len(request.seeds)
        if x is None:
            continue
        made += len(batch.seeds)
        if not bool(torch.isfinite(batch.state).all()):
            return _cell(plan, name, net.rows / made, seconds, made, failed="samples are not finite")
        seen = bench.eyes.see(x.float() / 127.5 - 1 if run.facts.is_image else x)
        features.append(seen["features"])
        classes.append(seen.get("classes", torch.zeros(0)))
        if made - len(x) < STRIP_POINTS:
            first.append(x)
    labels = None if request.labels is None else torch.tensor(request.labels)
    known = torch.cat(classes) if bench.eyes.judge is not None else None
    c = _comparison(bench.real, bench.reference, torch.cat(features), known, labels)
    strip = _strip(torch.cat(first), run.facts.is_image)
    cell = _cell(plan, name, net.rows / made, seconds, made)
    return replace(cell, values=table(c), errors=block_errors(c), strip=strip)


def _warm_up(run: Run, denoiser: NetDenoiser, request: Request, device: torch.device) -> None:
    """One step of one batch, so that the first cell does not pay for what is done once."""
    size = request.batch_size
    labels = None if request.labels is None else request.labels[:size]
    small = replace(request, seeds=request.seeds[:size], labels=labels)
    next(generate(denoiser, run.facts, small, device, space=run.space(device)))


def _cell(plan: Plan, run: str, evaluations: float, seconds: float, num: int, *, failed: str | None = None) -> Cell:
    request = plan.request
    return Cell(
        key=plan.key,
        run=run,
        sampler=request.sampler,
        grid=spelt(request.grid),
        steps=request.num_steps,
        guidance=request.guidance,
        evaluations=evaluations,
        seconds=seconds,
        num=num,
        failed=failed,
        times=request.times,
    )


def _strip(samples: Tensor, is_image: bool) -> str:
    """The first samples in a row, or the first thousand points, as a PNG in base64."""
    file = io.BytesIO()
    picture = canvas.grid(samples[:STRIP], columns=STRIP) if is_image else scatter(samples[:STRIP_POINTS])
    picture.save(file, format="PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def read_cells(store: Path) -> dict[str, Cell]:
    """The cells kept in a file, by key; a line that was not written whole is passed over."""
    if not store.is_file():
        return {}
    found = {}
    for line in store.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
            cell = Cell(**{**row, "times": None if row["times"] is None else tuple(row["times"])})
        except (ValueError, TypeError, KeyError):
            continue
        found[cell.key] = cell
    return found


def append_cell(store: Path, cell: Cell) -> None:
    """Add a finished cell to the file."""
    store.parent.mkdir(parents=True, exist_ok=True)
    text = store.read_text(encoding="utf-8") if store.is_file() else ""
    with store.open("a", encoding="utf-8") as file:
        file.write(("\n" if text and not text.endswith("\n") else "") + json.dumps(asdict(cell)) + "\n")


def _settings(runs: Sequence[Run], base: Evaluation, bench: Bench, device: torch.device) -> dict[str, Any]:
    """What was the same in all cells."""
    judge = bench.eyes.judge
    return {
        "samples a cell": base.num,
        "seeds": f"{base.seed} to {base.seed + base.num - 1}",
        "labels": "dealt in turn" if any(map(by_label, runs)) else "none",
        "weights": base.weights,
        "precision": base.precision,
        "batch size": base.request.batch_size,
        "data": data_of(runs[0]),
        "reference": f"{base.reference}, {len(bench.reference)} entries",
        "features": bench.eyes.features.name,
        "classifier's error on held-out data": None if judge is None else judge.facts.get("held_out_error"),
        "sampler options": "each sampler's defaults",
        "device": f"{device}, {torch.get_num_threads()} threads",
        "versions": describe(runs[0].config, runs[0].facts)["versions"],
    }


def _notes(runs: Sequence[Run], wanted: Comparing) -> list[str]:
    unguided = [name for name, run in zip(names_of(runs), runs, strict=True) if not is_guidable(run)]
    if not unguided or wanted.guidance == (1.0,):
        return []
    return [
        f"Guidance is 1 only for {', '.join(unguided)}: no labels, or none dropped in training, so there is nothing to "
        "guide from."
    ]
