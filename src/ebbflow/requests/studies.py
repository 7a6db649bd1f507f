"""What may be asked of measuring, comparing and proving."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from ebbflow.errors import ConfigError
from ebbflow.requests.base import Doc, Ending, Flag, Place
from ebbflow.requests.sampling import Opening, Sampling, Where, WhereRun
from ebbflow.requests.shared import (
    FEATURES,
    MOST,
    MOST_STEPS,
    Batches,
    Device,
    Judge,
    Names,
    Page,
    Precision,
    Reporting,
    RunData,
    Seed,
    Steps,
)


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest(Judge, Sampling, Opening):
    """A model's samples against its data."""

    num: Annotated[int, Interval(ge=2, le=MOST), Doc("How many samples to measure.")] = 1000
    repeats: Annotated[int, Interval(ge=1, le=1000), Doc("Measure so many times, each with the next seeds.")] = 1
    seed: Seed = 0
    precision: Annotated[Precision, Doc("Of the sampled net.")] = "fp32"


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand(Reporting, EvaluateRequest, Where):
    """A model's samples against its data."""


@dataclass(frozen=True, kw_only=True)
class EvaluateImagesRequest(Batches, Judge):
    """Pictures made by anything, against data."""

    data: Annotated[str, Doc("What to compare with: a data set's name, an image folder or an .npz file.")] = "digits"
    device: Device = "auto"


@dataclass(frozen=True, kw_only=True)
class EvaluateImagesCommand(Reporting, EvaluateImagesRequest):
    """Pictures made by anything, against data."""

    images: Annotated[Path, Doc("A folder of pictures, or an .npz file.")]


@dataclass(frozen=True, kw_only=True)
class CompareRequest(Opening, Batches, Judge):
    """Models, samplers, grids, steps and guidance on the same seeds."""

    samplers: Annotated[Names, Doc("Which to compare; see `ebbflow list samplers`.")] = ("ddim", "heun", "dpmpp_2m")
    grids: Annotated[Names, Doc("See `ebbflow list grids`; learned needs `ebbflow search-grid`.")] = ("uniform",)
    steps: Annotated[Steps, Doc("Numbers of steps.")] = (5, 10, 20)
    guidance: Annotated[tuple[float, ...], Doc("Values of w; runs that cannot be guided are at 1.")] = (1.0, 2.0, 4.0)
    num: Annotated[int, Interval(ge=2, le=MOST), Doc("Samples a cell; the same seeds in each.")] = 1000
    seed: Seed = 0
    within: Annotated[float, Ge(0), Doc("Per cent above the best that are good enough.")] = 5.0
    output: Annotated[Page, Doc("The report, a single .html file.")] = Path("compare.html")


@dataclass(frozen=True, kw_only=True)
class CompareCommand(Reporting, CompareRequest):
    """Models, samplers, grids, steps and guidance on the same seeds."""

    runs: Annotated[
        tuple[str, ...],
        Place("RUN"),
        Flag("--ckpt", each=True),
        Doc("Folders of runs or of checkpoints, or hf: and diffusers models, of the same data."),
    ]


@dataclass(frozen=True, kw_only=True)
class LikelihoodRequest(Reporting, RunData, Batches, WhereRun):
    """The likelihood of held-out data."""

    num: Annotated[int, Ge(1), Doc("Held-out samples to measure.")] = 64
    method: Annotated[
        Literal["ode", "vlb"], Doc("Change of variables along the ODE, or the bound of ancestral sampling.")
    ] = "ode"
    steps: Annotated[
        int | None,
        Interval(ge=2, le=MOST_STEPS),
        Doc("Steps. Default: 32 of the ODE; the path's table, or 1000, of the bound."),
    ] = None
    sampler: Annotated[str, Doc("Integrator of the ODE: rk4 or heun.")] = "rk4"
    variance: Annotated[
        Literal["small", "large", "learned", "optimal"] | None,
        Doc("Of the bound's steps. Default: learned, or else large."),
    ] = None
    seed: Annotated[int, Ge(0), Doc("Seed of dequantisation, probes and noise.")] = 0
    output: Annotated[Path | None, Ending(".json"), Doc("Also write the report to this .json file.")] = None

    def __post_init__(self) -> None:
        if self.variance is not None and self.method != "vlb":
            raise ConfigError("`variance` belongs to ancestral sampling. Add `method` vlb, or leave it out.")


@dataclass(frozen=True, kw_only=True)
class SearchGridRequest(Reporting, WhereRun):
    """Time grids on which few steps stay near to many."""

    steps: Annotated[Steps, Doc("Numbers of steps to find grids for.")] = (5, 10, 20)
    sampler: Annotated[str, Doc("A deterministic sampler, whose single steps are measured.")] = "ddim"
    guidance: Annotated[float, Doc("w of u + w (c - u).")] = 1.0
    candidates: Annotated[int, Interval(ge=2, le=256), Doc("Times to choose from: the teacher's steps.")] = 48
    candidate_grid: Annotated[str, Doc("Where these lie; see `ebbflow list grids`.")] = "cosine"
    num: Annotated[int, Interval(ge=1, le=MOST), Doc("How many trajectories of the teacher.")] = 32
    seed: Annotated[int, Ge(0), Doc("Seed of the first of them.")] = 0


@dataclass(frozen=True, kw_only=True)
class ClaimsRequest(Reporting, RunData, Batches):
    """The study notes' claims on a diffusion and a flow model."""

    diffusion: Annotated[Path, Doc("A run on a variance-preserving path.")]
    flow: Annotated[Path, Doc("A run on the flow path, of the same data and budget.")]
    num: Annotated[int, Interval(ge=2, le=MOST), Doc("Samples of one setting.")] = 500
    output: Annotated[Path, Doc("The page; pictures go to images/ beside it.")] = Path("claims.md")
    only: Annotated[Names, Doc("Only these claims, such as steps,toy.")] = ()
    steps: Annotated[Steps, Doc("Numbers of steps of the first claim.")] = (5, 10, 20, 50, 100)
    few: Annotated[int, Interval(ge=2, le=MOST), Doc("Entries for what is measured sample by sample.")] = 32
    seed: Seed = 0
    device: Device = "auto"
    precision: Annotated[Precision, Doc("In which many samples are made.")] = "auto"
    features: Annotated[str, Doc(FEATURES)] = "auto"


@dataclass(frozen=True, kw_only=True)
class VerifyRequest(Reporting):
    """Samplers, paths, predictions, grids and objectives of maps against exact data."""

    samplers: Annotated[Names | None, Doc("Only these, such as heun,dpmpp_2m; see `ebbflow list samplers`.")] = None
    paths: Annotated[Names | None, Doc("Only these; see `ebbflow list paths`.")] = None
    predictions: Annotated[Names | None, Doc("Only these; see `ebbflow list predictions`.")] = None
    grids: Annotated[Names | None, Doc("Only these; see `ebbflow list grids`.")] = None
    maps: Annotated[Names | None, Doc("Only these objectives of maps; see `ebbflow list maps`.")] = None
    quick: Annotated[bool, Doc("Fewer steps, and predictions and grids one by one, not crossed.")] = False
    output: Annotated[Page | None, Doc("Also write all rows as one page (.html).")] = None
