"""What may be asked of the tools: info, list, doctor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ebbflow.requests.base import Doc, Flag, Place
from ebbflow.requests.shared import Reporting


@dataclass(frozen=True, kw_only=True)
class InfoRequest(Reporting):
    """What a run is."""

    ckpt: Annotated[str, Place(), Flag("--ckpt"), Doc("The folder of a run or of one of its checkpoints.")]


@dataclass(frozen=True, kw_only=True)
class ListRequest(Reporting):
    """What there is to choose from."""

    kind: Annotated[str | None, Place(), Doc("samplers, paths, grids, nets, data sets, ...; all lists by default.")] = (
        None
    )
    name: Annotated[str | None, Place(), Doc("One of them, such as heun: its options and their defaults.")] = None


@dataclass(frozen=True, kw_only=True)
class DoctorRequest(Reporting):
    """Whether this machine is fit."""
