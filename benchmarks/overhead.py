"""What a step of every sampler of ours costs besides the net, with and without guidance."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks import machine
from benchmarks.arena import turns
from benchmarks.options import Options
from benchmarks.shared import BATCH, DIMS
from ebbflow.core.noise import Noise
from ebbflow.core.paths import PATHS
from ebbflow.core.times import TIME_GRIDS
from ebbflow.methods.denoise import Denoiser, NetDenoiser
from ebbflow.methods.guidance import classifier_free
from ebbflow.methods.samplers import SAMPLERS

STEPS = 50
WALKING = [name for name, sampler in SAMPLERS.items() if not sampler.jumps]  # a jump is a call of a net, no more
PREDICTIONS = {"flow": "velocity", "vp_discrete": "eps"}  # what the paths of the benchmark are most used with


def run(options: Options) -> dict[str, dict[str, float]]:
    """Microseconds a step by sampler, for each path, plain and guided with both branches counted."""
    steps, walks = 2 if options.quick else STEPS, {}
    for path in PREDICTIONS:
        plain = free_denoiser(path, BATCH)
        guided = classifier_free(plain, guidance=2.0).given(plain.cond)
        for name in WALKING:
            walks[f"{name} {path}"] = walk(name, plain, steps)
            walks[f"{name} {path} guided"] = walk(name, guided, steps)
    now = machine.clock()

    def seconds(key: str) -> float:
        began = now()
        walks[key]()
        return now() - began

    with torch.no_grad():
        for once in walks.values():
            once()
        found = turns(walks, seconds, 1 if options.quick else options.repeat)
    columns = [f"{path}{how}" for path in PREDICTIONS for how in ("", " guided")]
    return {name: {column: 1e6 * median(found[f"{name} {column}"]) / steps for column in columns} for name in WALKING}


def free_denoiser(path: str, batch: int) -> NetDenoiser:
    """A conditional net that costs nothing."""
    outs = {num: torch.randn(num, *DIMS) for num in (batch, 2 * batch)}
    return NetDenoiser(
        net=lambda x, clock, cond: outs[len(x)],
        path=PATHS[path](),
        prediction=PREDICTIONS[path],
        make_null=lambda num: torch.zeros(num, dtype=torch.long),
    ).given(torch.ones(batch, dtype=torch.long))


def walk(name: str, denoiser: Denoiser, steps: int) -> Callable[[], None]:
    """A walk with fresh noise."""
    sampler, times = SAMPLERS[name], TIME_GRIDS["uniform"](denoiser.path, steps)
    x: Tensor = torch.randn(BATCH, *DIMS)

    def run() -> None:
        extra: dict[str, Any] = {"noise": Noise(range(len(x)))} if sampler.stochastic else {}
        for _ in sampler(denoiser, x, times, **extra):
            pass

    return run
