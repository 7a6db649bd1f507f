"""Every command in the README runs, on small data and for few steps; both languages show the same commands."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ebbflow.cli.app import run_app

ROOT = Path(__file__).parents[1]
FEW = {
    "train": ["--max-steps", "3", "--batch-size", "8", "--set", "sample.num_steps=1", "--set", "train.held_out_size=8"],
    "evaluate": ["--num", "140", "--steps", "1"],
    "distill": ["--max-steps", "3", "--batch-size", "8", "--set", "train.held_out_size=8"],
    "likelihood": ["--num", "2", "--steps", "2"],
    "reconstruct": ["--steps", "2", "--num", "2"],
    "compare": ["--num", "140", "--steps", "1"],
}
SLOW = ("verify", "evaluate", "evaluate-images", "compare", "claims", "studio", "serve")  # their own tests run them


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("README.md", "sh") for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("ebbflow ")]


def my_pictures(folder: Path) -> None:
    generator = np.random.default_rng(0)
    for kind in ("cats", "dogs"):
        (folder / kind).mkdir(parents=True)
        for i in range(12):
            Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / kind / f"{i}.png")


def tiny_mnist(folder: Path) -> None:
    """MNIST's four files with a few random digits each."""
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for part, num in (("train", 40), ("t10k", 20)):
        header = np.array([2051, num, 28, 28], dtype=">i4").tobytes()
        images = generator.integers(0, 256, (num, 28, 28), dtype=np.uint8).tobytes()
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + images)
        labels = (np.arange(num) % 10).astype(np.uint8).tobytes()
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(np.array([2049, num], dtype=">i4").tobytes() + labels)


def small_pipeline(folder: Path) -> Path | None:
    """A pipeline of text with small random weights; None without diffusers."""
    if importlib.util.find_spec("diffusers") is None:
        return None
    from test_interop import saved, stable_diffusion

    saved(stable_diffusion, folder)
    return folder


def test_every_command_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EBBFLOW_DATA", str(tmp_path / "data"))
    my_pictures(tmp_path / "my_pictures")
    tiny_mnist(tmp_path / "data" / "mnist")
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    pipeline = small_pipeline(tmp_path / "pipeline")
    for arguments in commands():
        if "hf:FOLDER_OR_NAME" in arguments:
            if pipeline is None:
                continue
            arguments = [f"hf:{pipeline}" if one == "hf:FOLDER_OR_NAME" else one for one in arguments]
        if arguments[0] in SLOW:
            assert run_app([arguments[0], "--help"]) == 0
            continue
        assert run_app([*arguments, *FEW.get(arguments[0], [])]) == 0, f"{arguments}: {capsys.readouterr().err}"
    for picture in ("four.png", "grid.png", "mine.png", "text.png", "edited.png", "ralston.png", "one.webp"):
        assert (tmp_path / picture).is_file(), f"{picture} was not made"


def test_the_python_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    few = ["--set", "net.channels=[8,8]", "--set", "train.sample_every=0", "--device", "cpu"]
    assert run_app(["train", "--preset", "digits", "--save-dir", "runs/digits", *FEW["train"], *few]) == 0
    for block in blocks("README.md", "python"):
        exec(compile(block, "README.md", "exec"), {})
    shown = capsys.readouterr().out
    assert "SampleSet(20 x (1, 8, 8))" in shown and "tensor" in shown
    assert (tmp_path / "digits.png").is_file()


def test_the_readme_leads_to_every_page() -> None:
    for name in ("README.md", "README.zh-CN.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        linked = set(re.findall(r"\]\((docs/\w+\.md)\)", text))
        assert linked == {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}, name
        for target in re.findall(r"\]\(([\w./-]+)\)", text):
            assert (ROOT / target).exists(), f"{name} links to {target}"


def test_both_languages_show_the_same_commands_and_picture() -> None:
    for language in ("sh", "python"):
        own, other = (
            [re.sub(r"\s*#.*", "", block) for block in blocks(name, language)]
            for name in ("README.md", "README.zh-CN.md")
        )
        assert own == other
    images = [
        re.findall(r"!\[.*?\]\((.*?)\)", (ROOT / name).read_text(encoding="utf-8"))
        for name in ("README.md", "README.zh-CN.md")
    ]
    assert images[0] == images[1]
    for image in images[0]:
        assert (ROOT / image).is_file()


def test_the_table_of_peers_counts_what_there_is() -> None:
    from ebbflow.cli.app import VERBS
    from ebbflow.core.paths import PATHS
    from ebbflow.methods.samplers import SAMPLERS

    counts = [len(SAMPLERS), len(PATHS), len(VERBS)]
    for name, words in (
        ("README.md", "{} samplers, {} paths|`ebbflow`, {} verbs"),
        ("README.zh-CN.md", "{} 种采样器、{} 条路径|`ebbflow`，{} 个动词"),
    ):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert all(part in text for part in words.format(*counts).split("|"))


def test_the_animation_is_small_and_moves() -> None:
    file = ROOT / "docs" / "images" / "noise_to_digits.webp"
    assert file.stat().st_size < 500_000 and Image.open(file).n_frames > 10  # type: ignore[attr-defined]


def test_make_knows_what_the_readme_calls() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    called = [
        line.split()[1]
        for block in blocks("README.md", "sh")
        for line in block.splitlines()
        if line.startswith("make ")
    ]
    assert called and set(called) <= set(targets)


def rows_under(heading: str) -> list[list[str]]:
    """The rows of a table of CONTRIBUTING.md, as cells, without its head."""
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in section.splitlines() if row[:2] == "| "][1:]


def test_the_map_of_the_house_is_the_one_that_is_tested() -> None:
    from test_house import FLOORS, SOURCE

    drawn = {
        room.rstrip("/").removesuffix(".py"): int(floor)
        for floor, rooms, _ in rows_under("Where things live")
        for room in re.findall(r"`([\w/.]+)`", rooms)
    }
    assert {room: floor for room, floor in drawn.items() if floor} == FLOORS
    for _, _, places in rows_under("Adding a thing is one place"):
        for place in re.findall(r"`([\w/]+(?:\.py|/))`", places):
            found = [folder / place for folder in (SOURCE, SOURCE / "methods" / "guidance", ROOT)]
            assert any(path.exists() for path in found), f"CONTRIBUTING.md: {place} is not there"
