"""What a step of each optimiser costs beside the rest of a training step: `python benchmarks/optimisers.py`.

On the net of a preset, on one thread, by processor time; the contestants take turns, and medians are shown.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from ebbflow.conditioning import DataFacts
from ebbflow.config import parse, read_preset
from ebbflow.core.device import keep_large_blocks
from ebbflow.runs.build import build_denoiser, build_objective, resolved
from ebbflow.training.engine import Engine
from ebbflow.training.loop import fit
from ebbflow.training.optim import OPTIMISERS

PLAIN = "adamw, tensor by tensor"


def seconds(work: Callable[[], object]) -> float:
    """Processor seconds of some work."""
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="mnist_flow_unet")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--turns", type=int, default=11)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    keep_large_blocks()
    facts = DataFacts(dims=(1, 28, 28), is_image=True, label_names=tuple("0123456789"))
    config = resolved(parse(read_preset(asked.preset)), facts)

    optimisers = {}
    for name in (PLAIN, *OPTIMISERS):
        net = build_denoiser(config, facts).net
        for p in net.parameters():
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())) * 1e-3
        plain = torch.optim.AdamW(net.parameters(), lr=1e-4, foreach=False, fused=False)
        optimisers[name] = plain if name == PLAIN else OPTIMISERS[name]().build(net, lr=1e-4, weight_decay=0.0)
        optimisers[name].step()
    taken: dict[str, list[float]] = {name: [] for name in optimisers}
    for _ in range(asked.turns):
        for name, optimiser in optimisers.items():
            taken[name].append(seconds(optimiser.step))

    model = build_denoiser(config, facts)
    batch = (torch.zeros(asked.batch_size, 1, 28, 28), torch.arange(asked.batch_size) % 10)
    rest = {}
    for precision in ("fp32", "bf16"):
        still = torch.optim.SGD(model.net.parameters(), lr=0.0)
        engine = Engine(device="cpu", precision=precision)
        steps = fit(model, build_objective(config), [batch], still, num_steps=5, engine=engine)
        rest[precision] = statistics.median([seconds(partial(next, steps)) for _ in range(5)][1:])
    print(f"{asked.preset}, {sum(p.numel() for p in model.net.parameters()):,} parameters, one thread,", end=" ")
    print(f"{torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}; ms, and shares of the rest of a step")
    for name, found in taken.items():
        each = statistics.median(found)
        shares = ", ".join(f"{100 * each / s:.1f} % of {1000 * s:.0f} ms in {p}" for p, s in rest.items())
        print(f"{name:24} {1000 * each:7.2f}   {shares} at batch {asked.batch_size}")


if __name__ == "__main__":
    main()
