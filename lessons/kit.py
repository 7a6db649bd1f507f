"""What the lessons share, in plain PyTorch: real digits, the small net that lesson 7 takes apart, and a way to draw."""

from __future__ import annotations

import gzip
import math
import os
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

FILES = Path(__file__).parents[1] / "src" / "ebbflow" / "data" / "files" / "mnist_small"
INK = plt.get_cmap("gray_r")


def few(num: int) -> int:
    """`num`, or LESSON_STEPS where that is set to less: a lesson that is shortened shows worse pictures."""
    return min(num, int(os.environ.get("LESSON_STEPS", num)))


def digits(part: str = "train") -> tuple[Tensor, Tensor]:
    """MNIST's digits, cut to 24 x 24: float32 (N, 1, 24, 24) in [-1, 1] and labels; 10,000 of "train", 2,000 of
    "t10k"."""
    files = (FILES / f"{part}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1"))
    pixels, names = (bytearray(gzip.decompress(file.read_bytes())) for file in files)
    images = torch.frombuffer(pixels, dtype=torch.uint8, offset=16).view(-1, 1, 28, 28)
    labels = torch.frombuffer(names, dtype=torch.uint8, offset=8).long()
    return images[:, :, 2:26, 2:26] / 127.5 - 1, labels


class Block(nn.Module):
    """norm, convolution, norm, scaled and shifted by what is known of time and label, convolution; and the input."""

    def __init__(self, channels_in: int, channels: int, told: int = 128) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, channels_in), nn.Conv2d(channels_in, channels, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(8, channels), nn.Conv2d(channels, channels, 3, padding=1)
        self.told = nn.Linear(told, 2 * channels)
        self.skip = nn.Identity() if channels_in == channels else nn.Conv2d(channels_in, channels, 1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        scale, shift = self.told(told)[:, :, None, None].chunk(2, dim=1)
        h = self.norm2(self.conv1(F.silu(self.norm1(x)))) * (1 + scale) + shift
        return self.skip(x) + self.conv2(F.silu(h))


class Told(nn.Module):
    """A time in [0, 1] and a label, 10 for none, as a vector of 128 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, 128))
        self.label = nn.Embedding(11, 128)

    def forward(self, t: Tensor, label: Tensor) -> Tensor:
        angles = t[:, None].float() * torch.exp(torch.linspace(0, math.log(1000), 32))
        return F.silu(self.layers(torch.cat([angles.sin(), angles.cos()], dim=1)) + self.label(label))


class Net(nn.Module):
    """A U-Net of 0.35 M weights: 2 x 2 pixels make a place, places of 12 x 12, 6 x 6 and 3 x 3, and back up.

    Call with x (B, 1, 24, 24), t (B,) in [0, 1] and label (B,), 10 for none; gives the shape of x.
    """

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        w, v = width, 2 * width
        self.told, self.stem = Told(), nn.Conv2d(4, w, 3, padding=1)
        self.fine, self.mid, self.coarse, self.middle = Block(w, w), Block(v, v), Block(v, v), Block(v, v)
        self.down1, self.down2 = nn.Conv2d(w, v, 3, 2, 1), nn.Conv2d(v, v, 3, 2, 1)
        self.up2, self.up1 = nn.Conv2d(v, 4 * v, 1), nn.Conv2d(v, 4 * w, 1)
        self.mid_up, self.fine_up = Block(2 * v, v), Block(2 * w, w)
        self.out = nn.Sequential(nn.GroupNorm(8, w), nn.SiLU(), nn.Conv2d(w, 4, 3, padding=1))
        self.keep = nn.Linear(128, 1)  # how much of x itself: in much noise, the noise is nearly x
        nn.init.zeros_(self.out[2].weight)

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        told = self.told(t, label)
        fine = self.fine(self.stem(F.pixel_unshuffle(x, 2)), told)
        mid = self.mid(self.down1(fine), told)
        h = self.middle(self.coarse(self.down2(mid), told), told)
        h = self.mid_up(torch.cat([F.pixel_shuffle(self.up2(h), 2), mid], dim=1), told)
        h = self.fine_up(torch.cat([F.pixel_shuffle(self.up1(h), 2), fine], dim=1), told)
        return F.pixel_shuffle(self.out(h), 2) + self.keep(told)[:, :, None, None] * x


def descend(optimiser: torch.optim.Optimizer, loss: Tensor, done: float) -> None:
    """A step of the optimiser. Its rate rises over the first 7 % of the training, and falls to 0 until `done` is 1."""
    for group in optimiser.param_groups:
        group["lr"] = optimiser.defaults["lr"] * min(1, done / 0.07) * (1 - done)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


class Replay:
    """Noise that a lesson has drawn, in the order in which it drew it, for a sampler of ebbflow."""

    def __init__(self, draws: Sequence[Tensor]) -> None:
        self.draws, self.seeds = list(draws), range(len(draws[0]) if len(draws) else 0)

    def like(self, x: Tensor) -> Tensor:
        return self.draws.pop(0).to(x)


def strip(axis: Axes, images: Tensor, name: str = "", heads: Sequence[str] = ()) -> None:
    """Images (N, 1, H, W) in [-1, 1] side by side as ink on paper, `name` on the left, `heads` above."""
    num, _, height, width = images.shape
    paper = F.pad(images.detach().clamp(-1, 1), (1, 1, 1, 1), value=-1)
    axis.imshow(paper[:, 0].permute(1, 0, 2).reshape(height + 2, -1), cmap=INK, vmin=-1, vmax=1)
    axis.set_xticks([]), axis.set_yticks([])
    axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10)
    for i, head in zip(range(num), heads, strict=False):
        axis.text((i + 0.5) * (width + 2), -2, head, ha="center", va="bottom", fontsize=9)
    for spine in axis.spines.values():
        spine.set_color("0.8")


def save(figure: Figure, name: str) -> None:
    """Keep the picture as NAME.png, here or in LESSON_PICTURES."""
    folder = Path(os.environ.get("LESSON_PICTURES", "."))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    figure.savefig(path, dpi=110, bbox_inches="tight")
    Image.open(path).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
