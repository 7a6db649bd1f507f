"""What every contestant gets alike: the nets, the pictures, the batch, and how operations are counted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from ebbflow.data import load_dataset
from ebbflow.nets.dit import DiTOptions
from ebbflow.nets.unet import UNetOptions

DIMS, BATCH = (1, 28, 28), 64
NETS = {
    "dit": DiTOptions(patch_size=4, dim=256, depth=6, num_heads=4),
    "unet": UNetOptions(channels=(32, 64, 128), num_blocks=2),
}
TITLES = {"dit": "DiT, 256 wide, 6 deep, patch 4", "unet": "U-Net, 32-64-128, 2 blocks a level"}
LIMITS = {"dit": "gemm", "unet": "conv_train"}  # the rate that bounds a net


class Shared(nn.Module):
    """A net of ours as every library calls one: (x, t) -> output of x's shape; `t` a number or a row a sample."""

    def __init__(self, name: str, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.net = NETS[name].build(DIMS, DIMS[0], None)
        self.channels = self.out_dim = DIMS[0]
        self.input_dims, self.self_condition = DIMS, False

    def forward(self, x: Tensor, t: Any, *_: Any, **__: Any) -> Tensor:
        clock = torch.as_tensor(t, dtype=torch.float32, device=x.device).flatten().expand(len(x))
        return self.net(x, clock)


class Free(nn.Module):
    """A net that costs nothing, for what a sampler costs besides: it answers the same noise at every step."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.out = torch.randn(batch, *DIMS)
        self.weight = nn.Parameter(torch.zeros(1))  # some libraries ask a net for its device

    def forward(self, x: Tensor, t: Any, *_: Any, **__: Any) -> Tensor:
        return self.out


@cache
def pictures(data_dir: str | None) -> tuple[Tensor, Tensor]:
    """The training pictures of MNIST in [-1, 1], (N, 1, 28, 28), and their classes; where its files do not lie at hand
    the digits of the package at that size, which cost the same to train on. Nothing is downloaded here."""
    home = Path(data_dir or os.environ.get("EBBFLOW_DATA") or "~/.cache/ebbflow/data").expanduser()
    at_hand = (home / "mnist").is_dir()
    train = load_dataset("mnist", data_dir=home).train if at_hand else load_dataset("digits", size=DIMS[1]).train
    assert train.labels is not None
    return train.x0(torch.arange(len(train))), train.labels


def batches(data_dir: str | None, size: int, *, unit: bool = False) -> Iterator[list[Tensor]]:
    """Endless [pictures, classes] from a DataLoader over tensors in memory: no file is read and nothing decoded, which
    is kinder to every library than its own example; `unit` gives [0, 1] in the place of [-1, 1]."""
    loader = loader_of(data_dir, size, unit=unit)
    while True:
        yield from loader


def loader_of(data_dir: str | None, size: int, *, unit: bool = False) -> DataLoader[Any]:
    """One epoch of `batches`."""
    x, labels = pictures(data_dir)
    return DataLoader(TensorDataset((x + 1) / 2 if unit else x, labels), batch_size=size, shuffle=True, drop_last=True)


def flops_of(net: nn.Module, *args: Any, backward: bool) -> int:
    """Floating-point operations of one call as PyTorch counts them (products and convolutions), a multiplication and an
    addition being two; with `backward` of the gradients too."""
    with FlopCounterMode(display=False) as counter:
        out = net(*args)
        if backward:
            out.sum().backward()
    net.zero_grad(set_to_none=True)
    return int(counter.get_total_flops())


def shared_flops(name: str, batch: int) -> dict[str, int]:
    """Operations of a forward pass and of a training step of a shared net, and its parameters."""
    net, x, t = Shared(name), torch.randn(batch, *DIMS), torch.rand(batch)
    with torch.no_grad():
        forward = flops_of(net, x, t, backward=False)
    return {
        "forward": forward,
        "train": flops_of(net, x, t, backward=True),
        "parameters": sum(p.numel() for p in net.parameters()),
    }
