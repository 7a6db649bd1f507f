"""Every flag and every key of a configuration is read by what serves it: none is taken and then forgotten."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import ebbflow
from ebbflow import requests
from ebbflow.cli.app import VERBS, Verb, Verbs
from ebbflow.config import sections
from ebbflow.requests.base import entries

SOURCE = Path(ebbflow.__file__).parent
MODULES = [p for p in sorted(SOURCE.rglob("*.py")) if p.parent.name != "requests"]
TREES = [ast.parse(p.read_text(encoding="utf-8")) for p in MODULES]
REQUESTS = {
    name: cls
    for module in pkgutil.iter_modules(requests.__path__)
    for name, cls in vars(importlib.import_module(f"ebbflow.requests.{module.name}")).items()
    if isinstance(cls, type) and is_dataclass(cls)
}


def named(annotation: ast.expr | None) -> set[str]:
    """The names in a type."""
    return set() if annotation is None else {n.id for n in ast.walk(annotation) if isinstance(n, ast.Name)}


@cache
def read_of_requests() -> dict[str, set[str]]:
    """The attributes that functions read of parameters and fields which are of a request class, by that class."""
    found: dict[str, set[str]] = {}
    held: dict[str, set[str]] = {}
    for node in (n for tree in TREES for n in ast.walk(tree) if isinstance(n, ast.AnnAssign)):
        if isinstance(node.target, ast.Name):
            held.setdefault(node.target.id, set()).update(named(node.annotation) & REQUESTS.keys())
    for tree in TREES:
        for function in (n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))):
            args = [*function.args.args, *function.args.kwonlyargs, *function.args.posonlyargs]
            own = {a.arg: named(a.annotation) & REQUESTS.keys() for a in args}
            holders = {name: classes | own.get(name, set()) for name, classes in {**own, **held}.items()}
            for node in ast.walk(function):
                if isinstance(node, ast.Attribute):
                    owner = node.value
                    name = (
                        owner.id
                        if isinstance(owner, ast.Name)
                        else owner.attr
                        if isinstance(owner, ast.Attribute)
                        else ""
                    )
                    for cls in holders.get(name, ()):
                        found.setdefault(cls, set()).add(node.attr)
    return found


def commands(verbs: Any = VERBS) -> list[tuple[str, type[Any]]]:
    """Every command and its request."""
    rows = []
    for name, one in verbs.items():
        if isinstance(one, Verbs):
            rows += [(f"{name} {inner}", cls) for inner, cls in commands(one.verbs)]
        elif isinstance(one, Verb):
            rows.append((name, one.command(name, "ebbflow").cls))  # type: ignore[attr-defined]
    return rows


def reads(cls: type[Any], field: str) -> bool:
    """Whether anything reads the field of a request of this class, of one that it is a part of, or of a part of it."""
    related = [name for name, other in REQUESTS.items() if issubclass(cls, other) or issubclass(other, cls)]
    twins = [
        name for name, other in REQUESTS.items() if {f.name for f in fields(other)} & {f.name for f in fields(cls)}
    ]
    return any(
        field in read_of_requests().get(name, ()) for name in {*related, *twins} if field in entries(REQUESTS[name])
    )


@pytest.mark.parametrize(("verb", "cls"), commands(), ids=lambda one: one if isinstance(one, str) else "")
def test_every_flag_is_read_by_what_serves_it(verb: str, cls: type[Any]) -> None:
    dead = [name for name, entry in entries(cls).items() if not entry.sets and not reads(cls, name)]
    assert not dead, f"{verb} takes {dead} and does nothing with them"


def test_flags_that_set_a_key_name_one_that_there_is() -> None:
    known = {f"{f.name}.{key.name}" for f in fields(sections.RunConfig) for cls in classes_of(f) for key in fields(cls)}
    known |= {f"{name}.kind" for name in sections.KINDS}
    for verb, cls in commands():
        for name, entry in entries(cls).items():
            assert not entry.sets or entry.sets in known, f"{verb}: {name} sets {entry.sets}"


def classes_of(field: Any) -> list[type[Any]]:
    if field.name in sections.KINDS:
        return list(sections.KINDS[field.name][0].values())
    return [type(field.default)]


CONFIGS = (sections.RunConfig, sections.ClassifierConfig, sections.AutoencoderConfig)
KEYED = {cls for config in CONFIGS for f in fields(config) for cls in classes_of(f)}  # type: ignore[arg-type]


@pytest.mark.parametrize("cls", sorted(KEYED, key=lambda cls: cls.__name__), ids=lambda cls: cls.__name__)
def test_every_key_of_a_configuration_is_read(cls: type[Any]) -> None:
    read = {
        node.attr
        for tree in TREES
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef) and function.name != "__post_init__"
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    dead = [f.name for f in fields(cls) if f.name not in read]
    assert not dead, f"{inspect.getfile(cls)}: nothing reads {dead}"
