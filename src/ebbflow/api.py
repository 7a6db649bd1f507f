"""The calls that a notebook starts with: `open` a model, `sample` it, `edit` with it, `evaluate` and `compare` it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from ebbflow import hub
from ebbflow.errors import ConfigError
from ebbflow.files import write_text
from ebbflow.methods.denoise import Denoiser
from ebbflow.progress import Bars, Work, finish
from ebbflow.requests.base import takes
from ebbflow.requests.sampling import EditCall, Opening, RestoreCall, SampleCall, Weights
from ebbflow.requests.studies import CompareRequest, EvaluateImagesRequest, EvaluateRequest
from ebbflow.requests.tools import ExportRequest, PushRequest
from ebbflow.runs.model import ImageLike, Model, edit_with, restored, sample_model
from ebbflow.runs.restore import restore_plan
from ebbflow.runs.results import SampleSet

if TYPE_CHECKING:
    from ebbflow.interop.export import Sent
    from ebbflow.studies.report import Report

T = TypeVar("T")


def open(
    path: str | Path | Model, *, weights: Weights = "ema", device: str = "auto", dtype: torch.dtype = torch.float32
) -> Model:
    """The trained model in a run's folder, one of its checkpoints, an export of it, or behind "hf:".

    Args:
        path: as above; an open model is returned as it is. "hf:NAME" or "hf:NAME@REVISION" is a repository of the
            Hugging Face hub, of a run that `push` put there or of a model of diffusers; or a folder of either.
        weights: averaged or raw, of a run.
        device: "cpu", "cuda", "cuda:1", "mps" or "auto".
        dtype: of the net; the state between steps stays float32.

    Raises:
        CheckpointError: nothing there, or nothing of ours.
        ConfigError: a diffusers model that is not known.
    """
    if isinstance(path, Model):
        return path
    if not str(path).startswith(hub.HF):
        return Model.from_run(path, weights=weights, device=device, dtype=dtype)
    name, revision = hub.split_name(str(path))
    if (folder := hub.run_behind(str(path))) is not None:
        return replace(Model.from_run(folder, weights=weights, device=device, dtype=dtype), name=Path(name).name)
    from ebbflow.interop.diffusers import load_diffusers

    return load_diffusers(name, revision=revision, device=device, dtype=dtype)


def load(path: str | Path, *, weights: Weights = "ema", device: str = "auto") -> Denoiser:
    """The denoiser alone of `open`, for code that asks (x_t, t) itself."""
    return open(path, weights=weights, device=device).denoiser


@takes(SampleCall)
def sample(model: str | Path | Model, request: SampleCall) -> SampleSet:
    """Samples of an open model, or of the one in a folder; sample i from its seed alone.

    Raises:
        ConfigError, ValueError: a request that the model cannot serve.
        CheckpointError: nothing there, or nothing of ours.
    """
    found = _opened(model, request)
    return sample_model(found if request.img_size is None else found.of_size(request.img_size), request)


@takes(EditCall)
def edit(model: str | Path | Model, image: ImageLike, request: EditCall) -> SampleSet:
    """Edits of an image with an open model, or with the one in a folder; see `Model.edit`.

    Raises:
        ConfigError, ValueError: a request that the model cannot serve.
        CheckpointError: nothing there, or nothing of ours.
        DataError: a picture that cannot be read.
    """
    return edit_with(_opened(model, request), image, request)


@takes(RestoreCall)
def restore(model: str | Path | Model, degraded: Tensor, request: RestoreCall) -> SampleSet:
    """Images of which `degraded` may have been made, with an open model, or with the one in a folder; see
    `Model.restore`.

    Raises:
        ConfigError, ValueError: a request that the model cannot serve.
        CheckpointError: nothing there, or nothing of ours.
    """
    opened = _opened(model, request)
    return restored(opened, restore_plan(opened, request), degraded)


@takes(EvaluateRequest)
def evaluate(model: str | Path | Model, request: EvaluateRequest) -> dict[str, Any]:
    """Measure an open model's samples, or those of the one in a folder, against its data: the whole table, which it
    has also written beside the run.

    Raises:
        ConfigError: a request that the model cannot serve, or too few samples.
        DataError: the data is not what the model was trained on.
    """
    from ebbflow.studies.evaluate import evaluate as work_of

    return _finished(work_of(_opened(model, request), request))


@takes(EvaluateImagesRequest)
def evaluate_images(images: str | Path, request: EvaluateImagesRequest) -> dict[str, Any]:
    """Score pictures that anything has made, in a folder or an .npz file, against a data set: the whole table.

    Raises:
        ConfigError: too few pictures.
        DataError: pictures of another shape than the data's, or unreadable ones.
    """
    from ebbflow.studies.evaluate import evaluate_images as work_of

    return _finished(work_of(Path(images), request))


@takes(CompareRequest)
def compare(models: str | Path | Model | Sequence[str | Path | Model], request: CompareRequest) -> Report:
    """Hold open models, or those in folders, against each other on the same seeds, or one against itself; `output` is
    the page, beside which finished cells are kept.

    Raises:
        ConfigError: models of different data, an unknown name, too few samples.
        DataError: the data is not what the models were trained on.
    """
    from ebbflow.studies.compare import compare as work_of
    from ebbflow.studies.report import page

    several = [models] if isinstance(models, str | Path | Model) else models
    if not several:
        raise ConfigError("there is nothing to compare. Give one model or more.")
    opened = [_opened(model, request) for model in several]
    report = _finished(work_of(opened, request, request.output.with_suffix(".cells.jsonl")))
    write_text(request.output, page(report))
    return report


@takes(ExportRequest)
def export(model: str | Path | Model, request: ExportRequest) -> Path:
    """Write a run in a form that other programs open, with a card; returns the folder.

    Raises:
        ConfigError: a model that is no run, a form that is not known, a folder that is not empty.
        ImportError: a package that the form needs is missing.
    """
    from ebbflow.interop.export import export as work_of

    return work_of(open(model, device="cpu"), request)


@takes(PushRequest)
def push(model: str | Path | Model, repo: str, request: PushRequest) -> Sent:
    """Export a run and commit it to a repository of the Hugging Face hub, from where `open("hf:" + repo)` gives it
    back; returns the files with their bytes, the page and the revision.

    Raises:
        ConfigError: as `export`, or the hub refuses or does not answer.
        ImportError: huggingface-hub is missing.
    """
    from ebbflow.interop.export import push as work_of

    return work_of(open(model, device="cpu"), request)


def _finished(work: Work[T]) -> T:
    """What a work returns, with bars where somebody waits in a notebook."""
    bars = Bars(visible="ipykernel" in sys.modules)
    try:
        return finish(work, bars)
    finally:
        bars.close()


def _opened(model: str | Path | Model, request: Opening) -> Model:
    if isinstance(model, Model) and (request.weights, request.device) != (Opening().weights, Opening().device):
        raise ConfigError("`weights` and `device` are chosen when a model is opened, and this one is open.")
    return open(model, weights=request.weights, device=request.device)
