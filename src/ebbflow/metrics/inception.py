"""Inception-v3 as the Frechet Inception Distance of papers has it, with weights that the user brings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ebbflow.data import Dataset
from ebbflow.errors import CheckpointError, ConfigError
from ebbflow.files import load_tensors
from ebbflow.metrics.cache import tensor_hash
from ebbflow.metrics.feature_map import NetFeatures, in_colour

SIDE, DIM = 299, 2048
CONVERT = (
    'python -c "import sys, torch, safetensors.torch as s; s.save_file({k: v.clone() for k, v in '
    'torch.load(sys.argv[1], weights_only=True).items()}, sys.argv[2])" '
    "pt_inception-2015-12-05-6726825d.pth inception.safetensors"
)
Kernel = tuple[int, int]
Layer = tuple[str, int, Kernel, int]  # name in the weights, channels out, kernel, stride; a stride of 2 has no padding
ACROSS, DOWN, ONE, THREE, FIVE = (1, 7), (7, 1), (1, 1), (3, 3), (5, 5)


class Conv(nn.Module):
    """A convolution without bias, batch normalisation as it was left, ReLU."""

    def __init__(self, channels_in: int, channels: int, kernel: Kernel, stride: int = 1, *, pad: bool = True) -> None:
        super().__init__()
        padding = tuple(side // 2 if pad else 0 for side in kernel)
        self.conv = nn.Conv2d(channels_in, channels, kernel, stride, padding, bias=False)  # type: ignore[arg-type]
        self.bn = nn.BatchNorm2d(channels, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Branches beside each other, their channels put together, and last a pooled branch.

    Args:
        channels_in: of the input.
        branches: chains of layers; two names in one layer, such as "2a 2b" (1x3 and 3x1), see the same input and are
            put together.
        pool: channels of a 1x1 convolution behind the pooling, or 0 for pooling with stride 2 alone.
        largest: pool by the maximum.
    """

    def __init__(self, channels_in: int, branches: Sequence[Sequence[Layer]], pool: int, *, largest: bool) -> None:
        super().__init__()
        self.chains = [[name.split() for name, *_ in chain] for chain in branches]
        self.largest, self.channels = largest, pool or channels_in
        for chain in branches:
            width = channels_in
            for names, out, kernel, stride in chain:
                for k, name in enumerate(names.split()):
                    turned = kernel if k == 0 else kernel[::-1]
                    self.add_module(name, Conv(width, out, turned, stride, pad=stride == 1))
                width = out * len(names.split())
            self.channels += width
        self.branch_pool = Conv(channels_in, pool, ONE) if pool else None

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for chain in self.chains:
            h = x
            for names in chain:
                h = torch.cat([self.get_submodule(name)(h) for name in names], dim=1)
            found.append(h)
        if self.branch_pool is None:
            return torch.cat([*found, functional.max_pool2d(x, 3, 2)], dim=1)
        pooled = (
            functional.max_pool2d(x, 3, 1, 1)
            if self.largest
            else functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        )
        return torch.cat([*found, self.branch_pool(pooled)], dim=1)


def _chain(name: str, *layers: tuple[Any, ...]) -> list[Layer]:
    """Layers (channels, kernel) or (channels, kernel, stride) called `name`_1, _2, ...; a single one `name`."""
    return [
        (f"{name}_{i}" if len(layers) > 1 else name, *(layer if len(layer) == 3 else (*layer, 1)))
        for i, layer in enumerate(layers, 1)
    ]


def _fives(width: int, pool: int) -> Mixed:
    dbl = _chain("branch3x3dbl", (64, ONE), (96, THREE), (96, THREE))
    return Mixed(
        width,
        [_chain("branch1x1", (64, ONE)), _chain("branch5x5", (48, ONE), (64, FIVE)), dbl],
        pool,
        largest=False,
    )


def _sevens(width: int, inner: int) -> Mixed:
    seven = _chain("branch7x7", (inner, ONE), (inner, ACROSS), (192, DOWN))
    dbl = _chain("branch7x7dbl", (inner, ONE), (inner, DOWN), (inner, ACROSS), (inner, DOWN), (192, ACROSS))
    return Mixed(width, [_chain("branch1x1", (192, ONE)), seven, dbl], 192, largest=False)


def _wide(width: int, *, largest: bool) -> Mixed:
    three: list[Layer] = [("branch3x3_1", 384, ONE, 1), ("branch3x3_2a branch3x3_2b", 384, (1, 3), 1)]
    dbl: list[Layer] = [
        ("branch3x3dbl_1", 448, ONE, 1),
        ("branch3x3dbl_2", 384, THREE, 1),
        ("branch3x3dbl_3a branch3x3dbl_3b", 384, (1, 3), 1),
    ]
    return Mixed(width, [_chain("branch1x1", (320, ONE)), three, dbl], 192, largest=largest)


class Inception(nn.Module):
    """The 2,048 pooled features of Inception-v3 (Szegedy et al., 2015, 1512.00567), of images (B, C, H, W) in [-1, 1].

    As the network of 2015 that the distance is defined by, not the later one: pooled borders are means of what is
    there, and the last block pools by the maximum (Heusel et al., 2017, 1706.08500). Images are brought to 299x299
    bilinearly, without antialiasing; grey ones are repeated in three channels, opacity is left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, THREE, 2, pad=False)
        self.Conv2d_2a_3x3 = Conv(32, 32, THREE, pad=False)
        self.Conv2d_2b_3x3 = Conv(32, 64, THREE)
        self.Conv2d_3b_1x1 = Conv(64, 80, ONE)
        self.Conv2d_4a_3x3 = Conv(80, 192, THREE, pad=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _fives(192, 32), _fives(256, 64), _fives(288, 64)
        dbl = _chain("branch3x3dbl", (64, ONE), (96, THREE), (96, THREE, 2))
        self.Mixed_6a = Mixed(288, [_chain("branch3x3", (384, THREE, 2)), dbl], 0, largest=True)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = (_sevens(768, n) for n in (128, 160, 160, 192))
        three = _chain("branch3x3", (192, ONE), (320, THREE, 2))
        seven = _chain("branch7x7x3", (192, ONE), (192, ACROSS), (192, DOWN), (192, THREE, 2))
        self.Mixed_7a = Mixed(768, [three, seven], 0, largest=True)
        self.Mixed_7b, self.Mixed_7c = _wide(1280, largest=False), _wide(2048, largest=True)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.interpolate(in_colour(x), size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        for name, block in self.named_children():
            h = block(h)
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                h = functional.max_pool2d(h, 3, 2)
        return h.mean((2, 3))


def inception(source: str, data: Dataset, device: torch.device) -> NetFeatures[Inception]:
    """Inception with the weights in a safetensors file, or a folder that holds one as inception.safetensors.

    Args:
        source: pytorch-fid's pt_inception-2015-12-05-6726825d.pth as safetensors; the message says how to convert it.

    Raises:
        ConfigError: data that is no images, or a file that is missing or of something else.
    """
    if not data.is_image:
        raise ConfigError(f"features 'inception' are of images, and data set {data.name!r} holds points.")
    path = Path(source).expanduser()
    path = path / "inception.safetensors" if path.is_dir() else path
    net = Inception()
    try:
        tensors = load_tensors(path)
    except CheckpointError as error:
        raise ConfigError(f"{error} Make it of the weights of pytorch-fid: {CONVERT}") from error
    own = net.state_dict()
    counts = {name for name in own if name.endswith("num_batches_tracked")}
    wrong = [n for n in own if n not in counts and (n not in tensors or tensors[n].shape != own[n].shape)]
    if wrong:
        raise ConfigError(f"{path} is not Inception-v3: {wrong[0]} is missing or of another shape. {CONVERT}")
    net.load_state_dict({name: tensors[name] for name in own if name not in counts}, strict=False)
    net.to(device).eval().requires_grad_(False)
    digest = tensor_hash(*(tensors[name] for name in sorted(own) if name not in counts))
    facts = {"source": source, "sha256": digest, "side": SIDE}
    return NetFeatures(net=net, name=f"inception-{digest[:8]}", dim=DIM, facts=facts, device=device)
