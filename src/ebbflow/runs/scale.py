"""What a step takes of a process and of the wire between processes, as a model, a batch and their number grow."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ebbflow.config import RunConfig
from ebbflow.errors import ConfigError
from ebbflow.memory import in_words
from ebbflow.runs.tasks import ModelTask
from ebbflow.training.batches import Batch
from ebbflow.training.dealt import blocks
from ebbflow.training.engine import Engine, device_of, mode
from ebbflow.training.gradients import BUCKET
from ebbflow.training.world import World

ROWS = (16, 64)  # of the first of two passes that tell what a row takes, least and most; the second has half of them
NUMBER = 4  # bytes of a float32


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one process at the fullest moment of a step, where the backward pass begins.

    Args:
        weights, gradients: of the net, float32.
        optimiser: its state.
        averages: of the weights.
        kept: what the passes make whatever the rows, such as weights in bfloat16.
        row: what they make of a row, at the fullest moment.
        messages: two buckets of the exchange between processes; where weights are dealt out, what is whole at a time.
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
    """What a step of a task takes, counted: the storages that are there at once in the forward and backward pass of the
    rows that a process has at once, 16 to 64 where a batch has so many, and of half of them, and what is there besides.
    Fewer rows would tell less: from some size on other operations are used."""
    parameters = [p for p in task.net.parameters() if p.requires_grad]
    optimiser = config.optimiser.build(task.net, lr=0.0, weight_decay=0.0)
    for p in parameters:
        p.grad = torch.zeros_like(p)
    optimiser.step()
    state = sum(t.nbytes for own in optimiser.state.values() for t in own.values() if isinstance(t, Tensor))
    most = min(len(batch), max(ROWS[0], min(ROWS[1], len(batch) // (size * config.train.accumulate))))
    more, few = (_alive(task, runs, batch, rows) for rows in (most, most // 2))
    task.net.zero_grad(set_to_none=True)
    weights, row = sum(p.nbytes for p in parameters), (more - few) // (most - most // 2)
    found = Memory(
        weights=weights,
        gradients=weights,
        optimiser=state,
        averages=weights * len(task.averaging.build(task.net).modules),
        kept=max(0, more - most * row),
        row=row,
        messages=0 if size == 1 else 2 * min(weights, BUCKET * NUMBER),
    )
    return _dealt(found, task.net, size, width_of(runs, device_of(task.net))) if config.engine.shard else found


def width_of(runs: Engine, device: torch.device) -> int:
    """Bytes of a number that the net multiplies."""
    return runs.dtype(device).itemsize


def _dealt(memory: Memory, net: nn.Module, size: int, width: int) -> Memory:
    """The same where weights are dealt out to `size` processes: a part of each, and whole what is at work, which is two
    blocks, the gradient of one, and what is in none."""
    sizes = [sum(p.numel() for p in block.parameters()) for block in blocks(net)]
    whole, largest = memory.weights // NUMBER, max(sizes, default=0)
    at_work = 2 * largest * width + largest * (width + NUMBER) + (whole - sum(sizes)) * width
    casts = 0 if width == NUMBER else whole * width  # copies that autocast makes of weights that are whole
    return replace(
        memory,
        weights=memory.weights // size,
        gradients=memory.gradients // size,
        optimiser=memory.optimiser // size,
        averages=memory.averages // size,
        kept=max(0, memory.kept - casts),
        messages=0 if size == 1 else at_work,
    )


class Alive(TorchDispatchMode):
    """Counts the bytes of all storages that are made inside, and how many of them were there at once.

    Args:
        known: tensors that were there before, which do not count.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: dict[int, object] = {t.untyped_storage()._cdata: t for t in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return

        def gone(_: object) -> None:
            del self._known[key]
            self.now -= size

        self._known[key] = weakref.ref(storage, gone)
        self.now += size
        self.most = max(self.most, self.now)


def _alive(task: ModelTask, runs: Engine, batch: Batch, rows: int) -> int:
    """Bytes that the forward and backward pass of so many rows make and have at once; gradients have their place."""
    device, parameters = device_of(task.net), list(task.net.parameters())
    some = replace(batch.rows(range(rows), device), whole=rows)
    grads = [p.grad for p in parameters if p.grad is not None]
    given = [t for t in tree_leaves(vars(some)) if isinstance(t, Tensor)]
    with mode(task.net, training=True), Alive([*parameters, *grads, *task.net.buffers(), *given]) as alive:
        replace(runs, accumulate=1, compile="off").backward(task, some, seed=0, step=0)
    return alive.most


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a run asks of each of some processes.

    Args:
        world_size: processes.
        rows: of each at once.
        memory: bytes of each, by part.
        needed: bytes of each in all.
        wire: bytes that each sends a step, and receives: a ring's 2 (N - 1) / N of the gradients; where weights are
            dealt out, (N - 1) / N of the gradients, and of the weights twice a microbatch.
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


def scale_of(memory: Memory, config: RunConfig, size: int, device_memory: float | None, width: int = NUMBER) -> Demand:
    """What a configuration asks of each of `size` processes with `device_memory` bytes; a number that the net
    multiplies takes `width` of them.

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
    part = (size - 1) / size
    wire = 2 * part * memory.gradients
    if config.engine.shard:
        microbatches = max(config.train.accumulate, accumulate or 1)
        wire = part * size * (memory.gradients + 2 * microbatches * memory.weights * width / NUMBER)
    return Demand(
        world_size=size,
        rows=rows,
        memory=memory,
        needed=memory.of(rows),
        wire=round(wire),
        device_memory=None if device_memory is None else round(device_memory),
        accumulate=accumulate,
    )
