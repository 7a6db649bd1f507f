"""Evaluating a model: sample it, compare with its data, write the table into the run's folder."""

from __future__ import annotations

import json
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebbflow.conditioning import ImageConditioner
from ebbflow.core.condition import Condition
from ebbflow.core.entries import spelt
from ebbflow.data import Dataset, Splits, load_dataset
from ebbflow.errors import ConfigError, DataError
from ebbflow.files import require_place, write_text
from ebbflow.latent import encoded
from ebbflow.methods.samplers import sampler_of
from ebbflow.metrics import features as maps
from ebbflow.metrics.cache import data_hash, key_of, slug
from ebbflow.metrics.contrast import ContrastSettings
from ebbflow.metrics.denoising import denoising_errors
from ebbflow.metrics.feature_map import FeatureMap
from ebbflow.metrics.learning import LearnerSettings
from ebbflow.metrics.measure import check_num, measure, memorisation
from ebbflow.metrics.yardstick import Features, Made, Yardstick, yardstick_of
from ebbflow.progress import Stage, Work
from ebbflow.requests.shared import Judge, Reference
from ebbflow.requests.studies import EvaluateImagesRequest, EvaluateRequest
from ebbflow.runs.derived import LEARNED
from ebbflow.runs.folder import versions
from ebbflow.runs.opened import Opened, as_latent_space
from ebbflow.runs.parts import Parts, parts_in, weights_hash
from ebbflow.runs.plan import Plan, changes_of, check, default_plan
from ebbflow.runs.same_data import splits_of_run
from ebbflow.runs.sample import Samples, generate, grid_of, in_net_precision, in_turn, shared
from ebbflow.studies.beside import beside_given, dealt_images
from ebbflow.training.engine import pick_device, pick_precision
from ebbflow.training.world import here

NEAREST_NUM = 1000  # samples whose nearest training entry is sought
ODE_NUM, ODE_STEPS = 100, 50  # samples that are followed along the model's own ODE, and steps of it
FEW, FEW_ENTRIES = 128, 256  # held-out entries that are no reference; entries that are few for a Frechet distance
DENOISED_NUM = 256  # held-out entries that are noised and denoised


def evaluate(model: Opened, request: EvaluateRequest, *, command: str = "") -> Work[dict[str, Any]]:
    """Evaluate a model; returns the table, which it has written to RUN/eval/<name>.json (eval/<model>/ for a model that
    is no run).

    Finished batches are kept beside it in .partial-<key>, so the same call goes on where it was stopped.

    Raises:
        ConfigError: a request that the model cannot serve, or too few samples.
        DataError: the data is not what the model was trained on.
        FloatingPointError: samples that are not finite.
    """
    began = time.perf_counter()
    maps.check_kind(request.features)
    splits = splits_of(model, request)
    request = replace(request, reference=reference_of(splits, request.reference))
    reference, other = sides_of(splits, request.reference, request.num)
    plan = plan_for(model, splits, request)
    with here().leader_first():
        features = yield from features_for(splits, request.features, request.num, len(reference), model.device)
        if plan.prompts is not None and splits.train.captions is not None:
            features = replace(features, scorer=(yield from maps.contrast(splits, model.device, reads=True)))
    settings = _settings(model, request, plan, features, reference)
    measured = model.with_denoiser(in_net_precision(model.denoiser, pick_precision(request.precision, model.device)))
    folder = (Path("eval") / slug(model.name)) if model.run is None else model.run.folder / "eval"
    require_place(folder / "any.json")
    kept = parts_in(folder, settings)
    seen = yield from _sample(measured, plan, features, kept)
    if not here().leads:
        return here().first({})
    made = Made.of(seen, torch.cat([batch["x"] for batch in seen]))
    yardstick = yield from yardstick_of(features, reference, other, splits.held_out)
    errors = yield from _denoising(measured, splits.held_out)
    own = yield from _from_own_ode(measured, plan)
    yield Stage("measure", 0, 1)
    file = folder / f"{_name(request, plan)}-{key_of(settings)}.json"
    result = {
        **_scores(made, yardstick, splits, plan.labels, request.num, plan.prompts),
        **beside_given(model, splits, made, yardstick, request.num),
        "denoising": errors,
        **own,
        **settings,
        "feature_facts": features.map.facts,
        "command": command,
        "seconds": round(time.perf_counter() - began, 1),
        "file": str(file),
    }
    write_text(file, json.dumps(result, indent=2))
    kept.end()
    return here().first(result)


def _scores(
    made: Made,
    yardstick: Yardstick,
    splits: Splits,
    labels: tuple[int, ...] | None,
    num: int,
    prompts: tuple[str, ...] | None = None,
) -> dict[str, Any]:
    """Every number of samples, and what they were measured with."""
    features, classifier = yardstick.features, yardstick.features.classifier
    return {
        "features": features.map.name,
        "num": num,
        **measure(yardstick.comparison(made, labels, prompts), num, yardstick.floor),
        "floor_num": len(yardstick.other),
        **memorisation(made.first, splits.train.x, splits.held_out.x),
        "reference_num": len(yardstick.reference),
        "classifier": None if classifier is None else {"name": classifier.name, **classifier.facts},
        "scorer": None if features.scorer is None else {"name": features.scorer.name, **features.scorer.facts},
        "notes": notes_of(yardstick, splits),
        "versions": versions(),
    }


def evaluate_images(images: Path, request: EvaluateImagesRequest) -> Work[dict[str, Any]]:
    """Score pictures that anything has made, from a folder or an .npz file, against a data set; where they carry labels
    of the data's own classes, how many are taken for what they are labelled too.

    Raises:
        ConfigError: too few pictures.
        DataError: pictures of another shape than the data's, or unreadable ones.
    """
    maps.check_kind(request.features)
    splits = load_dataset(request.data, data_dir=request.data_dir)
    dims = splits.train.dims
    size, channels = ((dims[1], dims[2]), dims[0]) if splits.train.is_image else (None, None)
    both = load_dataset(str(images), size=size, channels=channels)
    parts = [one for one in (both.train, both.held_out) if len(one)]
    num = sum(map(len, parts))
    if parts[0].dims != dims:
        raise DataError(f"{images} holds entries of {parts[0].dims}, the data {request.data!r} of {dims}.")
    request = replace(request, reference=reference_of(splits, request.reference))
    reference, other = sides_of(splits, request.reference, num)
    device = pick_device(request.device)
    features = yield from features_for(splits, request.features, num, len(reference), device)
    seen: list[dict[str, Tensor]] = []
    for part in parts:
        for rows in torch.arange(len(part)).split(request.batch_size):
            seen.append(features.of(part.x0(rows)))
            yield Stage("look at the pictures", sum(len(one["features"]) for one in seen), num)
    made = Made.of(seen, torch.cat([part.x for part in parts])[:NEAREST_NUM])
    yardstick = yield from yardstick_of(features, reference, other, splits.held_out)
    return {
        "images": str(images),
        "data": request.data,
        "split": request.reference,
        **_scores(made, yardstick, splits, labels_of(parts, splits.train), num),
    }


def labels_of(parts: list[Dataset], data: Dataset) -> tuple[int, ...] | None:
    """The labels of pictures, where all have them and they are of the classes of `data`."""
    if any(one.labels is None or one.label_names != data.label_names for one in parts):
        return None
    return tuple(int(label) for one in parts if one.labels is not None for label in one.labels)


def splits_of(model: Opened, request: Judge) -> Splits:
    """The data that a model is measured on, read anew: the request's, or else its run's own.

    Raises:
        ConfigError: a model that is no run, and no data named.
        DataError: it has another shape or other classes than the model.
    """
    if request.data is not None:
        size, channels = ((model.dims[1], model.dims[2]), model.dims[0]) if model.facts.is_image else (None, None)
        splits = load_dataset(request.data, data_dir=request.data_dir, size=size, channels=channels)
        if splits.train.dims != model.dims:
            raise DataError(f"{model.name} makes samples of {model.dims}, {request.data!r} has {splits.train.dims}.")
        return splits
    if model.run is None:
        raise ConfigError(f"{model.name} is no run of ebbflow: name the `data` to measure it on.")
    return splits_of_run(model.run, request.data_dir)


def reference_of(splits: Splits, asked: Reference) -> Reference:
    """The split that samples are compared with: held out, but where those are few, the larger one."""
    if asked != "auto":
        return asked
    return "held_out" if len(splits.held_out) > FEW or len(splits.held_out) > len(splits.train) else "train"


def notes_of(yardstick: Yardstick, splits: Splits) -> list[str]:
    """What to know of the numbers before they are believed."""
    reference, notes = yardstick.reference, []
    if reference is splits.train:
        notes.append(
            f"compared with the {len(reference):,} entries that were trained on ({len(splits.held_out):,} are held "
            "out): a copier scores well, and nearest_ratio far below 1 tells it"
        )
    if len(reference) < FEW_ENTRIES:
        notes.append(
            f"{len(reference):,} entries are few: the Frechet distance is in {yardstick.features.map.dim} features and "
            "holds a bias that only falls with more data; kid holds none, and its error holds both sides"
        )
    return notes


def sides_of(splits: Splits, reference: str, num: int) -> tuple[Dataset, Dataset]:
    """The reference split, and `num` entries of the other one, spread over it."""
    if len(splits.held_out) == 0 and reference == "held_out":
        raise ConfigError("this data has no held-out entries. Use the `reference` train.")
    chosen, other = splits.held_out, splits.train
    if reference == "train":
        chosen, other = other, chosen
    num = min(num, len(other))
    return chosen, other.select(torch.arange(num) * len(other) // max(num, 1))


def plan_for(model: Opened, splits: Splits, request: EvaluateRequest) -> Plan:
    """Consecutive seeds; conditions dealt in turn, so that every stretch of samples holds all of them alike."""
    seeds = range(request.seed, request.seed + request.num * request.repeats)
    conditions = dealt(model, splits, request.num)
    every = None if conditions is None else conditions * request.repeats
    plan = replace(default_plan(model, seeds=seeds, conditions=every), **changes_of(model, request))
    check(model, plan)
    grid_of(model, plan)
    return plan


def dealt(model: Opened, splits: Splits, num: int) -> list[Condition] | None:
    """What `num` samples are asked to be: the classes in turn, or the captions or vectors of the data.

    Raises:
        ConfigError: a model of text or vectors, and data that has none.
    """
    if not model.is_conditional:
        return None
    if isinstance(model.reader, ImageConditioner):
        return dealt_images(model.reader, splits, num)
    kind = {int: "class", str: "prompt"}.get(type(model.examples[0]) if model.examples else str, "vector")
    if kind == "class":
        return [model.examples[i % len(model.examples)] for i in range(num)]
    data = splits.held_out if reference_of(splits, "auto") == "held_out" else splits.train
    known: list[Condition] = list(data.captions or ())
    if kind == "vector" and data.vectors is not None:
        known = [tuple(row) for row in data.vectors.tolist()]
    if not known and model.run is not None and model.label_names:
        known = list(range(len(model.label_names)))  # a conditioner of ours words the names of classes
    if not known:
        raise ConfigError(
            f"{model.name} takes a {kind} for each sample, and the data {data.name!r} has none to deal out; measured "
            "without its condition it would be another model. Name `data` that has them."
        )
    return [known[i % len(known)] for i in range(num)]


def features_for(splits: Splits, kind: str, num: int, reference_size: int, device: torch.device) -> Work[Features]:
    """The features that were asked for; sizes are checked before anything is trained."""
    train = splits.train
    found: FeatureMap | None = None
    kind = maps.automatic(train, num, reference_size) if kind == "auto" else kind
    trained = {"classifier": LearnerSettings, "views": ContrastSettings}
    if kind in trained:
        check_num(num, trained[kind]().num_features, reference_size)
    if kind == "views":
        found = yield from maps.contrast(splits, device, reads=False)
    elif kind != "classifier":
        found = maps.feature_map(kind, train, device)
    if found is not None:
        check_num(num, found.dim, reference_size)
    if found is not None and train.num_classes < 2:
        return Features(map=found, classifier=None)
    classifier = yield from maps.classifier(splits, device)
    return Features(map=found or classifier, classifier=classifier)


def _settings(
    model: Opened, request: EvaluateRequest, plan: Plan, features: Features, reference: Dataset
) -> dict[str, Any]:
    """Everything that decides the numbers."""
    return {
        "run": model.name,
        "step": None if model.run is None else model.run.checkpoint.step,
        "weights": model.weights,
        "weights_sha256": weights_hash(model),
        "net_precision": request.precision,
        "sampler": str(plan.sampler),
        "steps": plan.num_steps,
        "grid": plan.named_grid,
        **({"times": grid_of(model, plan).tolist()} if plan.named_grid in (None, LEARNED) else {}),
        "options": plan.options,
        "guidance": plan.guidance,
        "rescale": plan.rescale,
        **({"clip": True} if plan.clip else {}),
        "interval": plan.interval,
        "negative": None if plan.negative is None else str(plan.negative),
        "guides": _guides(plan),
        "num_repeats": request.repeats,
        "seeds": [plan.seeds[0], plan.seeds[-1]],
        "split": request.reference,
        "reference_num": len(reference),
        "reference_sha256": data_hash(reference),
        "feature_sha256": features.map.facts["sha256"],
    }


def _guides(plan: Plan) -> dict[str, Any]:
    """What else guides, as far as plain values say it."""
    given = {f.name: getattr(plan.guides, f.name) for f in fields(plan.guides)}
    plain_values = (str, int, float, dict, tuple)
    return {name: value if isinstance(value, plain_values) else value is not None for name, value in given.items()}


def _name(request: EvaluateRequest, plan: Plan) -> str:
    features = "" if request.features == "auto" else f"-{slug(request.features.split(':')[0])}"
    grid = slug(spelt(plan.named_grid or "own"))
    return (
        f"{plan.sampler}{plan.num_steps}-{grid}-w{plan.guidance:g}-n{request.num}-s{request.seed}-"
        f"{request.weights}{features}"
    )


def _sample(model: Opened, plan: Plan, features: Features, kept: Parts) -> Work[list[dict[str, Tensor]]]:
    """What is seen of samples, a batch each, on rank 0; finished batches are kept, and not made again."""
    world, total = here(), len(plan.seeds)
    found = _batches(kept) if world.leads else []
    done = world.first(sum(len(batch["features"]) for batch in found))
    rest = shared(plan.rows(slice(done, None)), world)
    first = plan.seeds[0]
    for step, part, seen in in_turn(model, rest, world, lambda one: _seen(one, one.plan.seeds[0] - first, features)):
        yield Stage("sample", done + (0 if step is None else step.step * len(part.seeds) // plan.num_steps), total)
        if seen is not None:
            kept.keep(f"batch-{done:08d}", seen)
            found.append(seen)
            done += len(part.seeds)
    return found


def _seen(batch: Samples, first: int, features: Features) -> dict[str, Tensor]:
    """The features of a batch, and of the first samples themselves."""
    return features.of(batch.for_features) | {"x": batch.shown[: max(0, NEAREST_NUM - first)]}


def _batches(kept: Parts) -> list[dict[str, Tensor]]:
    """What was kept, up to the first gap."""
    found: list[dict[str, Tensor]] = []
    have = 0
    while (batch := kept.made(f"batch-{have:08d}")) is not None:
        found.append(batch)
        have += len(batch["features"])
    return found


def _from_own_ode(model: Opened, plan: Plan) -> Work[dict[str, float]]:
    """Of a sampler that jumps: how far its samples are from where the model's own ODE leads from the same noises, the
    root mean square over the elements of a state. It tells a wrong map from a wrong model."""
    if not sampler_of(plan.sampler).jumps:
        return {}
    few = plan.rows(slice(min(ODE_NUM, len(plan.seeds))))
    ends = []
    for one in (few, replace(few, sampler="heun", num_steps=ODE_STEPS, grid="uniform", options={})):
        states = [batch.state for batch in generate(model, one) if batch.done]
        ends.append(torch.cat(states).double())
        yield Stage("follow the model's own ODE", len(ends), 2)
    return {"rms_from_own_ode": float((ends[0] - ends[1]).square().mean().sqrt())}


def _denoising(model: Opened, held_out: Dataset) -> Work[list[Any]]:
    if len(held_out) == 0 or (model.space is not None and as_latent_space(model.space) is None):
        return []
    data = held_out.select(torch.arange(min(DENOISED_NUM, len(held_out))))
    cond, space = model.conditions_of(data), as_latent_space(model.space)
    data = data if space is None else encoded(data, space)
    x0 = data.x0(torch.arange(len(data)))
    return (yield from denoising_errors(model.denoiser, x0, cond, device=model.device))
