"""Tar shards in the WebDataset format, with an index beside each, so that any picture of them can be read alone.

A sample is the members of one key, the part of their name before its first dot: a picture, and KEY.cls (the index of
its class), KEY.txt (its caption) or KEY.json ({"label", "text"}) where it has them.
"""

from __future__ import annotations

import glob
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from ebbflow.data.convert import Size
from ebbflow.data.dataset import Splits
from ebbflow.data.folder import FORMATS, Unreadable, read_from, refuse
from ebbflow.data.labels import class_indices
from ebbflow.data.listing import SUFFIXES, Listing, list_folder
from ebbflow.data.on_demand import FolderSource, PictureSource, splits_on_demand
from ebbflow.data.parquet import open_parquet
from ebbflow.data.parts import is_parquet
from ebbflow.documents import parsed, read_text, regular
from ebbflow.errors import DataError
from ebbflow.files import file_hash, whole_file, write_text
from ebbflow.progress import Stage, Work
from ebbflow.values import Wrong, convert

FORMAT = 1
SMALL = 1_000_000  # bytes of a member that is text
LARGEST_PICTURE = 1 << 31  # bytes
LARGEST_INDEX = 1 << 30  # bytes: some ten million samples
DIGITS = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, kw_only=True)
class Index:
    """What is where in a shard.

    Args:
        shard: its file name.
        bytes: its size.
        sha256: of its content.
        label_names: names of all classes of the data set; None where only their numbers are known.
        samples: name, offset and size of each picture, its label and caption or None.
        format: of this file.
    """

    shard: str
    bytes: int
    sha256: str
    label_names: list[str] | None
    samples: list[tuple[str, int, int, str | int | None, str | None]]
    format: int = FORMAT


@dataclass(frozen=True, kw_only=True, eq=False)
class ShardSource:
    """The pictures of shards, by 16 bytes each in memory.

    Args:
        shards: the files.
        hashes: their SHA-256.
        which, offsets, sizes: the shard of each picture, and where in it, int64 and int32 (N,).
        names: of the pictures.
    """

    shards: tuple[Path, ...]
    hashes: tuple[str, ...]
    which: np.ndarray[Any, np.dtype[np.int32]]
    offsets: np.ndarray[Any, np.dtype[np.int64]]
    sizes: np.ndarray[Any, np.dtype[np.int32]]
    names: tuple[str, ...]

    def open(self, i: int) -> BinaryIO:
        """The bytes of a picture.

        Raises:
            Wrong: the shard ends before it.
        """
        with self.shards[self.which[i]].open("rb") as file:
            file.seek(int(self.offsets[i]))
            found = file.read(int(self.sizes[i]))
        if len(found) < self.sizes[i]:
            raise Wrong("is cut short: its shard ends before it")
        return io.BytesIO(found)

    def place(self, i: int) -> Path:
        """The shard and the member."""
        return self.shards[self.which[i]] / self.names[i]

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def digest(self) -> str:
        """A hash of the shards'."""
        return hashlib.sha256(repr(self.hashes).encode()).hexdigest()


def is_shards(source: str | Path) -> bool:
    """Whether a source names tar shards: a pattern such as "shards/*.tar", or one file."""
    return str(source).endswith(".tar")


def tar_shards(
    pattern: str,
    *,
    size: Size | None = None,
    channels: int | None = None,
    skip_bad: bool = False,
    held_out: float | None = None,
) -> Splits:
    """The pictures of tar shards, read on demand, about a tenth of them held out by a hash of their names.

    An index is made of a shard that has none, and kept beside it where that can be written. Other arguments are those
    of `image_folder`.

    Raises:
        DataError: no such shard, one that is missing or not whole, or no picture in them.
    """
    shards = [Path(one) for one in sorted(glob.glob(str(Path(pattern).expanduser())))]
    if not shards:
        raise DataError(f"there is no shard {pattern}. Make some with `ebbflow pack FOLDER OUT`.")
    for kept in sorted(glob.glob(str(index_of(Path(pattern).expanduser())))):
        if not (whole := Path(kept.removesuffix(".index.json") + ".tar")).is_file():
            raise DataError(f"{whole} is missing, and its index is there. Bring it back, or remove {kept} too.")
    indices = [read_index(shard) for shard in shards]
    rows = [(which, *sample) for which, index in enumerate(indices) for sample in index.samples]
    if not rows:
        raise DataError(f"{pattern}: there are no pictures in {len(shards)} shards ({', '.join(SUFFIXES)}).")
    which, names, offsets, sizes, labels, captions = zip(*rows, strict=True)
    source = ShardSource(
        shards=tuple(shards),
        hashes=tuple(index.sha256 for index in indices),
        which=np.array(which, dtype=np.int32),
        offsets=np.array(offsets, dtype=np.int64),
        sizes=np.array(sizes, dtype=np.int32),
        names=names,
    )
    listing = _listing(pattern, names, labels, captions, indices[0].label_names)
    name = shards[0].resolve().parent.name
    return splits_on_demand(source, listing, name, size=size, channels=channels, skip_bad=skip_bad, held_out=held_out)


def _listing(
    pattern: str, names: Sequence[str], labels: Sequence[Any], captions: Sequence[Any], label_names: list[str] | None
) -> Listing:
    for what, values in (("label", labels), ("caption", captions)):
        alone = next((name for name, value in zip(names, values, strict=True) if value is None), None)
        if alone is not None and any(value is not None for value in values):
            raise DataError(f"{pattern}: {alone} has no {what}, but others do.")
    indices, found = (None, ()) if labels[0] is None else class_indices(labels, pattern)
    return Listing(
        names=tuple(names),
        labels=indices,
        label_names=tuple(label_names or found),
        captions=None if captions[0] is None else tuple(captions),
    )


def index_of(shard: Path) -> Path:
    """Where the index of a shard lies."""
    return shard.with_name(shard.name.removesuffix(".tar") + ".index.json")


def read_index(shard: Path) -> Index:
    """The index of a shard, made now where there is none.

    Raises:
        DataError: the shard is not what the index says, or no tar.
    """
    path = index_of(shard)
    try:
        regular(shard)
    except Wrong as wrong:
        raise DataError(f"{shard} {wrong}") from None
    if not path.is_file():
        made = _indexed(shard)
        with suppress(OSError):
            _write_index(made, path)
        return made
    try:
        index = _read(path)
    except (Wrong, OSError) as error:
        raise DataError(f"{path} is no index of a shard: {error}. Remove it to have it made again.") from error
    if index.bytes != shard.stat().st_size:
        raise DataError(
            f"{shard} has {shard.stat().st_size:,} bytes, and its index says {index.bytes:,}: it is not whole, or "
            f"another one. Copy it again, or remove {path.name}."
        )
    return index


def _read(path: Path) -> Index:
    """An index of anybody's. Samples are looked at one by one, for there may be millions."""
    found = parsed(read_text(path, LARGEST_INDEX), dict[str, Any])
    samples, names = found.get("samples"), found.get("label_names")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise Wrong("has no list of texts in `label_names`.")
    if not isinstance(samples, list) or not all(map(_is_sample, samples)):
        raise Wrong("has no `samples` of a name, an offset, a size, a label and a caption each.")
    index = convert(Index, {**found, "samples": []})
    last = max((offset + size for _, offset, size, *_ in samples), default=0)
    if last > index.bytes:
        raise Wrong(f"names a picture that ends at byte {last:,} of {index.bytes:,}.")
    return replace(index, samples=[tuple(one) for one in samples])


def _is_sample(found: Any) -> bool:
    match found:
        case [str(), int(offset), int(size), str() | int() | None, str() | None]:
            return offset >= 0 and 0 <= size < LARGEST_PICTURE
    return False


def _write_index(index: Index, path: Path) -> None:
    write_text(path, json.dumps(vars(index), separators=(",", ":")))


def _indexed(shard: Path, label_names: list[str] | None = None) -> Index:
    """The index of a shard, from its members."""
    samples = []
    try:
        with tarfile.open(shard, "r:") as tar:
            for name, image, label, caption in _samples(tar):
                sample = (name, image.offset_data, image.size, label, caption)
                if not _is_sample(sample):
                    raise Wrong(f"has a label or a caption of {name} that is none, or it is too large.")
                samples.append(sample)
    except (tarfile.TarError, OSError, ValueError, OverflowError, Wrong) as error:
        raise DataError(f"{shard} cannot be read as a tar file: {error}. Copy it again, or leave it out.") from error
    return Index(
        shard=shard.name,
        bytes=shard.stat().st_size,
        sha256=file_hash(shard),
        label_names=label_names,
        samples=samples,
    )


def _samples(tar: tarfile.TarFile) -> Iterator[tuple[str, tarfile.TarInfo, str | int | None, str | None]]:
    """Name, picture, label and caption of each sample, in their order."""
    groups: dict[str, dict[str, tarfile.TarInfo]] = {}
    for member in tar:
        if tar.offset <= member.offset:  # a size below 0 leads back, and round for ever
            raise Wrong(f"has a member {member.name} that ends before it begins.")
        path = PurePosixPath(member.name)
        stem, _, suffix = path.name.partition(".")
        if member.isfile() and stem:
            groups.setdefault(str(path.with_name(stem)), {})[f".{suffix.lower()}"] = member
    for parts in groups.values():
        image = next((member for suffix, member in parts.items() if suffix in SUFFIXES), None)
        if image is None:
            continue
        said = {suffix: _text(tar, parts[suffix]) for suffix in (".cls", ".txt", ".json") if suffix in parts}
        facts = parsed(said[".json"], dict[str, Any]) if ".json" in said else {}
        label = said[".cls"].strip() if ".cls" in said else facts.get("label")
        yield (
            image.name,
            image,
            int(label) if isinstance(label, str) and DIGITS.fullmatch(label) else label,
            said.get(".txt", facts.get("text")),
        )


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = tar.extractfile(member)
    if file is None or member.size > SMALL:
        raise Wrong(f"has a member {member.name} that is no text")
    return file.read().decode("utf-8", errors="replace")


@dataclass(frozen=True, kw_only=True)
class Packed:
    """What was packed: pictures, shards, bytes, and the pictures that were left out, with the reason."""

    num: int
    shards: list[str]
    bytes: int
    left_out: dict[str, str]


def pack(root: str | Path, out: Path, *, shard_mb: int = 256, skip_bad: bool = False) -> Work[Packed]:
    """Write a folder of pictures (see `image_folder`) as tar shards of about so many megabytes into another, each with
    its index; the pictures are copied byte by byte, each after it was read once. Of parquet (see `parquet_files`) that
    comes with a held-out part, the part to train on.

    Raises:
        DataError: `out` holds shards already, or a picture cannot be read.
    """
    source, listing = _to_pack(root)
    if any(out.glob("*.tar")):
        raise DataError(f"{out} holds shards already. Choose another folder, or remove them.")
    left_out: dict[str, str] = {}
    label_names, keys = list(listing.label_names) or None, _keys(listing.names)
    shards: list[str] = []
    total = i = 0
    while i < len(listing.names):
        path = out / f"shard-{len(shards):06d}.tar"
        with whole_file(path) as partial, tarfile.open(partial, "w") as tar:
            while i < len(listing.names) and (tar.offset == 0 or tar.offset < shard_mb * 1_000_000):
                reason = _add(tar, source, listing, i, keys[i], skip_bad)
                left_out |= {listing.names[i]: reason} if reason else {}
                i += 1
                yield Stage("pack", i, len(listing.names), note=path.name)
        _write_index(_indexed(path, label_names), index_of(path))
        shards.append(str(path))
        total += path.stat().st_size
    return Packed(num=len(listing.names) - len(left_out), shards=shards, bytes=total, left_out=left_out)


def _to_pack(root: str | Path) -> tuple[PictureSource, Listing]:
    """The pictures, and what is known of them."""
    if is_parquet(root):
        found = open_parquet(str(root), held_out=0.0)
        return found.source, found.listing
    listing = list_folder(Path(root))
    return FolderSource(root=Path(root), names=tuple(listing.names)), listing


def _keys(names: Sequence[str]) -> list[str]:
    """The key of each picture: its name without what follows its last dot. No two are the same: a.png and a.jpg, or
    a.b.png and a_b.png, would be one sample."""
    taken: dict[str, None] = {}
    for name in names:
        path = PurePosixPath(name)
        key = str(path.with_name(path.stem.replace(".", "_")))
        while key in taken:
            key += "_"
        taken[key] = None
    return list(taken)


def _add(tar: tarfile.TarFile, source: PictureSource, listing: Listing, i: int, key: str, skip_bad: bool) -> str:
    """Add a picture with what belongs to it; why it was left out, or ""."""
    found = read_from(lambda: source.open(i), source.place(i), None, None)
    if isinstance(found, Unreadable):
        refuse(found, skip_bad)
        return found.reason
    with source.open(i) as file:
        content = file.read()
    _put(tar, f"{key}{PurePosixPath(listing.names[i]).suffix or _suffix(content)}", content)
    if listing.labels is not None:
        _put(tar, f"{key}.cls", str(int(listing.labels[i])).encode())
    if listing.captions is not None:
        _put(tar, f"{key}.txt", listing.captions[i].encode(errors="replace"))
    return ""


def _suffix(content: bytes) -> str:
    """What the name of a picture ends in, from its bytes."""
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        return f".{str(image.format).lower()}"


def _put(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
