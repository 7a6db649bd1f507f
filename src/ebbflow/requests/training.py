"""What may be asked of training; every field that has a key of the configuration sets it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Interval, Le, Lt

from ebbflow.errors import ConfigError
from ebbflow.requests.base import Doc, Flag, Place, Sets
from ebbflow.requests.shared import Reporting, Side


@dataclass(frozen=True, kw_only=True)
class Data:
    """Data."""

    data: Annotated[
        str | None,
        Sets("data.name"),
        Doc("A data set's name, a folder of images or parquet, hf:USER/NAME, an .npz file, *.tar. Default: digits."),
    ] = None
    data_dir: Annotated[
        Path | None,
        Sets("data.dir"),
        Doc("Where named data sets lie or are downloaded to. Default: $EBBFLOW_DATA."),
    ] = None
    img_size: Annotated[
        Side | tuple[Side, Side] | None,
        Sets("data.size"),
        Doc(
            "Resize images to this side, or HEIGHTxWIDTH. Default: as they are; large or mixed ones to what suits them."
        ),
    ] = None
    channels: Annotated[Literal[1, 3, 4] | None, Sets("data.channels"), Doc("Convert images to so many channels.")] = (
        None
    )
    held_out: Annotated[
        float | None,
        Ge(0),
        Lt(1),
        Sets("data.held_out"),
        Doc("Share of a folder or .npz file that is not trained on; 0 for none. Default: 0.1."),
    ] = None
    skip_bad: Annotated[bool, Sets("data.skip_bad"), Doc("Leave unreadable images out instead of stopping.")] = False


@dataclass(frozen=True, kw_only=True)
class Training:
    """Training."""

    epochs: Annotated[int | None, Ge(1), Doc("Length in passes over the data.")] = None
    max_steps: Annotated[int | None, Ge(1), Sets("train.num_steps"), Doc("Length in optimiser steps.")] = None
    minutes: Annotated[float | None, Gt(0), Sets("train.minutes"), Doc("Length in minutes of training steps.")] = None
    batch_size: Annotated[int | None, Ge(1), Sets("train.batch_size"), Doc("Samples a step.")] = None
    lr: Annotated[float | None, Gt(0), Sets("train.lr"), Doc("Peak learning rate.")] = None
    lr_decay_step: Annotated[
        int | None,
        Ge(1),
        Sets("train.lr_decay_step"),
        Doc("Optimiser steps between learning-rate decays (step schedule)."),
    ] = None
    lr_decay_rate: Annotated[
        float | None,
        Gt(0),
        Le(1),
        Sets("train.lr_decay_rate"),
        Doc("Factor of each learning-rate decay (step schedule)."),
    ] = None
    seed: Annotated[int | None, Ge(0), Sets("train.seed"), Doc("Seed of everything random in it.")] = None
    device: Annotated[str | None, Sets("engine.device"), Doc("auto, cpu, cuda, cuda:1 or mps.")] = None


@dataclass(frozen=True, kw_only=True)
class Folder:
    """Folder."""

    save_dir: Annotated[
        Path | None,
        Doc("Where it is kept; the same command resumes it. Default: in runs/, named after what is trained."),
    ] = None
    save_freq: Annotated[int | None, Ge(0), Sets("train.save_every"), Doc("Optimiser steps between checkpoints.")] = (
        None
    )


@dataclass(frozen=True, kw_only=True)
class Settings(Reporting, Folder, Training, Data):
    """Configuration."""

    config: Annotated[Path | None, Doc("A TOML file, or the config.json of a run.")] = None
    settings: Annotated[
        dict[str, Any], Flag("--set"), Doc("section.key=value, such as train.clip=0.5; over all files.")
    ] = field(default_factory=dict)
    dry_run: Annotated[bool, Doc("Show what would be trained, and what it costs, and stop.")] = False

    def __post_init__(self) -> None:
        lengths = {"epochs": self.epochs, "max_steps": self.max_steps, "minutes": self.minutes}
        given = [f"`{name}`" for name, value in lengths.items() if value is not None]
        if len(given) > 1:
            raise ConfigError(
                f"{' and '.join(given)} {'both' if len(given) == 2 else 'all'} say how long to train. Give one."
            )


@dataclass(frozen=True, kw_only=True)
class ModelSettings(Settings):
    """Configuration."""

    world_size: Annotated[int | None, Interval(ge=1, le=1 << 20), Doc("Of a dry run: so many processes.")] = None
    device_memory: Annotated[float | None, Gt(0), Doc("Of a dry run: gigabytes of each process; says what fits.")] = (
        None
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.dry_run and (self.world_size is not None or self.device_memory is not None):
            raise ConfigError(
                "`world_size` and `device_memory` are of a dry run, and start nothing. Add `dry_run`; torchrun or "
                "another launcher starts the processes of a training."
            )


@dataclass(frozen=True, kw_only=True)
class TrainRequest(ModelSettings):
    """A model to train."""

    preset: Annotated[
        str | None,
        Doc("A shipped configuration; see `ebbflow list presets`. Default: what suits the data; digits for none."),
    ] = None
    init_from: Annotated[
        Path | None, Sets("init.run"), Doc("Start from the averaged weights of this run, to tune it further.")
    ] = None
    init_partial: Annotated[
        bool, Sets("init.partial"), Doc("Take the weights that fit, and leave the others as initialised.")
    ] = False
    patch_size: Annotated[int | None, Ge(1), Sets("net.patch_size"), Doc("Patch size of a DiT.")] = None


@dataclass(frozen=True, kw_only=True)
class DistillRequest(ModelSettings):
    """A model to train from one that is trained."""

    run: Annotated[
        str, Place("RUN"), Flag("--ckpt"), Doc("The folder of the run that teaches, or of one of its checkpoints.")
    ]
    save_dir: Annotated[
        Path | None,
        Flag("--into", "--save-dir"),
        Doc("Where it is kept; the same command resumes it. Default: beside RUN, with _distilled after its name."),
    ] = None
    guidance: Annotated[
        float | None, Sets("teacher.guidance"), Doc("Guidance that is built in. Default: what RUN has built in, or 1.")
    ] = None
    map: Annotated[
        str | None,
        Sets("objective.map"),
        Doc("How jumps are learned; see `ebbflow list maps`. Default: midpoint, or none beside `pairs`."),
    ] = None
    pairs: Annotated[
        int | None,
        Ge(1),
        Sets("teacher.pairs"),
        Doc("Learn on so many pairs of a noise and where RUN takes it (reflow), in the place of the data."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class TrainClassifierRequest(Settings):
    """A noisy classifier to train."""

    path: Annotated[
        str | None, Sets("path.kind"), Doc("The path whose noise levels it learns; it serves runs on any path.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class TrainAutoencoderRequest(Settings):
    """An autoencoder to train."""
