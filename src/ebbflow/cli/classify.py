"""`ebbflow train-classifier`."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ebbflow.cli.common import print_json, print_rows, this_command
from ebbflow.cli.train import follow, given_flags, stop_on_interrupt

if TYPE_CHECKING:
    from ebbflow.runs import Trainer


def train_classifier(
    save_dir: Annotated[Path, typer.Option(help="The classifier's folder; the same command resumes it.")],
    data: Annotated[
        str | None, typer.Option(help="A labelled data set's name, an image folder, or an .npz file. Default: digits.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where named data sets lie or are downloaded to. Default: $EBBFLOW_DATA.")
    ] = None,
    path: Annotated[
        str | None, typer.Option(help="The path whose noise levels it learns; it serves runs on any path.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="section.key=value of data, classifier, path, train or engine; may be repeated."),
    ] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps. Default: 1000.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples a step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    img_size: Annotated[int | None, typer.Option(help="Resize images to this side.")] = None,
    channels: Annotated[int | None, typer.Option(help="Convert images to 1, 3 or 4 channels.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    save_freq: Annotated[int | None, typer.Option(help="Optimiser steps between checkpoints.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the held-out accuracy as JSON at the end.")] = False,
) -> None:
    """Train a noisy classifier for `ebbflow sample --classifier`. Goes on from where it stands when the folder already
    holds the same one."""
    from ebbflow.config import ClassifierConfig, merge, parse_as, read_settings
    from ebbflow.runs import Trainer, load_splits, task_of

    flags: dict[str, dict[str, Any]] = {
        "data": {"name": data, "dir": data_dir and str(data_dir), "size": img_size, "channels": channels},
        "path": {"kind": path},
        "train": {
            "num_steps": max_steps,
            "batch_size": batch_size,
            "lr": lr,
            "seed": seed,
            "save_every": save_freq,
        },
        "engine": {"device": device},
    }
    config = parse_as(ClassifierConfig, merge(read_settings(set_ or []), given_flags(flags)))
    splits = load_splits(config)
    with stop_on_interrupt() as should_stop:
        trainer = Trainer(task_of(config, splits, save_dir), command=this_command(), should_stop=should_stop)
        with redirect_stdout(sys.stderr if json else sys.stdout):
            finished = trainer.is_finished or _train(trainer, len(splits.train))
    if not finished:
        print(f"stopped; the same command goes on from {save_dir}.", file=sys.stderr)
        raise typer.Exit(130)
    _report(trainer, as_json=json)


def _train(trainer: Trainer, num: int) -> bool:
    facts = trainer.facts
    start = f", going on from step {trainer.start}" if trainer.start else ""
    print(
        f"{trainer.config.data.name}: {num:,} samples of {'x'.join(map(str, facts.dims))} in "
        f"{len(facts.label_names)} classes; noisy classifier of "
        f"{trainer.num_parameters:,} parameters at the noise levels of "
        f"{type(trainer.config.path).__name__}; {trainer.device.type}, {str(trainer.dtype).removeprefix('torch.')}"
        f"{start}"
    )
    return follow(trainer)


def _report(trainer: Trainer, *, as_json: bool) -> None:
    """The held-out accuracy, and how to use the classifier."""
    found, folder = trainer.measured, trainer.folder
    if as_json:
        print_json(
            {
                "folder": str(folder),
                "step": max(trainer.start, trainer.config.train.num_steps),
                "held_out": found.get("held_out"),
                "accuracy": found.get("accuracy"),
                "accuracy_by_log_snr": found.get("accuracy_by_log_snr"),
            }
        )
        return
    if trainer.start >= trainer.config.train.num_steps:
        print(f"{folder} is already trained for {trainer.start} steps. Give more with --max-steps.")
    if found:
        rows = [
            {"log-SNR": name, "held-out accuracy": f"{value:.3f}"}
            for name, value in found["accuracy_by_log_snr"].items()
        ]
        print_rows(
            [{key: key for key in rows[0]}, *rows, {"log-SNR": "all", "held-out accuracy": f"{found['accuracy']:.3f}"}]
        )
    print(f"done: {folder}\nuse it with: ebbflow sample --ckpt RUN --classifier {folder} --output samples.png")
