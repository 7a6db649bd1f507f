"""Which images a folder holds, and their labels and captions; no image is opened here."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ebbflow.data.labels import class_indices
from ebbflow.documents import parsed, read_lines
from ebbflow.errors import DataError
from ebbflow.values import Wrong

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
METADATA = "metadata.jsonl"


@dataclass(frozen=True, kw_only=True, eq=False)
class Listing:
    """The images of a folder.

    Args:
        names: file names relative to the folder with "/" between their parts, at least one.
        labels: int64 (N,), or None.
        label_names: one name per class; empty when there are no labels.
        captions: one text per image, or None.
    """

    names: Sequence[str]
    labels: Tensor | None = None
    label_names: tuple[str, ...] = ()
    captions: tuple[str, ...] | None = None


def list_folder(root: Path) -> Listing:
    """The images that `root`/metadata.jsonl names, else those in `root`, else those in its sub-folders, one per class.

    Hidden files and folders are left out, and so is what the metadata does not name.

    Raises:
        DataError: no folder, no images, images both in `root` and below it or two or more folders deep, or wrong
            metadata.
    """
    if not root.is_dir():
        raise DataError(f"there is no folder {root}.")
    metadata = root / METADATA
    return _from_metadata(metadata) if metadata.is_file() else _from_tree(root)


def list_pairs(root: Path) -> tuple[str, ...] | None:
    """The names that the pictures of `root`/a and `root`/b share; None where those are not all that `root` holds, or
    do not pair off one to one."""
    if (root / METADATA).is_file() or {path.name for path in root.iterdir() if path.is_dir()} != {"a", "b"}:
        return None
    conditions, data = (sorted(_image_names(root / side)) for side in "ab")
    return tuple(data) if data and conditions == data else None


def some_of(listing: Listing, num: int | None) -> Listing:
    """At most `num` of the images, spread over all; the classes stay the same."""
    if num is None or len(listing.names) <= num:
        return listing
    rows = [i * len(listing.names) // num for i in range(num)]
    return replace(
        listing,
        names=tuple(listing.names[i] for i in rows),
        labels=None if listing.labels is None else listing.labels[rows],
        captions=None if listing.captions is None else tuple(listing.captions[i] for i in rows),
    )


def _from_tree(root: Path) -> Listing:
    names = sorted(_image_names(root))
    deep = next((name for name in names if name.count("/") > 1), None)
    if deep:
        raise DataError(
            f"{root}: {deep} lies deeper than one folder per class; "
            f"pass the folder that holds the class folders, as {root / deep.split('/')[0]}."
        )
    if not names:
        raise DataError(f"{root} holds no images ({', '.join(suffix[1:] for suffix in SUFFIXES)}).")
    flat = [name for name in names if "/" not in name]
    if not flat:
        labels, label_names = class_indices([name.split("/")[0] for name in names], str(root))
        return Listing(names=tuple(names), labels=labels, label_names=label_names)
    if len(flat) < len(names):
        nested = next(name for name in names if "/" in name)
        raise DataError(
            f"{root} holds images both directly ({flat[0]}) and in sub-folders ({nested}): "
            "put all of them into one folder per class, or none."
        )
    return Listing(names=tuple(names))


def _image_names(root: Path) -> list[str]:
    """Image files up to two folders deep, relative to `root`; symbolic links are followed."""
    paths = [path for pattern in ("*", "*/*", "*/*/*") for path in root.glob(pattern)]
    relative = [path.relative_to(root) for path in paths if path.suffix.lower() in SUFFIXES and path.is_file()]
    return [name.as_posix() for name in relative if not any(part.startswith(".") for part in name.parts)]


def _from_metadata(metadata: Path) -> Listing:
    rows = _rows(metadata)
    names = _column(metadata, rows, "file_name", str)
    if names is None:
        raise DataError(f"{metadata}: no line has a 'file_name'.")
    captions = _column(metadata, rows, "text", str)
    labels = _column(metadata, rows, "label", str, int)
    indices, label_names = (None, ()) if labels is None else class_indices(labels, str(metadata))
    return Listing(
        names=tuple(names),
        labels=indices,
        label_names=label_names,
        captions=None if captions is None else tuple(captions),
    )


def _rows(metadata: Path) -> dict[int, dict[str, Any]]:
    """The object on each line that is not blank, by line number."""
    rows = {}
    try:
        for number, line in enumerate(read_lines(metadata), 1):
            if (text := line.removeprefix(BOM_UTF8) if number == 1 else line).strip():
                rows[number] = _row(metadata, number, text)
    except Wrong as wrong:
        raise DataError(f"{metadata} {wrong}") from None
    if not rows:
        raise DataError(f"{metadata} names no images.")
    return rows


def _row(metadata: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row: dict[str, Any] = parsed(line, dict[str, Any])
    except Wrong as wrong:
        raise DataError(f"{metadata}: line {number} {wrong}") from None
    if not Path(str(row.get("file_name", "-"))).name:
        raise DataError(f"{metadata}: line {number} names no picture, but {row['file_name']!r}.")
    if _leaves(str(row.get("file_name", ""))):
        raise DataError(
            f"{metadata}: line {number} names {row['file_name']!r}, which lies outside of the folder. Move the picture "
            "into it."
        )
    return row


def _leaves(name: str) -> bool:
    """Whether a file's name leads out of the folder that it is relative to."""
    return Path(name).is_absolute() or ".." in Path(name).parts


def _column(metadata: Path, rows: Mapping[int, dict[str, Any]], key: str, *kinds: type) -> list[Any] | None:
    """The values under `key`, all of one of these kinds, or None when no row has the key."""
    if not any(key in row for row in rows.values()):
        return None
    for number, row in rows.items():
        if key not in row:
            raise DataError(f"{metadata}: line {number} has no {key!r}, but other lines do.")
        if not isinstance(row[key], kinds):
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise DataError(f"{metadata}: line {number}: {key!r} must be {wanted}, got {row[key]!r}.")
    return [row[key] for row in rows.values()]
