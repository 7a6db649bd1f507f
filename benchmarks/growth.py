"""Cost as work grows: time and peak memory against batch, image size, steps and number of samples, a process a point.

`python -m benchmarks.growth '{"kind": "train", "net": "dit", "batch": 64, "size": 28}'` measures one point.
"""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.environments import ROOT, environment
from benchmarks.options import Options

SERIES: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "a training step of the DiT by batch": ("batch", {"kind": "train", "net": "dit", "size": 28}, (8, 16, 32, 64, 128)),
    "a training step of the U-Net by batch": ("batch", {"kind": "train", "net": "unet", "size": 28}, (8, 16, 32, 64)),
    "a training step of the DiT by pixels": ("size", {"kind": "train", "net": "dit", "batch": 8}, (28, 56, 112)),
    "a training step of the U-Net by pixels": ("size", {"kind": "train", "net": "unet", "batch": 8}, (28, 56, 112)),
    "16 samples of the DiT by steps": ("steps", {"kind": "walk", "net": "dit", "batch": 16}, (5, 10, 20, 50, 100)),
    "`ebbflow sample` by number of samples": ("num", {"kind": "sample"}, (1, 10, 100, 1_000, 10_000, 50_000)),
}
QUICK = 2  # points of a series that a quick run measures
SAMPLED = "data.name=digits data.size=28 net.dim=64 net.depth=2 net.num_heads=2 train.num_steps=1 train.sample_every=0"
LINEAR = 1.1  # slopes above this are worse than linear
REASONS = {
    "a training step of the DiT by pixels": "attention compares every patch with every other: twice the side is four "
    "times the patches and sixteen times the comparisons, which a DiT of 256 channels feels from some 200 patches on",
    "a training step of the U-Net by pixels": "attention at the lowest level is quadratic in its places, and "
    "activations stop fitting into the caches",
    "a training step of the U-Net by batch": "activations stop fitting into the caches",
    "a training step of the DiT by batch": "activations stop fitting into the caches",
}


def run(options: Options) -> dict[str, Any]:
    """All series."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for title, (axis, fixed, values) in SERIES.items():
            points = []
            for value in values[: QUICK if options.quick else None]:
                points.append({axis: value, **_point({**fixed, axis: value, "folder": folder}, options)})
            found[title] = {"axis": axis, "points": points, **slopes(axis, points)}
    return found


def _point(asked: dict[str, Any], options: Options) -> dict[str, float]:
    """One point, measured in a process of its own, whose peak is that of the point alone."""
    command = [sys.executable, "-m", "benchmarks.growth", json.dumps(asked)]
    env = environment(options.threads, options.data_dir)
    done = subprocess.run(command, env=env, cwd=ROOT, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def slopes(axis: str, points: Sequence[dict[str, Any]]) -> dict[str, float]:
    """d log(seconds) / d log(work) between the last two points and d log(bytes) / d log(work) there: what growth comes
    to, once start-up no longer counts. Of an image's side the work is its square, the pixels."""
    (a, b), power = points[-2:], 2 if axis == "size" else 1
    step = power * math.log(b[axis] / a[axis])
    return {f"{what}_slope": math.log(b[what] / a[what]) / step for what in ("seconds", "bytes")}


def reason(title: str, slope: float) -> str:
    """What is said of a slope of time: linear or better, or why not."""
    return "linear or better" if slope <= LINEAR else REASONS.get(title, "worse than linear, not explained")


def _train(net: str, batch: int, size: int, folder: str) -> Iterator[None]:
    """Steps of the loop of ebbflow on noise."""
    import torch

    from benchmarks.peers.ebbflow import InMemory, Told
    from benchmarks.shared import NETS
    from ebbflow.core.device import keep_large_blocks
    from ebbflow.core.paths import Flow
    from ebbflow.methods.denoise import NetDenoiser
    from ebbflow.methods.objective import Objective
    from ebbflow.training import engine
    from ebbflow.training.ema import EMA
    from ebbflow.training.loop import fit
    from ebbflow.training.optim import adamw

    keep_large_blocks()
    built = NETS[net].build((1, size, size), 1, None)
    model = NetDenoiser(net=Told(built), path=Flow())
    rows = InMemory(torch.randn(2 * batch, 1, size, size), batch)
    optimiser, how = adamw(built.parameters(), lr=1e-3), engine.Engine(device="cpu", precision="auto")
    for _ in fit(model, Objective(Flow()), rows, optimiser, num_steps=10**9, engine=how, ema=EMA(built)):
        yield


def _walk(net: str, batch: int, steps: int, folder: str) -> Iterator[None]:
    """Walks of the second-order solver."""
    import torch

    from benchmarks.peers.ebbflow import Entry
    from benchmarks.shared import DIMS, Shared

    walk = Entry().walk(Shared(net).eval(), "dpmpp_2m", steps)
    assert walk is not None
    noise = torch.randn(batch, *DIMS)
    with torch.no_grad():
        while True:
            walk(noise)
            yield


def _sample(num: int, folder: str) -> dict[str, float]:
    """`ebbflow sample` of a small DiT into an .npz at 5 steps, start-up included."""
    run = Path(folder) / "run"
    if not run.is_dir():
        settings = [part for one in SAMPLED.split() for part in ("--set", one)]
        train = ["train", "--preset", "mnist_flow_dit", "--save-dir", str(run)]
        subprocess.run([sys.executable, "-m", "ebbflow", *train, *settings], check=True, capture_output=True)
    began = time.perf_counter()
    sample = ["sample", "--ckpt", str(run), "--num", str(num), "--steps", "5", "--guidance", "1"]
    command = [sys.executable, "-m", "ebbflow", *sample, "--output", str(Path(folder) / "x.npz")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(said.decode())
    wall, processor = time.perf_counter() - began, usage.ru_utime + usage.ru_stime
    return {"seconds": processor, "wall": wall, "bytes": usage.ru_maxrss * 1024.0}


def _timed(work: Iterator[None]) -> dict[str, float]:
    """The median seconds of an item, and the most memory that the process has had."""
    from benchmarks import machine

    now, found = machine.clock(), []
    next(work)
    while len(found) < 3 or (sum(found) < 2 and len(found) < 20):
        began = now()
        next(work)
        found.append(now() - began)
    return {"seconds": median(found), "bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0}


KINDS: dict[str, Callable[..., dict[str, float]]] = {
    "train": lambda **asked: _timed(_train(**asked)),
    "walk": lambda **asked: _timed(_walk(**asked)),
    "sample": _sample,
}


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    print(json.dumps(KINDS[request.pop("kind")](**request)))
