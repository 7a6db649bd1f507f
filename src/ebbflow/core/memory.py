"""The allocator: one setting that training and sampling share."""

from __future__ import annotations

import ctypes
import sys
from functools import cache


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
