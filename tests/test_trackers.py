"""Trackers: they are given what metrics.jsonl and samples/ hold, a resumed run goes on in them, and none can end one."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from ebbflow.cli.app import run_app
from ebbflow.errors import ConfigError
from ebbflow.runs.folder import metrics
from ebbflow.training import trackers
from ebbflow.training.trackers import Trackers, flat

TINY = [
    "train", "--batch-size", "8", "--device", "cpu", "--set", "engine.precision=fp32", "--set", "net.channels=[8,8]",
    "--set", "net.num_heads=2", "--set", "sample.num_steps=1", "--set", "train.schedule=constant",
    "--set", "train.log_every=2", "--set", "train.sample_every=4", "--set", "train.save_every=4",
    "--set", "train.held_out_every=4", "--set", "train.held_out_size=8",
]  # fmt: skip


def train(folder: Path, steps: int, *names: str) -> int:
    return run_app(
        [*TINY, "--max-steps", str(steps), "--set", f"train.trackers=[{','.join(names)}]", "--save-dir", str(folder)]
    )


def test_tensorboard_holds_what_the_run_wrote_and_goes_on(tmp_path: Path) -> None:
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="tensorboard is missing: pip install -e '.[trackers]'",
    )
    for steps in (4, 8):
        assert train(tmp_path / "run", steps, "tensorboard") == 0
    found = events.EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    found.Reload()
    rows = [row for row in metrics(tmp_path / "run") if "loss" in row]
    assert [(one.step, pytest.approx(one.value)) for one in found.Scalars("loss")] == [
        (r["step"], r["loss"]) for r in rows
    ]
    assert [one.step for one in found.Scalars("held_out")] == [4, 8] == [one.step for one in found.Images("samples")]
    assert [one.step for one in found.Scalars("loss")] == [2, 4, 6, 8]
    assert found.Tags()["tensors"] == ["config/text_summary"]


class StubRun:
    """A run of W&B that notes what it is given; from step `breaks` on it fails."""

    def __init__(self, breaks: float = float("inf"), **started: Any) -> None:
        self.breaks, self.started, self.rows, self.finished = breaks, started, list[dict[str, Any]](), 0

    def define_metric(self, *names: str, **more: str) -> None:
        assert (names, more) == (("*",), {"step_metric": "step"})

    def log(self, row: dict[str, Any]) -> None:
        if row["step"] >= self.breaks:
            raise ConnectionError("the network is gone")
        self.rows.append(row)

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Any:
    stub = types.ModuleType("wandb")
    stub.breaks, stub.runs, stub.Image = float("inf"), [], str  # type: ignore[attr-defined]

    def init(**started: Any) -> StubRun:
        stub.runs.append(StubRun(stub.breaks, **started))  # type: ignore[attr-defined]
        return stub.runs[-1]  # type: ignore[attr-defined]

    stub.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", stub)
    return stub


def test_wandb_is_one_run_however_often_it_is_resumed(wandb: Any, tmp_path: Path) -> None:
    for steps in (4, 8):
        assert train(tmp_path / "run", steps, "wandb") == 0
    first, second = wandb.runs
    assert first.started["id"] == second.started["id"] and second.started["resume"] == "allow"
    assert first.started["config"]["train"]["batch_size"] == 8 and first.started["name"] == "run"
    rows = [row for row in (*first.rows, *second.rows) if "loss" in row]
    assert [row["step"] for row in rows] == [2, 4, 6, 8] and first.finished == second.finished == 1
    assert [Path(row["samples"]).name for row in first.rows if "samples" in row] == ["step_000004.png"]
    assert train(tmp_path / "other", 4, "wandb") == 0 and wandb.runs[2].started["id"] != first.started["id"]


def test_a_tracker_that_fails_is_a_warning(wandb: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wandb.breaks = 4
    assert train(tmp_path / "run", 8, "wandb") == 0
    said = capsys.readouterr().out
    assert said.count("the tracker wandb is left out from here on: ConnectionError: the network is gone") == 1
    assert [row["step"] for row in wandb.runs[0].rows if "loss" in row] == [2]
    assert metrics(tmp_path / "run")[-1]["step"] == 8


def test_a_tracker_that_does_not_begin_is_a_warning(
    wandb: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wandb.init = lambda **started: (_ for _ in ()).throw(RuntimeError("no key"))
    assert train(tmp_path / "run", 2, "wandb") == 0
    assert "left out from here on: RuntimeError: no key" in capsys.readouterr().out


def test_trackers_may_change_when_a_run_is_resumed(wandb: Any, tmp_path: Path) -> None:
    assert train(tmp_path / "run", 4) == 0 and train(tmp_path / "run", 8, "wandb") == 0
    assert [row["step"] for row in wandb.runs[0].rows if "loss" in row] == [6, 8]
    assert train(tmp_path / "run", 8, "wandb") == 0 and len(wandb.runs) == 1, "nothing is left to be tracked"


@pytest.mark.parametrize("name", trackers.TRACKERS)
def test_a_missing_package_is_said_before_training(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("wandb", "tensorboard", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)
    assert train(tmp_path / "run", 2, name) == 2
    assert "pip install -e '.[trackers]'" in capsys.readouterr().err
    assert metrics(tmp_path / "run") == []


def test_an_unknown_tracker_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path / "run", 2, "tensorbord") == 2
    assert "Did you mean 'tensorboard'" in capsys.readouterr().err and not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="unknown tracker"):
        Trackers(names=["nobody"], folder=tmp_path, config={}, step=0)


def test_a_line_of_metrics_is_flat() -> None:
    row = json.loads('{"step": 3, "loss": 1, "by": {"0..3": 2.5, "deep": {"x": 1}}, "name": "text", "ok": true}')
    assert flat(row) == {"loss": 1.0, "by/0..3": 2.5, "by/deep/x": 1.0}
