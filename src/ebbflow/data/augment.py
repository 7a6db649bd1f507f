"""Making more of the pictures that one has, where a picture stays one of its kind."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from ebbflow.data.dataset import Dataset
from ebbflow.data.on_demand import OnDemand


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Each picture mirrored with probability 1/2, and cut to a random square of at least 1 - `crop` of its side that is
    brought back to its size.

    Args:
        flip: whether pictures are mirrored, left for right.
        crop: the most that a side loses, in [0, 1); 0 cuts nothing.
    """

    flip: bool = False
    crop: float = 0.0

    def __call__(self, x0: Tensor, generator: torch.Generator, *, whole: int | None = None, first: int = 0) -> Tensor:
        """Pictures (B, C, H, W) in [-1, 1] of others; four draws of `generator` a row, whatever is asked for.

        Args:
            whole, first: of a share of a batch, the rows of that and which of them comes first.
        """
        draws = torch.rand(whole or len(x0), 4, generator=generator)[first : first + len(x0)]
        if self.flip:
            x0 = torch.where(draws[:, 0].reshape(-1, 1, 1, 1) < 0.5, x0.flip(-1), x0)
        return self._cropped(x0, draws) if self.crop else x0

    def _cropped(self, x0: Tensor, draws: Tensor) -> Tensor:
        scale = 1 - self.crop * draws[:, 1]
        theta = torch.zeros(len(x0), 2, 3)
        theta[:, 0, 0] = theta[:, 1, 1] = scale
        theta[:, :, 2] = (1 - scale)[:, None] * (2 * draws[:, 2:] - 1)  # the square stays inside the picture
        places = affine_grid(theta.to(x0), list(x0.shape), align_corners=False)
        cut = grid_sample(x0, places, mode="bicubic", padding_mode="reflection", align_corners=False)
        return cut.clamp(-1, 1)


def mirrored(data: Dataset) -> Dataset:
    """Pictures and then their mirror images, each with the condition of its picture."""
    both = data.select(torch.arange(len(data)).repeat(2))
    return replace(both, x=data.x.mirrored() if isinstance(data.x, OnDemand) else torch.cat([data.x, data.x.flip(-1)]))
