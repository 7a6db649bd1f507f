"""Placeholder for the open model of `runs.model`, of the same shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ebbflow.conditioning import DataFacts
from ebbflow.core.condition import Cond, Condition
from ebbflow.latent import LatentSpace
from ebbflow.methods.denoise import Denoiser


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """How a model is sampled when nothing else is said; the fields of `SampleConfig`, `grid` an object."""

    sampler: str
    num_steps: int
    grid: Any
    guidance: float = 1.0
    clip: bool = False
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Model:
    """An open model: a denoiser, what its data is like, how a user's words become conditions, and its latent space."""

    denoiser: Denoiser
    facts: DataFacts
    read: Callable[[Sequence[Condition]], Cond] | None
    space: LatentSpace | None
    defaults: Defaults
    name: str
