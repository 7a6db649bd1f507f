"""How Sphinx builds the pages that make_site.py lays out; nothing is fetched from a network, formulas included."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.search import languages
from sphinx.search.zh import SearchChinese

project, author, copyright = "ebbflow", "the authors of ebbflow", "the authors of ebbflow, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
templates_path = ["templates"]
html_theme = "furo"
html_title = "ebbflow"
html_show_sphinx = False
html_math_renderer = "mathml"
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "language.html",
        "sidebar/search.html",
        "sidebar/scroll-start.html",
        "sidebar/navigation.html",
        "sidebar/scroll-end.html",
    ]
}
python_maximum_signature_line_length = 90
autodoc_typehints = "none"  # a docstring says what is given, with shapes and ranges
highlight_language = "none"  # a block that names no language is what a command printed
smartquotes_action = "qe"  # two hyphens begin a flag
suppress_warnings = ["misc.highlighting_failure"]


def plain(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are text with formulas: what reStructuredText would read in |x|, x_ and **x stays as it is."""
    parts = re.split(r"(?<!`)`([^`]+)`(?!`)", "\n".join(lines))
    words = [re.sub(r"([*|\\]|(?<=\w)_(?!\w))", r"\\\1", part) for part in parts[::2]]
    held = [part if not part or part[-1].isspace() else f"{part}\\ " for part in words[:-1]] + words[-1:]
    apart = held[:1] + [part if not part or part[0].isspace() else f"\\ {part}" for part in held[1:]]
    text = "".join(f"{word}``{name}``" for word, name in zip(apart, parts[1::2], strict=False)) + apart[-1]
    lines[:] = text.split("\n")


def accented(formula: str) -> str:
    """A letter and its bar in braces, so that an index stands beside them and not below."""
    return re.sub(r"\\(?:bar|tilde)\s*(?:\\[a-z]+|\w)(?=_)", r"{\g<0>{}}", formula)


def inline(self: Any, node: nodes.math) -> None:
    """A formula in a line."""
    self.body.append(tex2mathml(accented(node.astext())))
    raise nodes.SkipNode


def block(self: Any, node: nodes.math_block) -> None:
    """A formula of its own."""
    self.body.append(f'<div class="math">{tex2mathml(accented(node.astext()), as_block=True)}</div>')
    raise nodes.SkipNode


class Pairs(SearchChinese):
    """Chinese is found by the pairs of letters that stand side by side: no dictionary is needed to part words."""

    language_name = "English"  # whose stemmer the page is given, for the words of Latin letters
    js_splitter_code = r"""
var splitQuery = (query) => [
  ...(query.match(/[a-zA-Z0-9_]+/g) || []),
  ...[...query].map((letter, i) => letter + query[i + 1]).filter((pair) => /^[\u4e00-\u9fff]{2}$/.test(pair)),
];
"""

    def split(self, input: str) -> list[str]:
        """The words of Latin letters, and the pairs."""
        return super().split(input) + re.findall(r"(?=([\u4e00-\u9fff]{2}))", input)


def setup(app: Sphinx) -> None:
    """What no option says."""
    languages["zh"] = Pairs
    app.connect("autodoc-process-docstring", plain, priority=400)  # before napoleon makes fields of it
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
