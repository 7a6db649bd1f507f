"""The pages of docs/ in both languages: every message has its words, and the words keep what is no word."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(path.stem for path in (ROOT / "docs").glob("*.md"))
KEPT = (r"`[^`]*`", r"\]\([^)]*\)", r"\$[^$]*\$", r"\*\*")
CURE = "`python docs/make_site.py --update` says which messages want words; write them into docs/locale"


@pytest.fixture(scope="module")
def site() -> ModuleType:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import make_site
    finally:
        sys.path.pop(0)
    return make_site


@pytest.fixture(scope="module")
def catalogues(site: ModuleType) -> ModuleType:
    return site.catalogues


@pytest.fixture(scope="module")
def words(site: ModuleType) -> dict[str, dict[str, str]]:
    """The Chinese words of each message of a page."""
    return {
        page: {message: each.text for message, each in entries.items() if site.catalogues.known(entries, message)}
        for page, entries in site.translated("zh_CN").items()
    }


def test_every_message_of_every_page_has_words(
    site: ModuleType, catalogues: ModuleType, words: dict[str, dict[str, str]]
) -> None:
    written = site.written()
    for page in words.keys() - site.HEADINGS_ONLY:
        wanting = [message for message in catalogues.messages(written[page]) if message not in words[page]]
        assert bool(wanting) == (page in site.BEHIND), f"{page} wants words for {wanting[:3]}: {CURE}."


def test_no_catalogue_holds_what_no_page_says(site: ModuleType, catalogues: ModuleType) -> None:
    files = {path.stem: path for path in (catalogues.LOCALE / "zh_CN" / "LC_MESSAGES").glob("*")}
    said = site.translated("zh_CN")
    assert files.keys() == said.keys() | {"sphinx"}, CURE  # the words of the theme
    for page, path in files.items() - {("sphinx", files["sphinx"])}:
        shapes = [
            {catalogues.NUMBER.sub("0", message) for message in each} for each in (catalogues.read(path), said[page])
        ]
        assert page in site.BEHIND | site.HEADINGS_ONLY or shapes[0] == shapes[1], f"{page}: {CURE}."


def test_words_keep_code_links_formulas_and_numbers(catalogues: ModuleType, words: dict[str, dict[str, str]]) -> None:
    for page, entries in words.items():
        for message, text in entries.items():
            for kept in KEPT:
                assert Counter(re.findall(kept, message)) == Counter(re.findall(kept, text)), f"{page}: {text}"
            numbers = [Counter(catalogues.NUMBER.findall(each)) for each in (message, text)]
            assert numbers[0] <= numbers[1], f"{page}: {numbers[0] - numbers[1]} is missing in {text}"


def test_sentences_are_chinese(catalogues: ModuleType, words: dict[str, dict[str, str]]) -> None:
    """Names and formulas may stay as they are; four small words in a row are a sentence."""
    for page, entries in words.items():
        for text in entries.values():
            plain = catalogues.SPEECHLESS.sub("", text)
            assert re.search(r"[一-鿿]", plain) or not re.search(r"(\b[a-z]{2,} ){3}[a-z]{2,}\b", plain), (
                f"{page}: {text}"
            )


def test_a_page_falls_into_its_messages(catalogues: ModuleType) -> None:
    page = """# The `net`

Two lines
of one paragraph.

- an item
  that goes on
1. another

| word | x | 3.5 MB |
|---|---|---|
| p(x \\| y) given y | `code` | 12 |

```sh
not this
```
<!-- nor this -->
$x_t$
"""
    assert catalogues.messages(page) == [
        "The `net`",
        "Two lines of one paragraph.",
        "an item that goes on",
        "another",
        "word",
        "p(x | y) given y",
    ]


def test_a_catalogue_is_read_as_it_was_written(catalogues: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "zh_CN" / "LC_MESSAGES" / "page.po"
    entries = {
        'say "a\\b"': catalogues.Words(text='说“a\\b”，"c"'),
        "long " * 60: catalogues.Words(text="很长，" * 60),
        "near": catalogues.Words(text="近", guess=True),
        "none": catalogues.Words(),
    }
    catalogues.write(path, entries)
    assert catalogues.read(path) == entries
    assert all(catalogues.width(line) < 130 for line in path.read_text("utf-8").splitlines())


def test_numbers_pass_through(catalogues: ModuleType) -> None:
    """What differs in its numbers alone needs no new words, where one cannot be taken for another."""
    old = {
        "5 steps take 2.5 s": catalogues.Words(text="2.5 s 走 5 步"),
        "3 of 3": catalogues.Words(text="3 之中的 3"),
        "1 and 1, then 2": catalogues.Words(text="先 2，再 1 和 1"),
    }
    carried = catalogues.carried(old, ["10 steps take 7e-05 s", "4 of 9", "1 and 3, then 2", "quite another"])
    assert carried["10 steps take 7e-05 s"] == catalogues.Words(text="7e-05 s 走 10 步")
    assert carried["4 of 9"] == catalogues.Words(text="4 之中的 9")
    assert carried["1 and 3, then 2"].guess
    assert carried["quite another"] == catalogues.Words()


def test_the_index_leads_to_every_page() -> None:
    lessons = {path.name for path in (ROOT / "lessons").glob("[0-9]_*.py")}
    text = (ROOT / "docs" / "index.md").read_text("utf-8")
    named = {Path(target).name for target in re.findall(r"\]\(([\w./-]+)\)", text)}
    assert named == {f"{page}.md" for page in PAGES} - {"index.md"} | lessons


def prose(page: Path) -> str:
    """The text of a built page, without code."""
    article = re.search(r"<article.*?</article>", page.read_text("utf-8"), re.DOTALL)
    assert article is not None, page
    return re.sub(r"<(pre|code|math|style)\b.*?</\1>|<[^>]*>", "", article[0], flags=re.DOTALL)


@pytest.mark.long
def test_the_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    for name in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(name)
    subprocess.run([sys.executable, ROOT / "docs" / "make_site.py", tmp_path / "site"], check=True)
    for language, word in (("en", "Noising"), ("zh", "加噪")):
        page = (tmp_path / "site" / language / "lessons" / "1_noising.html").read_text("utf-8")
        assert word in page and "<math" in page and "1_noising.png" in page
        assert "class_" not in page or "cdn" not in page
    assert json.dumps("噪声") in (tmp_path / "site" / "zh" / "searchindex.js").read_text("utf-8")
    for name in PAGES:
        english, chinese = (prose(tmp_path / "site" / language / f"{name}.html") for language in ("en", "zh"))
        assert "**" not in english + chinese, name
        assert "reference" in name or not re.search(r"(\b[a-z]{2,} ){6}", chinese), name
