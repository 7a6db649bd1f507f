"""Laws of a budget of minutes: a clock that the tests hold, so nothing waits and nothing depends on the machine."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ebbflow.cli.app import run_app
from ebbflow.config import AutoencoderConfig, ClassifierConfig, RunConfig, merge, parse, parse_as, read_settings
from ebbflow.core.paths import Flow
from ebbflow.data import Splits, load_dataset
from ebbflow.errors import ConfigError
from ebbflow.methods.denoise import NetDenoiser
from ebbflow.methods.objective import Objective
from ebbflow.nets import NETS
from ebbflow.runs import Trainer, task_of
from ebbflow.runs.folder import checkpoints, metrics
from ebbflow.training import checkpoint
from ebbflow.training.loop import Budget, TrainStep, fit
from ebbflow.training.optim import LearningRate

SMALL = {"batch_size": 8, "save_every": 0, "sample_every": 0, "held_out_every": 0, "held_out_size": 8, "log_every": 1}
ENGINE = {"device": "cpu", "precision": "fp32"}
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "model": (RunConfig, {"net": {"kind": "unet", "channels": [8], "num_heads": 2, "clock_dim": 16}}),
    "classifier": (ClassifierConfig, {"classifier": {"channels": [8], "clock_dim": 8}}),
    "autoencoder": (AutoencoderConfig, {"autoencoder": {"channels": [8, 8]}}),
}
QUICK = [part for key, value in {**SMALL, "sample_every": 0}.items() for part in ("--set", f"train.{key}={value}")]


class Clock:
    """A clock that goes on by so many seconds at every second look, which is a step of `fit`."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.looks = seconds, 0

    def __call__(self) -> float:
        self.looks += 1
        return self.seconds * (self.looks // 2)


@pytest.fixture(scope="module")
def digits() -> Splits:
    return load_dataset("digits")


def steps_of(clock: Clock, **how: Any) -> Iterator[TrainStep]:
    torch.manual_seed(0)
    net = NETS["mlp"](dim=8, depth=1).build((2,), 2, None)
    denoiser = NetDenoiser(net=net, path=Flow())
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    return fit(denoiser, Objective(Flow()), [torch.randn(4, 2)], optimiser, clock=clock, **how)


def trained(kind: str, splits: Splits, folder: Path, clock: Clock, *, stop_at: int = 0, **train: Any) -> Trainer:
    cls, layer = KINDS[kind]
    config = parse_as(cls, merge(layer, {"train": {**SMALL, "minutes": 1.0, **train}, "engine": ENGINE}))
    asked = iter(range(1, 1000))
    trainer = Trainer(task_of(config, splits, folder), should_stop=lambda: next(asked) == stop_at, clock=clock)
    for _ in trainer.events():
        pass
    return trainer


# -- the loop ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "steps"), [(7.5, 8), (8.0, 8), (100.0, 1)])
def test_training_ends_with_the_step_in_which_the_minutes_run_out(seconds: float, steps: int) -> None:
    found = list(steps_of(Clock(seconds), minutes=1.0))
    assert [s.step for s in found] == list(range(1, steps + 1))
    assert [s.minutes for s in found] == pytest.approx([seconds * n / 60 for n in range(1, steps + 1)])
    assert found[-1].done == 1 and all(s.done == pytest.approx(min(1, s.minutes)) for s in found)


def test_what_happens_between_steps_costs_no_minutes() -> None:
    clock = Clock(7.5)
    count = 0
    for _ in steps_of(clock, minutes=1.0):
        clock.looks += 200  # minutes of drawing
        count += 1
    assert count == 8


def test_the_learning_rate_follows_the_share_that_is_spent() -> None:
    rate = LearningRate(peak=1.0, schedule="cosine", warmup_steps=3)
    found = [s.lr for s in steps_of(Clock(7.5), minutes=1.0, lr=rate)]
    cosine = [(1 + math.cos(math.pi * n / 8)) / 2 for n in range(8)]
    assert found == pytest.approx([min(1, (n + 1) / 4) * c for n, c in enumerate(cosine)])
    by_steps = LearningRate(peak=1.0, schedule="cosine", num_steps=8)
    same = [s.lr for s in steps_of(Clock(7.5), minutes=1.0, lr=LearningRate(peak=1.0, schedule="cosine"))]
    assert same == pytest.approx([by_steps.at(n) for n in range(8)]), "at an even pace it is the schedule by steps"


def test_a_loop_goes_on_with_the_rest() -> None:
    assert len(list(steps_of(Clock(7.5), minutes=1.0, start=4, spent=0.5))) == 4
    assert list(steps_of(Clock(7.5), minutes=1.0, start=8, spent=1.0)) == []


@pytest.mark.parametrize("how", [{}, {"num_steps": 3, "minutes": 1.0}])
def test_one_length_has_to_be_said(how: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="give `num_steps` or `minutes`, one of the two"):
        steps_of(Clock(1.0), **how)


@pytest.mark.parametrize("minutes", [0.0, -1.0, math.inf, math.nan])
def test_no_time_at_all_is_refused(minutes: float) -> None:
    with pytest.raises(ValueError, match="`minutes` must be a finite number above 0"):
        Budget(minutes=minutes)


# -- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_stopped_spends_the_rest_and_is_the_same_run(kind: str, digits: Splits, tmp_path: Path) -> None:
    whole = trained(kind, digits, tmp_path / "whole", Clock(7.5))
    first = trained(kind, digits, tmp_path / "parts", Clock(7.5), stop_at=3)
    assert (first.step, first.share) == (3, 0.375) and not first.is_finished
    second = trained(kind, digits, tmp_path / "parts", Clock(7.5))
    assert (second.start, second.step, whole.step) == (3, 8, 8)
    one, other = (checkpoint.read(checkpoints(tmp_path / name)[-1]) for name in ("whole", "parts"))
    for part in ("model", "optimiser"):
        a, b = one.tensors(part), other.tensors(part)
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a), part
    assert trained(kind, digits, tmp_path / "parts", Clock(7.5)).start == 8, "nothing is left to be spent"


def test_steps_samples_and_minutes_are_written_down(
    digits: Splits, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained("model", digits, tmp_path / "run", Clock(20.0))
    rows = metrics(tmp_path / "run")
    losses = [row for row in rows if "loss" in row]
    assert [(r["step"], r["samples_seen"], r["minutes"]) for r in losses] == [
        (n, 8 * n, pytest.approx(n / 3, abs=1e-4)) for n in (1, 2, 3)
    ]
    assert [r["samples_per_second"] for r in losses] == [0.4] * 3
    assert any("held_out" in row and row["minutes"] == 1.0 for row in rows)
    assert (
        "Trained for 3 steps in 1.0 of 1 minutes on digits, 24 samples seen."
        in (tmp_path / "run" / "README.md").read_text()
    )
    capsys.readouterr()
    assert run_app(["info", str(tmp_path / "run"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["step"], facts["samples_seen"], facts["minutes"]) == (3, 24, 1.0)


def test_a_longer_budget_goes_on_and_says_what_becomes_of_the_rate(digits: Splits, tmp_path: Path) -> None:
    trained("model", digits, tmp_path / "run", Clock(20.0))
    cls, layer = KINDS["model"]
    for length, said in (
        ({"minutes": 2.0}, "train.minutes, which was 1.0 and is now 2.0"),
        ({"num_steps": 5}, "train.minutes, which was 2.0 and is now train.num_steps, 5"),
    ):
        config = parse_as(cls, merge(layer, {"train": {**SMALL, **length}, "engine": ENGINE}))
        trainer = Trainer(task_of(config, digits, tmp_path / "run"), clock=Clock(20.0))
        assert said in str(next(trainer.events()).note)
        trainer._held.close()


# -- the configuration ------------------------------------------------------------------------------------------------


def test_the_length_that_is_said_last_is_the_length() -> None:
    steps, minutes = {"train": {"num_steps": 7}}, {"train": {"minutes": 2.0}}
    for layers, length in (([steps, minutes], (None, 2.0)), ([minutes, steps], (7, None)), ([], (1000, None))):
        train = parse(merge(*layers)).train
        assert (train.num_steps, train.minutes) == length
        again = parse(json.loads(json.dumps({"train": vars(train)}))).train
        assert again == train
    old = {"train": {"num_steps": 5, "minutes": None}}
    assert parse(old).train.num_steps == 5


@pytest.mark.parametrize("both", [{"num_steps": 7, "minutes": 2.0}])
def test_two_lengths_in_one_place_are_refused(both: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"`train\.num_steps` \(7\) and `train\.minutes` \(2\.0\) both say how long"):
        parse({"train": both})
    with pytest.raises(ConfigError, match="both say how long"):
        read_settings({f"train.{name}": value for name, value in both.items()})


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--max-steps", "5", "--minutes", "2"], "--max-steps and --minutes both say how long to train"),
        (["--max-steps", "5", "--set", "train.minutes=2"], "--minutes (2) and --max-steps (5) both say how long"),
        (["--epochs", "5", "--set", "train.minutes=2"], "--minutes (2) and --epochs (5) both say how long"),
        (["--minutes", "0"], "--minutes must be above 0, got 0"),
        (["--set", "train.minutes=-1"], "--minutes must be above 0, got -1.0"),
    ],
)
def test_the_command_line_says_which(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["train", "--preset", "digits", *flags]) == 2
    assert said in capsys.readouterr().err


def test_it_is_trained_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = ["--set", "net.channels=[8]", "--set", "net.num_heads=2", "--device", "cpu", *QUICK]
    command = ["train", "--preset", "digits", "--minutes", "0.01", "--save-dir", str(tmp_path / "run"), *net]
    assert run_app(command) == 0
    out = capsys.readouterr().out
    assert "min of training; with measuring, drawing and saving this command took" in out
    assert run_app(command) == 0
    assert "is already trained for 0.0 minutes. Give more with --minutes" in capsys.readouterr().out
    assert run_app([*command, "--dry-run"]) == 0
    assert " in 0.01 min on this machine" in capsys.readouterr().out


def test_the_studios_card_tells_how_far_it_is(digits: Splits, tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    from ebbflow.studio.gallery import card_of

    trained("model", digits, tmp_path / "run", Clock(7.5), stop_at=2)
    card = card_of("run", tmp_path / "run")
    assert (card.state, card.step, card.num_steps) == ("stopped", 2, 8)
    trained("model", digits, tmp_path / "run", Clock(7.5))
    card = card_of("run", tmp_path / "run")
    assert (card.state, card.step, card.num_steps) == ("finished", 8, 8)
