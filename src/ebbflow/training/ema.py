"""Moving averages of the weights: exponential, and of a power of the time, of which any can be had afterwards."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Protocol

import torch
from annotated_types import Interval
from torch import nn

from ebbflow.training.dealt import own
from ebbflow.values import Below1, Checked, check_fields

SHORTEST = 0.0001  # of a power profile: of exponent ten thousand
LONGEST = 0.28  # of a power profile: that of exponent 0.1; 0.289 is the plain mean of all weights


class EMA:
    """Averages of the weights, updated after each optimiser step; buffers are copied, not averaged.

    Exponential: shadow <- shadow + (1 - d) (weights - shadow) with d = min(decay, (1 + n) / (10 + n)) at update n; the
    warm-up lets a short run forget its initial weights. With `lengths` instead, one shadow for each, with
    d = (1 - 1 / (n + 1))^(g + 1): the weights of step k count as k^g, whatever the number of steps (Karras et al.,
    2023, 2312.02696, section 3.1).

    Args:
        module: the module to follow; copied, once for each length.
        decay: the final d, in [0, 1).
        lengths: standard deviations of the profiles k^g over the steps so far, each as a share of these, in
            [0.0001, 0.28]; 0.1 is about the last fifth of them.
    """

    def __init__(self, module: nn.Module, decay: float = 0.999, *, lengths: Sequence[float] = ()) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"`decay` must be in [0, 1), got {decay}.")
        self.decay, self.num_updates, self.lengths = decay, 0, tuple(lengths)
        self.exponents = tuple(map(exponent_of, self.lengths))
        copies = max(1, len(self.lengths))
        self.modules = [copy.deepcopy(module).requires_grad_(False).eval() for _ in range(copies)]

    @property
    def module(self) -> nn.Module:
        """The module with the averaged weights; of several lengths, the first one's."""
        return self.modules[0]

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The modules by the name under which a checkpoint has them: "ema", then "ema_1", ..."""
        return {f"ema_{i}" if i else "ema": module for i, module in enumerate(self.modules)}

    def decays_at(self, num_updates: int) -> list[float]:
        """d of update `num_updates`, counted from 0, for each module."""
        if self.exponents:
            return [(1 - 1 / (num_updates + 1)) ** (exponent + 1) for exponent in self.exponents]
        return [min(self.decay, (1 + num_updates) / (10 + num_updates))]

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take one step towards the weights of `module`."""
        weights = [own(p.detach()) for p in module.parameters()]
        for shadow, decay in zip(self.modules, self.decays_at(self.num_updates), strict=True):
            torch._foreach_lerp_([own(p.detach()) for p in shadow.parameters()], weights, 1 - decay)
            for mine, other in zip(shadow.buffers(), module.buffers(), strict=True):
                mine.copy_(other)
        self.num_updates += 1


# -- power profiles ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The average of the weights over [0, step] with density (g + 1) tau^g / step^(g + 1).

    Args:
        length: its standard deviation over `step`, in [0.0001, 0.28].
        step: where it was taken, above 0.
    """

    length: float
    step: int

    def times(self, other: Profile) -> float:
        """The integral of the product of both densities."""
        early, late = sorted((self, other), key=lambda one: one.step)
        a, b = exponent_of(early.length), exponent_of(late.length)
        return (a + 1) * (b + 1) * (early.step / late.step) ** b / ((a + b + 1) * late.step)


@cache
def exponent_of(length: float) -> float:
    """The g > 0 whose profile has a standard deviation of `length`: length^2 = (g + 1) / ((g + 2)^2 (g + 3)).

    Raises:
        ValueError: it is not in [0.0001, 0.28].
    """
    if not SHORTEST <= length <= LONGEST:
        raise ValueError(
            f"the length of an average must be in [{SHORTEST}, {LONGEST}], got {length}. 0.1 is a usual one."
        )
    low, high = 0.0, 1 / length
    for _ in range(200):
        middle = (low + high) / 2
        longer = (middle + 1) / ((middle + 2) ** 2 * (middle + 3)) > length**2
        low, high = (middle, high) if longer else (low, middle)
    return (low + high) / 2


def combination(known: Sequence[Profile], wanted: Profile) -> tuple[list[float], float]:
    """The factors with which the averages of `known` profiles come nearest to that of the `wanted` one, by least
    squares of the densities (Karras et al., 2023, section 3.2), and the error that remains, relative to the wanted
    density."""
    gram = torch.tensor([[a.times(b) for b in known] for a in known], dtype=torch.float64)
    right = torch.tensor([a.times(wanted) for a in known], dtype=torch.float64)
    size = gram.diagonal().sqrt()
    scaled = torch.linalg.lstsq(gram / size / size[:, None], (right / size)[:, None], driver="gelsd").solution[:, 0]
    factors = scaled / size
    norm = wanted.times(wanted)
    rest = norm - 2 * factors @ right + factors @ gram @ factors
    return factors.tolist(), math.sqrt(max(float(rest), 0.0) / norm)


def snapshot_interval(step: int, most: int) -> int:
    """Every how many steps an average is kept so that at most `most` of them are, up to `step`: 16 times a power of
    two."""
    interval = 16
    while step // interval > most:
        interval *= 2
    return interval


# -- what a configuration says -----------------------------------------------------------------------------------------


class EmaOptions(Protocol):
    """A kind of average as a frozen dataclass that can build it."""

    @property
    def num_snapshots(self) -> int:
        """How many averages of the past are kept at most; 0 for none."""
        ...

    def build(self, net: nn.Module) -> EMA:
        """The averages of a net."""
        ...


@dataclass(frozen=True, kw_only=True)
class ExponentialOptions(Checked):
    """An exponential average of the weights, d = min(decay, (1 + n) / (10 + n)) at update n.

    Args:
        decay: in [0, 1); the average is over about the last 1 / (1 - decay) steps.
    """

    decay: Below1 = 0.999

    @property
    def num_snapshots(self) -> int:
        """None are kept."""
        return 0

    def build(self, net: nn.Module) -> EMA:
        """The average of a net."""
        return EMA(net, self.decay)


@dataclass(frozen=True, kw_only=True)
class PowerOptions:
    """Averages that weigh step k by a power of k, so that their lengths are shares of the run, however long it is; any
    other length is made of their snapshots afterwards (Karras et al., 2023, 2312.02696).

    Args:
        lengths: of the averages, standard deviations as shares of the run, in [0.0001, 0.28]; sampling uses the first.
        num_snapshots: how many of the past are kept at most, of each length, evenly spread over the steps; 0 for none.
            A snapshot takes 4 bytes a parameter and length.
    """

    lengths: tuple[float, ...] = (0.10, 0.05)
    num_snapshots: Annotated[int, Interval(ge=0, le=1000)] = 16

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.lengths or len(set(self.lengths)) < len(self.lengths):
            raise ValueError(f"`lengths` must be one number or more, all different, got {list(self.lengths)}.")
        for length in self.lengths:
            exponent_of(length)

    def build(self, net: nn.Module) -> EMA:
        """The averages of a net."""
        return EMA(net, lengths=self.lengths)


EMAS: dict[str, type[Any]] = {"exponential": ExponentialOptions, "power": PowerOptions}
