"""Fifty steps of one sampler on one net in every library that has it, and what a step costs besides the net."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import overhead
from benchmarks.arena import ContestantFailed, Handle, best, ratios, say, turns
from benchmarks.contest import METHODS
from benchmarks.environments import environment
from benchmarks.options import Options
from benchmarks.peers import PEERS
from benchmarks.shared import BATCH, NETS, shared_flops
from benchmarks.training import entered

WITHOUT_SAMPLER = ("torchcfm", "flow_matching")  # integrators of a velocity, not samplers of an eps-net
PICTURES, MOST = 16, 3  # of a walk through a net, and how often it is repeated: fifty steps steady a figure as it is
START_UP = {
    "import torch": ["-c", "import torch"],
    "import ebbflow and its samplers": ["-c", "import ebbflow; ebbflow.SAMPLERS"],
    "`ebbflow --help`": ["-m", "ebbflow", "--help"],
}


def run(options: Options) -> dict[str, Any]:
    """Seconds of a walk by net and method, microseconds a step with a net that costs nothing, and start-up."""
    steps, batch = (2, 4) if options.quick else (50, PICTURES)
    names = ("ebbflow", "ebbflow_fp32", *(name for name in options.peers if name not in WITHOUT_SAMPLER))
    with ExitStack() as stack:
        handles, failed = entered(stack, options, names)
        walks = {
            f"{net} {method}": _walk(handles, failed, net, method, steps, batch, options)
            for net in NETS
            for method in METHODS
        }
        free = {
            f"{size} {method}": _walk(handles, failed, "free", method, 50, size, options)
            for size in (1, BATCH)
            for method in METHODS
        }
    return {
        "steps": steps,
        "batch": batch,
        "failed": failed,
        "flops": {net: shared_flops(net, batch)["forward"] for net in NETS},
        "walks": walks,
        "free": free,
        "overhead": overhead.run(options),
        "start_up": start_up(options),
    }


def _walk(
    handles: dict[str, Handle],
    failed: dict[str, str],
    net: str,
    method: str,
    steps: int,
    batch: int,
    options: Options,
) -> dict[str, Any]:
    """One method on one net in all libraries."""
    asked = {"net": net, "method": method, "steps": steps, "batch": batch}
    evaluations: dict[str, int] = {}
    for name, handle in handles.items():
        try:
            first = handle.ask("walk", **asked)
        except ContestantFailed as error:
            failed[f"{name}, {method} on {net}"] = str(error)
            continue
        if first:
            evaluations[name] = first["evaluations"]
    say(f"  {method} on {net}, batch {batch}: {', '.join(evaluations)}")
    rounds = 1 if options.quick else min(options.repeat, 99 if net == "free" else MOST)
    found = turns(evaluations, lambda name: float(handles[name].ask("walk", **asked)["seconds"]), rounds)
    peer = best(found, [name for name in found if name in PEERS])
    return {
        "seconds": {name: median(values) for name, values in found.items()},
        "each": found,
        "evaluations": evaluations,
        "best_peer": peer,
        "ratios": {} if peer is None else ratios(found, peer),
    }


def start_up(options: Options) -> dict[str, float]:
    """Seconds of fresh processes on the wall's clock, the median of three (one, where it is quick)."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        train = ["train", "--preset", "digits", "--save-dir", str(run), "--set", "train.num_steps=1"]
        subprocess.run([sys.executable, "-m", "ebbflow", *train], check=True, **_quiet(options))
        sample = ["-m", "ebbflow", "sample", "--ckpt", str(run), "--num", "16", "--steps", "10"]
        every = {**START_UP, "16 samples of 8x8 digits, 10 steps": [*sample, "--output", str(Path(folder) / "x.npz")]}
        return {
            what: median(_seconds(code, options) for _ in range(1 if options.quick else 3))
            for what, code in every.items()
        }


def _seconds(code: list[str], options: Options) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *code], check=True, **_quiet(options))
    return time.perf_counter() - began


def _quiet(options: Options) -> dict[str, Any]:
    return {"capture_output": True, "env": environment(options.threads, options.data_dir)}
