"""The lessons in other clothes: `python lessons/make_notebooks.py` writes a notebook beside each, in English and in
Chinese; the documentation takes its pages from here too.

A lesson is a program in cells. Its words are the comments of its markdown cells and the titles of its code cells; those
of zh/NAME.md, parted by lines of %%, take their place in the Chinese one. The code is written once.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, Literal

HERE = Path(__file__).parent
LESSONS = [path.stem for path in sorted(HERE.glob("[0-9]_*.py"))]
Cell = tuple[Literal["markdown", "code"], str]


def cells(name: str, language: str = "en") -> list[Cell]:
    """The cells of a lesson: words, which are Markdown, and code."""
    found: list[Cell] = []
    for head, body in re.findall(r"^# %%(.*)\n((?:(?!# %%).*\n?)*)", (HERE / f"{name}.py").read_text("utf-8"), re.M):
        if head.strip() == "[markdown]":
            found.append(("markdown", re.sub(r"^# ?", "", body.strip(), flags=re.M)))
            continue
        if head.strip():
            found.append(("markdown", f"## {head.strip()}"))
        found.append(("code", body.strip()))
    return found if language == "en" else translated(name, found, language)


def translated(name: str, found: list[Cell], language: str) -> list[Cell]:
    """The same cells in the words of another language.

    Raises:
        ValueError: there are more or fewer of those than cells of words.
    """
    words = (HERE / language / f"{name}.md").read_text("utf-8").split("\n%%\n")
    wanted = sum(kind == "markdown" for kind, _ in found)
    if len(words) != wanted:
        raise ValueError(f"{language}/{name}.md has the words of {len(words)} cells, and the lesson has {wanted}.")
    each = iter(words)
    return [(kind, next(each).strip() if kind == "markdown" else text) for kind, text in found]


def notebook(name: str, language: str = "en") -> dict[str, Any]:
    """The lesson as a notebook, without what it prints."""
    blank = {"code": {"outputs": [], "execution_count": None}, "markdown": {}}
    made = [
        {"cell_type": kind, "metadata": {}, "source": text.splitlines(keepends=True), **blank[kind]}
        for kind, text in cells(name, language)
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 4}


def page(name: str, language: str = "en") -> str:
    """The lesson as a page of the documentation, its picture under the first words."""
    parts = [text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in cells(name, language)]
    first, *rest = parts
    text = "\n\n".join([first, f"![{name}](../images/lessons/{name}.png)", *rest]) + "\n"
    return text.replace("](../docs/", "](../")


def main(folder: Path = HERE) -> None:
    """Write all notebooks into a folder that holds kit.py."""
    for name in LESSONS:
        for language, suffix in (("en", ""), ("zh", ".zh")):
            path = folder / f"{name}{suffix}.ipynb"
            path.write_text(json.dumps(notebook(name, language), ensure_ascii=False, indent=1) + "\n", "utf-8")
            print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
