"""The command line as a person meets it: one small run, every sampler, every output, every mistake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import WALKERS
from PIL import Image

from ebbflow.cli.app import run_app
from ebbflow.methods.samplers import SAMPLERS

TINY = [
    "--set", "net.channels=[8,16]", "--set", "net.num_heads=2", "--set", "train.sample_every=0", "--set", "train.held_out_every=0",
    "--set", "train.held_out_size=16", "--batch-size", "16", "--device", "cpu", "--set", "sample.num_steps=2",
    "--set", "train.warmup_steps=0", "--lr", "1e-2",
]  # fmt: skip


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    assert run_app(["train", "--max-steps", "6", "--save-dir", str(folder), *TINY]) == 0
    return folder


@pytest.fixture(scope="session")
def unconditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "plain"
    assert (
        run_app(["train", "--max-steps", "2", "--save-dir", str(folder), *TINY, "--set", "conditioning.kind=none"]) == 0
    )
    return folder


def sample(run: Path, output: Path, *more: str) -> int:
    return run_app(["sample", "--ckpt", str(run), "--output", str(output), *more])


def test_training_leaves_a_run_that_describes_itself(run: Path) -> None:
    assert (run / "config.json").is_file()
    assert (run / "samples" / "step_000006.png").is_file()
    card = (run / "README.md").read_text()
    assert f"Use it with\n\n```\nebbflow sample --ckpt {run} --output samples.png\n```" in card
    assert "Made by\n\n```\nebbflow" in card and "on path Flow.\n\nTrained for 6 of 6 steps" in card
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"step", "loss", "lr", "grad_norm", "samples_per_second", "loss_by_log_snr"} <= rows[0].keys()
    state = json.loads(next((run / "checkpoints").glob("*/state.json")).read_text())
    assert state["facts"]["label_names"] == [str(i) for i in range(10)]
    assert state["config"]["conditioning"]["kind"] == "label"


@pytest.mark.parametrize("name", WALKERS)
def test_every_sampler_samples_the_same_checkpoint(run: Path, tmp_path: Path, name: str) -> None:
    assert sample(run, tmp_path / "four.png", "--label", "4", "--sampler", name, "--steps", "3") == 0
    assert Image.open(tmp_path / "four.png").size[0] > 8


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_pictures_in_each_format(run: Path, tmp_path: Path, suffix: str) -> None:
    assert sample(run, tmp_path / f"grid{suffix}", "--labels", "0-2", "--num", "6") == 0
    picture = Image.open(tmp_path / f"grid{suffix}")
    assert picture.height > 3 * 50
    if suffix == ".png":
        assert "--labels" in picture.text["ebbflow"] or picture.text["ebbflow"].startswith("ebbflow")


def test_npz_holds_uint8_nhwc_and_labels(run: Path, tmp_path: Path) -> None:
    assert sample(run, tmp_path / "s.npz", "--num", "20", "--batch-size", "7") == 0
    with np.load(tmp_path / "s.npz") as arrays:
        assert arrays["arr_0"].shape == (20, 8, 8, 1)
        assert arrays["arr_0"].dtype == np.uint8
        assert arrays["arr_1"].tolist() == [i // 2 for i in range(20)]


def test_a_sample_depends_on_its_seed_alone(run: Path, tmp_path: Path) -> None:
    common = ["--label", "3", "--sampler", "ddpm", "--steps", "3"]
    assert sample(run, tmp_path / "many", "--seeds", "0-4", *common) == 0
    assert sample(run, tmp_path / "one", "--seeds", "3", *common) == 0
    many, one = (np.asarray(Image.open(tmp_path / f / "seed_000003.png")).astype(int) for f in ("many", "one"))
    assert np.abs(many - one).max() <= 1, "sample 3 must not depend on its batch"
    assert len(list((tmp_path / "many").iterdir())) == 5


def test_trajectory_is_an_animation_from_noise_with_a_frame_a_step(run: Path, tmp_path: Path) -> None:
    assert (
        sample(run, tmp_path / "x.png", "--label", "1", "--steps", "5", "--trajectory", str(tmp_path / "x.webp")) == 0
    )
    assert Image.open(tmp_path / "x.webp").n_frames == 6


def test_guidance_and_the_negative_label_change_samples(run: Path, tmp_path: Path) -> None:
    base = ["--label", "4", "--num", "2"]
    for name, more in {
        "plain": ["--guidance", "1"],
        "guided": ["--guidance", "5"],
        "negative": ["--guidance", "5", "--negative-label", "9"],
        "window": ["--guidance", "5", "--interval", "-2,2"],
        "clipped": ["--guidance", "5", "--clip"],
    }.items():
        assert sample(run, tmp_path / f"{name}.npz", *base, *more) == 0
    arrays = {n: np.load(tmp_path / f"{n}.npz")["arr_0"] for n in ("plain", "guided", "negative", "window", "clipped")}
    assert not np.array_equal(arrays["plain"], arrays["guided"])
    assert not np.array_equal(arrays["guided"], arrays["negative"])
    assert not np.array_equal(arrays["guided"], arrays["window"])
    assert not np.array_equal(arrays["guided"], arrays["clipped"])


def test_json_of_every_reporting_verb(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def answer(*arguments: str) -> object:
        assert run_app(arguments) in (0, 1)
        return json.loads(capsys.readouterr().out)

    capsys.readouterr()
    assert answer("info", str(run), "--json")["step"] == 6
    for kind in (
        "samplers",
        "paths",
        "predictions",
        "grids",
        "times",
        "weights",
        "nets",
        "datasets",
        "presets",
        "guidance",
    ):
        rows = answer("list", kind, "--json")
        assert all(row["name"] and isinstance(row["description"], str) for row in rows), kind
    assert {row["name"] for row in answer("list", "samplers", "--json")} == set(SAMPLERS)
    assert {row["name"] for row in answer("doctor", "--json")} >= {"python", "torch", "torchvision", "disk"}
    done = answer("sample", "--ckpt", str(run), "--output", str(tmp_path / "a.png"), "--label", "4", "--json")
    assert done["num"] == 1
    cost = answer("train", "--dry-run", "--json", "--max-steps", "6", *TINY)
    assert cost["num_parameters"] > 1000
    assert cost["forward_flops_per_sample"] > 0


def test_info_of_a_folder_of_runs_lists_them(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["info", str(run.parent), "--json"]) == 0
    rows = {row["run"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows[run.name]["data"] == "digits" and rows[run.name]["step"] > 0
    assert run_app(["info", "--ckpt", str(run.parent)]) == 0 and run.name in capsys.readouterr().out


def test_lists_show_what_can_be_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["list", "samplers"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "eta=0.0" in lines["ddim"] and "[" not in lines["heun"]


def test_plots_and_listings_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run_app(["plot", "schedules", "--output", str(tmp_path / "s.png"), "--paths", "vp_discrete,cosine_discrete,ve"])
        == 0
    )
    assert Image.open(tmp_path / "s.png").width > 1000
    assert run_app(["list"]) == 0
    assert "samplers" in capsys.readouterr().out


def test_underscores_and_hyphens_are_the_same_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["train", "--dry_run", "--json", "--max_steps", "3", "--img_size=8", *TINY]) == 0
    assert json.loads(capsys.readouterr().out)["config"]["data"]["size"] == 8


def test_the_same_command_again_says_that_it_is_done(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["train", "--max-steps", "6", "--save-dir", str(run), *TINY]) == 0
    assert "already trained for 6 steps" in capsys.readouterr().out


def test_epochs_are_passes_over_the_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["train", "--dry-run", "--json", "--epochs", "2", *TINY]) == 0
    assert json.loads(capsys.readouterr().out)["config"]["train"]["num_steps"] == 188


MISTAKES = {
    "unknown option": (["train", "--epoch", "3"], "No such option"),
    "unknown preset": (["train", "--preset", "digit"], "Did you mean 'digits'"),
    "unknown key": (["train", "--set", "net.dept=3"], "unknown key 'net.dept'"),
    "unknown section": (["train", "--set", "nett.depth=3"], "Did you mean 'net'"),
    "a list for a kind": (["train", "--set", "net.kind=[1]"], "unknown net.kind [1]"),
    "place and flag": (["info", "runs/a", "--ckpt", "runs/b"], "RUN and --ckpt say the same. Give one."),
    "unknown entry": (["list", "samplers", "huen"], "Did you mean 'heun'"),
    "not a number": (["train", "--lr", "nan"], "--lr must be finite, got nan."),
    "choice": (["train", "--channels", "2"], "--channels must be 1, 3 or 4, got '2'"),
    "unknown data": (["train", "--data", "mnst"], "mnist"),
    "out of range": (["train", "--lr=-1"], "--lr must be above 0, got -1.0."),
    "impossible pair": (["train", "--set", "objective.prediction=eps"], "cannot recover x0 where alpha = 0"),
    "two lengths": (["train", "--epochs", "1", "--max-steps", "2"], "Give one"),
    "patch size of an MLP": (["train", "--set", "net.kind=mlp", "--patch-size", "2"], "net.patch_size"),
    "malformed setting": (["train", "--set", "depth"], "section.key=value"),
    "missing config": (["train", "--config", "nowhere.toml"], "does not exist"),
    "bad device": (["train", "--device", "cuda:99", "--max-steps", "1"], "device cpu"),
    "unknown list": (["list", "sampler"], "Did you mean 'samplers'"),
    "missing run": (["info", "nowhere"], "does not exist"),
    "unknown path": (["plot", "schedules", "--paths", "vpp"], "Did you mean 'vp'"),
    "a path's own number": (
        ["train", "--set", "path.kind=vp_discrete", "--set", "path.num_steps=1"],
        "`path.num_steps` must be in [4, 100000], got 1",
    ),
    "no heads": (["train", "--set", "net.num_heads=0"], "`net.num_heads` must be in [1, 65536], got 0"),
    "heads below none": (["train", "--set", "net.num_heads=-1"], "`net.num_heads` must be in [1, 65536], got -1"),
    "no clock": (["train", "--set", "net.clock_dim=0"], "`net.clock_dim` must be in [1, 65536], got 0"),
    "endless width": (
        ["train", "--set", "net.kind=dit", "--set", "net.mlp_ratio=inf"],
        "`net.mlp_ratio` must be finite, got inf",
    ),
    "endless noise": (
        ["train", "--set", "path.kind=ve", "--set", "path.sigma_max=1e300"],
        "`path.sigma_max` must be in (0, 1000000000000000.0], got 1e+300",
    ),
    "endless rate": (["train", "--set", "train.lr=1e300"], "--lr must be in (0, 1000000.0], got 1e+300"),
    "not finite": (["train", "--set", "sample.guidance=nan"], "`sample.guidance` must be finite, got nan"),
    "a model of diffusers": (["info", "hf:somebody/model"], "the folder of a run is wanted here"),
    "nothing behind hf:": (["sample", "--ckpt", "hf:", "--output", "a.png"], "the folder of a diffusers model"),
    "picture suffix": (["plot", "schedules", "--output", "x.bmp"], ".png"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, expected = MISTAKES[name]
    assert run_app(arguments) == 2
    shown = capsys.readouterr().err
    assert expected in shown, shown
    assert "Traceback" not in shown
    assert not list(tmp_path.rglob("*.safetensors"))


SAMPLING_MISTAKES = {
    "unknown sampler": (["--sampler", "dppm"], "Did you mean 'ddpm'"),
    "unknown grid": (["--grid", "karas"], "Did you mean 'karras'"),
    "unknown option of the sampler": (["--sampler", "ddim", "--set", "etta=1"], "Did you mean 'eta'"),
    "option out of range": (
        ["--sampler", "ddim", "--set", "eta=1.5"],
        "`eta` of sampler 'ddim' must be in [0, 1], got 1.5.",
    ),
    "option of another type": (
        ["--sampler", "ddim", "--set", "eta=a"],
        "`eta` of sampler 'ddim' must be a number, got 'a'",
    ),
    "option that is a table": (["--sampler", "ddim", "--set", "eta={a=1}"], "`eta` of sampler 'ddim' must be a number"),
    "option that is huge": (
        ["--sampler", "sde", "--set", "scale=1e300"],
        "`scale` of sampler 'sde' must be in [0, 1000000.0], got 1e+300.",
    ),
    "no end of steps": (["--sampler", "pc", "--set", "corrector_steps=1000000"], "must be in [0, 10000], got 1000000"),
    "option of nobody": (["--sampler", "ddim", "--set", "x=meta"], "sampler 'ddim' has no option 'x'"),
    "option of a rule": (
        ["--guidance-rule", "apg", "--guidance", "2", "--guidance-set", "norm_threshold=a"],
        "`norm_threshold` of guidance rule 'apg' must be a number, got 'a'",
    ),
    "option of a loss": (
        ["--loss", "blur", "--target", "1", "--loss-set", "width={a=1}"],
        "`width` of loss 'blur' must be a number, got {'a': 1}",
    ),
    "unknown label": (["--label", "11"], "unknown to this run"),
    "label twice": (["--label", "1", "--labels", "0-2"], "--labels and --label say the same. Give one."),
    "negative without guidance": (["--label", "1", "--negative-label", "2", "--guidance", "1"], "--guidance 2"),
    "more than memory": (["--num", "10000000000"], "--num must be in [1, 10000000], got 10000000000."),
    "weights": (["--weights", "best"], "ema or raw"),
    "backward range": (["--labels", "5-2"], "runs backwards"),
    "seeds": (["--seeds", "a"], "--seeds"),
    "interval": (["--interval", "3"], "LOW,HIGH"),
}


@pytest.mark.parametrize("name", SAMPLING_MISTAKES)
def test_a_mistake_in_sampling(run: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, expected = SAMPLING_MISTAKES[name]
    output = tmp_path / "kept.png"
    output.write_bytes(b"precious")
    assert sample(run, output, *arguments) == 2
    shown = capsys.readouterr().err
    assert expected in shown, shown
    assert output.read_bytes() == b"precious", "a failed command must leave files as they were"


def test_an_unconditional_run_takes_neither_labels_nor_guidance(
    unconditional: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sample(unconditional, tmp_path / "a.png", "--num", "4") == 0
    for more in (["--label", "1"], ["--guidance", "2"], ["--negative-label", "1"]):
        assert sample(unconditional, tmp_path / "b.png", *more) == 2
        assert "this model is unconditional" in capsys.readouterr().err
    assert not (tmp_path / "b.png").exists()


@pytest.mark.parametrize("text", ["train = 3", "[[train]]\nlr = 1"], ids=["number", "list"])
def test_a_section_that_is_no_table(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.toml").write_text(text)
    assert run_app(["train", "--config", str(tmp_path / "c.toml"), "--dry-run"]) == 2
    assert "section 'train' must hold keys" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{", "[]", '{"train": 3}'])
def test_a_damaged_config_of_a_run(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(text)
    assert run_app(["train", "--save-dir", str(tmp_path), "--max-steps", "1"]) == 2
    assert "config.json does not describe a run" in capsys.readouterr().err


def test_the_folder_of_a_run_opens_behind_hf_too(run: Path, tmp_path: Path) -> None:
    asked = ["--num", "1", "--steps", "2", "--output"]
    for name, ckpt in (("a.npz", f"hf:{run}"), ("b.npz", str(run))):
        assert run_app(["sample", "--ckpt", ckpt, *asked, str(tmp_path / name)]) == 0
    assert np.array_equal(*(np.load(tmp_path / name)["arr_0"] for name in ("a.npz", "b.npz")))


def test_what_is_no_run_is_no_model_of_diffusers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("diffusers")
    (tmp_path / "config.json").write_text("{}")
    assert run_app(["sample", "--ckpt", f"hf:{tmp_path}", "--output", str(tmp_path / "a.png")]) == 2
    assert "its config.json names no class" in capsys.readouterr().err


def test_a_foreign_file_is_no_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.pt").write_bytes(b"\x80\x02}q\x00.")
    assert sample(tmp_path / "model.pt", tmp_path / "a.png") == 2
    assert "is not a run of ebbflow" in capsys.readouterr().err


def test_a_full_disk_is_one_sentence(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert sample(run, tmp_path / "a.png", "--label", "1") == 2
    assert "the disk is full" in capsys.readouterr().err
    assert not (tmp_path / "a.png").exists()


def test_interrupting_saves_and_the_same_command_goes_on(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "ebbflow",
        "train",
        "--max-steps",
        "100000",
        "--save-dir",
        str(tmp_path / "run"),
        *TINY,
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=partial(
            signal.signal, signal.SIGINT, signal.SIG_DFL
        ),  # ignored where this suite is in the background
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    for _ in range(600):
        if metrics.is_file() and metrics.read_text().count("\n") >= 1:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    try:
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "the same command goes on" in err
    assert "Traceback" not in err
    assert len(list((tmp_path / "run" / "checkpoints").glob("step_*"))) == 1


def test_what_it_says_to_run_next_can_be_pasted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "my run"
    few = ["--max-steps", "1", "--batch-size", "4", "--set", "net.channels=[8]", "--set", "train.sample_every=0"]
    assert run_app(["train", *few, "--device", "cpu", "--save-dir", str(folder)]) == 0
    assert f"--ckpt '{folder}' --output" in capsys.readouterr().out
    assert f"--ckpt '{folder}' --output" in (folder / "README.md").read_text()
