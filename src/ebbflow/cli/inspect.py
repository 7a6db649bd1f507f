"""`ebbflow info`, `ebbflow list` and `ebbflow doctor`."""

from __future__ import annotations

import inspect
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ebbflow.cli.common import print_json, print_rows
from ebbflow.errors import choose


def info(
    run: Annotated[Path, typer.Argument(help="The folder of a run or of one of its checkpoints.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a run is: configuration, data, steps, held-out loss, versions."""
    from ebbflow.runs import open_run

    opened = open_run(run)
    tensors = opened.checkpoint.tensors("model")
    state = opened.checkpoint.state
    facts = {
        "folder": str(opened.folder),
        "checkpoint": str(opened.checkpoint.folder),
        "step": opened.checkpoint.step,
        "num_parameters": sum(value.numel() for value in tensors.values()),
        "dims": list(opened.facts.dims),
        **({"latent_dims": list(latent)} if (latent := opened.facts.latent_dims) else {}),
        "label_names": list(opened.facts.label_names),
        "best": state.get("best"),
        "versions": state.get("versions"),
        "config": state["config"],
    }
    if json:
        print_json(facts)
        return
    print_rows([{"key": key, "value": value} for key, value in facts.items() if key != "config"])
    for section, values in facts["config"].items():
        print(f"\n[{section}]")
        print_rows([{"key": key, "value": value} for key, value in values.items()])


def _catalogue() -> dict[str, Any]:
    from ebbflow.conditioning import CONDITIONINGS
    from ebbflow.config import presets
    from ebbflow.core.paths import PATHS
    from ebbflow.core.predictions import PREDICTIONS
    from ebbflow.core.times import TIME_GRIDS, TIME_SAMPLERS
    from ebbflow.core.weights import WEIGHTS
    from ebbflow.data import DATASETS
    from ebbflow.latent import AUTOENCODERS
    from ebbflow.methods.guidance import GUIDANCE, LOSSES
    from ebbflow.methods.samplers import SAMPLERS
    from ebbflow.metrics.scores import METRICS
    from ebbflow.nets import NETS

    return {
        "samplers": SAMPLERS,
        "paths": PATHS,
        "predictions": PREDICTIONS,
        "grids": TIME_GRIDS,
        "times": TIME_SAMPLERS,
        "weights": WEIGHTS,
        "guidance": GUIDANCE,
        "losses": LOSSES,
        "nets": NETS,
        "conditionings": CONDITIONINGS,
        "autoencoders": AUTOENCODERS,
        "datasets": DATASETS,
        "metrics": METRICS,
        "presets": presets(),
    }


def list_names(
    kind: Annotated[
        str | None,
        typer.Argument(help="samplers, paths, predictions, grids, times, weights, nets, datasets, presets, ..."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print an array of objects.")] = False,
) -> None:
    """List what there is to choose from."""
    catalogue = _catalogue()
    if kind is None:
        rows = [{"name": name, "description": ", ".join(entries)} for name, entries in catalogue.items()]
    else:
        rows = [_row(name, entry) for name, entry in choose(catalogue, kind, "list").items()]
    if json:
        print_json(rows)
    else:
        print_rows([{"name": row["name"], "description": row["description"]} for row in rows])


def _row(name: str, entry: Any) -> dict[str, Any]:
    """One entry as an object: name, description, and what can be set of it."""
    from ebbflow.methods.samplers import Sampler

    if isinstance(entry, Path):
        return {"name": name, "description": _first_comment(entry), "file": str(entry)}
    row: dict[str, Any] = {"name": name, "description": _first_sentence(inspect.getdoc(entry) or "")}
    if isinstance(entry, Sampler):
        row |= {
            "order": entry.order,
            "stochastic": entry.stochastic,
            "options": {k: p.default for k, p in entry.options.items()},
        }
    elif is_dataclass(entry):
        row["options"] = {f.name: f.default for f in fields(entry)}
    return row


def _first_sentence(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split())


def _first_comment(path: Path) -> str:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def doctor(json: Annotated[bool, typer.Option("--json", help="Print an array of objects.")] = False) -> None:
    """Check this machine: versions, devices, speed features, extras, data folder, and what would go wrong."""
    from ebbflow.cli.checkup import checkup

    rows = checkup()
    if json:
        print_json(rows)
    else:
        print_rows(
            [{"state": "ok" if row["ok"] else "!!", "name": row["name"], "detail": row["detail"]} for row in rows]
        )
    if not all(row["ok"] for row in rows):
        raise typer.Exit(1)
