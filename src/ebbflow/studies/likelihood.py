"""Likelihood of held-out data under a run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ebbflow.core.condition import Cond, rows_of
from ebbflow.core.noise import Noise, derive_seed
from ebbflow.core.paths import DiscretePath, Path
from ebbflow.core.shape import WITHOUT_FLOAT64
from ebbflow.core.times import TIME_GRIDS, num_table_steps
from ebbflow.data import Dataset
from ebbflow.errors import ConfigError
from ebbflow.methods.denoise import conditional
from ebbflow.methods.likelihood import (
    EVALUATIONS,
    EXACT_LIMIT,
    START,
    Steps,
    bound_steps,
    dequantised,
    likelihood_steps,
    to_bits,
)
from ebbflow.methods.variance import AnalyticVariance
from ebbflow.metrics.measure import mean_and_error
from ebbflow.progress import Stage, Work, retold
from ebbflow.requests.studies import LikelihoodRequest
from ebbflow.runs.derived import variance_table
from ebbflow.runs.opened import Opened, held_out_of, require_finite
from ebbflow.runs.parts import parts_of
from ebbflow.training.world import here

ODE_STEPS = 32


def measure_likelihood(model: Opened, request: LikelihoodRequest) -> Work[dict[str, Any]]:
    """Bits a dimension of held-out data with its standard error over samples, and how they were found. Finished batches
    are kept beside the run's results until the end.

    Conditional models are measured given each sample's own condition, without guidance.

    Raises:
        ConfigError: a model in a latent space, or one that is no run of ours.
        DataError: no held-out data, or other data than the model was trained on.
    """
    if model.space is not None:
        raise ConfigError("this model works in a latent space, whose decoder gives images no likelihood.")
    data = held_out_of(model, request.data_dir, request.num)
    cond, parts, world = model.conditions_of(data), [], here()
    steps, batches = _num_steps(model, request), torch.arange(len(data)).split(request.batch_size)
    kept = parts_of(model, request, data)
    for rows in batches[world.rank :: world.size]:
        name = f"batch-{int(rows[0]):08d}"
        part = kept.made(name)
        if part is None:
            work = _batch(model, data, cond, rows, request)
            part = yield from retold(work, _told(int(rows[0]), len(rows), steps, len(data)))
            kept.keep(name, part)
        parts.append(part)
    parts = world.in_turn(parts, len(batches))
    kept.end()
    nats = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    require_finite(model, nats["total"], "the likelihoods")
    return _report(model, nats, request)


def _told(first: int, num: int, steps: int, total: int) -> Callable[[int], Stage]:
    """Steps of a batch as samples that are done."""
    return lambda done: Stage("likelihood", first + num * done // steps, total)


def _num_steps(model: Opened, request: LikelihoodRequest) -> int:
    if request.method == "ode":
        return request.steps or ODE_STEPS
    return len(_bound_grid(model.denoiser.path, request.steps)) - 1


def _batch(
    model: Opened, data: Dataset, cond: Cond | None, rows: Tensor, request: LikelihoodRequest
) -> Steps[dict[str, Tensor]]:
    """Nats a sample: "total" and, of the bound, its parts; yields the steps that are done. Every draw depends on the
    seed and the sample's place."""
    x0, device = data.x0(rows).double(), model.device
    wide = torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64  # the widest that the device has
    bound = model.denoiser if cond is None else conditional(model.denoiser).given(rows_of(cond, rows))
    seeds = [derive_seed(request.seed, "likelihood", int(row)) for row in rows]
    if request.method == "ode":
        uniforms = torch.stack([torch.rand(x0.shape[1:], generator=torch.Generator().manual_seed(s)) for s in seeds])
        probe = Noise([seed + 1 for seed in seeds]).like(x0).sign()
        spread = dequantised(x0, uniforms.double()) if data.is_image else x0
        total = yield from likelihood_steps(
            bound,
            spread.to(device, wide),
            num_steps=_num_steps(model, request),
            method=request.sampler,
            trace="auto",
            probe=probe.to(device, wide),
            start=START,
        )
        return {"total": -total.cpu()}
    variance = request.variance or ("learned" if _learned(model) else "large")
    if variance == "optimal":
        bound = AnalyticVariance(inner=bound, table=variance_table(model))
    found = yield from bound_steps(
        bound,
        x0.to(device, wide),
        _bound_grid(model.denoiser.path, request.steps),
        noise=Noise(seeds),
        variance=variance,
        of_bytes=data.is_image,
    )
    parts = {"prior": found.prior, "steps": found.steps, "decoder": found.decoder, "total": found.total}
    return {name: value.cpu() for name, value in parts.items()}


def _learned(model: Opened) -> bool:
    return model.run is not None and model.run.config.objective.variance == "learned"


def _bound_grid(path: Path, steps: int | None) -> Tensor:
    steps = steps or num_table_steps(path)
    return TIME_GRIDS["trailing" if isinstance(path, DiscretePath) else "uniform"](path, steps)


def _report(model: Opened, nats: dict[str, Tensor], request: LikelihoodRequest) -> dict[str, Any]:
    num_dims, is_ode = math.prod(model.dims), request.method == "ode"
    bits = to_bits(-nats["total"], num_dims, of_bytes=is_ode and model.facts.is_image)
    steps = _num_steps(model, request)
    report: dict[str, Any] = {
        "method": request.method,
        "num": len(bits),
        "split": "held_out",
        "condition": "each sample's own" if model.is_conditional else None,
        "bits_per_dim": float(bits.mean()),
        "standard_error": _standard_error(bits),
        "num_steps": steps,
        "evaluations": steps * EVALUATIONS[request.sampler] if is_ode else steps,
        "seed": request.seed,
        "weights": request.weights,
    }
    if not model.facts.is_image:
        report |= {"nats": float(nats["total"].mean()), "nats_standard_error": _standard_error(nats["total"])}
    if is_ode:
        exact = num_dims <= EXACT_LIMIT
        return report | {
            "sampler": request.sampler,
            "trace": "exact" if exact else "hutchinson, one probe a sample",
            "dequantisation": "uniform over each level" if model.facts.is_image else None,
            "start": START,
        }
    return report | {f"{name}_bits": float(to_bits(-nats[name], num_dims, of_bytes=False).mean()) for name in nats}


def _standard_error(values: Tensor) -> float | None:
    return mean_and_error(values)[1] if len(values) > 1 else None
