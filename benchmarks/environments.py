"""Environments of the peers: a folder each outside the tree, which sees this PyTorch and this ebbflow through a .pth
file, so that neither is installed again."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

from benchmarks.peers import OURS, PEERS, VARIANTS

ROOT = Path(__file__).resolve().parent.parent
DEFAULT = Path("~/.cache/ebbflow-bench").expanduser()


class EnvironmentFailed(RuntimeError):
    """An environment that could not be made; the message is the last line of what pip said."""


def python_of(name: str, cache: Path) -> Path:
    """The interpreter of a contestant, whose environment is made where it is missing.

    Raises:
        EnvironmentFailed: it could not be made.
    """
    name = VARIANTS.get(name, name)
    if name in OURS:
        return Path(sys.executable)
    folder, wanted = cache / name, _wanted(name)
    python, stamp = folder / "bin" / "python", folder / "made.txt"
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    _run([sys.executable, "-m", "venv", "--clear", str(folder)])
    _link(folder)
    peer = PEERS[name]
    held = cache / "torch.txt"
    held.write_text(f"torch=={version('torch')}\n")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if peer.needs:
        _run([*pip, "--constraint", str(held), *peer.needs])
    _run([*pip, "--no-deps", peer.requirement])
    stamp.write_text(wanted)
    return python


def _wanted(name: str) -> str:
    """What an environment is made of: where this changes it is made anew."""
    peer = PEERS[name]
    return "\n".join([sys.version, version("torch"), peer.requirement, *peer.needs])


def _link(folder: Path) -> None:
    """Have an environment see the packages of this one, after its own."""
    site = next((folder / "lib").glob("python*/site-packages"))
    (site / "benchmark.pth").write_text(sysconfig.get_path("purelib") + "\n")


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise EnvironmentFailed(next((line for line in reversed(said) if "ERROR" in line), said[-1] if said else "?"))


def environment(threads: int, data_dir: Path | None = None) -> dict[str, str]:
    """The variables of a child: its threads, this tree before anything installed, and no way to anything remote."""
    found = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    found |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore", "PYTHONUNBUFFERED": "1"}
    return found if data_dir is None else {**found, "EBBFLOW_DATA": str(data_dir)}
