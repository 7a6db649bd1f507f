"""What may be asked of the tools: ema, info, list, doctor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Interval

from ebbflow.errors import ConfigError
from ebbflow.requests.base import Doc, Flag, Place
from ebbflow.requests.shared import Device, Picture, Reporting


@dataclass(frozen=True, kw_only=True)
class InfoRequest(Reporting):
    """What a run is."""

    ckpt: Annotated[str, Place(), Flag("--ckpt"), Doc("The folder of a run or of one of its checkpoints.")]


@dataclass(frozen=True, kw_only=True)
class EmaRequest(Reporting):
    """Averages of a run's weights over other lengths."""

    ckpt: Annotated[
        str, Place(), Flag("--ckpt"), Doc("The folder of a run trained with ema.kind=power, or a checkpoint of it.")
    ]
    lengths: Annotated[
        tuple[float, ...],
        Interval(gt=0, le=0.28),
        Doc("Standard deviations of the averages as shares of the training."),
    ] = (0.02, 0.03, 0.05, 0.07, 0.10, 0.14, 0.20)
    output: Annotated[Picture | None, Doc("A picture of the held-out loss by length (.png .jpg .webp).")] = None
    into: Annotated[Path | None, Doc("Keep the average of the only length here, as a checkpoint to be sampled.")] = None
    data_dir: Annotated[Path | None, Doc("Where the run's data lies, if not where it was trained from.")] = None
    device: Device = "auto"

    def __post_init__(self) -> None:
        if self.into is not None and len(self.lengths) != 1:
            raise ConfigError("`into` keeps one average. Give one of `lengths`, such as 0.08.")


@dataclass(frozen=True, kw_only=True)
class ListRequest(Reporting):
    """What there is to choose from."""

    kind: Annotated[str | None, Place(), Doc("samplers, paths, grids, nets, data sets, ...; all lists by default.")] = (
        None
    )
    name: Annotated[str | None, Place(), Doc("One of them, such as heun: its options and their defaults.")] = None


@dataclass(frozen=True, kw_only=True)
class DoctorRequest(Reporting):
    """Whether this machine is fit."""
