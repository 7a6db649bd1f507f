"""`ebbflow train`, `train-classifier` and `train-autoencoder`: one way from a request to a training."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebbflow.cli.common import print_json, print_rows, this_command
from ebbflow.cli.errors import at_batch_size
from ebbflow.cli.progress import follow, stop_on_interrupt, tell
from ebbflow.errors import ConfigError
from ebbflow.requests.base import entries
from ebbflow.requests.training import Settings, TrainAutoencoderRequest, TrainClassifierRequest, TrainRequest

if TYPE_CHECKING:
    from ebbflow.config import Layer, RunConfig
    from ebbflow.data import Splits
    from ebbflow.runs import Trainer
    from ebbflow.runs.autoencoder import AutoencoderTrainer
    from ebbflow.runs.train_classifier import ClassifierTrainer

DEFAULT_PRESET = "digits"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What is trained.

    Args:
        config: class of its configuration.
        load: its data.
        make: its trainer.
        what: the trainer -> what it makes of "samples of 1x8x8", in a few words.
        ready: the trainer -> whether there is nothing left to do.
        facts: the trainer -> what `--json` says at the end besides folder and step.
        use: how it is used, from folder and data.
    """

    config: Any
    load: Callable[[Any], Splits]
    make: Any
    what: Callable[[Any], str]
    ready: Callable[[Any], bool]
    facts: Callable[[Any], dict[str, Any]]
    use: str


def train(request: TrainRequest) -> int:
    """Train a model, or go on with it where its folder stands.

    It may be stopped at any time: the same command goes on, and the run is the same run, bit for bit on a CPU.
    """
    from ebbflow.config import RunConfig, read_preset
    from ebbflow.runs import Trainer, load_splits

    kind = Kind(
        config=RunConfig,
        load=load_splits,
        make=Trainer,
        what=_model,
        ready=lambda trainer: trainer.start >= trainer.config.train.num_steps,
        facts=lambda trainer: {},
        use="sample it with: ebbflow sample --ckpt {folder} --output samples.png",
    )
    name = request.preset or DEFAULT_PRESET
    own = request.config.stem if request.config else Path(request.data).stem if request.data else name
    return _run(kind, request, name if request.preset else own, read_preset(name))


def train_classifier(request: TrainClassifierRequest) -> int:
    """Train a noisy classifier for `ebbflow sample --classifier`, or go on with it."""
    from ebbflow.config import ClassifierConfig
    from ebbflow.runs import load_splits
    from ebbflow.runs.train_classifier import ClassifierTrainer

    kind = Kind(
        config=ClassifierConfig,
        load=load_splits,
        make=ClassifierTrainer,
        what=_classifier,
        ready=lambda trainer: trainer.start >= trainer.config.train.num_steps,
        facts=_accuracy,
        use="use it with: ebbflow sample --ckpt RUN --classifier {folder} --output samples.png",
    )
    return _run(kind, request, "{data}_classifier")


def train_autoencoder(request: TrainAutoencoderRequest) -> int:
    """Train an autoencoder for latent diffusion, or go on with it.

    `ebbflow train --set latent.autoencoder=FOLDER` works in its codes. Settings of its own are such as
    autoencoder.channels=[32,64], autoencoder.latent_channels=8, train.loss=l1 and train.kl_weight=1e-3.
    """
    from ebbflow.config import AutoencoderConfig
    from ebbflow.runs.autoencoder import AutoencoderTrainer, load_images

    kind = Kind(
        config=AutoencoderConfig,
        load=load_images,
        make=AutoencoderTrainer,
        what=_autoencoder,
        ready=lambda trainer: trainer.is_finished,
        facts=lambda trainer: {},
        use="use it with: ebbflow train --data {data} --set latent.autoencoder={folder}",
    )
    return _run(kind, request, "{data}_autoencoder")


def _model(trainer: Trainer) -> str:
    objective, path = trainer.config.objective.prediction, type(trainer.config.path).__name__
    latent = trainer.facts.latent_dims
    space = f" as latents of {_shape(latent)}" if latent else ""
    return f"{space}; {type(trainer.net.net).__name__} of {trainer.num_parameters:,} parameters; {objective} on {path}"


def _classifier(trainer: ClassifierTrainer) -> str:
    num = sum(p.numel() for p in trainer.net.parameters())
    return (
        f" in {len(trainer.facts.label_names)} classes; noisy classifier of {num:,} parameters at the noise levels of "
        f"{type(trainer.config.path).__name__}"
    )


def _autoencoder(trainer: AutoencoderTrainer) -> str:
    return f" as latents of {_shape(trainer.latent_dims)}; autoencoder of {trainer.num_parameters:,} parameters"


def _accuracy(trainer: ClassifierTrainer) -> dict[str, Any]:
    found = trainer.accuracy
    return {
        "held_out": found and found.loss,
        "accuracy": found and found.accuracy,
        "accuracy_by_log_snr": found and found.by_log_snr,
    }


def _shape(dims: tuple[int, ...]) -> str:
    return "x".join(map(str, dims))


# -- the configuration -------------------------------------------------------------------------------------------------


def resolved(kind: Kind, request: Settings, *below: Layer) -> tuple[Any, Splits]:
    """The configuration, from `below`, the file, the settings and the flags, and the data."""
    from ebbflow.config import merge, parse_as, read_settings

    file = [] if request.config is None else [read_layer(request.config)]
    config = parse_as(kind.config, merge(*below, *file, read_settings(lines_of(request.settings)), flags_of(request)))
    splits = kind.load(config)
    if request.epochs is not None:
        steps = math.ceil(request.epochs * len(splits.train) / config.train.batch_size)
        config = replace(config, train=replace(config.train, num_steps=steps))
    return config, splits


def read_layer(path: Path) -> Layer:
    """The sections of a TOML file, or of the config.json that a run keeps.

    Raises:
        ConfigError: missing or malformed.
    """
    from ebbflow.config import read_toml

    if path.suffix.lower() != ".json":
        return read_toml(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["config"]
        return {name: {key: v for key, v in section.items() if v is not None} for name, section in found.items()}
    except FileNotFoundError as error:
        raise ConfigError(f"configuration file {path} does not exist.") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"configuration file {path} is no config.json of a run.") from error


def flags_of(request: Settings) -> Layer:
    """The keys of the configuration that fields of the request set."""
    layer: Layer = {}
    for entry in entries(type(request)).values():
        value = getattr(request, entry.name)
        if entry.sets and value != entry.default:
            section, key = entry.sets.split(".")
            layer.setdefault(section, {})[key] = str(value) if isinstance(value, Path) else value
    if request.lr_decay_step or request.lr_decay_rate:
        layer.setdefault("train", {})["schedule"] = "step"
    return layer


def lines_of(settings: dict[str, Any], before: str = "") -> list[str]:
    """Settings, also nested ones of a request's file, as lines section.key=value."""
    lines = []
    for name, value in settings.items():
        if isinstance(value, dict):
            lines += lines_of(value, f"{before}{name}.")
        else:
            lines.append(f"{before}{name}={json.dumps(value, default=str)}")
    return lines


def as_toml(sections: Layer) -> str:
    """The sections as a file that `--config` reads; what is None is left out."""
    blocks = []
    for name, values in sections.items():
        lines = [f"{key} = {_toml(value)}" for key, value in values.items() if value is not None]
        blocks.append("\n".join([f"[{name}]", *lines]))
    return "\n\n".join(blocks)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    return repr(value) if isinstance(value, float) else json.dumps(value)


# -- training ----------------------------------------------------------------------------------------------------------


def _run(kind: Kind, request: Settings, name: str, *below: Layer) -> int:
    """Train to the end or until it is stopped, or only describe it; `name` is of the folder in runs/."""
    config, splits = resolved(kind, request, *below)
    with at_batch_size(config.train.batch_size):
        if request.dry_run:
            return _describe(config, splits, as_json=request.json)
        data = Path(config.data.name).stem
        return _train(kind, config, splits, request.save_dir or Path("runs") / name.format(data=data), request.json)


def _train(kind: Kind, config: Any, splits: Splits, folder: Path, as_json: bool) -> int:
    from ebbflow.config import RunConfig

    with redirect_stdout(sys.stderr if as_json else sys.stdout), stop_on_interrupt() as should_stop:
        if isinstance(config, RunConfig) and config.latent.autoencoder is not None:
            tell(f"encoding {len(splits.train):,} images once with {config.latent.autoencoder}")
        trainer = kind.make(config, splits, folder, command=this_command(), should_stop=should_stop)
        start = f"; going on from step {trainer.start}" if trainer.start else ""
        dtype = str(trainer.dtype).removeprefix("torch.")
        tell(
            f"{config.data.name}: {len(splits.train):,} samples of {_shape(trainer.facts.dims)}{kind.what(trainer)}; "
            f"{trainer.device.type}, {dtype}{start}"
        )
        ready = kind.ready(trainer)
        finished = ready or follow(trainer)
    if not finished:
        print(f"stopped; the same command goes on from {folder}.", file=sys.stderr)
        return 130
    facts = kind.facts(trainer)
    if as_json:
        print_json({"folder": str(folder), "step": max(trainer.start, config.train.num_steps), **facts})
        return 0
    if ready:
        tell(
            f"{folder} is already trained for {trainer.start} steps. Give more with --max-steps, or another --save-dir."
        )
    elif by_log_snr := facts.get("accuracy_by_log_snr"):
        rows = {
            "log-SNR": "held-out accuracy",
            **{k: f"{v:.3f}" for k, v in by_log_snr.items()},
            "all": f"{facts['accuracy']:.3f}",
        }
        print_rows([{"name": name, "value": value} for name, value in rows.items()])
    tell(f"done: {folder}\n{kind.use.format(folder=folder, data=config.data.name)}")
    return 0


def _describe(config: Any, splits: Splits, *, as_json: bool) -> int:
    """Print the resolved configuration and, of a model, its parameters, FLOPs and the time of a step, measured."""
    from ebbflow.config import RunConfig, to_dict
    from ebbflow.runs.cost import measure_cost

    cost = measure_cost(config, splits) if isinstance(config, RunConfig) else {"config": to_dict(config)}
    if as_json:
        print_json({**cost, "num_samples": len(splits.train)})
        return 0
    print(
        f"{as_toml(cost['config'])}\n\n# {len(splits.train):,} samples to train on, {len(splits.held_out):,} held out"
    )
    if isinstance(config, RunConfig):
        print(_costs(cost, config))
    return 0


def _costs(cost: dict[str, Any], config: RunConfig) -> str:
    return (
        f"# {cost['num_parameters']:,} parameters, "
        f"{cost['forward_flops_per_sample'] / 1e6:,.1f} MFLOP forward a sample\n"
        f"# {cost['seconds_per_step']:.3f} s a step, {cost['seconds_per_epoch']:,.0f} s an epoch, "
        f"{cost['seconds_in_all'] / 60:,.1f} min for {config.train.num_steps} steps on this machine"
    )
