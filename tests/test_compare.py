"""`ebbflow compare`: the frontier, what is kept and not made again, the same seeds everywhere, the page, bad input."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ebbflow.cli.app import run_app
from ebbflow.methods.samplers import SAMPLERS
from ebbflow.metrics.frontier import Cell, advice, alike, cheapest_within, frontier
from ebbflow.metrics.learning import LearnerSettings
from ebbflow.progress import finish
from ebbflow.requests.studies import CompareRequest
from ebbflow.runs import Model
from ebbflow.runs import sample as sample_module
from ebbflow.show.charts import Line, Point, draw_panel, scale
from ebbflow.studies import compare as compare_module
from ebbflow.studies.compare import append_cell, read_cells
from ebbflow.studies.report import Report, page

QUICK = {**LearnerSettings.__init__.__kwdefaults__, "min_steps": 60, "max_steps": 60, "num_features": 24}


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EBBFLOW_CACHE", str(tmp_path_factory.getbasetemp() / "compare_cache"))
    monkeypatch.setattr(LearnerSettings.__init__, "__kwdefaults__", QUICK)


def trained(folder: Path, *settings: str) -> Path:
    common = ["net.channels=[8,16]", "net.clock_dim=16", "train.sample_every=0", "train.batch_size=16", *settings]
    flags = [part for setting in common for part in ("--set", setting)]
    assert run_app(["train", "--preset", "digits", "--max-steps", "2", "--save-dir", str(folder), *flags]) == 0
    return folder


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("compared") / "flow")


@pytest.fixture(scope="module")
def vp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another path, another prediction, unconditional."""
    folder = tmp_path_factory.mktemp("compared") / "vp"
    return trained(folder, "path.kind=cosine", "objective.prediction=v", "conditioning.kind=none")


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared") / "points"
    settings = ["data.name=moons", "net.kind=mlp", "conditioning.kind=none", "train.sample_every=0"]
    flags = [part for setting in settings for part in ("--set", setting)]
    assert run_app(["train", "--max-steps", "2", "--save-dir", str(folder), *flags]) == 0
    return folder


def arguments(output: Path, *runs: Path, **changes: str) -> list[str]:
    flags = {"samplers": "ddim,heun", "steps": "2", "guidance": "1,2", "num": "40", **changes}
    return ["compare", *map(str, runs), "--output", str(output), *(p for k, v in flags.items() for p in (f"--{k}", v))]


def compared(capsys: pytest.CaptureFixture[str], *given: str) -> dict[str, Any]:
    capsys.readouterr()
    assert run_app([*given, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The plans that are sampled, warming up left out."""
    seen: list[Any] = []
    genuine = sample_module.generate

    def watched(model: Any, plan: Any, *more: Any) -> Iterator[Any]:
        if isinstance(model.denoiser, compare_module.Counted):
            seen.append(plan)
        return genuine(model, plan, *more)

    monkeypatch.setattr(sample_module, "generate", watched)
    return seen


# -- the frontier ---------------------------------------------------------------------------------------------------


def dominated(i: int, costs: list[float], errors: list[float]) -> bool:
    return any(
        costs[j] <= costs[i] and errors[j] <= errors[i] and (costs[j], errors[j]) != (costs[i], errors[i])
        for j in range(len(costs))
    )


def test_the_frontier_is_what_no_other_point_dominates() -> None:
    g = torch.Generator().manual_seed(0)
    for _ in range(50):
        costs, errors = (torch.randint(1, 9, (12,), generator=g).double().tolist() for _ in range(2))
        found = frontier(costs, errors)
        wanted = {(costs[i], errors[i]) for i in range(12) if not dominated(i, costs, errors)}
        assert [(costs[i], errors[i]) for i in found] == sorted(wanted)


def test_the_frontier_leaves_out_what_failed() -> None:
    assert frontier([1, 2, 3, 3], [float("inf"), 5, 4, 4]) == [1, 2]
    assert frontier([1], [float("inf")]) == []


def test_the_cheapest_within_some_per_cent_of_the_best() -> None:
    costs, errors = [40, 20, 10, 5, 10], [1.0, 1.04, 1.06, 2.0, 1.05]
    assert cheapest_within(costs, errors, 0) == 0
    assert cheapest_within(costs, errors, 5) == 4
    assert cheapest_within(costs, errors, 100) == 3
    with pytest.raises(ValueError, match="no point has a finite error"):
        cheapest_within([1.0], [float("inf")], 5)


def cell(key: str, **changes: Any) -> Cell:
    plain: dict[str, Any] = {
        "run": "a<b",
        "sampler": "ddim",
        "grid": "uniform",
        "steps": 5,
        "guidance": 1.0,
        "evaluations": 5.0,
        "seconds": 1.0,
        "num": 100,
        "values": {"frechet": 2.0, "kid": 0.1},
        "errors": {"frechet": 0.1},
    }
    return Cell(key=key, **{**plain, **changes})


def test_the_advice_names_the_cheapest_good_enough_setting() -> None:
    cells = [cell("1", sampler="heun", evaluations=39.0, seconds=8.0, values={"frechet": 1.0}), cell("2"),
             cell("3", sampler="unipc", values={"frechet": 1.03}, errors={})]  # fmt: skip
    best, cheapest, *rest = advice(cells, within=5, floor=0.9)
    assert best.startswith(
        "2 of 3 settings cannot be told apart by 100 samples each; the cheapest of them is a<b: unipc"
    )
    assert "lowest number is that of a<b: heun" in cheapest and "7.8 times cheaper" in cheapest
    assert any("is at 0.9: no setting comes" in line for line in rest)
    (only,) = advice([cell("1", failed="samples are not finite", values={})], within=5, floor=None)
    assert "nothing can be recommended" in only


def test_the_headline_says_no_more_than_the_intervals() -> None:
    """The best by number is only called so where no other comes within two standard errors of the difference, and
    nothing is told apart that is as near as real data."""
    errors = {"frechet": 0.1}
    first = [cell("1", values={"frechet": 1.0}, errors=errors), cell("2", values={"frechet": 1.3}, errors=errors)]
    assert advice(first, within=5, floor=None)[0].startswith("Best is a<b: ddim")
    assert advice(first, within=5, floor=1.4)[0].startswith("All 2 settings cannot be told apart")
    assert advice(first, within=5, floor=0.9)[0].startswith("Best is")
    near = [first[0], cell("2", values={"frechet": 1.28}, errors=errors)]
    assert alike(near, None) == near and alike(first, 1.1) == first[:1]


@pytest.mark.parametrize("log", [None, True])
@pytest.mark.parametrize(
    "values", [[3.0], [1.0, 1.0], [0.01, 700.0], [5.0, 6.0], [0.0, 2.0], [1e-9, 1e9], [11.0, 19.0]]
)
def test_axes_hold_their_values_and_have_ticks_inside(values: list[float], log: bool | None) -> None:
    if log and min(values) == 0:
        return
    found = scale("x", values, log=log)
    points = [Point(x=value, y=value, title="") for value in values]
    (axes,) = draw_panel([Line(points=points, colour=0)], found, found).axes
    for (low, high), ticks in ((axes.get_xlim(), axes.get_xticks()), (axes.get_ylim(), axes.get_yticks())):
        assert all(low <= value <= high for value in values)
        assert 2 <= sum(low <= tick <= high for tick in ticks) < 12


# -- the page -------------------------------------------------------------------------------------------------------


SCRIPT = "<script>alert(1)</script>"


def report(*cells: Cell, **changes: Any) -> Report:
    plain: dict[str, Any] = {
        "command": "ebbflow compare '<run>'", "cells": cells, "floor": {"frechet": 1.5}, "within": 5,
        "settings": {"seeds": "0 to 9"}, "runs": {"a<b": {"step": 1}, "c": {"step": 2}},
        "differences": {"path.kind": ["flow", "vp"]},
    }  # fmt: skip
    return Report(**{**plain, **changes})


def test_the_page_needs_nothing_else_and_holds_every_cell_even_failed_ones() -> None:
    cells = [
        cell("1"),
        cell("2", sampler="heun", strip="QUJD"),
        cell("3", sampler="rk4", failed="<not finite>", values={}),
    ]
    text = page(report(*cells))
    assert not re.search(r"https?:|<script|<link|@import|url\(|src=\"(?!data:)", text)
    assert all(name in text for name in ("ddim", "heun", "rk4", "&lt;not finite&gt;", "path.kind", "a&lt;b"))
    assert "<run>" not in text and "prefers-color-scheme: dark" in text and "@media print" in text
    assert text.count("<figure>") == 2 and "data:image/png;base64,QUJD" in text
    assert "All 2 settings cannot be told apart by 100 samples each" in text
    assert "<title>a&lt;b: heun, 5 steps, grid uniform, guidance 1: 2 ± 0.1</title>" in text


def test_the_page_is_the_same_twice_and_when_nothing_could_be_measured() -> None:
    one = report(cell("1"), cell("2", sampler="heun"))
    assert page(one) == page(one)
    assert "nothing can be recommended" in page(report(cell("1", failed="no", values={}), floor=None))


def test_a_notebook_shows_the_page_in_a_frame_and_a_terminal_one_line() -> None:
    one = report(cell("1"), cell("2", sampler="heun"))
    assert repr(one).startswith("Report(2 settings. ") and "\n" not in repr(one) and len(repr(one)) < 300
    frame = one._repr_html_()
    inside = re.fullmatch(r'<iframe sandbox srcdoc="([^"<>]*)" style="[^"]*"></iframe>', frame)
    assert inside is not None and html.unescape(inside[1]) == page(one)


def test_what_users_name_is_escaped_wherever_it_stands() -> None:
    cells = [cell("1", run=SCRIPT, sampler=SCRIPT, grid=SCRIPT, strip="QUJD"), cell("2", failed=SCRIPT, run=SCRIPT)]
    text = page(
        report(
            *cells, command=SCRIPT, settings={SCRIPT: SCRIPT}, runs={SCRIPT: {SCRIPT: SCRIPT}, "b": {}},
            differences={SCRIPT: [SCRIPT, [SCRIPT]]}, notes=[SCRIPT],
        )
    )  # fmt: skip
    assert "<script" not in text and text.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 15


def test_curves_follow_the_theme_of_the_page() -> None:
    """No colour of a curve is fixed, and each variable has a value in light, in dark and on paper."""
    text = page(report(*[cell(str(i), sampler=name) for i, name in enumerate(SAMPLERS)]))
    drawn = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert not re.search(r"#[0-9a-f]{6}\b|#[0-9a-f]{3}\b|black", drawn)
    style = text.partition("</style>")[0]
    for name in set(re.findall(r"var\((--\w+)\)", drawn)):
        assert style.count(f"{name}: #") == 3


# -- the command ----------------------------------------------------------------------------------------------------


def test_all_cells_share_seeds_and_labels_and_count_their_evaluations(
    flow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], calls: list[Any]
) -> None:
    found = compared(capsys, *arguments(tmp_path / "r.html", flow, guidance="0,1,2"))
    assert {"command", "settings", "floor", "runs", "differences", "cells", "advice", "output"} <= found.keys()
    assert len(found["cells"]) == len(calls) == 6
    assert {call.seeds for call in calls} == {tuple(range(40))}
    assert {call.labels for call in calls} == {tuple(i % 10 for i in range(40))}
    for row in found["cells"]:
        branches = 2 if row["guidance"] == 2 else 1
        assert row["evaluations"] == SAMPLERS[row["sampler"]].evaluations(row["steps"]) * branches
        assert row["seconds"] > 0 and row["frechet"] > 0 and row["standard_errors"]["frechet"] > 0
    on = [row for row in found["cells"] if row["on_frontier"]]
    assert min(found["cells"], key=lambda row: row["frechet"]) in on
    assert found["floor"]["frechet"] > 0
    text = (tmp_path / "r.html").read_text()
    assert text.count("<img ") == 6 and "http" not in text


def test_a_cell_is_what_evaluate_measures(flow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = arguments(tmp_path / "r.html", flow, samplers="heun", guidance="2")
    (row,) = compared(capsys, *given)["cells"]
    one = ["evaluate", "--ckpt", str(flow), "--num", "40", "--sampler", "heun", "--steps", "2", "--guidance", "2"]
    table = compared(capsys, *one)
    for name in ("frechet", "kid", "label_accuracy", "precision", "recall"):
        assert row[name] == pytest.approx(table[name], rel=1e-6), name


def test_nothing_is_made_twice_and_a_larger_comparison_makes_only_what_is_new(
    flow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], calls: list[Any]
) -> None:
    output = tmp_path / "r.html"
    first = compared(capsys, *arguments(output, flow))
    assert len(calls) == 4
    again = compared(capsys, *arguments(output, flow))
    assert len(calls) == 4 and again["cells"] == first["cells"]
    more = compared(capsys, *arguments(output, flow, samplers="ddim,heun,euler"))
    assert [call.sampler for call in calls[4:]] == ["euler", "euler"]
    assert [row["frechet"] for row in more["cells"][:4]] == [row["frechet"] for row in first["cells"]]
    assert [row["seconds"] for row in more["cells"][:4]] == [row["seconds"] for row in first["cells"]]
    compared(capsys, *arguments(output, flow, seed="7", samplers="ddim", guidance="1"))
    assert len(calls) == 7


def test_cells_of_other_code_are_made_again_and_the_page_says_so(
    flow: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    calls: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "r.html"
    assert compared(capsys, *arguments(output, flow, guidance="1"))["notes"] == []
    monkeypatch.setattr(compare_module, "code_hash", lambda: "mended")
    found = compared(capsys, *arguments(output, flow, guidance="1", samplers="ddim,heun,euler"))
    assert len(calls) == 2 + 3 and found["settings"]["code"] == "mended"
    assert found["notes"][0].startswith("2 of 3 cells kept in r.cells.jsonl were made by another version")
    assert "2 of 3 cells kept in r.cells.jsonl" in output.read_text()
    again = compared(capsys, *arguments(output, flow, guidance="1", samplers="ddim,heun,euler"))
    assert len(calls) == 5 and again["notes"] == []


def test_a_strangers_sampler_is_measured_again_when_its_own_module_changed(
    flow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for source in ("one", "one", "two"):
        monkeypatch.setattr(compare_module, "source_of", lambda thing, source=source: source)
        compared(capsys, *arguments(tmp_path / "r.html", flow, guidance="1", samplers="ddim"))
    assert len(calls) == 2


def test_checkpoints_may_be_pruned_while_they_are_compared(flow: Path, tmp_path: Path) -> None:
    shutil.copytree(flow, tmp_path / "run")
    model = Model.from_run(tmp_path / "run")
    request = CompareRequest(samplers=("ddim",), steps=(1,), guidance=(1.0,), num=40)
    work = compare_module.compare([model], request, tmp_path / "cells.jsonl")
    next(work)
    shutil.rmtree(model.run.checkpoint.folder)
    assert finish(work).cells[0].frechet > 0 and not model.run.checkpoint.folder.exists()


def test_control_c_keeps_finished_cells(
    flow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine, output = compare_module.append_cell, tmp_path / "r.html"

    def pressed(store: Path, cell: Cell) -> None:
        if cell.sampler == "heun":
            raise KeyboardInterrupt
        genuine(store, cell)

    with monkeypatch.context() as patch:
        patch.setattr(compare_module, "append_cell", pressed)
        assert run_app(arguments(output, flow)) == 130
    assert "the same command goes on" in capsys.readouterr().err and not output.exists()
    store = tmp_path / "r.cells.jsonl"
    assert [cell.sampler for cell in read_cells(store).values()] == ["ddim", "ddim"]
    assert len(compared(capsys, *arguments(output, flow))["cells"]) == 4


def test_a_line_that_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    store = tmp_path / "cells.jsonl"
    append_cell(store, cell("1", times=(1.0, 0.0)))
    with store.open("a") as file:
        file.write('{"key": "2", "run"')
    append_cell(store, cell("3"))
    assert list(read_cells(store)) == ["1", "3"] and read_cells(store)["1"] == cell("1", times=(1.0, 0.0))


def test_runs_may_differ_in_path_prediction_and_condition(
    flow: Path, vp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = compared(capsys, *arguments(tmp_path / "r.html", flow, vp, samplers="ddim"))
    assert [(row["run"], row["guidance"]) for row in found["cells"]] == [("flow", 1), ("flow", 2), ("vp", 1)]
    assert found["differences"]["path.kind"] == ["flow", "cosine"] and "train.seed" not in found["differences"]
    assert found["differences"]["objective.prediction"] == ["velocity", "v"]
    assert found["cells"][-1]["label_accuracy"] is None
    assert "Guidance is 1 only for vp" in found["notes"][0]
    assert any("Of vp alone" in line for line in found["advice"])


def test_points_are_compared_too(points: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = compared(capsys, *arguments(tmp_path / "r.html", points))
    assert len(found["cells"]) == 2 and found["settings"]["features"] == "coordinates2"
    assert 'class="strip points"' in (tmp_path / "r.html").read_text()


def test_samples_that_are_not_finite_fail_their_cell_alone(
    flow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = compared(capsys, *arguments(tmp_path / "r.html", flow, guidance="1,1e39", samplers="ddim"))
    good, bad = found["cells"]
    assert good["failed"] is None and bad["failed"] == "samples are not finite" and not bad["on_frontier"]
    assert "samples are not finite" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samplers": "ddim,hune"}, "unknown sampler 'hune'. Did you mean 'heun'"),
        ({"grids": "uniform,even"}, "unknown time grid 'even'"),
        ({"grids": "learned"}, "has no learned grid of 2 steps"),
        ({"samplers": "ddim,ddim"}, "each once"),
        ({"steps": "2,x"}, "each entry must be a whole number, got 'x'"),
        ({"steps": "0"}, "--steps must be a list such as 0-63 or 1,5,9; each entry must be in [1, 100000], got 0"),
        ({"steps": "2000", "grids": "trailing"}, "visits entries of a table"),
        ({"guidance": "strong"}, "--guidance must be a list such as 1,2.5; each entry must be a number, got 'strong'"),
        ({"num": "10", "features": "classifier"}, "too few for the covariance"),
        ({"reference": "test"}, "--reference must be"),
        ({"features": "resnet"}, "unknown features"),
        ({"weights": "best"}, "--weights must be ema or raw"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_is_sampled(
    flow: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    calls: list[Any],
    changes: dict[str, str],
    message: str,
) -> None:
    assert run_app(arguments(tmp_path / "r.html", flow, **changes)) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said
    assert calls == [] and not list(tmp_path.iterdir())


def test_runs_on_other_data_missing_runs_and_twins_are_refused(
    flow: Path, points: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for runs, message in (
        ((flow, points), "they cannot be compared"),
        ((flow, tmp_path / "none"), "none does not exist"),
        ((flow, flow), "the same model was given twice"),
    ):
        assert run_app(arguments(tmp_path / "r.html", *runs)) == 2
        assert message in capsys.readouterr().err
    assert run_app(arguments(tmp_path / "r.pdf", flow)) == 2
    assert "ending in .html" in capsys.readouterr().err


def test_runs_of_the_same_name_are_told_apart(flow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "flow"
    shutil.copytree(flow, copy)
    found = compared(capsys, *arguments(tmp_path / "r.html", flow, copy, samplers="ddim", guidance="1"))
    names = [row["run"] for row in found["cells"]]
    assert len(set(names)) == 2 and all("flow" in name for name in names)


# -- learned grids ---------------------------------------------------------------------------------------------------


def test_learned_grids_are_searched_kept_sampled_and_compared(
    flow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], calls: list[Any]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(flow, run)
    search = ["search-grid", "--ckpt", str(run), "--candidates", "8", "--num", "4"]
    found = compared(capsys, *search, "--steps", "2,3")
    assert [one["steps"] for one in found] == [2, 3]
    for one in found:
        assert one["times"][0] == 1 and one["times"][-1] == 0 and len(one["times"]) == one["steps"] + 1
        assert sorted(one["times"], reverse=True) == one["times"] and one["error"] > 0 and one["error_uniform"] > 0
    (file,) = run.glob("checkpoints/*/grids.json")
    assert json.loads(file.read_text()) == found
    compared(capsys, *search, "--steps", "3,4")
    assert [one["steps"] for one in json.loads(file.read_text())] == [2, 3, 4]
    rows = compared(capsys, *arguments(tmp_path / "r.html", run, grids="uniform,learned", guidance="1"))["cells"]
    assert {call.grid for call in calls} == {"uniform", "learned"}
    assert [row["times"] for row in rows if row["grid"] == "learned"] == [found[0]["times"]] * 2
    made = ["sample", "--ckpt", str(run), "--num", "4", "--output", str(tmp_path / "a.npz")]
    assert run_app([*made, "--grid", "learned", "--steps", "3"]) == 0
    assert run_app([*made, "--grid", "learned", "--steps", "5"]) == 2
    assert "it has 2, 3, 4" in (said := capsys.readouterr().err) and "`ebbflow search-grid`" in said


def test_bad_searches_are_one_sentence(flow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags, message in (
        (["--steps", "9", "--candidates", "8"], "cannot be chosen out of 8 candidates"),
        (["--sampler", "ddpm", "--steps", "2"], "draws noise"),
        (["--candidate-grid", "even"], "unknown time grid 'even'"),
        (["--steps", "two"], "--steps must be a list such as 0-63 or 1,5,9; each entry must be a whole number"),
    ):
        assert run_app(["search-grid", "--ckpt", str(flow), *flags]) == 2
        assert message in capsys.readouterr().err
    assert not list(flow.glob("checkpoints/*/grids.json"))
