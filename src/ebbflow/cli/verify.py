"""`ebbflow verify`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ebbflow.cli.common import print_json, print_lines, this_command
from ebbflow.cli.progress import watched
from ebbflow.errors import choose
from ebbflow.requests.studies import VerifyRequest

if TYPE_CHECKING:
    from ebbflow.proof.maps import MapVerdict
    from ebbflow.proof.verify import Scope, Verdict

T = TypeVar("T")
NUM_SHOWN = 20
MEANING = """\
error: how far samples are from the exact ones, in standard deviations of the data; of samplers that draw, how far their
mean and variance are. mean off, modes off: of the mean, and of the share of a mode. variance ratio: 1 is exact. With so
few steps they need not be near that: a row is ok when more steps take the error away at the declared order.
"""


def verify(request: VerifyRequest) -> int:
    """Prove every sampler, path, prediction and grid against exact data: order, mean, variance, mode weights, cost.

    Exit code 1 when anything fails. With `--import` and no other choice, only what the module adds is verified.
    """
    from ebbflow.files import write_text
    from ebbflow.proof.verify import verify as verdicts

    plan = _plan(request)
    maps = _maps(request, plan)
    if request.maps is not None and (request.samplers, request.grids) == (None, None):
        plan = replace(plan, samplers={})
    rows = list(watched(verdicts(plan), len(plan), unit="row")) if plan.samplers else []
    if request.output is not None:
        from ebbflow.proof.tables import page

        write_text(request.output, page(rows, this_command(), maps))
    every: list[Verdict | MapVerdict] = [*rows, *maps]
    if request.json:
        print_json([asdict(row) for row in every])
    else:
        if rows:
            _print(rows, request.output)
        _print_maps(maps)
    return 0 if all(row.ok for row in every) else 1


def _maps(request: VerifyRequest, plan: Scope) -> list[MapVerdict]:
    """The verdicts on objectives of maps: of those that are chosen, or of all where nothing else is chosen."""
    from ebbflow.methods.maps import MAPS
    from ebbflow.plugins import loaded
    from ebbflow.proof.maps import verify_maps

    if request.maps is None and (loaded() or not _is_all(request)):
        return []
    return list(verify_maps(_chosen(MAPS, request.maps, "objective of maps"), plan.paths, plan.predictions))


def _print_maps(rows: Sequence[MapVerdict]) -> None:
    from ebbflow.proof.maps import map_table, maps_summary

    if not rows:
        return
    print()
    print_lines(map_table(rows))
    for row in [row for row in rows if not row.ok][:NUM_SHOWN]:
        print(f"not ok: {row.objective} on {row.path} in {row.prediction}: {row.reason}")
    print(maps_summary(rows))


def _plan(request: VerifyRequest) -> Scope:
    """What the request chooses out of the registries."""
    from ebbflow.core.paths import PATHS
    from ebbflow.core.predictions import PREDICTIONS
    from ebbflow.core.times import TIME_GRIDS
    from ebbflow.methods.samplers import SAMPLERS
    from ebbflow.plugins import loaded
    from ebbflow.proof.verify import Scope

    added = frozenset[tuple[str, str]]().union(*(plugin.names for plugin in loaded()))
    plan = Scope(
        samplers=_chosen(SAMPLERS, request.samplers, "sampler"),
        paths={name: make() for name, make in _chosen(PATHS, request.paths, "path").items()},
        predictions=tuple(_chosen(PREDICTIONS, request.predictions, "prediction")),
        grids=_chosen(TIME_GRIDS, request.grids, "time grid"),
        only=added if _is_all(request) else frozenset(),
    )
    return plan.quick() if request.quick else plan


def _is_all(request: VerifyRequest) -> bool:
    """Whether nothing is chosen out of the registries of samplers, paths, predictions and grids."""
    chosen = (request.samplers, request.paths, request.predictions, request.grids)
    return all(names is None for names in chosen)


def _chosen(registry: Mapping[str, T], names: Sequence[str] | None, what: str) -> dict[str, T]:
    return {name: choose(registry, name, what) for name in (registry if names is None else names)}


def _print(rows: Sequence[Verdict], output: Path | None) -> None:
    from ebbflow.proof.tables import failures, order_matrix, sampler_table, summary

    for table in (order_matrix(rows), sampler_table(rows)):
        print_lines(table)
        print()
    print(MEANING)
    found = failures(rows)
    for reason, befallen in found[:NUM_SHOWN]:
        print(f"not ok, {len(befallen)} rows: {reason}")
    if len(found) > NUM_SHOWN:
        print(f"and {len(found) - NUM_SHOWN} more; --output verify.html or --json shows all.")
    print(summary(rows))
    if output is not None:
        print(output)
