"""Comparing runs, samplers, grids, steps and guidance on the same seeds: cells that are measured once and kept."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebbflow.core.times import TIME_GRIDS
from ebbflow.errors import ConfigError, choose
from ebbflow.methods.denoise import Net, NetDenoiser
from ebbflow.methods.samplers import SAMPLERS
from ebbflow.methods.samplers.base import levels_of
from ebbflow.methods.sampling import grid_times
from ebbflow.metrics import features as maps
from ebbflow.metrics.cache import code_hash, data_hash, key_of, source_of
from ebbflow.metrics.frontier import Cell
from ebbflow.metrics.measure import block_errors, table
from ebbflow.metrics.yardstick import Made, Yardstick, yardstick_of
from ebbflow.progress import Stage, Work, retold
from ebbflow.runs.generate import Request, generate
from ebbflow.runs.grids import LEARNED
from ebbflow.runs.same_data import require_same_data
from ebbflow.runs.store import Run, describe
from ebbflow.show import canvas
from ebbflow.show.plots import thumbnail
from ebbflow.studies.compare_facts import config_differences, data_of, facts_of_runs, is_guidable, names_of
from ebbflow.studies.evaluate import (
    Evaluation,
    Loaded,
    by_label,
    features_for,
    load,
    request_of,
    sides_of,
    splits_of,
)
from ebbflow.studies.report import Report

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
        for name, given in (("samplers", self.samplers), ("grids", self.grids), ("steps", self.steps)):
            if not given or len(set(given)) != len(given):
                raise ConfigError(f"`{name}` wants at least one entry and each once, got {list(given)}.")
        if not self.guidance or min(self.steps) < 1:
            raise ConfigError(f"`steps` must be 1 or more and `guidance` not empty; got {self.steps}, {self.guidance}.")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A cell to come.

    Args:
        run: whose, as an index.
        request: how it is sampled.
        key: the name under which it is kept.
        name: the same but for the code, so that an older cell of this setting is known for one.
        cost: about how many evaluations a sample.
    """

    run: int
    request: Request
    key: str
    name: str
    cost: int


@dataclass(kw_only=True, eq=False)
class Counting:
    """A net that counts the rows it is given."""

    net: Net
    rows: int = 0

    def __call__(self, x: Tensor, clock: Tensor, cond: Tensor | None) -> Tensor:
        self.rows += len(x)
        return self.net(x, clock, cond)


def compare(
    runs: Sequence[Run], wanted: Comparing, store: Path, *, device: torch.device, command: str = ""
) -> Work[Report]:
    """Measure every cell that is not in `store` yet, append it there, and report on all.

    Stages called "cells" count network evaluations a sample, over all cells that are still to be made.

    Raises:
        ConfigError: runs on different data, an unknown name, a grid that was not searched, too few samples.
        DataError: the data is not what the runs were trained on.
    """
    for run in runs[1:]:
        require_same_data(runs[0], run)
    maps.check_kind(wanted.base.features)
    names, splits = names_of(runs), splits_of(runs[0], wanted.base.data_dir)
    reference, other = sides_of(splits, wanted.base)
    loaded = [load(run, wanted.base, device) for run in runs]
    requests = [_requests(one, wanted) for one in loaded]
    features = yield from features_for(splits, wanted.base, len(reference), device)
    yardstick = yield from yardstick_of(features, reference, other)
    settings = [
        _setting(i, one, request, wanted, yardstick, device)
        for i, one in enumerate(loaded)
        for request in requests[i]
    ]  # fmt: skip
    kept = read_cells(store)
    notes = [*_notes(runs, wanted), *_outdated(settings, kept, store)]
    missing = [setting for setting in settings if setting.key not in kept]
    total, done = sum(setting.cost for setting in missing), 0
    for number, setting in enumerate(missing, start=len(settings) - len(missing) + 1):
        work = _measure(loaded[setting.run], names[setting.run], setting, yardstick, device)
        note = f"{number} of {len(settings)}, {names[setting.run]} {_short(setting.request)}"
        cell = yield from retold(work, _share_of("cells", note, done, setting.cost, total))
        append_cell(store, cell)
        kept[setting.key] = cell
        done += setting.cost
    return Report(
        command=command,
        cells=[replace(kept[setting.key], run=names[setting.run]) for setting in settings],
        floor=None if yardstick.floor is None else table(yardstick.floor),
        within=wanted.within,
        settings=_settings(runs, wanted.base, yardstick, device),
        runs=facts_of_runs(loaded),
        differences=config_differences(runs),
        notes=notes,
        is_image=runs[0].facts.is_image,
    )


def _share_of(name: str, note: str, before: int, cost: int, total: int) -> Callable[[float], Stage]:
    return lambda share: Stage(name, round(before + share * cost), total, note)


def _requests(loaded: Loaded, wanted: Comparing) -> list[Request]:
    """How each cell of a run is sampled, checked; guidance is 1 alone where the run cannot be guided."""
    run, denoiser = loaded.run, loaded.denoiser
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


def _setting(
    i: int, loaded: Loaded, request: Request, wanted: Comparing, yardstick: Yardstick, device: torch.device
) -> Setting:
    """The key stands for everything that decides a cell's numbers, the machine's kind and the batch size for its
    seconds."""
    sampler = SAMPLERS[request.sampler]
    name = key_of(
        loaded.sha256,
        (request.sampler, request.num_steps, request.grid, request.times, request.guidance, request.labels is None),
        (request.seeds[0], request.seeds[-1], request.batch_size, *(("clip",) if request.clip else ())),
        (wanted.base.precision, device.type, torch.get_num_threads()),
        (wanted.base.reference, data_hash(yardstick.reference), yardstick.features.map.facts["sha256"]),
    )
    config = loaded.run.config
    sources = [source_of(one) for one in (sampler.run, type(config.path), type(config.net))]
    branches = 1 if request.guidance in (0, 1) else 2
    cost = (sampler.evaluations(request.num_steps) or ADAPTIVE_COST * request.num_steps) * branches
    return Setting(run=i, request=request, key=key_of(name, code_hash(), sources), name=name, cost=cost)


def _short(request: Request) -> str:
    return f"{request.sampler} {request.num_steps} {request.grid} w {request.guidance:g}"


def _measure(
    loaded: Loaded, name: str, setting: Setting, yardstick: Yardstick, device: torch.device
) -> Generator[float, None, Cell]:
    """One cell; yields the share that is done. Memory grows with the number of samples by their features only."""
    request, facts, net = setting.request, loaded.run.facts, Counting(net=loaded.denoiser.net)
    seen: list[dict[str, Tensor]] = []
    first, seconds, made = [], 0.0, 0
    _warm_up(loaded, request, device)
    batches = generate(replace(loaded.denoiser, net=net), facts, request, device, space=loaded.space)
    while True:
        began = time.perf_counter()
        batch = next(batches, None)
        x = None if batch is None or not batch.done else batch.images if facts.is_image else batch.x
        seconds += time.perf_counter() - began
        if batch is None:
            break
        yield (made + len(batch.seeds) * batch.step / request.num_steps) / len(request.seeds)
        if x is None:
            continue
        made += len(batch.seeds)
        if not bool(torch.isfinite(batch.state).all()):
            return _cell(setting, name, net.rows / made, seconds, made, failed="samples are not finite")
        seen.append(yardstick.features.of(x.float() / 127.5 - 1 if facts.is_image else x))
        if made - len(x) < STRIP_POINTS:
            first.append(x)
    both = {kind: torch.cat([one[kind] for one in seen]) for kind in seen[0]}
    samples = Made(features=both["features"], classes=both.get("classes"), first=torch.cat(first))
    c = yardstick.sets(samples, request.labels, made).comparison
    cell = _cell(setting, name, net.rows / made, seconds, made)
    return replace(cell, values=table(c), errors=block_errors(c), strip=_strip(samples.first, facts.is_image))


def _warm_up(loaded: Loaded, request: Request, device: torch.device) -> None:
    """One step of one batch, so that the first cell does not pay for what is done once."""
    size = request.batch_size
    labels = None if request.labels is None else request.labels[:size]
    small = replace(request, seeds=request.seeds[:size], labels=labels)
    next(generate(loaded.denoiser, loaded.run.facts, small, device, space=loaded.space))


def _cell(
    setting: Setting, run: str, evaluations: float, seconds: float, num: int, *, failed: str | None = None
) -> Cell:
    request = setting.request
    return Cell(
        key=setting.key,
        setting=setting.name,
        run=run,
        sampler=request.sampler,
        grid=request.grid,
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
    picture = canvas.grid(samples[:STRIP], columns=STRIP) if is_image else thumbnail(samples[:STRIP_POINTS])
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


def _settings(runs: Sequence[Run], base: Evaluation, yardstick: Yardstick, device: torch.device) -> dict[str, Any]:
    """What was the same in all cells."""
    features, classifier = yardstick.features, yardstick.features.classifier
    return {
        "samples a cell": base.num,
        "seeds": f"{base.seed} to {base.seed + base.num - 1}",
        "labels": "dealt in turn" if any(map(by_label, runs)) else "none",
        "weights": base.weights,
        "precision": base.precision,
        "batch size": base.request.batch_size,
        "data": data_of(runs[0]),
        "reference": f"{base.reference}, {len(yardstick.reference)} entries",
        "features": features.map.name,
        "classifier's error on held-out data": None if classifier is None else classifier.facts.get("held_out_error"),
        "sampler options": "each sampler's defaults",
        "device": f"{device}, {torch.get_num_threads()} threads",
        "code": code_hash(),
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


def _outdated(settings: Sequence[Setting], kept: Mapping[str, Cell], store: Path) -> list[str]:
    """A sentence on the cells that are in `store` but were made by other code."""
    older = {cell.setting for cell in kept.values()}
    num = sum(setting.key not in kept and setting.name in older for setting in settings)
    if num == 0:
        return []
    return [
        f"{num} of {len(settings)} cells kept in {store.name} were made by another version of ebbflow's code: they "
        "were measured again."
    ]
