"""What a command does, taken apart so that two can be compared: what it printed, and what is in the files it wrote,
without times, and without the echo of what was asked."""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz.harness import contents
from PIL import Image, ImageSequence

from ebbflow.cli.app import run_app
from ebbflow.files import load_tensors

TIMED = re.compile(r"second|minute|hour|time|per_s|_ms|speed|rate|date|took|eta$|rss|memory")
ECHO = {
    "command",
    "config",
    "request",
    "settings",
    "output",
    "python",
    "saved",
    "folder",
    "file",
    "seconds",
    "hash",
    "files",
}
MOMENT = re.compile(
    r"\d[\d.,e+-]* ?(s|ms|µs|min|h|seconds?|minutes?|hours?)\b(?! steps)|\d[\d.,]*[kM]? ?(it|images|samples|entries|steps)?/s\b|\d+:\d\d"
)


def told(found: Any) -> Any:
    """A document without what depends on the moment or repeats what was asked."""
    if isinstance(found, dict):
        return {k: told(v) for k, v in found.items() if not TIMED.search(k) and k not in ECHO}
    return [told(one) for one in found] if isinstance(found, list) else found


def text(printed: str) -> Any:
    """What was printed: a JSON document, or lines without times."""
    try:
        return told(json.loads(printed))
    except ValueError:
        return [MOMENT.sub("#", line) for line in printed.splitlines()]


def content(path: Path) -> Any:
    """What a file says, apart from the command that is written into it."""
    if path.suffix == ".npz":
        with np.load(path) as file:
            return {name: hashlib.sha256(file[name].tobytes()).hexdigest() for name in file.files}
    if path.suffix in (".png", ".webp", ".gif", ".jpg"):
        with Image.open(path) as image:
            return [
                (one.size, hashlib.sha256(one.convert("RGBA").tobytes()).hexdigest())
                for one in ImageSequence.Iterator(image)
            ]
    if path.suffix == ".safetensors":
        tensors = load_tensors(path).items()
        return {
            name: hashlib.sha256(value.contiguous().flatten().float().numpy().tobytes()).hexdigest()
            for name, value in tensors
        }
    if path.suffix == ".jsonl":
        return [told(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.suffix == ".json":
        return told(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".tar":
        with tarfile.open(path) as file:
            return file.getnames()
    return None  # pages and cards, which repeat what was asked


def outcome(argv: list[str], here: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What a command did in a folder."""
    before = contents(here)
    capsys.readouterr()
    code = run_app(argv)
    said = capsys.readouterr()
    after = contents(here)
    new = {name: content(here / name) for name, what in sorted(after.items()) if before.get(name) != what}
    bars = [line for line in text(said.err) if "\r" not in line and "%|" not in line]
    return {"code": code, "out": text(said.out), "err": bars, "files": new}
