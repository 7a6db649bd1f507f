"""What ebbflow costs besides the net: sampler steps, start-up, training throughput. `make bench` prints it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from ebbflow.config import parse, read_preset
from ebbflow.core.noise import Noise, generator_for
from ebbflow.core.paths import Flow
from ebbflow.core.times import uniform
from ebbflow.data import load_dataset
from ebbflow.methods.denoise import FunctionDenoiser
from ebbflow.methods.samplers import SAMPLERS
from ebbflow.runs.build import build_denoiser, build_objective, conditioner_of, facts_of, resolved
from ebbflow.training import engine

STEPS = 200


def best_of(run: Callable[[], None], repeats: int = 5) -> float:
    """Seconds of the fastest of several runs."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def sampler_overhead(name: str, batch: int) -> float:
    """Microseconds a step around a net that costs nothing, for images of 1x28x28."""
    out = torch.zeros(batch, 1, 28, 28)
    denoiser = FunctionDenoiser(function=lambda x, t: out, path=Flow())
    x, times, sampler = torch.randn(batch, 1, 28, 28), uniform(Flow(), STEPS), SAMPLERS[name]

    def run() -> None:
        extra = {"noise": Noise(range(batch))} if sampler.takes_noise else {}
        for _ in sampler(denoiser, x, times, **extra):
            pass

    return best_of(run) / STEPS * 1e6


def training_throughput(preset: str, precision: str) -> float:
    """Samples a second of forward and backward, on noise of the preset's shape."""
    config = parse(read_preset(preset))
    splits = load_dataset("digits", size=28 if config.data.name == "mnist" else None)
    facts = facts_of(splits.train)
    config = resolved(config, facts)
    denoiser, objective, size = build_denoiser(config, facts), build_objective(config), config.train.batch_size
    assert isinstance(denoiser.net, torch.nn.Module)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    model = replace(denoiser, net=engine.in_precision(denoiser.net, dtype))
    conditioner = conditioner_of(denoiser)
    x0, cond = splits.train.x0(torch.arange(size)), None if conditioner is None else conditioner.null(size)
    generator = generator_for(0, "bench")

    def step() -> None:
        objective.losses(model, x0, cond, torch.randn_like(x0), objective.draw_times(size, generator)).mean().backward()

    return size / best_of(step, repeats=8)


def start_up(code: str) -> float:
    """Seconds of a fresh process, best of three."""
    return best_of(
        lambda: subprocess.run([sys.executable, "-c", code], check=True, capture_output=True) and None, repeats=3
    )


def main() -> None:
    """Print every figure."""
    engine.keep_large_blocks()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print("\nstart-up, s")
    for label, code in {
        "import torch": "import torch",
        "import ebbflow": "import ebbflow; ebbflow.SAMPLERS",
        "ebbflow --help": "from ebbflow.cli.app import run_app; run_app(['--help'])",
    }.items():
        print(f"  {label:18} {start_up(code):.2f}")
    print("\nsampler step outside the net, us: batch 64, batch 1")
    for name in SAMPLERS:
        print(f"  {name:18} {sampler_overhead(name, 64):7.0f} {sampler_overhead(name, 1):7.0f}")
    print("\ntraining, samples/s: fp32, bf16")
    for preset in ("digits", "mnist_flow_unet", "mnist_flow_dit"):
        print(f"  {preset:18} {training_throughput(preset, 'fp32'):7.0f} {training_throughput(preset, 'bf16'):7.0f}")


if __name__ == "__main__":
    main()
