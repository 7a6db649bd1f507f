"""The house itself: arrows go down the floors, names are documented, nothing heavy is loaded early."""

from __future__ import annotations

import ast
import graphlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ebbflow
from ebbflow.cli.inspect import _catalogue

SOURCE = Path(ebbflow.__file__).parent
FLOORS = {
    "core": 1, "nets": 1, "data": 1,
    "methods": 2, "conditioning": 2, "latent": 2,
    "training": 3, "metrics": 3, "proof": 3, "show": 3,
    "requests": 4, "config": 4, "plugins": 4, "runs": 4,
    "studies": 5, "interop": 5,
    "api": 5, "cli": 6, "studio": 6,
}  # fmt: skip
MODULES = sorted(SOURCE.rglob("*.py"))


def room(parts: tuple[str, ...]) -> str:
    return parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """The rooms of ebbflow that a module imports, at its top or inside a function."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("ebbflow.")}
    return rooms


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_arrows_only_go_down(path: Path) -> None:
    here = room(path.relative_to(SOURCE).parts)
    if here in ("__init__", "__main__"):
        return
    for other in imported_rooms(path):
        below, above = FLOORS.get(other, 0), FLOORS.get(here, 0)
        assert below < above or other == here or below == above != 1, (
            f"{path} (floor {above}) imports {other} (floor {below})"
        )


def imported_modules(path: Path) -> set[str]:
    """The modules of ebbflow that one imports when it runs, at its top or inside a function; types alone do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []
    known = {
        ".".join(["ebbflow", *m.relative_to(SOURCE).with_suffix("").parts]).removesuffix(".__init__") for m in MODULES
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ebbflow."):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & known


def test_no_module_imports_itself_by_way_of_others() -> None:
    names = {m: ".".join(["ebbflow", *m.relative_to(SOURCE).with_suffix("").parts]) for m in MODULES}
    graph = {n.removesuffix(".__init__"): imported_modules(m) for m, n in names.items() if n != "ebbflow.__init__"}
    own = {name: {other for other in others if other != name} for name, others in graph.items()}
    order = list(graphlib.TopologicalSorter(own).static_order())
    assert len(order) == len(graph)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_below_the_surfaces_nothing_prints_or_parses_arguments(path: Path) -> None:
    if FLOORS.get(room(path.relative_to(SOURCE).parts), 0) in (0, 6) or path.name == "download.py":
        return
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"^\s*print\(|import argparse|import click|from tqdm|hasattr\(", text, re.MULTILINE), path


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_below_the_command_line_nothing_spells_a_flag(path: Path) -> None:
    """A user of Python has no flags; the command line names them where it shows an error. Requests declare them."""
    if room(path.relative_to(SOURCE).parts) in ("cli", "requests"):
        return
    assert not re.search(r"(?<![-\w])--[a-z]", path.read_text(encoding="utf-8")), path


def test_every_module_says_what_it_is_and_stays_short() -> None:
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"
        assert len(text.splitlines()) <= 400, f"{path} has more than 400 lines"


def test_no_two_classes_share_a_name() -> None:
    """There were three called Bench, three Curve, and a Model in the signature of `fit` that was not `ebbflow.Model`."""
    places: dict[str, list[str]] = {}
    for path in MODULES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(str(path.relative_to(SOURCE)))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


@pytest.mark.parametrize("kind", [k for k in _catalogue() if k not in ("presets", "times")])
def test_every_registry_name_is_documented(kind: str) -> None:
    for name, entry in _catalogue()[kind].items():
        assert len(inspect.getdoc(entry) or "") > 20, f"{kind}: {name} has no docstring"


def test_every_sampler_path_and_weight_names_its_source() -> None:
    for kind in ("samplers", "predictions", "weights"):
        for name, entry in _catalogue()[kind].items():
            known = re.search(r"\b(18|19|20)\d\d\b", inspect.getdoc(entry) or "") or name in ("x0", "uniform", "snr")
            assert known, f"{kind}: {name} names no source"


def test_every_public_name_is_there() -> None:
    for name in ebbflow.__all__:
        assert getattr(ebbflow, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ebbflow.nothing


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import ebbflow", ["matplotlib", "pydantic", "click", "PIL", "safetensors"]),
        ("import ebbflow.cli", ["torch", "numpy", "pydantic", "matplotlib"]),
        ("import ebbflow; ebbflow.SAMPLERS", ["matplotlib", "pydantic", "click", "diffusers"]),
    ],
)
def test_importing_is_light(code: str, absent: list[str]) -> None:
    program = f"{code}\nimport sys, json\nprint(json.dumps(sorted(m for m in sys.modules if '.' not in m)))"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    loaded = set(json.loads(out))
    assert not loaded & set(absent), f"{code} loads {loaded & set(absent)}"


def test_nothing_seeds_or_draws_from_the_global_generator() -> None:
    """Randomness comes from seeds that are passed; initialising a net inside `fork_rng` is the one exception."""
    for path in MODULES:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if "manual_seed" in line and "Generator(" not in line:
                assert path.name == "noise.py", f"{path}:{number}: {line.strip()}"
            drawn = re.search(r"torch\.(randn|rand|randint|randperm)\(", line)
            assert not drawn or re.search(r"generator|\*dims|nn\.Parameter\(", line), f"{path}:{number}: {line.strip()}"
