"""`ebbflow plot run`: the numbers behind the curves, the picture, and what cannot be drawn."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from jinja2 import UndefinedError
from PIL import Image

from ebbflow.cli.app import run_app
from ebbflow.runs.folder import read_metrics
from ebbflow.show import canvas, fonts
from ebbflow.show.page import anchor, render, text
from ebbflow.show.plots import scatter
from ebbflow.show.run_plots import Curve, curve, draw_runs, gap, levels_of, summary
from ebbflow.show.style import BEHIND, COLOURS

TINY = [
    "--set", "net.channels=[8,16]", "--set", "net.num_heads=2", "--set", "train.sample_every=0", "--set", "train.held_out_every=4",
    "--set", "train.held_out_size=16", "--set", "train.log_every=2", "--batch-size", "16", "--device", "cpu", "--lr", "1e-2",
    "--set", "train.warmup_steps=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "drawn"
    assert run_app(["train", "--max-steps", "10", "--save-dir", str(folder), *TINY]) == 0
    return folder


def write(folder: Path, *rows: object) -> Path:
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in rows))
    return folder


ROWS = [
    {"step": 2, "loss": 4.0, "loss_by_log_snr": {"0..3": 1.0, "-inf..-6": 2.0}},
    {"step": 4, "loss": 2.0, "lr": 0.1},
    {"step": 4, "held_out": 3.5, "held_out_raw": 3.0},
    {"step": 6, "loss": float("nan"), "loss_by_log_snr": {"0..3": 0.5, "-3..0": 1.0}},
]


def test_training_writes_the_held_out_loss_of_both_weights(run: Path) -> None:
    rows = read_metrics(run)
    held, raw = curve(rows, "held_out"), curve(rows, "held_out_raw")
    assert held.steps.tolist() == raw.steps.tolist() == [4, 8, 10]
    assert not np.allclose(held.values, raw.values), "the average is not the raw weights"


def test_with_no_averaging_both_are_one_number(run: Path, tmp_path: Path) -> None:
    """A decay of 0 keeps the newest weights only."""
    folder = tmp_path / "unaveraged"
    assert run_app(["train", "--max-steps", "4", "--save-dir", str(folder), *TINY, "--set", "ema.decay=0"]) == 0
    row = next(r for r in read_metrics(folder) if "held_out" in r)
    assert row["held_out"] == row["held_out_raw"]


def test_curves_leave_out_what_is_not_there_or_not_finite() -> None:
    assert curve(ROWS, "loss").steps.tolist() == [2, 4]
    assert curve(ROWS, "loss_by_log_snr", "0..3").values.tolist() == [1.0, 0.5]
    assert curve(ROWS, "nothing").steps.size == 0 and curve(ROWS, "nothing").smoothed().values.size == 0
    assert levels_of(ROWS) == ["-inf..-6", "-3..0", "0..3"]


def test_the_gap_is_of_the_weights_that_the_training_loss_is_of() -> None:
    assert gap(ROWS).steps.tolist() == [4] and gap(ROWS).values.tolist() == [1.0]
    averaged = [{k: v for k, v in row.items() if k != "held_out_raw"} for row in ROWS]
    assert gap(averaged).values.tolist() == [1.5]
    assert gap([{"step": 1, "loss": 1.0}]).steps.size == 0


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 1.0])
def test_smoothing_is_the_running_mean(share: float) -> None:
    values = np.random.default_rng(0).normal(size=41)
    half = int(41 * share / 2)
    wanted = [values[max(i - half, 0) : i + half + 1].mean() for i in range(41)]
    np.testing.assert_allclose(Curve(steps=np.arange(41.0), values=values).smoothed(share).values, wanted, atol=1e-12)


def test_a_figure_of_several_runs(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write(tmp_path / "other", *ROWS, '{"step": 8, "lo')
    output = tmp_path / "runs.png"
    assert run_app(["plot", "run", str(run), str(other), str(run), "--output", str(output), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["run"], second["run"]) == ("drawn", "other") and first["step"] == 10 and first["grad_norm"] > 0
    assert second["loss"] == 2.0 and second["gap"] == 1.0 and second["grad_norm"] is None
    with Image.open(output) as picture:
        assert picture.size == (1400, 1100) and "ebbflow" in picture.text


def test_each_run_leaves_its_ink(run: Path) -> None:
    rows = read_metrics(run)
    one, two = (np.asarray(draw_runs(runs)) for runs in ({"a": rows}, {"a": rows, "b": ROWS}))
    orange = np.array([int(COLOURS[1][k : k + 2], 16) for k in (1, 3, 5)])
    assert not (one == orange).all(axis=-1).any() and (two == orange).all(axis=-1).any()
    assert summary("a", rows)["step"] == 10


def test_folders_of_one_name_are_told_apart_by_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "b").mkdir()
    folders = [str(write(tmp_path / "same", ROWS[1])), str(write(tmp_path / "b" / "same", ROWS[1]))]
    assert run_app(["plot", "run", *folders, "--output", str(tmp_path / "x.png"), "--json"]) == 0
    assert [row["run"] for row in json.loads(capsys.readouterr().out)] == folders


def test_a_page_that_asks_for_what_it_is_not_given_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="'summary' is undefined"):
        render("verify.html", title="", command="", failures=[])


@pytest.mark.parametrize(
    ("value", "said"),
    [("a", "a"), (None, "-"), (0.0123456, "0.01235"), ({"a": 1, "b": "x"}, "a 1, b x"), ([1, "x"], '[1, "x"]')],
)
def test_values_in_words(value: object, said: str) -> None:
    assert text(value) == said


def test_addresses_of_different_names_differ() -> None:
    names = [
        ("a", "b"),
        ("a b", ""),
        ("a.b", "c"),
        ("a", "b.c"),
        ("<a>", "b"),
        ("a-b", ""),
        ("a", "b-"),
        ("\45", ""),
        ("-", ""),
    ]
    assert len({anchor(pair) for pair in names}) == len(names)
    assert all(re.fullmatch(r"[\w.-]+", anchor(pair)) for pair in names)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (None, "holds no metrics.jsonl"),
        ((), "holds no steps yet"),
        (('{"step": 1',), "holds no steps yet"),
        (("nonsense\n", {"step": 2}), "line 1 of"),
        (("[1]\n", {"step": 2}), "line 1 of"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(
    rows: tuple[object, ...] | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run" if rows is None else write(tmp_path / "run", *rows)
    assert run_app(["plot", "run", str(folder), "--output", str(tmp_path / "x.png")]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and not (tmp_path / "x.png").exists()


def test_a_picture_of_no_known_kind_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["plot", "run", str(run), "--output", "run.txt"]) == 2
    assert ".png" in capsys.readouterr().err


def test_letters_beyond_ascii_are_drawn_and_no_boxes() -> None:
    """Pillow's own font draws the same box for every letter that it lacks."""
    tile = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    drawn = {name: canvas.grid(tile, columns=1, row_names=[name]).tobytes() for name in ("ü", "ж", "λ", "ő")}
    assert len(set(drawn.values())) == 4


def without_fonts_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_files", lambda: DEJAVU)
    fonts._file_for.cache_clear()


DEJAVU = fonts._files()[:1]


def test_names_that_no_font_can_write_are_numbers_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    without_fonts_of_the_system(monkeypatch)
    with pytest.warns(UserWarning, match=r"\[2\] is 狗, \[4\] is 猫 und Bär. Install one"):
        assert fonts.writable(["cat", "狗", "Bär", "猫 und Bär", ""]) == ["cat", "[2]", "Bär", "[4]", ""]
    monkeypatch.undo()
    fonts._file_for.cache_clear()


@pytest.mark.filterwarnings("error")
def test_plots_write_any_script_that_a_font_has() -> None:
    if fonts._file_for(frozenset("狗")) is None:
        pytest.skip("no font of this machine has Chinese letters")
    drawn = [np.asarray(draw_runs({name: ROWS, "b": ROWS})) for name in ("狗", "猫", "Bär")]
    assert len({one.tobytes() for one in drawn}) == 3


def test_a_font_is_chosen_by_the_letters_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of fonts that have one letter each, the one that has the text's; accents that none has are left out."""
    known = {"a.ttf": "ж", "b.ttf": "狗"}
    monkeypatch.setattr(fonts, "_files", lambda: tuple(known))
    monkeypatch.setattr(fonts, "_letters_of", lambda file: frozenset(map(ord, known[file])))
    fonts._file_for.cache_clear()
    assert (fonts._file_for(frozenset("狗 狗")), fonts._file_for(frozenset("ж狗"))) == ("b.ttf", None)
    assert fonts.writable(["Bär"]) == ["Bar"]
    monkeypatch.undo()
    fonts._file_for.cache_clear()


@pytest.mark.parametrize(
    ("rows", "columns", "side"), [(1, 1, 8), (1, 1, 28), (1, 1, 256), (1, 8, 8), (10, 8, 8), (2, 2, 64)]
)
def test_a_small_sheet_is_enlarged_until_it_can_be_seen(rows: int, columns: int, side: int) -> None:
    sheet = canvas.grid(torch.zeros(rows * columns, 1, side, side, dtype=torch.uint8), columns=columns)
    assert sheet.height >= 256 or sheet.width >= 900
    assert sheet.width <= max(columns * 56 * 1.5, 1100), "no wider than a screen"


def test_samples_lie_over_the_data_and_many_become_a_density() -> None:
    points = torch.randn(5000, 2, generator=torch.Generator().manual_seed(0))
    few, many = scatter(points[:100]), scatter(points)
    both, coloured = scatter(points[:100], behind=points), scatter(points[:100], [0, 1] * 50, ["a", "b"])
    assert len({picture.tobytes() for picture in (few, many, both, coloured)}) == 4
    greys = (np.asarray(both) == [int(BEHIND[k : k + 2], 16) for k in (1, 3, 5)]).all(-1)
    assert greys.sum() > 1000 and not (np.asarray(few) == np.asarray(both)[greys][0]).all(-1).any()
