"""How much memory there is, what cannot fit into it, and the allocator, with one setting that training and sampling
share."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ebbflow.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

N = TypeVar("N", bound="nn.Module")
GROUP = Path("/sys/fs/cgroup/memory.max")  # what a container may take
ENDLESS = 1 << 62


def total() -> int:
    """Bytes of memory that this process may have: of the machine, of its container and of its own limit, the least."""
    found = [ENDLESS]
    with suppress(AttributeError, ValueError, OSError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(ValueError, OSError):
        found.append(int(GROUP.read_text()))
    with suppress(ImportError, ValueError, OSError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        found += [] if limit == resource.RLIM_INFINITY else [max(limit - taken, 0)]
    return min(found)


def require(needed: float, what: str, cure: str, error: type[ValueError] = ConfigError) -> None:
    """Refuse what needs more memory than there is, before any of it is taken.

    Args:
        needed: bytes, at least.
        what: that needs them: "a batch of 64".
        cure: what to do, a sentence.

    Raises:
        ValueError: of the class `error`; says how many bytes it takes, and how many there are.
    """
    if needed > (there := total()):
        raise error(f"{what} takes at least {in_words(needed)} of memory, and there are {in_words(there)}. {cure}")


def in_words(size: float) -> str:
    """Bytes in words: "3.2 GB"."""
    for unit in ("bytes", "kB", "MB", "GB", "TB", "PB"):
        if size < 1000 or unit == "PB":
            return f"{size:,.0f} {unit}" if size >= 100 or unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError


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


def weighed(build: Callable[[], N], what: str, cure: str) -> N:
    """What `build` makes, weighed before it takes memory; a net that cannot be made without is not weighed.

    Raises:
        ConfigError: its weights alone do not fit.
    """
    import torch

    size: float = 0
    try:
        with torch.device("meta"):
            size = sum(p.numel() * p.element_size() for p in build().parameters())
    except (RuntimeError, TypeError) as error:
        size = math.inf if "overflow" in str(error) else 0
    require(size, what, cure)
    return build()
