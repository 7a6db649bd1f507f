"""The configuration of a run: frozen dataclasses, read from TOML, settings a.b=c and JSON, with errors that name the
key and the cure."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from ebbflow.conditioning import CONDITIONINGS, AutoConditioning, Conditioning
from ebbflow.core.entries import Choice, as_choice
from ebbflow.core.paths import PATHS, Flow, Path
from ebbflow.core.predictions import EDM, PREDICTIONS
from ebbflow.core.times import TIME_GRIDS, TIME_SAMPLERS
from ebbflow.core.weights import WEIGHTS
from ebbflow.errors import ConfigError, choose, nearest
from ebbflow.methods.maps import MAPS
from ebbflow.methods.sampling import check_sampler
from ebbflow.nets import NETS, NetOptions
from ebbflow.nets.autoencoder import AutoencoderOptions
from ebbflow.nets.classifier import ClassifierOptions
from ebbflow.nets.unet import UNetOptions

Count = Annotated[int, Field(ge=1)]
Interval = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, le=1e38)]  # what float32 holds
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data.

    Args:
        name: a name of `ebbflow list datasets`, an image folder, or an .npz file.
        dir: where data sets lie or are downloaded to.
        size: resize images to this side.
        channels: convert images to 1, 3 or 4 channels.
        skip_bad: leave unreadable images out instead of stopping.
    """

    name: str = "digits"
    dir: str | None = None
    size: Count | None = None
    channels: Literal[1, 3, 4] | None = None
    skip_bad: bool = False


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What the net learns.

    Args:
        prediction, times, weight: names of `ebbflow list predictions`, `times` and `weights`, or {kind = name, option =
            value} to set their own numbers. A run on latents takes "edm" with sigma_data = 1, unless one is given.
        clock: what the net is told of t; "auto" is log_snr, or for a net that jumps unit, which is gentle.
        variance: "learned" adds a variance of the ancestral step, trained by `vlb_weight` times the variational bound.
        time_bins: bins of times = "importance"; the path's table bounds them.
        uncertainty: learn beside the net how large the loss has to be at each noise level, and divide by it.
        map: a name of `ebbflow list maps`: part of each batch learns to jump, for the sampler flow_map.
        diagonal, pairs, adaptive: of a map; see `MapObjective`.
    """

    prediction: Choice = "velocity"
    times: Choice = "logit_normal"
    weight: Choice = "uniform"
    clock: Literal["auto", "log_snr", "time", "unit"] = "auto"
    variance: Literal["fixed", "learned"] = "fixed"
    vlb_weight: Annotated[float, Field(ge=0)] = 0.001
    time_bins: Count = 100
    uncertainty: bool = False
    map: Choice | None = None
    diagonal: Share = 0.5
    pairs: Choice = "uniform"
    adaptive: Share = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "prediction", _said(self.prediction))
        object.__setattr__(self, "times", as_choice(TIME_SAMPLERS, self.times, "time sampling"))
        object.__setattr__(self, "weight", as_choice(WEIGHTS, self.weight, "weighting"))
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
        num_steps: length of the run.
        batch_size, lr, weight_decay, clip: of the optimiser (AdamW; `clip` the largest gradient norm).
        accumulate: microbatches that a step's batch is worked on in; the result is the same up to rounding.
        warmup_steps, schedule, lr_decay_step, lr_decay_rate: of the learning rate.
        seed: of initialisation, data order, times and noise.
        save_every, keep: checkpoints; the newest `keep` and the best are kept.
        sample_every, held_out_every, log_every: sample grids, held-out loss, lines of metrics.jsonl.
        held_out_size: samples of the held-out loss.
    """

    num_steps: Count = 1000
    batch_size: Count = 128
    lr: Rate = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip: Positive = 1.0
    accumulate: Count = 1
    warmup_steps: Interval = 100
    schedule: Literal["constant", "cosine", "step"] = "cosine"
    lr_decay_step: Count = 1000
    lr_decay_rate: Annotated[float, Field(gt=0, le=1)] = 0.5
    seed: Annotated[int, Field(ge=0)] = 0
    save_every: Interval = 500
    keep: Count = 2
    sample_every: Interval = 500
    held_out_every: Interval = 250
    log_every: Count = 10
    held_out_size: Count = 512


@dataclass(frozen=True, kw_only=True)
class LatentConfig:
    """The latent space that the run works in.

    Args:
        autoencoder: a folder of `ebbflow train-autoencoder`, or "hf:" and the folder or hub name of a diffusers
            AutoencoderKL; None works on the data itself.
    """

    autoencoder: str | None = None


@dataclass(frozen=True, kw_only=True)
class EmaConfig:
    """The moving average of the weights that sampling uses."""

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.999


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Where it runs: "auto", "cpu", "cuda", "cuda:1", "mps"; "auto" precision is bf16 where the hardware multiplies
    it."""

    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """How the run is sampled unless the command says otherwise.

    Args:
        sampler, num_steps, options: a name of `ebbflow list samplers`, at least 1 step, and options of it.
        grid: a name of `ebbflow list grids`, or {kind = name, option = value}.
        guidance, clip: w of u + w (c - u); keep x0 inside [-1, 1].
    """

    sampler: str = "heun"
    num_steps: Count = 10
    grid: Choice = "uniform"
    guidance: Finite = 2.0
    clip: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", as_choice(TIME_GRIDS, self.grid, "time grid"))
        check_sampler(self.sampler, self.options)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that makes a run what it is."""

    data: DataConfig = DataConfig()
    net: NetOptions = UNetOptions()
    path: Path = Flow()
    objective: ObjectiveConfig = ObjectiveConfig()
    conditioning: Conditioning = AutoConditioning()
    latent: LatentConfig = LatentConfig()
    train: TrainConfig = TrainConfig()
    ema: EmaConfig = EmaConfig()
    engine: EngineConfig = EngineConfig()
    sample: SampleConfig = SampleConfig()


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """Everything that makes a noisy classifier what it is; of `train`, sampling has no part in it."""

    data: DataConfig = DataConfig()
    classifier: ClassifierOptions = ClassifierOptions()
    path: Path = Flow()
    train: TrainConfig = TrainConfig(weight_decay=0.05)
    engine: EngineConfig = EngineConfig()


@dataclass(frozen=True, kw_only=True)
class AutoencoderTrainConfig(TrainConfig):
    """How an autoencoder is trained: as in `TrainConfig` (`sample_every` is of the reconstruction picture), and

    Args:
        loss: "l1" or "mse" of the reconstruction, a mean over the image.
        kl_weight: weight of the KL divergence, in nats over the number of the image's values.
    """

    num_steps: Count = 2000
    lr: Rate = 2e-3
    loss: Literal["l1", "mse"] = "mse"
    kl_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-3


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Everything that makes an autoencoder what it is."""

    data: DataConfig = DataConfig()
    autoencoder: AutoencoderOptions = AutoencoderOptions()
    train: AutoencoderTrainConfig = AutoencoderTrainConfig()
    engine: EngineConfig = EngineConfig()


KINDS: dict[str, tuple[Mapping[str, type[Any]], str]] = {
    "net": (NETS, "unet"),
    "path": (PATHS, "flow"),
    "conditioning": (CONDITIONINGS, "auto"),
}
Layer = dict[str, dict[str, Any]]
AnyConfig = RunConfig | ClassifierConfig | AutoencoderConfig
C = TypeVar("C", RunConfig, ClassifierConfig, AutoencoderConfig)


def parse(values: Mapping[str, Any]) -> RunConfig:
    """The configuration of a run from nested values, e.g. {"net": {"kind": "dit", "depth": 4}}; see `parse_as`."""
    return parse_as(RunConfig, values)


def parse_as(cls: type[C], values: Mapping[str, Any]) -> C:
    """The configuration of class `cls`, its sections' defaults overlaid by `values`.

    Raises:
        ConfigError: unknown section, kind or key; a value of the wrong type or out of range.
    """
    defaults = {f.name: f.default for f in fields(cls)}
    sections = {}
    for name, given in values.items():
        if name not in defaults:
            raise ConfigError(f"unknown section {name!r} of the configuration. {nearest(name, list(defaults))}")
        _require_keys(name, given)
        default: Any = defaults[name]
        sections[name] = (
            _of_kind(name, dict(given))
            if name in KINDS
            else _checked(type(default), _over(asdict(default), given), name)
        )
    return cls(**sections)


def _require_keys(name: str, given: Any) -> None:
    if not isinstance(given, Mapping):
        raise ConfigError(f"section {name!r} must hold keys, got {given!r}. Write {name}.key=value.")


def _of_kind(name: str, given: dict[str, Any]) -> Any:
    registry, default = KINDS[name]
    kind = given.pop("kind", default)
    return _checked(choose(registry, kind, f"{name}.kind"), given, name, f" of kind {kind!r}")


def _checked(cls: type[Any], given: dict[str, Any], section: str, of_kind: str = "") -> Any:
    known = [f.name for f in fields(cls)]
    for key in given:
        if key not in known:
            hint = nearest(key, known) if known else "It has no keys."
            raise ConfigError(f"unknown key '{section}.{key}'{of_kind and ' (' + section + of_kind + ')'}. {hint}")
    try:
        return TypeAdapter(cls).validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([section, *(str(part) for part in first["loc"])])
        message = first["msg"].removeprefix("Value error, ")
        message = re.sub(r"`(\w+)`", lambda key: f"`{section}.{key[1]}`" if key[1] in known else key[0], message)
        got = "" if first["type"] == "value_error" else f", got {first['input']!r}"
        raise ConfigError(f"{where}: {message[0].lower() + message[1:]}{got}") from error


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


def merge(*layers: Mapping[str, Mapping[str, Any]]) -> Layer:
    """Layers one over the other; a layer that changes a section's kind replaces the section, because the keys of kinds
    differ, and so it is with an entry and its options, and with a sampler and its options."""
    merged: Layer = {}
    for layer in layers:
        for name, given in layer.items():
            _require_keys(name, given)
            below = merged.get(name, {})
            replaced = "kind" in given and given["kind"] != below.get("kind", KINDS.get(name, ({}, None))[1])
            merged[name] = _over({} if replaced else below, given)
    return merged


def _over(below: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a section, or of an entry's options, over those below."""
    kept = dict(below)
    if given.get("sampler", below.get("sampler")) != below.get("sampler"):
        kept.pop("options", None)
    for key, value in given.items():
        kept[key] = _entry_over(below.get(key), value) if isinstance(value, Mapping) else value
    return kept


def _entry_over(below: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Options over an entry: they join those of the same kind and replace those of another; none at all empty them."""
    named = {"kind": below} if isinstance(below, str) else dict(below) if isinstance(below, Mapping) else {}
    same_kind = given.get("kind", named.get("kind")) == named.get("kind")
    return _over(named, given) if given and same_kind else dict(given)


def read_toml(path: FilePath) -> Layer:
    """The sections of a TOML file.

    Raises:
        ConfigError: missing or malformed.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"configuration file {path} does not exist.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"configuration file {path} cannot be read: {error}.") from error


def read_settings(settings: Mapping[str, Any]) -> Layer:
    """The layer of settings "section.key": value, with as many keys as there are tables in each other; names come
    before the options of what they name, in whatever order they are given.

    Raises:
        ConfigError: not of that form.
    """
    found = sorted(_leaves(settings), key=lambda one: (len(one[0]), one[0][-1] != "kind"))
    return merge(*(_nested(keys, value) for keys, value in found))


def _leaves(settings: Mapping[str, Any], before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in settings.items():
        keys = (*before, *name.strip().split("."))
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, keys)
        elif len(keys) < 2 or not all(keys):
            raise ConfigError(f"a setting is section.key=value, for example train.lr=3e-4; got {'.'.join(keys)!r}.")
        else:
            yield keys, value


def _nested(keys: Sequence[str], value: Any) -> Layer:
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def preset_folder() -> FilePath:
    """Where the shipped presets lie: inside an installed package, or at the root of a checkout."""
    packaged = FilePath(__file__).parent / "configs"
    return packaged if packaged.is_dir() else FilePath(__file__).parents[2] / "configs"


def presets() -> dict[str, FilePath]:
    """The shipped presets by name."""
    return {path.stem: path for path in sorted(preset_folder().glob("*.toml"))}


def read_preset(name: str) -> Layer:
    """The sections of the preset called `name`."""
    return read_toml(choose(presets(), name, "preset"))
