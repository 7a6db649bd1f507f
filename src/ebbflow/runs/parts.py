"""Finished parts of a long measurement, kept until all of it is done: the same call goes on where it was stopped."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebbflow.data import Dataset
from ebbflow.files import remember, remembered, remove_folder
from ebbflow.metrics.cache import code_hash, data_hash, key_of, tensor_hash
from ebbflow.runs.opened import Opened

ELSEWHERE = {"json", "output", "ckpt", "device", "data_dir"}  # fields of a request that decide no number


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Tensors by name in a folder of its own, a file each.

    Args:
        folder: it; made with the first part.
    """

    folder: Path

    def made(self, name: str) -> dict[str, Tensor] | None:
        """A part that was kept; None where there is none, or a damaged one."""
        return remembered(self.folder / f"{name}.safetensors", self._key(name))

    def keep(self, name: str, part: dict[str, Tensor]) -> None:
        """Write a part; one that cannot be written, as in a run of someone else's, is made again next time."""
        with suppress(OSError):
            remember(part, self.folder / f"{name}.safetensors", self._key(name))

    def end(self) -> None:
        """Take the folder away, and the one around it where that is empty."""
        remove_folder(self.folder)
        with suppress(OSError):
            self.folder.parent.rmdir()

    def _key(self, name: str) -> str:
        return f"{self.folder.name}/{name}"


def parts_of(model: Opened, request: Any, data: Dataset | None = None) -> Parts:
    """The parts of what is asked of a run: by the request, its weights, the data and the code.

    Raises:
        ConfigError: a model that is no run of ours.
    """
    run = model.require_run("what is measured of it is kept beside its checkpoints")
    asked = {name: repr(value) for name, value in vars(request).items() if name not in ELSEWHERE}
    known: list[Any] = []
    if data is not None:
        others = (data.vectors, data.pictures)  # conditions, as captions are
        known = [data_hash(data), data.captions, *(tensor_hash(one) for one in others if one is not None)]
    return parts_in(run.folder / "eval", type(request).__name__, asked, weights_hash(model), known)


def parts_in(folder: Path, *settings: Any) -> Parts:
    """The parts of a measurement with these settings, JSON-able, below a folder of results."""
    return Parts(folder=folder / f".partial-{key_of(*settings, code_hash())}")


def weights_hash(model: Opened) -> str:
    """The sha256 of a model's weights as they are in memory; of a model without a net, of its name and shape."""
    net = getattr(model.denoiser, "net", None)
    if not isinstance(net, torch.nn.Module):
        return key_of(model.name, repr(model.dims))
    return tensor_hash(*(value for _, value in sorted(net.state_dict().items())))
