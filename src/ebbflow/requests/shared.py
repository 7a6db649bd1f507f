"""What several requests share, so that it reads the same everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval, Le

from ebbflow.requests.base import Doc, Ending

MOST = 10_000_000  # samples of one command
MOST_STEPS = 100_000  # of a sampler
SHOWN = 1000  # pieces of one picture
Device = Annotated[str, Doc("auto, cpu, cuda, cuda:1 or mps.")]
Reference = Literal["auto", "held_out", "train"]
Precision = Literal["fp32", "bf16", "auto"]
Steps = tuple[Annotated[int, Interval(ge=1, le=MOST_STEPS)], ...]
Names = tuple[str, ...]
Side = Annotated[int, Ge(1)]  # of an image, in pixels
Seed = Annotated[int, Ge(0), Doc("Seed of the first sample; the next ones count up.")]
Strength = Annotated[
    float,
    Doc("In (0, 1]: the share of the steps that is walked; 1 keeps nothing. Default: 0.6, or 1 with a mask."),
    Gt(0),
    Le(1),
]
Page = Annotated[Path, Ending(".html", ".htm")]
Picture = Annotated[Path, Ending(".png", ".jpg", ".jpeg", ".webp"), Doc("A picture (.png .jpg .webp).")]
DataDir = Annotated[Path | None, Doc("Where named data sets lie or are downloaded to. Default: $EBBFLOW_DATA.")]
FEATURES = "auto, classifier, views, pca, coordinates, dinov2:FOLDER, clip:FOLDER or inception:FILE."


@dataclass(frozen=True, kw_only=True)
class Reporting:
    """Everywhere."""

    json: Annotated[bool, Doc("Print JSON for programs.")] = False


@dataclass(frozen=True, kw_only=True)
class Batches:
    """How much at once."""

    batch_size: Annotated[int, Ge(1), Doc("Samples a network evaluation.")] = 64


@dataclass(frozen=True, kw_only=True)
class RunData:
    """Data."""

    data_dir: Annotated[Path | None, Doc("Where the run's data lies, if not where it was trained from.")] = None


@dataclass(frozen=True, kw_only=True)
class Judge(RunData):
    """What it is compared with."""

    data: Annotated[str | None, Doc("A data set's name, an image folder or an .npz file. Default: the run's own.")] = (
        None
    )
    reference: Annotated[Reference, Doc("Which split of the data; auto is held_out, or train where that is small.")] = (
        "auto"
    )
    features: Annotated[str, Doc(FEATURES)] = "auto"
