"""The allocator: one setting that training and sampling share."""

from __future__ import annotations

import ctypes
import sys
from functools import cache


@cache
def keep_large_blocks() -> None:
    """Have glibc keep freed blocks instead of handing them to the kernel, which page-faults each activation anew; a
    no-op elsewhere."""
    if not sys.platform.startswith("linux"):
        return
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
    except (OSError, AttributeError):
        return
