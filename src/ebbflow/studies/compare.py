"""Comparing runs, samplers, grids, steps and guidance on the same seeds: cells that are measured once and kept."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ebbflow.core.entries import spelt
from ebbflow.core.predictions import Estimate
from ebbflow.core.times import TIME_GRIDS
from ebbflow.data import Splits
from ebbflow.documents import parsed, read_lines
from ebbflow.errors import ConfigError, choose
from ebbflow.methods.denoise import FlowMap, Wrapped, flow_map
from ebbflow.methods.samplers import SAMPLERS, sampler_of
from ebbflow.methods.samplers.base import levels_of
from ebbflow.metrics import features as maps
from ebbflow.metrics.cache import code_hash, data_hash, key_of, source_of
from ebbflow.metrics.frontier import Cell
from ebbflow.metrics.measure import block_errors, table
from ebbflow.metrics.yardstick import Made, Yardstick, yardstick_of
from ebbflow.progress import Stage, Work, retold
from ebbflow.requests.studies import CompareRequest, EvaluateRequest
from ebbflow.runs.derived import LEARNED
from ebbflow.runs.folder import versions
from ebbflow.runs.opened import Opened
from ebbflow.runs.parts import weights_hash
from ebbflow.runs.plan import Plan
from ebbflow.runs.sample import Samples, generate, grid_of, in_turn, shared
from ebbflow.show import canvas
from ebbflow.show.plots import thumbnail
from ebbflow.studies.compare_facts import (
    config_differences,
    data_of,
    facts_of_models,
    is_guidable,
    names_of,
    require_comparable,
)
from ebbflow.studies.evaluate import features_for, notes_of, plan_for, reference_of, sides_of, splits_of
from ebbflow.studies.report import Report
from ebbflow.training.world import here
from ebbflow.values import Wrong

STRIP = 10  # samples of a cell that are shown
STRIP_POINTS = 1000
ADAPTIVE_COST = 6  # a guess, for the progress bar, of evaluations a grid step where the sampler chooses its own


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A cell to come.

    Args:
        index: whose, of the models.
        plan: how it is sampled.
        key: the name under which it is kept.
        name: the same but for the code, so that an older cell of this setting is known for one.
        cost: about how many evaluations a sample.
    """

    index: int
    plan: Plan
    key: str
    name: str
    cost: int


@dataclass(frozen=True, kw_only=True)
class Counted(Wrapped, FlowMap):
    """A denoiser that notes how many rows each call asks it about; with guidance, those of both branches.

    Args:
        sizes: shared by all that are bound from it.
    """

    sizes: list[int] = field(default_factory=list)

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        self.sizes.append(len(x_t))
        return self.inner(x_t, t)

    def jump(self, x_t: Tensor, t: float | Tensor, s: float | Tensor) -> Estimate:
        self.sizes.append(len(x_t))
        return flow_map(self.inner).jump(x_t, t, s)


def compare(models: Sequence[Opened], request: CompareRequest, store: Path, *, command: str = "") -> Work[Report]:
    """Measure every cell that is not in `store` yet, append it there, and report on all.

    Stages called "cells" count network evaluations a sample, over all cells that are still to be made.

    Raises:
        ConfigError: models of different data, an unknown name, a grid that was not searched, too few samples.
        DataError: the data is not what the models were trained on.
    """
    _check(request)
    require_comparable(models)
    maps.check_kind(request.features)
    names, device = names_of(models), models[0].device
    splits = splits_of(next((model for model in models if model.run is not None), models[0]), request)
    request = replace(request, reference=reference_of(splits, request.reference))
    reference, other = sides_of(splits, request.reference, request.num)
    plans = [_plans(model, splits, request) for model in models]
    world = here()
    with world.leader_first():
        features = yield from features_for(splits, request.features, request.num, len(reference), device)
        if splits.train.captions is not None and any(own[0].prompts for own in plans):
            features = replace(features, scorer=(yield from maps.contrast(splits, device, reads=True)))
        yardstick = yield from yardstick_of(features, reference, other, splits.held_out)
    hashes = [weights_hash(model) for model in models]
    settings = [
        _setting(i, models[i], hashes[i], plan, request, yardstick) for i, own in enumerate(plans) for plan in own
    ]
    kept = world.first(read_cells(store))
    notes = [*_notes(models, request), *_outdated(settings, kept, store), *notes_of(yardstick, splits)]
    missing = [setting for setting in settings if setting.key not in kept]
    total, done = sum(setting.cost for setting in missing), 0
    for number, setting in enumerate(missing, start=len(settings) - len(missing) + 1):
        work = _measure(models[setting.index], names[setting.index], setting, yardstick)
        note = f"{number} of {len(settings)}, {names[setting.index]} {_short(setting.plan)}"
        cell = yield from retold(work, _share_of("cells", note, done, setting.cost, total))
        if world.leads:
            append_cell(store, cell)
        kept[setting.key] = cell
        done += setting.cost
    return Report(
        command=command,
        cells=[replace(kept[setting.key], run=names[setting.index]) for setting in settings],
        floor=yardstick.floor,
        within=request.within,
        settings=_settings(models, request, yardstick),
        runs=facts_of_models(models, hashes),
        differences=config_differences(models),
        notes=notes,
        is_image=models[0].facts.is_image,
    )


def _check(request: CompareRequest) -> None:
    for name in request.samplers:
        choose(SAMPLERS, name, "sampler")
    for name in request.grids:
        choose({**TIME_GRIDS, LEARNED: None}, name, "time grid")
    for name in ("samplers", "grids", "steps", "guidance"):
        given = getattr(request, name)
        if not given or len(set(given)) != len(given):
            raise ConfigError(f"`{name}` wants at least one entry and each once, got {list(given)}.")


def _share_of(name: str, note: str, before: int, cost: int, total: int) -> Callable[[float], Stage]:
    return lambda share: Stage(name, round(before + share * cost), total, note)


def _plans(model: Opened, splits: Splits, request: CompareRequest) -> list[Plan]:
    """How each cell of a model is sampled, checked; guidance is 1 alone where the model cannot be guided."""
    same = EvaluateRequest(num=request.num, seed=request.seed, batch_size=request.batch_size, options={}, guidance=1.0)
    plan = plan_for(model, splits, replace(same, sampler="heun"))
    guidance = request.guidance if is_guidable(model) else (1.0,)
    found = [
        replace(plan, sampler=sampler, grid=grid, num_steps=steps, guidance=w)
        for sampler in request.samplers
        for grid in request.grids
        for steps in request.steps
        for w in guidance
        if not sampler_of(sampler).jumps or (w == 1 and isinstance(model.denoiser, FlowMap))
    ]
    if not found:
        flow_map(model.denoiser)
        raise ConfigError("jumps are not guided: with `samplers` flow_map alone, `guidance` has to hold 1.")
    for one in found:
        levels_of(model.denoiser.path, grid_of(model, one))
    return found


def _setting(i: int, model: Opened, weights: str, plan: Plan, request: CompareRequest, yardstick: Yardstick) -> Setting:
    """The key stands for everything that decides a cell's numbers, the machine's kind and the batch size for its
    seconds."""
    sampler = sampler_of(plan.sampler)
    name = key_of(
        weights,
        (
            str(plan.sampler),
            plan.num_steps,
            spelt(plan.grid),
            _times(model, plan),
            plan.guidance,
            plan.conditions is None,
        ),
        (plan.seeds[0], plan.seeds[-1], plan.batch_size, *(("clip",) if plan.clip else ())),
        ("fp32", model.device.type, torch.get_num_threads(), *([here().size] if here().size > 1 else [])),
        (request.reference, data_hash(yardstick.reference), yardstick.features.map.facts["sha256"]),
    )
    kinds = [sampler.run, type(model.denoiser.path)]
    sources = [source_of(one) for one in (kinds if model.run is None else [*kinds, type(model.run.config.net)])]
    branches = 1 if plan.guidance in (0, 1) else 2
    cost = (sampler.evaluations(plan.num_steps) or ADAPTIVE_COST * plan.num_steps) * branches
    return Setting(index=i, plan=plan, key=key_of(name, code_hash(), sources), name=name, cost=cost)


def _times(model: Opened, plan: Plan) -> list[float] | None:
    """The times of a learned grid, which its name does not say."""
    return grid_of(model, plan).tolist() if plan.is_learned else None


def _short(plan: Plan) -> str:
    return f"{plan.sampler} {plan.num_steps} {spelt(plan.grid)} w {plan.guidance:g}"


def _measure(model: Opened, name: str, setting: Setting, yardstick: Yardstick) -> Generator[float, None, Cell]:
    """One cell; yields the share that is done. Memory grows with the number of samples by their features only."""
    plan, counted = setting.plan, Counted(model.denoiser)
    seen: list[dict[str, Tensor]] = []
    first, seconds, made, failed, world = [], 0.0, 0, None, here()
    with suppress(FloatingPointError):  # said of the cell itself
        next(generate(model, plan.rows(slice(plan.batch_size))))  # a warm-up: the first cell pays for nothing alone
    looking = 0.0

    def look(batch: Samples) -> tuple[Tensor, dict[str, Tensor]]:
        nonlocal looking
        x, began = batch.shown, time.perf_counter()
        found = yardstick.features.of(batch.for_features)
        looking += time.perf_counter() - began
        return (x if batch.plan.seeds[0] - plan.seeds[0] < STRIP_POINTS else x[:0]), found

    spoiled: tuple[Tensor, dict[str, Tensor]] = (torch.empty(0), {})
    batches = in_turn(model.with_denoiser(counted), shared(plan, world), world, look, spoiled)
    while failed is None or world.size > 1:  # the others go on, and wait to be heard
        began = time.perf_counter()
        step, part, found = next(batches, (None, plan, None))
        seconds += time.perf_counter() - began
        if step is None and found is None:
            break
        yield (made + (0 if step is None else len(part.seeds) * step.step / plan.num_steps)) / len(plan.seeds)
        if found is not None:
            made += len(part.seeds)
            first.append(found[0])
            seen.append(found[1])
            failed = failed if found[1] else "samples are not finite"
    evaluations = sum(world.everyone(sum(counted.sizes)))
    if not world.leads:
        return world.first(cast(Cell, None))
    times = _times(model, plan)
    cell = Cell(
        key=setting.key,
        setting=setting.name,
        run=name,
        sampler=str(plan.sampler),
        grid=spelt(plan.grid),
        steps=plan.num_steps,
        guidance=plan.guidance,
        evaluations=evaluations / made,
        seconds=seconds - looking,
        num=made,
        failed=failed,
        times=None if times is None else tuple(times),
    )
    if failed is not None:
        return world.first(cell)
    c = yardstick.comparison(Made.of(seen, torch.cat(first)), plan.labels, plan.prompts)
    shown = _strip(torch.cat(first), model.facts.is_image)
    return world.first(replace(cell, values=table(c), errors=block_errors(c), strip=shown))


def _strip(samples: Tensor, is_image: bool) -> str:
    """The first samples in a row, or the first thousand points, as a PNG in base64."""
    file = io.BytesIO()
    picture = canvas.strip(samples[:STRIP]) if is_image else thumbnail(samples[:STRIP_POINTS])
    picture.save(file, format="PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def read_cells(store: Path) -> dict[str, Cell]:
    """The cells kept in a file, by key; a line that was not written whole is passed over."""
    found: dict[str, Cell] = {}
    for line in read_lines(store) if store.is_file() else ():
        with suppress(Wrong):
            cell = parsed(line, Cell)
            found[cell.key] = cell
    return found


def append_cell(store: Path, cell: Cell) -> None:
    """Add a finished cell to the file."""
    store.parent.mkdir(parents=True, exist_ok=True)
    text = store.read_text(encoding="utf-8") if store.is_file() else ""
    with store.open("a", encoding="utf-8") as file:
        file.write(("\n" if text and not text.endswith("\n") else "") + json.dumps(asdict(cell)) + "\n")


def _settings(models: Sequence[Opened], request: CompareRequest, yardstick: Yardstick) -> dict[str, Any]:
    """What was the same in all cells."""
    features, classifier = yardstick.features, yardstick.features.classifier
    dealt = "dealt in turn" if any(model.is_conditional for model in models) else "none"
    return {
        "samples a cell": request.num,
        "seeds": f"{request.seed} to {request.seed + request.num - 1}",
        "conditions": dealt,
        "weights": request.weights,
        "batch size": request.batch_size,
        "data": data_of(models[0]),
        "reference": f"{request.reference}, {len(yardstick.reference)} entries",
        "features": features.map.name,
        "classifier's error on held-out data": None if classifier is None else classifier.facts.get("held_out_error"),
        "sampler options": "each sampler's defaults",
        "device": f"{models[0].device}, {torch.get_num_threads()} threads",
        "code": code_hash(),
        "versions": versions(),
    }


def _notes(models: Sequence[Opened], request: CompareRequest) -> list[str]:
    jumping = [name for name in request.samplers if sampler_of(name).jumps]
    stiff = [
        name for name, model in zip(names_of(models), models, strict=True) if not isinstance(model.denoiser, FlowMap)
    ]
    notes = []
    if jumping and len(request.samplers) > len(jumping):
        notes.append(f"Sampler {', '.join(jumping)} is at guidance 1 only: jumps are not guided.")
    if jumping and stiff:
        notes.append(f"Sampler {', '.join(jumping)} is left out for {', '.join(stiff)}: no net of a map.")
    unguided = [name for name, model in zip(names_of(models), models, strict=True) if not is_guidable(model)]
    if not unguided or request.guidance == (1.0,):
        return notes
    return [
        *notes,
        f"Guidance is 1 only for {', '.join(unguided)}: no conditions, or none dropped in training, so there is "
        "nothing to guide from.",
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
