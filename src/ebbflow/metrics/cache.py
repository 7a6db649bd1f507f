"""Files that can be made again: tensors with facts beside them, believed only when their sha256 is the one written."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebbflow.data import Dataset
from ebbflow.files import whole_file


def cache_folder() -> Path:
    """EBBFLOW_CACHE/features, or ~/.cache/ebbflow/features where that is not set."""
    root = os.environ.get("EBBFLOW_CACHE")
    return (Path(root).expanduser() if root else Path.home() / ".cache" / "ebbflow") / "features"


def keep(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> dict[str, Any]:
    """Write `tensors` to `path` and `facts` beside it; returns the facts with "sha256" and "file" added."""
    from safetensors.torch import save_file

    with whole_file(path) as partial:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, partial)
    facts = facts | {"sha256": file_hash(path), "file": str(path)}
    with whole_file(path.with_suffix(".json")) as partial:
        partial.write_text(json.dumps(facts, indent=2), encoding="utf-8")
    return facts


def kept(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What `keep` wrote to `path`; None where it is absent, damaged or changed."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if facts["sha256"] != file_hash(path):
            return None
        return load_file(path), facts | {"file": str(path)}
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None


def file_hash(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_hash(data: Dataset) -> str:
    """The sha256 of a data set's content: shape, entries, labels and names of the classes."""
    digest = hashlib.sha256(repr((data.dims, len(data), data.label_names)).encode())
    digest.update(data.x.contiguous().numpy().data)
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


def plain(name: str) -> str:
    """A data set's or a folder's name as part of a file name."""
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in Path(name).name) or "data"
