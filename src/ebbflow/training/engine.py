"""The engine: where and in what precision a net is trained, and one optimiser step on it."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from torch import nn

from ebbflow.core.device import hand_back
from ebbflow.core.noise import derive_seed, fresh_weights
from ebbflow.errors import ConfigError
from ebbflow.nets.fused import fused
from ebbflow.training import dealt, world
from ebbflow.training.batches import Batch
from ebbflow.training.gradients import summed
from ebbflow.training.task import Draw, Joined, Loss, Task

Precision = Literal["auto", "fp32", "bf16"]
Compile = Literal["auto", "on", "off"]


def pick_device(name: str) -> torch.device:
    """The device called `name`; "auto" is CUDA, then MPS, then the CPU; of several processes each takes its own CUDA.

    Raises:
        ValueError: the device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and world.here().size > 1:
        name = f"cuda:{world.local_rank()}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        if why.startswith("Expected one of"):  # and every kind that torch was ever built for
            why = "the kinds are cpu, cuda, cuda:1 and mps"
        raise ValueError(f"device {name!r} is not available here ({why}). Use `device` cpu.") from error
    return device


def pick_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype that the net trains in; "auto" is bfloat16 where the hardware multiplies it."""
    if precision == "auto":
        if device.type == "cuda":
            precision = "bf16" if torch.cuda.is_bf16_supported() else "fp32"
        else:
            precision = "bf16" if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported() else "fp32"
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def pick_compile(compile: Compile, device: torch.device) -> bool:
    """Whether steps are compiled; "auto" on CUDA where there is a compiler, but not on a CPU, where it is known not to
    earn its wait back: 35 to 130 s buy a few hundredths over the operations that are used here.

    Raises:
        ConfigError: "on" without a compiler, of C for CUDA and of C++ elsewhere.
    """
    on_cuda = device.type == "cuda"
    name, kinds = ("CC", ("cc", "gcc", "clang")) if on_cuda else ("CXX", ("c++", "g++", "clang++"))
    can = any(kind and shutil.which(kind) for kind in (os.environ.get(name, ""), *kinds))
    if compile == "on" and not can:
        raise ConfigError(
            f"engine.compile=on needs a {'C' if on_cuda else 'C++'} compiler, and none of {', '.join(kinds[:2])} and "
            f"{kinds[2]} is here. Install one, name it in {name}, or use engine.compile=off."
        )
    return compile == "on" or (compile == "auto" and on_cuda and can)


def in_precision(net: nn.Module, dtype: torch.dtype) -> nn.Module:
    """`net` itself in float32, a copy of it in another dtype; for sampling."""
    return net if dtype == torch.float32 else copy.deepcopy(net).to(dtype)


@contextmanager
def mode(net: nn.Module, *, training: bool) -> Iterator[None]:
    """All of `net` in training or in evaluation, each part as it was afterwards."""
    before = [(module, module.training) for module in net.modules()]
    net.train(training)
    try:
        yield
    finally:
        for module, was in before:
            module.training = was


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What runs a training step: forward in the precision asked for, backward, clipping, the optimiser.

    The weights are float32 throughout; bfloat16 is of the forward pass (autocast), where norms, losses and whatever an
    objective learns stay in float32.

    Args:
        device: "auto", "cpu", "cuda", "cuda:1" or "mps"; None leaves the net where it is.
        precision: "fp32", "bf16", or "auto": bf16 where the hardware multiplies it.
        accumulate: microbatches a step; the gradient is that of the whole batch, up to the order of sums.
        clip: largest gradient norm; infinity for no limit.
        compile: "on" has torch.compile make the forward and backward pass when they are first run; "auto" does so on
            CUDA; "off" never does.
        shard: deal weights, gradients, averages and the optimiser's state out to the processes of a run; with one
            process there is nothing to deal.

    Raises:
        ValueError: no such device, or nothing to accumulate.
        ConfigError: dealt out and compiled.
    """

    device: str | None = "auto"
    precision: Precision = "auto"
    accumulate: int = 1
    clip: float = 1.0
    compile: Compile = "off"
    shard: bool = False
    _called: dict[int, nn.Module] = field(default_factory=dict, init=False, repr=False, compare=False)
    _frames: dict[int, nn.Module] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.accumulate < 1 or not self.clip > 0:
            raise ValueError(
                f"`accumulate` must be at least 1 and `clip` above 0, got {self.accumulate} and {self.clip}."
            )
        if self.shard and self.compile == "on":
            raise ConfigError(
                "engine.compile=on compiles a net whose weights are there, and engine.shard=true deals them out. Use "
                "one of the two."
            )

    @cached_property
    def place(self) -> torch.device | None:
        """The device, None for where the net is."""
        return None if self.device is None else pick_device(self.device)

    @property
    def deals(self) -> bool:
        """Whether weights are dealt out: there are processes to deal them to."""
        return self.shard and world.here().size > 1

    @property
    def workshop(self) -> torch.device | None:
        """Where a run is put together: where it is trained, or the CPU, from which it is dealt out."""
        return torch.device("cpu") if self.deals else self.place

    def settle(self, task: Task, averages: Sequence[nn.Module], optimiser: torch.optim.Optimizer) -> None:
        """Bring a task to where it is trained; of a run that is dealt out, every process has all of it before."""
        if not self.deals:
            task.net.to(self.place)
        elif id(task.net) not in self._frames:
            self._frames.update({id(module): dealt.frame(module) for module in (task.net, *averages)})
            device = self.place or device_of(task.net)
            dtype = torch.float32 if task.is_exact else self.dtype(device)
            dealt.deal(task.net, averages, optimiser, device=device, dtype=dtype)
            hand_back()

    def whole(self, net: nn.Module) -> nn.Module:
        """A net as one process alone can use it: itself, or a copy with all that is dealt out, which every process has
        to ask for."""
        bare = self._frames.get(id(net))
        return net if bare is None else dealt.filled(bare, net, device_of(net))

    def dtype(self, device: torch.device) -> torch.dtype:
        """What the forward pass multiplies in."""
        return pick_precision(self.precision, device)

    def said(self, device: torch.device) -> str:
        """The precision on a device, whether steps are compiled, and the reasons, in a line."""
        if self._compiles(device):
            return f"{self._precision_said(device)}; compiled, which the first step waits for"
        out = f"; dealt out to {world.here().size} processes" if self.deals else ""
        why = "there is no C compiler" if device.type == "cuda" else "on a CPU it does not earn its wait back"
        reason = f": {why}" if self.compile == "auto" else ""
        return f"{self._precision_said(device)}; not compiled{reason}{out}"

    def _precision_said(self, device: torch.device) -> str:
        dtype = self.dtype(device)
        name, kind = str(dtype).removeprefix("torch."), "CPU" if device.type == "cpu" else "device"
        if device.type == "cuda" and dtype == torch.float32:  # what PyTorch is set to, which is not the same of both
            cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
            name = f"float32 (products {cuda.fp32_precision}, convolutions {cudnn.fp32_precision})"
        if self.precision != "auto":
            return f"{name}, as engine.precision={self.precision} asks"
        if dtype == torch.float32:
            return f"{name}: this {kind} does not multiply bfloat16"
        return f"{name}: this {kind} multiplies it (engine.precision=fp32 turns it off)"

    def autocast(self, device: torch.device) -> torch.autocast:
        """The precision of a forward pass, as a context."""
        dtype = self.dtype(device)
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)

    def _compiles(self, device: torch.device) -> bool:
        return not self.deals and pick_compile(self.compile, device)

    def called(self, net: nn.Module) -> nn.Module:
        """`net` as a step calls it: itself, or compiled with the same weights."""
        if not self._compiles(device_of(net)):
            return net
        if id(net) not in self._called:
            inner = net.inner if isinstance(net, Joined) else net
            made: nn.Module = torch.compile(inner, dynamic=False)  # type: ignore[assignment]
            self._called[id(net)] = Joined(made, net.objective) if isinstance(net, Joined) else made
        return self._called[id(net)]

    def backward(self, task: Task, batch: Batch, *, seed: int, step: int, done: float = 0.0) -> Loss:
        """Add the gradient of the mean loss of the whole batch to that of `task.net`; the losses of all its rows.

        Of several processes each works on its share of the rows, in `accumulate` microbatches, and sums are exchanged
        once. A net's own randomness, such as dropout, comes from (seed, step, first row) too.
        """
        device, parts, here = device_of(task.net), [], world.here()
        whole, offset = batch.whole or len(batch), batch.first
        mine = here.share(len(batch)) if batch.whole is None else range(len(batch))
        size = -(-len(mine) // self.accumulate)
        fewest = len(mine) % size or size
        if self.deals and fewest < task.fewest_rows:
            raise ConfigError(
                f"{fewest} row{'s' if fewest > 1 else ''} of a batch at a time {'are' if fewest > 1 else 'is'} too few "
                f"where weights are dealt out (engine.shard): this map wants {task.fewest_rows}, so that some jump and "
                "some do not in every process. Take a larger train.batch_size, or a smaller train.accumulate."
            )
        learning = [p for p in task.net.parameters() if p.requires_grad and not dealt.is_dealt(p)]
        for first in range(mine.start, mine.stop, size):
            rows = range(first, min(first + size, mine.stop))
            part, at = batch.rows(rows, device), range(rows.start + offset, rows.stop + offset)
            draw = Draw(seed=seed, step=step, rows=at, num=whole, done=done)
            is_last = rows.stop == mine.stop
            dealt.exchange(task.net, is_on=is_last)
            with world.answered(only=False):
                with fresh_weights(derive_seed(seed, "net", step, at.start)), self.autocast(device), fused():
                    loss = task.loss(self.called(task.net), part, draw)
                if part.weight is not None:
                    loss = replace(loss, each=loss.each * part.weight)
                with summed(here, learning if is_last else []):
                    loss.each.sum().div(whole).backward()
            parts.append(loss)
        return Loss.joined(parts).gathered(here)


def device_of(net: nn.Module) -> torch.device:
    """Where a net's parameters are."""
    return next(net.parameters()).device
