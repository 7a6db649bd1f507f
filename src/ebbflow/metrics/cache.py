"""The cache of features and classifiers, and the hashes that key it: files that can be made again, believed only when
their sha256 is the one written."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebbflow import __version__
from ebbflow.data import Dataset
from ebbflow.documents import read_json
from ebbflow.errors import ConfigError
from ebbflow.files import file_hash, load_tensors, save_tensors, whole_file, write_text
from ebbflow.memory import in_words
from ebbflow.values import Wrong

SHOWING = ("cli", "studio", "show", "proof")  # rooms that make no numbers of samples


def cache_folder(kind: str = "features") -> Path:
    """EBBFLOW_CACHE/features, or ~/.cache/ebbflow/features where that is not set; of latents and texts likewise."""
    root = os.environ.get("EBBFLOW_CACHE")
    return (Path(root).expanduser() if root else Path.home() / ".cache" / "ebbflow") / kind


def store(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> dict[str, Any]:
    """Write `tensors` to `path` and `facts` beside it; returns the facts with "sha256" and "file" added."""
    save_tensors(tensors, path)
    facts = facts | {"sha256": file_hash(path), "file": str(path)}
    write_text(path.with_suffix(".json"), json.dumps(facts, indent=2))
    return facts


def cached(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What `store` wrote to `path`; None where it is absent, damaged or changed."""
    try:
        facts = read_json(path.with_suffix(".json"), dict[str, Any])
        if facts["sha256"] != file_hash(path):
            return None
        return load_tensors(path), facts | {"file": str(path)}
    except (OSError, ValueError, KeyError, TypeError, Wrong):
        return None


def mapped(path: Path, shape: tuple[int, ...], parts: Iterable[Tensor]) -> Tensor:
    """Numbers in a file, float32 of `shape`, read from the disk where they are used; made of `parts` where the file is
    absent or of another length.

    Raises:
        ConfigError: it cannot be written.
    """
    size = math.prod(shape)
    if not path.is_file() or path.stat().st_size != 4 * size:
        try:
            with whole_file(path) as partial, partial.open("wb") as file:
                for part in parts:
                    file.write(part.detach().cpu().float().contiguous().numpy().data)
        except OSError as error:
            reason = f"{path.parent} cannot hold {in_words(4 * size)}: {error.strerror or error}"
            raise ConfigError(f"{reason}. Name another folder for the cache in EBBFLOW_CACHE.") from error
    return torch.from_file(str(path), shared=False, size=size, dtype=torch.float32).reshape(shape)


@cache
def code_hash() -> str:
    """Twelve hexadecimal digits that stand for the version and the code of ebbflow, but for what only shows numbers."""
    root, digest = Path(__file__).parents[1], hashlib.sha256(__version__.encode())
    for file in sorted(root.rglob("*.py")):
        place = file.relative_to(root)
        if place.parts[0] not in SHOWING:
            digest.update(f"\n{place.as_posix()}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def source_of(thing: Any) -> str:
    """The source of the module that defines a function or a class; of what has none, nothing."""
    try:
        return inspect.getsource(inspect.getmodule(thing) or thing)
    except (OSError, TypeError):
        return ""


def data_hash(data: Dataset) -> str:
    """The sha256 of a data set's content: shape, entries, labels and names of the classes."""
    digest = hashlib.sha256(repr((data.dims, len(data), data.label_names)).encode())
    digest.update(data.x.digest.encode() if data.on_demand else data.x.contiguous().numpy().data)  # type: ignore[attr-defined]
    if data.labels is not None:
        digest.update(data.labels.contiguous().numpy().data)
    return digest.hexdigest()


def tensor_hash(*tensors: Tensor) -> str:
    """The sha256 of some tensors' content."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def key_of(*parts: Any) -> str:
    """Twelve hexadecimal digits that stand for JSON-able `parts`."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def slug(name: str) -> str:
    """A data set's or a folder's name as part of a file name."""
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in Path(name).name) or "data"
