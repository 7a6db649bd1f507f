"""Faults: a damaged file, a dead writer, a full disk, a folder that goes away, a terminal that goes away, numbers that
are not finite: each ends in one sentence, and what was written stays."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ebbflow as ef
from ebbflow import files
from ebbflow.cli.app import PLOTS, VERBS, Verb, run_app
from ebbflow.cli.command import OUTPUTS
from ebbflow.config import RunConfig, merge, parse_as
from ebbflow.data import Splits, load_dataset
from ebbflow.errors import CheckpointError
from ebbflow.files import require_place, save_tensors, sweep, whole_file, write_text
from ebbflow.requests.base import entries
from ebbflow.requests.sampling import SampleRequest
from ebbflow.runs import Trainer, open_run, task_of
from ebbflow.runs.folder import METRICS, checkpoint_of, checkpoints, metrics
from ebbflow.runs.plan import plan_of
from ebbflow.training import checkpoint
from ebbflow.training.checkpoint import read, restore, write_state
from ebbflow.training.task import Draw, Loss

TINY: dict[str, dict[str, Any]] = {
    "net": {"kind": "unet", "channels": [8], "num_heads": 2, "clock_dim": 16},
    "train": {
        "num_steps": 6,
        "batch_size": 16,
        "save_every": 2,
        "sample_every": 0,
        "held_out_every": 0,
        "held_out_size": 8,
        "log_every": 1,
        "schedule": "constant",
    },
    "engine": {"precision": "fp32", "device": "cpu"},
    "sample": {"num_steps": 1},
}


@pytest.fixture(scope="module")
def digits() -> Splits:
    return load_dataset("digits")


def trainer_of(splits: Splits, folder: Path, **train: Any) -> Trainer:
    return Trainer(task_of(parse_as(RunConfig, merge(TINY, {"train": train})), splits, folder))


@pytest.fixture(scope="module")
def made(digits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults") / "run"
    list(trainer_of(digits, folder, num_steps=4).events())
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A run of four steps with two checkpoints, to be damaged."""
    return shutil.copytree(made, tmp_path / "run")


# -- checkpoints ------------------------------------------------------------------------------------------------------


def refusal(folder: Path) -> str:
    try:
        read(folder).require_written()
    except CheckpointError as error:
        return str(error)
    return ""


def test_a_flipped_bit_anywhere_is_named(run: Path) -> None:
    """Of 17 in 60 nothing was said, and the resume was no longer exact."""
    dice, folder = random.Random(0), checkpoint_of(run, 4)
    for _ in range(200):
        file = dice.choice(sorted(folder.iterdir()))
        before = file.read_bytes()
        place = dice.randrange(len(before))
        file.write_bytes(before[:place] + bytes([before[place] ^ 1 << dice.randrange(8)]) + before[place + 1 :])
        said = refusal(folder)
        same = file.name == "state.json" and said == "" and json.loads(file.read_bytes()) == json.loads(before)
        assert file.name in said or same, (place, said)
        file.write_bytes(before)
    read(folder).require_written()


def test_a_checkpoint_of_another_step_than_its_folder_is_named(run: Path) -> None:
    checkpoint_of(run, 4).rename(checkpoint_of(run, 1000))
    with pytest.raises(CheckpointError, match="is of step 4, and its folder of another"):
        open_run(run)


def unsealed(folder: Path) -> dict[str, Any]:
    """The state of a checkpoint as versions wrote it that kept no hashes."""
    state = json.loads((folder / "state.json").read_text())
    return {key: value for key, value in state.items() if key not in ("files", "sha256")}


@pytest.mark.parametrize("step", [-1, 5.5, True, "4", None, 10**400])
def test_a_step_that_is_no_step_is_refused(step: object, run: Path) -> None:
    (checkpoint_of(run, 4) / "state.json").write_text(json.dumps({**unsealed(checkpoint_of(run, 4)), "step": step}))
    with pytest.raises(CheckpointError, match=r"state\.json is"):
        open_run(run)


def without(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {key: value for key, value in tensors.items() if not key.startswith(name)}


def changed(name: str, value: Tensor) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {**tensors, name: value}


OPTIMISERS: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "empty": (lambda tensors: {}, "nothing is in it after 4 steps"),
    "a parameter too many": (changed("99.exp_avg", torch.zeros(2)), "a parameter '99', which this run has not"),
    "another shape": (changed("0.exp_avg", torch.zeros(2)), r"'exp_avg' of parameter 0 is float32 \(2,\)"),
    "another dtype": (lambda t: {**t, "0.exp_avg": t["0.exp_avg"].half()}, "'exp_avg' of parameter 0 is float16"),
    "not finite": (lambda t: {**t, "1.exp_avg": t["1.exp_avg"] + torch.inf}, "'exp_avg' of parameter 1 is not finite"),
    "too many steps": (changed("0.step", torch.tensor(1e6)), r"stepped 1e\+06 times, in 4"),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_an_optimisers_state_is_looked_at_as_weights_are(name: str, run: Path, digits: Splits) -> None:
    """Also in checkpoints of versions that kept no hashes; it was taken as it was."""
    change, says = OPTIMISERS[name]
    folder = checkpoint_of(run, 4)
    state, file = unsealed(folder), folder / "optimiser.safetensors"
    (folder / "state.json").write_text(json.dumps(state))
    restore_into(read(folder), digits, run)
    tensors = change(files.load_tensors(file))
    file.unlink()
    save_tensors(tensors, file)
    with pytest.raises(CheckpointError, match=says):
        restore_into(read(folder), digits, run)


def restore_into(found: checkpoint.Checkpoint, digits: Splits, folder: Path) -> None:
    fresh = trainer_of(digits, folder.with_name("fresh"))
    with fresh._held:
        restore(found, fresh.task.net, fresh.ema, fresh.optimiser)


@pytest.mark.parametrize(("name", "value"), [("ema_updates", "many"), ("minutes", -1.0), ("skipped", None)])
def test_counts_of_a_checkpoint_are_numbers(name: str, value: object, run: Path, digits: Splits) -> None:
    folder = checkpoint_of(run, 4)
    state = {**unsealed(folder), name: value}
    (folder / "state.json").unlink()
    write_state(folder, state)
    notes = [one.note for one in trainer_of(digits, run).events() if one.note]
    assert f"`{name}`" in notes[0] and repr(value) in notes[0] and "going on from step 2" in notes[0]


def test_a_run_is_opened_while_it_is_written(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest checkpoint that was seen is let go before it is read, because a newer one has come."""
    genuine = checkpoint.read

    def late(folder: Path) -> checkpoint.Checkpoint:
        if folder.name == "step_000004":
            state = unsealed(folder)
            shutil.copytree(folder, newer := checkpoint_of(run, 6))
            (newer / "state.json").write_text(json.dumps({**state, "step": 6}))
            shutil.rmtree(folder)
        return genuine(folder)

    monkeypatch.setattr(checkpoint, "read", late)
    assert open_run(run).checkpoint.step == 6


# -- files ------------------------------------------------------------------------------------------------------------


def test_files_have_the_rights_of_the_umask_and_keep_those_they_have(tmp_path: Path) -> None:
    """Weights were 0600 and all else 0644; a file that was 0600 came back 0644."""
    before = os.umask(0o027)
    try:
        save_tensors({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
        write_text(tmp_path / "a.txt", "old")
        (tmp_path / "own.txt").touch(0o600)
        write_text(tmp_path / "own.txt", "new")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"x.safetensors": 0o640, "a.txt": 0o640, "own.txt": 0o600}


def test_a_link_is_followed_and_stays_one(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "a.txt").symlink_to(tmp_path / "far" / "real.txt")
    for text in ("first", "second"):
        write_text(tmp_path / "a.txt", text)
        assert (tmp_path / "a.txt").is_symlink() and (tmp_path / "far" / "real.txt").read_text() == text
    assert len(list(tmp_path.rglob("*"))) == 3


def test_nobody_can_lay_a_link_where_a_partial_file_goes(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a.txt") as partial:
        assert partial.parent.parent == tmp_path and not partial.exists() and partial.parent.stat().st_nlink >= 1
        partial.write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("kind", ["folder", "device", "fifo"])
def test_what_is_no_file_is_not_replaced_by_one(kind: str, tmp_path: Path) -> None:
    """As root, `--output /dev/null` would be the end of /dev/null."""
    path = Path("/dev/null") if kind == "device" else tmp_path / "x.png"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(OSError, match=r"is a folder|is no file") as caught:
        write_text(path, "x")
    assert caught.value.filename == str(path) and not path.is_file()


def test_what_dead_writers_left_is_swept_and_a_living_writers_is_not(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    dead, parent, own = int(done.stdout), os.getppid(), os.getpid()
    gone = [f".a.png.{dead}-0123abcd@{files.HOST}.part", f".old.txt.{dead}-0123abcd.part"]
    gone += [f".docker.{own}-0123abcd@{files.HOST}.part", f".far.{dead}-0123abcd@elsewhere.part"]
    stay = [
        f".b.png.{parent}-0123abcd@{files.HOST}.part",
        f".new.{dead}-0123abcd@elsewhere.part",
        ".mine.part",
        "c.part",
    ]
    for i, name in enumerate([*gone, *stay]):
        (tmp_path / name).mkdir() if i % 2 else (tmp_path / name).touch()
    os.utime(tmp_path / gone[-1], (0, 0))
    with whole_file(tmp_path / "d.txt") as partial:
        partial.touch()
        sweep(tmp_path.glob("*"))
    assert {path.name for path in tmp_path.iterdir()} == {*stay, "d.txt"}


def test_a_training_sweeps_its_folder(run: Path, digits: Splits) -> None:
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    left = f".step_000006.{int(done.stdout)}-0123abcd@{files.HOST}.part"
    for place in (run, run / "checkpoints", run / "samples"):
        (place / left).mkdir(parents=True)
        (place / left / ".tmpXYZ").touch()
    list(trainer_of(digits, run).events())
    assert not list(run.rglob("*.part")) and not list(run.rglob(".tmp*"))
    fresh = run.with_name("fresh")
    (fresh / left).mkdir(parents=True)
    assert trainer_of(digits, fresh).start == 0, "it was killed before it had said what it is"


WRITERS = {
    name: verb
    for name, verb in {**VERBS, **{f"plot {name}": verb for name, verb in PLOTS.items()}}.items()
    if isinstance(verb, Verb) and set(OUTPUTS) & entries(verb.command(name.split()[-1], "ebbflow").cls).keys()  # type: ignore[attr-defined]
}


@pytest.mark.parametrize("name", WRITERS)
def test_an_output_that_cannot_be_written_is_refused_before_work(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """None of the runs that the examples name is there, so whoever looks for them has begun to work."""
    monkeypatch.chdir(tmp_path)
    known = entries(WRITERS[name].command(name.split()[-1], "ebbflow").cls)  # type: ignore[attr-defined]
    field = next(known[one] for one in OUTPUTS if one in known)
    ending = field.ending.suffixes[0] if field.ending else "" if field.name in ("save_dir", "into") else ".png"
    ending = ".npz" if name == "invert" else ending
    (tmp_path / "file").touch()
    wanted = tmp_path / "file" / f"x{ending}"
    more = ["--lengths", "0.1"] if name == "ema" else []
    arguments = [word for word in WRITERS[name].example.split() if not word.startswith("0.05")]
    arguments = [word for word in arguments if word != "--lengths"]
    asked = [*name.split(), *arguments, *more, *field.flags[:1]] if field.flags else [name, *arguments[:-1]]
    assert run_app([*asked, str(wanted)]) == 2
    said = capsys.readouterr().err
    assert "is a file, and no folder" in said and str(wanted) in said and said.count("\n") == 1, said
    if ending:
        (tmp_path / f"d{ending}").mkdir()
        assert run_app([*asked, f"d{ending}"]) == 2
        assert "is a folder, and a file was to be written there" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} <= {"file", f"d{ending}"}


def test_the_place_of_an_output_is_left_as_it_was(tmp_path: Path) -> None:
    require_place(tmp_path / "a" / "b" / "c.png")
    assert not list(tmp_path.iterdir())


# -- the folder of a run ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("anew", [False, True])
def test_a_folder_that_goes_away_under_a_training_is_said(anew: bool, run: Path, digits: Splits) -> None:
    """And if another run has come to live there meanwhile, it is not written into."""
    trainer = trainer_of(digits, run, log_every=3)
    events = trainer.events()
    while next(events).step < 5:
        pass
    shutil.rmtree(run)
    if anew:
        list(trainer_of(digits, run, num_steps=1).events())
        before = (run / METRICS).read_bytes()
    with pytest.raises(CheckpointError, match="was removed or replaced while it was trained, at step 6"):
        list(events)
    assert (run / METRICS).read_bytes() == before if anew else not run.exists()


def test_a_clock_that_is_set_back_costs_nothing(digits: Splits, tmp_path: Path) -> None:
    readings = iter([0.0, 30.0, 30.0, -1e9, -1e9, -1e9 + 30.0])
    config = parse_as(RunConfig, merge(TINY, {"train": {"minutes": 1.0}}))
    trainer = Trainer(task_of(config, digits, tmp_path / "run"), clock=lambda: next(readings))
    list(trainer.events())
    assert (trainer.step, trainer.minutes) == (3, 1.0)


# -- numbers that are not finite --------------------------------------------------------------------------------------


def broken_at(trainer: Trainer, *steps: int) -> Trainer:
    """The loss of these steps, counted from 0, is not a number."""
    genuine = trainer.task.loss

    def loss(net: Any, batch: Any, draw: Draw) -> Loss:
        found = genuine(net, batch, draw)
        return Loss(each=found.each * torch.nan, level=found.level) if draw.step in steps else found

    trainer.task.loss = loss  # type: ignore[method-assign]
    return trainer


def test_steps_that_are_not_finite_are_passed_over_up_to_a_bound(digits: Splits, tmp_path: Path) -> None:
    """And the run is the same run where it is stopped and gone on with, the count too."""
    how = {"num_steps": 6, "skip_nonfinite": 2, "log_every": 2}
    notes = [one.note for one in broken_at(trainer_of(digits, tmp_path / "a", **how), 1, 3).events() if one.note]
    assert [note for note in notes if "passed over" in note] == [f"passed over, {i} of 2: not finite" for i in (1, 2)]
    rows = metrics(tmp_path / "a")
    assert all(np.isfinite(row["loss"]) for row in rows if "loss" in row) and rows[-2]["skipped"] == 2
    list(broken_at(trainer_of(digits, tmp_path / "b", **{**how, "num_steps": 4}), 1, 3).events())
    resumed = broken_at(trainer_of(digits, tmp_path / "b", **how), 1, 3)
    assert (resumed.start, resumed.skipped) == (4, 2)
    list(resumed.events())
    a, b = (open_run(tmp_path / name).checkpoint for name in "ab")
    assert a.state["ema_updates"] == b.state["ema_updates"] == 4
    for part in ("model", "ema", "optimiser"):
        assert all(torch.equal(value, b.tensors(part)[name]) for name, value in a.tensors(part).items())
    with pytest.raises(FloatingPointError, match=r"not finite at step 5 .*weights were not touched.*step_000004"):
        list(broken_at(trainer_of(digits, tmp_path / "c", **how), 1, 3, 4).events())


def test_weights_that_are_not_finite_replace_no_checkpoint(digits: Splits, tmp_path: Path) -> None:
    """A rate of 1e38 is what a rate may be; the newest checkpoint alone is kept."""
    trainer = trainer_of(digits, tmp_path / "run", keep=1, skip_nonfinite=100)
    events = trainer.events()
    while "checkpoint" not in (next(events).note or ""):
        pass
    step = trainer.optimiser.step

    def far(*args: Any) -> None:
        step(*args)
        with torch.no_grad():
            next(trainer.task.net.parameters()).fill_(torch.inf)

    trainer.optimiser.step = far  # type: ignore[method-assign]
    with pytest.raises(
        FloatingPointError, match=r"weights are not finite either.*The last checkpoint is .*step_000002"
    ):
        list(events)
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["step_000002"]
    with pytest.raises(FloatingPointError, match=r"weights are not finite after step 3.*The last checkpoint is"):
        trainer._require_finite()


@pytest.fixture(scope="module")
def lost(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose weights are not finite, as an older version may have saved it."""
    folder = shutil.copytree(made, tmp_path_factory.mktemp("lost") / "run")
    newest = checkpoint_of(folder, 4)
    for part in ("model", "ema"):
        tensors = {
            name: torch.full_like(t, torch.nan)
            for name, t in files.load_tensors(newest / f"{part}.safetensors").items()
        }
        save_tensors(tensors, newest / f"{part}.safetensors")
    (newest / "state.json").write_text(json.dumps(unsealed(newest)))
    return folder


PICTURES: dict[str, list[str]] = {
    "sample": ["--num", "2", "--steps", "2", "--guidance", "1"],
    "edit": ["--input", "seven.png", "--num", "2", "--steps", "2"],
    "restore": ["--truth", "seven.png", "--operator", "blur", "--num", "1", "--steps", "2"],
    "invert": ["--input", "seven.png", "--steps", "2"],
    "reconstruct": ["--num", "2", "--steps", "2"],
    "plot denoising": ["--labels", "3", "--num", "1", "--steps", "2"],
    "plot toy-sampler": ["--num", "1", "--steps", "2"],
}


@pytest.mark.parametrize("verb", PICTURES)
def test_samples_that_are_not_finite_are_never_a_picture(
    verb: str, lost: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of these wrote black pictures and said that all went well."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.full((8, 8), 90, np.uint8)).save("seven.png")
    output = "out.npz" if verb == "invert" else "out.png"
    assert run_app([*verb.split(), "--ckpt", str(lost), *PICTURES[verb], "--output", output]) == 2
    said = capsys.readouterr().err
    assert "not finite, because the weights" in said and said.count("\n") == 1, said
    assert not Path(output).exists()


def test_in_python_and_of_numbers_too(lost: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FloatingPointError, match="samples of seeds 0 to 1 are not finite, because the weights"):
        ef.sample(lost, num=2, steps=2, guidance=1.0)
    assert run_app(["likelihood", "--ckpt", str(lost), "--num", "2", "--steps", "2"]) == 2
    assert "the likelihoods are not finite, because the weights" in capsys.readouterr().err


# -- odd data ---------------------------------------------------------------------------------------------------------

POINTS = ["--set", "net.kind=mlp", "--set", "net.dim=16"]
IMAGES = ["--set", "net.channels=[8]", "--set", "net.clock_dim=16"]
LENGTH = ["--batch-size", "8", "--max-steps", "2", "--set", "sample.num_steps=1", "--set", "train.held_out_size=8"]
ODD: dict[str, tuple[dict[str, Any], str]] = {
    "all equal": ({"arr_0": np.full((40, 8, 8, 1), 7, np.uint8)}, ""),
    "equal points": ({"arr_0": np.full((40, 2), 3, np.float32)}, ""),
    "two": ({"arr_0": np.zeros((2, 8, 8, 1), np.uint8)}, ""),
    "not finite": ({"arr_0": np.full((40, 2), np.nan, np.float32)}, "points must be finite"),
    "beyond float32": ({"arr_0": np.full((40, 2), 1e300)}, "finite"),
    "two channels": ({"arr_0": np.zeros((40, 8, 8, 2), np.uint8)}, ""),
    "points on a line": ({"arr_0": np.linspace(0, 1, 40, dtype=np.float32)[:, None]}, ""),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_data_trains_or_is_refused_in_a_sentence(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays, says = ODD[name]
    np.savez(tmp_path / "odd.npz", **arrays)
    shape = IMAGES if arrays["arr_0"].ndim == 4 else POINTS
    code = run_app(["train", "--data", str(tmp_path / "odd.npz"), *shape, *LENGTH, "--save-dir", str(tmp_path / "run")])
    said = capsys.readouterr().err
    assert code == (2 if says else 0) and says in said, said
    assert bool(checkpoints(tmp_path / "run")) == (not says)


def test_of_a_thousand_classes_a_hundred_are_shown(tmp_path: Path) -> None:
    """A label of 99,999 made 800,000 samples of a command that names none."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "many.npz", arr_0=pixels, arr_1=np.arange(40) * 25)
    words = ["train", "--data", str(tmp_path / "many.npz"), *IMAGES, *LENGTH, "--save-dir", str(tmp_path / "run")]
    assert run_app(words) == 0
    model = ef.open(tmp_path / "run", device="cpu")
    assert len(model.label_names) == 976 and len(plan_of(model, SampleRequest()).seeds) == 800


# -- processes and terminals ------------------------------------------------------------------------------------------

TRAINING = [
    "-m",
    "ebbflow",
    "train",
    "--data",
    "moons",
    *POINTS,
    "--max-steps",
    "100000",
    "--set",
    "train.save_every=50",
]
TRAINING += ["--set", "train.sample_every=0", "--set", "train.held_out_every=0", "--set", "engine.device=cpu"]


def steps_of(folder: Path) -> int:
    found = checkpoints(folder)
    return int(found[-1].name[5:]) if found else 0


def wait_for(true: Callable[[], bool], process: subprocess.Popen[Any], seconds: float = 300.0) -> None:
    import time

    until = time.monotonic() + seconds
    while not true() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    assert true(), process.poll()


@pytest.mark.long
@pytest.mark.parametrize("nohup", [False, True])
def test_a_terminal_that_goes_away_costs_nothing(nohup: bool, tmp_path: Path) -> None:
    """It is saved as by SIGTERM; under nohup it goes on, and the terminal's absence is no error."""
    import pty

    folder, (ours, theirs) = tmp_path / "run", pty.openpty()

    def begin() -> None:
        os.setsid()
        import fcntl
        import termios

        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        if nohup:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    command = [sys.executable, *TRAINING, "--save-dir", str(folder)]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=begin)
    os.close(theirs)
    wait_for(lambda: steps_of(folder) >= 50, process)
    os.close(ours)
    if nohup:
        reached = steps_of(folder)
        wait_for(lambda: steps_of(folder) >= reached + 200, process)
        process.terminate()
    assert process.wait(120) == 130 and steps_of(folder) % 50, "it saved where it stopped"


@pytest.mark.long
def test_a_disk_that_fills_up_is_a_sentence_and_what_was_saved_stays(tmp_path: Path, digits: Splits) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], capture_output=True)
    if mount.returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        words = [
            "--set",
            "net.channels=[8]",
            "--max-steps",
            "40",
            "--set",
            "train.save_every=1",
            "--set",
            "train.keep=30",
        ]
        command = [
            sys.executable,
            "-m",
            "ebbflow",
            "train",
            "--data",
            "digits",
            *words,
            "--save-dir",
            str(disk / "run"),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2 and "the disk is full" in done.stderr and done.stderr.count("ebbflow:") == 1
        assert "Traceback" not in done.stderr and not list((disk / "run").rglob("*.part"))
        for folder in checkpoints(disk / "run"):
            read(folder).require_written()
        subprocess.run(["mount", "-o", "remount,size=40m", str(disk)], check=True)
        assert subprocess.run(command, capture_output=True).returncode == 0, "it goes on once there is room"
    finally:
        subprocess.run(["umount", str(disk)], check=True)
