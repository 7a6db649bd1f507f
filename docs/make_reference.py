"""Write reference.md, the table of every registry: `python docs/make_reference.py`."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

from ebbflow.cli.inspect import _catalogue, _row
from ebbflow.methods.samplers import Sampler

TARGET = Path(__file__).with_name("reference.md")
WORDS = {
    "samplers": "`--sampler`; order is that of the error in the largest step, evaluations are of the net for n steps",
    "paths": "`path.kind`; x_t = alpha x0 + sigma eps",
    "predictions": "`objective.prediction`; the pair (a, b) of the target a x0 + b eps",
    "grids": "`--grid`; where the steps of a sampler lie",
    "times": "`objective.times`; how training draws t",
    "weights": "`objective.weight`",
    "guidance": "`--guidance-rule`, `--autoguide`, `--classifier`, `--loss`",
    "losses": "`--loss`; what loss guidance may aim at",
    "nets": "`net.kind`",
    "conditionings": "`conditioning.kind`",
    "autoencoders": "what a latent space may be made of",
    "datasets": "`--data`; an image folder or an .npz file will do as well",
    "metrics": "columns of `ebbflow evaluate`",
    "presets": "`--preset`",
}


def cell(text: object) -> str:
    """Text that a cell of a table can hold."""
    return " ".join(str(text).split()).replace("|", "\\|")


def as_formula(count: Any) -> str:
    """A number of evaluations as a formula in n, where it is linear."""
    a, b, c = count(10), count(11), count(12)
    if not all(isinstance(n, int) for n in (a, b, c)) or c - b != b - a:
        return "varies"
    slope, rest = b - a, a - 10 * (b - a)
    sign = f" {'+' if rest > 0 else '-'} {abs(rest)}" if rest else ""
    return f"{slope if slope != 1 else ''}n{sign}" if slope else "varies"


def options_of(entry: Any) -> str:
    """What can be set, with its default."""
    if isinstance(entry, Sampler):
        pairs = [(name, p.default) for name, p in entry.options.items()]
    elif is_dataclass(entry):
        pairs = [
            (f.name, f.default_factory() if f.default_factory is not MISSING else f.default)
            for f in fields(entry)
            if f.init
        ]
    else:
        return ""
    return ", ".join(f"`{name}`" if value is MISSING else f"`{name}={value}`" for name, value in pairs)


def table(kind: str, entries: dict[str, Any]) -> list[str]:
    """The section of one registry."""
    samplers = kind == "samplers"
    head = ["name", *(["order", "evaluations", "noise"] if samplers else []), "options", "what it is"]
    options = {name: options_of(entry) for name, entry in entries.items()}
    if not any(options.values()):
        head.remove("options")
    lines = [f"## {kind}", "", WORDS.get(kind, "") + ".", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, entry in entries.items():
        values = {"name": f"`{name}`", "options": options[name], "what it is": _row(name, entry)["description"]}
        if samplers:
            noise = "always" if entry.stochastic else "if asked" if entry.takes_noise else "no"
            values |= {"order": str(entry.order), "evaluations": as_formula(entry.evaluations), "noise": noise}
        lines.append(f"| {' | '.join(cell(values[key]) for key in head)} |")
    return [*lines, ""]


def page() -> str:
    """The whole page."""
    lines = [
        "# Reference",
        "",
        "Everything that can be chosen. Made by `python docs/make_reference.py` from the code.",
        "",
    ]
    for kind, entries in _catalogue().items():
        lines += table(kind, dict(entries))
    return "\n".join(lines)


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
    print(TARGET)
