"""The processes that a launcher started for one work: which of them this is, and what they tell each other.

torchrun, accelerate and srun say so in the environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT). A
world of one takes the same way with no process group: sums are what they are, and what rank 0 says is what was said.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import Store

from ebbflow.errors import ConfigError

T = TypeVar("T")
SECONDS = 600.0  # how long an answer is waited for; EBBFLOW_TIMEOUT says another time


@dataclass(frozen=True, kw_only=True)
class World:
    """The processes of a work, and this one of them.

    Every method but `share` is called by all of them, in the same order.

    Args:
        rank: of this process, in [0, size).
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def share(self, num: int, what: str = "batch_size") -> range:
        """The rows of a whole batch of `num` that are this process's.

        Raises:
            ConfigError: they cannot be dealt evenly; says which numbers can.
        """
        if num % self.size:
            below = num - num % self.size
            near = f"{below} or {below + self.size}" if below else str(self.size)
            fits = [str(n) for n in range(self.size, 0, -1) if num % n == 0]
            raise ConfigError(
                f"`{what}` {num} cannot be dealt evenly to {self.size} processes. Use {near}, or start {fits[0]} "
                f"process{'es' if fits[0] != '1' else ''}."
            )
        each = num // self.size
        return range(self.rank * each, (self.rank + 1) * each)

    def rows(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Of each tensor, the rows of all processes, in their order; numbers of rows may differ."""
        if self.size == 1:
            return list(parts)
        found = self.everyone([part.detach().cpu() for part in parts])
        return [torch.cat(same).to(part.device) for part, same in zip(parts, zip(*found, strict=True), strict=True)]

    def everyone(self, value: T) -> list[T]:
        """What each process says, by rank; pickled on the way, which goes from process to process alone."""
        said: list[Any] = [value] * self.size
        if self.size > 1:
            with answered():
                dist.all_gather_object(said, value)
        return said

    def first(self, value: T) -> T:
        """What rank 0 says."""
        said = [value]
        if self.size > 1:
            with answered():
                dist.broadcast_object_list(said, src=0)
        return said[0]

    def passed(self, value: T | None, source: int) -> T | None:
        """What rank `source` says, on rank 0; None elsewhere. Between others than these two nothing is sent."""
        said, cpu = [value], torch.device("cpu")
        with answered():
            if self.rank == source != 0:
                dist.send_object_list(said, dst=0, device=cpu)
            elif self.leads and source != 0:
                dist.recv_object_list(said, src=source, device=cpu)
        return said[0] if self.leads else None

    def in_turn(self, found: Sequence[T], num: int) -> list[T]:
        """All `num` things in order, of which this process has made number rank, rank + size, ..."""
        every = self.everyone(list(found))
        return [every[i % self.size][i // self.size] for i in range(num)]

    def any(self, value: bool) -> bool:
        """Whether one of them says yes."""
        if self.size == 1:
            return value
        flag = torch.tensor(int(value))
        with answered():
            dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag)

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """Rank 0 does what is inside before the others do it, who find what it wrote."""
        if not self.leads:
            self.first(None)
        yield
        if self.leads:
            self.first(None)

    def copy(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of rank 0, by name; those that a process has of the same name and shape are overwritten."""
        if self.size == 1:
            return dict(tensors)
        said = self.first([(name, tuple(t.shape), t.dtype, t.device.type) for name, t in tensors.items()])
        found = {}
        for name, shape, dtype, kind in said:
            mine = tensors.get(name)
            if mine is None or (tuple(mine.shape), mine.dtype, mine.device.type) != (shape, dtype, kind):
                mine = torch.empty(shape, dtype=dtype, device=kind)
            with answered(), torch.no_grad():
                dist.broadcast(mine, src=0)
            found[name] = mine
        return found

    def require_same(self, facts: Mapping[str, Any]) -> None:
        """Refuse to work with processes that were given something else.

        Raises:
            ConfigError: the first fact that differs, and on which process.
        """
        every = self.everyone({**facts, "host": socket.gethostname()})
        for rank, its in enumerate(every):
            for name in facts:
                if its.get(name) != every[0].get(name):
                    raise ConfigError(
                        f"process {rank} of {self.size} (on {its['host']}) has another {name} than process 0 (on "
                        f"{every[0]['host']}): {its.get(name)}, and {every[0].get(name)} there. Start all of them with "
                        "the same command, code and data."
                    )


def here() -> World:
    """The world that this process has joined; one of itself alone where it has joined none."""
    if dist.is_available() and dist.is_initialized():
        return World(rank=dist.get_rank(), size=dist.get_world_size())
    return World()


@contextmanager
def answered(*, only: bool = True) -> Iterator[None]:
    """Where the other processes are waited for.

    Args:
        only: whether nothing else is done there, so that no error is of anything else.

    Raises:
        ConnectionAbortedError: one of them ended, or gave no answer within the time-out.
    """
    try:
        yield
    except RuntimeError as error:
        if not (only or isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        its = here()
        raise ConnectionAbortedError(
            errno.ECONNABORTED,
            f"process {its.rank} of {its.size} lost another one, which ended or gave no answer within "
            f"{timeout().total_seconds():g} s. What was saved is whole; the same command goes on from there.",
        ) from error


def timeout() -> timedelta:
    """How long processes wait for each other."""
    try:
        return timedelta(seconds=float(os.environ.get("EBBFLOW_TIMEOUT") or SECONDS))
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"EBBFLOW_TIMEOUT is a number of seconds, got {os.environ['EBBFLOW_TIMEOUT']!r}.") from error


def launched() -> World:
    """What a launcher said in the environment: rank and size.

    Raises:
        ConfigError: it said something that is none.
    """
    names = ("RANK", "WORLD_SIZE") if os.environ.get("WORLD_SIZE") else ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
    try:
        rank, size = (int(os.environ.get(name) or default) for name, default in zip(names, (0, 1), strict=True))
    except ValueError as error:
        raise ConfigError(f"{names[0]} and {names[1]} have to be numbers; a launcher sets them ({error}).") from error
    if not 0 <= rank < size:
        raise ConfigError(f"{names[0]}={rank} is no rank of {size} processes ({names[1]}). Let the launcher set both.")
    return World(rank=rank, size=size)


def local_rank() -> int:
    """Which of the processes of its machine this is: the number of its device."""
    return int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)


def join() -> Store:
    """Meet the other processes that a launcher started; a store that all of them see. `leave` ends it.

    Raises:
        ConfigError: the launcher named no place to meet, its port is taken, or not all came within the time-out.
    """
    from torch.distributed.rendezvous import rendezvous

    world, wait = launched(), timeout()
    os.environ.update(RANK=str(world.rank), WORLD_SIZE=str(world.size))
    wanting = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if wanting:
        raise ConfigError(
            f"{world.size} processes were started, and {' and '.join(wanting)} do not say where they meet. Start them "
            "with torchrun, or set both to the first machine's name and a free port."
        )
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        store, _, _ = next(rendezvous("env://", timeout=wait))
        backend = "gloo"
        if torch.cuda.is_available():
            backend = "cpu:gloo,cuda:nccl"
            torch.cuda.set_device(local_rank() % torch.cuda.device_count())
        dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size, timeout=wait)
    except (RuntimeError, ValueError) as error:
        taken = "EADDRINUSE" in str(error) or "address already in use" in str(error)
        why = f"the port of {place} is in use" if taken else f"they did not all come to {place}"
        raise ConfigError(
            f"the {world.size} processes that were started did not meet within {wait.total_seconds():g} s: {why}. "
            f"{'Set MASTER_PORT to a free one' if taken else 'Start as many as WORLD_SIZE says'}."
        ) from error
    return store


def leave() -> None:
    """Part from the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def require_joined() -> None:
    """Refuse to be one of several processes that have not met, which would all write into one folder.

    Raises:
        ConfigError: a launcher started several, and nobody called `join`.
    """
    size = launched().size
    if size != here().size:
        raise ConfigError(
            f"this is one of {size} processes that a launcher started (WORLD_SIZE={size}), and they have not met. Call "
            "ebbflow.training.world.join() first, or start it without the launcher."
        )
