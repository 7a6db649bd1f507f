"""Likelihood of held-out data under a run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ebbflow.core.noise import Noise, derive_seed
from ebbflow.core.paths import DiscretePath
from ebbflow.core.times import TIME_GRIDS, num_table_steps
from ebbflow.data import Dataset
from ebbflow.errors import ConfigError, DataError
from ebbflow.methods.denoise import Denoiser, NetDenoiser
from ebbflow.methods.likelihood import (
    EVALUATIONS,
    EXACT_LIMIT,
    INTEGRATORS,
    START,
    dequantised,
    log_likelihood,
    to_bits,
    variational_bound,
)
from ebbflow.methods.samplers import SAMPLERS
from ebbflow.methods.samplers.ancestral import Variance
from ebbflow.methods.variance import AnalyticVariance
from ebbflow.metrics.measure import mean_and_error
from ebbflow.runs.build import conditioner_of
from ebbflow.runs.store import Run, Weights
from ebbflow.runs.variance import variance_table
from ebbflow.studies.evaluate import splits_of

Method = Literal["ode", "vlb"]
ODE_STEPS = 32


@dataclass(frozen=True, kw_only=True)
class Question:
    """What to measure.

    Args:
        num: held-out samples, the first ones; all of them where there are fewer.
        method: "ode" (exact but for the trace) or "vlb" (an upper bound on bits).
        num_steps: None for 32 of the ODE, and for the table of the path (1000 where it has none) of the bound.
        sampler: integrator of the ODE.
        variance: of the bound's steps; None for "learned" where the run has learned it, else "large".
        seed: of dequantisation, probes and noise.
        weights, data_dir, batch_size: as everywhere.
    """

    num: int = 64
    method: Method = "ode"
    num_steps: int | None = None
    sampler: str = "rk4"
    variance: Variance | None = None
    seed: int = 0
    weights: Weights = "ema"
    data_dir: str | None = None
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.method not in ("ode", "vlb"):
            raise ConfigError(f"`method` must be ode or vlb, got {self.method!r}.")
        if self.sampler not in INTEGRATORS:
            known = " or ".join(INTEGRATORS)
            reason = (
                f"sampler {self.sampler!r} gives no likelihood: only the ODE has one"
                if self.sampler in SAMPLERS
                else f"unknown sampler {self.sampler!r}"
            )
            raise ConfigError(f"{reason}. Use {known}, or the method vlb for ancestral sampling.")


def measure_likelihood(run: Run, question: Question, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Bits a dimension of held-out data with its standard error over samples, and how they were found.

    Labelled runs are measured given each sample's own label, without guidance.

    Raises:
        ConfigError: a run in a latent space.
        DataError: no held-out data, or other data than the run was trained on.
    """
    if run.facts.latent_dims is not None:
        raise ConfigError("this run works in a latent space, whose decoder gives images no likelihood.")
    data = splits_of(run, question.data_dir).held_out
    if len(data) == 0:
        raise DataError(f"data set {data.name!r} has no held-out samples to measure a likelihood on.")
    denoiser = run.denoiser(question.weights, device=device)
    parts = [_batch(run, denoiser, data, rows, question, device) for rows in _batches(len(data), question)]
    nats = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return _report(run, denoiser, nats, question)


def _batches(available: int, question: Question) -> Iterator[Tensor]:
    yield from torch.arange(min(question.num, available)).split(question.batch_size)


def _batch(
    run: Run, denoiser: NetDenoiser, data: Dataset, rows: Tensor, question: Question, device: torch.device | str
) -> dict[str, Tensor]:
    """Nats a sample: "total" and, of the bound, its parts. Every draw depends on the seed and the sample's place."""
    x0, conditioner = data.x0(rows).double(), conditioner_of(denoiser)
    wide = torch.float32 if torch.device(device).type == "mps" else torch.float64  # the widest that the device has
    cond = None if conditioner is None else conditioner.conditions(data)
    bound: Denoiser = denoiser if cond is None else denoiser.given(cond[rows])
    seeds = [derive_seed(question.seed, "likelihood", int(row)) for row in rows]
    if question.method == "ode":
        uniforms = torch.stack([torch.rand(x0.shape[1:], generator=torch.Generator().manual_seed(s)) for s in seeds])
        probe = Noise([seed + 1 for seed in seeds]).like(x0).sign()
        spread = dequantised(x0, uniforms.double()) if data.is_image else x0
        steps = question.num_steps or ODE_STEPS
        total = log_likelihood(
            bound, spread.to(device, wide), num_steps=steps, method=question.sampler, probe=probe.to(device, wide)
        )
        return {"total": -total.cpu()}
    variance = question.variance or ("learned" if run.config.objective.variance == "learned" else "large")
    if variance == "optimal":
        bound = AnalyticVariance(inner=bound, table=variance_table(run, denoiser, question.weights, device))
    found = variational_bound(
        bound,
        x0.to(device, wide),
        _bound_grid(run, question),
        noise=Noise(seeds),
        variance=variance,
        levels=data.is_image,
    )
    parts = {"prior": found.prior, "steps": found.steps, "decoder": found.decoder, "total": found.total}
    return {name: value.cpu() for name, value in parts.items()}


def _bound_grid(run: Run, question: Question) -> Tensor:
    path = run.config.path
    steps = question.num_steps or num_table_steps(path)
    return TIME_GRIDS["trailing" if isinstance(path, DiscretePath) else "uniform"](path, steps)


def _report(run: Run, denoiser: NetDenoiser, nats: dict[str, Tensor], question: Question) -> dict[str, Any]:
    num_dims, is_ode = math.prod(run.facts.dims), question.method == "ode"
    bits = to_bits(-nats["total"], num_dims, levels=is_ode and run.facts.is_image)
    steps = len(_bound_grid(run, question)) - 1 if not is_ode else question.num_steps or ODE_STEPS
    report: dict[str, Any] = {
        "method": question.method,
        "num": len(bits),
        "split": "held_out",
        "condition": "each sample's own label" if conditioner_of(denoiser) is not None else None,
        "bits_per_dim": float(bits.mean()),
        "standard_error": _standard_error(bits),
        "num_steps": steps,
        "evaluations": steps * EVALUATIONS[question.sampler] if is_ode else steps,
        "seed": question.seed,
        "weights": question.weights,
    }
    if not run.facts.is_image:
        report |= {"nats": float(nats["total"].mean()), "nats_standard_error": _standard_error(nats["total"])}
    if is_ode:
        exact = num_dims <= EXACT_LIMIT
        return report | {
            "sampler": question.sampler,
            "trace": "exact" if exact else "hutchinson, one probe a sample",
            "dequantisation": "uniform over each level" if run.facts.is_image else None,
            "start": START,
        }
    return report | {f"{name}_bits": float(to_bits(-nats[name], num_dims, levels=False).mean()) for name in nats}


def _standard_error(values: Tensor) -> float | None:
    return mean_and_error(values)[1] if len(values) > 1 else None
