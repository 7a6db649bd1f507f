"""`ebbflow verify`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from ebbflow.cli.common import print_json, print_rows, read_items, this_command
from ebbflow.errors import ConfigError, choose

if TYPE_CHECKING:
    from ebbflow.plugins import Extension
    from ebbflow.proof.verify import Plan, Verdict

T = TypeVar("T")
NUM_SHOWN = 20


def verify(
    samplers: Annotated[
        str | None, typer.Option(help="Only these, such as heun,dpmpp_2m; see `ebbflow list samplers`.")
    ] = None,
    paths: Annotated[str | None, typer.Option(help="Only these; see `ebbflow list paths`.")] = None,
    predictions: Annotated[str | None, typer.Option(help="Only these; see `ebbflow list predictions`.")] = None,
    grids: Annotated[str | None, typer.Option(help="Only these; see `ebbflow list grids`.")] = None,
    import_: Annotated[
        str | None,
        typer.Option(
            "--import", help="A Python module of yours whose SAMPLERS, PATHS or PREDICTIONS are verified likewise."
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer steps, and predictions and grids one by one, not crossed.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Also write all rows as one page (.html).")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print an array of rows.")] = False,
) -> None:
    """Prove every sampler, path, prediction and grid against exact data: order, mean, variance, mode weights, cost.

    Exit code 1 when anything fails. With --import and no other choice, only what the module adds is verified.
    """
    from ebbflow.plugins import extended, load_extension

    if output is not None and output.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--output wants a file ending in .html, got {output.name!r}.")
    extension = None if import_ is None else load_extension(import_)
    with nullcontext() if extension is None else extended(extension):
        rows = _rows(_plan(samplers, paths, predictions, grids, extension, quick))
    if output is not None:
        from ebbflow.proof.tables import page

        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(page(rows, this_command()), encoding="utf-8")
    if json:
        print_json([asdict(row) for row in rows])
    else:
        _print(rows, output)
    if not all(row.ok for row in rows):
        raise typer.Exit(1)


def _plan(
    samplers: str | None,
    paths: str | None,
    predictions: str | None,
    grids: str | None,
    extension: Extension | None,
    quick: bool,
) -> Plan:
    """What the flags choose out of the registries."""
    from ebbflow.core.paths import PATHS
    from ebbflow.core.predictions import PREDICTIONS
    from ebbflow.core.times import TIME_GRIDS
    from ebbflow.methods.samplers import SAMPLERS
    from ebbflow.proof.verify import Plan

    free = all(text is None for text in (samplers, paths, predictions, grids))
    plan = Plan(
        samplers=_chosen(SAMPLERS, samplers, "sampler"),
        paths={name: make() for name, make in _chosen(PATHS, paths, "path").items()},
        predictions=tuple(_chosen(PREDICTIONS, predictions, "prediction")),
        grids=_chosen(TIME_GRIDS, grids, "time grid"),
        only=extension.names if extension is not None and free else frozenset(),
    )
    return plan.quick() if quick else plan


def _chosen(registry: Mapping[str, T], text: str | None, what: str) -> dict[str, T]:
    names = registry if text is None else [name for name in read_items(text) if name]
    if not names:
        raise ConfigError(f"the list of {what}s is empty. Leave the flag out for all of them.")
    return {name: choose(registry, name, what) for name in names}


def _rows(plan: Plan) -> list[Verdict]:
    """All verdicts, with a progress bar when someone watches."""
    from tqdm import tqdm

    from ebbflow.proof.verify import verify

    shown = sys.stderr.isatty()
    return list(tqdm(verify(plan), total=len(plan), unit="row", disable=not shown, leave=False, dynamic_ncols=True))


def _print(rows: Sequence[Verdict], output: Path | None) -> None:
    from ebbflow.proof.tables import failures, order_matrix, sampler_table, summary

    for table in (order_matrix(rows), sampler_table(rows)):
        print_rows([{str(i): entry for i, entry in enumerate(line)} for line in table])
        print()
    found = failures(rows)
    for reason, befallen in found[:NUM_SHOWN]:
        print(f"not ok, {len(befallen)} rows: {reason}")
    if len(found) > NUM_SHOWN:
        print(f"and {len(found) - NUM_SHOWN} more; --output verify.html or --json shows all.")
    print(summary(rows))
    if output is not None:
        print(output)
