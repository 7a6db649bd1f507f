"""`ebbflow train`."""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ebbflow.cli.common import print_json, this_command
from ebbflow.core.entries import spelt

if TYPE_CHECKING:
    from ebbflow.config import Layer, RunConfig
    from ebbflow.data import Splits
    from ebbflow.runs import Trainer
    from ebbflow.runs.autoencoder import AutoencoderTrainer
    from ebbflow.runs.train_classifier import ClassifierTrainer

DEFAULT_PRESET = "digits"


def train(
    preset: Annotated[
        str | None, typer.Option(help="A shipped configuration; see `ebbflow list presets`. Default: digits.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file, on top of the preset.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value, on top of both; may be repeated.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="A data set's name, an image folder, or an .npz file.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where named data sets lie or are downloaded to. Default: $EBBFLOW_DATA.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Length of the run in passes over the data.")] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Length of the run in optimiser steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples a step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    img_size: Annotated[int | None, typer.Option(help="Resize images to this side.")] = None,
    channels: Annotated[int | None, typer.Option(help="Convert images to 1, 3 or 4 channels.")] = None,
    patch_size: Annotated[int | None, typer.Option(help="Patch size of a DiT.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random in the run.")] = None,
    save_dir: Annotated[
        Path | None,
        typer.Option(
            help="The run's folder; the same command resumes it. Default: runs/ and the preset, --config or --data."
        ),
    ] = None,
    save_freq: Annotated[int | None, typer.Option(help="Optimiser steps between checkpoints.")] = None,
    lr_decay_step: Annotated[
        int | None, typer.Option(help="Optimiser steps between learning-rate decays (step schedule).")
    ] = None,
    lr_decay_rate: Annotated[
        float | None, typer.Option(help="Factor of each learning-rate decay (step schedule).")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave unreadable images out instead of stopping.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be trained, its size and speed, and stop.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="With --dry-run: print JSON.")] = False,
) -> None:
    """Train a model. Runs again from where it stands when the folder already holds the same run."""
    from ebbflow.config import merge, parse, read_preset, read_settings, read_toml
    from ebbflow.errors import ConfigError
    from ebbflow.runs import load_splits

    if epochs is not None and max_steps is not None:
        raise ConfigError("--epochs and --max-steps both say how long to train. Give one.")
    name = preset or DEFAULT_PRESET
    flags: dict[str, dict[str, Any]] = {
        "data": {
            "name": data,
            "dir": data_dir and str(data_dir),
            "size": img_size,
            "channels": channels,
            "skip_bad": skip_bad or None,
        },
        "net": {"patch_size": patch_size},
        "train": {
            "num_steps": max_steps,
            "batch_size": batch_size,
            "lr": lr,
            "seed": seed,
            "save_every": save_freq,
            "lr_decay_step": lr_decay_step,
            "lr_decay_rate": lr_decay_rate,
            "schedule": "step" if lr_decay_step or lr_decay_rate else None,
        },
        "engine": {"device": device},
    }
    layers = [
        read_preset(name),
        *([read_toml(config)] if config else []),
        read_settings(set_ or []),
        given_flags(flags),
    ]
    resolved = parse(merge(*layers))
    splits = load_splits(resolved)
    if epochs is not None:
        steps = math.ceil(epochs * len(splits.train) / resolved.train.batch_size)
        resolved = parse(merge(*layers, {"train": {"num_steps": steps}}))
    own = config.stem if config else Path(data).stem if data else name
    folder = save_dir or Path("runs") / (name if preset else own)
    if dry_run:
        _describe(resolved, splits, as_json=json)
    else:
        _train(resolved, splits, folder)


def given_flags(flags: dict[str, dict[str, Any]]) -> Layer:
    """The flags that were given, section by section."""
    layers = {
        section: {key: value for key, value in keys.items() if value is not None} for section, keys in flags.items()
    }
    return {section: keys for section, keys in layers.items() if keys}


def _train(config: RunConfig, splits: Splits, folder: Path) -> None:
    from ebbflow.runs import Trainer

    with stop_on_interrupt() as should_stop:
        if config.latent.autoencoder is not None:
            print(f"encoding {len(splits.train):,} images once with {config.latent.autoencoder}", flush=True)
        trainer = Trainer(config, splits, folder, command=this_command(), should_stop=should_stop)
        print(_headline(trainer, len(splits.train)))
        if trainer.start >= config.train.num_steps:
            print(
                f"{folder} is already trained for {trainer.start} steps. Give more with --max-steps, or choose "
                "another --save-dir."
            )
            return
        finished = follow(trainer)
    if not finished:
        print(f"stopped; the same command goes on from {folder}.", file=sys.stderr)
        raise typer.Exit(130)
    print(f"done: {folder}\nsample it with: ebbflow sample --ckpt {folder} --output samples.png")


def _headline(trainer: Trainer, num: int) -> str:
    config, dtype = trainer.config, str(trainer.dtype).removeprefix("torch.")
    start = f", going on from step {trainer.start}" if trainer.start else ""
    latent = trainer.facts.latent_dims
    space = f" as latents of {'x'.join(map(str, latent))}" if latent else ""
    return (
        f"{config.data.name}: {num:,} samples of {'x'.join(map(str, trainer.facts.dims))}{space}; "
        f"{type(trainer.net.net).__name__} of "
        f"{trainer.num_parameters:,} parameters; {spelt(config.objective.prediction)} on {type(config.path).__name__}; "
        f"{trainer.device.type}, {dtype}{start}"
    )


def follow(trainer: Trainer | ClassifierTrainer | AutoencoderTrainer) -> bool:
    """Show the run's progress; True when it came to its end."""
    from tqdm import tqdm

    total = trainer.config.train.num_steps
    shown, last = sys.stderr.isatty(), trainer.start
    with tqdm(total=total, initial=trainer.start, unit="step", disable=not shown, dynamic_ncols=True) as bar:
        smooth = None
        for progress in trainer.events():
            bar.update(progress.step - last)
            last = progress.step
            smooth = progress.loss if smooth is None else 0.95 * smooth + 0.05 * progress.loss
            bar.set_postfix(loss=f"{smooth:.4f}", refresh=False)
            line = progress.note or (None if progress.held_out is None else f"held-out loss {progress.held_out:.4f}")
            if line is not None:
                bar.write(f"step {progress.step}: {line}", file=sys.stdout)
            elif not shown and progress.step % max(1, total // 20) == 0:
                print(f"step {progress.step}/{total}: loss {smooth:.4f}", flush=True)
    return last >= total


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """A question that answers True after SIGINT or SIGTERM; a second signal ends the process at once."""
    asked: list[int] = []

    def ask(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        print("\nstopping after this step; again to stop at once", file=sys.stderr)

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _describe(config: RunConfig, splits: Splits, *, as_json: bool) -> None:
    """Print the resolved configuration, parameters, FLOPs and the time of a step, measured."""
    from ebbflow.runs.cost import measure_cost

    cost = measure_cost(config, splits)
    if as_json:
        print_json(cost)
        return
    for section, values in cost["config"].items():
        print(f"[{section}]\n" + "\n".join(f"{key} = {value}" for key, value in values.items()) + "\n")
    print(
        f"{cost['num_parameters']:,} parameters, {cost['forward_flops_per_sample'] / 1e6:,.1f} MFLOP forward a sample"
    )
    print(
        f"{cost['seconds_per_step']:.3f} s a step, {cost['seconds_per_epoch']:,.0f} s an epoch, "
        f"{cost['seconds_in_all'] / 60:,.1f} min for {config.train.num_steps} steps on this machine"
    )
