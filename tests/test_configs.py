"""Every shipped configuration builds and trains two steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ebbflow.config import AutoencoderConfig, merge, parse, parse_as, presets, read_preset
from ebbflow.data import Dataset, Splits
from ebbflow.runs import Trainer, open_run, task_of

SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "mnist_small": (1, 28, 28)}


def stand_in(name: str) -> Splits:
    """Noise of a data set's shape and labels, so that no files are needed."""
    x = torch.randint(0, 256, (24, *SHAPES[name]), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = Dataset(name=name, x=x, labels=torch.arange(24) % 10, label_names=tuple("0123456789"))
    return Splits(train=data, held_out=data)


@pytest.mark.parametrize("name", presets())
def test_it_builds_and_trains_two_steps(name: str, tmp_path: Path) -> None:
    small = {
        "train": {"num_steps": 2, "batch_size": 4, "sample_every": 0, "held_out_size": 8},
        "sample": {"num_steps": 1},
        "engine": {"device": "cpu"},
    }
    config = parse(merge(read_preset(name), small))
    splits = stand_in(config.data.name)
    if config.latent.autoencoder is not None:
        autoencoder = tmp_path / "autoencoder"
        small_autoencoder = parse_as(AutoencoderConfig, {"train": small["train"]})
        list(Trainer(task_of(small_autoencoder, splits, autoencoder)).events())
        config = replace(config, latent=replace(config.latent, autoencoder=str(autoencoder)))
    trainer = Trainer(task_of(config, splits, tmp_path / "run"))
    losses = [p.loss for p in trainer.events()]
    assert all(torch.isfinite(torch.tensor(losses)))
    assert open_run(tmp_path / "run").checkpoint.step == 2


def test_every_preset_says_what_it_is() -> None:
    for name, path in presets().items():
        assert path.read_text(encoding="utf-8").startswith("# "), (
            f"{name} must begin with a comment that says what it is"
        )
