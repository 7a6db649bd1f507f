"""Trainings that the page starts and stops: ordinary processes of `ebbflow train` in ordinary folders."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from ebbflow.cli.train import flags_of
from ebbflow.config import RunConfig, merge, parse_as, read_preset, read_settings
from ebbflow.data import DATASETS
from ebbflow.errors import ConfigError, choose
from ebbflow.requests.base import narrowed
from ebbflow.requests.serving import NewRunRequest
from ebbflow.requests.training import TrainRequest
from ebbflow.requests.written import command_of
from ebbflow.runs.folder import CONFIG
from ebbflow.studio.gallery import trainer_of

LOGS = ".studio"  # beside the runs: the folder of a new run must be empty
TAIL = 2000  # characters of a log


class Trainings:
    """The trainings of a folder.

    Args:
        folder: where runs lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, request: NewRunRequest) -> dict[str, Any]:
        """Start a new training; its command.

        Raises:
            ConfigError: a name that is taken or none, or what no configuration can take.
        """
        if not re.fullmatch(r"[\w-]{1,60}", request.name):
            raise ConfigError(f"`name` must be letters, digits, - and _, at most 60, got {request.name[:60]!r}.")
        path = self.folder / request.name
        if path.exists() or self.is_starting(request.name):
            raise ConfigError(f"`name` {request.name!r} is taken. Choose another, or go on with that run.")
        given = narrowed(TrainRequest, request, settings=request.settings or {}, save_dir=path)
        config = parse_as(RunConfig, merge(read_preset(request.preset), read_settings(given.settings), flags_of(given)))
        choose(DATASETS, config.data.name, "data set")
        return self._run(request.name, command_of("train", TrainRequest, vars(given)))

    def resume(self, name: str, path: Path) -> dict[str, Any]:
        """Go on with a run that was stopped; the command.

        Raises:
            ConfigError: it is being trained.
        """
        if trainer_of(path) is not None:
            raise ConfigError(f"`name` {name!r} is being trained already.")
        return self._run(name, command_of("train", TrainRequest, {"config": path / CONFIG, "save_dir": path}))

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
