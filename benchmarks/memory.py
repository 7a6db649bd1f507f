"""What the calculator of `ebbflow train --dry-run` says that a step takes, beside what fresh processes took.

`python -m benchmarks.memory` trains each net for two steps in a process of its own, in which glibc hands large freed
blocks back at once, so that what is resident is what is alive.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.environments import ROOT, environment

STEPS = 2  # the second finds the optimiser's state there
DIT = {"kind": "dit", "patch_size": 4, "dim": 256, "depth": 6, "num_heads": 4}
UNET = {"kind": "unet", "channels": [32, 64, 128], "num_blocks": 2}
NETS: dict[str, dict[str, Any]] = {
    "U-Net, 28 x 28, batch 32, float32": {"net": UNET, "size": 28, "batch": 32, "precision": "fp32"},
    "U-Net, 32 x 32, batch 32, bfloat16": {"net": UNET, "size": 32, "batch": 32, "precision": "bf16"},
    "U-Net, 64 x 64, batch 8, float32": {"net": UNET, "size": 64, "batch": 8, "precision": "fp32"},
    "DiT, 16 x 16, batch 64, float32": {"net": DIT, "size": 16, "batch": 64, "precision": "fp32"},
    "DiT, 32 x 32, batch 64, bfloat16": {"net": DIT, "size": 32, "batch": 64, "precision": "bf16"},
    "DiT, 64 x 64, batch 8, float32": {"net": DIT, "size": 64, "batch": 8, "precision": "fp32"},
}
HANDS_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def resident(most: bool = False) -> int:
    """Bytes of this process that are in memory, or that were at most."""
    name = "VmHWM" if most else "VmRSS"
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


def asked(net: dict[str, Any], size: int, batch: int, precision: str) -> dict[str, Any]:
    """The configuration."""
    return {
        "data": {"name": "digits", "size": size},
        "net": net,
        "engine": {"device": "cpu", "precision": precision},
        "train": {"batch_size": batch, "sample_every": 0},
    }


def grown(config: dict[str, Any], folder: Path, *, steps: int) -> int:
    """By how many bytes this process grew while it built and trained."""
    from ebbflow.config import RunConfig, parse_as
    from ebbflow.data import load_dataset
    from ebbflow.runs.tasks import ModelTask
    from ebbflow.training.engine import Engine
    from ebbflow.training.loop import fit

    made = parse_as(RunConfig, config)
    splits = load_dataset("digits", size=made.data.size)
    before = resident()
    task = ModelTask(made, splits, folder)
    optimiser = made.optimiser.build(task.net, lr=1e-4, weight_decay=0.0)
    engine = Engine(device="cpu", precision=made.engine.precision)
    for _ in fit(
        task, task.batches(), optimiser, num_steps=steps, engine=engine, ema=task.averaging.build(task.net), lr=None
    ):
        pass
    return resident(most=True) - before


def measured(name: str, keep: bool) -> int:
    """In this process: a small net first, so that code and libraries are there, then the net that is meant."""
    import torch

    from ebbflow.core.device import keep_large_blocks

    torch.set_num_threads(1)
    if keep:
        keep_large_blocks()
    net = NETS[name]["net"]
    small = (
        {"dim": 32, "depth": 1, "num_heads": 1} if net["kind"] == "dit" else {"channels": [8, 8, 8], "num_blocks": 1}
    )
    with TemporaryDirectory() as folder:
        grown(asked({**net, **small}, 16, 4, NETS[name]["precision"]), Path(folder), steps=1)
        return grown(asked(**NETS[name]), Path(folder), steps=STEPS)


def said_of(name: str) -> int:
    """In this process: what the calculator says."""
    from ebbflow.config import RunConfig, parse_as
    from ebbflow.data import load_dataset
    from ebbflow.runs.scale import memory_of
    from ebbflow.runs.tasks import ModelTask
    from ebbflow.training.engine import Engine

    made = parse_as(RunConfig, asked(**NETS[name]))
    with TemporaryDirectory() as folder:
        task = ModelTask(made, load_dataset("digits", size=made.data.size), Path(folder))
        engine = Engine(device="cpu", precision=made.engine.precision)
        memory = memory_of(task, engine, task.batches().batch(0), made, 1)
    return memory.of(made.train.batch_size)


def table(names: Sequence[str], keep: bool) -> Iterator[str]:
    """A row a net, as they are measured."""
    yield "| a step on the CPU, one thread | said | the process grew by | |\n|---|---|---|---|"
    for name in names:
        said, grown = (_asked(name, how) / 1e6 for how in ("said", "keep" if keep else "alive"))
        yield f"| {name} | {said:.0f} MB | {grown:.0f} MB | {said / grown - 1:+.0%} |"


def _asked(name: str, how: str) -> int:
    env = environment(1) | (HANDS_BACK if how == "alive" else {})
    command = [sys.executable, "-m", "benchmarks.memory", "--net", name, "--how", how]
    done = subprocess.run(command, env=env, cwd=ROOT, check=True, capture_output=True, text=True)
    return int(done.stdout.strip().splitlines()[-1])


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, or one figure of one net that is measured in this process."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__, allow_abbrev=False)
    parser.add_argument("--net", choices=tuple(NETS), help="one of them")
    parser.add_argument("--keep", action="store_true", help="have glibc keep what is freed, as `ebbflow train` does")
    parser.add_argument("--how", choices=("said", "alive", "keep"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.how is None:
        for line in table([given.net] if given.net else tuple(NETS), given.keep):
            print(line, flush=True)
        return
    print(said_of(given.net) if given.how == "said" else measured(given.net, keep=given.how == "keep"))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
