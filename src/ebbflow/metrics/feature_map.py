"""A map from samples to the features that metrics compare, and one that a net makes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class FeatureMap(ABC):
    """A map from samples to features.

    Args:
        name: its kind and its weights in a word, such as "pca64-1a2b3c4d"; part of the cache's keys.
        dim: features a sample.
        facts: what JSON may say of it: "sha256" of its weights, and how it was made.
    """

    name: str
    dim: int
    facts: dict[str, Any]

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Features float32 (B, dim) on the CPU of x0 float32 (B, *dims), images in [-1, 1]."""


@dataclass(frozen=True, kw_only=True)
class NetFeatures(FeatureMap, Generic[N]):
    """What a net makes of samples.

    Args:
        net: in evaluation, without gradients.
        device: where it is.
    """

    net: N
    device: torch.device

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        return self.net(x.to(self.device)).float().cpu()


def in_colour(x: Tensor) -> Tensor:
    """Images (B, C, H, W) with three channels: grey ones are repeated, opacity is left out."""
    x = x[:, :3].float()
    return x if x.shape[1] == 3 else x[:, :1].expand(-1, 3, -1, -1)
