"""What may be asked of the server: how it listens, and what its clients send."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Interval

from ebbflow.requests.base import Doc, Flag, Place
from ebbflow.requests.sampling import Opening
from ebbflow.requests.shared import Strength


@dataclass(frozen=True, kw_only=True)
class Listening:
    """Server."""

    host: Annotated[
        str, Doc("Address to listen on; any but this machine's own (127.0.0.1, ::1, localhost) needs a token.")
    ] = "127.0.0.1"
    port: Annotated[int, Interval(ge=0, le=65535), Doc("Port to listen on; 0 takes a free one.")] = 8000
    token_file: Annotated[Path | None, Doc("A file whose one line every request must bring: Bearer and the token.")] = (
        None
    )


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits."""

    batch_size: Annotated[int, Ge(1), Doc("Samples that walk together at most.")] = 64
    batching: Annotated[bool, Doc("Let requests share batches.")] = True
    queue: Annotated[int, Ge(1), Doc("Samples that may wait; beyond it the answer is 429 and when to ask again.")] = 512
    timeout: Annotated[float, Gt(0), Doc("Seconds until a request is given up.")] = 300.0
    grace: Annotated[float, Gt(0), Doc("Seconds to finish in what was begun, when the server is stopped.")] = 30.0
    most: Annotated[int, Ge(1), Doc("Images of a request at most.")] = 64
    most_steps: Annotated[int, Ge(1), Doc("Steps of a request at most.")] = 1000
    most_bytes: Annotated[int, Ge(1024), Doc("Bytes of a request at most, uploads included.")] = 16 * 2**20
    most_pixels: Annotated[int, Ge(1), Doc("Pixels of an uploaded picture, or of an answered one, at most.")] = 2**24


@dataclass(frozen=True, kw_only=True)
class ServeRequest(Limits, Listening, Opening):
    """Trained models for programs, over HTTP."""

    runs: Annotated[
        tuple[str, ...],
        Place("RUN"),
        Flag("--ckpt", each=True),
        Doc("Folders of runs or of checkpoints, or hf: and a name on the hub; each is served by its folder's name."),
    ]


@dataclass(frozen=True, kw_only=True)
class Images:
    """What clients of OpenAI's images send, and what of `ebbflow sample` they may send besides."""

    prompt: Annotated[
        str, Doc("What to make: a text for models of text, the name of a class for models of classes; empty for any.")
    ] = ""
    model: Annotated[str | None, Doc("One of /v1/models. Default: the first.")] = None
    n: Annotated[int, Ge(1), Doc("How many images.")] = 1
    size: Annotated[
        str, Doc("WIDTHxHEIGHT: the model's own size or a whole multiple of it, enlarged pixel by pixel; or auto.")
    ] = "auto"
    response_format: Annotated[Literal["b64_json"], Doc("Images come in the answer itself.")] = "b64_json"
    output_format: Annotated[Literal["png", "webp", "jpeg"], Doc("Kind of file of each image.")] = "png"
    stream: Annotated[bool, Doc("Answer with server-sent events.")] = False
    partial_images: Annotated[
        int, Interval(ge=0, le=100), Doc("With stream: how many glimpses of the way, each the estimate of x0.")
    ] = 0
    label: Annotated[str | int | None, Doc("The class, by index or name; none for no condition.")] = None
    vector: Annotated[tuple[float, ...] | None, Doc("Numbers, for runs trained on vectors.")] = None
    seed: Annotated[int | None, Ge(0), Doc("Seed of the first image; the next ones count up. Default: drawn.")] = None
    steps: Annotated[int | None, Ge(1), Doc("Number of steps. Default: the run's.")] = None
    sampler: Annotated[str | None, Doc("A name of `ebbflow list samplers`. Default: the run's.")] = None
    grid: Annotated[str | None, Doc("Where the steps lie, a name of `ebbflow list grids`. Default: the run's.")] = None
    options: Annotated[dict[str, Any] | None, Doc("Options of the sampler, such as eta, or of the grid.")] = None
    guidance: Annotated[float | None, Doc("w of u + w (c - u): 1 is conditional. Default: the run's.")] = None
    clip: Annotated[bool | None, Doc("Keep every x0 on the way inside [-1, 1]. Default: the run's.")] = None
    user: Annotated[str | None, Doc("Taken for the sake of clients that send it; has no effect.")] = None


@dataclass(frozen=True, kw_only=True)
class GenerationRequest(Images):
    """Images out of nothing: the body of POST /v1/images/generations."""

    negative_label: Annotated[str | int | None, Doc("The class that guidance moves away from.")] = None
    negative_prompt: Annotated[str | None, Doc("The text that guidance moves away from.")] = None


@dataclass(frozen=True, kw_only=True)
class ImageEditRequest(Images):
    """Images out of an image: the fields of the form of POST /v1/images/edits, beside the files `image` and `mask`."""

    strength: Strength | None = None
    resample: Annotated[
        int, Interval(ge=1, le=100), Doc("With a mask: walk every piece of the way so often, which blends better.")
    ] = 1
    jump: Annotated[int, Ge(1), Doc("Steps of a piece that is resampled.")] = 1


@dataclass(frozen=True, kw_only=True)
class StudioRequest(Limits, Listening, Opening):
    """A page on the runs of a folder."""

    folder: Annotated[Path, Place(), Doc("The folder that holds the runs; new ones are put there too.")] = Path("runs")
    data_root: Annotated[
        Path, Doc("Besides that folder, the only one below which a training that the page starts may name files.")
    ] = Path()


@dataclass(frozen=True, kw_only=True)
class NewTraining:
    """What every training that is started from the page is told."""

    name: Annotated[str, Doc("Of the folder: letters, digits, - and _.")]
    max_steps: Annotated[int | None, Ge(1), Doc("Length in optimiser steps.")] = None
    batch_size: Annotated[int | None, Ge(1), Doc("Samples a step.")] = None
    lr: Annotated[float | None, Gt(0), Doc("Peak learning rate.")] = None
    seed: Annotated[int | None, Ge(0), Doc("Seed of everything random in it.")] = None
    settings: Annotated[dict[str, Any] | None, Doc("section.key and a value, such as train.clip and 0.5.")] = None


@dataclass(frozen=True, kw_only=True)
class NewRunRequest(NewTraining):
    """A training that is started from the page: what `ebbflow train` is told."""

    preset: Annotated[str, Doc("A shipped configuration; see `ebbflow list presets`.")] = "digits"
    data: Annotated[
        str | None, Doc("A data set's name, or a folder or .npz file below the data root. Default: the preset's.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class NewStudentRequest(NewTraining):
    """A model of few jumps that the page has distilled from a run: what `ebbflow distill` is told."""

    run: Annotated[str, Doc("The run that teaches, by its name on the page.")]
    guidance: Annotated[float | None, Doc("Guidance that is built in. Default: what the run has built in, or 1.")] = (
        None
    )
    pairs: Annotated[
        int | None,
        Ge(1),
        Doc("Learn on so many pairs of a noise and where the run takes it, in the place of the data."),
    ] = None
