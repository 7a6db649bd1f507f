"""Pages from templates: each needs no script, no server and no network, and is light, dark and on paper."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from ebbflow.show.style import COLOURS, FAINT, INK, RULE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LIGHT = {"ink": INK, "faint": FAINT, "rule": RULE, **{f"c{i}": colour for i, colour in enumerate(COLOURS)}}
DARK = {
    "ink": "#dfe6ee", "faint": "#98a4b1", "rule": "#343c46", "c0": "#7fb4f0", "c1": "#f3a261", "c2": "#6fd3a0",
    "c3": "#d98ae8", "c4": "#ff8f86", "c5": "#c5d44e", "c6": "#59d0e4", "c7": "#d6ae86",
}  # fmt: skip
_VARIABLES = {colour: f"var(--{name})" for name, colour in LIGHT.items()}


def render(template: str, **values: Any) -> str:
    """The text of a file in `show/templates`; of a page of HTML every value is escaped that is no `Markup`.

    Raises:
        jinja2.UndefinedError: the template asks for a value that is not among `values`.
    """
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("ebbflow.show", "templates"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters |= {"number": number, "text": text, "data_uri": data_uri, "cell": cell, "anchor": anchor}
    found.globals |= {"light": LIGHT, "dark": DARK}
    return found


def number(value: float | None, form: str = ".4g") -> str:
    """A number in a form such as ".2f"; nothing for None."""
    return "" if value is None else format(value, form)


def text(value: Any) -> str:
    """A value in words: a string as it is, four digits of a number, the entries of a table, "-" for nothing."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {text(one)}" for key, one in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else value if isinstance(value, str) else json.dumps(value)


def cell(value: str) -> str:
    """A string inside a cell of a Markdown table: no bar ends the cell and no tag begins."""
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", value.replace("|", "\\|"))


def anchor(names: Sequence[str]) -> str:
    """Names as one address inside a page, another for other names."""
    return "-".join("".join(c if c.isalnum() or c == "_" else f".{ord(c)}." for c in name) for name in names)


def data_uri(content: bytes | str, kind: str = "image/png") -> str:
    """A file inside an address, so that a page carries its own pictures; a string is taken for base64."""
    return f"data:{kind};base64,{base64.b64encode(content).decode() if isinstance(content, bytes) else content}"


def figure(drawn: Figure, *, name: str, titles: Mapping[str, str] = MappingProxyType({})) -> Markup:
    """`drawn` as SVG inside a page; what has a colour of `LIGHT` takes the page's own, light or dark.

    Args:
        drawn: a figure of 72 dots an inch, so that its points are the page's pixels.
        name: what a reader hears who does not see it.
        titles: what an artist says when pointed at, by its gid.
    """
    from matplotlib import rc_context

    file = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "ebbflow"}):
        unsaid = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        drawn.savefig(file, format="svg", transparent=True, metadata=unsaid)
    _, _, body = file.getvalue().partition("</defs>")  # behind the one rule of style, which the page has itself
    body = re.sub(r'<g id="([^"]*)">', lambda found: f"<g>{_title(titles.get(found[1]))}", body)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = re.sub(r"#[0-9a-f]{6}\b", lambda found: _VARIABLES.get(found[0], found[0]), body)
    body = re.sub(r"\d+\.\d{2,}", lambda found: f"{float(found[0]):.4g}", body)
    width, height = (72 * side for side in drawn.get_size_inches())
    head = f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img" aria-label="{escape(name)}">'
    return Markup(head + re.sub(r"\s*\n\s*", "\n", body).rstrip())


def _title(said: str | None) -> str:
    return "" if said is None else f"<title>{escape(said)}</title>"
