"""A stranger's module on the command line: one thing for every registry, each trains or samples, and is not imported
unasked."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ebbflow as ef
from ebbflow import plugins
from ebbflow.cli.app import run_app
from ebbflow.errors import CheckpointError

STRANGERS = Path(__file__).parent / "data" / "strangers.py"
BASE = {"data.name": "stripes", "net.kind": "three_layers", "train.warmup_steps": "0"}
TRAINED = {  # registry -> what a training sets to have it, and where the configuration says so
    "NETS": {"net.kind": "three_layers", "net.width": "12"},
    "OPTIMISERS": {"optimiser.kind": "descent", "optimiser.momentum": "0.5"},
    "DATASETS": {"data.name": "stripes"},
    "PATHS": {"path.kind": "square", "path.shift": "1.5"},
    "PREDICTIONS": {"objective.prediction": "rotated"},
    "WEIGHTS": {"objective.weight": "near"},
    "TIME_SAMPLERS": {"objective.times": "late", "objective.times.power": "3"},
    "COUPLINGS": {"objective.coupling": "turned", "objective.coupling.by": "2"},
    "OPERATORS": {"conditioning.degrade": "dimmed", "conditioning.degrade.by": "0.25", "conditioning.kind": "image"},
    "CONDITIONINGS": {"conditioning.kind": "parity", "conditioning.dim": "4"},
}
SAMPLED = {
    "SAMPLERS": ["--sampler", "patient", "--set", "keep=0.5"],
    "TIME_GRIDS": ["--grid", "power", "--set", "grid.power=3"],
    "CONDITION_RULES": ["--guidance", "4", "--guidance-rule", "timid", "--guidance-set", "share=0.25"],
    "LOSSES": ["--loss", "brightness", "--target", "white.png", "--loss-set", "power=1.5"],
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    shutil.copy(STRANGERS, folder / "strangers.py")
    Image.new("L", (6, 6), 255).save(folder / "white.png")
    return folder


@pytest.fixture
def here(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(workplace)
    return workplace


@pytest.fixture
def run(here: Path) -> Path:
    """A run of the stranger's net on the stranger's data."""
    if not (here / "base").exists():
        assert train("base", {}) == 0
    return here / "base"


def train(folder: str, settings: dict[str, str], *more: str) -> int:
    every = {**BASE, "train.sample_every": "0", "train.held_out_every": "2", "sample.num_steps": "2", **settings}
    flags = [part for key, value in every.items() for part in ("--set", f"{key}={value}")]
    few = ["--max-steps", "4", "--batch-size", "8", "--lr", "1e-2", "--device", "cpu", "--save-dir", folder]
    return run_app(["train", "--import", "strangers", *few, *flags, *more])


def sample(output: Path, *more: str, plugin: bool = True) -> int:
    before = ["--import", "strangers"] if plugin else []
    return run_app(
        ["sample", *before, "--ckpt", "base", "--device", "cpu", "--num", "4", "--output", str(output), *more]
    )


def test_every_registry_is_tried() -> None:
    assert {*TRAINED, *SAMPLED, "METRICS"} == set(plugins.WHERE)
    text = STRANGERS.read_text()
    assert all(f"{registry} = " in text for registry in plugins.WHERE if registry != "SAMPLERS")


@pytest.mark.parametrize("registry", TRAINED)
def test_it_trains_and_its_checkpoint_names_it(registry: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, before = f"trained_{registry.lower()}", {kind: dict(plugins._registries(kind)[0]) for kind in plugins.WHERE}
    assert train(folder, TRAINED[registry]) == 0, capsys.readouterr().err
    assert {kind: dict(plugins._registries(kind)[0]) for kind in plugins.WHERE} == before, (
        "the registries are as they were"
    )
    state = json.loads(next((here / folder / "checkpoints").glob("*/state.json")).read_text())
    assert state["plugins"] == ["strangers"]
    for key, value in TRAINED[registry].items():
        section, name, *option = key.split(".")
        kept = state["config"][section][name]
        said = kept[option[0]] if option else kept["kind"] if isinstance(kept, dict) else kept
        assert str(said).removesuffix(".0") == value
    rows = [json.loads(line) for line in (here / folder / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["loss"]) for row in rows if "loss" in row)
    sampling = ["sample", "--ckpt", folder, "--output", "x.npz", "--num", "2", "--device", "cpu"]
    assert run_app([*sampling, "--import", "strangers"]) == 0 and np.load("x.npz")["arr_0"].shape == (2, 6, 6, 1)
    capsys.readouterr()
    assert run_app(sampling) == 2
    said = capsys.readouterr().err
    assert "It was made with the plugin strangers: name it with --import." in said and said.count("\n") == 1


@pytest.mark.parametrize("registry", SAMPLED)
def test_it_samples_and_its_options_matter(
    registry: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    *chosen, _, option = flags = SAMPLED[registry]
    name, _, value = option.partition("=")
    made = {}
    for tag, given in {
        "as said": flags,
        "another": [*chosen, flags[-2], f"{name}={float(value) / 2}"],
        "plain": [],
    }.items():
        output = tmp_path / f"{tag}.npz"
        assert sample(output, "--steps", "4", "--labels", "across", *given) == 0, capsys.readouterr().err
        made[tag] = np.load(output)["arr_0"].astype(int)
    assert np.abs(made["as said"] - made["plain"]).max() > 0 and np.abs(made["as said"] - made["another"]).max() > 0
    capsys.readouterr()
    assert sample(tmp_path / "x.npz", *flags, "--set", "typo=1") == 2 and "typo" in capsys.readouterr().err


def test_it_measures(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("EBBFLOW_CACHE", str(run.parent / "cache"))
    points = {"data.name": "moons", "net.kind": "three_layers", "sample.num_steps": "1"}
    assert train("points", points) == 0
    capsys.readouterr()
    evaluate = ["evaluate", "--ckpt", "points", "--num", "20", "--features", "coordinates", "--device", "cpu", "--json"]
    assert run_app([*evaluate, "--import", "strangers"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert isinstance(measured["mean_feature"], float) and "frechet" in measured


def test_opening_a_checkpoint_runs_none_of_its_plugins_code(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_known", {})
    monkeypatch.delitem(sys.modules, "strangers", raising=False)
    monkeypatch.syspath_prepend(str(run.parent))
    with pytest.raises(CheckpointError, match="made with the plugin strangers"):
        ef.open(run, device="cpu")
    assert "strangers" not in sys.modules
    with plugins.imported(["strangers"]):
        assert len(ef.open(run, device="cpu").sample(num=2)) == 2


RAISING: dict[str, tuple[str, Callable[[], int], str]] = {
    "a net that cannot be built": (
        "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Net:\n"
        "    def build(self, dims, out_channels, context): raise ValueError('no room for a net here')\n"
        "NETS = {'broken': Net}\n",
        lambda: run_app(["train", "--import", "broken_0", "--set", "net.kind=broken", "--save-dir", "broken"]),
        "no room for a net here",
    ),
    "a data set that fails": (
        "def gone(data_dir=None): raise ValueError('the disk with it is not here')\nDATASETS = {'gone': gone}\n",
        lambda: run_app(["train", "--import", "broken_1", "--data", "gone", "--save-dir", "broken"]),
        "the disk with it is not here",
    ),
    "a path that cannot be made": (
        "import ebbflow\nclass Bad(ebbflow.Path): pass\nPATHS = {'bad': Bad}\n",
        lambda: run_app(["list", "paths", "--import", "broken_2"]),
        "broken_2.PATHS['bad'] cannot be made without arguments: TypeError",
    ),
    "a syntax error": (
        "def (:\n",
        lambda: run_app(["list", "paths", "--import", "broken_3"]),
        "module 'broken_3' cannot be imported: SyntaxError",
    ),
    "something it needs is missing": (
        "import nobody_has_this\n",
        lambda: run_app(["list", "paths", "--import", "broken_4"]),
        "module 'broken_4' cannot be imported: No module named 'nobody_has_this'",
    ),
    "nothing in it": ("x = 3\n", lambda: run_app(["list", "paths", "--import", "broken_5"]), "holds nothing that ebbflow knows"),
    "a sampler that is a function": (
        "SAMPLERS = {'mine': lambda denoise, x, levels: []}\n",
        lambda: run_app(["list", "samplers", "--import", "broken_6"]),
        "is no sampler. Decorate the function",
    ),
    "a net that is no dataclass": (
        "class Net:\n    def build(self, dims, out_channels, context): return None\nNETS = {'broken': Net}\n",
        lambda: run_app(["list", "nets", "--import", "broken_7"]),
        "broken_7.NETS['broken'] must be a frozen dataclass with a method `build`",
    ),
    "a registry that is a list": (
        "NETS = [1]\n",
        lambda: run_app(["list", "nets", "--import", "broken_8"]),
        "broken_8.NETS must be a dict of names, got list",
    ),
    "it ends the program": (
        "import sys\nsys.exit(3)\n",
        lambda: run_app(["list", "nets", "--import", "broken_9"]),
        "module 'broken_9' cannot be imported: SystemExit: 3",
    ),
    "a mistake in it": (
        "def gone(data_dir=None): return {}['the key']\nDATASETS = {'gone': gone}\n",
        lambda: run_app(["train", "--import", "broken_10", "--data", "gone", "--save-dir", "broken"]),
        "broken_10.py, line 1, raised KeyError: 'the key'",
    ),
    "a mistake in what it calls": (
        "import json\ndef gone(data_dir=None): raise OSError('no disk') if json.loads('1') else 0\nDATASETS = {'gone': gone}\n",
        lambda: run_app(["train", "--import", "broken_11", "--data", "gone", "--save-dir", "broken"]),
        "broken_11.py, line 2, raised OSError: no disk",
    ),
}  # fmt: skip


def test_samples_that_are_not_finite_are_no_picture(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were written, black, and nothing was said."""
    (tmp_path / "endless.py").write_text(
        "import ebbflow as ef\n@ef.sampler(order=1, evaluations=lambda num_steps: num_steps)\n"
        "def endless(denoise, x, levels):\n    for t, s in zip(levels, levels[1:]):\n"
        "        yield ef.Step(s.t, x * float('nan'), denoise(x, t.t))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    output = tmp_path / "a.png"
    assert sample(output, "--import", "endless", "--sampler", "endless") == 2
    assert "the samples of seeds 0 to " in capsys.readouterr().err and not output.exists()


@pytest.mark.parametrize("name", RAISING)
def test_a_broken_plugin_is_one_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins, "_known", {})
    text, ask, expected = RAISING[name]
    (tmp_path / f"broken_{list(RAISING).index(name)}.py").write_text(text)
    assert ask() == 2
    said = capsys.readouterr().err
    assert expected in said and said.count("\n") == 1 and "Traceback" not in said
