"""The two calls that a notebook starts with: `load` a run, `sample` it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebbflow.conditioning import label_indices
from ebbflow.core.condition import Condition
from ebbflow.errors import ConfigError, nearest
from ebbflow.methods.denoise import NetDenoiser
from ebbflow.runs import Request, generate, open_run
from ebbflow.runs.folder import Weights
from ebbflow.runs.generate import deal, default_request
from ebbflow.runs.grids import with_times
from ebbflow.runs.variance import knowing_variance
from ebbflow.show import canvas
from ebbflow.show.plots import scatter
from ebbflow.training.engine import pick_device


@dataclass(frozen=True, kw_only=True, repr=False)
class SampleSet:
    """Finished samples; shows itself as a grid in a notebook.

    Args:
        x: float32 (N, *dims); images in [-1, 1] up to the model's error.
        seeds: one a sample.
        labels: class index of each sample, or None.
        label_names: names of the classes.
        images: uint8 (N, C, H, W), or None for points.
        wanted: prompt or vector of each sample, or None.
    """

    x: Tensor
    seeds: tuple[int, ...]
    labels: tuple[int, ...] | None
    label_names: tuple[str, ...]
    images: Tensor | None
    wanted: tuple[Condition, ...] | None = None

    def __repr__(self) -> str:
        return f"SampleSet({len(self.x)} x {tuple(self.x.shape[1:])})"

    def _repr_png_(self) -> bytes:
        columns = min(8, len(self.x))
        picture = scatter(self.x, self.labels) if self.images is None else canvas.grid(self.images, columns=columns)
        file = io.BytesIO()
        picture.save(file, format="PNG")
        return file.getvalue()


def load(path: str | Path, *, weights: Weights = "ema", device: str = "cpu") -> NetDenoiser:
    """The trained model in a run's or a checkpoint's folder, as a Denoiser.

    Raises:
        CheckpointError: nothing there, or nothing of ours.
    """
    return open_run(path).denoiser(weights, device=pick_device(device))


def sample(
    path: str | Path,
    *,
    num: int = 16,
    labels: Sequence[int | str] | None = None,
    prompts: Sequence[str] | None = None,
    vectors: Sequence[Sequence[float]] | None = None,
    seed: int = 0,
    weights: Weights = "ema",
    device: str = "cpu",
    **request: Any,
) -> SampleSet:
    """Samples of a run, sample i from seed `seed` + i alone.

    Args:
        path: a run's or a checkpoint's folder.
        num: how many.
        labels: names or indices of classes, dealt out in equal blocks.
        prompts, vectors: the same for runs trained on text or on vectors. With none of the three the samples are
            unconditional.
        seed: the first seed.
        weights, device: as in `load`.
        request: fields of `ebbflow.runs.Request` (sampler, num_steps, grid, options, guidance, rescale, interval,
            negative, clip, guides, times, batch_size).

    Raises:
        ConfigError, ValueError: a request that the run cannot serve.
        CheckpointError: nothing there, or nothing of ours.
    """
    run = open_run(path)
    if sum(given is not None for given in (labels, prompts, vectors)) > 1:
        raise ConfigError("`labels`, `prompts` and `vectors` all say what the samples are to be. Give one of them.")
    dealt = None if labels is None else deal(label_indices(labels, run.facts.label_names), num)
    others: list[Condition] = [*(prompts or ()), *(tuple(map(float, vector)) for vector in vectors or ())]
    wanted = None if prompts is None and vectors is None else deal(others, num)
    default = default_request(run, seeds=tuple(range(seed, seed + num)), labels=dealt, wanted=wanted)
    for name in request:
        if name not in vars(default):
            raise ConfigError(f"unknown argument {name!r} of sample. {nearest(name, list(vars(default)))}")
    place = pick_device(device)
    chosen = with_times(run, Request(**{**vars(default), **request}), weights)
    denoiser = run.denoiser(weights, device=place)
    chosen.check(run.facts, denoiser.make_null is not None)
    knowing = knowing_variance(run, denoiser, chosen, weights, place)
    done = [s for s in generate(knowing, run.facts, chosen, place, space=run.space(place)) if s.done]
    images = torch.cat([s.images for s in done]) if run.facts.is_image else None
    return SampleSet(
        x=torch.cat([s.x for s in done]),
        seeds=chosen.seeds,
        labels=dealt,
        label_names=run.facts.label_names,
        images=images,
        wanted=wanted,
    )
