"""`ebbflow train-autoencoder`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ebbflow.cli.common import this_command
from ebbflow.cli.train import follow, given_flags, stop_on_interrupt

if TYPE_CHECKING:
    from ebbflow.config import AutoencoderConfig
    from ebbflow.data import Splits
    from ebbflow.runs import Trainer


def train_autoencoder(
    data: Annotated[
        str | None, typer.Option(help="A data set's name, an image folder, or an .npz file. Default: digits.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where named data sets lie or are downloaded to. Default: $EBBFLOW_DATA.")
    ] = None,
    save_dir: Annotated[
        Path | None,
        typer.Option(help="The autoencoder's folder; the same command resumes it. Default: runs/DATA_autoencoder."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A TOML file with sections data, autoencoder, train, engine.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="section.key=value, such as autoencoder.channels=[32,64], autoencoder.latent_channels=8, "
            "train.loss=l1 or train.kl_weight=1e-3; may be repeated.",
        ),
    ] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Length of the training in optimiser steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples a step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    img_size: Annotated[int | None, typer.Option(help="Resize images to this side.")] = None,
    channels: Annotated[int | None, typer.Option(help="Convert images to 1, 3 or 4 channels.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random in the training.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave unreadable images out instead of stopping.")
    ] = False,
) -> None:
    """Train an autoencoder for latent diffusion: `ebbflow train --set latent.autoencoder=FOLDER` works in its codes."""
    from ebbflow.config import AutoencoderConfig, merge, parse_as, read_settings, read_toml
    from ebbflow.runs import load_splits

    flags: dict[str, dict[str, Any]] = {
        "data": {
            "name": data,
            "dir": data_dir and str(data_dir),
            "size": img_size,
            "channels": channels,
            "skip_bad": skip_bad or None,
        },
        "train": {"num_steps": max_steps, "batch_size": batch_size, "lr": lr, "seed": seed},
        "engine": {"device": device},
    }
    layers = [*([read_toml(config)] if config else []), read_settings(set_ or []), given_flags(flags)]
    resolved = parse_as(AutoencoderConfig, merge(*layers))
    name = Path(resolved.data.name).stem
    _train(resolved, load_splits(resolved), save_dir or Path("runs") / f"{name}_autoencoder")


def _train(config: AutoencoderConfig, splits: Splits, folder: Path) -> None:
    from ebbflow.runs import Trainer, task_of

    with stop_on_interrupt() as should_stop:
        trainer = Trainer(task_of(config, splits, folder), command=this_command(), should_stop=should_stop)
        print(_headline(trainer, len(splits.train)))
        if trainer.is_finished:
            print(
                f"{folder} is already trained for {trainer.start} steps. Give more with --max-steps, or choose "
                "another --save-dir."
            )
            return
        finished = follow(trainer)
    if not finished:
        print(f"stopped; the same command goes on from {folder}.", file=sys.stderr)
        raise typer.Exit(130)
    print(f"done: {folder}\nuse it with: ebbflow train --data {config.data.name} --set latent.autoencoder={folder}")


def _headline(trainer: Trainer, num: int) -> str:
    dims, latent_dims = trainer.facts.dims, trainer.task.latent_dims  # type: ignore[attr-defined]
    start = f", going on from step {trainer.start}" if trainer.start else ""
    return (
        f"{trainer.config.data.name}: {num:,} images of {'x'.join(map(str, dims))} as latents of "
        f"{'x'.join(map(str, latent_dims))}; autoencoder of {trainer.num_parameters:,} parameters; "
        f"{trainer.device.type}, {str(trainer.dtype).removeprefix('torch.')}{start}"
    )
