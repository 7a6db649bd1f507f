"""What bfloat16 gains in training: float32, autocast, a copy of the weights, and both at once, taking turns."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from statistics import median

import torch
from torch import nn

from ebbflow.conditioning import ConditionedNet
from ebbflow.core.device import keep_large_blocks
from ebbflow.core.paths import Flow
from ebbflow.methods.denoise import NetDenoiser
from ebbflow.methods.objective import Objective
from ebbflow.nets.dit import DiTOptions
from ebbflow.nets.unet import UNetOptions
from ebbflow.training.optim import adamw

DIMS, BATCH, ROUNDS = (1, 28, 28), 64, 9
NETS = {
    "DiT 256 x 6, patch 4": DiTOptions(patch_size=4, dim=256, depth=6, num_heads=4),
    "U-Net 32-64-128, 2 blocks": UNetOptions(channels=(32, 64, 128), num_blocks=2),
}
WAYS = ("fp32", "autocast", "copy", "copy in autocast")


def stepper(net: nn.Module, way: str) -> Callable[[], None]:
    """One optimiser step of `net` in a way: forward, backward, clipping, AdamW, and what keeps a copy up to date."""
    working = copy.deepcopy(net).bfloat16() if "copy" in way else net
    objective, optimiser = Objective(Flow()), adamw(net.parameters(), lr=1e-4)
    model = NetDenoiser(net=ConditionedNet(working, None), path=Flow())
    x0, generator = torch.randn(BATCH, *DIMS), torch.Generator().manual_seed(0)
    weights, copies = list(net.parameters()), list(working.parameters())

    def step() -> None:
        t = objective.draw_times(BATCH, generator)
        with torch.autocast("cpu", torch.bfloat16) if "autocast" in way else nullcontext():
            loss = objective.losses(model, x0, None, torch.randn_like(x0), t).mean()
        loss.backward()
        if working is not net:
            for weight, half in zip(weights, copies, strict=True):
                weight.grad, half.grad = (None if half.grad is None else half.grad.float()), None
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        net.zero_grad()
        if working is not net:
            with torch.no_grad():
                torch._foreach_copy_(copies, weights)

    return step


def measure(net: nn.Module) -> dict[str, float]:
    """The median seconds of a step in each way, all of them taking turns; one thread is timed on its own clock, which
    stands still while others have the processor."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    steps = {way: stepper(copy.deepcopy(net), way) for way in WAYS}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(ROUNDS + 1):
        for way, step in steps.items():
            began = clock()
            step()
            if turn >= 1:
                seconds[way].append(clock() - began)
    return {way: median(found) for way, found in seconds.items()}


def main() -> None:
    """Print the seconds of a step and the ratios to float32."""
    keep_large_blocks()
    capability, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    print(
        f"torch {torch.__version__}, {threads} threads, CPU capability {capability}, bf16 "
        f"{torch.cpu._is_avx512_bf16_supported()}, load {os.getloadavg()[0]:.2f}"
    )
    for name, options in NETS.items():
        net = options.build(DIMS, DIMS[0], None)
        seconds = measure(net)
        print(
            f"{name}, {sum(p.numel() for p in net.parameters()) / 1e6:.1f} M, {'x'.join(map(str, DIMS))}, batch {BATCH}"
        )
        for way, found in seconds.items():
            print(f"  {way:18} {1000 * found:7.0f} ms  x {seconds['fp32'] / found:.2f}")


if __name__ == "__main__":
    main()
