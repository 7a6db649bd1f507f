"""From a configuration to data, net and objective."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ebbflow.conditioning import AutoConditioning, ConditionedNet, Conditioner, DataFacts, ImageConditioning
from ebbflow.config import AnyConfig, RunConfig
from ebbflow.core.device import weighed
from ebbflow.core.entries import as_choice
from ebbflow.core.noise import fresh_weights, generator_for
from ebbflow.core.predictions import PREDICTIONS
from ebbflow.data import Dataset, Splits, load_dataset
from ebbflow.data.augment import Augmentation
from ebbflow.data.buckets import in_buckets
from ebbflow.errors import ConfigError
from ebbflow.latent import Encoded
from ebbflow.memory import require
from ebbflow.methods.couplings import Pairing
from ebbflow.methods.denoise import Denoiser, NetDenoiser, NetFlowMap
from ebbflow.methods.maps import MapObjective
from ebbflow.methods.objective import Objective
from ebbflow.nets.mlp import MLPOptions
from ebbflow.training.batches import Batch, permutation, shuffled
from ebbflow.training.task import Draw
from ebbflow.training.world import here

NUM_EXAMPLES = 10  # captions or vectors of the data that a run remembers, for its sample grids


def load_splits(config: AnyConfig, few: int | None = None) -> Splits:
    """The data of whatever is trained; of a folder no more than `few` pictures, spread over it."""
    data, conditioning = config.data, getattr(config, "conditioning", None)
    _check_buckets(config)
    splits = load_dataset(
        data.name,
        data_dir=data.dir,
        size=data.buckets[0] if data.buckets else data.size,
        channels=data.channels,
        skip_bad=data.skip_bad,
        paired=brings_pictures(conditioning),
        held_out=data.held_out,
        few=few,
        on_demand=data.on_demand or bool(data.buckets),
        columns=data.columns,
    )
    return in_buckets(splits, data.buckets) if data.buckets else splits


def _check_buckets(config: AnyConfig) -> None:
    """Refuse buckets for what takes pictures of one size.

    Raises:
        ConfigError: such a configuration.
    """
    if not config.data.buckets:
        return
    if not isinstance(config, RunConfig):
        raise ConfigError("data.buckets are of a run; autoencoders and classifiers take pictures of one size.")
    one_size = {
        "net.kind=mlp takes": isinstance(config.net, MLPOptions),
        "latent.autoencoder encodes": config.latent.autoencoder is not None,
        "conditioning.kind=image goes by": isinstance(config.conditioning, ImageConditioning),
        "objective.coupling pairs noise with": config.objective.coupling != "independent",
        "teacher.run learns from": config.teacher.run is not None,
    }
    for what, is_so in one_size.items():
        if is_so:
            raise ConfigError(f"{what} pictures of one size. Leave data.buckets out.")


def augmentation_of(config: AnyConfig, facts: DataFacts) -> Augmentation | None:
    """What is done to pictures in training; None for nothing.

    Raises:
        ConfigError: of points, or crops of what is encoded once.
    """
    data = config.data
    if not data.flip and not data.crop:
        return None
    if not facts.is_image:
        raise ConfigError(f"data.flip and data.crop are of images, and {data.name!r} holds points. Leave them out.")
    if facts.latent_dims is None:
        return Augmentation(flip=data.flip, crop=data.crop)
    if data.crop:
        raise ConfigError("data.crop cuts images anew each time, and those of a latent run are encoded once. Use 0.")
    return None  # both an image and its mirror image are encoded


def brings_pictures(conditioning: Any) -> bool:
    """Whether the condition of each sample is a picture that the data has to bring."""
    return isinstance(conditioning, ImageConditioning) and conditioning.degrade is None


def facts_of(dataset: Dataset) -> DataFacts:
    """What a model has to know of a data set."""
    captions = dict.fromkeys(caption for caption in dataset.captions or () if caption.strip())
    return DataFacts(
        dims=dataset.dims,
        is_image=dataset.is_image,
        label_names=dataset.label_names,
        captions=tuple(captions)[:NUM_EXAMPLES],
        vectors=() if dataset.vectors is None else tuple(map(tuple, dataset.vectors[:NUM_EXAMPLES].tolist())),
        latent_dims=dataset.latent_dims if isinstance(dataset, Encoded) else None,
        picture_dims=None if dataset.pictures is None else tuple(dataset.pictures.shape[1:]),
    )


def resolved(config: RunConfig, facts: DataFacts, begun_with: Any = None) -> RunConfig:
    """`config` with what was left to the data made explicit: the kind of conditioning, the clock, and the deviation of
    latents.

    Args:
        begun_with: the prediction of the run that is resumed, None for a fresh one. Runs on latents that say "edm" and
            no more are older than the default sigma_data = 1 of latents, and stay at 0.5.
    """
    prediction = config.objective.prediction
    if facts.latent_dims is None or begun_with == "edm":
        prediction = as_choice(PREDICTIONS, prediction, "prediction")
    elif prediction == "edm":
        prediction = {"kind": "edm", "sigma_data": 1.0}
    config = _told_of_gaps(config)
    config = replace(config, objective=replace(config.objective, prediction=prediction, clock=clock_of(config)))
    if isinstance(config.conditioning, AutoConditioning):
        return replace(config, conditioning=config.conditioning.resolved(facts))
    return config


def require_batch(config: AnyConfig, data: Dataset) -> None:
    """Refuse a batch that does not fit in memory even without a net.

    Raises:
        ConfigError: such a one.
    """
    latent = isinstance(config, RunConfig) and config.latent.autoencoder is not None
    values = math.prod(data.dims) // 64 if latent else 4 * math.prod(data.dims)  # data, noise, their mix, what is said
    num = config.train.batch_size
    require(4 * num * max(values, 1), f"a batch of {num}", "Lower `train.batch_size`.")


def build_objective(config: RunConfig, teacher: Denoiser | None = None) -> Objective | MapObjective:
    """The objective of a run, whose jumps `teacher` may teach."""
    o, plain = config.objective, plain_objective(config)
    if o.map is None:
        return plain
    return MapObjective(
        plain,
        map=o.map,
        diagonal=o.diagonal,
        pairs=o.pairs,
        adaptive=o.adaptive,
        teacher=teacher,
    )


def plain_objective(config: RunConfig) -> Objective:
    """The objective of a run but for its jumps.

    Raises:
        ConfigError: guidance is to be built in, and there is no condition that training drops.
    """
    o = config.objective
    if o.guidance != 1 and drop_of(config) == 0:
        raise ConfigError(
            "objective.guidance builds in guidance between a condition and none, and this run has no condition that "
            "training drops. Use a conditioning with conditioning.drop=0.1, or objective.guidance=1."
        )
    return Objective(
        config.path,
        prediction=o.prediction,
        times=o.times,
        weight=o.weight,
        variance=o.variance,
        vlb_weight=o.vlb_weight,
        of_bytes=config.latent.autoencoder is None,
        time_bins=o.time_bins,
        learn_uncertainty=o.uncertainty,
        guidance=o.guidance,
        guidance_below=o.guidance_below,
    )


def _told_of_gaps(config: RunConfig) -> RunConfig:
    """`config`, its net told of gaps where it learns a map.

    Raises:
        ConfigError: a net that cannot be.
    """
    if config.objective.map is None or jumps(config):
        return config
    if "gap" not in {f.name for f in fields(config.net)}:  # type: ignore[arg-type]
        raise ConfigError(
            f"a map wants a net that is told the gap of a jump: {type(config.net).__name__} has no option `gap`. Use "
            "net.kind=unet, dit or mlp."
        )
    return replace(config, net=replace(config.net, gap=True))  # type: ignore[type-var]


def jumps(config: RunConfig) -> bool:
    """Whether the net of a run is told the gap of a jump; nets from elsewhere need not know of it."""
    return bool(getattr(config.net, "gap", False))


def clock_of(config: RunConfig) -> Literal["log_snr", "time", "unit"]:
    """What the net of a run is told of t."""
    clock = config.objective.clock
    return clock if clock != "auto" else "unit" if jumps(config) else "log_snr"


def build_denoiser(config: RunConfig, facts: DataFacts) -> NetDenoiser:
    """A freshly initialised model, the same for the same `train.seed`.

    Raises:
        ConfigError: parts that do not fit each other or the data.
    """
    with fresh_weights(config.train.seed):
        try:
            conditioner = config.conditioning.build(facts)
            dims = facts.state_dims
            channels = dims[0] * (2 if config.objective.variance == "learned" else 1)
            seen = (dims[0] + (0 if conditioner is None else conditioner.extra_channels), *dims[1:])
            spec = None if conditioner is None else conditioner.spec
            net = weighed(
                lambda: config.net.build(seen, channels, spec), "a net like this", "Make it smaller: see section `net`."
            )
            return (NetFlowMap if jumps(config) else NetDenoiser)(
                net=ConditionedNet(net, conditioner),
                path=config.path,
                prediction=config.objective.prediction,
                clock=clock_of(config),
                make_null=None if conditioner is None else conditioner.null,
                null_trained=drop_of(config) > 0,
            )
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(str(error)) from error


def conditioner_of(denoiser: NetDenoiser) -> Conditioner | None:
    """The conditioner inside a model that `build_denoiser` made."""
    assert isinstance(denoiser.net, ConditionedNet)
    return denoiser.net.conditioner


@dataclass(frozen=True, kw_only=True)
class DatasetLoader:
    """Batches of a data set as a pure function of the step: permutations of the data, one after the other, each from
    (seed, epoch). Of several processes each has its own rows of a batch, and reads no others.

    Args:
        dataset: the data.
        cond: its conditions, or None.
        batch_size: rows a batch; may exceed the data.
        seed: of the order and of the dropping.
        conditioner: drops conditions; None leaves them all.
        drop: probability of a dropped condition.
        pairing: which rows meet the noise that would be drawn for the drawn ones; None leaves them as they are.
        noise: the noise that belongs to rows, (B, *dims); None has it drawn.
        augment: what is done to the data, drawn from (seed, step); their conditions stay as they are.
    """

    dataset: Dataset
    cond: Tensor | None
    batch_size: int
    seed: int
    conditioner: Conditioner | None = None
    drop: float = 0.0
    pairing: Pairing | None = None
    noise: Callable[[Tensor], Tensor] | None = None
    augment: Augmentation | None = None

    def batch(self, step: int) -> Batch:
        """The batch of step `step`, counted from 0."""
        size, first = len(self.dataset), step * self.batch_size
        epochs = range(first // size, (first + self.batch_size - 1) // size + 1)
        rows = torch.cat([self._order(epoch, first - epoch * size) for epoch in epochs])
        share = here().share(self.batch_size)
        mine, eps = slice(share.start, share.stop), None
        if self.pairing is not None:
            draw = Draw(seed=self.seed, step=step, rows=range(self.batch_size), num=self.batch_size)
            drawn = draw.normal(tuple(self.dataset.x0(rows[:1]).shape[1:]))
            rows, eps = self.pairing(rows, drawn), drawn[mine]
        elif self.noise is not None:
            eps = self.noise(rows[mine])
        x0 = self.dataset.x0(rows[mine])
        if self.augment is not None:
            x0 = self.augment(x0, generator_for(self.seed, "augment", step), whole=self.batch_size, first=share.start)
        cond = None if self.cond is None else self.cond[rows]
        if cond is not None and self.conditioner is not None:
            cond = self.conditioner.drop(cond, self.drop, generator_for(self.seed, "drop", step))
        return Batch(
            x0=x0,
            cond=None if cond is None else cond[mine],
            eps=eps,
            whole=self.batch_size,
            first=share.start,
        )

    @property
    def on_demand(self) -> bool:
        """Whether the data is read when it is asked for."""
        return self.dataset.on_demand

    def _order(self, epoch: int, first: int) -> Tensor:
        """The entries at places `first`, ... of an epoch, as many of a batch as lie in it."""
        size = len(self.dataset)
        places = range(max(0, first), min(size, first + self.batch_size))
        if self.dataset.on_demand:
            return shuffled(torch.arange(places.start, places.stop), size, self.seed, "epoch", epoch)
        return permutation(size, self.seed, "epoch", epoch)[places.start : places.stop]


def drop_of(config: RunConfig) -> float:
    """The probability with which training drops conditions; 0 for kinds that have none."""
    return float(getattr(config.conditioning, "drop", 0.0))


def built_in(config: RunConfig) -> float:
    """The guidance that a run's model has in it, from its own training or from its teacher; 1 for none."""
    return config.objective.guidance if config.teacher.run is None else config.teacher.guidance
