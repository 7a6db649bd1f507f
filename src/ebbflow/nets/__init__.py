"""Nets: (x, clock, context) -> output of the shape of x. They know nothing of paths, and take any number of channels
and any size."""

from __future__ import annotations

from typing import Protocol

from torch import nn

from ebbflow.nets.context import Context, ContextSpec, Injection
from ebbflow.nets.dit import DiTOptions
from ebbflow.nets.mlp import MLPOptions
from ebbflow.nets.unet import UNetOptions


class NetOptions(Protocol):
    """A net's parameters as a frozen dataclass that can build it."""

    def build(self, dims: tuple[int, ...], out_channels: int, context: ContextSpec | None) -> nn.Module:
        """The net for samples of `dims`."""
        ...


NETS: dict[str, type[UNetOptions] | type[DiTOptions] | type[MLPOptions]] = {
    "unet": UNetOptions,
    "dit": DiTOptions,
    "mlp": MLPOptions,
}

__all__ = ["NETS", "Context", "ContextSpec", "Injection", "NetOptions"]
