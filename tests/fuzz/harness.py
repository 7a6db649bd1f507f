"""What a case is, how it is tried, and what has to hold of what came out."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
FORMAT1 = HERE.parent / "data" / "format1"
MOST_MB = 2000  # of memory
TRAINING = ("train", "distill", "train-classifier", "train-autoencoder")
EXPECTED = {0, 2, 130}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A command, or a data set to be read, in a folder with runs and pictures of which some files may be damaged.

    Args:
        argv: of a command.
        load: the data set in its place.
        options: of the data set.
        files: contents by path, of files that are written or replaced before.
    """

    argv: tuple[str, ...] = ()
    load: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)

    def __str__(self) -> str:
        changed = f"   with {', '.join(self.files)}" if self.files else ""
        return (f"load {self.load} {self.options}" if self.load else shlex.join(self.argv))[:400] + changed


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a case: exit code, seconds of work, memory, what it printed, files it lost or should not have
    written."""

    code: int
    cpu: float
    rss_mb: float
    out: str
    err: str
    lost: tuple[str, ...] = ()
    unasked: tuple[str, ...] = ()

    @property
    def problem(self) -> str:
        """What is wrong with it; "" for nothing."""
        if "Traceback (most recent call last)" in self.err:
            return "traceback: " + self.err.strip().splitlines()[-1]
        if self.code < 0:
            return f"killed by signal {-self.code}: took too long, or died"
        if self.code not in EXPECTED:
            return f"exit code {self.code}: {self.err.strip()[-300:]}"
        if self.rss_mb > MOST_MB:
            return f"took {self.rss_mb:.0f} MB"
        if self.lost:
            return f"lost or changed {', '.join(self.lost)}"
        said = [line for line in self.err.splitlines() if line.startswith("ebbflow: ")]
        if self.code == 2 and len(said) != 1:
            return f"{len(said)} sentences: {self.err.strip()[-300:]}"
        if self.code == 2 and self.unasked:
            return f"refused, and wrote {', '.join(self.unasked)}"
        if self.code == 2 and (found := re.search(r"\b[A-Z]\w+(Error|Exception)\b", said[0])):
            return f"speaks of a {found[0]}: {said[0][:300]}"
        return ""


class Server:
    """Tries cases one after the other."""

    def __init__(self, place: Path) -> None:
        self.place, self.template = place, place / "template"
        furnish(self.template)
        self.known = contents(self.template)
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "HOME": str(place / "home"),
            "EBBFLOW_CACHE": str(place / "cache"),
            "EBBFLOW_DATA": str(place / "data"),
            "MPLCONFIGDIR": str(place / "mpl"),
            "NO_COLOR": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        self._answer()
        self.outside = sorted(p.name for p in place.iterdir())

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the server is gone"
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()

    def tried(self, case: Case) -> Outcome:
        """What becomes of a case, in a fresh copy of the furnished folder."""
        cwd = self.place / "case"
        shutil.rmtree(cwd, ignore_errors=True)
        shutil.copytree(self.template, cwd, symlinks=True)
        os.mkfifo(cwd / "pipe")
        for name, content in case.files.items():
            (cwd / name).parent.mkdir(parents=True, exist_ok=True)
            (cwd / name).write_bytes(content)
        before = contents(cwd)
        asked = {"cwd": str(cwd), "argv": case.argv}
        asked |= {"load": case.load, "options": case.options} if case.load else {}
        assert self.process.stdin is not None
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        found = self._answer()
        after = contents(cwd)
        named = " ".join(case.argv)
        trains = bool(case.argv) and case.argv[0] in TRAINING
        lost = [n for n, what in before.items() if after.get(n) != what and not (trains or Path(n).name in named)]
        new = [n for n in after if n not in before and n.count("/") == 0]
        outside = [
            n
            for n in sorted(p.name for p in self.place.iterdir())
            if n not in (*self.outside, "case", "cache", "home", "mpl")
        ]
        unasked = [] if trains else [n for n in new if not n.startswith(".")]
        return Outcome(**found, lost=tuple(lost), unasked=(*unasked, *outside))


def contents(folder: Path) -> dict[str, str]:
    """A hash of each file, by its path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def furnish(place: Path) -> None:
    """Runs of each kind, pictures, points, noise and a configuration."""
    for name in ("model", "classifier", "autoencoder"):
        shutil.copytree(FORMAT1 / name, place / name)
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 3
    (place / "pictures").mkdir()
    for i in range(4):
        Image.fromarray(grey + i).save(place / "pictures" / f"{i}.png")
    Image.fromarray(grey).save(place / "picture.png")
    Image.fromarray((grey > 90).astype(np.uint8) * 255).save(place / "mask.png")
    np.savez(place / "images.npz", arr_0=np.stack([grey] * 12), arr_1=np.arange(12) % 3)
    np.savez(place / "points.npz", x=np.random.RandomState(0).normal(size=(30, 2)).astype(np.float32))
    np.savez(
        place / "noise.npz",
        noise=np.zeros((1, 1, 8, 8), np.float32),
        sampler="heun",
        grid='"uniform"',
        num_steps=2,
        guidance=1.0,
    )
    (place / "config.toml").write_text("[train]\nnum_steps = 1\nbatch_size = 2\n[net]\nchannels = [8]\n")
    (place / "request.toml").write_text("seed = 3\n")


@dataclass
class Tally:
    """How many cases were tried, what they ended in, and which went wrong."""

    codes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    cpu: float = 0.0
    most_cpu: float = 0.0
    most_mb: float = 0.0

    def add(self, case: Case, found: Outcome) -> None:
        """Count one."""
        self.codes[str(found.code)] += 1
        self.cpu, self.most_cpu = self.cpu + found.cpu, max(self.most_cpu, found.cpu)
        self.most_mb = max(self.most_mb, found.rss_mb)
        if found.problem:
            self.wrong.append(f"{found.problem}\n    {case}")

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            codes=self.codes + other.codes,
            wrong=self.wrong + other.wrong,
            cpu=self.cpu + other.cpu,
            most_cpu=max(self.most_cpu, other.most_cpu),
            most_mb=max(self.most_mb, other.most_mb),
        )

    def __str__(self) -> str:
        return (
            f"{self.codes.total()} cases, exit codes {dict(sorted(self.codes.items()))}, {len(self.wrong)} wrong, "
            f"{self.cpu:.0f} s of CPU, at most {self.most_cpu:.1f} s and {self.most_mb:.0f} MB"
        )


class Log:
    """Counts of rounds in a file, a line each; of no file, nothing is kept."""

    def __init__(self, path: str | None) -> None:
        self.path = Path(path) if path else None
        lines = self.path.read_text().splitlines() if self.path and self.path.exists() else []
        self.known = {
            name: Tally(**{**found, "codes": Counter(found["codes"])}) for name, found in map(json.loads, lines)
        }

    def keep(self, name: str, found: Tally) -> None:
        """Write one down that is not there yet."""
        if self.path and name not in self.known:
            with self.path.open("a") as file:
                print(json.dumps([name, vars(found)]), file=file)
