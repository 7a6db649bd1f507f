"""Checkpoints: a folder of safetensors and JSON, written whole or not at all, never unpickled."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ebbflow.errors import CheckpointError
from ebbflow.files import link_or_copy
from ebbflow.training.ema import EMA


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint on disk: its folder and the facts in its `state.json`."""

    folder: Path
    state: dict[str, Any]

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return int(self.state["step"])

    def tensors(self, part: str) -> dict[str, Tensor]:
        """The tensors of `part`: "model", "ema", "optimiser" or a further one.

        Raises:
            CheckpointError: the file is missing or not safetensors.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.folder / f"{part}.safetensors"
        try:
            return load_file(path)
        except FileNotFoundError as error:
            raise CheckpointError(f"{path} is missing; this checkpoint is incomplete.") from error
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} cannot be read as safetensors: {error}.") from error


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
    from safetensors.torch import save_file

    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    partial.mkdir()
    try:
        save_file(_contiguous(model.state_dict()), partial / "model.safetensors")
        if ema is not None:
            save_file(_contiguous(ema.state()), partial / "ema.safetensors")
            state = {**state, "ema_updates": ema.num_updates}
        if optimiser is not None:
            save_file(_contiguous(_optimiser_tensors(optimiser)), partial / "optimiser.safetensors")
        if beside is not None:
            link_or_copy(beside, partial / beside.name)
        for name, tensors in parts.items():
            save_file(_contiguous(tensors), partial / f"{name}.safetensors")
        (partial / "state.json").write_text(json.dumps(state, indent=2))
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
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
    return Checkpoint(folder=folder, state=state)


def restore(checkpoint: Checkpoint, model: nn.Module, ema: EMA | None, optimiser: torch.optim.Optimizer) -> None:
    """Put a checkpoint's weights, average and optimiser state back in place, for an exact resume."""
    load_weights(model, checkpoint.tensors("model"), checkpoint.folder / "model.safetensors")
    if ema is not None:
        load_weights(ema.module, checkpoint.tensors("ema"), checkpoint.folder / "ema.safetensors")
        ema.num_updates = int(checkpoint.state["ema_updates"])
    tensors = checkpoint.tensors("optimiser")
    for i, parameter in enumerate(p for group in optimiser.param_groups for p in group["params"]):
        optimiser.state[parameter] = {
            key.split(".", 1)[1]: value if value.ndim == 0 else value.to(parameter.device)
            for key, value in tensors.items()
            if key.startswith(f"{i}.")
        }


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


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def _optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    return {
        f"{i}.{key}": torch.as_tensor(value)
        for i, p in enumerate(parameters)
        for key, value in optimiser.state[p].items()
    }
