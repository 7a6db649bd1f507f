"""What may be asked of the tools: ema, export, push, info, list, doctor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Interval

from ebbflow.errors import ConfigError
from ebbflow.requests.base import Doc, Flag, Place
from ebbflow.requests.sampling import Weights
from ebbflow.requests.shared import Device, Picture, Reporting


@dataclass(frozen=True, kw_only=True)
class InfoRequest(Reporting):
    """What a run is."""

    ckpt: Annotated[str, Place("RUN"), Flag("--ckpt"), Doc("The folder of a run or of one of its checkpoints.")]


@dataclass(frozen=True, kw_only=True)
class PackRequest(Reporting):
    """A folder of pictures as tar shards."""

    folder: Annotated[str, Place(), Doc("The folder of pictures; parquet, or hf:USER/NAME.")]
    into: Annotated[Path, Place(), Doc("The folder that the shards go to.")]
    shard_mb: Annotated[int, Interval(ge=1, le=100_000), Doc("Megabytes a shard.")] = 256
    skip_bad: Annotated[bool, Doc("Leave unreadable images out instead of stopping.")] = False


@dataclass(frozen=True, kw_only=True)
class EmaRequest(Reporting):
    """Averages of a run's weights over other lengths."""

    ckpt: Annotated[
        str,
        Place("RUN"),
        Flag("--ckpt"),
        Doc("The folder of a run trained with ema.kind=power, or a checkpoint of it."),
    ]
    lengths: Annotated[
        tuple[float, ...],
        Interval(ge=0.0001, le=0.28),
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
class Which:
    """Model."""

    ckpt: Annotated[str, Place("RUN"), Flag("--ckpt"), Doc("The folder of a run or of one of its checkpoints.")]
    weights: Annotated[Weights, Doc("ema (averaged) or raw.")] = "ema"


@dataclass(frozen=True, kw_only=True)
class Form:
    """What is written."""

    to: Annotated[str, Doc("safetensors, diffusers, onnx or torch-export; see `ebbflow list exporters`.")] = (
        "safetensors"
    )
    license: Annotated[str | None, Doc("Of the model, for its card, such as apache-2.0.")] = None


@dataclass(frozen=True, kw_only=True)
class ExportRequest(Form):
    """A run as a folder that other programs open."""

    output: Annotated[Path, Doc("The folder to write; it must be empty or absent.")]


@dataclass(frozen=True, kw_only=True)
class ExportCommand(Reporting, ExportRequest, Which):
    """A run as a folder that other programs open."""


@dataclass(frozen=True, kw_only=True)
class PushRequest(Form):
    """A run as a repository of the Hugging Face hub."""

    repo: Annotated[str, Place(), Flag("--repo"), Doc("USER/NAME of the repository; it is made where it is missing.")]
    private: Annotated[bool, Doc("Make a new repository private.")] = False
    message: Annotated[str | None, Doc("Of the commit. Default: the run's name and step.")] = None
    revision: Annotated[str | None, Doc("The branch to commit to, which must be there. Default: main.")] = None
    dry_run: Annotated[bool, Doc("Show the files and their bytes, and send nothing.")] = False


@dataclass(frozen=True, kw_only=True)
class PushCommand(Reporting, PushRequest, Which):
    """A run as a repository of the Hugging Face hub."""


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
