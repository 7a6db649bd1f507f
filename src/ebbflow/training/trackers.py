"""Trackers: TensorBoard and W&B as consumers of a training's events, beside the files that it writes anyway."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ebbflow.errors import choose, missing
from ebbflow.files import write_text

IDS = "trackers.json"  # in a run's folder: what a tracker calls the run, so that a resumed one goes on there


class Tracker(Protocol):
    """What keeps numbers and pictures of a run elsewhere."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Keep numbers of a step."""
        ...

    def picture(self, step: int, path: Path) -> None:
        """Keep the picture in a file."""
        ...

    def close(self) -> None:
        """Write what is not written yet."""
        ...


class TensorBoard:
    """Event files in tensorboard/ of the run's folder, which TensorBoard is shown. A resumed run goes on there, without
    what was logged after the checkpoint that it goes on from.

    Args:
        folder: of the run.
        config: its configuration.
        step: that it goes on from, 0 for a fresh one.

    Raises:
        ImportError: tensorboard is missing.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise missing("the tracker tensorboard", "tensorboard", "trackers") from error
        self.writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)
        if not step:
            self.writer.add_text("config", f"```\n{json.dumps(config, indent=2)}\n```")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def picture(self, step: int, path: Path) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            self.writer.add_image("samples", np.asarray(image.convert("RGB")), step, dataformats="HWC")
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class WandB:
    """A run of Weights & Biases, in the project WANDB_PROJECT or ebbflow; WANDB_MODE=offline keeps it in wandb/ of the
    run's folder. A resumed run goes on under the same id.

    Args:
        folder, config, step: as of `TensorBoard`.

    Raises:
        ImportError: wandb is missing.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        try:
            import wandb
        except ImportError as error:
            raise missing("the tracker wandb", "wandb", "trackers") from error
        self.wandb = wandb
        project = os.environ.get("WANDB_PROJECT", "ebbflow")
        self.run: Any = wandb.init(
            project=project,
            name=folder.name,
            id=_id_of(folder, "wandb", fresh=not step),
            resume="allow",
            dir=str(folder),
            config=dict(config),
        )
        self.run.define_metric("*", step_metric="step")  # its own steps could not go back to those of a checkpoint

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log({**values, "step": step})

    def picture(self, step: int, path: Path) -> None:
        self.run.log({"samples": self.wandb.Image(str(path)), "step": step})

    def close(self) -> None:
        self.run.finish()


TRACKERS: dict[str, Callable[[Path, Mapping[str, Any], int], Tracker]] = {"tensorboard": TensorBoard, "wandb": WandB}


def _id_of(folder: Path, name: str, *, fresh: bool) -> str:
    """What a tracker calls the run, drawn when it is begun."""
    file = folder / IDS
    known: dict[str, str] = {}
    if not fresh and file.is_file():
        known = json.loads(file.read_text(encoding="utf-8"))
    if name not in known:
        known[name] = uuid.uuid4().hex[:12]
        write_text(file, json.dumps(known))
    return known[name]


@dataclass(kw_only=True)
class Trackers:
    """Several trackers of a run. One that fails is left out from there on, and said so; training goes on.

    Args:
        names: of `TRACKERS`.
        folder, config, step: as of `TensorBoard`.

    Raises:
        ConfigError: an unknown name.
        ImportError: a package is missing.
    """

    names: Iterable[str]
    folder: Path
    config: Mapping[str, Any]
    step: int
    failed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._kept: dict[str, Tracker] = {}
        for name in self.names:
            kind = choose(TRACKERS, name, "tracker")
            try:
                self._kept[name] = kind(self.folder, self.config, self.step)
            except ImportError:
                raise
            except Exception as error:
                self._fail(name, error)

    def take(self, step: int, row: Mapping[str, Any] | None, picture: Path | None) -> Iterator[str]:
        """Give all of them a line of metrics and a picture, where there are such; what there is to say of those that
        failed."""
        if row is not None:
            self._each(lambda tracker: tracker.scalars(step, flat(row)))
        if picture is not None:
            self._each(lambda tracker: tracker.picture(step, picture))
        while self.failed:
            yield self.failed.pop(0)

    def close(self) -> None:
        """Have all of them write what they hold."""
        self._each(lambda tracker: tracker.close())
        self._kept.clear()

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._kept.items()):
            try:
                call(tracker)
            except Exception as error:
                del self._kept[name]
                self._fail(name, error)

    def _fail(self, name: str, error: Exception) -> None:
        self.failed.append(f"the tracker {name} is left out from here on: {type(error).__name__}: {error}")


def flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers in a line of metrics, those of tables as table/entry; without the step."""
    found: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and name != "step":
            found[f"{prefix}{name}"] = float(value)
    return found
