"""What may be asked of measuring, comparing and proving."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from ebbflow.errors import ConfigError
from ebbflow.requests.base import Doc, Ending, Flag, Place
from ebbflow.requests.shared import FEATURES, Averaged, Ckpt, Judge, Machine, Page, Report, Seed, Walk

Precision = Literal["fp32", "bf16", "auto"]
Counts = tuple[Annotated[int, Ge(1)], ...]
Names = tuple[str, ...]
Steps = Flag("--steps", "--num-steps")


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest(Walk, Judge, Averaged, Machine, Report):
    """Measure a run's samples against its data: Frechet distance, KID, precision, recall, label accuracy, copying."""

    ckpt: Ckpt
    num: Annotated[int, Ge(2), Doc("How many samples to measure.")] = 1000
    repeats: Annotated[int, Interval(ge=1, le=1000), Doc("Measure so many times, each with the next seeds.")] = 1
    seed: Seed = 0
    precision: Annotated[Precision, Doc("Of the sampled net.")] = "fp32"


@dataclass(frozen=True, kw_only=True)
class CompareRequest(Judge, Averaged, Machine, Report):
    """Compare runs, samplers, grids, steps and guidance on the same seeds: quality against evaluations and seconds.

    Finished cells are kept beside the report and not made again: a stopped comparison goes on where it was.
    """

    runs: Annotated[tuple[Path, ...], Place(), Doc("Folders of runs or of checkpoints, trained on the same data.")]
    samplers: Annotated[Names, Doc("Which to compare; see `ebbflow list samplers`.")] = ("ddim", "heun", "dpmpp_2m")
    grids: Annotated[Names, Doc("See `ebbflow list grids`; learned needs `ebbflow search-grid`.")] = ("uniform",)
    num_steps: Annotated[Counts, Steps, Doc("Numbers of steps.")] = (5, 10, 20)
    guidance: Annotated[tuple[float, ...], Doc("Values of w; runs that cannot be guided are at 1.")] = (1.0, 2.0, 4.0)
    num: Annotated[int, Ge(2), Doc("Samples a cell; the same seeds in each.")] = 1000
    seed: Seed = 0
    within: Annotated[float, Ge(0), Doc("Per cent above the best that are good enough.")] = 5.0
    output: Annotated[Page, Doc("The report, a single .html file.")] = Path("compare.html")


@dataclass(frozen=True, kw_only=True)
class LikelihoodRequest(Averaged, Machine, Report):
    """Measure the likelihood of held-out data, in bits a dimension: less is better."""

    ckpt: Ckpt
    num: Annotated[int, Ge(1), Doc("Held-out samples to measure.")] = 64
    method: Annotated[
        Literal["ode", "vlb"], Doc("Change of variables along the ODE, or the bound of ancestral sampling.")
    ] = "ode"
    num_steps: Annotated[
        int | None, Ge(2), Steps, Doc("Steps. Default: 32 of the ODE; the path's table, or 1000, of the bound.")
    ] = None
    sampler: Annotated[Literal["rk4", "heun"], Doc("Integrator of the ODE.")] = "rk4"
    variance: Annotated[
        Literal["small", "large", "learned", "optimal"] | None,
        Doc("Of the bound's steps. Default: learned, or else large."),
    ] = None
    seed: Annotated[int, Ge(0), Doc("Seed of dequantisation, probes and noise.")] = 0
    data_dir: Annotated[Path | None, Doc("Where the run's data lies. Default: as in training.")] = None
    output: Annotated[Path | None, Ending(".json"), Doc("Also write the report to this .json file.")] = None

    def __post_init__(self) -> None:
        if self.variance is not None and self.method != "vlb":
            raise ConfigError("`variance` belongs to ancestral sampling. Take `method` vlb, or leave it out.")


@dataclass(frozen=True, kw_only=True)
class SearchGridRequest(Averaged, Report):
    """Search the time grid on which few steps stay nearest to many; use it as grid learned."""

    ckpt: Ckpt
    num_steps: Annotated[Counts, Steps, Doc("Numbers of steps to find grids for.")] = (5, 10, 20)
    sampler: Annotated[str, Doc("A deterministic sampler, whose single steps are measured.")] = "ddim"
    guidance: Annotated[float, Doc("w of u + w (c - u).")] = 1.0
    candidates: Annotated[int, Interval(ge=2, le=256), Doc("Times to choose from: the teacher's steps.")] = 48
    candidate_grid: Annotated[str, Doc("Where these lie; see `ebbflow list grids`.")] = "cosine"
    num: Annotated[int, Ge(1), Doc("How many trajectories of the teacher.")] = 32
    seed: Annotated[int, Ge(0), Doc("Seed of the first of them.")] = 0
    device: Annotated[str, Doc("auto, cpu, cuda, cuda:1 or mps.")] = "auto"


@dataclass(frozen=True, kw_only=True)
class ClaimsRequest(Machine, Report):
    """Measure the study notes' claims on a diffusion and a flow model, and write a page with verdicts.

    Finished claims are kept beside the page: the same command goes on where it was stopped.
    """

    diffusion: Annotated[Path, Doc("A run on a variance-preserving path.")]
    flow: Annotated[Path, Doc("A run on the flow path, of the same data and budget.")]
    num: Annotated[int, Ge(2), Doc("Samples of one setting; more than there are features (128).")] = 500
    output: Annotated[Path, Doc("The page; pictures go to images/ beside it.")] = Path("docs/claims.md")
    only: Annotated[Names, Doc("Only these claims, such as steps,toy.")] = ()
    num_steps: Annotated[Counts, Steps, Doc("Numbers of steps of the first claim.")] = (5, 10, 20, 50, 100)
    few: Annotated[int, Ge(2), Doc("Entries for what is measured sample by sample.")] = 32
    seed: Seed = 0
    precision: Annotated[Precision, Doc("In which many samples are made.")] = "auto"
    features: Annotated[str, Doc(FEATURES)] = "auto"
    data_dir: Annotated[Path | None, Doc("Where the runs' data lies. Default: as in training.")] = None


@dataclass(frozen=True, kw_only=True)
class VerifyRequest(Report):
    """Prove every sampler, path, prediction and grid against exact data: order, mean, variance, mode weights, cost.

    Exit code 1 when anything fails. With a plugin imported and nothing chosen, only what it adds is verified.
    """

    samplers: Annotated[Names | None, Doc("Only these, such as heun,dpmpp_2m; see `ebbflow list samplers`.")] = None
    paths: Annotated[Names | None, Doc("Only these; see `ebbflow list paths`.")] = None
    predictions: Annotated[Names | None, Doc("Only these; see `ebbflow list predictions`.")] = None
    grids: Annotated[Names | None, Doc("Only these; see `ebbflow list grids`.")] = None
    quick: Annotated[bool, Doc("Fewer steps, and predictions and grids one by one, not crossed.")] = False
    output: Annotated[Page | None, Doc("Also write all rows as one page (.html).")] = None
