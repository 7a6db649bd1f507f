"""What one of several processes holds, and what a step takes: `torchrun --nproc-per-node 2 benchmarks/processes.py`.

A DiT in float32 with AdamW and one average, one thread a process, on Linux. Tensors are counted between two steps; the
resident set is that of rank 0 between two steps, freed memory handed back, and its largest in later ones, over what it
was before the net. Steps take turns, gradients leaving during the backward pass and after it; milliseconds are by the
wall and of all threads of rank 0.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from ebbflow.core.device import hand_back
from ebbflow.core.paths import Flow
from ebbflow.methods.denoise import NetDenoiser
from ebbflow.methods.objective import Objective
from ebbflow.nets.dit import DiTOptions
from ebbflow.training import engine, world
from ebbflow.training.dealt import own
from ebbflow.training.ema import EMA
from ebbflow.training.gradients import summed
from ebbflow.training.loop import fit
from ebbflow.training.optim import adamw
from ebbflow.training.task import DenoiserTask


@contextmanager
def afterwards(its: world.World, parameters: Sequence[Tensor]) -> Iterator[None]:
    """The same sums, all of whose messages leave after the backward pass."""
    yield
    with summed(its, parameters):
        pass


def resident(what: str) -> int:
    """Bytes of a line of this process's status: VmRSS, or VmHWM."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) * 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--shard", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if world.launched().size > 1:
        world.join()
    before, between, dims = resident("VmRSS"), 0, (3, 16, 16)
    torch.manual_seed(0)
    net = DiTOptions(dim=asked.dim, depth=asked.depth, num_heads=6).build(dims, 3, None)
    path, data = Flow(), torch.randn(asked.batch_size, *dims)
    task = DenoiserTask(NetDenoiser(net=net, path=path, prediction="velocity"), Objective(path, prediction="velocity"))
    num, ema, optimiser = sum(p.numel() for p in net.parameters()), EMA(net), adamw(net.parameters(), lr=1e-4)
    runs = engine.Engine(device="cpu", precision="fp32", shard=asked.shard)
    steps = fit(task, [data], optimiser, num_steps=asked.steps + 2, engine=runs, ema=ema)
    took: dict[str, list[tuple[float, float]]] = {"during": [], "after": []}
    for i in range(asked.steps + 2):
        name = ("during", "after")[i % 2]
        engine.summed = summed if name == "during" else afterwards  # type: ignore[attr-defined]
        began = time.perf_counter(), time.process_time()
        next(steps)
        if i >= 2:
            took[name].append((time.perf_counter() - began[0], time.process_time() - began[1]))
        if i == 1:
            hand_back()
            between = resident("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # the largest resident set begins anew
    moments = [t for state in optimiser.state.values() for t in state.values()]
    held = [*net.parameters(), *net.parameters(), *ema.module.parameters(), *moments]  # gradients as weights
    found = {
        "processes": world.here().size,
        "shard": asked.shard,
        "parameters": num,
        "bytes_a_parameter": round(sum(own(t).nbytes for t in held) / num, 2),
        "resident_mb": [(size - before) // 10**6 for size in (between, resident("VmHWM"))],
        **{f"ms_{name}": [round(1e3 * median(k), 1) for k in zip(*each, strict=True)] for name, each in took.items()},
    }
    if world.here().leads:
        print(json.dumps(found))
    world.leave()


if __name__ == "__main__":
    main()
