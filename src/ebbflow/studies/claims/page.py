"""The page on the claims, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def page(settings: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]], pictures: str) -> str:
    """The page.

    Args:
        settings: what was measured on what; shown as a table but for "command" and "notes".
        found: a claim's record by name, in order; one with no "verdict" is still to be measured.
        pictures: the folder of the pictures, seen from the page.
    """
    parts = [
        "# The notes' claims, measured",
        "This page is written by `ebbflow claims`. Every claim of the study notes is measured on one pair of "
        "models; a number after +- is one standard error, and a difference counts as clear beyond two. "
        "Verdicts hold for this pair, this data and this number of samples; they are no laws. Supported: the "
        "numbers say what the notes say. Refuted: they say the opposite. "
        "Depends: it is true of a part, or only under conditions.",
        "'Real data' is the floor: as many training entries in the place of samples. It holds the gap between the two "
        "splits, which the classifier that makes the features knows unequally well, so on small data samples may score "
        "below it; compare the samplers with each other rather than with the floor.",
        *settings["notes"],
        _summary(found),
        *(_section(number, name, one, pictures) for number, (name, one) in enumerate(found.items(), start=1)),
        "## How this was measured",
        markdown([{"setting": k, "value": v} for k, v in settings.items() if k not in ("command", "notes")]),
        f"The same again:\n\n```\n{settings['command']}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _summary(found: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        {"": number, "claim": one["statement"], "where": one["place"], "verdict": _verdict(one)}
        for number, one in enumerate(found.values(), start=1)
    ]
    return markdown(rows)


def _verdict(one: Mapping[str, Any]) -> str:
    return f"**{one.get('verdict', 'still to be measured')}**"


def _section(number: int, name: str, one: Mapping[str, Any], pictures: str) -> str:
    parts = [
        f"## {number}. {one['statement']}",
        f"Said in {one['place']}. Measured: {one['asked']} Verdict: {_verdict(one)}.",
    ]
    if "verdict" in one:
        parts += ["\n".join(f"- {sentence}" for sentence in one["because"])]
        parts += [f"{table['title']}:\n\n{markdown(table['rows'])}" for table in one["tables"]]
        parts += [f"![{name}, picture {i}]({pictures}/{file})" for i, file in enumerate(one["pictures"], start=1)]
        parts += [f"`ebbflow claims --only {name}`, {one['seconds']:.0f} s."]
    return "\n\n".join(parts)


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of equal keys as a Markdown table."""
    keys = list(rows[0])
    lines = [keys, ["---"] * len(keys), *([number(row[key]) for key in keys] for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def number(value: Any) -> str:
    """A value, or a value +- its standard error with as many digits as the error allows."""
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(v, (int, float)) for v in value):
        return f"{value[0]:.3g} +- {value[1]:.2g}"
    if isinstance(value, (tuple, list)):
        return ", ".join(str(v) for v in value)
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)
