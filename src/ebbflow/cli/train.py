"""`ebbflow train`, `train-classifier` and `train-autoencoder`: one way from a request to a training."""

from __future__ import annotations

import json
import math
import shlex
import sys
import time
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebbflow.cli.chosen import DEFAULT_PRESET, below, fitting, looked, read_layer, told
from ebbflow.cli.common import print_json, print_lines, this_command
from ebbflow.cli.errors import at_batch_size
from ebbflow.cli.progress import follow, stop_on_interrupt, tell, warn
from ebbflow.requests.base import entries
from ebbflow.requests.training import (
    DistillRequest,
    ModelSettings,
    Settings,
    TrainAutoencoderRequest,
    TrainClassifierRequest,
    TrainRequest,
)

if TYPE_CHECKING:
    from ebbflow.config import Layer, RunConfig
    from ebbflow.data import Found, Splits
    from ebbflow.runs.choice import Chosen


SAMPLE = "ebbflow sample --ckpt {folder} --output samples.png"  # the command that uses a model


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What is trained.

    Args:
        config: class of its configuration.
        name: of its folder in runs/, from the data.
        use: the command that uses it, from folder and data.
    """

    config: Any
    name: str
    use: str


def train(request: TrainRequest) -> int:
    """Train a model, or go on with it where its folder stands.

    It may be stopped at any time: the same command goes on, and the run is the same run, bit for bit on a CPU.
    """
    from ebbflow.config import RunConfig

    name = request.preset or DEFAULT_PRESET
    own = request.config.stem if request.config else _called(request.data) if request.data else name
    kind = Kind(config=RunConfig, name=name if request.preset else own, use=SAMPLE)
    folder = request.save_dir or Path("runs") / kind.name
    return _run(kind, request, below(request.preset, request.config, _above(request), folder))


def distill(request: DistillRequest) -> int:
    """Train a model of few jumps from a run, or go on with it: from its weights, on its data, with its velocity,
    guided or not, in the place of the data's. The guidance is built in.

    All of the run's configuration is taken over, and its learning rate and length too; settings lie on top of it.
    """
    from ebbflow.config import RunConfig
    from ebbflow.runs.choice import Chosen
    from ebbflow.runs.teacher import student_of

    run = Path(request.run)
    kind = Kind(config=RunConfig, name="{data}_distilled", use=SAMPLE)
    into = request.save_dir or run.with_name(f"{run.name}_distilled")
    jumps = request.map is not None or request.pairs is None
    return _run(kind, replace(request, save_dir=into), Chosen(preset="", layer=student_of(request.run, jumps=jumps)))


def _called(data: str) -> str:
    """What a run is called by its data: a folder's name for a pattern in it, and no revision."""
    path = Path(data.removeprefix("hf:").partition("@")[0])
    return (path.resolve().parent.name if "*" in path.name else path.stem) or "data"


def train_classifier(request: TrainClassifierRequest) -> int:
    """Train a noisy classifier for `ebbflow sample --classifier`, or go on with it."""
    from ebbflow.config import ClassifierConfig

    kind = Kind(
        config=ClassifierConfig,
        name="{data}_classifier",
        use="ebbflow sample --ckpt RUN --classifier {folder} --output samples.png",
    )
    return _run(kind, request, fitting(_above(request)))


def train_autoencoder(request: TrainAutoencoderRequest) -> int:
    """Train an autoencoder for latent diffusion, or go on with it.

    `ebbflow train --set latent.autoencoder=FOLDER` works in its codes. Settings of its own are such as
    autoencoder.channels=[32,64], autoencoder.latent_channels=8, train.loss=l1 and train.kl_weight=1e-3.
    """
    return _run(_autoencoder_kind(), request, fitting(_above(request)))


def _autoencoder_kind() -> Kind:
    from ebbflow.config import AutoencoderConfig

    return Kind(
        config=AutoencoderConfig,
        name="{data}_autoencoder",
        use="ebbflow train --data {data} --set latent.autoencoder={folder}",
    )


# -- the configuration -------------------------------------------------------------------------------------------------


def _above(request: Settings) -> Layer:
    """What the user says: the file, the settings over it, and the flags over both."""
    from ebbflow.config import merge, one_length, read_settings

    file = {} if request.config is None else read_layer(request.config)
    settings, flags = read_settings(request.settings), flags_of(request)
    one_length(settings.get("train", {}), flags.get("train", {}), epochs=request.epochs)
    return merge(file, settings, flags)


@dataclass(frozen=True, kw_only=True)
class ToTrain:
    """What a request comes to.

    Args:
        config: the configuration.
        splits: its data, a little of it for a dry run.
        found: what all of that is.
        chosen: what was taken where the user chose nothing.
    """

    config: Any
    splits: Splits
    found: Found
    chosen: Chosen

    @property
    def lines(self) -> list[str]:
        """What was found and chosen, in words."""
        return told(self.found, self.config, self.splits.train, self.chosen)


def asked(kind: Kind, request: Settings, chosen: Chosen) -> ToTrain:
    """The configuration, from what was chosen and what the user says over it, and its data."""
    from ebbflow.config import merge, parse_as
    from ebbflow.data import found_in
    from ebbflow.runs import load_splits

    config = parse_as(kind.config, merge(chosen.layer, _above(request)))
    data = config.data
    splits = load_splits(config, few=config.train.batch_size if request.dry_run else None)
    found = found_in(splits)
    if request.dry_run and splits.train.is_image:
        found = chosen.found or looked(data)
    if request.epochs is not None:
        steps = math.ceil(request.epochs * found.num_train / config.train.batch_size)
        config = replace(config, train=replace(config.train, num_steps=steps, minutes=None))
    return ToTrain(config=config, splits=splits, found=found, chosen=chosen)


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


def _run(kind: Kind, request: Settings, chosen: Chosen) -> int:
    """Train to the end or until it is stopped, or only describe it."""
    from ebbflow.training.world import here

    with here().leader_first():
        what = asked(kind, request, chosen)
    with at_batch_size(what.config.train.batch_size):
        if request.dry_run:
            return _describe(what, request)
        folder = request.save_dir or Path("runs") / kind.name.format(data=_called(what.config.data.name))
        with redirect_stdout(sys.stderr if request.json else sys.stdout):
            tell("\n".join([f"{folder}: {what.lines[0]}", *what.lines[1:]]))
            config = _with_autoencoder(what, folder)
        return 130 if config is None else _train(kind, replace(what, config=config), folder, as_json=request.json)


def _with_autoencoder(what: ToTrain, folder: Path) -> Any:
    """The configuration, with the autoencoder that it wants trained first in the place of "train"; None where that was
    stopped."""
    from ebbflow.config import AutoencoderConfig, parse_as
    from ebbflow.runs.choice import TRAIN, autoencoder_for
    from ebbflow.runs.folder import CONFIG, description
    from ebbflow.runs.latent_files import FILE

    config = what.config
    if getattr(config, "latent", None) is None or config.latent.autoencoder != TRAIN:
        return config
    own, first = folder / FILE, folder.with_name(f"{folder.name}_autoencoder")
    if not own.is_file():
        made = autoencoder_for(config, what.splits.train.dims)
        if description(first).get("kind") == "autoencoder":
            made = parse_as(AutoencoderConfig, read_layer(first / CONFIG))  # as it was begun
        if _train(_autoencoder_kind(), replace(what, config=made), first, as_json=False, then="now the model"):
            return None
    return replace(config, latent=replace(config.latent, autoencoder=str(own if own.is_file() else first)))


def _train(kind: Kind, what: ToTrain, folder: Path, *, as_json: bool, then: str | None = None) -> int:
    from ebbflow.runs import Trainer, task_of
    from ebbflow.runs.same_data import in_order_of
    from ebbflow.training.world import here

    config = what.config
    with redirect_stdout(sys.stderr if as_json else sys.stdout), stop_on_interrupt() as should_stop:
        use = kind.use.format(folder=shlex.quote(str(folder)), data=shlex.quote(config.data.name))
        with here().leader_first():
            task = task_of(config, in_order_of(what.splits, folder), folder)
        trainer = Trainer(task, command=this_command(), use=use, should_stop=should_stop)
        start = f"; going on from step {trainer.start}" if trainer.start else ""
        card = trainer.task.card().partition("\n")[0].rstrip(".")
        tell(f"{card}; on {trainer.device.type}{start}\n{trainer.precision}")
        ready, began = trainer.is_finished, time.monotonic()
        finished = follow(trainer)
    if not finished:
        warn(f"stopped; the same command goes on from {folder}.")
        return 130
    done = trainer.spent
    if as_json:
        print_json({"folder": str(folder), **trainer.measured, **done})
        return 0
    if ready:
        more = "--max-steps" if config.train.minutes is None else "--minutes"
        length = f"{done['step']} steps" if config.train.minutes is None else f"{done['minutes']:.1f} minutes"
        tell(f"{folder} is already trained for {length}. Give more with {more}, or another --save-dir.")
    else:
        _tell_result({**trainer.measured, **done}, (time.monotonic() - began) / 60)
    tell(f"done: {folder}\n{then or f'use it with: {use}'}")
    return 0


def _tell_result(found: dict[str, Any], elapsed: float) -> None:
    """Print what a training took, and what a classifier knows."""
    if by_log_snr := found.get("accuracy_by_log_snr"):
        rows = {**by_log_snr, "all": found["accuracy"]}
        print_lines([("log-SNR", "held-out accuracy"), *((name, f"{value:.3f}") for name, value in rows.items())])
    tell(
        f"{found['step']:,} steps, {found['samples_seen']:,} samples seen in {found['minutes']:.2f} min of training; "
        f"with measuring, drawing and saving this command took {elapsed:.2f} min"
    )


def _describe(what: ToTrain, request: Settings) -> int:
    """Print the resolved configuration and, of a model, its parameters, FLOPs and the time of a step, measured."""
    from ebbflow.config import to_dict

    config, found = what.config, what.found
    cost: dict[str, Any] = {"config": to_dict(config)}
    if isinstance(request, ModelSettings):
        cost = _measured(what, request)
    if request.json:
        scale = cost.get("scale")
        print_json({**cost, "scale": None if scale is None else scale.facts(), "num_samples": found.num_train})
        return 0
    print(as_toml(cost["config"]), "", *(f"# {line}" for line in what.lines), sep="\n")
    if isinstance(request, ModelSettings):
        print(_costs(cost, config))
        print(*(f"# {line}" for line in (cost["scale"].lines() if cost["scale"] else ())), sep="\n")
    return 0


def _measured(what: ToTrain, request: ModelSettings) -> dict[str, Any]:
    from ebbflow.runs.cost import measure_cost
    from ebbflow.training.world import here

    size, there = request.world_size or here().size, request.device_memory
    return measure_cost(what.config, what.splits, what.found.num_train, world_size=size, device_memory=there)


def _costs(cost: dict[str, Any], config: RunConfig) -> str:
    minutes, steps = cost["seconds_in_all"] / 60, cost["num_steps"]
    length = (
        f"{minutes:,.1f} min for {steps} steps"
        if config.train.minutes is None
        else f"about {steps} steps in {minutes:g} min"
    )
    return (
        f"# {cost['num_parameters']:,} parameters, "
        f"{cost['forward_flops_per_sample'] / 1e6:,.1f} MFLOP forward a sample\n"
        f"# {cost['seconds_per_step']:.3f} s a step, {cost['seconds_per_epoch']:,.0f} s an epoch, "
        f"{length} on this machine"
    )
