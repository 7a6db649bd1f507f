"""The hub of models: whether it can be reached, so that a name is not asked for in vain for half a minute; runs that
lie there, and how they get there."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from ebbflow.documents import read_json
from ebbflow.errors import ConfigError, missing
from ebbflow.files import file_hash
from ebbflow.values import Wrong

SECONDS = 3.0  # that a look may take
HF = "hf:"
WANTED = ("*.json", "*.safetensors", "README.md")  # of a run; nothing that would have to be unpickled or run


def must_be_local(source: str | Path) -> bool:
    """Whether a model can only come from this machine, its folder or what was downloaded before: it is a folder, the
    network is switched off by HF_HUB_OFFLINE, or the hub does not answer."""
    said = os.environ.get("HF_HUB_OFFLINE", "").lower()
    return Path(source).expanduser().is_dir() or said in ("1", "on", "yes", "true") or not is_reachable()


@cache
def is_reachable() -> bool:
    """Whether the hub (HF_ENDPOINT, or huggingface.co) takes a connection; behind a proxy that is the proxy's to say.
    Asked once a process, for 3 s at most."""
    if getproxies():
        return True
    place = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    try:
        with socket.create_connection((place.hostname or "", place.port or 443), SECONDS):
            return True
    except OSError:
        return False


def unreachable(source: str | Path) -> str:
    """What to say of a name that was not found: that the hub does not answer; "" where it was asked."""
    if Path(source).expanduser().is_dir() or not must_be_local(source):
        return ""
    return "the hub cannot be reached, and this machine holds no copy of it. Give a folder, or connect and try again."


def split_name(source: str) -> tuple[str, str | None]:
    """The name, or folder, and the revision of "hf:NAME@REVISION", with "hf:" or without."""
    name, at, revision = source.removeprefix(HF).rpartition("@")
    if not at or Path(source.removeprefix(HF)).expanduser().is_dir():
        return source.removeprefix(HF), None
    return name, revision


def check_name(repo: str) -> None:
    """Raise a ConfigError unless `repo` is USER/NAME."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise ConfigError(f"a repository of the hub is called USER/NAME, got {repo!r}.")


def run_behind(source: str) -> Path | None:
    """The folder of the run that ebbflow exported to "hf:NAME@REVISION", downloaded where it is not here yet, or the
    local folder that the name is; None where there is no run of ebbflow.

    Raises:
        ConfigError: the hub refuses.
        ImportError: huggingface-hub is missing.
    """
    name, revision = split_name(source)
    folder = Path(name).expanduser()
    if folder.is_dir() and name not in ("", "."):
        return folder if (folder / "checkpoints").is_dir() or _is_ours(folder / "config.json") else None
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        return None
    found: dict[str, Any] = {"revision": revision, "local_files_only": must_be_local(name)}
    hub = _library()
    with _explained(name):
        try:
            if not _is_ours(Path(hub.hf_hub_download(name, "config.json", **found))):
                return None
        except hub.errors.EntryNotFoundError:  # also where it is not among what was downloaded
            return None
        return Path(hub.snapshot_download(name, allow_patterns=list(WANTED), **found))


def _is_ours(file: Path) -> bool:
    try:
        return "exported" in read_json(file, dict[str, Any])
    except (OSError, Wrong):
        return False


def send(folder: Path, repo: str, *, private: bool, message: str, revision: str | None) -> tuple[str, str]:
    """Commit a folder to a repository, which is made where it is missing; the address of its page and the revision.

    Raises:
        ConfigError: the hub refuses or does not answer.
        ImportError: huggingface-hub is missing.
    """
    hub = _library()
    with _explained(repo):
        api = hub.HfApi()
        api.create_repo(repo, private=private or None, exist_ok=True)
        done = api.upload_folder(folder_path=folder, repo_id=repo, commit_message=message, revision=revision)
    return f"{os.environ.get('HF_ENDPOINT') or 'https://huggingface.co'}/{repo}", str(done.oid)


def dataset_names(repo: str, revision: str | None) -> list[str]:
    """The files of a data set's repository, or of what was downloaded of it where the hub cannot be asked.

    Raises:
        ConfigError: the hub refuses, or does not answer and nothing is here.
        ImportError: huggingface-hub is missing.
    """
    hub = _library()
    with _explained(repo):
        if not must_be_local(repo):
            return list(hub.HfApi().list_repo_files(repo, repo_type="dataset", revision=revision))
        folder = Path(hub.snapshot_download(repo, repo_type="dataset", revision=revision, local_files_only=True))
        return [one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.is_file()]


def dataset_folder(repo: str, revision: str | None, names: Sequence[str]) -> tuple[Path, str]:
    """The folder that holds files of a data set's repository, downloaded where they are not here yet and compared with
    their SHA-256, and the revision that they are of.

    Raises:
        ConfigError: the hub refuses, or a file did not arrive as it is there.
        ImportError: huggingface-hub is missing.
    """
    hub, began = _library(), time.time()
    with _explained(repo):
        folder = Path(
            hub.snapshot_download(
                repo,
                repo_type="dataset",
                revision=revision,
                allow_patterns=list(names),
                local_files_only=must_be_local(repo),
            )
        )
    for name in names:
        kept = (folder / name).resolve()  # what is large is kept under its hash
        fresh = re.fullmatch("[0-9a-f]{64}", kept.name) and kept.stat().st_mtime >= began
        if fresh and file_hash(kept) != kept.name:
            kept.unlink()
            raise ConfigError(f"{HF}{repo}: {name} arrived damaged, and was removed. Run the command again.")
    return folder, folder.name


def _library() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise missing("the hub", "huggingface-hub", "hub") from error
    return huggingface_hub


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Errors of the hub and of the network as one sentence, which never holds a token."""
    try:
        yield
    except (OSError, ValueError, getattr(_library().errors, "HTTPError", OSError)) as error:
        line = next((one.strip() for one in str(error).splitlines() if one.strip()), type(error).__name__)
        raise ConfigError(
            f"{HF}{name}: {unreachable(name) or re.sub('hf_[A-Za-z0-9]+', 'hf_...', line)} "
            "Log in with `hf auth login`, or set HF_TOKEN, where the repository is not public or not yours."
        ) from None
