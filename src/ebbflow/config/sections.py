"""The sections of a configuration, and the three kinds of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval

from ebbflow.conditioning import CONDITIONINGS, AutoConditioning, Conditioning
from ebbflow.core.entries import Choice, as_choice
from ebbflow.core.paths import PATHS, Flow, Path
from ebbflow.core.predictions import EDM, PREDICTIONS
from ebbflow.core.times import TIME_GRIDS, TIME_SAMPLERS
from ebbflow.core.weights import WEIGHTS
from ebbflow.data import Columns
from ebbflow.errors import ConfigError, choose
from ebbflow.methods.couplings import COUPLINGS
from ebbflow.methods.maps import MAPS
from ebbflow.methods.samplers.best import AUTO
from ebbflow.methods.sampling import check_sampler
from ebbflow.nets import NETS, NetOptions
from ebbflow.nets.autoencoder import AutoencoderOptions
from ebbflow.nets.classifier import ClassifierOptions
from ebbflow.nets.unet import UNetOptions
from ebbflow.training.ema import EMAS, EmaOptions, ExponentialOptions
from ebbflow.training.engine import Engine
from ebbflow.training.optim import OPTIMISERS, AdamWOptions, OptimiserOptions
from ebbflow.training.trackers import TRACKERS
from ebbflow.values import Positive, Share

Count = Annotated[int, Ge(1)]
Every = Annotated[int, Ge(0)]
Rate = Annotated[float, Interval(gt=0, le=1e6)]
Guided = Annotated[float, Interval(ge=-1e6, le=1e6)]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data.

    Args:
        name: a name of `ebbflow list datasets`, an image folder, an .npz file, shards such as "shards/*.tar", or
            parquet: a folder or a pattern of it, or "hf:USER/NAME@REVISION" of the Hugging Face hub.
        dir: where data sets lie or are downloaded to.
        size: resize images to this side, or to [height, width].
        channels: convert images to 1, 3 or 4 channels.
        skip_bad: leave unreadable images out instead of stopping.
        held_out: the share of a folder or an .npz file that is not trained on, below 1; by default a tenth.
        flip: mirror images at random, left for right, in training.
        crop: cut images in training to a random square that has lost at most this share of its side.
        on_demand: read the images of a folder when they are asked for, as those of shards and parquet always are, and
            train on them in an order that takes no memory.
        columns: of parquet, the names of its columns of images, labels and captions, where they are no usual ones.
        buckets: sizes [height, width], such as [[32, 32], [24, 40]]: each image is trained on at the one whose
            proportions are nearest its own, and a batch is of one of them. Held-out loss, measures and samples are of
            the first, unless samples are asked for at another.
    """

    name: str = "digits"
    dir: str | None = None
    size: Count | tuple[Count, Count] | None = None
    channels: Literal[1, 3, 4] | None = None
    skip_bad: bool = False
    held_out: Annotated[float, Interval(ge=0, lt=1)] | None = None
    flip: bool = False
    crop: Annotated[float, Interval(ge=0, le=0.9)] = 0.0
    on_demand: bool = False
    columns: Columns = Columns()
    buckets: tuple[tuple[Count, Count], ...] = ()

    def __post_init__(self) -> None:
        if self.buckets and self.size is not None:
            raise ValueError("`size` and `buckets` both say to what size images are brought. Leave `size` out.")


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What the net learns.

    Args:
        prediction, times, weight: names of `ebbflow list predictions`, `times` and `weights`, or {kind = name, option =
            value} to set their own numbers. A run on latents takes "edm" with sigma_data = 1, the deviation that they
            are scaled to, unless a sigma_data is given.
        clock: what the net is told of t; "auto" is log_snr, and unit, which is gentle, for a net that jumps.
        guidance: w of u + w (c - u) that is built into the model, so that guided samples cost half as much; 1 builds
            none in. The condition has to be dropped sometimes.
        guidance_below: the largest t that it is built in at.
        coupling: which noise meets which data: a name of `ebbflow list couplings`, or {kind = name, option = value}.
        variance: "learned" adds a variance of the ancestral step to the net's output, trained by `vlb_weight` times the
            variational bound.
        time_bins: bins of times = "importance"; the path's table bounds them.
        uncertainty: learn beside the net how large the loss has to be at each noise level, and divide by it.
        map: a name of `ebbflow list maps`: part of each batch learns to jump, for the sampler flow_map.
        diagonal, pairs, adaptive: of a map; see `MapObjective`.
    """

    prediction: Choice = "velocity"
    times: Choice = "logit_normal"
    weight: Choice = "uniform"
    clock: Literal["auto", "log_snr", "time", "unit"] = "auto"
    coupling: Choice = "independent"
    variance: Literal["fixed", "learned"] = "fixed"
    vlb_weight: Annotated[float, Interval(ge=0, le=1e6)] = 0.001
    time_bins: Count = 100
    uncertainty: bool = False
    map: Choice | None = None
    diagonal: Share = 0.5
    pairs: Choice = "uniform"
    adaptive: Share = 0.0
    guidance: Annotated[float, Interval(ge=1, le=1e6)] = 1.0
    guidance_below: Annotated[float, Interval(gt=0, le=1)] = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "prediction", _said(self.prediction))
        object.__setattr__(self, "times", as_choice(TIME_SAMPLERS, self.times, "time sampling"))
        object.__setattr__(self, "weight", as_choice(WEIGHTS, self.weight, "weighting"))
        object.__setattr__(self, "coupling", as_choice(COUPLINGS, self.coupling, "coupling"))
        object.__setattr__(self, "pairs", as_choice(TIME_SAMPLERS, self.pairs, "time sampling"))
        object.__setattr__(self, "map", self.map and as_choice(MAPS, self.map, "objective of maps"))


def _said(prediction: Any) -> Choice:
    """A prediction as `as_choice` writes it, but with a sigma_data that was given: left out, it depends on the data."""
    chosen = as_choice(PREDICTIONS, prediction, "prediction")
    given = isinstance(prediction, Mapping) and "sigma_data" in prediction
    return {"kind": "edm", "sigma_data": EDM().sigma_data} if given and chosen == "edm" else chosen


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How it is trained; all intervals in optimiser steps, 0 for never.

    Args:
        num_steps: length of the run; none where `minutes` says it.
        minutes: length as minutes of work: the steps alone count, no measuring, drawing or saving. The learning rate
            follows the share of them that is spent, and a run that was stopped goes on with the rest.
        batch_size, lr, weight_decay, clip: of the optimiser (`clip` the largest gradient norm).
        accumulate: microbatches that a step's batch is worked on in; the result is the same up to rounding.
        warmup_steps, schedule, lr_decay_step, lr_decay_rate: of the learning rate.
        seed: of initialisation, data order, times and noise.
        save_every, keep: checkpoints; the newest `keep` and the best are kept.
        sample_every, held_out_every, log_every: sample grids, held-out loss, lines of metrics.jsonl.
        held_out_size: samples of the held-out loss.
        trackers: that are given metrics and pictures too: tensorboard, wandb.
        skip_nonfinite: how many steps of the run whose loss or gradient is not finite are passed over, each of them
            said, before it stops with the cause.
    """

    num_steps: Count | None = 1000
    minutes: Positive | None = None
    batch_size: Count = 128
    lr: Rate = 1e-3
    weight_decay: Annotated[float, Interval(ge=0, le=1e6)] = 0.0
    clip: Positive = 1.0
    accumulate: Count = 1
    warmup_steps: Every = 100
    schedule: Literal["constant", "cosine", "step"] = "cosine"
    lr_decay_step: Count = 1000
    lr_decay_rate: Annotated[float, Interval(gt=0, le=1)] = 0.5
    seed: Annotated[int, Ge(0)] = 0
    save_every: Every = 500
    keep: Count = 2
    sample_every: Every = 500
    held_out_every: Every = 250
    log_every: Count = 10
    held_out_size: Count = 512
    skip_nonfinite: Every = 0
    trackers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.trackers:
            choose(TRACKERS, name, "tracker")
        if self.minutes is not None:
            object.__setattr__(self, "num_steps", None)
        elif self.num_steps is None:
            raise ValueError("the length of the run is not said. Give `num_steps` or `minutes`.")


@dataclass(frozen=True, kw_only=True)
class LatentConfig:
    """The latent space that the run works in.

    Args:
        autoencoder: a folder of `ebbflow train-autoencoder`, or "hf:" and the folder or hub name of a diffusers
            AutoencoderKL; "train" trains one first, in the folder named as the run's with _autoencoder after it; None
            works on the data itself.
    """

    autoencoder: str | None = None


@dataclass(frozen=True, kw_only=True)
class InitConfig:
    """Where the weights start, in the place of random ones.

    Args:
        run: the folder of a run or of a checkpoint, whose averaged weights are taken; None for none.
        partial: take what fits and leave the rest as initialised, in the place of refusing it.
    """

    run: str | None = None
    partial: bool = False


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """Another run that is learned from, frozen: what it says of the data's noised states, or what it makes of noise.

    Args:
        run: the folder of a run or of a checkpoint, whose averaged weights teach; None for none.
        guidance: w of u + w (c - u) that the teacher is guided with, and this run has built in. Of a teacher that has
            guidance built in itself, that one.
        pairs: 0 has a map (objective.map) learn the teacher's velocity where the data is noised. Above 0, the run
            learns on so many pairs of a noise and where the teacher's ODE takes it, made before (reflow: Liu et al.,
            2022, 2209.03003).
        num_steps: of heun along that ODE, two evaluations each.
    """

    run: str | None = None
    guidance: Guided = 1.0
    pairs: Every = 0
    num_steps: Count = 20

    def __post_init__(self) -> None:
        if self.run is None and (self.guidance != 1 or self.pairs):
            raise ValueError("nobody teaches. Give teacher.run the folder of a run, or leave the rest out.")


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Where it runs: "auto", "cpu", "cuda", "cuda:1", "mps"; "auto" precision is bf16 where the hardware multiplies
    it; "auto" compiles on CUDA only, since on a CPU that does not earn its wait back.

    Args:
        workers: processes that read data on demand ahead of the training; 0 for none.
        shard: deal weights, averages and the optimiser's state out to the processes that a launcher started.
    """

    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: Literal["auto", "on", "off"] = "off"
    workers: Every = 2
    shard: bool = False

    def build(self, *, accumulate: int, clip: float) -> Engine:
        """The engine, for steps of so many microbatches."""
        return Engine(
            device=self.device,
            precision=self.precision,
            accumulate=accumulate,
            clip=clip,
            compile=self.compile,
            shard=self.shard,
        )


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """How the run is sampled unless the command says otherwise.

    Args:
        sampler, options: a name of `ebbflow list samplers`, and options of it; or "auto", which takes none.
        num_steps: at least 1; of sampler auto, network evaluations.
        grid: a name of `ebbflow list grids`, or {kind = name, option = value}.
        guidance, clip: w of u + w (c - u); keep x0 inside [-1, 1].
    """

    sampler: str = "heun"
    num_steps: Count = 10
    grid: Choice = "uniform"
    guidance: Guided = 2.0
    clip: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", as_choice(TIME_GRIDS, self.grid, "time grid"))
        if self.sampler != AUTO:
            check_sampler(self.sampler, self.options)
        elif self.options or self.grid != "uniform":
            raise ConfigError(
                "sampler auto chooses the grid too, and takes no options. Leave `grid` and `options` out."
            )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that makes a run what it is."""

    data: DataConfig = DataConfig()
    net: NetOptions = UNetOptions()
    path: Path = Flow()
    objective: ObjectiveConfig = ObjectiveConfig()
    conditioning: Conditioning = AutoConditioning()
    latent: LatentConfig = LatentConfig()
    init: InitConfig = InitConfig()
    teacher: TeacherConfig = TeacherConfig()
    train: TrainConfig = TrainConfig()
    optimiser: OptimiserOptions = AdamWOptions()
    ema: EmaOptions = ExponentialOptions()
    engine: EngineConfig = EngineConfig()
    sample: SampleConfig = SampleConfig()


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """Everything that makes a noisy classifier what it is; of `train`, sampling has no part in it."""

    data: DataConfig = DataConfig()
    classifier: ClassifierOptions = ClassifierOptions()
    path: Path = Flow()
    train: TrainConfig = TrainConfig(weight_decay=0.05)
    optimiser: OptimiserOptions = AdamWOptions()
    engine: EngineConfig = EngineConfig()


@dataclass(frozen=True, kw_only=True)
class AutoencoderTrainConfig(TrainConfig):
    """How an autoencoder is trained: as in `TrainConfig` (`sample_every` is of the reconstruction picture), and

    Args:
        loss: "l1" or "mse" of the reconstruction, a mean over the image.
        kl_weight: weight of the KL divergence, in nats over the number of the image's values.
    """

    num_steps: Count | None = 2000
    lr: Rate = 2e-3
    loss: Literal["l1", "mse"] = "mse"
    kl_weight: Annotated[float, Interval(ge=0, le=1e6)] = 1e-3


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Everything that makes an autoencoder what it is."""

    data: DataConfig = DataConfig()
    autoencoder: AutoencoderOptions = AutoencoderOptions()
    train: AutoencoderTrainConfig = AutoencoderTrainConfig()
    optimiser: OptimiserOptions = AdamWOptions()
    engine: EngineConfig = EngineConfig()


KINDS: dict[str, tuple[Mapping[str, type[Any]], str]] = {
    "net": (NETS, "unet"),
    "path": (PATHS, "flow"),
    "conditioning": (CONDITIONINGS, "auto"),
    "optimiser": (OPTIMISERS, "adamw"),
    "ema": (EMAS, "exponential"),
}
LENGTHS = ("num_steps", "minutes")  # of section `train`: one of them says how long
Layer = dict[str, dict[str, Any]]
AnyConfig = RunConfig | ClassifierConfig | AutoencoderConfig


def to_dict(config: AnyConfig) -> Layer:
    """The inverse of `parse` and `parse_as`, ready for JSON."""
    sections: Layer = {}
    for f in fields(config):
        section = getattr(config, f.name)
        assert is_dataclass(section) and not isinstance(section, type)
        kind = {"kind": kind_of(f.name, section)} if f.name in KINDS else {}
        sections[f.name] = {**kind, **asdict(section)}
    return sections


def kind_of(section: str, value: object) -> str:
    """The registry name of a section's kind."""
    return next(name for name, cls in KINDS[section][0].items() if cls is type(value))
