"""Every example runs, from its own folder or from elsewhere, and its result is what it should be."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import ebbflow as ef
from ebbflow import plugins
from ebbflow.cli.app import run_app
from ebbflow.metrics.learning import LearnerSettings

EXAMPLES = Path(__file__).parents[1] / "examples"
QUICK = {**LearnerSettings.__init__.__kwdefaults__, "min_steps": 60, "max_steps": 60}
TESTED = (
    "own_net_and_data",
    "own_sampler",
    "guide_a_strangers_net",
    "diffusers_pipeline",
    "evaluate_folder",
    "make_pictures",
    "emoji_pictures",
    "cut_squares",
)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins, "_known", {})
    monkeypatch.setenv("EBBFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(LearnerSettings.__init__, "__kwdefaults__", QUICK)


def run(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, Any]:
    """The names that an example leaves behind."""
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with torch.random.fork_rng(devices=[]):
        return runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")


def test_each_is_tested_and_short() -> None:
    files = {path.stem: path.read_text(encoding="utf-8") for path in EXAMPLES.glob("*.py")}
    assert set(files) == set(TESTED)
    for name, text in files.items():
        assert len(text.splitlines()) <= 40, f"{name} is for reading at a glance"


def test_a_net_and_data_of_ones_own(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    left = run("own_net_and_data", monkeypatch, "500")
    radius = left["last"].x.norm(dim=1)
    assert float(radius.mean()) == pytest.approx(1, abs=0.1) and float(radius.std()) < 0.3, "noise has 1.25 and 0.66"
    assert "mean radius" in capsys.readouterr().out


def test_a_sampler_of_ones_own(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    verify = ["verify", "--import", "own_sampler", "--samplers", "ralston", "--paths", "flow,vp", "--quick", "--json"]
    assert run_app(verify) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows and {row["sampler"] for row in rows} == {"ralston"} and all(row["ok"] for row in rows)
    assert min(row["order_measured"] for row in rows) > 1.75, "it is of second order"
    settings = ["--set", "net.kind=mlp", "--max-steps", "1", "--set", "train.sample_every=0", "--save-dir", "run"]
    assert run_app(["train", "--data", "moons", *settings]) == 0
    sample = ["sample", "--ckpt", "run", "--sampler", "ralston", "--output", "samples.png", "--num", "4"]
    assert run_app([*sample, "--import", "own_sampler"]) == 0 and Image.open("samples.png").width > 0
    assert run_app(sample) == 2, "without the plugin there is no such sampler"


def test_a_strangers_net_is_guided_by_every_rule(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    restorations = {"pigdm", "ddnm"}  # these want a measurement
    assert set(run("guide_a_strangers_net", monkeypatch)["guided"]) == set(ef.GUIDANCE) - restorations
    pattern = r"(\w+) +mean \((\S+), (\S+)\), spread (\S+)"
    found = {name: tuple(map(float, row)) for name, *row in re.findall(pattern, capsys.readouterr().out)}
    assert found["unguided"] == pytest.approx((2, 1, 0.5), abs=0.05), "the class that was asked for"
    assert found["classifier"] == pytest.approx(found["unguided"], abs=0.02), "exact parts make the conditional model"
    assert found["classifier_free"][0] > 2.3 and found["autoguidance"][2] < 0.4
    assert found["loss"][1] == pytest.approx(0, abs=0.1), "and the loss draws it down"


def test_a_pipeline_of_diffusers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    diffusers = pytest.importorskip("diffusers")
    settings = {"layers_per_block": 1, "block_out_channels": (8, 16), "norm_num_groups": 4, "sample_size": 8}
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    with torch.random.fork_rng(devices=[]):
        net = diffusers.UNet2DModel(**settings, **blocks)
    diffusers.DDPMPipeline(unet=net, scheduler=diffusers.DDPMScheduler()).save_pretrained(tmp_path / "theirs")
    left = run("diffusers_pipeline", monkeypatch, str(tmp_path / "theirs"))
    assert left["samples"].images.shape == (2, 3, 8, 8)
    for name in ("ddim_10.png", "dpmpp_2m_5.png"):
        assert np.asarray(Image.open(name)).std() > 0


def test_a_folder_of_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = ef.load_dataset("digits").held_out.x.permute(0, 2, 3, 1).numpy()
    made = {"real": real, "noise": np.random.default_rng(0).integers(0, 256, real.shape, dtype=np.uint8)}
    scores = {}
    for name, pictures in made.items():
        np.savez(tmp_path / f"{name}.npz", arr_0=pictures)
        scores[name] = run("evaluate_folder", monkeypatch, str(tmp_path / f"{name}.npz"))["scores"]
    assert scores["real"]["frechet"] < 0.01 < 10 < scores["noise"]["frechet"], "the held-out digits are the reference"
    assert scores["real"]["recall"] == 1 and scores["noise"]["recall"] < 0.3
    assert "frechet" in capsys.readouterr().out


def test_the_notebook_runs_from_top_to_bottom(capsys: pytest.CaptureFixture[str]) -> None:
    notebook = json.loads((EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells), "it is kept without what it printed"
    names: dict[str, Any] = {}
    for source in ("".join(cell["source"]) for cell in cells):
        if source.startswith("!ebbflow "):
            few = ["--max-steps", "2", "--batch-size", "8", "--set", "net.channels=[8,8]"]
            assert run_app([*shlex.split(source)[1:], *few, "--set", "train.sample_every=0"]) == 0
            continue
        exec(compile(source, "notebook.ipynb", "exec"), names)
    assert len(names["fours"]) == 8 and set(names["both"].labels) == {3, 8}
    assert Path("both.png").is_file() and Path("compare.html").is_file()
    assert "dpmpp_2m" in capsys.readouterr().out


def test_pictures_to_try_things_on(monkeypatch: pytest.MonkeyPatch) -> None:
    run("make_pictures", monkeypatch, "mine", "6", "16")
    splits = ef.load_dataset("mine")
    assert splits.train.dims == (3, 16, 16) and splits.train.label_names == ("circle", "square", "triangle")
    captions = [*(splits.train.captions or ()), *(splits.held_out.captions or ())]
    assert len(captions) == 6 and all(re.fullmatch(r"a \w+ (circle|square|triangle)", text) for text in captions)
    first = Path("mine/0000.png").read_bytes()
    run("make_pictures", monkeypatch, "mine", "6", "16")
    assert Path("mine/0000.png").read_bytes() == first, "the same every time"


def test_squares_of_photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    Image.linear_gradient("L").resize((90, 60)).save("wide.png")
    run("cut_squares", monkeypatch, "squares", "wide.png", "wide.png")
    assert ef.load_dataset("squares", size=32).train.dims == (3, 32, 32) and len(list(Path("squares").iterdir())) == 20
    sides = {Image.open(file).size for file in Path("squares").iterdir()}
    assert sides == {(256, 256)}


def test_emoji_are_named_and_flags_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Path("package/img/google/64")
    drawn.mkdir(parents=True)
    rows = [("a.png", "GRINNING FACE", "Smileys"), ("b.png", "FLAG", "Flags"), ("none.png", "LOST", "Smileys")]
    for name, _, _ in rows[:2]:
        Image.new("RGBA", (64, 64)).save(drawn / name)
    emoji = [{"image": image, "name": name, "category": kind} for image, name, kind in rows]
    Path("package/emoji.json").write_text(json.dumps(emoji), encoding="utf-8")
    run("emoji_pictures", monkeypatch, "package", "emoji")
    splits = ef.load_dataset("emoji", held_out=0)
    assert splits.train.captions == ("grinning face",) and splits.train.label_names == ("Smileys",)
