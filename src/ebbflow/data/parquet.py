"""Parquet files of pictures, as the Hugging Face hub keeps data sets: read on demand, a row group at a time."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from ebbflow.data.convert import Size
from ebbflow.data.dataset import Splits
from ebbflow.data.labels import class_indices
from ebbflow.data.listing import Listing
from ebbflow.data.on_demand import splits_on_demand
from ebbflow.data.parts import files_of
from ebbflow.documents import parsed
from ebbflow.errors import DataError, missing
from ebbflow.memory import require
from ebbflow.values import Wrong

Counts = np.ndarray[Any, np.dtype[np.int64]]
NONE = "none"  # in the place of a column that is to be left out
KNOWN = {"image": ("image", "img"), "label": ("label", "fine_label"), "text": ("text", "caption")}
TAIL = 8  # bytes at the end of a file: the length of what it says of itself, and its mark
HOW = "Take another by the setting data.columns, such as data.columns.{0}=NAME."


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns of parquet files hold what; "" is the one with a usual name.

    Args:
        image: pictures, each the bytes of a file, or a struct with such `bytes`; else image or img, or the only one.
        label: classes, whole numbers or words; else label or fine_label; "none" leaves them out.
        text: captions; else text or caption; "none" leaves them out.
    """

    image: str = ""
    label: str = ""
    text: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class ParquetSource:
    """The pictures of parquet files, by some bytes a row group in memory.

    Args:
        files: the files.
        column: that holds the pictures, with the field of it.
        firsts: the first row of each file, and the number of all, int64 (F + 1,).
        starts: the first row of each row group, int64 (G,).
        groups: the file of each row group, and its number there, int64 (G, 2).
    """

    files: tuple[Path, ...]
    column: str
    firsts: Counts
    starts: Counts
    groups: Counts

    def open(self, i: int) -> BinaryIO:
        """The bytes of a picture, whose row group is read, where it was not the last one.

        Raises:
            Wrong: there are none.
        """
        at = int(np.searchsorted(self.starts, i, "right")) - 1
        file, number = self.groups[at].tolist()
        which = self.files[file]
        found = _group(which, number, self.column, _state(which))[i - int(self.starts[at])].as_py()
        content = found.get("bytes") if isinstance(found, dict) else found
        if not content:
            raise Wrong("is empty")
        return io.BytesIO(content)

    def place(self, i: int) -> Path:
        """The file and the row in it, counted from 0."""
        file = int(np.searchsorted(self.firsts, i, "right")) - 1
        return self.files[file] / str(i - int(self.firsts[file]))

    def __len__(self) -> int:
        return int(self.firsts[-1])

    @cached_property
    def digest(self) -> str:
        """A hash of names, sizes and what each file says of itself at its end: places and sizes of its parts."""
        return hashlib.sha256(repr([_foot(file) for file in self.files]).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows(Sequence[str]):
    """The names of the rows of files, made when they are asked for."""

    source: ParquetSource

    def __getitem__(self, i: Any) -> Any:
        place = self.source.place(i)
        return f"{place.parent.name}/{place.name}"

    def __len__(self) -> int:
        return len(self.source)


@lru_cache(maxsize=16)
def _opened(file: Path, state: tuple[int, ...]) -> Any:
    return _library().ParquetFile(file, page_checksum_verification=True)


@lru_cache(maxsize=1)
def _group(file: Path, number: int, column: str, state: tuple[int, ...]) -> Any:
    return _opened(file, state).read_row_group(number, columns=[column], use_threads=False).column(0)


def _state(file: Path) -> tuple[int, ...]:
    """What a file that is open is kept under: a fork opens its own, and one that was written anew is opened anew."""
    found = file.stat()
    return os.getpid(), found.st_ino, found.st_size, found.st_mtime_ns


def _foot(file: Path) -> tuple[str, int, str]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        stream.seek(-TAIL, os.SEEK_END)
        stream.seek(-TAIL - int.from_bytes(stream.read(4), "little"), os.SEEK_END)
        return file.name, size, hashlib.sha256(stream.read()).hexdigest()


def _library() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise missing("parquet", "pyarrow", "data") from error
    return pyarrow.parquet


# -- what is in them ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Parquet:
    """Parquet that was looked into.

    Args:
        source: its pictures.
        listing: their names, labels and captions.
        away: bool (N,), which of them come as held out; None where the files do not say.
        name: of the data set.
    """

    source: ParquetSource
    listing: Listing
    away: Tensor | None
    name: str


def open_parquet(source: str, columns: Columns = Columns(), *, held_out: float | None = None) -> Parquet:
    """What parquet holds: places, labels and captions of its pictures, none of which is read.

    Args:
        held_out: a share that is to be held out of the part to train on; None takes what the files hold out.

    Raises:
        DataError: no such files, no pictures in them, or files that differ from each other.
        ImportError: pyarrow is missing.
    """
    _library()
    found = files_of(source)
    files = found.train + (found.held if held_out is None else ())
    opened = [_read_foot(file) for file in files]
    schema = opened[0].schema_arrow
    taken = {what: _column(files[0], schema, columns, what) for what in KNOWN}
    for file, one in zip(files, opened, strict=True):
        _require_same(file, one.schema_arrow, files[0], schema, [name for name in taken.values() if name])
    image = str(taken["image"])
    path = f"{image}.bytes" if _is_struct(schema.field(image).type) else image
    _require_memory(files, opened)
    groups = [(i, g) for i, one in enumerate(opened) for g in range(one.metadata.num_row_groups)]
    sizes = [opened[i].metadata.row_group(g).num_rows for i, g in groups]
    firsts = np.cumsum([0, *(one.metadata.num_rows for one in opened)], dtype=np.int64)
    pictures = ParquetSource(
        files=files,
        column=path,
        firsts=firsts,
        starts=np.cumsum([0, *sizes], dtype=np.int64)[:-1],
        groups=np.array(groups, dtype=np.int64).reshape(-1, 2),
    )
    if not len(pictures):
        raise DataError(f"{source}: there are no rows in {len(files)} files.")
    away = None if held_out is not None or not found.held else torch.arange(len(pictures)) >= firsts[len(found.train)]
    labels, names = _labels(source, files, schema, taken["label"])
    listing = Listing(
        names=Rows(source=pictures), labels=labels, label_names=names, captions=_texts(files, taken["text"])
    )
    return Parquet(source=pictures, listing=listing, away=away, name=found.name)


def parquet_files(
    source: str,
    *,
    columns: Columns = Columns(),
    size: Size | None = None,
    channels: int | None = None,
    skip_bad: bool = False,
    held_out: float | None = None,
) -> Splits:
    """The pictures of parquet files, read on demand.

    Files whose names, or whose folders' names, begin with train, and validation, valid, val, dev or else test, are the
    two parts; without such names, or with `held_out`, a hash of file and row decides. Classes have the names that the
    Hugging Face schema gives them.

    Args:
        source: "hf:USER/NAME", with /FOLDER behind it of a repository of several data sets and @REVISION behind all;
            a folder, a file, or a pattern such as "folder/*.parquet".
        columns: which of them to take.

    Other arguments are those of `image_folder`.

    Raises:
        DataError: as `open_parquet`, or a picture that cannot be read.
        ConfigError: the hub refuses, or does not answer.
        ImportError: pyarrow or huggingface-hub is missing.

    Cost: a picture takes the reading of its row group; a batch reads each row group once.
    """
    found = open_parquet(source, columns, held_out=held_out)
    return splits_on_demand(
        found.source,
        found.listing,
        found.name,
        size=size,
        channels=channels,
        skip_bad=skip_bad,
        held_out=held_out,
        away=found.away,
    )


def _read_foot(file: Path) -> Any:
    try:
        return _opened(file, _state(file))
    except (ValueError, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise DataError(f"{file} cannot be read as parquet: {reason}. Copy it again, or leave it out.") from error


def _column(file: Path, schema: Any, columns: Columns, what: str) -> str | None:
    """The column that holds images, labels or texts; None where there is none, or it is not wanted."""
    said = getattr(columns, what)
    fits = [name for name in schema.names if _fits(schema.field(name).type, what)]
    if said == NONE and what != "image":
        return None
    if said:
        if said not in schema.names:
            raise DataError(f"{file} has no column {said!r} (data.columns.{what}). It has: {', '.join(schema.names)}.")
        if said not in fits:
            raise DataError(f"{file}: column {said!r} holds {schema.field(said).type}, which is no {what}.")
        return str(said)
    found = next((name for name in KNOWN[what] if name in fits), None)
    if what != "image" or found:
        return found
    structs = [name for name in fits if _is_struct(schema.field(name).type)] or fits
    if len(structs) != 1:
        raise DataError(
            f"{file}: which column holds pictures? It has: {', '.join(schema.names)}. {HOW.format('image')}"
        )
    return str(structs[0])


def _is_struct(kind: Any) -> bool:
    return bool(_types().is_struct(kind))


def _types() -> Any:
    import pyarrow

    return pyarrow.types


def _fits(kind: Any, what: str) -> bool:
    is_a = _types()
    kind = kind.value_type if is_a.is_dictionary(kind) else kind
    words = is_a.is_string(kind) or is_a.is_large_string(kind)
    if what == "image":
        inner = next((f.type for f in kind if f.name == "bytes"), None) if is_a.is_struct(kind) else kind
        return inner is not None and (is_a.is_binary(inner) or is_a.is_large_binary(inner))
    return bool(words or (what == "label" and is_a.is_integer(kind)))


def _require_same(file: Path, schema: Any, first: Path, wanted: Any, names: Sequence[str]) -> None:
    for name in names:
        got = schema.field(name).type if name in schema.names else "no such column"
        if got != wanted.field(name).type:
            raise DataError(
                f"{file}: column {name!r} is {got}, in {first} {wanted.field(name).type}. Give files of one data set."
            )


def _require_memory(files: Sequence[Path], opened: Sequence[Any]) -> None:
    for file, one in zip(files, opened, strict=True):
        sizes = [one.metadata.row_group(g).total_byte_size for g in range(one.metadata.num_row_groups)]
        cure = "Write it again in smaller ones (row_group_size=100 of pyarrow)."
        require(2 * max(sizes, default=0), f"a row group of {file}", cure, DataError)


def _labels(source: str, files: Sequence[Path], schema: Any, name: str | None) -> tuple[Tensor | None, tuple[str, ...]]:
    if name is None:
        return None, ()
    values, known = [value for file in files for value in _values(file, name, "label")], _names(schema, name)
    return (torch.tensor(values), known) if known and isinstance(values[0], int) else class_indices(values, source)


def _names(schema: Any, name: str) -> tuple[str, ...]:
    """The names of classes in the schema that Hugging Face's library writes; () where there are none."""
    try:
        told = parsed((schema.metadata or {}).get(b"huggingface", b"{}"), dict[str, Any])
        feature = told.get("info", {}).get("features", {}).get(name, {})
        return tuple(map(str, feature["names"])) if feature.get("_type") == "ClassLabel" else ()
    except (Wrong, AttributeError, KeyError, TypeError):
        return ()


def _texts(files: Sequence[Path], name: str | None) -> tuple[str, ...] | None:
    return None if name is None else tuple(value for file in files for value in _values(file, name, "text"))


def _values(file: Path, name: str, what: str) -> list[Any]:
    """A whole column of a file."""
    try:
        found = _opened(file, _state(file)).read(columns=[name], use_threads=False).column(0)
    except (ValueError, OSError) as error:
        raise DataError(
            f"{file}: column {name!r} cannot be read: {str(error).splitlines()[0]}. Copy it again."
        ) from error
    values: list[Any] = found.to_pylist()
    if found.null_count:
        raise DataError(f"{file}: row {values.index(None)} has no {what} in column {name!r}. {HOW.format(what)}")
    return values
