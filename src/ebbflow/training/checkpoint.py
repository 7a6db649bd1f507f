"""Checkpoints: a folder of safetensors and JSON, written whole or not at all, never unpickled."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

import torch
from annotated_types import Ge
from torch import Tensor, nn

from ebbflow.documents import read_json
from ebbflow.errors import CheckpointError
from ebbflow.files import file_hash, link_or_copy, load_described, load_tensors, save_tensors, whole_folder
from ebbflow.training.dealt import gathered
from ebbflow.training.ema import EMA
from ebbflow.training.task import Task
from ebbflow.training.world import World, here
from ebbflow.values import Wrong, record

T = TypeVar("T")
Counted = Annotated[int, Ge(0)]
FIRST_NAMES = {"task": "times"}  # what parts were called in the first format
MOMENTS = ("exp_avg", "exp_avg_sq", "momentum")  # of an optimiser: tensors like the parameter that they belong to


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

    def number(self, name: str) -> float:
        """A number of its state, 0 where an older version kept none.

        Raises:
            CheckpointError: it is no finite number, at least 0.
        """
        value = self.state.get(name, 0)
        if type(value) not in (int, float) or not 0 <= value < math.inf:
            raise CheckpointError(
                f"{self.folder / 'state.json'}: `{name}` is {value!r}, and a number of at least 0 is wanted."
            )
        return float(value)

    def tensors(self, part: str) -> dict[str, Tensor]:
        """The tensors of `part`: "model", "ema", "optimiser", "task" or a further one.

        What the first format wrote beside the net comes as the present one has it.

        Raises:
            CheckpointError: the file is missing, not safetensors, or not the one that was written.
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
        with suppress(FileNotFoundError):  # its training has let it go; what was opened before can still be read
            self.require_written(self.path(part).name)
        if part in self.files:
            return {name: self.files[part].get_tensor(name) for name in self.files[part].keys()}  # noqa: SIM118
        try:
            return load_tensors(self.path(part))
        except CheckpointError as error:
            incomplete = "" if self.path(part).exists() else " This checkpoint is incomplete."
            raise CheckpointError(f"{error}{incomplete}{self._another()}") from error

    def require_written(self, *names: str) -> None:
        """Raise unless files of the folder, all that were written by default, are what was written then; versions that
        kept no hashes of them are believed.

        Raises:
            CheckpointError: one is not; names it.
            FileNotFoundError: one is not there.
        """
        hashes = self.state.get("files", {})
        for name in names or hashes:
            if name in hashes and file_hash(self.folder / name) != hashes[name]:
                raise CheckpointError(
                    f"{self.folder / name} is damaged: it is not what was written (its sha256 differs)."
                    f"{self._another()}"
                )

    def _another(self) -> str:
        others = sorted(one for one in self.folder.parent.glob("step_*") if one.name != self.folder.name)
        return f" Name another one, such as {others[-1]}." if others else ""


@dataclass(frozen=True, kw_only=True)
class State:
    """What is read of a `state.json`, by its types."""

    step: Counted
    format: Counted = 1
    kind: str = "model"
    config: dict[str, dict[str, Any]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    plugins: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    ema_updates: Counted = 0
    samples_seen: Counted = 0
    minutes: Annotated[float, Ge(0)] = 0.0


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
    and so do `parts`, further tensors by the name of their file. Every process calls it and rank 0 writes, one file
    after the other, so that it holds no more than the largest of them whole.
    """
    tensors = {"model": model.state_dict(), **{name: value for name, value in parts.items() if value}}
    if ema is not None:
        tensors |= {name: module.state_dict() for name, module in ema.parts.items()}
        state = {**state, "ema_updates": ema.num_updates}
    if optimiser is not None:
        tensors["optimiser"] = _optimiser_tensors(optimiser)
    if not here().leads:
        for value in tensors.values():
            gathered(value)
        return Checkpoint(folder=folder, state=state)
    with whole_folder(folder) as partial:
        for name, value in tensors.items():
            save_tensors(gathered(value), partial / f"{name}.safetensors")
        if beside is not None:
            link_or_copy(beside, partial / beside.name)
        state = write_state(partial, state)
    return Checkpoint(folder=folder, state=state)


def write_state(folder: Path, state: Mapping[str, Any]) -> dict[str, Any]:
    """Write `state.json` into a folder that holds all other files: the facts, the sha256 of each file as "files", and
    that of all this as "sha256"; returns them."""
    facts = {**state, "files": {file.name: file_hash(file) for file in sorted(folder.iterdir())}}
    facts["sha256"] = _seal(facts)
    (folder / "state.json").write_text(json.dumps(facts, indent=2), encoding="utf-8")
    return facts


def _seal(facts: Mapping[str, Any]) -> str:
    text = json.dumps({key: value for key, value in facts.items() if key != "sha256"})
    return hashlib.sha256(text.encode()).hexdigest()


def read(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`.

    Raises:
        CheckpointError: it is not one.
    """
    file = folder / ("config.json" if exported(folder) else "state.json")
    try:
        state: dict[str, Any] = read_json(file, dict[str, Any])
        record(State, {f.name: state[f.name] for f in fields(State) if f.name in state})
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} is no checkpoint: it has no state.json.") from error
    except Wrong as wrong:
        raise CheckpointError(f"{file} is not the state of a checkpoint: it {wrong}") from wrong
    sealed = "sha256" in state or (file.name == "state.json" and "files" in state)
    if sealed and state.get("sha256") != _seal(state):
        raise CheckpointError(f"{file} is damaged: it is not what was written (its sha256 differs).")
    named = re.fullmatch(r"step_(\d+)", folder.name)
    if named and int(named[1]) != state["step"]:
        raise CheckpointError(
            f"{file} is of step {state['step']}, and its folder of another. Restore the folder's name."
        )
    return Checkpoint(folder=folder, state=state, files=_opened(folder))


def exported(folder: Path) -> list[Path]:
    """The folder, where it is an export of a run: weights, and a config.json that holds the state of their
    checkpoint."""
    if (folder / "state.json").is_file() or not (folder / "model.safetensors").is_file():
        return []
    try:
        state = read_json(folder / "config.json")
    except (OSError, Wrong):
        return []
    return [folder] if isinstance(state, dict) and "exported" in state else []


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
    """Put a checkpoint's weights, average and optimiser state back in place, for an exact resume.

    Raises:
        CheckpointError: a file is not what was written, or does not fit.
    """
    try:
        checkpoint.require_written()
    except FileNotFoundError as error:
        raise CheckpointError(f"{error.filename} is missing. This checkpoint is incomplete.") from error
    load_weights(model, checkpoint.tensors("model"), checkpoint.path("model"))
    if ema is not None:
        for name, module in ema.parts.items():
            load_weights(module, checkpoint.tensors(name), checkpoint.path(name))
        ema.num_updates = int(checkpoint.number("ema_updates"))
    found, states = checkpoint.tensors("optimiser"), dict[str, dict[str, Tensor]]()
    for name, value in found.items():
        number, _, key = name.partition(".")
        states.setdefault(number, {})[key] = value
    pairs = [(p, group) for group in optimiser.param_groups for p in group["params"]]
    _require_moments(states, [p for p, _ in pairs], checkpoint)
    for i, (parameter, group) in enumerate(pairs):
        kept = states.get(str(i), {})
        optimiser.state[parameter] = {k: _placed(v, parameter, group) for k, v in kept.items()}


def _placed(value: Tensor, parameter: Tensor, group: dict[str, Any]) -> Tensor:
    """A tensor of an optimiser's state where that keeps it: with its parameter, but for the number of steps, which only
    a fused one has there."""
    return value if value.ndim == 0 and not group.get("fused") else value.to(parameter.device)


def _require_moments(states: dict[str, dict[str, Tensor]], parameters: list[Tensor], checkpoint: Checkpoint) -> None:
    """Raise unless an optimiser's state, by the number of the parameter, is one of these parameters at this step."""
    path = checkpoint.path("optimiser")
    if strange := states.keys() - set(map(str, range(len(parameters)))):
        raise CheckpointError(f"{path}: it steps a parameter {min(strange)!r}, which this run has not.")
    if checkpoint.step and not states:
        raise CheckpointError(f"{path}: nothing is in it after {checkpoint.step} steps. This checkpoint is incomplete.")
    for number, state in states.items():
        like = parameters[int(number)]
        for key, value in state.items():
            if key in MOMENTS and (value.shape, value.dtype) != (like.shape, like.dtype):
                got, want = ((f"{one.dtype}".removeprefix("torch."), tuple(one.shape)) for one in (value, like))
                raise CheckpointError(
                    f"{path}: {key!r} of parameter {number} is {got[0]} {got[1]}, not {want[0]} {want[1]}."
                )
            if not bool(value.isfinite().all()):
                raise CheckpointError(f"{path}: {key!r} of parameter {number} is not finite.")
        if not 0 <= float(state.get("step", torch.zeros(()))) <= checkpoint.step:
            raise CheckpointError(
                f"{path}: parameter {number} was stepped {float(state['step']):g} times, in {checkpoint.step}."
            )


def share(world: World, task: Task, ema: EMA | None, optimiser: torch.optim.Optimizer, facts: T) -> T:
    """Put what rank 0 has of weights, averages, optimiser state and the task's own in place on every process; its
    `facts`."""
    if world.size == 1:
        return facts
    for module in (task.net, *(() if ema is None else ema.modules)):
        world.copy(module.state_dict())
    if ema is not None:
        ema.num_updates = world.first(ema.num_updates)
    for p, group in [(p, one) for one in optimiser.param_groups for p in one["params"]]:
        if found := world.copy({key: torch.as_tensor(value) for key, value in optimiser.state[p].items()}):
            optimiser.state[p] = {key: _placed(value, p, group) for key, value in found.items()}
    if state := world.copy(task.state()):
        task.load_state(state)
    return world.first(facts)


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
