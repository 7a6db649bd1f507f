"""`ebbflow info`, `ebbflow list` and `ebbflow doctor`."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

from ebbflow.cli.common import print_json, print_lines, print_rows
from ebbflow.errors import choose
from ebbflow.requests.tools import DoctorRequest, InfoRequest, ListRequest


def info(request: InfoRequest) -> None:
    """Say what a run is: configuration, data, steps, held-out loss, versions; of a folder of runs, which there are."""
    from ebbflow.runs import open_run
    from ebbflow.runs.folder import best_of, metrics
    from ebbflow.training.task import Joined

    if runs := _runs_in(Path(request.ckpt)):
        if request.json:
            print_json(runs)
        else:
            print_rows(runs, headed=True)
        return

    opened = open_run(request.ckpt)
    tensors = Joined.inner_of(opened.checkpoint.tensors("model"))
    state = opened.checkpoint.state
    facts: dict[str, Any] = {
        "folder": str(opened.folder),
        "checkpoint": str(opened.checkpoint.folder),
        "step": opened.checkpoint.step,
        **{key: state[key] for key in ("samples_seen", "minutes", "ema_length") if key in state},
        "num_parameters": sum(value.numel() for value in tensors.values()),
        "dims": list(opened.facts.dims),
        **({"latent_dims": list(latent)} if (latent := opened.facts.latent_dims) else {}),
        "label_names": list(opened.facts.label_names),
        "best": best_of(opened.folder, metrics(opened.folder)),
        "versions": state.get("versions"),
        **({"plugins": plugins} if (plugins := state.get("plugins")) else {}),
        "config": state["config"],
    }
    if request.json:
        print_json(facts)
        return
    print_lines([(key, value) for key, value in facts.items() if key != "config"])
    for section, values in facts["config"].items():
        print(f"\n[{section}]")
        print_lines(list(values.items()))


def _runs_in(folder: Path) -> list[dict[str, Any]]:
    """A row for each run in a folder that is none itself: its name, data, net and last step."""
    from ebbflow.runs.folder import description, metrics

    if (folder / "config.json").is_file() or not folder.is_dir():
        return []
    found = []
    for one in sorted(path.parent for path in folder.glob("*/config.json")):
        config = description(one).get("config", {})
        rows = metrics(one)
        found.append(
            {
                "run": one.name,
                "data": config.get("data", {}).get("name", "-"),
                "net": config.get("net", {}).get("kind", "-"),
                "step": max((row["step"] for row in rows if "step" in row), default=0),
            }
        )
    return found


def _catalogue() -> dict[str, Any]:
    from ebbflow.config import presets
    from ebbflow.plugins import REGISTRIES, registry_at

    return {**{kind: registry_at(place) for kind, place in REGISTRIES.items()}, "presets": presets()}


def list_names(request: ListRequest) -> None:
    """List what there is to choose from, and what can be set of it: `ebbflow list samplers heun`."""
    from ebbflow.plugins import find_installed

    find_installed()
    catalogue = _catalogue()
    if request.kind is None:
        rows = [{"name": name, "description": ", ".join(entries)} for name, entries in catalogue.items()]
    else:
        entries = choose(catalogue, request.kind, "list")
        chosen = (
            entries
            if request.name is None
            else {request.name: choose(entries, request.name, f"name in {request.kind}")}
        )
        rows = [_row(name, entry) for name, entry in chosen.items()]
    if request.json:
        print_json(rows)
    elif request.name is not None:
        print_lines(_flat(rows[0]))
    else:
        print_lines([(row["name"], row["description"] + _options(row)) for row in rows])


def _options(row: dict[str, Any]) -> str:
    """What can be set of an entry, with its defaults."""
    found = row.get("options") or {}
    return f" [{', '.join(f'{name}={value}' for name, value in found.items())}]" if found else ""


def _flat(row: dict[str, Any]) -> list[tuple[str, Any]]:
    return [pair for key, value in row.items() for pair in (value.items() if key == "options" else [(key, value)])]


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
        row["options"] = {f.name: f.default for f in fields(entry) if f.init and f.default is not MISSING}
    return row


def _first_sentence(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split())


def _first_comment(path: Path) -> str:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def doctor(request: DoctorRequest) -> int:
    """Check this machine: versions, devices, speed features, extras, data folder, and what would go wrong.

    Exit code 1 when something would.
    """
    from ebbflow.cli.checkup import checkup

    rows = checkup()
    if request.json:
        print_json(rows)
    else:
        print_lines([("ok" if row["ok"] else "!!", row["name"], row["detail"]) for row in rows])
    return 0 if all(row["ok"] for row in rows) else 1
