"""Noise with one seed a sample: sample i comes out the same at any batch size and on any number of devices."""

from __future__ import annotations

import hashlib
import math
import reprlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ebbflow.core.device import sent

_BLOCK = 8  # draws of a small sample are made so many at a time: one generator call a sample serves eight steps
_SMALL = 4096  # numbers of a sample up to which the call is worth sharing


class Noise:
    """Standard normal draws, row i from a generator of its own seeded with `seeds[i]`.

    Draws are made in float32 on the CPU and then moved, so that they do not depend on dtype or device. An instance is a
    stream: each call of `like` goes on where the last one stopped, so make a new one for a new run. The first draw is
    made alone, because deterministic samplers ask for no second; values are those of the first version in the first
    draw of 16 numbers or more a sample, and others elsewhere.

    Args:
        seeds: one non-negative integer a sample, shape (B,).
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.seeds = [int(seed) for seed in seeds]
        if any(seed < 0 for seed in self.seeds):
            raise ValueError(f"seeds must be 0 or more, got {min(self.seeds)}.")
        self._generators = [torch.Generator().manual_seed(seed) for seed in self.seeds]
        self._block: tuple[Tensor, ...] = ()
        self._is_fresh = True

    def __repr__(self) -> str:
        return f"Noise({reprlib.repr(self.seeds)})"

    def like(self, x: Tensor) -> Tensor:
        """The next draw, of the shape, dtype and device of `x`.

        Raises:
            ValueError: `x` has another number of samples than there are seeds.
        """
        if x.shape[0] != len(self.seeds):
            raise ValueError(f"this noise has {len(self.seeds)} seeds, one a sample; got a batch of {x.shape[0]}.")
        return sent(self.draw(tuple(x.shape[1:])), x.device).to(x.dtype)

    def draw(self, dims: tuple[int, ...]) -> Tensor:
        """The next draw, float32 on the CPU, shape (B, *dims)."""
        if not self._block or self._block[0].shape[1:] != dims:
            self._block = self._draws(1 if self._is_fresh or math.prod(dims) > _SMALL else _BLOCK, dims)
            self._is_fresh = False
        draw, *rest = self._block
        self._block = tuple(rest)
        return draw

    def _draws(self, num: int, dims: tuple[int, ...]) -> tuple[Tensor, ...]:
        rows = torch.empty(len(self.seeds), num, *dims, dtype=torch.float32, device="cpu")
        for row, generator in zip(rows, self._generators, strict=True):
            row.normal_(generator=generator)
        return rows.unbind(1)


def derive_seed(seed: int, *tags: int | str) -> int:
    """A seed for one purpose out of a run's seed, e.g. (seed, "step", 500); stable across versions and machines."""
    digest = hashlib.blake2b(repr((seed, *tags)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator_for(seed: int, *tags: int | str) -> torch.Generator:
    """A fresh CPU generator for one purpose of a run; see `derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(seed, *tags))


@contextmanager
def fresh_weights(seed: int) -> Iterator[None]:
    """Layers made inside get the same initial weights for the same seed; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
