"""Checkpoints: a folder of safetensors and JSON, written whole or not at all, never unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ebbflow.errors import CheckpointError
from ebbflow.files import link_or_copy, load_described, load_tensors, save_tensors, whole_folder
from ebbflow.training.ema import EMA
from ebbflow.training.world import World

FIRST_NAMES = {"task": "times"}  # what parts were called in the first format


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint on disk: its folder and the facts in its `state.json`.

    Its files are opened when it is read, so that its tensors can be had after a training that goes on has removed it.
    """

    folder: Path
    state: dict[str, Any]
    files: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return int(self.state["step"])

    def tensors(self, part: str) -> dict[str, Tensor]:
        """The tensors of `part`: "model", "ema", "optimiser", "task" or a further one.

        What the first format wrote beside the net comes as the present one has it.

        Raises:
            CheckpointError: the file is missing or not safetensors.
        """
        first = FIRST_NAMES.get(part, part)
        tensors = self._read(part if self._has(part) or not self._has(first) else first)
        if part in ("model", "ema") and self._has("uncertainty"):
            beside = self._read("uncertainty")
            return {f"inner.{k}": v for k, v in tensors.items()} | {f"objective.{k}": v for k, v in beside.items()}
        return tensors

    def metadata(self, part: str) -> dict[str, str]:
        """What the file of a part says of itself."""
        return dict((self.files[part].metadata() if part in self.files else load_described(self.path(part))[1]) or {})

    def _has(self, part: str) -> bool:
        return part in self.files or self.path(part).is_file()

    def path(self, part: str) -> Path:
        """The file of a part."""
        return self.folder / f"{part}.safetensors"

    def _read(self, part: str) -> dict[str, Tensor]:
        if part in self.files:
            return {name: self.files[part].get_tensor(name) for name in self.files[part].keys()}  # noqa: SIM118
        try:
            return load_tensors(self.path(part))
        except CheckpointError as error:
            incomplete = "" if self.path(part).exists() else " This checkpoint is incomplete."
            others = sorted(one for one in self.folder.parent.glob("step_*") if one.name != self.folder.name)
            cure = f" Name another one, such as {others[-1]}." if others else ""
            raise CheckpointError(f"{error}{incomplete}{cure}") from error


def save(
    folder: Path,
    *,
    model: nn.Module,
    ema: EMA | None,
    optimiser: torch.optim.Optimizer | None,
    state: dict[str, Any],
    beside: Path | None = None,
    parts: Mapping[str, dict[str, Tensor]] = MappingProxyType({}),
) -> Checkpoint:
    """Write a checkpoint into `folder`, which appears only when it is complete.

    `state` must hold "step"; the EMA's counter is added to it. The file `beside`, one that never changes, goes in too,
    and so do `parts`, further tensors by the name of their file.
    """
    tensors = {"model": model.state_dict(), **{name: value for name, value in parts.items() if value}}
    if ema is not None:
        tensors |= {name: module.state_dict() for name, module in ema.parts.items()}
        state = {**state, "ema_updates": ema.num_updates}
    if optimiser is not None:
        tensors["optimiser"] = _optimiser_tensors(optimiser)
    with whole_folder(folder) as partial:
        for name, value in tensors.items():
            save_tensors(value, partial / f"{name}.safetensors")
        if beside is not None:
            link_or_copy(beside, partial / beside.name)
        (partial / "state.json").write_text(json.dumps(state, indent=2))
    return Checkpoint(folder=folder, state=state)


def read(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`.

    Raises:
        CheckpointError: it is not one.
    """
    try:
        state = json.loads((folder / "state.json").read_text())
        int(state["step"])
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} is no checkpoint: it has no state.json.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / 'state.json'} is not the state of a checkpoint: {error}.") from error
    return Checkpoint(folder=folder, state=state, files=_opened(folder))


def _opened(folder: Path) -> dict[str, Any]:
    """The parts in a folder but the optimiser's, open; a damaged one is left out and named when it is asked for."""
    from safetensors import SafetensorError, safe_open

    files = {}
    for path in folder.glob("*.safetensors"):
        if path.stem != "optimiser":
            with suppress(SafetensorError, OSError):
                files[path.stem] = safe_open(path, framework="pt")
    return files


def restore(checkpoint: Checkpoint, model: nn.Module, ema: EMA | None, optimiser: torch.optim.Optimizer) -> None:
    """Put a checkpoint's weights, average and optimiser state back in place, for an exact resume."""
    load_weights(model, checkpoint.tensors("model"), checkpoint.path("model"))
    if ema is not None:
        for name, module in ema.parts.items():
            load_weights(module, checkpoint.tensors(name), checkpoint.path(name))
        ema.num_updates = int(checkpoint.state["ema_updates"])
    tensors = checkpoint.tensors("optimiser")
    for i, parameter in enumerate(p for group in optimiser.param_groups for p in group["params"]):
        optimiser.state[parameter] = {
            key.split(".", 1)[1]: value if value.ndim == 0 else value.to(parameter.device)
            for key, value in tensors.items()
            if key.startswith(f"{i}.")
        }


def share(world: World, model: nn.Module, ema: EMA | None, optimiser: torch.optim.Optimizer) -> None:
    """Put what rank 0 has of weights, averages and optimiser state in place on every process."""
    modules = [model, *(() if ema is None else ema.modules)]
    for module in modules:
        world.copy(module.state_dict())
    if ema is not None:
        ema.num_updates = world.first(ema.num_updates)
    for p in (p for group in optimiser.param_groups for p in group["params"]):
        if found := world.copy({key: torch.as_tensor(value) for key, value in optimiser.state[p].items()}):
            optimiser.state[p] = {key: value if value.ndim == 0 else value.to(p.device) for key, value in found.items()}


def load_weights(module: nn.Module, tensors: dict[str, Tensor], source: Path) -> None:
    """Load `tensors` into `module`.

    Raises:
        CheckpointError: a name or a shape does not fit.
    """
    own = module.state_dict()
    for name in own.keys() ^ tensors.keys():
        raise CheckpointError(
            f"{source}: tensor {name!r} is {'missing' if name in own else 'not part of this net'}. Was it made by "
            "another configuration?"
        )
    for name, value in tensors.items():
        if own[name].shape != value.shape:
            raise CheckpointError(
                f"{source}: {name!r} has shape {tuple(value.shape)}, this net wants {tuple(own[name].shape)}."
            )
    module.load_state_dict(tensors)


def _optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    return {
        f"{i}.{key}": torch.as_tensor(value)
        for i, p in enumerate(parameters)
        for key, value in optimiser.state[p].items()
    }
