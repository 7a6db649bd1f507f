"""What the pages of docs/ say in other languages: locale/LANGUAGE/LC_MESSAGES/PAGE.po, in the format of gettext.

A page falls into messages: headings, paragraphs, items and cells. Code, formulas and figures are written once, on the
English page. What differs from a translated message in its numbers alone is translated: a table or a sentence that a
command writes anew needs no new words. Sphinx puts the words in; nothing here needs it.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

LOCALE = Path(__file__).with_name("locale")
NUMBER = re.compile(r"\d+(?:[.,]\d+)*(?:e[-+]?\d+)?")
FIGURE = re.compile(NUMBER.pattern + r"(?: ?(?:[kMG]i?B|dB|GB/s|[mu]?s|M|%))?\b")
HIDDEN = re.compile(r"```.*?```|<!--.*?-->", re.DOTALL)
BREAK = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*] |\d+\. |[|#]))")
MARK = re.compile(r"^(?:#+|[-*]|\d+\.) ")
SPEECHLESS = re.compile(r"`[^`]*`|\$[^$]*\$|\]\([^)]*\)|https?://\S+")
HEADER = r'msgid ""' + "\n" + r'msgstr "Language: {}\nContent-Type: text/plain; charset=UTF-8\n"' + "\n"
WIDTH = 110


@dataclass(frozen=True, kw_only=True)
class Words:
    """A message in another language; a guess, which is not shown, where a near message had these words."""

    text: str = ""
    guess: bool = False


def path_of(page: str, language: str, locale: Path = LOCALE) -> Path:
    """The catalogue of a page, there or not."""
    return locale / language / "LC_MESSAGES" / f"{page}.po"


def messages(text: str) -> list[str]:
    """What a Markdown page says, in its order and each once, without what needs no words."""
    found: list[str] = []
    for part in BREAK.split("\n" + HIDDEN.sub("\n\n", text)):
        part = " ".join(part.split())
        found += cells(part) if part.startswith("|") else [MARK.sub("", part)]
    return [message for message in dict.fromkeys(each.strip() for each in found) if speaks(message)]


def cells(row: str) -> list[str]:
    """The cells of a row of a table, as they are read."""
    return [cell.replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", row)]


def headings(text: str) -> set[str]:
    """The headings of a page among its messages."""
    return set(re.findall(r"^#+ (.*)", HIDDEN.sub("", text), re.MULTILINE))


def speaks(message: str) -> bool:
    """Whether there is a word outside code, formulas, addresses and figures with their units."""
    return re.search(r"[^\W\d_]{2}", FIGURE.sub("", SPEECHLESS.sub("", message))) is not None


def read(path: Path) -> dict[str, Words]:
    """The entries of a catalogue; none where there is no file."""
    entries: dict[str, Words] = {}
    for block in path.read_text("utf-8").split("\n\n") if path.is_file() else ():
        parts = re.findall(r'^msg(?:id|str)((?:\s*"(?:[^"\\]|\\.)*")+)', block, re.MULTILINE)
        message, text = (ast.literal_eval(f"({part})") for part in parts)
        if message:
            entries[message] = Words(text=text, guess="#, fuzzy" in block)
    return entries


def write(path: Path, entries: dict[str, Words]) -> None:
    """Write a catalogue, in the order of its entries."""
    blocks = [HEADER.format(path.parent.parent.name)]
    for message, words in entries.items():
        mark = "#, fuzzy\n" if words.guess else ""
        blocks.append(f"{mark}msgid {quoted(message)}\nmsgstr {quoted(words.text)}\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(blocks), "utf-8")


def quoted(text: str) -> str:
    """A string of gettext, in lines that break after spaces and Chinese stops; a Chinese letter is two wide."""
    lines = [""]
    for piece in re.findall(r"[^ ，。；：、]*[ ，。；：、]?", text):
        if width(lines[-1] + piece) > WIDTH and lines[-1]:
            lines.append("")
        lines[-1] += piece
    escaped = ['"' + line.replace("\\", r"\\").replace('"', r"\"") + '"' for line in lines]
    return "\n".join(escaped if len(lines) == 1 else ['""', *escaped])


def width(text: str) -> int:
    """The columns that a text takes."""
    return sum(2 if ord(letter) > 0x2E7F else 1 for letter in text)


def carried(old: dict[str, Words], wanted: Iterable[str]) -> dict[str, Words]:
    """The words of the messages of a page: its own, those of one with other numbers, or a guess from a near one."""
    shapes = {NUMBER.sub("0", message): message for message, words in old.items() if words.text and not words.guess}
    return {message: old[message] if known(old, message) else moved(old, shapes, message) for message in wanted}


def known(old: dict[str, Words], message: str) -> bool:
    """Whether a message has words that hold."""
    return message in old and bool(old[message].text) and not old[message].guess


def moved(old: dict[str, Words], shapes: dict[str, str], message: str) -> Words:
    """Words of a message that has none of its own."""
    like = shapes.get(NUMBER.sub("0", message))
    if like is not None:
        before, after, text = NUMBER.findall(like), NUMBER.findall(message), old[like].text
        if NUMBER.findall(text) == before:
            numbers = iter(after)
            return Words(text=NUMBER.sub(lambda _: next(numbers), text))
        new = dict(zip(before, after, strict=True))
        if all(new[was] == now for was, now in zip(before, after, strict=True)):
            return Words(text=NUMBER.sub(lambda found: new.get(found[0], found[0]), text))
    near = difflib.get_close_matches(message, [each for each in old if old[each].text], n=1, cutoff=0.7)
    return Words(text=old[near[0]].text, guess=True) if near else Words()


def current(page: str, text: str, language: str, *, whole: bool = True) -> dict[str, Words]:
    """The catalogue of a page as it stands now; only headings where a page is not `whole`."""
    said, titles = messages(text), headings(text)
    return carried(read(path_of(page, language)), [each for each in said if whole or each in titles])
