"""What may be asked of the tools: info, list, doctor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ebbflow.requests.base import Doc, Flag, Place
from ebbflow.requests.shared import Ckpt, Report


@dataclass(frozen=True, kw_only=True)
class InfoRequest(Report):
    """Say what a run is: configuration, data, steps, held-out loss, versions."""

    ckpt: Annotated[Ckpt, Place(), Flag("--ckpt")]


@dataclass(frozen=True, kw_only=True)
class ListRequest(Report):
    """List what there is to choose from, or what can be set of one choice."""

    kind: Annotated[str | None, Place(), Doc("samplers, paths, grids, nets, data sets, ...; all lists by default.")] = (
        None
    )
    name: Annotated[str | None, Place(), Doc("One of them, such as heun: its options and their defaults.")] = None


@dataclass(frozen=True, kw_only=True)
class DoctorRequest(Report):
    """Check this machine: versions, devices, speed features, extras, data folder, and what would go wrong."""
