"""What may be asked of a trained model: samples, edits, inversions, reconstructions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Interval, Le

from ebbflow.requests.base import Doc, Flag, Place
from ebbflow.requests.shared import MOST, MOST_STEPS, SHOWN, Device, Precision, Reporting, RunData, Seed, Side, Strength

Weights = Literal["ema", "raw"]
STEPS = Interval(ge=1, le=MOST_STEPS)


@dataclass(frozen=True, kw_only=True)
class Opening:
    """Model."""

    weights: Annotated[Weights, Doc("ema (averaged) or raw.")] = "ema"
    device: Device = "auto"


@dataclass(frozen=True, kw_only=True)
class Where(Opening):
    """Model."""

    ckpt: Annotated[
        str,
        Place("RUN"),
        Flag("--ckpt"),
        Doc("The folder of a run or of one of its checkpoints, an export of it, or hf: and a name on the hub."),
    ]


@dataclass(frozen=True, kw_only=True)
class WhereRun(Opening):
    """Model."""

    ckpt: Annotated[str, Place("RUN"), Flag("--ckpt"), Doc("The folder of a run or of one of its checkpoints.")]


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Conditions, of one kind."""

    labels: Annotated[
        tuple[str | int, ...] | None,
        Doc("Classes by index or name, such as 0-9 or cat,dog: the rows of a grid; none for no condition."),
        Flag("--labels", "--label"),
    ] = None
    prompts: Annotated[
        tuple[str, ...] | None,
        Doc("What to make, for models of text; repeat it for more rows."),
        Flag("--prompt", each=True),
    ] = None
    vectors: Annotated[
        tuple[tuple[float, ...], ...] | None,
        Doc("Numbers such as 0,0.5,0.5, for runs trained on vectors; repeat it for more rows."),
        Flag("--vector", each=True),
    ] = None
    images: Annotated[
        tuple[Path, ...] | None,
        Doc("Pictures to go by, for runs trained on them: a file, a folder or an .npz; repeat it for more rows."),
        Flag("--condition", each=True),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Walk:
    """Sampling, by default as the run says."""

    sampler: Annotated[
        str | Callable | None,
        Doc(
            "See `ebbflow list samplers`; auto: what measured best, on its grid, for as many network evaluations as "
            "there are steps; in Python a sampler too."
        ),
    ] = None
    grid: Annotated[
        str | Callable | None, Doc("Where the steps lie: see `ebbflow list grids`, or learned; in Python a grid too.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class Sampling(Walk):
    """Sampling, by default as the run says."""

    steps: Annotated[int | None, Doc("Number of steps; with sampler auto, of network evaluations."), STEPS] = None
    options: Annotated[
        dict[str, Any] | None,
        Doc(
            "Option of the sampler (`ebbflow list samplers ddim`), such as eta=0.5, or of the grid, such as grid.rho=5."
        ),
        Flag("--set"),
    ] = None
    guidance: Annotated[float | None, Doc("w of u + w (c - u): 1 is conditional, 0 unconditional.")] = None
    clip: Annotated[bool | None, Doc("Keep every x0 on the way inside [-1, 1].")] = None
    batch_size: Annotated[
        int | None, Doc("Samples a network evaluation. Default: 64, or 4 of a diffusers model of large images."), Ge(1)
    ] = None


@dataclass(frozen=True, kw_only=True)
class Guiding:
    """Guidance."""

    negative_label: Annotated[str | int | None, Doc("The class that guidance moves away from.")] = None
    negative_prompt: Annotated[str | None, Doc("The text that guidance moves away from.")] = None
    rescale: Annotated[float, Doc("How far guided samples are brought back to their contrast."), Ge(0), Le(1)] = 0.0
    interval: Annotated[tuple[float, float] | None, Doc("LOW,HIGH in log-SNR: guide only there.")] = None
    guidance_rule: Annotated[str | None, Doc("How guidance acts: classifier_free, cfg_zero_star or apg.")] = None
    guidance_options: Annotated[
        dict[str, Any] | None,
        Doc("Option of the rule, such as eta=0.5, norm_threshold=5 (apg), zero_above=0.9 (cfg_zero_star)."),
        Flag("--guidance-set"),
    ] = None
    autoguide: Annotated[
        Path | None, Doc("A worse run or checkpoint of the same data; guidance leads away from it.")
    ] = None
    classifier: Annotated[Path | None, Doc("A folder of `ebbflow train-classifier`; guides to the labels.")] = None
    classifier_scale: Annotated[float | None, Doc("How strongly the classifier guides. Default: 1.")] = None
    loss: Annotated[
        str | Callable | None,
        Doc("Guide by a loss: colour, inpaint, blur or downsample of the target; in Python any function of x0 too."),
    ] = None
    loss_weight: Annotated[
        float | None, Doc("How strongly the loss guides; late and none overshoot above 2. Default: 1.")
    ] = None
    loss_emphasis: Annotated[
        str | None, Doc("Where the loss acts: early (shape), late (texture) or none. Default: none.")
    ] = None
    loss_options: Annotated[
        dict[str, Any] | None,
        Doc("Option of the loss, such as factor=4 (downsample) or width=1.5 (blur)."),
        Flag("--loss-set"),
    ] = None
    target: Annotated[
        str | None, Doc("What the loss aims at: an image, or for colour numbers in [0, 1] such as 1,0.5,0.")
    ] = None
    mask: Annotated[
        str | None,
        Doc("With loss inpaint: generate where this picture is white; or left, right, top, bottom or centre."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """Samples."""

    num: Annotated[
        int | None,
        Doc(
            "How many samples in all. Default: 1 for one label, 8 a class, or 64; 1000 points; of a diffusers model "
            "1 a class, or 4."
        ),
        Interval(ge=1, le=MOST),
    ] = None
    seed: Seed = 0
    seeds: Annotated[
        tuple[int, ...] | None, Doc("Seeds one by one, such as 0-63; sample i depends on its seed alone.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class SampleRequest(Guiding, Sampling, Seeds, Conditions):
    """Samples of a model."""

    precision: Annotated[
        Precision, Doc("Of the net's products; auto is bf16 where this machine multiplies it. The state is float32.")
    ] = "fp32"


@dataclass(frozen=True, kw_only=True)
class SizedRequest(SampleRequest):
    """Samples of a model, of any size."""

    img_size: Annotated[
        Side | tuple[Side, Side] | None,
        Doc("Side of the images, or HEIGHTxWIDTH, such as one of data.buckets. Default: as it was trained on."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class SampleCall(Opening, SizedRequest):
    """Samples of the model in a folder."""


@dataclass(frozen=True, kw_only=True)
class SampleCommand(Reporting, SizedRequest, Where):
    """Samples of a model as files."""

    output: Annotated[Path, Doc("A grid (.png .jpg .webp), all samples (.npz), or a folder of single pictures.")]
    trajectory: Annotated[Path | None, Doc("Also write the way there as an animation (.webp or .gif).")] = None


@dataclass(frozen=True, kw_only=True)
class EditRequest(Sampling, Conditions):
    """What to make of an image that is already there."""

    strength: Strength | None = None
    mask: Annotated[
        Path | Any | None,
        Doc(
            "Inpainting: generate where this picture is white, keep the rest exactly; in Python an array, tensor or "
            "picture in memory too."
        ),
    ] = None
    resample: Annotated[int, Doc("With a mask: walk every piece of the way so often, which blends better."), STEPS] = 1
    jump: Annotated[int, Doc("Steps of a piece that is resampled."), STEPS] = 1
    num: Annotated[
        int | None,
        Doc("How many edits in all, or images of an interpolation. Default: 8, 1 of one label, 4 of each of several."),
        Interval(ge=1, le=MOST),
    ] = None
    seed: Seed = 0


@dataclass(frozen=True, kw_only=True)
class EditCall(Opening, EditRequest):
    """Edits of a picture by the model in a folder."""


@dataclass(frozen=True, kw_only=True)
class EditCommand(Reporting, EditRequest, Where):
    """Edits of a picture as files."""

    output: Annotated[Path, Doc("A picture with the input in front (.png .jpg .webp), all edits (.npz), or a folder.")]
    input: Annotated[Path | None, Doc("The image to edit; it is brought to the run's size and channels.")] = None
    interpolate_with: Annotated[
        Path | None, Doc("A second image: so many images from the input to it, through their noises.")
    ] = None
    noise: Annotated[
        Path | None, Doc("In the place of an input: the file of `ebbflow invert`; sampled as it was inverted.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class RestoreRequest(Sampling, Conditions):
    """What is known of an image that is to be restored."""

    operator: Annotated[str | Callable | None, Doc("How it was degraded; see `ebbflow list operators`.")] = None
    operator_options: Annotated[
        dict[str, Any] | None,
        Doc("Option of the operator, such as factor=4 (downsample), sigma=2 (blur), region=left (mask)."),
        Flag("--operator-set"),
    ] = None
    mask: Annotated[
        Path | None, Doc("For operator mask: generate where this picture is white, in the place of a region.")
    ] = None
    noise: Annotated[float, Doc("Standard deviation of the noise in it, of images in [-1, 1]."), Ge(0)] = 0.0
    method: Annotated[
        str, Doc("pigdm (by the model's slope, three times the cost) or ddnm; see `ebbflow list guidance`.")
    ] = "pigdm"
    sigma_data: Annotated[float, Doc("Standard deviation of the model's data."), Gt(0)] = 0.5
    num: Annotated[int | None, Doc("How many restorations in all. Default: 8 a label."), Interval(ge=1, le=MOST)] = None
    seed: Seed = 0


@dataclass(frozen=True, kw_only=True)
class RestoreCall(Opening, RestoreRequest):
    """Restorations of an image by the model in a folder."""


@dataclass(frozen=True, kw_only=True)
class RestoreCommand(Reporting, RestoreRequest, Where):
    """Restorations of an image as files."""

    output: Annotated[Path, Doc("A picture between what was given and the truth (.png .jpg .webp), .npz, or a folder.")]
    input: Annotated[Path | None, Doc("The degraded image, of the size that the operator makes.")] = None
    truth: Annotated[
        Path | None, Doc("In the place of an input: an image that is degraded first, and compared with in the end.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class InvertCommand(Reporting, Walk, Conditions, Where):
    """The noise from which a model makes an image."""

    input: Annotated[Path, Doc("The image; it is brought to the run's size and channels.")]
    output: Annotated[Path, Doc("An .npz for the noise; `ebbflow edit --noise` goes on from it.")]
    steps: Annotated[int, Doc("Number of steps."), Interval(ge=2, le=MOST_STEPS)] = 50
    guidance: Annotated[float, Doc("w of u + w (c - u); other values than 1 are not undone well.")] = 1.0


@dataclass(frozen=True, kw_only=True)
class ReconstructCommand(Reporting, Walk, RunData, WhereRun):
    """How well held-out images survive the way to noise and back."""

    steps: Annotated[tuple[int, ...], Doc("Numbers of steps to compare."), Interval(ge=2, le=MOST_STEPS)] = (
        5,
        10,
        20,
        50,
    )
    num: Annotated[int, Doc("Held-out images."), Ge(1)] = 64
    output: Annotated[Path | None, Doc("Also a picture: the first images and their reconstructions.")] = None
    batch_size: Annotated[int, Doc("Samples a network evaluation."), Ge(1)] = 64


@dataclass(frozen=True, kw_only=True)
class WayCommand(Sampling, Conditions, Where):
    """A picture of the way from noise to samples."""

    num: Annotated[int, Doc("How many samples."), Interval(ge=1, le=SHOWN)] = 3
    seed: Seed = 0


@dataclass(frozen=True, kw_only=True)
class DenoisingCommand(WayCommand):
    """x_t and the x0 predicted from it on the way from noise to samples."""

    output: Annotated[Path, Doc("A strip (.png .jpg) or an animation (.webp .gif).")] = Path("denoising.png")


@dataclass(frozen=True, kw_only=True)
class ToySamplerCommand(WayCommand):
    """Why x_t minus the predicted noise is no sampler: it, above a real one, from the same noise."""

    output: Annotated[Path, Doc("A picture (.png .jpg .webp).")] = Path("toy_sampler.png")


@dataclass(frozen=True, kw_only=True)
class TrajectoriesCommand(RunData, Conditions, WhereRun):
    """The ways of 2-D points from the same noises, with an ODE sampler and with an SDE sampler."""

    output: Annotated[Path, Doc("A picture (.png .jpg .webp).")] = Path("trajectories.png")
    num: Annotated[int, Doc("How many points."), Interval(ge=1, le=100 * SHOWN)] = 24
    guidance: Annotated[float, Doc("w of u + w (c - u).")] = 1.0
    ode: Annotated[str, Doc("The sampler on the left.")] = "heun"
    sde: Annotated[str, Doc("The sampler on the right.")] = "sde"
    steps: Annotated[int, Doc("Number of steps of both."), STEPS] = 100
    grid: Annotated[str | None, Doc("Where the steps lie; see `ebbflow list grids`. Default: the run's.")] = None
    seed: Seed = 0
