"""Laws of every command, whatever it does: help, flags, files of requests, plugins, and what is said of errors."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
import torch

import ebbflow
from ebbflow import plugins
from ebbflow.cli.app import app, run_app
from ebbflow.cli.command import RequestCommand, sections, wants
from ebbflow.cli.common import print_json, print_rows
from ebbflow.cli.errors import BUG, OutOfMemory, at_batch_size, explained
from ebbflow.errors import ConfigError, choose
from ebbflow.requests.base import entries
from ebbflow.requests.studies import EvaluateCommand
from ebbflow.requests.training import TrainRequest

SOURCE = Path(ebbflow.__file__).parent


def all_commands(group: click.Group = app, before: str = "") -> Iterator[tuple[str, RequestCommand]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from all_commands(command, f"{before}{name} ")
        else:
            assert isinstance(command, RequestCommand), name
            yield f"{before}{name}", command


COMMANDS = dict(all_commands())
each = pytest.mark.parametrize("name", COMMANDS)


@each
def test_help_names_every_flag_and_fits_a_terminal(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run_app([*name.split(), "-h"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    words = " ".join(shown.split())
    assert "None" not in shown and f"ebbflow {name}" in shown
    for entry in entries(COMMANDS[name].cls).values():
        assert entry.doc.endswith("."), f"{entry.name} has no sentence"
        assert entry.hidden or " ".join(entry.doc.split()) in words, "nothing is cut"
        assert entry.hidden or (entry.place or entry.flags[0]) in shown
    for flag in ("--request", "--import", "--debug", "--help"):
        assert flag in shown


@each
def test_the_example_is_one(name: str) -> None:
    command = COMMANDS[name]
    example = (command.help or "").partition("Example:\n")[2].strip()
    words = shlex.split(example)
    assert words[: 1 + len(name.split())] == ["ebbflow", *name.split()]
    command.read(words[1 + len(name.split()) :])


@each
def test_choices_defaults_and_what_must_be_given_are_told(name: str) -> None:
    rows = {flag: text for group in sections(COMMANDS[name].cls).values() for flag, text in group}
    for entry in entries(COMMANDS[name].cls).values():
        text = next(
            text
            for flag, text in rows.items()
            if flag.split()[0].split("/")[0] in (*entry.flags[:1], entry.place, f"{entry.place}...")
        )
        assert ("required" in text) == entry.required
        assert entry.required == any(row[1] == text for row in sections(COMMANDS[name].cls).get("Required", []))
        if typing.get_origin(entry.kind) is typing.Literal:
            assert wants(entry.kind) == "|".join(map(str, typing.get_args(entry.kind)))
        elif isinstance(entry.default, (str, Path, int, float)) and not isinstance(entry.default, bool):
            assert (
                f"default: {entry.default:g}" in text
                if isinstance(entry.default, float)
                else str(entry.default) in text
            )


@each
def test_an_unknown_flag_and_a_bad_file_are_one_sentence(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.toml").write_text("gone = 1\n")
    for arguments, expected in (
        (["--gone"], "--gone"),
        (["--request", str(tmp_path / "r.toml")], "unknown argument 'gone'"),
    ):
        assert run_app([*name.split(), *arguments]) == 2
        said = capsys.readouterr().err
        assert expected in said and said.count("\n") == 1 and "Traceback" not in said


def test_flags_lie_over_the_file_of_a_request(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text('ckpt = "runs/a"\nsteps = 5\nseed = 7\n[options]\neta = 0.5\nrho = 3\n')
    made = COMMANDS["evaluate"].read(["--request", str(file), "--steps", "9", "--set", "eta=1"])
    assert isinstance(made, EvaluateCommand)
    assert (made.ckpt, made.steps, made.seed, made.options) == ("runs/a", 9, 7, {"eta": 1, "rho": 3})


def test_the_three_trainings_have_one_shape() -> None:
    flags = [
        {entry.flags[0] for entry in entries(COMMANDS[name].cls).values()}
        for name in ("train", "train-classifier", "train-autoencoder")
    ]
    shared = flags[0] & flags[1] & flags[2]
    assert shared >= {"--config", "--set", "--skip-bad", "--dry-run", "--json", "--save-dir", "--save-freq", "--epochs"}
    own = {"--preset", "--patch-size", "--init-from", "--init-partial", "--world-size", "--device-memory"}
    assert flags[0] - shared == own
    assert flags[1] - shared == {"--path"} and flags[2] == shared


@pytest.mark.parametrize("name", ["train", "train-classifier", "train-autoencoder"])
def test_a_dry_run_prints_what_can_be_read_back(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--set", "train.clip=0.25", "--batch-size", "4", "--max-steps", "3"]
    assert run_app([name, "--dry-run", *flags]) == 0
    (tmp_path / "dump.toml").write_text(capsys.readouterr().out)
    assert run_app([name, "--dry-run", "--json", "--config", str(tmp_path / "dump.toml")]) == 0
    train = json.loads(capsys.readouterr().out)["config"]["train"]
    assert (train["clip"], train["batch_size"], train["num_steps"]) == (0.25, 4, 3)


def test_version_and_completion(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(["--version"]) == run_app(["-V"]) == 0
    assert capsys.readouterr().out == f"ebbflow {ebbflow.__version__}\n" * 2
    assert run_app([]) == 0 and "Train:" in capsys.readouterr().out
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", "/bin/zsh")
    assert run_app(["--show-completion"]) == 0 and "_EBBFLOW_COMPLETE" in capsys.readouterr().out
    assert run_app(["--install-completion"]) == run_app(["--install-completion"]) == 0
    assert (tmp_path / ".zshrc").read_text().count("ebbflow") == 1
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    assert run_app(["--show-completion"]) == 2 and "bash, zsh, fish" in capsys.readouterr().err
    asked = {"_EBBFLOW_COMPLETE": "bash_complete", "COMP_WORDS": "ebbflow evaluate --reference h", "COMP_CWORD": "3"}
    told = subprocess.run(
        [sys.executable, "-m", "ebbflow"], env={**os.environ, **asked}, capture_output=True, text=True
    )
    assert told.stdout == "plain,held_out\n", told.stderr


def test_what_is_printed_moves_no_cursor_and_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([{"name": "\x1b[2J猫", "value": "a\rb"}])
    assert capsys.readouterr().out == "\\x1b[2J猫  a\\rb\n"
    print_json({"a": [float("nan"), -float("inf")], "b": 0.5})
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {"a": ["nan", "-inf"], "b": 0.5}


def test_an_unknown_command_says_what_is_near(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["trian"]) == 2
    assert "Did you mean 'train'" in capsys.readouterr().err


# -- errors ------------------------------------------------------------------------------------------------------------


def raised(function: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as caught:
        function()
    return caught.value


def of_ours() -> None:
    choose({"heun": 1}, "huen", "sampler")


FOREIGN: dict[str, Callable[[], object]] = {
    "torch": lambda: torch.zeros(2).reshape(3),
    "python": lambda: int("x"),
    "a key": lambda: {}["gone"],
}


def test_what_the_user_can_mend_is_told_apart_from_our_bugs() -> None:
    assert explained(raised(of_ours)) == ("unknown sampler 'huen'. Did you mean 'heun'? Known: heun.", 2)
    ours = raised(lambda: ebbflow.Noise([-1]))
    assert type(ours) is ValueError and explained(ours)[1] == 2, "a ValueError that ebbflow raises is the user's"
    for function in FOREIGN.values():
        said, code = explained(raised(function))
        assert code == BUG and said.startswith("this is a bug of ebbflow: ") and "--debug" in said
    error = raised(lambda: ebbflow.TIME_GRIDS["uniform"]("no path", "no number"))
    assert re.search(r"\(core.times\.py, line \d+\)", explained(error)[0])


def test_a_field_is_called_by_its_flag() -> None:
    said, _ = explained(ConfigError("`steps` and `eta` and `import` disagree with `ckpt`."), EvaluateCommand)
    assert said == "--steps and `eta` and --import disagree with --ckpt."
    said, _ = explained(ConfigError("`size`, or `train.lr`, or `net.depth`."), TrainRequest)
    assert said == "--img-size, or --lr, or `net.depth`."


def full() -> None:
    raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried ...")


def test_memory_that_runs_out_names_a_batch_size_to_try() -> None:
    request = EvaluateCommand(ckpt="x", batch_size=64)
    for function in (full, lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory"))):
        said, code = explained(raised(function), EvaluateCommand, request)
        assert code == 2 and said == "there is not enough memory for a batch of 64. Try --batch-size 32."
    with pytest.raises(OutOfMemory) as caught, at_batch_size(12):
        raise MemoryError
    assert "Try --batch-size 6." in explained(caught.value)[0]
    assert "smaller images" in explained(raised(full), EvaluateCommand, EvaluateCommand(ckpt="x", batch_size=1))[0]
    assert "smaller --batch-size" in explained(raised(full))[0]


def test_debug_shows_where_an_error_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["info", "nowhere", "--debug"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" in said and said.splitlines()[-1].startswith("ebbflow: nowhere does not exist")


def test_a_closed_pipe_does_not_end_a_training(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "ebbflow",
        "train",
        "--data",
        "moons",
        "--set",
        "net.kind=mlp",
        "--max-steps",
        "30",
    ]
    more = ["--set", "train.sample_every=0", "--set", "train.held_out_every=0", "--save-dir", str(tmp_path / "run")]
    process = subprocess.Popen(
        [*command, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(120) == 0, process.stderr and process.stderr.read()
    assert (tmp_path / "run" / "checkpoints" / "step_000030").is_dir()


def below_the_command_line() -> list[Path]:
    """Every module that knows no flags; `requests` declares them."""
    paths = [path.relative_to(SOURCE) for path in sorted(SOURCE.rglob("*.py"))]
    return [path for path in paths if path.parts[0] not in ("cli", "requests")]


@pytest.mark.parametrize("path", below_the_command_line(), ids=str)
def test_no_room_below_spells_a_flag(path: Path) -> None:
    """Whole command lines may be quoted; a message calls a field `by_name`, and the command line spells it."""
    flags = {flag for command in COMMANDS.values() for entry in entries(command.cls).values() for flag in entry.flags}
    text = re.sub(r'"\s*\n\s*f?"', "", (SOURCE / path).read_text(encoding="utf-8"))
    text = re.sub(r"ebbflow [a-z-]+ [^`\n]*", "", text)
    spelled = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) & (flags | {"--import", "--debug", "--request"})
    assert not spelled, f"{path} spells {spelled}"


# -- plugins -----------------------------------------------------------------------------------------------------------

PLUGIN = '''
from dataclasses import dataclass
import ebbflow
from ebbflow.core.paths import Flow
from ebbflow.nets.mlp import MLPOptions

@dataclass(frozen=True, kw_only=True)
class Thin(MLPOptions):
    """A thin MLP."""
    dim: int = 8

NETS = {"thin": Thin}
steep = Flow(shift=2.0)

def twin_moons(data_dir=None):
    """Moons."""
    return ebbflow.DATASETS["moons"](data_dir)

ebbflow.DATASETS["twin_moons"] = twin_moons
'''
SMALL = [
    "--data", "twin_moons", "--set", "net.kind=thin", "--set", "path.kind=steep", "--max-steps", "2", "--batch-size", "4",
    "--set", "train.sample_every=0", "--set", "train.held_out_every=0", "--device", "cpu",
]  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins, "_known", {})
    return tmp_path


def test_a_plugin_is_on_every_verb_and_a_checkpoint_says_that_it_wants_it(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "ones_own_nets.py").write_text(PLUGIN)
    before = {kind: dict(plugins._registries(kind)[0]) for kind in plugins.WHERE}
    assert run_app(["train", *SMALL, "--import", "ones_own_nets", "--save-dir", "r"]) == 0
    assert {kind: dict(plugins._registries(kind)[0]) for kind in plugins.WHERE} == before
    state = json.loads(next((here / "r" / "checkpoints").glob("*/state.json")).read_text())
    assert state["plugins"] == ["ones_own_nets"] and state["config"]["path"]["shift"] == 2.0
    capsys.readouterr()
    assert run_app(["info", "r"]) == 2
    assert "It was made with the plugin ones_own_nets: name it with --import." in capsys.readouterr().err
    assert run_app(["--import=ones_own_nets", "info", "r", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plugins"] == ["ones_own_nets"]
    assert run_app(["list", "nets", "--import", "ones_own_nets"]) == 0 and "A thin MLP." in capsys.readouterr().out


BAD_PLUGINS = {
    "NETS = {'mine': 3}": "ones_own_NUMBER.NETS['mine'] must be a frozen dataclass with a method `build`, got 3.",
    "import ebbflow\nebbflow.SAMPLERS['heun'] = None": "names 'heun', which ebbflow has already",
    "raise RuntimeError('no')": "module 'ones_own_NUMBER' cannot be imported: RuntimeError: no.",
    "WEIGHTS = {'mine': 3}": "must be a function, got int",
}


@pytest.mark.parametrize("text", BAD_PLUGINS)
def test_a_plugin_that_is_of_no_use_is_one_sentence(here: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    number = str(list(BAD_PLUGINS).index(text))
    (here / f"ones_own_{number}.py").write_text(text)
    heun = ebbflow.SAMPLERS["heun"]
    assert run_app(["list", "nets", "--import", f"ones_own_{number}"]) == 2
    said = capsys.readouterr().err
    assert BAD_PLUGINS[text].replace("NUMBER", number) in said and said.count("\n") == 1
    assert ebbflow.SAMPLERS["heun"] is heun
    assert run_app(["list", "--import"]) == 2 and "--import wants a module's name" in capsys.readouterr().err


def test_installed_plugins_are_looked_for_when_a_name_is_not_known(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "installed_weights.py").write_text("WEIGHTS = {'theirs': lambda c, d: c.alpha}\n")
    info = here / "installed_weights-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: installed-weights\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ebbflow.plugins]\nweights = installed_weights\n")
    monkeypatch.syspath_prepend(str(here))
    with plugins.imported(()):
        assert "installed_weights" not in sys.modules
        choose(ebbflow.WEIGHTS, "uniform", "weight")
        assert "installed_weights" not in sys.modules, "names that are known cost nothing"
        assert callable(choose(ebbflow.WEIGHTS, "theirs", "weight"))
        assert [one.name for one in plugins.loaded()] == ["installed_weights"]
        with pytest.raises(ConfigError, match=r"unknown weight 'nobodys'.*theirs"):
            choose(ebbflow.WEIGHTS, "nobodys", "weight")
    assert "theirs" not in ebbflow.WEIGHTS
