"""What makes sampling faster: the precision of the net, both branches of guidance in one pass or in two, and how cost
and memory grow with batch, steps and number of samples. One thread, on its own clock, all contestants taking turns.

    OMP_NUM_THREADS=1 python benchmarks/sampling_cost.py RUN [--rounds 7] [--only precision,guidance,growth,memory]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from ebbflow.core.device import keep_large_blocks
from ebbflow.methods.denoise import Denoiser, NetDenoiser
from ebbflow.methods.guidance import classifier_free
from ebbflow.runs.opened import Opened
from ebbflow.runs.plan import default_plan
from ebbflow.runs.sample import generate
from ebbflow.training.engine import in_precision


def medians(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each, taking turns after a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            began = time.thread_time()
            run()
            if turn:
                seconds[name].append(time.thread_time() - began)
    return {name: 1000 * median(found) for name, found in seconds.items()}


@torch.no_grad()
def ask(denoiser: Denoiser, x: torch.Tensor) -> torch.Tensor:
    """One evaluation, its x0 read."""
    return denoiser(x, 0.5).x0


def precision(model: Opened, rounds: int) -> None:
    """Float32, autocast and a bfloat16 copy; and whether a sample depends on its batch."""
    net = model.denoiser
    assert isinstance(net, NetDenoiser) and isinstance(net.net, torch.nn.Module)
    copy = replace(net, net=in_precision(net.net, torch.bfloat16))

    def in_autocast(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return ask(net, x)

    for batch in (1, 16, 64):
        x = torch.randn(batch, *model.facts.state_dims, generator=torch.Generator().manual_seed(0))
        ways = {"float32": partial(ask, net, x), "autocast": partial(in_autocast, x), "copy": partial(ask, copy, x)}
        print(f"batch {batch:3}: " + ", ".join(f"{name} {ms:.1f} ms" for name, ms in medians(ways, rounds).items()))
        apart = (ask(copy, x) - ask(net, x)).square().mean().sqrt() / ask(net, x).square().mean().sqrt()
        alone = [f"{float((ask(one, x)[:1] - ask(one, x[:1])).abs().max()):.1e}" for one in (net, copy)]
        print(f"  the copy's x0 is off by {float(apart):.1e}; alone and in the batch {' and '.join(alone)} apart")


def guidance(model: Opened, rounds: int) -> None:
    """Both branches in one pass and in two, over one pass of one branch."""
    for dtype in (torch.float32, torch.bfloat16):
        net = model.denoiser
        assert isinstance(net, NetDenoiser) and isinstance(net.net, torch.nn.Module)
        net = replace(net, net=in_precision(net.net, dtype))
        for batch in (1, 4, 8, 16, 32, 64):
            x, cond = torch.randn(batch, *model.facts.state_dims), model.read([0] * batch)
            runs = {
                name: partial(ask, classifier_free(net, guidance=2.0, batched=batched).given(cond), x)
                for name, batched in (("one pass", True), ("two passes", False))
            }
            found = medians({"one branch": partial(ask, net.given(cond), x), **runs}, rounds)
            one = found.pop("one branch")
            print(f"{dtype}, batch {batch:3}: " + ", ".join(f"{name} x {ms / one:.2f}" for name, ms in found.items()))


def growth(model: Opened, rounds: int) -> None:
    """Milliseconds a sample and step, by batch, steps and number of samples."""

    def run(num: int, batch: int, steps: int) -> None:
        plan = replace(default_plan(model, seeds=range(num)), sampler="ddim", num_steps=steps, batch_size=batch)
        for _ in generate(model, plan):
            pass

    cases = [(64, 1, 4), (64, 4, 4), (64, 16, 4), (64, 64, 4), (64, 64, 16), (256, 64, 4)]
    found = medians({str(case): partial(run, *case) for case in cases}, rounds)
    for (num, batch, steps), ms in zip(cases, found.values(), strict=True):
        print(f"{num:4} samples, batch {batch:3}, {steps:3} steps: {ms / num / steps:.3f} ms a sample and step")


CHILD = """
import resource, sys
from ebbflow.cli.app import run_app
assert run_app(sys.argv[1:]) == 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def memory(model: Opened, rounds: int) -> None:
    """The largest resident set of a process that writes so many samples into an .npz file, one step each."""
    assert model.run is not None
    with TemporaryDirectory() as folder:
        for num in (1, 64, 1_000, 10_000, 50_000):
            given = f"sample --ckpt {model.run.folder} --output {folder}/x.npz --num {num} --steps 1 --sampler ddim"
            done = subprocess.run(
                [sys.executable, "-c", CHILD, *given.split()], check=True, capture_output=True, text=True
            )
            size = (Path(folder) / "x.npz").stat().st_size
            print(f"{num:6} samples: {done.stdout.split()[-1]} MiB, a file of {size / 2**20:.1f} MiB", flush=True)


def main() -> None:
    """Print what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="precision,guidance,growth,memory")
    given = parser.parse_args()
    keep_large_blocks()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, CPU capability {torch.backends.cpu.get_cpu_capability()}")
    model = Opened.from_run(given.run)
    for name in given.only.split(","):
        {"precision": precision, "guidance": guidance, "growth": growth, "memory": memory}[name](model, given.rounds)


if __name__ == "__main__":
    main()
