"""A contestant: one library with its own loop, its own sampler and, where it has one, its own example on MNIST."""

from __future__ import annotations

import sys
import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

Walk = Callable[[Tensor], Tensor]
METHODS = ("ddim", "heun", "dpmpp_2m")
PIECE = 250  # samples drawn at a time


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training under way.

    Args:
        losses: takes an optimiser step and yields its loss, endlessly.
        batch_size: pictures a step.
        net: what is trained.
        draw: (num, classes) -> samples in [-1, 1] of shape (num, 1, 28, 28), with the averaged weights where the
            library keeps them; the classes are left alone where the model knows none. None where nothing is sampled.
        conditional: whether it obeys the classes.
        settings: what a reader wants to know, in a line.
    """

    losses: Iterator[float]
    batch_size: int
    net: nn.Module
    draw: Callable[[int, Tensor], Tensor] | None = None
    conditional: bool = False
    settings: str = ""


class Contestant(ABC):
    """What a library does with our net, and with its own.

    `loop` and `example` name the files that its two trainings follow, `does` what its loop does besides forward,
    backward and the optimiser.
    """

    loop: ClassVar[str]
    does: ClassVar[str] = ""
    example: ClassVar[str] = ""

    def __init__(self, data_dir: str | None = None) -> None:
        self.data_dir = data_dir

    @abstractmethod
    def shared(self, net: nn.Module, batch_size: int) -> Training:
        """The library's own loop on a net of ours."""

    def own(self) -> Training | None:
        """The library's own net as its example trains it; None where it has none."""
        return None

    def walk(self, net: nn.Module, method: str, num_steps: int) -> Walk | None:
        """The library's sampler of a name in `METHODS` on a net that predicts eps at the 1000 steps of a linear beta
        schedule: noise -> samples; None where it has no such sampler."""
        return None


def stand_in(*names: str) -> None:
    """Modules that a library imports at the top and never needs here, as empty ones that answer any name with a class.

    torchvision is the usual one: its wheel does not load beside CPU builds of PyTorch.
    """

    class Anything(types.ModuleType):
        __path__: list[str] = []

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return Nothing

    for name in names:
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            whole = ".".join(parts[:end])
            if whole not in sys.modules:
                sys.modules[whole] = Anything(whole)
                if end > 1:
                    setattr(sys.modules[".".join(parts[: end - 1])], parts[end - 1], sys.modules[whole])


class Nothing:
    """Any class of a module that only stands in."""

    def __init__(self, *args: Any, **options: Any) -> None: ...

    def __call__(self, *args: Any, **options: Any) -> Any:
        raise RuntimeError("this module only stands in for one that the benchmark does not install.")


def alpha_bars(num: int = 1000) -> Tensor:
    """alpha^2 of the linear beta schedule that all samplers are compared on, float64 (num,)."""
    return torch.cumprod(1 - torch.linspace(1e-4, 0.02, num, dtype=torch.float64), 0)


def by_batches(draw: Callable[[Tensor], Tensor], labels: Tensor) -> Tensor:
    """Samples of many classes, drawn `PIECE` at a time."""
    return torch.cat([draw(part) for part in labels.split(PIECE)])
