"""Fetch a file once: several mirrors in turn, a checksum, and a partial file that a later attempt continues."""

from __future__ import annotations

import hashlib
import os
import sys
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

from ebbflow.errors import DataError
from ebbflow.files import continued_file

if sys.platform != "win32":
    import fcntl

LARGEST = 1 << 30  # bytes of a download; the largest that is named here has 170 million
TIMEOUT = 30.0  # seconds without a byte before a mirror is given up
BLOCK = 1 << 18  # bytes read at a time


def data_home(data_dir: str | Path | None = None) -> Path:
    """The folder that holds data sets: `data_dir`, else the environment's EBBFLOW_DATA, else ~/.cache/ebbflow/data."""
    return Path(data_dir or os.environ.get("EBBFLOW_DATA") or "~/.cache/ebbflow/data").expanduser()


def locate(folder: Path, name: str, mirrors: Sequence[str], checksum: str) -> Path:
    """`folder/name` or, for a .gz, its unpacked twin, whichever exists; else download it from `mirrors`.

    Args:
        folder: where the file lies or will lie.
        name: file name, the last part of every URL.
        mirrors: addresses of folders, each ending in "/", tried in this order.
        checksum: "md5:..." or "sha256:..." of the download; what is already there is not checked here.

    Raises:
        DataError: no mirror could deliver the file.
    """
    candidates = [folder / name, folder / name.removesuffix(".gz")]
    present = next((path for path in candidates if path.is_file()), None)
    return present or fetch(folder / name, [mirror + name for mirror in mirrors], checksum)


def tell_of_others(paths: Sequence[Path]) -> None:
    """Warn that these hold something else than is published under their names. They are used all the same: sets that
    are made to take the place of MNIST come under its names."""
    if paths:
        warnings.warn(
            f"used as it is, though not what is published under this name: {', '.join(map(str, paths))}. If it is not "
            "your own, delete it, and it is downloaded again.",
            stacklevel=4,
        )


def is_published(path: Path, checksum: str) -> bool:
    """Whether a file has this checksum, "md5:..." or "sha256:..."."""
    return _digest(path, checksum) == checksum


def fetch(target: Path, urls: Sequence[str], checksum: str) -> Path:
    """Download `target` from the first of `urls` that delivers the bytes with this checksum.

    What has arrived is continued by the next mirror or the next call. The file appears under its own name only when it
    is complete. Processes of one machine wait for each other.

    Args:
        target: where the file shall lie; its folder is made.
        urls: complete addresses, tried in this order.
        checksum: "md5:..." or "sha256:...", in hexadecimal.

    Returns:
        `target`.

    Raises:
        DataError: every mirror failed, with each reason, or the folder cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target.parent):
            if not target.is_file():
                _from_any(target, urls, checksum)
    except OSError as error:
        raise DataError(f"cannot write {target}: {_reason(error)}. {_cure(target)}") from error
    return target


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time download into `folder`, so that the ranks of one job share a single download."""
    with open(folder / ".lock", "a") as file:  # which empties nothing, should somebody have put a link there
        if sys.platform != "win32":
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _from_any(target: Path, urls: Sequence[str], checksum: str) -> None:
    reasons = []
    with continued_file(target) as part:
        for url in urls:
            try:
                return _from_one(url, part, checksum)
            except (OSError, HTTPException, ValueError) as error:
                reasons.append(f"\n  {url}: {_reason(error)}")
        raise DataError(f"cannot download {target.name}:{''.join(reasons)}\n{_cure(target)}")


def _cure(target: Path) -> str:
    return (
        f"Put the file at {target}, or give as `data_dir` (or in EBBFLOW_DATA) a folder that has "
        f"{target.parent.name}/{target.name}."
    )


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return str(error) or type(error).__name__


def _from_one(url: str, part: Path, checksum: str) -> None:
    """Complete `part` from `url`; if the old piece turns out to be wrong, once more from the start."""
    resumed = part.is_file() and part.stat().st_size > 0
    if resumed and _digest(part, checksum) == checksum:
        return
    _receive(url, part)
    got = _digest(part, checksum)
    if got == checksum:
        return
    part.unlink()
    if not resumed:
        raise ValueError(f"wrong checksum, expected {checksum}, got {got}")
    _from_one(url, part, checksum)


def _digest(path: Path, like: str) -> str:
    """The checksum of a file by the algorithm that `like` names."""
    algorithm = like.partition(":")[0]
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False))
    return f"{algorithm}:{digest.hexdigest()}"


def _receive(url: str, part: Path) -> None:
    """Append to `part` what `url` has beyond it, or write it anew where the server knows no ranges."""
    start = part.stat().st_size if part.is_file() else 0
    try:
        response = _open(url, start)
    except urllib.error.HTTPError as error:
        if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
            raise
        response = _open(url, 0)  # nothing lies beyond the old piece, so it is no piece of this file
    with response:
        _copy(response, part, start if response.status == HTTPStatus.PARTIAL_CONTENT else 0)


def _open(url: str, start: int) -> HTTPResponse:
    headers = {"User-Agent": "ebbflow"} | ({"Range": f"bytes={start}-"} if start else {})
    response: HTTPResponse = _OPENER.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    return response


class _Web(urllib.request.HTTPRedirectHandler):
    """Follows no address that leaves the web, such as ftp: or file:, nor from an encrypted one to a plain one."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        allowed = ("https:",) if req.full_url.startswith("https:") else ("http:", "https:")
        if not newurl.lower().startswith(allowed):
            raise ValueError(f"it leads to {newurl}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_Web)


def _copy(response: HTTPResponse, part: Path, start: int) -> None:
    """Write the body behind the first `start` bytes of `part`, with a progress bar.

    Raises:
        ConnectionError: the body ended early; what came is kept.
    """
    from tqdm import tqdm

    length = response.headers.get("Content-Length")
    total = None if length is None else start + int(length)
    if total is not None and total > LARGEST:
        raise ValueError(f"it has {total:,} bytes, and at most {LARGEST:,} are taken")
    pause = 0.1 if sys.stderr.isatty() else 10.0  # a log file gets few lines
    with (
        open(part, "ab" if start else "wb") as file,
        tqdm(total=total, initial=start, desc=part.name, unit="B", unit_scale=True, mininterval=pause) as bar,
    ):
        while block := response.read(BLOCK):
            if file.tell() + len(block) > LARGEST:
                raise ValueError(f"it has more than {LARGEST:,} bytes")
            file.write(block)
            bar.update(len(block))
        have = file.tell()
    if total is not None and have != total:
        raise ConnectionError(f"the connection closed after {have} of {total} bytes")
