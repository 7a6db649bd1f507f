"""The page on the claims, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ebbflow.documents import in_markdown
from ebbflow.show.page import render


def page(settings: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]], pictures: str) -> str:
    """The page.

    Args:
        settings: what was measured on what; shown as a table but for "command" and "notes".
        found: a claim's record by name, in order; one with no "verdict" is still to be measured.
        pictures: the folder of the pictures, seen from the page.
    """
    shown = {name: value for name, value in settings.items() if name not in ("command", "notes")}
    said = {"notes": settings["notes"], "command": settings["command"], "settings": shown}
    return render("claims.md", found=found, pictures=pictures, entry=entry, **said)


def entry(value: Any) -> str:
    """A value, or a value +- its standard error with as many digits as the error allows."""
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(v, (int, float)) for v in value):
        return f"{value[0]:.3g} +- {value[1]:.2g}"
    if isinstance(value, (tuple, list)):
        return in_markdown(", ".join(map(str, value)))
    if isinstance(value, float):
        return f"{value:.3g}"
    return in_markdown(str(value))
