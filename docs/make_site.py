"""Build the documentation site, in English and Chinese: `python docs/make_site.py` writes build/site/index.html.

The pages are those of docs/, the lessons, the public names with their docstrings, the examples and the changelog. Their
Chinese words are in the catalogues of locale/: after a change of an English page `python docs/make_site.py --update`
brings them up to date and says which messages want words. A warning is an error.
"""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import catalogues
from catalogues import Words

DOCS = Path(__file__).parent
ROOT = DOCS.parent
LANGUAGES = {"en": "en", "zh": "zh_CN"}
HEADINGS_ONLY = {"api", "changelog", "reference"}  # told from the code, and the log of changes
BEHIND: set[str] = set()  # pages whose English has gone ahead of the words; every other page is whole
NOTES = {
    **dict.fromkeys(HEADINGS_ONLY, "本页只有标题译成中文，其余为英文原文。"),
    **dict.fromkeys(BEHIND, "本页有几处改动尚未译成中文，暂为英文原文。"),
}
GROUPS = {
    "begin": ["concepts", "own_pictures", "choosing", "your_own", "examples"],
    "lessons": [],
    "more": ["diffusers", "export", "serving", "few_steps", "recipes", "recipe"],
    "facts": ["notes", "claims", "experiments", "reliability", "changelog"],
    "names": ["words", "reference", "api"],
}
CAPTIONS = {
    "en": {"begin": "Begin", "lessons": "Lessons", "more": "More", "facts": "Facts", "names": "Names"},
    "zh": {"begin": "入门", "lessons": "课程", "more": "更多", "facts": "实测", "names": "名称"},
}
OUTSIDE = {r"\.\./CHANGELOG\.md": "changelog.md", r"\.\./examples[\w./]*": "examples.md"}


def lessons() -> ModuleType:
    """make_notebooks.py, which knows the lessons."""
    sys.path.insert(0, str(ROOT / "lessons"))
    try:
        return importlib.import_module("make_notebooks")
    finally:
        sys.path.pop(0)


def examples() -> str:
    """The programs of examples/, as a page."""
    parts = ["# Examples\n\nWhole programs of at most 40 lines each; every one is run by a test."]
    for path in sorted((ROOT / "examples").glob("*.py")):
        parts.append(f"## {path.stem}\n\n```python\n{path.read_text('utf-8').strip()}\n```")
    return "\n\n".join(parts) + "\n"


def changelog() -> str:
    """CHANGELOG.md, with links that hold here."""
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    return re.sub(r"\]\(docs/(\w+\.md)\)", r"](\1)", text).replace("](examples)", "](examples.md)")


def api() -> str:
    """The public names by the room that they come from. Registries are on the page of reference."""
    import ebbflow

    rooms: dict[str, list[str]] = {}
    for name, module in ebbflow._PUBLIC.items():
        if callable(getattr(ebbflow, name)):
            rooms.setdefault(module, []).append(name)
    parts = [
        "# Public names\n\n`import ebbflow as ef`, and `ef.` before each; registries are in [reference](reference.md)."
    ]
    for module, names in rooms.items():
        parts.append(f"## {module}\n\n```{{eval-rst}}")
        for name in names:
            found = getattr(ebbflow, name)
            kind = "class" if isinstance(found, type) else "function"
            members = "   :members:\n" if kind == "class" else ""
            parts.append(f".. auto{kind}:: ebbflow.{module}.{found.__name__}\n{members}")
        parts.append("```")
    return "\n".join(part if part.startswith("..") else f"\n{part}\n" for part in parts)


def written() -> dict[str, str]:
    """Every English page by its name, without the lessons and the list of pages."""
    made = {path.stem: path.read_text("utf-8") for path in DOCS.glob("*.md")}
    made |= {"examples": examples(), "changelog": changelog(), "api": api()}
    return {name: linked(text) for name, text in sorted(made.items())}


def pages(language: str) -> dict[str, str]:
    """Every page of a language by its name; of all but the lessons, Sphinx puts in the words from the catalogues."""
    made = written()
    if language != "en":
        made |= {name: made[name].replace("\n\n", f"\n\n> {note}\n\n", 1) for name, note in NOTES.items()}
    taught = lessons()
    return made | {f"lessons/{name}": linked(taught.page(name, language)) for name in taught.LESSONS}


def linked(text: str) -> str:
    """Links to what lies outside docs/ lead to the pages made of it."""
    for outside, page in OUTSIDE.items():
        text = re.sub(rf"\]\({outside}\)", f"]({page})", text)
    return re.sub(r"\]\((?:\.\./)+lessons/(\w+)\.py\)", r"](lessons/\1.md)", text)


def contents(names: list[str], language: str) -> str:
    """The list of pages, in groups; pages that no group names join `more`."""
    groups = {**GROUPS, "lessons": sorted(name for name in names if name.startswith("lessons/"))}
    known = {"index", *(name for group in groups.values() for name in group)}
    groups["more"] = groups["more"] + sorted(set(names) - known)
    parts = [
        f"```{{toctree}}\n:hidden:\n:caption: {CAPTIONS[language][group]}\n\n" + "\n".join(members) + "\n```"
        for group, members in groups.items()
    ]
    return "\n\n" + "\n\n".join(parts) + "\n"


def translated(language: str) -> dict[str, dict[str, Words]]:
    """The catalogue of each page as it stands now."""
    return {
        name: catalogues.current(name, text, language, whole=name not in HEADINGS_ONLY)
        for name, text in written().items()
    }


def update(language: str) -> list[str]:
    """Bring the catalogues of a language up to date; the messages that want words."""
    wanting: list[str] = []
    for name, entries in translated(language).items():
        catalogues.write(catalogues.path_of(name, language), entries)
        wanting += [f"{name}: {message}" for message in entries if not catalogues.known(entries, message)]
    return wanting


def lay_out(folder: Path, language: str) -> None:
    """Write the sources of a language into a folder."""
    shutil.rmtree(folder, ignore_errors=True)
    made = pages(language)
    made["index"] += contents(list(made), language)
    for name, text in made.items():
        path = folder / f"{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    shutil.copytree(DOCS / "images", folder / "images")


def build(target: Path) -> None:
    """Build all languages into a folder; their sources, and the words as they stand, lie beside it."""
    sources = target.parent / "site-sources"
    for language, code in LANGUAGES.items():
        source, locale = sources / language, sources / "locale"
        lay_out(source, language)
        shutil.copytree(catalogues.LOCALE, locale, dirs_exist_ok=True)
        for name, entries in translated(code).items() if language != "en" else ():
            catalogues.write(catalogues.path_of(name, code, locale), entries)
        options = ["-q", "-W", "--keep-going", "-b", "html", "-c", str(DOCS), "-D", f"language={code}"]
        options += ["-D", f"locale_dirs={locale.resolve()}"]
        subprocess.run([sys.executable, "-m", "sphinx", *options, str(source), str(target / language)], check=True)
    (target / "index.html").write_text('<meta http-equiv="refresh" content="0; url=en/index.html">\n', "utf-8")


if __name__ == "__main__":
    if sys.argv[1:] == ["--update"]:
        sys.exit("\n".join(message for code in LANGUAGES.values() if code != "en" for message in update(code)) or 0)
    site = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "site"
    build(site)
    print(site / "index.html")
