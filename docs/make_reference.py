"""Write reference.md, the table of every registry: `python docs/make_reference.py`."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from ebbflow.cli.inspect import _catalogue, _row
from ebbflow.methods.samplers import Sampler

TARGET = Path(__file__).with_name("reference.md")
WORDS = {
    "samplers": "`--sampler`, options such as `--set eta=0.5`; order is of the error in the largest step, "
    "evaluations are of the net for n steps",
    "paths": "`path.kind`, options such as `--set path.shift=3`; x_t = alpha x0 + sigma eps",
    "predictions": "`objective.prediction`, options such as `--set objective.prediction.sigma_data=1`; (a, b) of the "
    "target a x0 + b eps",
    "grids": "`--grid`, options such as `--set grid.rho=5`; where the steps of a sampler lie",
    "times": "`objective.times`, options such as `--set objective.times.mean=0.5`; how training draws t",
    "weights": "`objective.weight`, options such as `--set objective.weight.gamma=3`; which noise levels count",
    "maps": "`objective.map`, options such as `--set objective.map=lsd --set objective.map.step=0.02`; how a net "
    "learns to jump, for the sampler `flow_map`",
    "couplings": "`objective.coupling`, options such as `--set objective.coupling.iterations=300`; which noise meets "
    "which data in training",
    "guidance": "`--guidance-rule` with `--guidance-set`, `--autoguide`, `--classifier`, `--loss`; `--method` of "
    "`ebbflow restore`",
    "operators": "`--operator` of `ebbflow restore` with `--operator-set`",
    "losses": "`--loss` with `--loss-set`; what loss guidance may aim at",
    "nets": "`net.kind`, options such as `--set net.depth=2`",
    "optimisers": "`optimiser.kind`, options such as `--set optimiser.momentum=0.9`; the rate is `train.lr`, the decay "
    "`train.weight_decay`",
    "emas": "`ema.kind`, options such as `--set ema.decay=0.995`; which average of the weights sampling uses",
    "conditionings": "`conditioning.kind`, options such as `--set conditioning.drop=0.2`",
    "autoencoders": "what a latent space may be made of",
    "datasets": "`--data`; an image folder or an .npz file will do as well",
    "metrics": "columns of `ebbflow evaluate`",
    "exporters": "`--to` of `ebbflow export` and `ebbflow push`",
    "trackers": "`--set train.trackers=[tensorboard]`; who is given metrics and pictures of a training besides",
    "presets": "`--preset`",
}
HIDDEN = {
    "guidance": ("cond", "negative", "interval", "rescale", "batched")
}  # every rule has them, by flags of their own


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


def options_of(kind: str, entry: Any) -> str:
    """What can be set, with its default; what has none is given in another way."""
    if isinstance(entry, Sampler):
        pairs = {name: p.default for name, p in entry.options.items()}
    elif is_dataclass(entry):
        known = [f for f in fields(entry) if f.init]
        pairs = {f.name: f.default_factory() if f.default_factory is not MISSING else f.default for f in known}
    elif kind == "losses":
        pairs = {p.name: p.default for p in signature(entry).parameters.values()}
    else:
        return ""
    none = (MISSING, Parameter.empty)
    shown = {name: value for name, value in pairs.items() if value not in none and name not in HIDDEN.get(kind, ())}
    return ", ".join(f"`{name}={value}`" for name, value in shown.items())


def table(kind: str, entries: dict[str, Any]) -> list[str]:
    """The section of one registry."""
    samplers = kind == "samplers"
    head = ["name", *(["order", "evaluations", "noise"] if samplers else []), "options", "what it is"]
    options = {name: options_of(kind, entry) for name, entry in entries.items()}
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
        "Everything that can be chosen, with the numbers that can be set and their defaults. A module of yours adds to "
        "it with `--import`; see [your own](your_own.md). Made by `python docs/make_reference.py` from the code.",
        "",
    ]
    for kind, entries in _catalogue().items():
        lines += table(kind, dict(entries))
    return "\n".join(lines)


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
    print(TARGET)
