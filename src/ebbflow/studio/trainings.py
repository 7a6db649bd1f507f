"""Trainings that the page starts and stops: ordinary processes of `ebbflow train` in ordinary folders."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, TypeVar

from ebbflow.cli.train import flags_of
from ebbflow.config import Layer, RunConfig, merge, parse_as, read_preset, read_settings, to_dict
from ebbflow.data import DATASETS
from ebbflow.errors import ConfigError, choose, has
from ebbflow.requests.base import narrowed
from ebbflow.requests.serving import NewRunRequest, NewStudentRequest, NewTraining
from ebbflow.requests.training import (
    DistillRequest,
    Settings,
    TrainAutoencoderRequest,
    TrainClassifierRequest,
    TrainRequest,
)
from ebbflow.requests.written import command_of
from ebbflow.runs.folder import CONFIG
from ebbflow.runs.teacher import student_of
from ebbflow.studio.gallery import described, trainer_of

S = TypeVar("S", bound=Settings)
LOGS = ".studio"  # beside the runs: the folder of a new run must be empty
TAIL = 2000  # characters of a log
VERBS = {
    "model": ("train", TrainRequest),
    "classifier": ("train-classifier", TrainClassifierRequest),
    "autoencoder": ("train-autoencoder", TrainAutoencoderRequest),
}
PLACES = ("data.name", "data.dir", "latent.autoencoder", "init.run", "teacher.run", "conditioning.model")


class Trainings:
    """The trainings of a folder.

    Args:
        folder: where runs lie.
        root: below it, or below `folder`, lies every file that a training may name.
    """

    def __init__(self, folder: Path, root: Path = Path()) -> None:
        self.folder, self.root = folder, root
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, request: NewRunRequest) -> dict[str, Any]:
        """Start a new training; its command.

        Raises:
            ConfigError: a name that is taken or none, what no configuration can take, or a file elsewhere.
        """
        given = self._given(TrainRequest, request)
        return self._begin(request.name, "train", given, read_preset(request.preset))

    def distill(self, request: NewStudentRequest, teacher: Path) -> dict[str, Any]:
        """Start a new training that learns from the run in the folder `teacher`; its command.

        Raises:
            ConfigError: as `start`.
            CheckpointError: the run cannot be opened.
        """
        given = self._given(DistillRequest, request, run=str(teacher))
        return self._begin(request.name, "distill", given, student_of(str(teacher), jumps=request.pairs is None))

    def _given(self, cls: type[S], request: NewTraining, **more: Any) -> S:
        if not re.fullmatch(r"[\w-]{1,60}", request.name):
            raise ConfigError(f"`name` must be letters, digits, - and _, at most 60, got {request.name[:60]!r}.")
        path = self.folder / request.name
        if path.exists() or self.is_starting(request.name):
            raise ConfigError(f"`name` {request.name!r} is taken. Choose another, or go on with that run.")
        return narrowed(cls, request, settings=request.settings or {}, save_dir=path, **more)

    def _begin(self, name: str, verb: str, given: Settings, below: Layer) -> dict[str, Any]:
        config = to_dict(parse_as(RunConfig, merge(below, read_settings(given.settings), flags_of(given))))
        for place in PLACES:
            section, key = place.split(".")
            if config[section].get(key) is not None:
                self._check_place(place, config[section][key])
        return self._run(name, command_of(verb, type(given), vars(given)))

    def _check_place(self, place: str, value: str) -> None:
        found, is_name = Path(value).expanduser(), place == "data.name" and "/" not in value
        inside = any(map(found.resolve().is_relative_to, (self.root.resolve(), self.folder.resolve())))
        if place == "data.name" and (has(DATASETS, value) or (not (inside and found.exists()) and is_name)):
            choose(DATASETS, value, "data set")
        elif value.startswith("hf:") or not inside:
            raise ConfigError(
                f"{place}: {value[:100]!r} is outside of {self.root.resolve()}, where this page finds its "
                "files. Start the server with another `data_root`, or train from the command line."
            )

    def resume(self, name: str, path: Path) -> dict[str, Any]:
        """Go on with a run that was stopped; the command.

        Raises:
            ConfigError: it is being trained.
        """
        if trainer_of(path) is not None:
            raise ConfigError(f"`name` {name!r} is being trained already.")
        verb, cls = VERBS.get(described(path).get("kind", "model"), VERBS["model"])
        return self._run(name, command_of(verb, cls, {"config": path / CONFIG, "save_dir": path}))

    def stop(self, name: str, path: Path) -> None:
        """Ask the process that trains to stop after its step; a checkpoint is kept.

        Raises:
            ConfigError: nobody trains there.
        """
        number = trainer_of(path)
        if number is None:
            raise ConfigError(f"`name` {name!r} is not being trained.")
        os.kill(number, signal.SIGTERM)

    def failed(self, name: str) -> str:
        """The last words of a training that was started here and failed; "" where none did."""
        process = self._processes.get(name)
        if process is None or process.poll() in (None, 0, 130):
            return ""
        log = self._log(name)
        text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        return text.strip()[-TAIL:] or f"it ended with code {process.returncode}."

    def is_starting(self, name: str) -> bool:
        """Whether a training was started here that still runs, if only to read its data."""
        process = self._processes.get(name)
        return process is not None and process.poll() is None

    @property
    def names(self) -> list[str]:
        """What was started here."""
        return list(self._processes)

    def _log(self, name: str) -> Path:
        return self.folder / LOGS / f"{name.replace('/', '_')}.log"

    def _run(self, name: str, command: str) -> dict[str, Any]:
        words = [sys.executable, "-m", *shlex.split(command)]
        self._log(name).parent.mkdir(parents=True, exist_ok=True)
        with self._log(name).open("wb") as log:
            self._processes[name] = subprocess.Popen(
                words, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
            )
        return {"name": name, "command": command}
