"""Folders that the first release wrote load, say what they said then, and go on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from ebbflow.cli.app import run_app
from ebbflow.core.paths import Flow
from ebbflow.runs import open_run
from ebbflow.runs.classifier import open_classifier
from ebbflow.runs.latent_files import read_space

OLD = Path(__file__).parent / "data" / "format1"
X = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)


@pytest.fixture(scope="module")
def said() -> dict[str, torch.Tensor]:
    return {name: torch.tensor(values) for name, values in json.loads((OLD / "said.json").read_text()).items()}


def test_what_was_trained_then_says_the_same_now(said: dict[str, torch.Tensor]) -> None:
    run = open_run(OLD / "model")
    with torch.no_grad():
        found = {part: run.denoiser(part).given(torch.tensor([3]))(X, 0.5).x0 for part in ("ema", "raw")}
        found["classifier"] = open_classifier(OLD / "classifier").classifier.logits(X, 0.5, Flow())
        found["latent"] = read_space(OLD / "autoencoder" / "model.safetensors").encode(X)
    for name, value in found.items():
        torch.testing.assert_close(value.flatten(), said[name], rtol=0, atol=2e-5, msg=name)


def test_a_run_of_then_is_sampled(tmp_path: Path) -> None:
    output = tmp_path / "s.npz"
    assert run_app(["sample", "--ckpt", str(OLD / "model"), "--output", str(output), "--num", "2", "--label", "3"]) == 0


@pytest.mark.parametrize(
    ("verb", "name", "steps"), [("train", "model", 24), ("train-classifier", "classifier", 6),
                                ("train-autoencoder", "autoencoder", 6)],
)  # fmt: skip
def test_each_kind_goes_on(verb: str, name: str, steps: int, tmp_path: Path) -> None:
    folder = shutil.copytree(OLD / name, tmp_path / name)
    config = json.loads((folder / "config.json").read_text())["config"]
    settings = [
        f"{section}.{key}={json.dumps(value) if not isinstance(value, str) else value}"
        for section, values in config.items()
        if section != "sample"
        for key, value in values.items()
        if value is not None and (section, key) != ("train", "num_steps")
    ]
    flags = [part for setting in settings for part in ("--set", setting)]
    assert run_app([verb, *flags, "--save-dir", str(folder), "--max-steps", str(steps)]) == 0
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["step"] < steps and rows[-1]["step"] == steps, "it began again"
    assert (folder / "checkpoints" / f"step_{steps:06d}").is_dir()
