"""What may be asked of plots that need no sampling."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Interval

from ebbflow.requests.base import Doc, Flag, Place
from ebbflow.requests.shared import MOST_STEPS, SHOWN, DataDir, Picture, Reporting, Seed


@dataclass(frozen=True, kw_only=True)
class SchedulesRequest:
    """A picture of paths."""

    paths: Annotated[tuple[str, ...], Doc("Paths to draw; see `ebbflow list paths`.")] = (
        "vp_discrete",
        "cosine_discrete",
        "flow",
    )
    num_steps: Annotated[int, Interval(ge=10, le=MOST_STEPS), Doc("Steps that beta refers to.")] = 1000
    output: Picture = Path("schedules.png")


@dataclass(frozen=True, kw_only=True)
class WeightsRequest(Reporting):
    """A picture of how objectives weigh noise levels."""

    objectives: Annotated[tuple[str, ...], Doc("prediction:times:weight, or that with @path.")] = (
        "eps:uniform:uniform@vp",
        "x0:uniform:snr@vp",
        "velocity:uniform:uniform",
        "v:uniform:uniform@cosine",
        "velocity:logit_normal:uniform",
    )
    path: Annotated[str, Doc("The path of objectives that name none.")] = "flow"
    output: Picture = Path("weights.png")


@dataclass(frozen=True, kw_only=True)
class RunRequest(Reporting):
    """A picture of what runs wrote down."""

    runs: Annotated[tuple[Path, ...], Place("RUN"), Flag("--ckpt", each=True), Doc("Folders of runs, finished or not.")]
    output: Picture = Path("run.png")


@dataclass(frozen=True, kw_only=True)
class NoisingRequest(Reporting):
    """A picture of one image noised step by step and at once."""

    data: Annotated[str, Doc("A data set's name, an image folder, or an .npz file.")] = "digits"
    data_dir: DataDir = None
    path: Annotated[str, Doc("See `ebbflow list paths`.")] = "vp_discrete"
    index: Annotated[int, Ge(0), Doc("Which of the held-out images.")] = 0
    columns: Annotated[int, Interval(ge=1, le=SHOWN), Doc("How many times to show.")] = 8
    num_steps: Annotated[int, Interval(ge=1, le=MOST_STEPS), Doc("Steps of the chain.")] = 1000
    num: Annotated[int, Interval(ge=1, le=100 * SHOWN), Doc("Noisings that the statistics are over.")] = 64
    seed: Seed = 0
    output: Picture = Path("noising.png")
