"""What is trained in one go and what was killed and gone on with are the same folder, byte for byte: every preset, every
task, every coupling, average, optimiser and teacher."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ebbflow.cli.app import run_app
from ebbflow.config import (
    AnyConfig,
    AutoencoderConfig,
    ClassifierConfig,
    Layer,
    RunConfig,
    merge,
    parse,
    parse_as,
    presets,
    read_preset,
)
from ebbflow.data import Dataset, Splits
from ebbflow.runs import Trainer, task_of
from ebbflow.runs.folder import checkpoints, metrics
from ebbflow.training import checkpoint

NETS: Layer = {
    "unet": {"channels": [8, 16], "clock_dim": 16, "num_heads": 2},
    "dit": {"dim": 16, "depth": 1, "num_heads": 2, "patch_size": 4},
}
SHORT: dict[str, Any] = {
    "batch_size": 4,
    "save_every": 2,
    "sample_every": 1,
    "held_out_every": 1,
    "held_out_size": 4,
    "log_every": 1,
    "warmup_steps": 1,
}
BASE: Layer = {"net": {"kind": "unet", **NETS["unet"]}, "engine": {"device": "cpu"}, "sample": {"num_steps": 1}}
MORE: dict[str, Layer] = {
    "plain": {},
    "minutes": {"train": {"minutes": 3.5 / 60}},
    "accumulate": {"train": {"accumulate": 3}},
    "importance": {"objective": {"times": "importance", "time_bins": 2, "uncertainty": True}},
    "muon": {"optimiser": {"kind": "muon"}, "net": {"channels": [16]}},
    "power": {"ema": {"kind": "power", "lengths": [0.1, 0.2], "num_snapshots": 2}},
    "bf16": {"engine": {"precision": "bf16"}},
    "step decay": {"train": {"schedule": "step", "lr_decay_step": 2}},
    "logs that saves do not meet": {"train": {"log_every": 3}},
    "minibatch_ot": {"objective": {"coupling": "minibatch_ot"}},
    "semidiscrete": {"objective": {"coupling": {"kind": "semidiscrete", "iterations": 4}}},
    "consistency": {"objective": {"map": {"kind": "consistency"}}, "sample": {"sampler": "flow_map", "guidance": 1.0}},
    "mean_flow": {"objective": {"map": "mean_flow", "adaptive": 1.0}, "sample": {"sampler": "flow_map", "guidance": 1.0}},
    "image": {"conditioning": {"kind": "image", "degrade": {"kind": "downsample", "factor": 4}, "drop": 0.1}},
    "init": {"init": {"run": "base"}},
    "distilled": {"teacher": {"run": "base", "guidance": 2.0}, "objective": {"map": "midpoint"},
                  "sample": {"sampler": "flow_map", "guidance": 1.0}},
    "pairs": {"teacher": {"run": "base", "pairs": 6, "num_steps": 2}},
    "classifier": {"classifier": {"channels": [8], "clock_dim": 8}},
    "autoencoder": {"autoencoder": {"channels": [8, 8]}},
}  # fmt: skip
QUICK = (
    "logs that saves do not meet",
    "importance",
    "muon",
    "power",
    "semidiscrete",
    "distilled",
    "classifier",
    "autoencoder",
)


class Killed(BaseException):
    """What kill -9 is to a process: nothing after it is done."""


def stand_in(name: str) -> Splits:
    x = torch.randint(0, 256, (24, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = Dataset(name=name, x=x, labels=torch.arange(24) % 10, label_names=tuple("0123456789"))
    return Splits(train=data, held_out=data.select(torch.arange(8)))


def preset(name: str) -> RunConfig:
    """A preset with a small net and four steps; what it says of everything else is as it is."""
    layer = read_preset(name)
    length = {"minutes": 3.5 / 60} if "minutes" in layer["train"] else {"num_steps": 4}
    net = NETS[layer["net"]["kind"]]
    if "patch_size" in layer["net"] and layer["net"]["kind"] == "unet":
        net = {**net, "channels": [8]}
    return parse(
        merge(
            layer, {"net": net, "train": {**SHORT, **length}, "engine": {"device": "cpu"}, "sample": {"num_steps": 2}}
        )
    )


def other(name: str, base: Callable[[], Path]) -> AnyConfig:
    layer = MORE[name]
    train = {"train": {**SHORT, **({} if "minutes" in layer.get("train", {}) else {"num_steps": 4})}}
    for section in ("init", "teacher"):
        if section in layer:
            layer = merge(layer, {section: {"run": str(base())}})
    if name in ("classifier", "autoencoder"):
        cls = {"classifier": ClassifierConfig, "autoencoder": AutoencoderConfig}[name]
        return parse_as(cls, merge({"engine": BASE["engine"]}, train, layer))
    return parse_as(RunConfig, merge(BASE, train, layer))


def trained(config: AnyConfig, folder: Path, *, kill_at: int = 0) -> Trainer:
    """Train, or be killed after a step, before anything is written of it. Each reading of the clock is a second."""
    asked = itertools.count(1)

    def may_die() -> bool:
        if next(asked) == kill_at:
            raise Killed
        return False

    ticks = itertools.count()
    task = task_of(config, stand_in(config.data.name), folder)
    trainer = Trainer(task, command="ebbflow", should_stop=may_die, clock=lambda: float(next(ticks)))
    try:
        for _ in trainer.events():
            pass
    except Killed:
        assert kill_at
    return trainer


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that the run wrote."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def same_when_killed(config: AnyConfig, tmp_path: Path) -> None:
    """Killed at every one of the first three steps, the third of which comes after the checkpoint of the second."""
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    trained(config, tmp_path / "a" / "run")
    for step in (1, 2, 3):
        trained(config, tmp_path / "b" / "run", kill_at=step)
    assert trained(config, tmp_path / "b" / "run").start == 2
    whole, parts = contents(tmp_path / "a" / "run"), contents(tmp_path / "b" / "run")
    assert whole.keys() == parts.keys()
    assert [name for name in whole if whole[name] != parts[name]] == []
    assert {"metrics.jsonl", "config.json", "README.md"} <= whole.keys()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """A run to start from or to learn from, made when it is wanted."""
    folder = tmp_path_factory.mktemp("base") / "base"

    def made() -> Path:
        if not folder.exists():
            trained(other("plain", made), folder)
        return folder

    return made


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.long) for name in MORE])
def test_what_was_killed_is_the_same_run(name: str, base: Callable[[], Path], tmp_path: Path) -> None:
    same_when_killed(other(name, base), tmp_path)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "demo" else pytest.mark.long) for name in presets()]
)
def test_every_preset_that_was_killed_is_the_same_run(name: str, tmp_path: Path) -> None:
    config = preset(name)
    if config.latent.autoencoder is not None:
        trained(
            parse_as(AutoencoderConfig, {"autoencoder": {"channels": [8, 8]}, "train": {**SHORT, "num_steps": 2}}),
            tmp_path / "codes",
        )
        config = parse(
            merge(
                read_preset(name),
                {
                    "latent": {"autoencoder": str(tmp_path / "codes")},
                    "net": {"channels": [8]},
                    "train": {**SHORT, "num_steps": 4},
                    "engine": {"device": "cpu"},
                    "sample": {"num_steps": 2},
                },
            )
        )
    same_when_killed(config, tmp_path)


# -- kill -9 ----------------------------------------------------------------------------------------------------------

ARGS = [
    *("train", "--data", "digits", "--batch-size", "8", "--set", "net.channels=[8]", "--set", "net.clock_dim=16"),
    *("--set", "train.held_out_size=8", "--set", "train.log_every=1", "--set", "sample.num_steps=1"),
    *("--set", "train.sample_every=4", "--set", "train.held_out_every=3", "--set", "train.keep=2"),
    *("--set", "engine.device=cpu", "--set", "ema.kind=power", "--set", "ema.lengths=[0.1]"),
]


def in_a_child(folder: Path, *more: str) -> Any:
    """The command in a process of its own, forked because what it imports takes longer than what it does."""

    def work() -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1), os.dup2(null, 2)
        os._exit(run_app([*ARGS, "--save-dir", str(folder), *more]))

    process = get_context("fork").Process(target=work)
    process.start()
    return process


def killed_while_it_writes(process: Any, folder: Path, dice: random.Random) -> bool:
    """Wait for the next unfinished file or folder of the run, and kill its writer; False where it ended before."""
    skip = dice.randrange(12)
    while process.is_alive():
        if any(folder.rglob(".*.part")):
            if skip == 0:
                break
            skip -= 1
        time.sleep(0.0005)
    return killed(process)


def killed_somewhere(process: Any, folder: Path, dice: random.Random) -> bool:
    """After some seconds of its own work, however busy the machine is."""
    seconds, spent = dice.uniform(0.02, 0.7), Path(f"/proc/{process.pid}/schedstat")
    while process.is_alive() and int(spent.read_text().split()[0] or 0) < 1e9 * seconds:
        time.sleep(0.001)
    return killed(process)


def killed(process: Any) -> bool:
    process.kill()
    process.join()
    return bool(process.exitcode == -signal.SIGKILL)


def told(folder: Path) -> list[dict[str, Any]]:
    """Its lines of metrics without what a clock says."""
    return [{k: v for k, v in row.items() if k not in ("minutes", "samples_per_second")} for row in metrics(folder)]


def differences(whole: Path, parts: Path) -> list[str]:
    """What a run that was killed has otherwise than one that was not."""
    a, b = (checkpoint.read(checkpoints(one)[-1]) for one in (whole, parts))
    found = []
    for part in ("model", "optimiser", "ema"):
        mine, other = a.tensors(part), b.tensors(part)
        if mine.keys() != other.keys() or not all(torch.equal(mine[name], other[name]) for name in mine):
            found.append(part)
    found += [] if told(whole) == told(parts) else ["metrics"]
    pictures = [{p.name: Image.open(p).tobytes() for p in (one / "samples").glob("*.png")} for one in (whole, parts)]
    found += [] if pictures[0] == pictures[1] else ["pictures"]
    found += [] if [p.name for p in checkpoints(whole)] == [p.name for p in checkpoints(parts)] else ["checkpoints"]
    averages = [{p.name: p.read_bytes() for p in (one / "averages").glob("*")} for one in (whole, parts)]
    return found + ([] if averages[0] == averages[1] else ["averages"])


def kills(num: int, tmp_path: Path, *, steps: int, seed: int) -> dict[str, int]:
    """Kill trainings at random moments, and inside a write, and go on with each until it is done; what came of it."""
    count = {"kills": 0, "with something unfinished": 0, "runs": 0, "different": 0, "left behind": 0}
    dice, length = random.Random(seed), ("--max-steps", str(steps), "--set", "train.save_every=2")
    whole = tmp_path / "whole"
    assert run_app([*ARGS, "--save-dir", str(whole), *length]) == 0  # here, so that children find all of it imported
    while count["kills"] < num:
        folder = tmp_path / f"run_{count['runs']}"
        while True:
            process = in_a_child(folder, *length)
            how = dice.choice([killed_while_it_writes, killed_somewhere]) if count["kills"] < num else None
            if how is None or not how(process, folder, dice):
                process.join()
                assert process.exitcode == 0
                break
            count["kills"] += 1
            count["with something unfinished"] += any(folder.rglob(".*.part"))
        count["runs"] += 1
        count["different"] += bool(differences(whole, folder))
        count["left behind"] += sum(1 for _ in folder.rglob(".*")) - 1  # its lock
        shutil.rmtree(folder)
    return count


def test_killed_in_the_midst_it_comes_back_the_same(tmp_path: Path) -> None:
    found = kills(3, tmp_path, steps=8, seed=1)
    assert found["kills"] == 3 and found["different"] == found["left behind"] == 0, found


@pytest.mark.long
def test_killed_a_hundred_times_it_comes_back_the_same(tmp_path: Path) -> None:
    found = kills(100, tmp_path, steps=16, seed=2)
    print(found)
    assert found["kills"] == 100 and found["different"] == found["left behind"] == 0, found
    assert found["with something unfinished"] >= 20, "too few fell into a write"
