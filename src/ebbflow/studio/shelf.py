"""The models that are served: opened when first wanted, and opened anew when a run writes a newer checkpoint."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ebbflow.api import open as open_model
from ebbflow.errors import ConfigError, nearest
from ebbflow.requests.sampling import Weights
from ebbflow.runs.folder import checkpoints
from ebbflow.runs.model import Model
from ebbflow.studio.meter import Meter


@dataclass(kw_only=True)
class Slot:
    """One of the models.

    Args:
        name: by which it is asked for.
        path: the folder of a run or checkpoint, or hf: and a name.
    """

    name: str
    path: str
    model: Model | None = None
    stamp: object = None
    used: float = 0.0
    opened: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def newest(self) -> object:
        """What changes when the run writes a checkpoint; None where nothing can change."""
        known = checkpoints(Path(self.path)) if not self.path.startswith("hf:") else []
        state = known[-1] / "state.json" if known else None
        return None if state is None or not state.is_file() else (state.parent.name, state.stat().st_mtime_ns)

    @property
    def step(self) -> int:
        """Optimiser steps of the checkpoint that is open; 0 for a model from elsewhere."""
        return 0 if self.model is None or self.model.run is None else self.model.run.checkpoint.step


class Shelf:
    """Models by name.

    Args:
        paths: where each lies.
        weights, device: as in `ebbflow.open`.
        most: how many stay open; the one that was not used for longest is closed.
        meter: counts reloads.
        say: is told of reloads and of what went wrong with them.
    """

    def __init__(
        self,
        paths: Mapping[str, str],
        *,
        weights: Weights = "ema",
        device: str = "auto",
        most: int = 8,
        meter: Meter | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.weights, self.device, self.most = weights, device, most
        self.meter, self.say = meter or Meter(), say
        self._slots = {name: Slot(name=name, path=path) for name, path in paths.items()}
        self._stop = threading.Event()

    @property
    def names(self) -> list[str]:
        """Names in their order."""
        return list(self._slots)

    def add(self, name: str, path: str) -> None:
        """Serve one more."""
        self._slots.setdefault(name, Slot(name=name, path=path))

    def slot(self, name: str) -> Slot:
        """The slot of a name.

        Raises:
            ConfigError: there is none; says what there is.
        """
        if name not in self._slots:
            raise ConfigError(f"unknown `model` {name!r}. {nearest(name, self.names)}")
        return self._slots[name]

    def model(self, name: str) -> Model:
        """The model of this name, opened where it is not.

        Raises:
            ConfigError: there is none.
            CheckpointError: it cannot be opened.
        """
        slot = self.slot(name)
        with slot.lock:
            slot.used = time.monotonic()
            if slot.model is None:
                self._open(slot)
                self._make_room()
            assert slot.model is not None
            return slot.model

    def ready(self, name: str) -> Model | None:
        """The model of this name where it is open already; waits for nothing."""
        slot = self._slots.get(name)
        if slot is None or slot.model is None:
            return None
        slot.used = time.monotonic()
        return slot.model

    def refresh(self) -> None:
        """Open anew what has a newer checkpoint; where that fails, the old one is kept."""
        for slot in list(self._slots.values()):
            stamp = slot.newest() if slot.model is not None else slot.stamp
            if stamp == slot.stamp or stamp is None:
                continue
            try:
                self._open(slot)
                self.meter.add("reloads_total", model=slot.name)
                self.say(f"{slot.name}: opened its checkpoint of step {slot.step}")
            except Exception as error:  # half written, damaged, of another shape: whatever it is, the old one serves
                slot.stamp = stamp
                self.meter.add("reload_failures_total", model=slot.name)
                self.say(f"{slot.name}: a newer checkpoint cannot be opened, the old one is kept: {error}")

    def watch(self, every: float = 2.0) -> None:
        """Refresh every so many seconds, on a thread of its own, until `close`."""
        threading.Thread(target=self._watch, args=(every,), name="ebbflow-shelf", daemon=True).start()

    def close(self) -> None:
        """Watch no more."""
        self._stop.set()

    def _watch(self, every: float) -> None:
        while not self._stop.wait(every):
            self.refresh()

    def _open(self, slot: Slot) -> None:
        stamp = slot.newest()
        slot.model = open_model(slot.path, weights=self.weights, device=self.device)
        slot.stamp, slot.opened = stamp, time.time()

    def _make_room(self) -> None:
        opened = sorted((s for s in self._slots.values() if s.model is not None), key=lambda s: s.used)
        for slot in opened[: max(0, len(opened) - self.most)]:
            slot.model = None


def named(paths: tuple[str, ...]) -> dict[str, str]:
    """Names for models: those of their folders, with a number behind where two are the same."""
    found: dict[str, str] = {}
    for path in paths:
        base = name = Path(path.removeprefix("hf:")).resolve().name if path != "hf:" else path
        number = 2
        while name in found:
            name, number = f"{base}-{number}", number + 1
        found[name] = path
    return found
