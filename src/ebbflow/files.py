"""Files: written whole or not at all, locked while a run is trained in their folder, tensors in and out."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import shutil
import stat
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebbflow.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from torch import Tensor

LOCK = ".lock"
DAY = 86_400.0  # seconds
HOST = re.sub(r"[^\w.-]", "", platform.node())[:60]
PARTIAL = re.compile(r"\.(\d+)-[0-9a-f]{8}(?:@([\w.-]*))?\.part\b")  # process and machine of its writer
_LIVING: set[str] = set()  # partials that this process is writing


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to that becomes `path` when all went well, and is gone when not.

    It lies in a folder that belongs to this writer alone, and it is on the disk before it takes the place of `path`:
    two writers leave one whole file, a power cut the old one or the new one. A file that is replaced keeps its rights,
    a new one has those of the umask. A link is followed: what it points to is replaced.

    Raises:
        OSError: what is there is no file, or the place cannot be written; it names `path`.
    """
    place = path.resolve() if path.is_symlink() else path
    require_file(place)
    with _called(path), _scratch(place) as scratch:
        partial = scratch / place.name
        yield partial
        _publish(partial, place)


def _publish(partial: Path, place: Path) -> None:
    partial.chmod(stat.S_IMODE(place.stat().st_mode) if place.exists() else partial.parent.stat().st_mode & 0o666)
    sync(partial)
    os.replace(partial, place)
    sync(place.parent)


@contextmanager
def continued_file(path: Path) -> Iterator[Path]:
    """As `whole_file`, for a file that two writers would write alike: it begins with what a dead one left of it, and
    what is there when something goes wrong stays for the next."""
    scratch = _partial(path)
    _LIVING.add(scratch.name)
    try:
        with _called(path):
            scratch.mkdir()
            partial = scratch / path.name
            _inherit(path, partial)
            yield partial
            _publish(partial, path)
    finally:
        _LIVING.discard(scratch.name)
        with suppress(OSError):
            scratch.rmdir()  # which has to be empty


def _inherit(path: Path, partial: Path) -> None:
    """Make the largest piece of `path` that a dead writer left `partial`. A link is no piece: it leads elsewhere."""
    for left in sorted(path.parent.glob(f"{escape(_stem(path))}*.part")):
        with suppress(OSError):
            piece = left / path.name
            if left.is_symlink() or not _is_dead(left):
                continue
            found, so_far = piece.lstat(), partial.stat().st_size if partial.exists() else 0
            if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_size > so_far:
                os.replace(piece, partial)
            shutil.rmtree(left)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that becomes `path`, in the place of what was there, when all went well; see `whole_file`."""
    if path.exists() and not path.is_dir():
        raise FileExistsError(errno.EEXIST, "is no folder, and would be replaced by one", str(path))
    with _scratch(path) as partial:
        yield partial
        for file in partial.iterdir():
            sync(file)
        sync(partial)
        if path.exists():
            shutil.rmtree(path)
        partial.rename(path)
        sync(path.parent)


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """A folder beside `path` of a name that tells its writer, gone afterwards; see `sweep`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = _partial(path)
    _LIVING.add(scratch.name)
    try:
        scratch.mkdir()
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        _LIVING.discard(scratch.name)


def _partial(path: Path) -> Path:
    return path.with_name(f"{_stem(path)}{os.getpid()}-{uuid.uuid4().hex[:8]}@{HOST}.part")


def _stem(path: Path) -> str:
    return f".{path.name[:60]}."


def remove_folder(path: Path) -> None:
    """Remove a folder; a death in the midst of it leaves nothing by its name, and what `sweep` takes."""
    gone = _partial(path)
    with suppress(OSError):
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


@contextmanager
def _called(path: Path) -> Iterator[None]:
    """Errors about a partial name `path`, which was asked for."""
    try:
        yield
    except OSError as error:
        if PARTIAL.search(str(error.filename)):
            error.filename, error.filename2 = str(path), None
        raise


def require_file(path: Path) -> None:
    """Raise an OSError where something that is no file, such as a folder or a device, has the place of `path`."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, and a file was to be written there", str(path))
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "is no file, and would be replaced by one", str(path))


def require_place(path: Path) -> None:
    """Find out whether `path` can be made before there is work to lose; what dead writers left beside it goes.

    Raises:
        OSError: it cannot; names `path`.
    """
    place = path.resolve()
    home = next((folder for folder in place.parents if folder.exists()), place)
    if home == place:
        raise IsADirectoryError(
            errno.EISDIR, "is where all files are, and cannot be written; name what is to be", str(path)
        )
    with _called(path):
        if not home.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{home} is a file, and no folder", str(path))
        with _scratch(home / place.name):
            pass
    if home == place.parent:
        sweep(home.glob(".*.part"))


def sweep(partials: Iterable[Path]) -> None:
    """Remove what writers that are dead left unfinished among `partials`; of another machine, what is a day old."""
    for partial in partials:
        with suppress(OSError):
            if _is_dead(partial):
                shutil.rmtree(partial) if partial.is_dir() else partial.unlink()


def _is_dead(partial: Path) -> bool:
    """Whether a name is that of a partial whose writer is gone."""
    found = PARTIAL.search(partial.name)
    return found is not None and not _lives(partial, int(found[1]), found[2])


def _lives(partial: Path, process: int, host: str | None) -> bool:
    if process == os.getpid() and host in (None, HOST):
        return partial.name in _LIVING
    if host not in (None, HOST) or sys.platform == "win32":  # where signal 0 would end the process
        return time.time() - partial.stat().st_mtime < DAY
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def sync(path: Path) -> None:
    """Have a file or a folder written through to the disk, where the system can."""
    with suppress(OSError):
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def file_hash(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write `path` whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")  # names of files may be no text


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file that never changes a second name where the file system can, else copy it."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


@contextmanager
def locked(folder: Path) -> Iterator[Callable[[], bool]]:
    """Hold `folder`, which is made where it is missing, against every other process that asks for it so; gives a
    question whether it still is that folder, which somebody may remove or replace.

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
        yield lambda: _is_at(file.fileno(), folder / LOCK)


def _is_at(number: int, path: Path) -> bool:
    """Whether an open file is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(number), path.stat())
    except OSError:
        return False


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
