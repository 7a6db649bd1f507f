"""Starting from another run's weights: what fits is taken, what does not is named, and a resume never starts again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import ebbflow as ef
from ebbflow.cli.app import run_app

TINY = ["--set", "net.channels=[8]", "--set", "train.held_out_every=0", "--set", "train.sample_every=0"]
SHORT = ["--batch-size", "8", "--device", "cpu", "--set", "train.warmup_steps=0", "--set", "train.schedule=constant"]


def train(folder: Path, *rest: str, steps: int = 2) -> int:
    return run_app(["train", *TINY, *SHORT, "--max-steps", str(steps), "--save-dir", str(folder), *rest])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return ef.open(folder).denoiser.net.state_dict()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "base"
    assert train(folder, steps=3) == 0
    return folder


def test_it_starts_from_the_average_and_says_so(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A rate of next to nothing leaves the weights where they started."""
    assert train(tmp_path / "tuned", "--init-from", str(base), "--lr", "1e-30", steps=1) == 0
    out = capsys.readouterr().out
    assert "tensors of" in out and "as initialised" not in out
    for name, value in weights(base).items():
        torch.testing.assert_close(weights(tmp_path / "tuned")[name], value, rtol=0, atol=0)
    config = json.loads((tmp_path / "tuned" / "config.json").read_text())["config"]
    assert config["init"] == {"run": str(base), "partial": False}
    assert f"It started from {base}." in (tmp_path / "tuned" / "README.md").read_text()


def test_a_resume_goes_on_and_never_starts_again(base: Path, tmp_path: Path) -> None:
    own = shutil.copytree(base, tmp_path / "own")
    assert train(tmp_path / "whole", "--init-from", str(own), steps=4) == 0
    assert train(tmp_path / "half", "--init-from", str(own), steps=2) == 0
    at_half = weights(tmp_path / "whole")
    shutil.rmtree(own)
    assert train(tmp_path / "half", "--init-from", str(own), steps=4) == 0, "the first run is needed no more"
    assert all(torch.equal(value, weights(tmp_path / "half")[name]) for name, value in at_half.items())


def test_what_does_not_fit_is_named_and_left_where_that_is_asked_for(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = ("--set", "conditioning.kind=none", "--init-from", str(base))
    assert train(tmp_path / "a", *other) == 2
    said = capsys.readouterr().err
    assert "--init-from: the weights of" in said and "not part of this net: conditioner.table.weight" in said
    assert "by --init-partial" in said and said.count("\n") == 1 and not (tmp_path / "a").exists()
    assert train(tmp_path / "a", *other, "--init-partial") == 0
    assert "tensors of" in capsys.readouterr().out
    wider = (
        "--set",
        "conditioning.kind=label",
        "--set",
        "conditioning.dim=64",
        "--init-from",
        str(base),
        "--init-partial",
        "--set",
        "path.kind=cosine",
    )
    assert train(tmp_path / "b", *wider) == 0
    out = capsys.readouterr().out
    assert "as initialised; it was trained on path 'flow', here 'cosine'" in out


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        (["--set", "net.kind=dit", "--set", "net.channels=[8]"], None),
        (["--init-from", "nowhere"], "--init-from: nowhere does not exist"),
    ],
)
def test_bad_starts_are_one_sentence(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], rest: list[str], words: str | None
) -> None:
    if words is None:
        code = run_app(["train", "--set", "net.kind=dit", "--init-from", str(base), "--save-dir", str(tmp_path / "x")])
        words = "holds a net of kind 'unet', and this run's is 'dit'. Use net.kind=unet"
    else:
        code = train(tmp_path / "x", *rest)
    said = capsys.readouterr().err
    assert code == 2 and words in said and said.count("\n") == 1, said
