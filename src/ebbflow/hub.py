"""The hub of models: whether it can be reached, so that a name is not asked for in vain for half a minute."""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

SECONDS = 3.0  # that a look may take


def must_be_local(source: str | Path) -> bool:
    """Whether a model can only come from this machine, its folder or what was downloaded before: it is a folder, the
    network is switched off by HF_HUB_OFFLINE, or the hub does not answer."""
    said = os.environ.get("HF_HUB_OFFLINE", "").lower()
    return Path(source).expanduser().is_dir() or said in ("1", "on", "yes", "true") or not is_reachable()


@cache
def is_reachable() -> bool:
    """Whether the hub (HF_ENDPOINT, or huggingface.co) takes a connection; behind a proxy that is the proxy's to say.
    Asked once a process, for 3 s at most."""
    if getproxies():
        return True
    place = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    try:
        with socket.create_connection((place.hostname or "", place.port or 443), SECONDS):
            return True
    except OSError:
        return False


def unreachable(source: str | Path) -> str:
    """What to say of a name that was not found: that the hub does not answer; "" where it was asked."""
    if Path(source).expanduser().is_dir() or not must_be_local(source):
        return ""
    return "the hub cannot be reached, and this machine holds no copy of it. Give a folder, or connect and try again."
