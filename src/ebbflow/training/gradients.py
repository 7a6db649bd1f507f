"""Gradients of processes that hold all weights each, added up in messages that leave during the backward pass."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ebbflow.training.world import World, answered

BUCKET = 1 << 23  # numbers in one message: 32 MB of float32


class Message:
    """The gradients of some parameters, and one number a parameter that says who has one."""

    def __init__(self, parameters: list[Tensor]) -> None:
        self.parameters, self.waiting = parameters, {id(p) for p in parameters}
        self._sent: tuple[Any, Tensor, list[bool]] | None = None

    def send(self) -> None:
        """Let it go; the gradients are in it alone until it is received."""
        there = [p.grad is not None for p in self.parameters]
        has = torch.tensor(there).to(self.parameters[0])
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        flat = torch.cat([*(part.flatten() for part in parts), has])
        for p in self.parameters:
            p.grad = None
        self._sent = dist.all_reduce(flat, async_op=True), flat, there

    def receive(self) -> None:
        """Wait for it; each gradient is the sum of all then, and one that no process has stays None."""
        assert self._sent is not None
        (work, flat, there), self._sent = self._sent, None
        work.wait()
        *sums, has = flat.split([*(p.numel() for p in self.parameters), len(there)])
        used = there if all(there) else [bool(n) for n in has.tolist()]  # a device is waited for where it must be
        for p, value, is_used in zip(self.parameters, sums, used, strict=True):
            if is_used:
                p.grad = torch.empty_like(p).copy_(value.view_as(p))


@contextmanager
def summed(world: World, parameters: Sequence[Tensor]) -> Iterator[None]:
    """A backward pass, inside, after which each gradient is the sum of those of all processes.

    A message leaves when its last gradient is there and those before it, from the last parameters to the first, have
    left: the same ones in the same order everywhere. What the hooks were not told of leaves at the end.
    """
    if world.size == 1:
        yield
        return
    messages = [Message(group) for group in _groups(parameters)][::-1]
    holder, unsent = {id(p): message for message in messages for p in message.parameters}, deque(messages)

    def ready(p: Tensor) -> None:
        holder[id(p)].waiting.remove(id(p))
        while unsent and not unsent[0].waiting:
            unsent.popleft().send()

    hooks = [p.register_post_accumulate_grad_hook(ready) for p in parameters]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    with answered():
        for message in unsent:
            message.send()
        for message in messages:
            message.receive()


def _groups(parameters: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Parameters of one dtype and device, as many as one message takes."""
    group: list[Tensor] = []
    for p in parameters:
        full = sum(one.numel() for one in group) + p.numel() > BUCKET
        if group and (full or (p.dtype, p.device) != (group[0].dtype, group[0].device)):
            yield group
            group = []
        group.append(p)
    if group:
        yield group
