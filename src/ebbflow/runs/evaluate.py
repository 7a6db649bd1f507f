"""Evaluating a run: sample it, compare with its data, write the table into the run's folder."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ebbflow.canvas import whole_file
from ebbflow.data import Dataset, Splits
from ebbflow.errors import ConfigError, DataError
from ebbflow.evaluation import features as feature_maps
from ebbflow.evaluation.classifier import ClassifierSettings
from ebbflow.evaluation.features import Classifier, FeatureMap, data_hash, file_hash, key_of
from ebbflow.evaluation.measure import Generated, Real, check_num, measure, memorisation, spread_rows
from ebbflow.methods.denoise import NetDenoiser
from ebbflow.runs.build import facts_of, load_splits
from ebbflow.runs.generate import Request, Samples, generate
from ebbflow.runs.store import Run, Weights, describe, write_text
from ebbflow.training.engine import Precision, WorkingCopy, pick_precision

NEAREST_NUM = 1000  # samples whose nearest training image is sought
Reference = Literal["held_out", "train"]
FeatureKind = Literal["auto", "classifier", "pca", "coordinates"]


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
        features: "auto" is the classifier for labelled images, principal components for others, coordinates for points.
        precision: in which the net runs.
        data_dir: where the data lies, if not where the run says.
    """

    num: int = 1000
    repeats: int = 1
    seed: int = 0
    request: Request = field(default_factory=lambda: Request(seeds=()))
    weights: Weights = "ema"
    reference: Reference = "held_out"
    features: FeatureKind = "auto"
    precision: Precision = "fp32"
    data_dir: str | None = None


@dataclass(frozen=True, kw_only=True)
class Stage:
    """How far one part of the work is."""

    name: str
    done: int
    total: int


Stages = Generator[Stage, None, Any]


def evaluate(
    run: Run, wanted: Evaluation, *, device: torch.device, command: str = ""
) -> Generator[Stage, None, dict[str, Any]]:
    """Evaluate a run; yields its progress and returns the table, which it has written to RUN/eval/<name>.json.

    Stopped at any time, the same call goes on where it was.

    Raises:
        ConfigError: a request that the run cannot serve, or too few samples.
        DataError: the data is not what the run was trained on.
    """
    began = time.perf_counter()
    splits = splits_of(run, wanted.data_dir)
    reference, other = _sides(splits, wanted.reference)
    denoiser = _denoiser(run, wanted, device)
    request = _request(run, wanted, denoiser.make_null is not None)
    kind = _kind(wanted.features, splits.train)
    if kind == "classifier":
        check_num(wanted.num, ClassifierSettings().num_features, len(reference))
    judge = (yield from _classifier(splits, device)) if splits.train.num_classes > 1 else None
    feature_map = _feature_map(kind, splits.train, judge)
    check_num(wanted.num, feature_map.dim, len(reference))
    settings = _settings(run, wanted, request, feature_map, reference)
    name = _name(wanted, request, settings)
    partial = run.folder / "eval" / f".partial-{key_of(settings)}"
    yield from _sample(run, denoiser, request, feature_map, judge, partial, device)
    sides = Real(
        reference=(yield from _features(feature_map, reference)),
        other=(yield from _features(feature_map, other.select(torch.arange(len(other))[:: max(1, len(other) // (2 * wanted.num))]))),
        classes=reference.labels,
        num_classes=reference.num_classes,
    )
    made = _read(partial, request)
    yield Stage(name="measure", done=0, total=1)
    values = _measure(sides, made, wanted, splits)
    facts = {
        "features": feature_map.name,
        "num": wanted.num,
        **values,
        **settings,
        "feature_facts": feature_map.facts,
        "classifier": None if judge is None else judge.facts | {"name": judge.name},
        "versions": describe(run.config, run.facts)["versions"],
        "command": command,
        "seconds": round(time.perf_counter() - began, 1),
        "file": str(run.folder / "eval" / f"{name}.json"),
    }
    write_text(Path(facts["file"]), json.dumps(facts, indent=2))
    shutil.rmtree(partial, ignore_errors=True)
    return facts


def splits_of(run: Run, data_dir: str | None) -> Splits:
    """The data of a run, read anew.

    Raises:
        DataError: it has another shape or other classes than the run.
    """
    data = run.config.data if data_dir is None else replace(run.config.data, dir=data_dir)
    splits = load_splits(replace(run.config, data=data))
    found = facts_of(splits.train)
    if (found.dims, found.label_names) != (run.facts.dims, run.facts.label_names):
        raise DataError(
            f"the data {data.name!r} has shape {found.dims} and {len(found.label_names)} classes, the run was trained on "
            f"{run.facts.dims} and {len(run.facts.label_names)}. Give the data it was trained on (--data-dir)."
        )
    return splits


def _sides(splits: Splits, reference: Reference) -> tuple[Dataset, Dataset]:
    if len(splits.held_out) == 0 and reference == "held_out":
        raise ConfigError("this data has no held-out entries. Use --reference train.")
    return (splits.held_out, splits.train) if reference == "held_out" else (splits.train, splits.held_out)


def _denoiser(run: Run, wanted: Evaluation, device: torch.device) -> NetDenoiser:
    denoiser = run.denoiser(wanted.weights, device=device)
    assert isinstance(denoiser.net, torch.nn.Module)
    return replace(denoiser, net=WorkingCopy(denoiser.net, pick_precision(wanted.precision, device)).module)


def _request(run: Run, wanted: Evaluation, conditional: bool) -> Request:
    """Consecutive seeds; labels dealt in turn, so that every stretch of samples holds all classes alike."""
    total, classes = wanted.num * wanted.repeats, len(run.facts.label_names)
    labels = tuple(i % classes for i in range(total)) if conditional and classes else None
    request = replace(wanted.request, seeds=tuple(range(wanted.seed, wanted.seed + total)), labels=labels)
    request.check(run.facts, conditional)
    return request


def _kind(wanted: FeatureKind, data: Dataset) -> FeatureKind:
    if wanted != "auto":
        return wanted
    return "coordinates" if not data.is_image else "classifier" if data.num_classes > 1 else "pca"


def _classifier(splits: Splits, device: torch.device) -> Generator[Stage, None, Classifier]:
    training = feature_maps.classifier(splits, device)
    while True:
        try:
            done, total = next(training)
        except StopIteration as end:
            return end.value
        yield Stage(name="train classifier", done=done, total=total)


def _feature_map(kind: FeatureKind, train: Dataset, judge: Classifier | None) -> FeatureMap:
    if kind == "classifier":
        if judge is None:
            raise ConfigError(f"data set {train.name!r} has no labels to train a classifier on. Use --features pca.")
        return judge
    return feature_maps.pca(train) if kind == "pca" else feature_maps.coordinates(train)


def _settings(run: Run, wanted: Evaluation, request: Request, feature_map: FeatureMap, reference: Dataset) -> dict[str, Any]:
    """Everything that decides the numbers."""
    part = {"ema": "ema", "raw": "model"}[wanted.weights]
    return {
        "run": run.folder.name,
        "step": run.checkpoint.step,
        "weights": wanted.weights,
        "weights_sha256": file_hash(run.checkpoint.folder / f"{part}.safetensors"),
        "sampler": request.sampler,
        "steps": request.num_steps,
        "grid": request.grid,
        "options": request.options,
        "guidance": request.guidance,
        "repeats": wanted.repeats,
        "seeds": [request.seeds[0], request.seeds[-1]],
        "net_precision": wanted.precision,
        "split": wanted.reference,
        "reference_num": len(reference),
        "reference_sha256": data_hash(reference),
        "features_name": feature_map.name,
    }


def _name(wanted: Evaluation, request: Request, settings: dict[str, Any]) -> str:
    return (
        f"{request.sampler}{request.num_steps}-{request.grid}-w{request.guidance:g}-n{wanted.num}-s{wanted.seed}-"
        f"{wanted.weights}-{key_of(settings)}"
    )


def _sample(
    run: Run,
    denoiser: NetDenoiser,
    request: Request,
    feature_map: FeatureMap,
    judge: Classifier | None,
    partial: Path,
    device: torch.device,
) -> Stages:
    """Samples to features, each finished batch into a file of `partial`; those already there are not made again."""
    have = sum(len(batch["features"]) for batch in _batches(partial))
    rest = replace(
        request, seeds=request.seeds[have:], labels=None if request.labels is None else request.labels[have:]
    )
    done, total = have, len(request.seeds)
    for batch in generate(denoiser, run.facts, rest, device):
        share = 1.0 if batch.done else batch.step / request.num_steps
        yield Stage(name="sample", done=round(done + share * len(batch.seeds)), total=total)
        if batch.done:
            _keep(batch, run.facts.is_image, done, feature_map, judge, partial)
            done += len(batch.seeds)


def _keep(
    batch: Samples, is_image: bool, first: int, feature_map: FeatureMap, judge: Classifier | None, partial: Path
) -> None:
    from safetensors.torch import save_file

    if not bool(torch.isfinite(batch.x).all()):
        raise FloatingPointError(
            f"samples {batch.seeds[0]} to {batch.seeds[-1]} are not finite. Try more --steps or a smaller --guidance."
        )
    kept = batch.images if is_image else batch.x
    x = kept.float() / 127.5 - 1 if is_image else kept
    tensors = {"features": feature_map(x), "x": kept[: max(0, NEAREST_NUM - first)]}
    if judge is not None:
        tensors["classes"] = judge.classes(tensors["features"] if judge is feature_map else judge(x))
    with whole_file(partial / f"batch-{first:08d}.safetensors") as path:
        save_file({name: value.contiguous() for name, value in tensors.items()}, path)


def _batches(partial: Path) -> list[dict[str, Tensor]]:
    """What is in `partial`, up to the first gap."""
    from safetensors.torch import load_file

    found: list[dict[str, Tensor]] = []
    have = 0
    while (path := partial / f"batch-{have:08d}.safetensors").is_file():
        found.append(load_file(path))
        have += len(found[-1]["features"])
    return found


def _read(partial: Path, request: Request) -> Generated:
    batches = _batches(partial)
    return Generated(
        features=torch.cat([b["features"] for b in batches]),
        classes=torch.cat([b["classes"] for b in batches]) if "classes" in batches[0] else None,
        labels=None if request.labels is None else torch.tensor(request.labels),
        first=torch.cat([b["x"] for b in batches]),
    )


def _features(feature_map: FeatureMap, data: Dataset) -> Generator[Stage, None, Tensor]:
    """The features of a data set, from the cache or computed now."""
    from safetensors.torch import load_file, save_file

    path = feature_maps.cache_folder() / f"real-{key_of(feature_map.facts.get('sha256'), data_hash(data))}.safetensors"
    if path.is_file():
        cached = load_file(path).get("features")
        if cached is not None and cached.shape == (len(data), feature_map.dim):
            return cached
    parts = []
    for rows in torch.arange(len(data)).split(500):
        parts.append(feature_map(data.x0(rows)))
        yield Stage(name="real features", done=int(rows[-1]) + 1, total=len(data))
    features = torch.cat(parts) if parts else torch.zeros(0, feature_map.dim)
    with whole_file(path) as partial:
        save_file({"features": features.contiguous()}, partial)
    return features


def _measure(real: Real, made: Generated, wanted: Evaluation, splits: Splits) -> dict[str, Any]:
    """The first measurement's values; with repeats, means over all of them and the standard deviations beside."""
    every = []
    for i in range(wanted.repeats):
        rows = slice(i * wanted.num, (i + 1) * wanted.num)
        part = replace(
            made,
            features=made.features[rows],
            classes=None if made.classes is None else made.classes[rows],
            labels=None if made.labels is None else made.labels[rows],
        )
        every.append(measure(real, part))
    return every[0] | memorisation(made.first, splits.train.x, splits.held_out.x)
