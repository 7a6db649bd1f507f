"""The lessons run, shortened, and end where the library says the same; their words are there in both languages."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import runpy
from pathlib import Path
from types import ModuleType

import matplotlib.pyplot as plt
import pytest
import torch

ROOT = Path(__file__).parents[1]
LESSONS = sorted((ROOT / "lessons").glob("[0-9]_*.py"))
SLOW = "3456"  # seconds each; the others compare the library as well
each_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)


def module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def notebooks() -> ModuleType:
    return module(ROOT / "lessons" / "make_notebooks.py")


@pytest.mark.parametrize(
    "lesson",
    [pytest.param(p, marks=pytest.mark.long if p.stem[0] in SLOW else (), id=p.stem) for p in LESSONS],
)
def test_it_runs_and_the_library_says_the_same(lesson: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each ends with comparisons of its own numbers with the library's, which raise where they differ."""
    monkeypatch.setenv("LESSON_STEPS", "4")
    monkeypatch.setenv("LESSON_PICTURES", str(tmp_path))
    monkeypatch.syspath_prepend(str(lesson.parent))
    plt.switch_backend("agg")
    with torch.random.fork_rng(devices=[]):
        runpy.run_path(str(lesson))
    plt.close("all")
    assert (tmp_path / f"{lesson.stem}.png").stat().st_size > 2000
    assert (ROOT / "docs" / "images" / "lessons" / f"{lesson.stem}.png").is_file()


@each_lesson
def test_it_is_a_page_of_plain_pytorch_until_its_last_cell(lesson: Path) -> None:
    text = lesson.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    *before, last = text.split("\n# %%")
    own = [node for node in ast.walk(ast.parse("\n# %%".join(before))) if isinstance(node, ast.Import | ast.ImportFrom)]
    named = {alias.name for node in own for alias in node.names} | {getattr(node, "module", None) for node in own}
    assert not any(name and name.startswith("ebbflow") for name in named)
    assert "import ebbflow as ef" in last or "from ebbflow" in last
    assert "assert_close" in last, "nothing is compared"


def formulas(words: str) -> list[str]:
    return [" ".join(found.split()) for found in re.findall(r"\$\$(.*?)\$\$", words, re.DOTALL)]


def cited(words: str) -> set[str]:
    return set(re.findall(r"arXiv \d+\.\d+|\]\(.*?\)", " ".join(words.split())))


@each_lesson
def test_both_languages_share_code_and_formulas(lesson: Path, notebooks: ModuleType) -> None:
    english, chinese = (notebooks.cells(lesson.stem, language) for language in ("en", "zh"))
    assert [cell for cell in english if cell[0] == "code"] == [cell for cell in chinese if cell[0] == "code"]
    for (kind, text), (_, other) in zip(english, chinese, strict=True):
        if kind == "markdown":
            assert formulas(text) == formulas(other)
            assert cited(text) == cited(other)
            assert text.count("\n## ") == other.count("\n## ") and re.search(r"[\u4e00-\u9fff]", other)


@each_lesson
def test_its_notebook_is_the_lesson(lesson: Path, notebooks: ModuleType, tmp_path: Path) -> None:
    made = json.loads(json.dumps(notebooks.notebook(lesson.stem, "zh")))
    code = "\n\n".join("".join(cell["source"]) for cell in made["cells"] if cell["cell_type"] == "code")
    assert ast.dump(ast.parse(code)) == ast.dump(ast.parse(lesson.read_text(encoding="utf-8")))
    assert made["nbformat"] == 4 and all(cell["metadata"] == {} for cell in made["cells"])
