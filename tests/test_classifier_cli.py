"""Classifiers, worse models, rules and losses from the command line, on the embedded digits."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ebbflow.cli.app import run_app
from ebbflow.core.paths import Cosine, Flow
from ebbflow.errors import CheckpointError
from ebbflow.methods.guidance import NetClassifier
from ebbflow.runs import Model, Plan, generate
from ebbflow.runs.classifier import open_classifier
from ebbflow.runs.guides import Guides, open_loss
from ebbflow.runs.plan import check, default_plan

UNET = ("--set", "net.channels=[8,16]")
TINY = ["--set", "train.held_out_size=64", "--set", "train.batch_size=32", "--set", "train.warmup_steps=0"]
CPU = ["--device", "cpu"]
Runs = dict[str, Path]


def train(folder: Path, *extra: str, net: tuple[str, ...] = UNET) -> None:
    arguments = ["train", "--preset", "digits", "--max-steps", "12", *TINY, *net, "--set", "engine.precision=fp32"]
    assert run_app([*arguments, "--save-dir", str(folder), *CPU, *extra]) == 0


def classifier_arguments(folder: Path, steps: int) -> list[str]:
    small = ["--set", "classifier.channels=[16,32]", "--set", "engine.precision=fp32", "--set", "train.warmup_steps=9"]
    return ["train-classifier", "--data", "digits", "--save-dir", str(folder), "--max-steps", str(steps), *small, *CPU]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Models of a few steps: unconditional, conditional, without dropped labels, on another path; a classifier."""
    home = tmp_path_factory.mktemp("runs")
    train(home / "plain", "--set", "conditioning.kind=none")
    train(home / "cond")
    train(home / "undropped", "--set", "conditioning.kind=label", "--set", "conditioning.drop=0")
    train(home / "cosine", "--set", "path.kind=cosine", "--set", "conditioning.kind=none")
    train(home / "points", "--data", "moons", net=("--set", "net.kind=mlp"))
    assert run_app([*classifier_arguments(home / "clf", 60), "--lr", "4e-3", "--batch-size", "64"]) == 0
    return {path.name: path for path in home.iterdir()}


def sample(run: Path, output: Path, *extra: str) -> int:
    return run_app(["sample", "--ckpt", str(run), "--output", str(output), "--steps", "3", *CPU, *extra])


def drawn(run: Path, tmp_path: Path, *extra: str) -> np.ndarray:
    output = tmp_path / "drawn.npz"
    assert sample(run, output, *extra) == 0
    return np.load(output)["arr_0"]


# -- training a classifier --------------------------------------------------------------------------------------------


def test_a_classifier_learns_the_digits_and_says_at_which_noise(runs: Runs) -> None:
    rows = [json.loads(line) for line in (runs["clf"] / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["loss"] > rows[-2]["loss"]
    accuracy = rows[-1]["accuracy_by_log_snr"]
    assert rows[-1]["step"] == 60 and accuracy["6..inf"] > 0.5 > accuracy["-inf..-6"]
    opened = open_classifier(runs["clf"])
    assert opened.facts.label_names == tuple("0123456789") and opened.facts.dims == (1, 8, 8)
    assert opened.config.classifier.channels == (16, 32)
    assert "accuracy" in (runs["clf"] / "README.md").read_text()


def test_the_same_command_says_that_it_is_done(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*classifier_arguments(runs["clf"], 60), "--lr", "4e-3", "--batch-size", "64"]
    assert run_app(arguments) == 0
    assert "already trained for 60 steps" in capsys.readouterr().out
    assert run_app([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["step"] == 60 and 0 < found["accuracy"] < 1


def test_a_classifier_resumes_bit_for_bit(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    constant = ["--set", "train.schedule=constant"]
    assert run_app([*classifier_arguments(whole, 8), *constant]) == 0
    for steps in (3, 8):
        assert run_app([*classifier_arguments(parts, steps), *constant]) == 0
    one, two = (open_classifier(folder).classifier.net.state_dict() for folder in (whole, parts))  # type: ignore[attr-defined]
    assert all(torch.equal(one[name], two[name]) for name in one)
    steps = [json.loads(line)["step"] for line in (parts / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--path", "flwo"], "Did you mean 'flow'"),
        (["--set", "classifier.chanels=[8]"], "unknown key 'classifier.chanels'"),
        (["--set", "net.channels=[8]"], "unknown section 'net'"),
        (["--data", "swiss_roll"], "needs data with two classes"),
        (["--device", "cuda:77"], "not available"),
    ],
)
def test_bad_classifier_commands(
    extra: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app([*classifier_arguments(tmp_path / "clf", 2), *extra]) == 2
    assert words in capsys.readouterr().err


def test_runs_and_classifiers_are_not_mistaken_for_each_other(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(classifier_arguments(runs["plain"], 2)) == 2
    assert "holds a model, and this command makes another kind (classifier)" in capsys.readouterr().err
    assert run_app(["info", str(runs["clf"])]) == 2
    assert "holds a trained classifier, and a model is wanted here" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="train-classifier"):
        open_classifier(runs["plain"])


# -- sampling with one ------------------------------------------------------------------------------------------------


def test_a_classifier_guides_an_unconditional_run(runs: Runs, tmp_path: Path) -> None:
    picture = tmp_path / "grid.png"
    assert sample(runs["plain"], picture, "--classifier", str(runs["clf"]), "--labels", "0,3", "--num", "4") == 0
    assert Image.open(picture).height > 100
    flags = ["--num", "10", "--classifier", str(runs["clf"])]
    plain = drawn(runs["plain"], tmp_path, "--num", "10")
    off = drawn(runs["plain"], tmp_path, *flags, "--label", "3", "--classifier-scale", "0")
    on = drawn(runs["plain"], tmp_path, *flags, "--label", "3", "--classifier-scale", "5")
    assert np.array_equal(plain, off) and not np.array_equal(plain, on)


def test_guided_samples_are_what_the_classifier_wants(runs: Runs, tmp_path: Path) -> None:
    opened = open_classifier(runs["clf"])
    log_probs = []
    for scale in ("0", "10"):
        images = drawn(
            runs["plain"], tmp_path, "--classifier", str(runs["clf"]), "--labels", "0-9", "--classifier-scale", scale
        )
        assert len(images) == 80
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        labels = torch.arange(10).repeat_interleave(8)
        log_probs.append(opened.classifier(x, 0.1, Flow()).gather(1, labels[:, None]).mean())
    assert log_probs[1] > log_probs[0] + 0.5


def test_it_works_on_a_conditional_run_and_on_another_path(runs: Runs, tmp_path: Path) -> None:
    flags = ["--label", "3", "--num", "4", "--classifier", str(runs["clf"]), "--classifier-scale", "5"]
    with_condition = drawn(runs["cond"], tmp_path, *flags, "--guidance", "1")
    assert not np.array_equal(with_condition, drawn(runs["cond"], tmp_path, *flags[:4], "--guidance", "1"))
    assert len(drawn(runs["cosine"], tmp_path, *flags)) == 4


def test_batches_do_not_change_guided_samples(runs: Runs, tmp_path: Path) -> None:
    flags = ["--num", "5", "--labels", "0-4", "--classifier", str(runs["clf"])]
    whole = drawn(runs["plain"], tmp_path, *flags).astype(int)
    parts = drawn(runs["plain"], tmp_path, *flags, "--batch-size", "2").astype(int)
    assert np.abs(whole - parts).max() <= 1


def test_classifier_of_other_data_is_refused(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app([*classifier_arguments(tmp_path / "large", 1), "--img-size", "16"]) == 0
    capsys.readouterr()
    assert sample(runs["plain"], tmp_path / "x.png", "--classifier", str(tmp_path / "large")) == 2
    assert "is for data of 1x16x16, this model makes 1x8x8" in capsys.readouterr().err
    assert sample(runs["points"], tmp_path / "x.png", "--classifier", str(runs["clf"])) == 2
    assert "is for data of 1x8x8, this model makes 2" in capsys.readouterr().err


# -- worse models, rules, untrained nulls -----------------------------------------------------------------------------


def test_autoguidance_by_the_same_run_changes_nothing(runs: Runs, tmp_path: Path) -> None:
    plain = drawn(runs["plain"], tmp_path, "--num", "4")
    same = drawn(runs["plain"], tmp_path, "--num", "4", "--autoguide", str(runs["plain"]), "--guidance", "3")
    assert np.array_equal(plain, same)
    by_default = drawn(runs["cond"], tmp_path, "--num", "4", "--label", "1", "--autoguide", str(runs["plain"]))
    assert not np.array_equal(
        by_default, drawn(runs["cond"], tmp_path, "--num", "4", "--label", "1", "--guidance", "1")
    )


@pytest.mark.parametrize("rule", [["cfg_zero_star"], ["cfg_zero_star", "zero_above=0.9"], ["apg", "norm_threshold=2"]])
def test_rules_change_samples(runs: Runs, tmp_path: Path, rule: list[str]) -> None:
    flags = ["--num", "4", "--label", "3", "--guidance", "30", "--weights", "raw"]
    options = ["--guidance-set", rule[1]] if len(rule) > 1 else []
    found = drawn(runs["cond"], tmp_path, *flags, "--guidance-rule", rule[0], *options)
    assert found.shape == (4, 8, 8, 1) and not np.array_equal(found, drawn(runs["cond"], tmp_path, *flags))


def test_a_run_that_never_dropped_its_labels_is_sampled_but_not_guided(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sample(runs["undropped"], tmp_path / "x.png", "--num", "2", "--label", "1") == 0
    assert sample(runs["undropped"], tmp_path / "x.png", "--label", "1", "--guidance", "2") == 2
    assert "never saw the null condition in training (conditioning.drop = 0)" in capsys.readouterr().err
    against = ["--label", "1", "--guidance", "2", "--negative-label", "7"]
    assert sample(runs["undropped"], tmp_path / "x.png", *against) == 0
    with_clf = ["--label", "1", "--classifier", str(runs["clf"])]
    assert sample(runs["undropped"], tmp_path / "x.png", *with_clf) == 0


# -- losses -----------------------------------------------------------------------------------------------------------


def test_a_colour_loss_moves_the_mean(runs: Runs, tmp_path: Path) -> None:
    means = [
        drawn(
            runs["plain"], tmp_path, "--num", "8", "--loss", "colour", "--target", target, "--loss-weight", "2"
        ).mean()
        for target in ("0", "1")
    ]
    assert means[0] + 30 < means[1]


@pytest.mark.parametrize(
    ("loss", "extra"),
    [
        ("inpaint", ["--mask", "left"]),
        ("blur", ["--loss-set", "width=1.0"]),
        ("downsample", ["--loss-set", "factor=2"]),
    ],
)
@pytest.mark.parametrize("emphasis", ["early", "late", "none"])
def test_image_losses_pull_towards_their_target(
    runs: Runs, tmp_path: Path, loss: str, extra: list[str], emphasis: str
) -> None:
    target = tmp_path / "target.png"
    pixels = np.zeros((8, 8), dtype=np.uint8)
    pixels[:, ::2] = 255
    pixels[4:] = 200
    Image.fromarray(pixels).save(target)
    flags = ["--num", "4", "--loss", loss, "--target", str(target), "--loss-emphasis", emphasis, *extra]
    model = Model.from_run(runs["plain"])
    plan = default_plan(model, seeds=range(4))
    options = {"width": 1.0} if loss == "blur" else {"factor": 2} if loss == "downsample" else {}
    measure = open_loss(
        loss, model.facts, target=str(target), mask="left" if loss == "inpaint" else None, options=options
    )
    ends = [
        [s.x for s in generate(model, replace(plan, guides=g)) if s.done][-1]
        for g in (Guides(), Guides(loss=measure, loss_emphasis=emphasis))
    ]
    assert float(measure(ends[1]).mean()) < float(measure(ends[0]).mean())
    assert drawn(runs["plain"], tmp_path, *flags).shape == (4, 8, 8, 1)


def test_larger_targets_are_brought_to_size_and_masks_may_be_pictures(runs: Runs, tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), "white").save(tmp_path / "target.png")
    Image.new("L", (8, 8), 0).save(tmp_path / "mask.png")
    flags = ["--loss", "inpaint", "--target", str(tmp_path / "target.png"), "--mask", str(tmp_path / "mask.png")]
    assert drawn(runs["plain"], tmp_path, "--num", "2", "--loss-weight", "3", *flags).mean() > 150


Wrong = Callable[[Runs], list[str]]


@pytest.mark.parametrize(
    ("run", "flags", "words"),
    [
        ("plain", ["--guidance", "2"], "there is nothing to guide"),
        ("plain", ["--label", "3"], "it cannot take labels"),
        ("plain", ["--guidance-rule", "apg"], "there is nothing to guide"),
        ("cond", ["--guidance-rule", "agp"], "Did you mean 'apg'"),
        ("cond", ["--guidance-rule", "apg", "--guidance", "1"], "acts through guidance, which is off"),
        ("cond", ["--guidance-rule", "apg", "--guidance-set", "etta=1"], "has no option 'etta'. Did you mean 'eta'"),
        ("cond", ["--guidance-set", "eta"], "--guidance-set wants name=value"),
        ("cond", ["--autoguide", "PLAIN", "--guidance-rule", "apg"], "a rule of its own"),
        ("cond", ["--autoguide", "PLAIN", "--guidance", "1"], "off at --guidance 1"),
        ("cond", ["--autoguide", "COSINE"], "same path"),
        ("cond", ["--autoguide", "POINTS"], "is for data of 2, this model makes 1x8x8"),
        ("cond", ["--autoguide", "nowhere"], "does not exist"),
        ("plain", ["--classifier", "PLAIN"], "holds a trained model, and a classifier is wanted here"),
        ("plain", ["--classifier", "nowhere"], "does not exist"),
        ("plain", ["--classifier", "CLF", "--label", "11"], "label '11' is unknown"),
        ("plain", ["--classifier-scale", "2"], "says nothing without --classifier"),
        ("plain", ["--loss-weight", "2"], "says nothing without --loss"),
        ("plain", ["--loss", "color", "--target", "1"], "Did you mean 'colour'"),
        ("plain", ["--loss", "colour"], "--loss needs a --target"),
        ("plain", ["--loss", "colour", "--target", "2"], "numbers in [0, 1]"),
        ("plain", ["--loss", "colour", "--target", "cat.png"], "neither an image file nor numbers"),
        ("plain", ["--loss", "blur", "--target", "0.5"], "needs an image"),
        ("plain", ["--loss", "colour", "--target", "1", "--loss-emphasis", "erly"], "Did you mean 'early'"),
        ("plain", ["--loss", "colour", "--target", "1", "--mask", "left"], "only that, needs a --mask"),
        ("plain", ["--loss", "colour", "--target", "1", "--loss-weight", "-1"], "at least 0"),
        ("plain", ["--loss", "colour", "--target", "1", "--loss-set", "width=3"], "has no option 'width'"),
        ("points", ["--loss", "colour", "--target", "1"], "is for images"),
    ],
)
def test_wrong_flags_are_one_sentence(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str], run: str, flags: list[str], words: str
) -> None:
    known = {name.upper(): str(path) for name, path in runs.items()}
    assert sample(runs[run], tmp_path / "x.png", *(known.get(flag, flag) for flag in flags)) == 2
    message = capsys.readouterr().err
    assert words in message and "Traceback" not in message
    assert not (tmp_path / "x.png").exists()


def test_broken_pictures_are_one_sentence(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    assert sample(runs["plain"], tmp_path / "x.png", "--loss", "blur", "--target", str(tmp_path / "bad.png")) == 2
    assert "cannot be read as an image" in capsys.readouterr().err


def test_lists_name_the_rules_and_losses(capsys: pytest.CaptureFixture[str]) -> None:
    for kind, names in (("guidance", ["apg", "autoguidance", "classifier", "loss"]), ("losses", ["colour", "inpaint"])):
        assert run_app(["list", kind, "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert set(names) <= {row["name"] for row in rows} and all(row["description"] for row in rows)


def test_a_request_can_be_made_in_python(runs: Runs) -> None:
    model = Model.from_run(runs["plain"])
    exact = NetClassifier(net=open_classifier(runs["clf"]).classifier.net)
    guides = Guides(classifier=exact, classifier_scale=2.0)
    plan = Plan(seeds=(0, 1), conditions=(3, 4), num_steps=2, guides=guides)
    check(model, plan)
    moved = model.with_denoiser(replace(model.denoiser, path=Flow()))
    assert [s.x.shape for s in generate(moved, plan) if s.done] == [(2, 1, 8, 8)]
    assert Cosine() != moved.denoiser.path
