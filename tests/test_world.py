"""Several processes do what one does: training, going on in another number of them, sampling, measuring."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import world_battery

from ebbflow.cli.app import run_app
from ebbflow.errors import ConfigError
from ebbflow.files import load_tensors
from ebbflow.runs.folder import checkpoints, metrics
from ebbflow.training import checkpoint
from ebbflow.training.world import World, launched, timeout

HERE = Path(__file__).parent
TIMES = ("second", "minutes", "feature_facts")


def started(num: int, arguments: list[str], **more: str) -> list[subprocess.Popen[str]]:
    """So many processes, as a launcher starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {**os.environ, "WORLD_SIZE": str(num), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "EBBFLOW_TIMEOUT": "240", **more}
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(num)
    ]


def ended(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Exit code and what was said on standard error, by rank."""
    return [(p.wait(), said) for p in processes for _, said in [p.communicate(timeout=240)]]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What one process made, and what two did."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    processes = started(2, [str(HERE / "world_battery.py"), str(two), str(one)])
    world_battery.everything(one)
    (one / "done").touch()
    world_battery.gone_on(one / "run", one / "gone_on")
    found = ended(processes)
    assert [code for code, _ in found] == [0, 0], found
    return one, two


@pytest.mark.parametrize("kind", world_battery.KINDS)
def test_two_processes_take_the_steps_of_one(kind: str, both: tuple[Path, Path]) -> None:
    """In float64 to rounding, however weights are held; in bfloat16 their losses, since AdamW makes whole steps of
    what rounding leaves of small gradients."""
    one, two = (load_tensors(folder / f"{kind}.safetensors") for folder in both)
    assert one.keys() == two.keys()
    rtol, atol = (2e-3, 0.0) if "bf16" in kind else (1e-6, 1e-7)
    for name, value in one.items():
        if "bf16" in kind and name not in ("loss", "norm"):
            continue
        torch.testing.assert_close(
            two[name], value, rtol=rtol, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_gradients_that_some_or_none_have_are_summed(both: tuple[Path, Path]) -> None:
    one, two = (load_tensors(folder / "messages.safetensors") for folder in both)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, equal_nan=True)
    assert bool(one["3"].isnan().all()), "nobody has it"


def numbers(value: Any) -> dict[str, float]:
    """All numbers of a report by their places, but for times of work."""
    if isinstance(value, dict):
        found = {f"{k}.{name}": n for k, part in value.items() for name, n in numbers(part).items()}
        return {name: n for name, n in found.items() if not any(part in name for part in TIMES)}
    if isinstance(value, list):
        return {f"{i}.{name}": n for i, part in enumerate(value) for name, n in numbers(part).items()}
    return {"": float(value)} if isinstance(value, int | float) and not isinstance(value, bool) else {}


@pytest.mark.parametrize(("name", "steps"), [("run", 9), ("dealt", 6)])
def test_a_run_of_two_processes_has_the_lines_of_one(name: str, steps: int, both: tuple[Path, Path]) -> None:
    one, two = (metrics(folder / name) for folder in both)
    assert len(one) == steps + steps // 3, "a line a step, and the held-out loss at 3, 6 and 9"
    for row, other in zip(one, two, strict=True):
        assert numbers(other) == pytest.approx(numbers(row), rel=1e-4, abs=1e-6)


def test_samples_are_those_of_one_process(both: tuple[Path, Path]) -> None:
    one, two = (np.load(folder / "samples.npz") for folder in both)
    assert one["arr_0"].shape == (70, 2)
    np.testing.assert_allclose(two["arr_0"], one["arr_0"], atol=1e-4)


@pytest.mark.parametrize("what", ["evaluate", "compare", "likelihood"])
def test_measures_are_those_of_one_process(what: str, both: tuple[Path, Path]) -> None:
    files = {"evaluate": "run/eval/*.json", "compare": "compare.cells.jsonl", "likelihood": "likelihood.json"}
    texts = [next(folder.glob(files[what])).read_text() for folder in both]
    whole = [f"[{','.join(text.splitlines())}]" if what == "compare" else text for text in texts]
    one, two = (numbers(json.loads(text)) for text in whole)
    assert len(one) > 5
    assert two == pytest.approx(one, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", ["run_of_one", "dealt_of_one", "run", "dealt"])
def test_a_run_goes_on_in_another_number_of_processes(name: str, both: tuple[Path, Path], tmp_path: Path) -> None:
    """What two began one ends, and the other way round, dealt out or not: as if nothing had changed."""
    one, two = both
    ended_at = two / name
    if "of_one" not in name:
        ended_at = tmp_path / "run"
        world_battery.gone_on(two / name, ended_at)
    for name in ("model", "ema", "optimiser"):
        mine, its = (load_tensors(checkpoints(run)[-1] / f"{name}.safetensors") for run in (ended_at, one / "gone_on"))
        assert mine.keys() == its.keys()
        for key, value in its.items():
            torch.testing.assert_close(mine[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("how", "more"),
    [
        (signal.SIGKILL, []),
        (signal.SIGKILL, world_battery.DEALT),
        pytest.param(signal.SIGSTOP, [], marks=pytest.mark.long),
        pytest.param(signal.SIGSTOP, world_battery.DEALT, marks=pytest.mark.long),
    ],
)
def test_when_a_process_is_lost_the_other_says_so_and_nothing_is_lost(
    how: signal.Signals, more: list[str], tmp_path: Path
) -> None:
    """One that died is missed at once, one that hangs when the time is over."""
    run = tmp_path / "run"
    arguments = ["-m", "ebbflow", *world_battery.TRAIN, *more, "--max-steps", "100000", "--save-dir", str(run)]
    processes = started(2, arguments, EBBFLOW_TIMEOUT="15" if how == signal.SIGSTOP else "240")
    while not checkpoints(run) and all(p.poll() is None for p in processes):
        time.sleep(0.05)
    processes[1].send_signal(how)
    processes[0].wait(timeout=240)
    processes[1].kill()
    (code, said), _ = ended(processes)
    assert code == 2, said
    assert "process 0 of 2 lost another one" in said
    assert "Traceback" not in said
    assert checkpoint.read(checkpoints(run)[-1]).tensors("model")


def test_a_process_that_was_given_something_else_is_named(tmp_path: Path) -> None:
    """The second process has another learning rate; one sentence says so, once."""
    program = (
        "import os, sys; from ebbflow.cli import main; sys.argv += ['--lr', '0.00' + os.environ['RANK'] + '1']; main()"
    )
    arguments = [*world_battery.TRAIN, "--max-steps", "9", "--save-dir", str(tmp_path / "run")]
    found = ended(started(2, ["-c", program, *arguments]))
    assert [code for code, _ in found] == [2, 2]
    said = [line for _, text in found for line in text.splitlines() if line.startswith("ebbflow: ")]
    assert len(said) == 1
    assert "process 1 of 2 (on " in said[0]
    assert "has another train.lr than process 0" in said[0]
    assert not checkpoints(tmp_path / "run")


def test_rows_are_dealt_evenly_or_not_at_all() -> None:
    assert [World(rank=rank, size=4).share(64) for rank in range(4)] == [range(i, i + 16) for i in range(0, 64, 16)]
    with pytest.raises(ConfigError, match=r"`batch_size` 10 .* 4 processes\. Use 8 or 12, or start 2 processes\."):
        World(rank=0, size=4).share(10)
    with pytest.raises(ConfigError, match=r"Use 4, or start 3 processes\."):
        World(rank=0, size=4).share(3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 is no rank of 2 processes"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "have to be numbers"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR and MASTER_PORT do not say where they meet"),
        ({"RANK": "0", "WORLD_SIZE": "2", "EBBFLOW_TIMEOUT": "soon"}, "EBBFLOW_TIMEOUT is a number of seconds"),
    ],
)
def test_a_launcher_that_said_nonsense_is_told_so(
    given: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert run_app(["train", "--max-steps", "1"]) == 2
    assert message in capsys.readouterr().err


def test_a_launcher_that_started_too_few_is_told_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        given = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "EBBFLOW_TIMEOUT": "1"}
        for name, value in {**given, "MASTER_PORT": str(taken.getsockname()[1])}.items():
            monkeypatch.setenv(name, value)
        assert run_app(["train", "--max-steps", "1"]) == 2
    assert "is in use. Set MASTER_PORT to a free one." in capsys.readouterr().err
    monkeypatch.setenv("MASTER_PORT", "0")
    assert run_app(["train", "--max-steps", "1"]) == 2
    assert "did not meet within 1 s" in capsys.readouterr().err


def test_srun_says_it_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "3")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    assert launched() == World(rank=3, size=8)
    assert timeout().total_seconds() == 600


def test_a_dry_run_says_what_a_process_would_take(capsys: pytest.CaptureFixture[str]) -> None:
    """Of an MLP, whose state is 20 bytes a parameter: weights, gradients, two moments, an average."""
    dry = ["train", "--data", "moons", "--batch-size", "64", "--set", "net.kind=mlp", "--dry-run", "--json"]
    assert run_app([*dry, "--world-size", "4", "--device-memory", "1"]) == 0
    said = json.loads(capsys.readouterr().out)
    memory, scale = said["scale"]["memory"], said["scale"]
    own = said["num_parameters"] * 4
    assert [memory[name] for name in ("weights", "gradients", "averages")] == [own] * 3
    assert memory["optimiser"] == pytest.approx(2 * own, rel=1e-3)
    assert (scale["world_size"], scale["rows"], scale["wire"]) == (4, 16, round(1.5 * own))
    assert scale["accumulate"] == 1
    assert run_app([*dry, "--world-size", "4", "--device-memory", "1e-6"]) == 0
    assert json.loads(capsys.readouterr().out)["scale"]["accumulate"] is None
    assert run_app([*dry, "--world-size", "5"]) == 2
    assert "cannot be dealt evenly to 5 processes. Use 60 or 65" in capsys.readouterr().err
