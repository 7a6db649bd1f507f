"""Evaluating a run: sample it, compare with its data, write the table into the run's folder."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Generator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from ebbflow.conditioning import LabelConditioning
from ebbflow.core.entries import spelt
from ebbflow.data import Dataset, Splits
from ebbflow.errors import ConfigError, DataError
from ebbflow.files import whole_file, write_text
from ebbflow.latent import LatentSpace, encoded
from ebbflow.methods.denoise import Denoiser, NetDenoiser
from ebbflow.metrics import features as maps
from ebbflow.metrics.cache import data_hash, file_hash, key_of, plain
from ebbflow.metrics.classifier import ClassifierSettings
from ebbflow.metrics.denoising import denoising_errors
from ebbflow.metrics.features import Classifier, Counts, FeatureMap
from ebbflow.metrics.measure import Sets, check_num, measure, memorisation
from ebbflow.metrics.scores import Comparison
from ebbflow.runs.build import conditioner_of, facts_of, load_splits
from ebbflow.runs.generate import Request, Samples, default_request, generate
from ebbflow.runs.grids import with_times
from ebbflow.runs.store import Run, Weights, describe
from ebbflow.runs.variance import knowing_variance
from ebbflow.training.engine import Precision, WorkingCopy, pick_precision

NEAREST_NUM = 1000  # samples whose nearest training entry is sought
DENOISED_NUM = 256  # held-out entries that are noised and denoised
Reference = Literal["held_out", "train"]
T = TypeVar("T")


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
        features: one of `evaluation.features.KINDS`; "auto" is the classifier for labelled images, principal components
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


@dataclass(frozen=True, kw_only=True)
class Stage:
    """How far one part of the work is."""

    name: str
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Eyes:
    """What looks at samples: a feature map, and a classifier where the data has labels (perhaps the same)."""

    features: FeatureMap
    judge: Classifier | None

    def see(self, x0: Tensor) -> dict[str, Tensor]:
        """Features and, with a classifier, classes of x0 float32 (B, *dims)."""
        features = self.features(x0)
        if self.judge is None:
            return {"features": features}
        own = features if self.judge.name == self.features.name else self.judge(x0)
        return {"features": features, "classes": self.judge.classes(own)}


@dataclass(frozen=True, kw_only=True)
class Made:
    """What was kept of all samples: features, classes (or None), and the first few entries themselves."""

    features: Tensor
    classes: Tensor | None
    first: Tensor


def base_request(run: Run) -> Request:
    """How a run is sampled for an evaluation when nothing else is said."""
    return default_request(run, seeds=(), labels=() if by_label(run) else None)


def evaluate(
    run: Run, wanted: Evaluation, *, device: torch.device, command: str = ""
) -> Generator[Stage, None, dict[str, Any]]:
    """Evaluate a run; yields its progress and returns the table, which it has written to RUN/eval/<name>.json.

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
    denoiser = working_denoiser(run, wanted, device)
    request = request_of(run, wanted, denoiser.make_null is not None)
    eyes = yield from eyes_of(splits, wanted, len(reference), device)
    settings = _settings(run, wanted, request, eyes, reference)
    partial = run.folder / "eval" / f".partial-{key_of(settings)}"
    knowing = knowing_variance(run, denoiser, request, wanted.weights, device)
    yield from _sample(run, knowing, request, eyes, partial, device)
    sets, first = yield from _sets(_read(partial), request, wanted, eyes, reference, other)
    errors = yield from _denoising(denoiser, splits.held_out, run.space(device), device)
    yield Stage(name="measure", done=0, total=1)
    file = run.folder / "eval" / f"{_name(wanted, request)}-{key_of(settings)}.json"
    result = {
        "features": eyes.features.name,
        "num": wanted.num,
        **measure(sets),
        **memorisation(first, splits.train.x, splits.held_out.x),
        "denoising": errors,
        **settings,
        "feature_facts": eyes.features.facts,
        "classifier": None if eyes.judge is None else {"name": eyes.judge.name, **eyes.judge.facts},
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
    found = facts_of(splits.train)
    if (found.dims, found.label_names) != (run.facts.dims, run.facts.label_names):
        raise DataError(
            f"the data {data.name!r} has shape {found.dims} and {len(found.label_names)} classes, the run was trained "
            f"on {run.facts.dims} and {len(run.facts.label_names)}. Give the data it was trained on (--data-dir)."
        )
    return splits


def sides_of(splits: Splits, wanted: Evaluation) -> tuple[Dataset, Dataset]:
    """The reference, and `num` entries of the other split, spread over it."""
    if len(splits.held_out) == 0 and wanted.reference == "held_out":
        raise ConfigError("this data has no held-out entries. Use --reference train.")
    reference, other = splits.held_out, splits.train
    if wanted.reference == "train":
        reference, other = other, reference
    num = min(wanted.num, len(other))
    return reference, other.select(torch.arange(num) * len(other) // max(num, 1))


def working_denoiser(run: Run, wanted: Evaluation, device: torch.device) -> NetDenoiser:
    denoiser = run.denoiser(wanted.weights, device=device)
    assert isinstance(denoiser.net, torch.nn.Module)
    return replace(denoiser, net=WorkingCopy(denoiser.net, pick_precision(wanted.precision, device)).module)


def by_label(run: Run) -> bool:
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


def eyes_of(
    splits: Splits, wanted: Evaluation, reference_size: int, device: torch.device
) -> Generator[Stage, None, Eyes]:
    """The feature map that was asked for; sizes are checked before anything is trained."""
    train, kind = splits.train, wanted.features
    if kind == "auto":
        kind = "coordinates" if not train.is_image else "classifier" if train.num_classes > 1 else "pca"
    if kind == "classifier":
        check_num(wanted.num, ClassifierSettings().num_features, reference_size)
    features: FeatureMap | None = None if kind == "classifier" else maps.feature_map(kind, train, device)
    if features is not None:
        check_num(wanted.num, features.dim, reference_size)
    judge = None
    if features is None or train.num_classes > 1:
        judge = yield from staged("train classifier", maps.classifier(splits, device))
    found = features or judge
    assert found is not None
    return Eyes(features=found, judge=judge)


def staged(name: str, work: Generator[Counts, None, T]) -> Generator[Stage, None, T]:
    """`work` with its counts as stages."""
    while True:
        try:
            done, total = next(work)
        except StopIteration as end:
            return end.value
        yield Stage(name=name, done=done, total=total)


def _settings(run: Run, wanted: Evaluation, request: Request, eyes: Eyes, reference: Dataset) -> dict[str, Any]:
    """Everything that decides the numbers."""
    part = {"ema": "ema", "raw": "model"}[wanted.weights]
    return {
        "run": run.folder.name,
        "step": run.checkpoint.step,
        "weights": wanted.weights,
        "weights_sha256": file_hash(run.checkpoint.folder / f"{part}.safetensors"),
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
        "feature_sha256": eyes.features.facts["sha256"],
    }


def _guides(request: Request) -> dict[str, Any]:
    """What else guides, as far as plain values say it."""
    given = {f.name: getattr(request.guides, f.name) for f in fields(request.guides)}
    plain_values = (str, int, float, dict, tuple)
    return {name: value if isinstance(value, plain_values) else value is not None for name, value in given.items()}


def _name(wanted: Evaluation, request: Request) -> str:
    features = "" if wanted.features == "auto" else f"-{plain(wanted.features.split(':')[0])}"
    return (
        f"{request.sampler}{request.num_steps}-{spelt(request.grid)}-w{request.guidance:g}-n{wanted.num}-s{wanted.seed}-"
        f"{wanted.weights}{features}"
    )


def _sample(
    run: Run, denoiser: Denoiser, request: Request, eyes: Eyes, partial: Path, device: torch.device
) -> Generator[Stage, None, None]:
    """Samples to features, each finished batch into a file of `partial`; those already there are not made again."""
    done, total = sum(len(batch["features"]) for batch in _batches(partial)), len(request.seeds)
    labels = None if request.labels is None else request.labels[done:]
    rest = replace(request, seeds=request.seeds[done:], labels=labels)
    for batch in generate(denoiser, run.facts, rest, device, space=run.space(device)):
        yield Stage(name="sample", done=done + batch.step * len(batch.seeds) // request.num_steps, total=total)
        if batch.done:
            _keep(batch, run.facts.is_image, done, eyes, partial)
            done += len(batch.seeds)


def _keep(batch: Samples, is_image: bool, first: int, eyes: Eyes, partial: Path) -> None:
    from safetensors.torch import save_file

    if not bool(torch.isfinite(batch.x).all()):
        raise FloatingPointError(
            f"samples of seeds {batch.seeds[0]} to {batch.seeds[-1]} are not finite. Try more --steps or a smaller "
            "--guidance."
        )
    x = batch.images if is_image else batch.x
    tensors = eyes.see(x.float() / 127.5 - 1 if is_image else x) | {"x": x[: max(0, NEAREST_NUM - first)]}
    with whole_file(partial / f"batch-{first:08d}.safetensors") as path:
        save_file({name: value.contiguous() for name, value in tensors.items()}, path)


def _batches(partial: Path) -> list[dict[str, Tensor]]:
    """What is in `partial`, up to the first gap."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    found: list[dict[str, Tensor]] = []
    have = 0
    while (path := partial / f"batch-{have:08d}.safetensors").is_file():
        try:
            found.append(load_file(path))
        except SafetensorError:
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


def _sets(
    made: Made, request: Request, wanted: Evaluation, eyes: Eyes, reference: Dataset, other: Dataset
) -> Generator[Stage, None, tuple[Sets, Tensor]]:
    """Real and generated features side by side, and the first samples."""
    real = yield from staged("real features", maps.features_of(eyes.features, reference))
    apart = yield from staged("real features", maps.features_of(eyes.features, other))
    comparison = Comparison(
        real=real,
        generated=made.features,
        real_classes=reference.labels,
        classes=made.classes,
        labels=None if request.labels is None else torch.tensor(request.labels),
        num_classes=reference.num_classes,
    )
    seen = (
        None
        if eyes.judge is None or len(other) == 0
        else eyes.judge.classes(eyes.judge(other.x0(torch.arange(len(other)))))
    )
    sets = Sets(comparison=comparison, num=wanted.num, other=apart, other_classes=seen, other_labels=other.labels)
    return sets, made.first


def _denoising(
    denoiser: NetDenoiser, held_out: Dataset, space: LatentSpace | None, device: torch.device
) -> Generator[Stage, None, list[Any]]:
    if len(held_out) == 0:
        return []
    data = held_out.select(torch.arange(min(DENOISED_NUM, len(held_out))))
    data = data if space is None else encoded(data, space)
    conditioner = conditioner_of(denoiser)
    cond = None if conditioner is None else conditioner.conditions(data)
    work = denoising_errors(denoiser, data.x0(torch.arange(len(data))), cond, device=device)
    return (yield from staged("denoise", work))
