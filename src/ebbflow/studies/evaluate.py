"""Evaluating a run: sample it, compare with its data, write the table into the run's folder."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ebbflow.conditioning import LabelConditioning
from ebbflow.data import Dataset, Splits
from ebbflow.errors import CheckpointError, ConfigError
from ebbflow.files import load_tensors, save_tensors, write_text
from ebbflow.latent import LatentSpace, encoded
from ebbflow.methods.denoise import Denoiser, NetDenoiser
from ebbflow.metrics import features as maps
from ebbflow.metrics.cache import code_hash, data_hash, file_hash, key_of, slug
from ebbflow.metrics.classifier import ClassifierSettings
from ebbflow.metrics.denoising import denoising_errors
from ebbflow.metrics.features import FeatureMap
from ebbflow.metrics.measure import check_num, measure, memorisation
from ebbflow.metrics.yardstick import Features, Made, yardstick_of
from ebbflow.progress import Stage, Work
from ebbflow.runs.build import conditioner_of, load_splits
from ebbflow.runs.generate import Request, Samples, default_request, generate
from ebbflow.runs.grids import with_times
from ebbflow.runs.same_data import require_same_data
from ebbflow.runs.store import Run, Weights, describe
from ebbflow.runs.variance import knowing_variance
from ebbflow.training.engine import Precision, WorkingCopy, pick_precision

NEAREST_NUM = 1000  # samples whose nearest training entry is sought
DENOISED_NUM = 256  # held-out entries that are noised and denoised
Reference = Literal["held_out", "train"]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What to evaluate and how.

    Args:
        num: samples of one measurement.
        repeats: measurements, each of the next `num` seeds.
        seed: the first seed.
        request: sampler, steps, grid, options, guidance and batch size; its seeds and labels are set here.
        weights: averaged or raw.
        reference: the split that samples are compared with.
        features: one of `metrics.features.KINDS`; "auto" is the classifier for labelled images, principal components
            for others, coordinates for points.
        precision: in which the net runs.
        data_dir: where the data lies, if not where the run says.
    """

    num: int = 1000
    repeats: int = 1
    seed: int = 0
    request: Request = field(default_factory=lambda: Request(seeds=()))
    weights: Weights = "ema"
    reference: Reference = "held_out"
    features: str = "auto"
    precision: Precision = "fp32"
    data_dir: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Loaded:
    """A run with all that is read of its checkpoint, read once: a training that goes on may prune the checkpoint.

    Args:
        denoiser: in the precision that was asked for.
        space: the run's latent space, or None.
        sha256: of the file of its weights.
    """

    run: Run
    denoiser: NetDenoiser
    space: LatentSpace | None
    sha256: str


def base_request(run: Run) -> Request:
    """How a run is sampled for an evaluation when nothing else is said."""
    return default_request(run, seeds=(), labels=() if by_label(run) else None)


def evaluate(run: Run, wanted: Evaluation, *, device: torch.device, command: str = "") -> Work[dict[str, Any]]:
    """Evaluate a run; returns the table, which it has written to RUN/eval/<name>.json.

    Finished batches are kept in RUN/eval/.partial-<key>, so the same call goes on where it was stopped.

    Raises:
        ConfigError: a request that the run cannot serve, or too few samples.
        DataError: the data is not what the run was trained on.
        FloatingPointError: samples that are not finite.
    """
    began = time.perf_counter()
    maps.check_kind(wanted.features)
    splits = splits_of(run, wanted.data_dir)
    reference, other = sides_of(splits, wanted)
    loaded = load(run, wanted, device)
    request = request_of(run, wanted, loaded.denoiser.make_null is not None)
    denoiser = knowing_variance(run, loaded.denoiser, request, wanted.weights, device)
    features = yield from features_for(splits, wanted, len(reference), device)
    settings = _settings(loaded, wanted, request, features, reference)
    partial = run.folder / "eval" / f".partial-{key_of(settings, code_hash())}"
    yield from _sample(loaded, denoiser, request, features, partial, device)
    made = _read(partial)
    yardstick = yield from yardstick_of(features, reference, other)
    errors = yield from _denoising(loaded.denoiser, splits.held_out, loaded.space, device)
    yield Stage("measure", 0, 1)
    file = run.folder / "eval" / f"{_name(wanted, request)}-{key_of(settings)}.json"
    classifier = features.classifier
    result = {
        "features": features.map.name,
        "num": wanted.num,
        **measure(yardstick.sets(made, request.labels, wanted.num)),
        **memorisation(made.first, splits.train.x, splits.held_out.x),
        "denoising": errors,
        **settings,
        "feature_facts": features.map.facts,
        "classifier": None if classifier is None else {"name": classifier.name, **classifier.facts},
        "versions": describe(run.config, run.facts)["versions"],
        "command": command,
        "seconds": round(time.perf_counter() - began, 1),
        "file": str(file),
    }
    write_text(file, json.dumps(result, indent=2))
    shutil.rmtree(partial, ignore_errors=True)
    return result


def splits_of(run: Run, data_dir: str | None) -> Splits:
    """The data of a run, read anew.

    Raises:
        DataError: it has another shape or other classes than the run.
    """
    data = run.config.data if data_dir is None else replace(run.config.data, dir=data_dir)
    splits = load_splits(replace(run.config, data=data))
    require_same_data(run, splits.train)
    return splits


def sides_of(splits: Splits, wanted: Evaluation) -> tuple[Dataset, Dataset]:
    """The reference, and `num` entries of the other split, spread over it."""
    if len(splits.held_out) == 0 and wanted.reference == "held_out":
        raise ConfigError("this data has no held-out entries. Use the reference 'train'.")
    reference, other = splits.held_out, splits.train
    if wanted.reference == "train":
        reference, other = other, reference
    num = min(wanted.num, len(other))
    return reference, other.select(torch.arange(num) * len(other) // max(num, 1))


def load(run: Run, wanted: Evaluation, device: torch.device) -> Loaded:
    """What is read of a run's checkpoint, with its net in the precision that is wanted."""
    denoiser = run.denoiser(wanted.weights, device=device)
    assert isinstance(denoiser.net, torch.nn.Module)
    net = WorkingCopy(denoiser.net, pick_precision(wanted.precision, device)).module
    part = {"ema": "ema", "raw": "model"}[wanted.weights]
    digest = file_hash(run.checkpoint.folder / f"{part}.safetensors")
    return Loaded(run=run, denoiser=replace(denoiser, net=net), space=run.space(device), sha256=digest)


def by_label(run: Run) -> bool:
    """Whether a run is conditioned by class label."""
    return isinstance(run.config.conditioning, LabelConditioning)


def request_of(run: Run, wanted: Evaluation, conditional: bool) -> Request:
    """Consecutive seeds; labels dealt in turn, so that every stretch of samples holds all classes alike."""
    if conditional and not by_label(run):
        raise ConfigError(
            "this run takes text or vectors, and conditions are dealt here by class label only; measured without its "
            "condition it would be another model. Use a run conditioned by label."
        )
    total, classes = wanted.num * wanted.repeats, len(run.facts.label_names)
    labels = tuple(i % wanted.num % classes for i in range(total)) if by_label(run) else None
    request = replace(wanted.request, seeds=tuple(range(wanted.seed, wanted.seed + total)), labels=labels)
    request.check(run.facts, conditional)
    return with_times(run, request, wanted.weights)


def features_for(splits: Splits, wanted: Evaluation, reference_size: int, device: torch.device) -> Work[Features]:
    """The features that were asked for; sizes are checked before anything is trained."""
    train, kind = splits.train, wanted.features
    if kind == "auto":
        kind = "coordinates" if not train.is_image else "classifier" if train.num_classes > 1 else "pca"
    if kind == "classifier":
        check_num(wanted.num, ClassifierSettings().num_features, reference_size)
    found: FeatureMap | None = None if kind == "classifier" else maps.feature_map(kind, train, device)
    if found is not None:
        check_num(wanted.num, found.dim, reference_size)
        if train.num_classes < 2:
            return Features(map=found, classifier=None)
    classifier = yield from maps.classifier(splits, device)
    return Features(map=found or classifier, classifier=classifier)


def _settings(
    loaded: Loaded, wanted: Evaluation, request: Request, features: Features, reference: Dataset
) -> dict[str, Any]:
    """Everything that decides the numbers."""
    return {
        "run": loaded.run.folder.name,
        "step": loaded.run.checkpoint.step,
        "weights": wanted.weights,
        "weights_sha256": loaded.sha256,
        "net_precision": wanted.precision,
        "sampler": request.sampler,
        "steps": request.num_steps,
        "grid": request.grid,
        **({} if request.times is None else {"times": list(request.times)}),
        "options": request.options,
        "guidance": request.guidance,
        "rescale": request.rescale,
        **({"clip": True} if request.clip else {}),
        "interval": request.interval,
        "negative": None if request.negative is None else str(request.negative),
        "guides": _guides(request),
        "num_repeats": wanted.repeats,
        "seeds": [request.seeds[0], request.seeds[-1]],
        "split": wanted.reference,
        "reference_num": len(reference),
        "reference_sha256": data_hash(reference),
        "feature_sha256": features.map.facts["sha256"],
    }


def _guides(request: Request) -> dict[str, Any]:
    """What else guides, as far as plain values say it."""
    given = {f.name: getattr(request.guides, f.name) for f in fields(request.guides)}
    plain_values = (str, int, float, dict, tuple)
    return {name: value if isinstance(value, plain_values) else value is not None for name, value in given.items()}


def _name(wanted: Evaluation, request: Request) -> str:
    features = "" if wanted.features == "auto" else f"-{slug(wanted.features.split(':')[0])}"
    return (
        f"{request.sampler}{request.num_steps}-{request.grid}-w{request.guidance:g}-n{wanted.num}-s{wanted.seed}-"
        f"{wanted.weights}{features}"
    )


def _sample(
    loaded: Loaded, denoiser: Denoiser, request: Request, features: Features, partial: Path, device: torch.device
) -> Work[None]:
    """Samples to features, each finished batch into a file of `partial`; those already there are not made again."""
    facts = loaded.run.facts
    done, total = sum(len(batch["features"]) for batch in _batches(partial)), len(request.seeds)
    labels = None if request.labels is None else request.labels[done:]
    rest = replace(request, seeds=request.seeds[done:], labels=labels)
    for batch in generate(denoiser, facts, rest, device, space=loaded.space):
        yield Stage("sample", done + batch.step * len(batch.seeds) // request.num_steps, total)
        if batch.done:
            _keep(batch, facts.is_image, done, features, partial)
            done += len(batch.seeds)


def _keep(batch: Samples, is_image: bool, first: int, features: Features, partial: Path) -> None:
    if not bool(torch.isfinite(batch.x).all()):
        raise FloatingPointError(
            f"samples of seeds {batch.seeds[0]} to {batch.seeds[-1]} are not finite. Try more steps or a "
            "smaller guidance."
        )
    x = batch.images if is_image else batch.x
    tensors = features.of(x.float() / 127.5 - 1 if is_image else x) | {"x": x[: max(0, NEAREST_NUM - first)]}
    save_tensors(tensors, partial / f"batch-{first:08d}.safetensors")


def _batches(partial: Path) -> list[dict[str, Tensor]]:
    """What is in `partial`, up to the first gap."""
    found: list[dict[str, Tensor]] = []
    have = 0
    while (path := partial / f"batch-{have:08d}.safetensors").is_file():
        try:
            found.append(load_tensors(path))
        except CheckpointError:
            break
        have += len(found[-1]["features"])
    return found


def _read(partial: Path) -> Made:
    batches = _batches(partial)
    return Made(
        features=torch.cat([batch["features"] for batch in batches]),
        classes=torch.cat([batch["classes"] for batch in batches]) if "classes" in batches[0] else None,
        first=torch.cat([batch["x"] for batch in batches]),
    )


def _denoising(
    denoiser: NetDenoiser, held_out: Dataset, space: LatentSpace | None, device: torch.device
) -> Work[list[Any]]:
    if len(held_out) == 0:
        return []
    data = held_out.select(torch.arange(min(DENOISED_NUM, len(held_out))))
    data = data if space is None else encoded(data, space)
    conditioner = conditioner_of(denoiser)
    cond = None if conditioner is None else conditioner.conditions(data)
    return (yield from denoising_errors(denoiser, data.x0(torch.arange(len(data))), cond, device=device))
