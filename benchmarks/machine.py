"""The machine: what it is, how busy it is, and the rates that bound everything which is measured on it.

`OMP_NUM_THREADS=1 python -m benchmarks.machine` prints both.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

QUIET_LOAD = 1.5  # above this load average at the start, figures are not called quiet
# M x K by K x N: the linear layers of 64 pictures of 49 tokens, and a square product
GEMMS = ((3136, 256, 1024), (3136, 1024, 256), (1024, 1024, 1024))
CONVOLUTIONS = ((64, 32, 28), (64, 64, 14), (64, 128, 7))  # batch, channels, size: the levels of a U-Net on 28x28
COPY_BYTES = 256 << 20
Clock = Callable[[], float]


def clock() -> Clock:
    """Processor time where one thread works, which stands still while others run; else the wall's."""
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def multiplies_bf16() -> bool:
    """Whether the processor has instructions for bfloat16 products."""
    return bool(torch.cpu._is_avx512_bf16_supported())


def facts() -> dict[str, Any]:
    """What every figure depends on: processor, capability, threads, versions, load average."""
    load = os.getloadavg()[0]
    return {
        "processor": _processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "avx512_bf16": multiplies_bf16(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "clock": "processor" if clock() is time.process_time else "wall",
        "load": round(load, 2),
        "quiet": load <= QUIET_LOAD,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def best_seconds(run: Callable[[], object], *, seconds: float = 0.3, least: int = 3) -> float:
    """The shortest of runs that go on for `seconds` and number at least `least`: a limit is what was reached once."""
    run()
    now, found = clock(), []
    while len(found) < least or sum(found) < seconds:
        began = now()
        run()
        found.append(now() - began)
    return min(found)


def gemm_rate(dtype: torch.dtype) -> float:
    """FLOP/s of the best of `GEMMS`, as a linear layer."""

    def rate(rows: int, inner: int, columns: int) -> float:
        a, weight = torch.randn(rows, inner, dtype=dtype), torch.randn(columns, inner, dtype=dtype)
        return 2 * rows * inner * columns / best_seconds(lambda: functional.linear(a, weight))

    return max(rate(*shape) for shape in GEMMS)


def convolution_rate(dtype: torch.dtype, *, backward: bool = False) -> float:
    """FLOP/s of the best of `CONVOLUTIONS`, 3x3; with `backward` of forward and both gradients together."""

    def rate(batch: int, channels: int, size: int) -> float:
        x = torch.randn(batch, channels, size, size, dtype=dtype, requires_grad=backward)
        weight = torch.randn(channels, channels, 3, 3, dtype=dtype, requires_grad=backward)

        def run() -> None:
            out = functional.conv2d(x, weight, padding=1)
            if backward:
                torch.autograd.grad(out, (x, weight), torch.ones_like(out))

        flops = 2 * batch * channels * channels * 9 * size * size * (3 if backward else 1)
        return flops / best_seconds(run)

    return max(rate(*shape) for shape in CONVOLUTIONS)


def bandwidth() -> float:
    """Bytes a second read and written by a copy that no cache holds."""
    source, target = torch.ones(COPY_BYTES // 4), torch.empty(COPY_BYTES // 4)
    return 2 * COPY_BYTES / best_seconds(lambda: target.copy_(source))


def rates() -> dict[str, float]:
    """FLOP/s of products and convolutions in both precisions, and bytes a second; about ten seconds.

    bfloat16 is left out where the processor does not multiply it: it would be emulated, and takes minutes.
    """
    found = {"bytes": bandwidth()}
    kinds = {"fp32": torch.float32, **({"bf16": torch.bfloat16} if multiplies_bf16() else {})}
    for name, dtype in kinds.items():
        found[f"gemm_{name}"] = gemm_rate(dtype)
        found[f"conv_{name}"] = convolution_rate(dtype)
        found[f"conv_train_{name}"] = convolution_rate(dtype, backward=True)
    return found


def limit(found: Mapping[str, float], precision: str) -> float:
    """The FLOP/s that nothing here exceeds in a precision: the better of products and convolutions."""
    return max(value for name, value in found.items() if name.endswith(f"_{precision}"))


def main() -> None:
    """Print facts and rates as JSON."""
    print(json.dumps({"machine": facts(), "rates": rates()}, indent=1))


if __name__ == "__main__":
    sys.exit(main())
