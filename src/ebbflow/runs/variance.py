"""The optimal ancestral variance of a run: measured on its data when it is first asked for, and kept with the
checkpoint."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch

from ebbflow.files import write_text
from ebbflow.latent import encoded
from ebbflow.methods.denoise import Denoiser, NetDenoiser
from ebbflow.methods.variance import AnalyticVariance, VarianceTable, measure_variance
from ebbflow.runs.build import conditioner_of, load_splits
from ebbflow.runs.generate import Request
from ebbflow.runs.same_data import require_same_data
from ebbflow.runs.store import Run, Weights

NUM_SAMPLES = 256


def knowing_variance(
    run: Run, denoiser: NetDenoiser, request: Request, weights: Weights, device: torch.device | str = "cpu"
) -> Denoiser:
    """`denoiser` itself, or with Var[x0 | x_t] where `request` asks for variance 'optimal'."""
    if request.options.get("variance") != "optimal":
        return denoiser
    return AnalyticVariance(inner=denoiser, table=variance_table(run, denoiser, weights, device))


def variance_table(
    run: Run, denoiser: NetDenoiser, weights: Weights, device: torch.device | str = "cpu"
) -> VarianceTable:
    """The table in the checkpoint's folder, or else measured on 256 held-out samples (with their own labels) and
    written there; 29 evaluations a sample.

    Raises:
        DataError: the data of the run cannot be read, or is not what it was trained on.
    """
    file = run.checkpoint.folder / f"x0_variance_{weights}.json"
    if file.is_file():
        return _read(file)
    splits = load_splits(run.config)
    data = splits.held_out if len(splits.held_out) else splits.train
    rows, conditioner = torch.arange(min(NUM_SAMPLES, len(data))), conditioner_of(denoiser)
    cond = None if conditioner is None else conditioner.conditions(data)
    require_same_data(run, data)
    data = data if (space := run.space(device)) is None else encoded(data, space)
    table = measure_variance(denoiser, data.x0(rows).to(device), None if cond is None else cond[rows])
    with suppress(PermissionError):  # a run of someone else's: it is measured again next time
        write_text(file, json.dumps(asdict(table), indent=2))
    return table


def _read(file: Path) -> VarianceTable:
    found = json.loads(file.read_text(encoding="utf-8"))
    return VarianceTable(log_snr=tuple(found["log_snr"]), variance=tuple(found["variance"]))
