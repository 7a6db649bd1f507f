"""A word means the same everywhere: the table of docs/words.md, and the cures that messages tell."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import click
import pytest

from ebbflow.cli.app import VERBS, Verb, Verbs, _hyphened
from ebbflow.errors import nearest
from ebbflow.requests.base import Entry, entries

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "ebbflow"


def commands() -> dict[str, click.Command]:
    """Every verb, those of `plot` too, by its name."""
    found: dict[str, click.Command] = {}
    for name, one in VERBS.items():
        for below, verb in one.verbs.items() if isinstance(one, Verbs) else [("", one)]:
            full = f"{name} {below}".strip()
            made = verb.command(below or name, f"ebbflow {full}") if isinstance(verb, Verb) else verb
            assert made is not None
            found[full] = made
    return found


KNOWN = commands()
REQUESTS = {name: entries(command.cls) for name, command in KNOWN.items() if hasattr(command, "cls")}  # type: ignore[attr-defined]


def strings(file: Path) -> list[str]:
    """Every string of a module; what a formatted one inserts is X."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
            found.append("".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


def told() -> list[str]:
    """Commands between backticks in what ebbflow says and documents."""
    texts = [text for file in sorted(SOURCE.rglob("*.py")) for text in strings(file)]
    texts += [page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md"))]
    return sorted({" ".join(c.split()) for text in texts for c in re.findall(r"`(ebbflow [a-z][^`{}]*)`", text)})


def test_a_message_tells_only_commands_that_there_are() -> None:
    seen = told()
    assert len(seen) > 40
    for text in seen:
        words = shlex.split(text)[1:]
        verb = next((v for v in (" ".join(words[:2]), words[0]) if v in KNOWN), None)
        if verb is None and words[0] in VERBS:  # `ebbflow plot` alone
            continue
        assert verb is not None, f"`{text}` names no verb"
        flags = {flag for param in KNOWN[verb].params for flag in (*param.opts, *param.secondary_opts)}
        for word in words[len(verb.split()) :]:
            flag = _hyphened(word).partition("=")[0]
            if flag.startswith("--") and flag not in ("--help", "--import", "--debug"):
                assert flag in flags, f"`{text}`: {verb} has no {flag}"


def of(name: str) -> dict[str, Entry]:
    """The field of this name in every verb that has it."""
    return {verb: fields[name] for verb, fields in REQUESTS.items() if name in fields}


def test_a_run_is_told_by_its_place_or_by_ckpt_in_every_verb() -> None:
    runs = {**of("ckpt"), **of("runs"), **{v: e for v, e in of("run").items() if v == "distill"}}
    assert len(runs) > 15
    for verb, entry in runs.items():
        assert entry.place == "RUN" and "--ckpt" in entry.flags, verb


def test_a_mask_says_what_is_generated_in_every_verb() -> None:
    assert set(of("mask")) == {"sample", "edit", "restore"} and not of("known")
    for verb, entry in of("mask").items():
        assert re.search(r"generate where this\s+picture is white", entry.doc), verb


@pytest.mark.parametrize("name", ["guidance", "data_dir", "seed", "steps", "num", "labels", "weights", "batch_size"])
def test_a_word_has_one_spelling(name: str) -> None:
    for verb, entry in of(name).items():
        assert f"--{name.replace('_', '-')}" in entry.flags, verb


def test_the_page_of_words_names_flags_that_there_are() -> None:
    text = (ROOT / "docs" / "words.md").read_text(encoding="utf-8").partition("## Names that changed")[0]
    every = {flag for fields in REQUESTS.values() for entry in fields.values() for flag in entry.flags}
    named = set(re.findall(r"--[a-z][a-z-]*", text))
    assert len(named) > 15 and named <= every
    for verbs in re.findall(r"\| ((?:`[a-z -]+`(?:, )?)+)[^|`]*\|$", text, re.MULTILINE):
        assert set(re.findall(r"`([a-z -]+)`", verbs)) <= set(KNOWN)


@pytest.mark.parametrize(("name", "meant"), [("DDIM", "ddim"), ("dpm++", "dpmpp_2m"), ("DPM++ 2M", "dpmpp_2m")])
def test_a_name_is_known_by_its_letters(name: str, meant: str) -> None:
    known = ["ddim", "ddpm", "dpmpp_2m", "heun", "edm"]
    said = nearest(name, known)
    assert said.startswith(f"Did you mean {meant!r}") and said.endswith(".")
