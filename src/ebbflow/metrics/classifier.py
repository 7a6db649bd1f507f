"""A small classifier of a data set, trained on demand: its penultimate layer gives the features of the metrics."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ebbflow.core.noise import generator_for
from ebbflow.data import Dataset
from ebbflow.metrics.learning import LearnerTask
from ebbflow.training.batches import Batch
from ebbflow.training.task import Draw, Loss

LARGE, SEEN = 64, 128  # sides above which the first convolution takes 4x4 pixels a place, and twice which it averages


class ClassifierNet(nn.Module):
    """Strided 3x3 convolutions down to a side of at most 8, then two linear layers; points skip the convolutions.

    Images of 256 pixels and more are averaged to fewer first (`shrunk`): it knows nothing of finer detail.

    Args:
        dims: (C, H, W) of images or (D,) of points.
        num_classes: at least 1.
        num_features: width of the layer before the last.
    """

    scale: Tensor

    def __init__(self, dims: tuple[int, ...], num_classes: int, num_features: int = 128) -> None:
        super().__init__()
        self.dims, self.num_classes, self.num_features = dims, num_classes, num_features
        self.body = _image_body(dims) if len(dims) == 3 else _point_body(dims[0])
        with torch.no_grad():
            width = self.body(shrunk(torch.zeros(1, *dims))).shape[1]
        self.project = nn.Linear(width, num_features)
        self.head = nn.Linear(num_features, num_classes)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, num_features) of x0 (B, *dims)."""
        return self.scale * functional.silu(self.project(self.body(shrunk(x))))

    def rescale(self, factor: float) -> None:
        """Multiply the features by `factor` and leave the classes as they are."""
        with torch.no_grad():
            self.scale.mul_(factor)
            self.head.weight.div_(factor)


def shrunk(x: Tensor) -> Tensor:
    """Images (B, C, H, W) whose larger side is below 256, by averages of squares; others, and points, as they are."""
    factor = max(x.shape[2:], default=0) // SEEN
    return functional.avg_pool2d(x, factor) if factor > 1 else x


def _image_body(dims: tuple[int, ...]) -> nn.Module:
    channels, side, width = dims[0], max(dims[1:]), 32
    side //= max(1, side // SEEN)
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.SiLU()]
    if side > LARGE:
        layers[0], side = nn.Conv2d(channels, width, 7, stride=4, padding=3), (side + 3) // 4
    elif side > 8:
        layers[0], side = nn.Conv2d(channels, width, 5, stride=2, padding=2), (side + 1) // 2
    while (side > 4 and width < 128) or side > 8:
        wider = min(2 * width, 128)
        layers += [nn.Conv2d(width, wider, 3, stride=2, padding=1), nn.GroupNorm(8, wider), nn.SiLU()]
        width, side = wider, (side + 1) // 2
    return nn.Sequential(*layers, nn.Flatten())


def _point_body(dim: int) -> nn.Module:
    return nn.Sequential(nn.Linear(dim, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU())


@dataclass(frozen=True, kw_only=True)
class LabelTask(LearnerTask):
    """Cross-entropy of the classes of clean data, with labels smoothed by 0.05, without augmentation."""

    net: ClassifierNet

    def loss(self, net: nn.Module, batch: Batch, draw: Draw) -> Loss:
        assert isinstance(net, ClassifierNet) and isinstance(batch.cond, Tensor)
        logits = net.head(net(batch.x0)).float()
        return Loss(each=functional.cross_entropy(logits, batch.cond, label_smoothing=0.05, reduction="none"))


def scale_features(net: ClassifierNet, data: Dataset, seed: int, device: torch.device) -> None:
    """Bring the features to a mean variance of 1 over the data."""
    rows = torch.randperm(len(data), generator=generator_for(seed, "scale"))[:10_000]
    features = torch.cat([net(data.x0(part).to(device)).cpu() for part in rows.split(500)])
    net.rescale(float(features.double().var(0).mean()) ** -0.5)


@torch.no_grad()
def accuracy(net: ClassifierNet, data: Dataset, device: torch.device, batch_size: int = 500) -> float | None:
    """The fraction of `data` that `net` gets right; None where there is no data."""
    if len(data) == 0 or data.labels is None:
        return None
    right = 0
    for rows in torch.arange(len(data)).split(batch_size):
        right += int((net.head(net(data.x0(rows).to(device))).argmax(1).cpu() == data.labels[rows]).sum())
    return right / len(data)
