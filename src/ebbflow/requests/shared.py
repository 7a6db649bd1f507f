"""What several requests share, so that it reads the same everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge

from ebbflow.requests.base import Doc, Ending, Flag

Ckpt = Annotated[Path, Doc("The folder of a run or of one of its checkpoints.")]
Seed = Annotated[int, Ge(0), Doc("Seed of the first sample; the next ones count up.")]
Page = Annotated[Path, Ending(".html", ".htm")]
Picture = Annotated[Path, Ending(".png", ".jpg", ".jpeg", ".webp"), Doc("A picture (.png .jpg .webp).")]
DataDir = Annotated[Path | None, Doc("Where named data sets lie or are downloaded to. Default: $EBBFLOW_DATA.")]
FEATURES = "auto, classifier, pca, coordinates, dinov2:FOLDER or clip:FOLDER."


@dataclass(frozen=True, kw_only=True)
class Report:
    """How it is told."""

    json: Annotated[bool, Doc("Print JSON.")] = False


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where it runs."""

    device: Annotated[str, Doc("auto, cpu, cuda, cuda:1 or mps.")] = "auto"
    batch_size: Annotated[int, Ge(1), Doc("Samples a network evaluation.")] = 64


@dataclass(frozen=True, kw_only=True)
class Averaged:
    """Which weights."""

    weights: Annotated[Literal["ema", "raw"], Doc("Averaged (ema) or raw.")] = "ema"


@dataclass(frozen=True, kw_only=True)
class Judge:
    """What it is compared with."""

    reference: Annotated[Literal["held_out", "train"], Doc("Which split of the data.")] = "held_out"
    features: Annotated[str, Doc(FEATURES)] = "auto"
    data_dir: Annotated[Path | None, Doc("Where the run's data lies. Default: as in training.")] = None


@dataclass(frozen=True, kw_only=True)
class Walk:
    """How it is sampled; by default as the run says."""

    sampler: Annotated[str | None, Doc("See `ebbflow list samplers`.")] = None
    num_steps: Annotated[int | None, Ge(1), Flag("--steps", "--num-steps"), Doc("Number of steps.")] = None
    grid: Annotated[str | None, Doc("Where the steps lie; see `ebbflow list grids`.")] = None
    guidance: Annotated[float | None, Doc("w of u + w (c - u): 1 is conditional, 0 unconditional.")] = None
    options: Annotated[dict[str, Any] | None, Flag("--set"), Doc("An option of the sampler, such as eta=0.5.")] = None
