"""The shell of every report: one page that needs no script, no server and no network, light, dark and on paper."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --ink: #1d2733; --paper: #ffffff; --rule: #d5dbe3; --soft: #f3f5f8; --faint: #5d6875;
  --good: #17663a; --good-back: #e3f3e8; --bad: #a11a1a; --bad-back: #fbe4e4; }
@media (prefers-color-scheme: dark) { :root { --ink: #dfe6ee; --paper: #14181d; --rule: #343c46; --soft: #1d232a;
  --faint: #98a4b1; --good: #7fd3a0; --good-back: #16301f; --bad: #ff9a9a; --bad-back: #421a1a; } }
@media print { :root { color-scheme: light; --ink: #1d2733; --paper: #ffffff; --rule: #d5dbe3; --soft: #f3f5f8;
  --faint: #5d6875; --good: #17663a; --good-back: #e3f3e8; --bad: #a11a1a; --bad-back: #fbe4e4; }
  .wide { overflow: visible !important; } tr, figure { break-inside: avoid; } h2 { break-after: avoid; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 84rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2rem; }
p.note, td.note { color: var(--faint); } code { font-size: .92em; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5rem 0; }
th, td { padding: .22rem .6rem; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { color: var(--faint); font-weight: 600; } th:first-child, td:first-child, td.word, th.word { text-align: left; }
td.why { text-align: left; white-space: normal; min-width: 22rem; font-size: .88em; line-height: 1.35; }
td.good { background: var(--good-back); color: var(--good); } td.bad { background: var(--bad-back); color: var(--bad); }
td a { color: inherit; text-decoration: none; display: block; } td a:hover { text-decoration: underline; }
details { border-top: 1px solid var(--rule); padding: .25rem 0; } summary { cursor: pointer; padding: .2rem 0; }
summary b.bad { color: var(--bad); } summary span { color: var(--faint); }
"""


def shell(title: str, command: str, parts: Sequence[str], *, style: str = "") -> str:
    """A page of `parts`, which are HTML; `command` is shown as what made it."""
    whole = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        f'<p class="note"><code>{escape(command)}</code></p>',
        *parts,
        "</body></html>",
    ]
    return "\n".join(whole) + "\n"


def table(lines: Sequence[Sequence[str]]) -> str:
    """A header and rows of HTML; an entry that begins with <th or <td stands as it is."""
    head, *body = lines
    top = "".join(entry if entry.startswith("<th") else f"<th>{entry}</th>" for entry in head)
    rest = "\n".join("<tr>" + "".join(map(_entry, line)) + "</tr>" for line in body)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>\n{rest}\n</tbody></table></div>'


def _entry(entry: str) -> str:
    return entry if entry.startswith("<td") else f"<td>{entry}</td>"


def data_uri(content: bytes, kind: str = "image/png") -> str:
    """`content` inside an address, so that a page carries its own pictures."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
