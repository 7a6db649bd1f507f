"""The card of an export: what the model is, how it is used, how it was made, what was measured of it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebbflow.core.entries import spelt
from ebbflow.core.predictions import path_name
from ebbflow.documents import read_json, read_text
from ebbflow.metrics.scores import METRICS
from ebbflow.runs.folder import Run
from ebbflow.runs.model import Model
from ebbflow.runs.plan import default_plan
from ebbflow.runs.results import collect
from ebbflow.runs.sample import generate
from ebbflow.values import Wrong

NUM_SHOWN = 16  # samples of the picture where the training drew none
MOST_MEASURED = 8  # rows of the table
SETTINGS = ("sampler", "steps", "guidance", "num")


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """README.md of an export, its front matter in the form that model hubs read.

    Args:
        run: what was exported.
        name: of the folder, or of the repository, that it goes to.
        library: that opens it.
        use: Python that does.
        command: what made the export.
    """

    run: Run
    name: str
    library: str
    use: str
    command: str

    def text(self, license: str | None, *, is_pictured: bool) -> str:
        """The whole card; `license` is None where it was not said, `is_pictured` tells of a samples.png beside it."""
        measured = measured_of(self.run)
        commands = "\n".join(one for one in (trained_by(self.run), self.command) if one)
        parts = [
            f"---\n{self._front(license, measured)}\n---",
            f"# {self.name.rpartition('/')[2]}",
            "![samples](samples.png)" if is_pictured else "",
            self._what(),
            f"## Use\n\n```python\n{self.use}\n```",
            f"## Measured\n\n{_table(measured)}" if measured else "",
            f"## Made by\n\n```\n{commands}\n```" if commands else "",
            "" if license else "No licence was said when this was exported: ask whom it is from.",
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    def _front(self, license: str | None, measured: list[dict[str, Any]]) -> str:
        facts = self.run.facts
        kind = "text-to-image" if facts.captions else "unconditional-image-generation"
        matter: dict[str, Any] = {
            "library_name": self.library,
            "license": license or "unknown",
            "tags": ["ebbflow", "diffusion", "flow-matching", path_name(self.run.config.path)],
            **({"pipeline_tag": kind} if facts.is_image else {}),
            **({"model-index": [_index(self.run, kind, measured[0])]} if measured else {}),
        }
        return "\n".join(f"{key}: {json.dumps(value)}" for key, value in matter.items())  # JSON is YAML

    def _what(self) -> str:
        run, facts = self.run, self.run.facts
        size, net = "x".join(map(str, facts.dims)), type(run.config.net).__name__.removesuffix("Options")
        classes = f", {len(facts.label_names)} classes" if facts.label_names else ""
        latent = f", as latents of {'x'.join(map(str, facts.latent_dims))}" if facts.latent_dims else ""
        return (
            f"A {net} that predicts {spelt(run.config.objective.prediction)} on the path {path_name(run.config.path)}, "
            f"trained with ebbflow for {run.checkpoint.step:,} steps on {Path(run.config.data.name).name}: samples of "
            f"{size}{classes}{latent}."
        )


def measured_of(run: Run) -> list[dict[str, Any]]:
    """What `ebbflow evaluate` wrote beside a run of the exported step, by how far samples are from the data."""
    rows = []
    for file in sorted((run.folder / "eval").glob("*.json")):
        try:
            row = read_json(file, dict[str, Any])
        except (OSError, Wrong):
            continue
        if row.get("step") == run.checkpoint.step and _scores(row):
            rows.append(row)
    return sorted(rows, key=lambda row: row.get("frechet") or math.inf)[:MOST_MEASURED]


def trained_by(run: Run) -> str:
    """The command that trained a run, as its own card has it; "" where it has none."""
    file = run.folder / "README.md"
    try:
        whole = read_text(file)
    except (Wrong, OSError):
        whole = ""
    _, _, said = whole.partition("Made by\n\n```\n")
    return said.partition("\n```")[0]


def sample_picture(folder: Path, model: Model) -> bytes | None:
    """A grid of samples as a PNG: the newest that the training drew, or a small one; None where pictures or texts from
    outside would be needed."""
    if (drawn := model._repr_png_()) is not None:
        return drawn
    conditions = None
    if model.is_conditional:
        if not model.examples:
            return None
        conditions = [model.examples[i * len(model.examples) // NUM_SHOWN] for i in range(NUM_SHOWN)]
    try:
        plan = default_plan(model, seeds=range(NUM_SHOWN), conditions=conditions)
        return collect(model, plan, generate(model, plan))._repr_png_()
    except ValueError:  # such as a table that would have to be measured on the data
        return None


def _scores(row: dict[str, Any]) -> dict[str, float]:
    return {name: row[name] for name in METRICS if isinstance(row.get(name), float)}


def _table(rows: list[dict[str, Any]]) -> str:
    names = list(_scores(rows[0]))
    lines = [[*SETTINGS, *names], ["---"] * (len(SETTINGS) + len(names))]
    for row in rows:
        lines.append([*(str(row.get(key, "")) for key in SETTINGS), *(f"{row.get(n, math.nan):.4g}" for n in names)])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"Features: {rows[0].get('features')}; weights: {rows[0].get('weights')}.\n\n{table}"


def _index(run: Run, kind: str, row: dict[str, Any]) -> dict[str, Any]:
    """What was measured best, in the form of the hub's model index."""
    data = Path(run.config.data.name).name
    metrics = [{"type": name, "name": name, "value": value} for name, value in _scores(row).items()]
    result = {"task": {"type": kind}, "dataset": {"type": data, "name": data}, "metrics": metrics}
    return {"name": run.folder.name, "results": [result]}
