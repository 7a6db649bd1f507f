"""Which files of parquet a data set is made of, in a folder or on the Hugging Face hub."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ebbflow import hub
from ebbflow.errors import DataError

PARTS = {"train": "train", "validation": "held", "valid": "held", "val": "held", "dev": "held", "test": "test"}
NUMBERED = re.compile(r"(.*-)(\d+)-of-(\d+)(.*)")
PART = re.compile(rf"({'|'.join(PARTS)})(?![a-z])", re.IGNORECASE)


def is_parquet(source: str | Path) -> bool:
    """Whether a source names parquet: "hf:USER/NAME", a pattern such as "folder/*.parquet", a file, or a folder that
    has such files in it or one folder deeper."""
    name, path = str(source), Path(source).expanduser()
    if name.startswith(hub.HF) or name.endswith(".parquet"):
        return True
    return path.is_dir() and any(next(path.glob(one), None) for one in ("*.parquet", "*/*.parquet"))


@dataclass(frozen=True, kw_only=True)
class Files:
    """Files of a data set: those to train on, those that are held out, and what it is called."""

    train: tuple[Path, ...]
    held: tuple[Path, ...]
    name: str


def files_of(source: str) -> Files:
    """The files of a source; see `parquet_files`.

    Raises:
        DataError: there are none, or several data sets.
        ConfigError: the hub refuses, or does not answer.
        ImportError: huggingface-hub is missing.
    """
    if source.startswith(hub.HF) and not (local := Path(source.removeprefix(hub.HF)).expanduser()).exists():
        repo, inner, revision = _repository(source)
        names = _one_set(source, [n for n in hub.dataset_names(repo, revision) if n.endswith(".parquet")], inner)
        root, commit = hub.dataset_folder(repo, revision, names)
        return _in_parts(root, names, f"{repo}@{commit}")
    path = local if source.startswith(hub.HF) else Path(source).expanduser()
    if path.is_dir():
        found = [one.relative_to(path).as_posix() for one in path.rglob("*.parquet") if one.is_file()]
        return _in_parts(path, _one_set(source, found, ""), path.resolve().name)
    matched = [Path(one) for one in sorted(glob.glob(str(path)))]
    if not matched:
        raise DataError(f"there is no file {source}.")
    root = Path(os.path.commonpath([one.parent for one in matched]))
    return _in_parts(root, [one.relative_to(root).as_posix() for one in matched], root.resolve().name)


def _repository(source: str) -> tuple[str, str, str | None]:
    """USER/NAME, the folder in it or "", and the revision or None."""
    name, revision = hub.split_name(source)
    user, _, rest = name.partition("/")
    repo, _, inner = rest.partition("/")
    hub.check_name(f"{user}/{repo}")
    return f"{user}/{repo}", inner.strip("/"), revision


def _one_set(source: str, names: Sequence[str], inner: str) -> list[str]:
    """The names of the only data set, or of the one in the folder `inner`."""
    sets: dict[str, list[str]] = {}
    for name in sorted(names):
        folder = PurePosixPath(name).parent
        sets.setdefault(str(folder.parent if PART.fullmatch(folder.name) else folder), []).append(name)
    if inner and inner in sets:
        return _require_whole(sets[inner], source)
    known = ", ".join(sets)
    if not sets:
        other = (
            f" The hub makes some of other files: {source}@refs/convert/parquet." if source.startswith("hf:") else ""
        )
        raise DataError(f"{source} holds no parquet files.{other}")
    if inner or len(sets) > 1:
        plain, at, revision = source.partition("@")
        first = plain.removesuffix(f"/{inner}") if inner else plain
        raise DataError(
            f"{source} holds the data sets {known}. Name one, such as {first}/{next(iter(sets))}{at}{revision}."
        )
    return _require_whole(next(iter(sets.values())), source)


def _require_whole(names: Sequence[str], source: str) -> list[str]:
    """The names, where all of the files are there that others say there are: a name ends in -00001-of-00003."""
    told = [found for name in names if (found := NUMBERED.fullmatch(name))]
    there = {found[0] for found in told}
    for found in told:
        digits, total = len(found[2]), int(found[3])
        wanted = (f"{found[1]}{i:0{digits}}-of-{found[3]}{found[4]}" for i in range(min(total, len(told) + 1)))
        lost = next((name for name in wanted if name not in there), None)
        if lost is not None:
            raise DataError(f"{source}: {lost} is missing, and {found[0]} is there. Bring it back.")
    return list(names)


def _in_parts(root: Path, names: Sequence[str], called: str) -> Files:
    """Files by the part that their names, or those of their folders, begin with; all are for training where none says
    that it is."""
    parts: dict[str, list[Path]] = {}
    for name in names:
        path = PurePosixPath(name)
        found = PART.match(path.name) or PART.fullmatch(path.parent.name)
        parts.setdefault(PARTS[found[1].lower()] if found else "", []).append(root / name)
    if "train" not in parts:
        return Files(train=tuple(root / name for name in names), held=(), name=called)
    return Files(train=tuple(parts["train"]), held=tuple(parts.get("held", parts.get("test", ()))), name=called)
