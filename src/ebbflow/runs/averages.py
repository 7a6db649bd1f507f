"""Averages of a run's weights over lengths that its training did not keep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ebbflow.core.shape import in_float64
from ebbflow.errors import ConfigError
from ebbflow.files import link_or_copy, load_tensors, save_tensors, whole_folder
from ebbflow.runs.folder import Run
from ebbflow.runs.latent_files import FILE
from ebbflow.runs.same_data import splits_of_run
from ebbflow.runs.snapshots import snapshots
from ebbflow.runs.tasks import task_of
from ebbflow.training.checkpoint import load_weights, write_state
from ebbflow.training.ema import PowerOptions, Profile, combination
from ebbflow.training.engine import mode, pick_device


@dataclass(frozen=True, kw_only=True)
class Average:
    """An average of a run's weights.

    Args:
        length: standard deviation of its profile, as a share of the training.
        tensors: the weights by name.
        error: of its profile, relative, for it is put together from others.
    """

    length: float
    tensors: dict[str, Tensor]
    error: float


def average_of(run: Run, length: float) -> Average:
    """The average over `length`, from those in the checkpoint and their snapshots, by least squares.

    Args:
        run: trained with ema.kind=power.
        length: in [0.0001, 0.28].

    Raises:
        ConfigError: it kept no power averages.
        CheckpointError: a file of them cannot be read.
    """
    options, step = run.config.ema, run.checkpoint.step
    if not isinstance(options, PowerOptions):
        raise ConfigError(
            f"{run.folder} keeps an exponential average, of which no other can be made. Train with ema.kind=power."
        )
    files = {at: path for at, path in snapshots(run.folder).items() if at < step}
    known = [Profile(length=one, step=at) for at in (*files, step) for one in options.lengths]
    factors, error = combination(known, Profile(length=length, step=step))
    total: dict[str, Tensor] = {}
    last = {f"{i}.{name}": t for i in range(len(options.lengths)) for name, t in _part(run, i).items()}
    for place, tensors in enumerate((*map(load_tensors, files.values()), last)):
        for i in range(len(options.lengths)):
            own = {name.removeprefix(f"{i}."): t for name, t in tensors.items() if name.startswith(f"{i}.")}
            _add(total, own, factors[place * len(options.lengths) + i])
    made = {name: total[name].to(t) if name in total else t for name, t in _part(run, 0).items()}
    return Average(length=length, tensors=made, error=error)


def _part(run: Run, number: int) -> dict[str, Tensor]:
    return run.checkpoint.tensors(f"ema_{number}" if number else "ema")


def _add(total: dict[str, Tensor], tensors: dict[str, Tensor], factor: float) -> None:
    """Add `factor` times the floating ones of `tensors` to those in `total`, in float64."""
    for name, value in tensors.items():
        if value.is_floating_point():
            part = in_float64(value) * factor
            total[name] = total[name] + part if name in total else part


def held_out_by_length(
    run: Run, lengths: Sequence[float], *, data_dir: Path | None = None, device: str = "auto"
) -> Iterator[dict[str, float]]:
    """The held-out loss of the average over each length, and the error of its profile.

    Raises:
        ConfigError, DataError: no power averages; the data is not there, another one, or holds nothing out.
    """
    average_of(run, lengths[0])
    task = task_of(run.config, splits_of_run(run, data_dir), run.folder)
    task.net.to(pick_device(device))
    for length in lengths:
        average = average_of(run, length)
        load_weights(task.net, average.tensors, run.checkpoint.path("ema"))
        with torch.no_grad(), mode(task.net, training=False):
            found = task.held_out(task.net)
        if "held_out" not in found:
            raise ConfigError(f"{run.config.data.name} holds nothing out, so no length can be told from another.")
        yield {"length": length, "held_out": found["held_out"], "error": average.error}


def write_average(run: Run, average: Average, into: Path) -> Path:
    """A checkpoint whose averaged weights are these, to be sampled and measured; it cannot be trained on.

    Raises:
        ConfigError: the folder is there.
    """
    if into.exists():
        raise ConfigError(f"{into} is there already. Choose another `into`, or remove it.")
    source = run.checkpoint.folder
    with whole_folder(into) as partial:
        for name in ("model.safetensors", FILE):
            if (source / name).is_file():
                link_or_copy(source / name, partial / name)
        save_tensors(average.tensors, partial / "ema.safetensors")
        state = {**run.checkpoint.state, "ema_length": average.length}
        write_state(partial, state)
    return into
