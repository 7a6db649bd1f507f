"""What a step takes of a process and of the wire between processes, as a model, a batch and their number grow."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ebbflow.config import RunConfig
from ebbflow.errors import ConfigError
from ebbflow.memory import in_words
from ebbflow.nets.fused import fused
from ebbflow.runs.tasks import ModelTask
from ebbflow.training.batches import Batch
from ebbflow.training.engine import Engine, device_of
from ebbflow.training.gradients import BUCKET
from ebbflow.training.task import Draw
from ebbflow.training.world import World

FEW, MORE = 2, 4  # rows of the two forward passes that tell what a row keeps
NUMBER = 4  # bytes of a float32
WORK = 1.45  # what a row takes over what autograd keeps of it; measured, see docs/scale.md


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one process at the fullest moment of a step, where the backward pass begins.

    Args:
        weights, gradients: of the net, float32.
        optimiser: its state.
        averages: of the weights.
        kept: what the forward pass keeps for the backward pass whatever the rows, such as weights in bfloat16.
        row: the same of a row, and what the backward pass works in beside it.
        messages: two buckets of the exchange between processes.
    """

    weights: int
    gradients: int
    optimiser: int
    averages: int
    kept: int
    row: int
    messages: int

    def of(self, rows: int) -> int:
        """All of it, with so many rows at once."""
        fixed = self.weights + self.gradients + self.optimiser + self.averages + self.kept + self.messages
        return fixed + rows * self.row

    def rows_in(self, there: float) -> int:
        """The most rows at once in so many bytes; below 1 where not even the rest fits."""
        return int((there - self.of(0)) // max(self.row, 1))


def memory_of(task: ModelTask, runs: Engine, batch: Batch, config: RunConfig, size: int) -> Memory:
    """What a step of a task takes, counted: the tensors that autograd keeps of two and of four rows, and what is there
    besides. Two forward passes."""
    parameters = [p for p in task.net.parameters() if p.requires_grad]
    optimiser = config.optimiser.build(task.net, lr=0.0, weight_decay=0.0)
    for p in parameters:
        p.grad = torch.zeros_like(p)
    optimiser.step()
    state = sum(t.nbytes for own in optimiser.state.values() for t in own.values() if isinstance(t, Tensor))
    task.net.zero_grad(set_to_none=True)
    few, more = (_kept(task, runs, batch, rows) for rows in (FEW, MORE))
    weights, row = sum(p.nbytes for p in parameters), (more - few) // (MORE - FEW)
    return Memory(
        weights=weights,
        gradients=weights,
        optimiser=state,
        averages=weights * len(task.averaging.build(task.net).modules),
        kept=max(0, few - FEW * row),
        row=round(WORK * row),
        messages=0 if size == 1 else 2 * min(weights, BUCKET * NUMBER),
    )


def _kept(task: ModelTask, runs: Engine, batch: Batch, rows: int) -> int:
    """Bytes that autograd keeps of a forward pass, weights left out, each storage once."""
    own = {p.untyped_storage().data_ptr() for p in task.net.parameters()}
    found: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    device = device_of(task.net)
    some = batch.rows(range(rows), device)
    draw = Draw(seed=0, step=0, rows=range(rows), num=rows)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), runs.autocast(device), fused():
        loss = task.loss(task.net, some, draw)
    assert loss.each.requires_grad
    return sum(found.values())


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a run asks of each of some processes.

    Args:
        world_size: processes.
        rows: of each at once.
        memory: bytes of each, by part.
        needed: bytes of each in all.
        wire: bytes that each sends a step, and receives: a ring's 2 (N - 1) / N of the gradients.
        device_memory: bytes that there are, or None.
        accumulate: the microbatches with which a step fits, None where none do or nothing was said.
    """

    world_size: int
    rows: int
    memory: Memory
    needed: int
    wire: int
    device_memory: int | None
    accumulate: int | None

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """In words."""
        parts = asdict(self.memory) | {"rows": self.rows * self.memory.row}
        names = ("weights", "gradients", "optimiser", "averages", "kept", "rows", "messages")
        named = ", ".join(f"{name} {in_words(parts[name])}" for name in names if parts[name])
        wire = f"; {in_words(self.wire)} on the wire a step, each way" if self.world_size > 1 else ""
        lines = [
            f"{self.world_size} process{'es' if self.world_size > 1 else ''}, {self.rows} rows at once in each: "
            f"{in_words(self.needed)} of memory in each ({named}){wire}"
        ]
        if self.device_memory is None:
            return lines
        there = in_words(self.device_memory)
        if self.accumulate is None:
            fixed = in_words(self.memory.of(1))
            return [*lines, f"does not fit {there}: one row takes {fixed}. Take a smaller net, or smaller images"]
        most = self.memory.rows_in(self.device_memory)
        fits = "fits" if self.needed <= self.device_memory else f"fits with train.accumulate={self.accumulate}"
        return [*lines, f"{fits} in {there}, which holds {most:,} rows at once"]


def scale_of(memory: Memory, config: RunConfig, size: int, device_memory: float | None) -> Demand:
    """What a configuration asks of each of `size` processes with `device_memory` bytes.

    Raises:
        ConfigError: the batch cannot be dealt evenly to so many.
    """
    if size < 1:
        raise ConfigError(f"`world_size` must be at least 1, got {size}.")
    share = len(World(rank=0, size=size).share(config.train.batch_size))
    rows = -(-share // config.train.accumulate)
    accumulate = None
    if device_memory is not None and (most := memory.rows_in(device_memory)) >= 1:
        accumulate = max(config.train.accumulate, -(-share // most))
    return Demand(
        world_size=size,
        rows=rows,
        memory=memory,
        needed=memory.of(rows),
        wire=round(2 * (size - 1) / size * memory.gradients),
        device_memory=None if device_memory is None else round(device_memory),
        accumulate=accumulate,
    )
