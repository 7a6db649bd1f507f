"""Sample i of seed s is the same sample in any company: at any size of batch, number of threads and in another process,
for every sampler and way of guidance. The noise is the same bit for bit; what the net rounds, and no more, differs."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from ebbflow.cli.app import run_app
from ebbflow.config import merge, parse, read_preset
from ebbflow.data import load_dataset
from ebbflow.methods.samplers import SAMPLERS
from ebbflow.runs import Model, Trainer, task_of

BOUND = 2e-5  # of a sample in [-1, 1]; 1 / 255 is a level of a picture
ADAPTIVE = 2e-4  # what rounds changes the length of steps there, so the bound is what their tolerances allow a step
WAYS: dict[str, dict[str, Any]] = {
    "one network evaluation": {"guidance": 1.0},
    "classifier-free": {"guidance": 3.0},
    "rescaled": {"guidance": 3.0, "rescale": 0.7},
    "apg": {"guidance": 3.0, "guidance_rule": "apg"},
    "cfg_zero_star": {"guidance": 3.0, "guidance_rule": "cfg_zero_star"},
    "negative": {"guidance": 2.0, "negative_label": "9"},
    "interval": {"guidance": 3.0, "interval": (-2.0, 2.0)},
    "colour": {"guidance": 1.0, "loss": "colour", "target": "0.3"},
}
WALKERS = [name for name, one in SAMPLERS.items() if not one.jumps]
NOISY: dict[str, dict[str, Any]] = {"ddim": {"eta": 1.0}, "edm": {"s_churn": 20.0}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits, learned for a moment: a net that answers something."""
    folder = tmp_path_factory.mktemp("invariance") / "run"
    short = {"num_steps": 30, "batch_size": 32, "sample_every": 0, "held_out_every": 0, "held_out_size": 8}
    small = {"net": {"channels": [16]}, "train": short, "engine": {"device": "cpu", "precision": "fp32"}}
    list(Trainer(task_of(parse(merge(read_preset("digits"), small)), load_dataset("digits"), folder)).events())
    return folder


@pytest.fixture(scope="module")
def model(run: Path) -> Model:
    return Model.from_run(run)


def bound(sampler: str) -> float:
    return ADAPTIVE if SAMPLERS[sampler].is_adaptive else BOUND


def sampled(model: Model, sampler: str, num: int, batch_size: int, **how: Any) -> Tensor:
    options = {"options": NOISY[sampler]} if sampler in NOISY else {}
    return model.sample(num=num, labels="3", sampler=sampler, steps=4, batch_size=batch_size, **options, **how).x


def apart(model: Model, sampler: str, way: str, num: int, *sizes: int) -> float:
    """How far samples of one batch are from those of smaller ones, at most."""
    together = sampled(model, sampler, num, num, **WAYS[way])
    return max(float((sampled(model, sampler, num, size, **WAYS[way]) - together).abs().max()) for size in sizes)


def own_error(model: Model, sampler: str, way: str, num: int) -> float:
    """How far a sampler that chooses its steps ends from where it does with a tenth of its tolerances, at most."""
    fine = {name: one.default / 10 for name, one in SAMPLERS[sampler].options.items() if name in ("rtol", "atol")}
    how: dict[str, Any] = {"num": num, "labels": "3", "sampler": sampler, "steps": 4, "batch_size": num, **WAYS[way]}
    return float((model.sample(**how, options=fine).x - model.sample(**how).x).abs().max())


@pytest.mark.parametrize("sampler", WALKERS)
def test_a_sample_is_the_same_in_a_batch_of_any_size(sampler: str, model: Model) -> None:
    """With each sampler one of the ways, in turn; all of them below."""
    way = [*WAYS][WALKERS.index(sampler) % len(WAYS)]
    assert apart(model, sampler, way, 6, 1, 4) < bound(sampler)


@pytest.mark.long
@pytest.mark.parametrize("sampler", WALKERS)
def test_every_sampler_with_every_guidance_in_batches_of_1_7_and_64(sampler: str, model: Model) -> None:
    """Where a sampler chooses its steps, batches differ by less than the walk itself errs by."""
    found = {way: apart(model, sampler, way, 64, 1, 7) for way in WAYS}
    print(sampler, {way: f"{value:.1e}" for way, value in found.items()})
    for way, value in found.items():
        assert value < (own_error(model, sampler, way, 64) if SAMPLERS[sampler].is_adaptive else BOUND), way


@pytest.mark.parametrize("sampler", ["heun", "sde", pytest.param("dopri5", marks=pytest.mark.long)])
def test_a_sample_is_the_same_on_any_number_of_threads(sampler: str, model: Model) -> None:
    one = sampled(model, sampler, 8, 8, guidance=3.0)
    torch.set_num_threads(2)
    try:
        two = sampled(model, sampler, 8, 8, guidance=3.0)
    finally:
        torch.set_num_threads(1)
    assert float((one - two).abs().max()) < bound(sampler)


def test_what_a_picture_says_of_itself_remakes_it_in_another_process(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = f"sample --ckpt {run} --labels 1,7 --num 6 --seed 5 --sampler sde --steps 6 --guidance 2 --output a.png"
    monkeypatch.setattr(sys, "argv", ["ebbflow", *words.split()])
    assert run_app(words.split()) == 0
    with Image.open("a.png") as picture:
        command, pixels = shlex.split(picture.text["ebbflow"]), picture.tobytes()  # type: ignore[attr-defined]
    Path("a.png").unlink()
    assert command[0] == "ebbflow" and subprocess.run([sys.executable, "-m", *command]).returncode == 0
    with Image.open("a.png") as again:
        assert again.tobytes() == pixels
