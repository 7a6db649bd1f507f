"""Files: written whole or not at all, locked while a run is trained in their folder, tensors in and out."""

from __future__ import annotations

import os
import re
import shutil
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebbflow.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from torch import Tensor

LOCK = ".lock"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to that becomes `path` when all went well, and is gone when not.

    Its name belongs to this writer alone, and it is on the disk before it takes the place of `path`: two writers leave
    one whole file, a power cut the old one or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.part")
    try:
        yield partial
        sync(partial)
        os.replace(partial, path)
        sync(path.parent)
    except OSError as error:
        if str(error.filename) == str(partial):
            error.filename = str(path)  # what was asked for
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that becomes `path`, in the place of what was there, when all went well; see `whole_file`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.part")
    partial.mkdir()
    try:
        yield partial
        for file in partial.iterdir():
            sync(file)
        sync(partial)
        if path.exists():
            shutil.rmtree(path)
        partial.rename(path)
        sync(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sync(path: Path) -> None:
    """Have a file or a folder written through to the disk, where the system can."""
    with suppress(OSError):
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def write_text(path: Path, text: str) -> None:
    """Write `path` whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file that never changes a second name where the file system can, else copy it."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder`, which is made where it is missing, against every other process that asks for it so.

    The lock goes with the process, however it ends; the file that it lies on stays.

    Raises:
        ConfigError: another process holds it; names the process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+") as file:
        if not _lock(file.fileno()):
            file.seek(0)
            holder = file.read().strip()
            raise ConfigError(
                f"{folder} is being trained by another process{f' ({holder})' if holder else ''}. Wait for it, stop "
                "it, or choose another folder."
            )
        file.truncate(0)
        file.write(f"process {os.getpid()}\n")
        file.flush()
        yield


def _lock(number: int) -> bool:
    """Take the lock on an open file without waiting; False where another process has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(number, 1 << 30, os.SEEK_SET)  # far behind what is read and written
            msvcrt.locking(number, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as one safetensors file, whole or not at all; tied tensors are written once a name.

    Raises:
        OSError: the disk is full, or refuses for another reason.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    seen: set[tuple[int, Any]] = set()
    plain = {}
    for name, value in tensors.items():
        value = value.detach().cpu().contiguous()
        place = (value.untyped_storage().data_ptr(), value.storage_offset())
        plain[name] = value.clone() if place in seen or value.untyped_storage().nbytes() > value.nbytes else value
        seen.add(place)
    with whole_file(path) as partial:
        try:
            save_file(plain, partial, metadata=dict(metadata) if metadata else None)
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        CheckpointError: missing, or not safetensors.
    """
    return load_described(path)[0]


def remember(tensors: dict[str, Tensor], path: Path, key: str) -> None:
    """Keep what can be made again, under a hash of all that it depends on."""
    save_tensors(tensors, path, {"of": key})


def remembered(path: Path, key: str) -> dict[str, Tensor] | None:
    """What `remember` kept; None where the file is absent, damaged or of another key."""
    try:
        tensors, facts = load_described(path)
    except CheckpointError:
        return None
    return tensors if facts.get("of") == key else None


def load_described(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file and its metadata.

    Raises:
        CheckpointError: missing, or not safetensors.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing.") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}.") from error
