"""How much memory there is, and what cannot fit into it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ebbflow.errors import ConfigError

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
