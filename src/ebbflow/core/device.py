"""The way to a device, the host's allocator, with one setting that training and sampling share, and nets weighed on
"meta" before they take memory."""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor, nn

from ebbflow.memory import require

N = TypeVar("N", bound=nn.Module)


@cache
def keep_large_blocks() -> bool:
    """Have glibc keep freed blocks instead of handing them to the kernel, which page-faults each activation anew.
    Whether that took hold, which it does with glibc alone."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        thresholds = {-3: 1 << 30, -1: (1 << 31) - 1}  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
        return all(libc.mallopt(name, size) == 1 for name, size in thresholds.items())
    except (OSError, AttributeError):
        return False


def hand_back() -> None:
    """Give the kernel what glibc keeps of freed blocks, once something large has gone for good."""
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def sent(x: Tensor, device: torch.device | str) -> Tensor:
    """`x` on a device; from the CPU to CUDA by way of pinned memory, so that neither waits for the other."""
    if x.device.type == "cpu" and torch.device(device).type == "cuda":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def weighed(build: Callable[[], N], what: str, cure: str) -> N:
    """What `build` makes, weighed before it takes memory; a net that cannot be made without is not weighed.

    Raises:
        ConfigError: its weights alone do not fit.
    """
    size: float = 0
    try:
        with torch.device("meta"):
            size = sum(p.numel() * p.element_size() for p in build().parameters())
    except (RuntimeError, TypeError) as error:
        size = math.inf if "overflow" in str(error) else 0
    require(size, what, cure)
    return build()
