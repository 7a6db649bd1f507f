"""The benchmark computes what it says, whatever its figures are: no peer is needed and nothing here is timed."""

from __future__ import annotations

import ast
import json
import math
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks import gpu, gpu_page, growth, kernels, machine, step, wall
from benchmarks.__main__ import main
from benchmarks.aims import aims
from benchmarks.arena import ContestantFailed, Handle, best, ratios, turns
from benchmarks.child import Child, serve
from benchmarks.contest import METHODS, Contestant, Training, alpha_bars, stand_in
from benchmarks.options import SECTIONS, parsed
from benchmarks.page import WRITERS, write_page
from benchmarks.peers import OURS, PEERS, VARIANTS
from benchmarks.shared import DIMS, NETS, Free, Shared, flops_of, shared_flops
from ebbflow.core.paths import VPDiscrete
from ebbflow.methods.samplers import SAMPLERS

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "benchmarks" / "peers"


class Line(nn.Module):
    """y = w x."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.w * x


class Entry(Contestant):
    """A contestant that halves its only weight at every step."""

    loop, does, example = "here", "nothing more", "here too"

    def shared(self, net: nn.Module, batch_size: int) -> Training:
        return self.own()

    def own(self) -> Training:
        net = Line()

        def losses() -> Iterator[float]:
            while True:
                with torch.no_grad():
                    net.w *= 0.5
                yield net.w.item()

        draw = lambda num, labels: net(net(torch.full((num, 1, 28, 28), 4.0)))  # noqa: E731
        return Training(losses=losses(), batch_size=3, net=net, draw=draw, conditional=True)


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Child:
    module = types.ModuleType("benchmarks.peers.fake")
    module.Entry = Entry  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return Child("fake", None)


def asked(child: Child, *requests: dict[str, Any]) -> list[dict[str, Any]]:
    answers: list[str] = []
    serve(child, map(json.dumps, requests), answers.append)
    return [json.loads(answer) for answer in answers]


def test_a_contestant_answers_every_request(child: Child, tmp_path: Path) -> None:
    file = tmp_path / "samples" / "x.npz"
    facts, own, trained, drawn, error, after = asked(
        child,
        {"do": "facts", "packages": ["numpy", "no-such-package"]},
        {"do": "own"},
        {"do": "train", "seconds": 60, "most": 2},
        {"do": "draw", "num": 12, "file": str(file)},
        {"do": "walk", "net": "no such net", "method": "ddim", "steps": 1, "batch": 1},
        {"do": "steps", "num": 1},
    )
    assert facts["versions"] == {"numpy": np.__version__, "no-such-package": None} and facts["loop"] == "here"
    assert own == {"batch": 3, "parameters": 1, "settings": "", "conditional": True}
    assert trained["steps"] == 2 and trained["losses"] == [0.5, 0.25, 0.5, 0.25]
    assert drawn["evaluations"] == 2
    assert "no such net" in error["error"]
    assert after["losses"] == [0.125], "an error must not end the process"
    with np.load(file) as written:
        assert written["arr_0"].shape == (12, 28, 28, 1) and written["arr_0"].dtype == np.uint8
        assert set(written["arr_0"].ravel()) == {round((4 * 0.25**2 + 1) * 127.5)}
        assert written["arr_1"].tolist() == [*range(10), 0, 1]


def test_a_contestant_without_a_sampler_or_an_example_says_so(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Entry, "own", lambda self: None)
    walk, own = asked(child, {"do": "walk", "net": "free", "method": "ddim", "steps": 1, "batch": 1}, {"do": "own"})
    assert walk == own == {}


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise SystemExit(3)", "its process has ended"),
        ('print(\'{"error": "ImportError: no"}\')', "ImportError: no"),
    ],
)
def test_a_contestant_that_dies_is_reported(code: str, message: str) -> None:
    with pytest.raises(ContestantFailed, match=message):
        Handle([sys.executable, "-S", "-c", code], {})


def test_a_contestant_that_dies_at_work_is_reported() -> None:
    code = "print('{}', flush=True); input(); print('{\"x\": 1}', flush=True); input()"
    with Handle([sys.executable, "-S", "-c", code], {}) as handle:
        assert handle.ask("anything") == {"x": 1}
        with pytest.raises(ContestantFailed, match="its process has ended"):
            handle.ask("more")


def test_contestants_take_turns() -> None:
    order: list[str] = []
    found = turns("abc", lambda name: float(order.append(name) or len(order)), 2)
    assert "".join(order) == "abcabc"
    assert found == {"a": [1.0, 4.0], "b": [2.0, 5.0], "c": [3.0, 6.0]}


def test_ratios_are_taken_within_a_round() -> None:
    seconds = {"ours": [1.0, 10.0, 3.0], "theirs": [2.0, 30.0, 3.0], "slow": [4.0, 40.0, 6.0]}
    found = ratios(seconds, "theirs")
    assert found["ours"] == {"median": 2.0, "least": 1.0, "greatest": 3.0}
    assert set(found["theirs"].values()) == {1.0}
    assert best(seconds, ["theirs", "slow"]) == "theirs"
    assert best(seconds, ["absent"]) is None


@pytest.mark.parametrize("power", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("axis", ["batch", "size"])
def test_slopes_of_a_power_law_are_its_powers(axis: str, power: float) -> None:
    work = lambda value: value**2 if axis == "size" else value  # noqa: E731
    points = [{axis: value, "seconds": 3 * work(value) ** power, "bytes": 5.0} for value in (8, 28, 56)]
    found = growth.slopes(axis, points)
    assert math.isclose(found["seconds_slope"], power) and math.isclose(found["bytes_slope"], 0, abs_tol=1e-12)


def test_every_reason_is_of_a_series() -> None:
    assert set(growth.REASONS) <= set(growth.SERIES)
    assert all(growth.reason(title, 1.0) == "linear or better" for title in growth.SERIES)


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_is_pinned_and_says_where_its_loops_come_from(name: str) -> None:
    assert "==" in PEERS[name].requirement
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    entry = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Entry")
    said = {target.id for node in entry.body if isinstance(node, ast.Assign) for target in node.targets}  # type: ignore[attr-defined]
    methods = {node.name for node in entry.body if isinstance(node, ast.FunctionDef)}
    assert {"loop", "does"} <= said and ast.get_docstring(tree)
    assert ("example" in said) == ("own" in methods)


def test_every_file_of_a_contestant_is_entered() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == {*PEERS, *OURS, *VARIANTS, "__init__"}
    assert set(VARIANTS.values()) <= set(PEERS)


def test_modules_that_stand_in_can_be_imported_and_not_used() -> None:
    stand_in("no_such_module.inner")
    try:
        import no_such_module.inner
        from no_such_module import Anything

        with pytest.raises(RuntimeError, match="stands in"):
            Anything(1)(2)
        assert no_such_module.inner.Other is Anything
    finally:
        for name in ("no_such_module", "no_such_module.inner"):
            sys.modules.pop(name, None)


@pytest.mark.parametrize("name", NETS)
def test_a_training_step_is_three_forward_passes(name: str) -> None:
    flops = shared_flops(name, 1)
    assert 2.7 < flops["train"] / flops["forward"] <= 3.0


def test_operations_are_counted_as_two_a_product() -> None:
    layer = nn.Linear(7, 5, bias=False)
    assert flops_of(layer, torch.randn(3, 7), backward=False) == 2 * 3 * 7 * 5


@pytest.mark.parametrize("name", ["ebbflow", "ebbflow_fp32", "plain"])
def test_our_entries_train(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    pictures = (torch.randn(8, *DIMS).clamp(-1, 1), torch.arange(8))
    entry = importlib.import_module(f"benchmarks.peers.{name}")
    monkeypatch.setattr("benchmarks.shared.pictures", lambda data_dir: pictures)
    monkeypatch.setattr("benchmarks.peers.ebbflow.pictures", lambda data_dir: pictures)
    net = nn.Conv2d(1, 1, 3, padding=1)
    net.forward = lambda x, t=None, c=None: nn.Conv2d.forward(net, x)  # type: ignore[method-assign, assignment]
    before = net.weight.detach().clone()
    training = entry.Entry().shared(net, 4)
    losses = [next(training.losses) for _ in range(3)]
    assert all(map(math.isfinite, losses)) and not torch.equal(net.weight, before)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_compared_is_our_sampler_on_the_schedule_of_the_others(method: str) -> None:
    from benchmarks.peers.ebbflow_fp32 import Entry as Ours

    assert torch.allclose(alpha_bars(), VPDiscrete().alpha_bars, rtol=1e-12)
    walk = Ours().walk(Free(2).eval(), method, 5)
    assert walk is not None and method in SAMPLERS
    assert torch.isfinite(walk(torch.randn(2, *DIMS))).all()


def test_what_every_sampler_costs_besides_the_net_is_known() -> None:
    from benchmarks import overhead

    found = overhead.run(parsed(["--quick"]))
    assert set(found) == {name for name, sampler in SAMPLERS.items() if not sampler.jumps}
    assert all(set(costs) == {"flow", "flow guided", "vp_discrete", "vp_discrete guided"} for costs in found.values())


def test_a_shared_net_takes_a_time_in_every_form() -> None:
    net, x = Shared("unet").eval(), torch.randn(2, *DIMS)
    with torch.no_grad():
        outs = [net(x, t) for t in (3, torch.tensor(3.0), torch.full((2,), 3), torch.full((2, 1, 1, 1), 3.0))]
    assert all(torch.equal(out, outs[0]) for out in outs)


def test_options() -> None:
    assert parsed([]).only == SECTIONS and parsed([]).peers == tuple(PEERS)
    assert parsed(["--peers", "none"]).peers == ()
    some = parsed(["--only", "wall,step", "--peers", "azula", "--minutes", "6,1", "--threads", "2"])
    assert some.only == ("step", "wall") and some.peers == ("azula",) and some.minutes == (1.0, 6.0)
    assert parsed([]).page is not None and parsed(["--quick"]).page is None
    assert parsed(["--quick"]).results != parsed([]).results, "a quick run must not touch the stored figures"


@pytest.mark.parametrize("wrong", [["--only", "speed"], ["--peers", "azule"], ["--repeat", "0"], ["--minutes", "0"]])
def test_wrong_options_end_it(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parsed(wrong)
    assert wrong[0] in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("section", ["limit", "step", "sampling", "growth"])
def test_a_quick_run_without_peers_measures_stores_and_writes(section: str, tmp_path: Path) -> None:
    stored, page = tmp_path / "results.json", tmp_path / "docs" / "performance.md"
    where = ["--cache", str(tmp_path / "cache"), "--results", str(stored), "--page", str(page)]
    main(["--quick", "--peers", "none", "--only", section, "--data-dir", str(tmp_path / "no-mnist-here"), *where])
    found = json.loads(stored.read_text())
    assert set(found) == {section} and found[section]["machine"]["quick"] and not found[section].get("failed")
    assert "no figure of it means anything" in page.read_text()


def results() -> dict[str, Any]:
    """A run with made-up figures in which everything occurs."""
    facts = {**machine.facts(), "ebbflow": "1", "date": "2026-01-01", "minutes": 1.0, "quick": False, "repeat": 2}
    facts |= {"threads": 1, "clock": "processor", "load": 3.21, "quiet": False}
    names = [*OURS, *PEERS, *VARIANTS]
    each = {name: [1.0 + i, 2.0 + i] for i, name in enumerate(names)}
    timed = {"seconds": {name: values[0] for name, values in each.items()}, "each": each, "best_peer": "diffusers"}
    timed |= {"ratios": ratios(each, "diffusers"), "evaluations": dict.fromkeys(names, 50)}
    flops = {"forward": 10**9, "train": 3 * 10**9, "parameters": 10**6}
    contestants = {name: {"does": "EMA", "loop": "its loop", "versions": {}} for name in names}
    scores = {"frechet": 1.234, "frechet_error": 0.1, "label_accuracy": None, "precision": 0.5, "recall": 0.25}
    marks = [
        {"minutes": minutes, "steps": 7, "evaluations": 20.0, "scores": scores, "file": "x.npz"}
        for minutes in (1.0, 6.0)
    ]
    entry = {"settings": "its net", "example": "its example", "marks": marks}
    points = [{"batch": 8, "seconds": 1.0, "bytes": 2.0**20}, {"batch": 16, "seconds": 3.0, "bytes": 2.0**21}]
    section = {"machine": facts, "failed": {"azula": "it did not start"}}
    return {
        "limit": {
            "machine": facts,
            "rates": {"bytes": 3e10, "gemm_fp32": 9e10, "conv_fp32": 1e11, "conv_train_fp32": 1e11},
        },
        "step": {
            **section,
            "batch": 64,
            "contestants": contestants,
            "nets": {net: {**timed, "flops": flops} for net in NETS},
        },
        "sampling": {
            **section,
            "steps": 50,
            "batch": 64,
            "flops": dict.fromkeys(NETS, 10**9),
            "walks": {f"{net} {method}": timed for net in NETS for method in METHODS},
            "free": {f"{size} {method}": timed for size in (1, 64) for method in METHODS},
            "overhead": {"ddim": {"flow": 40.0, "flow guided": 80.0}},
            "start_up": {"import torch": 1.0},
        },
        "wall": {**section, "entries": {"ebbflow": entry, "azula": {**entry, "batch": 64}}},
        "growth": {
            "machine": facts,
            **{title: {"axis": "batch", "points": points, **growth.slopes("batch", points)} for title in ("a", "b")},
        },
    }


def test_the_page_holds_what_was_measured(tmp_path: Path) -> None:
    found = results()
    assert set(found) == set(WRITERS)
    write_page(found, tmp_path / "performance.md")
    text = (tmp_path / "performance.md").read_text()
    for expected in ("1.23 +- 0.1", "azula: it did not start", "Not quiet: load 3.21", "1.58"):
        assert expected in text
    assert "None" not in text and "nan" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all("|" not in cell for row in rows for cell in row.strip("|").split(" | "))
    for image in ("performance_growth.svg", "performance_minutes.svg"):
        assert f"images/{image}" in text and (tmp_path / "images" / image).stat().st_size > 1000


@pytest.mark.parametrize("section", WRITERS)
def test_the_page_is_written_from_any_section_alone(section: str, tmp_path: Path) -> None:
    write_page({section: results()[section]}, tmp_path / "performance.md")
    heads = (tmp_path / "performance.md").read_text().replace("\n## What was aimed at\n", "").count("\n## ")
    assert heads == 2


def test_an_aim_is_met_by_the_figures_or_said_to_be_missed(tmp_path: Path) -> None:
    found = json.loads(json.dumps(results()))
    found["step"]["nets"]["dit"]["ratios"]["ebbflow"]["median"] = 2.4
    found["step"]["nets"]["unet"]["ratios"]["ebbflow"]["median"] = 1.89
    rows = {one.what: one for one in aims(found, {("ebbflow", "dit"): 0.704, ("ebbflow", "unet"): 0.694})}
    met = [one.met for what, one in rows.items() if "bfloat16" in what]
    assert met == [True, False, True, False]
    assert [(one.aim, one.met) for what, one in rows.items() if "MNIST" in what] == [
        ("at most 10", True),
        ("at most 1.5", True),
    ]
    write_page(found, tmp_path / "performance.md")
    assert "| x 1.9 | x 1.89 | **missed** |" in (tmp_path / "performance.md").read_text()


def test_the_same_figures_make_the_same_page(tmp_path: Path) -> None:
    written = []
    for folder in ("a", "b"):
        write_page(results(), tmp_path / folder / "performance.md")
        written.append({path.name: path.read_bytes() for path in sorted((tmp_path / folder).rglob("*.*"))})
    assert written[0] == written[1]


def test_the_page_in_the_docs_is_of_the_stored_figures(tmp_path: Path) -> None:
    stored, page = ROOT / "benchmarks" / "results" / "latest.json", ROOT / "docs" / "performance.md"
    assert stored.is_file() == page.is_file()
    if stored.is_file():
        write_page(json.loads(stored.read_text()), tmp_path / "performance.md")
        assert (tmp_path / "performance.md").read_text() == page.read_text(), "run `python -m benchmarks` or its page"


def test_the_step_is_held_against_the_rate_that_bounds_it() -> None:
    rates = {"gemm_fp32": 100e9, "conv_train_bf16": 200e9}
    assert step.fraction(50e9, [1.0, 9.0, 0.5], rates, "dit", "fp32") == 0.5
    assert step.fraction(50e9, [1.0], rates, "unet", "bf16") == 0.25
    seconds = {"plain": [2.0, 4.0], "ebbflow": [1.0, 1.0]}
    net = {"seconds": seconds, "ratios": ratios(seconds, "plain"), "fractions": {"plain": 0.5, "ebbflow": 0.75}}
    said = step.table({"kinds": {"AVX2": {"rates": {"bytes": 1.0, **rates}, "nets": {"dit": net}}}})
    assert "gemm_fp32 100 GFLOP/s" in said and "1000 ms  x 3.00 (2.00 to 4.00)   75 % of the rate" in said


def test_ways_that_are_compared_compute_the_same() -> None:
    for name, (x, ways) in kernels.contests(1, torch.float32).items():
        first, *others = (kernels.trained(way, x) for way in ways.values())
        assert others, name
        for other in others:
            torch.testing.assert_close(other, first, rtol=1e-4, atol=1e-4)


def test_a_contest_of_hours_goes_on_with_those_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = parsed(["--only", "wall", "--peers", "azula,torchcfm", "--minutes", "2", "--samples", "500"])
    marks = [{"minutes": minutes, "scores": {"num": 1000}} for minutes in (1.0, 2.0)]
    few = {"marks": [{"minutes": 2.0, "scores": {"num": 100}}]}
    known = {"ebbflow": {"marks": marks}, "azula": few, "diffusers": few}
    failed = {"smalldiffusion": "not run", "torchcfm": "not run"}
    kept = {"machine": machine.facts(), "entries": known, "failed": failed}
    made = []
    monkeypatch.setattr(wall, "load_dataset", lambda *_, **__: None)
    monkeypatch.setattr(wall, "_ours", lambda *_: pytest.fail("it is there already"))
    monkeypatch.setattr(wall, "_theirs", lambda name, *_: made.append(name) or {"marks": marks})
    stored = list(wall.run(asked, kept))[-1]
    assert sorted(made) == ["azula", "torchcfm"], "of one too few were scored, the other is missing"
    assert sorted(stored["entries"]) == ["azula", "diffusers", "ebbflow", "torchcfm"], "what nobody asked for stays"
    assert stored["failed"] == {"smalldiffusion": "not run"}
    other = {**kept, "machine": {**kept["machine"], "threads": 99}}
    assert not wall._earlier(other, "entries", asked) and not wall._earlier({}, "entries", asked)


def test_the_gpu_benchmark_runs_all_of_it_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every point in this process, with tiny nets; what is written is JSON and a page of it."""
    monkeypatch.setattr(gpu, "asked_of", lambda python, asked: gpu.point(asked))
    gpu.main(["--quick", "--device", "cpu", "--peers", "none", "--kinds", "fp32", "--json", str(tmp_path / "gpu.json")])
    found = json.loads((tmp_path / "gpu.json").read_text())
    page = (tmp_path / "gpu.md").read_text()
    assert found["nets"].keys() == gpu.NETS.keys() and "no figure of it means anything" in page
    for net in found["nets"].values():
        assert net["points"].keys() == {"train ebbflow fp32", "walk ebbflow fp32"}
        assert all(got["seconds"] > 0 and got["bytes"] > 0 for got in net["points"].values())
        assert net["points"]["walk ebbflow fp32"]["finite"]
    assert "at least 0.5 of the GEMM rate, not measured" in page and "seconds to the first sample" in page


def test_aims_of_a_gpu_are_held_against_its_own_rate() -> None:
    """A net of 2 operations a row, batches of 10, in 0.1 s: 200 operations a second, of a rate of 400."""
    points = {
        "train ebbflow bf16": {"seconds": 0.1, "first": 1.0, "bytes": 1},
        "train ebbflow bf16, compiled": {"seconds": 0.08, "first": 30.0, "bytes": 1},
        "train diffusers bf16": {"seconds": 0.16, "first": 1.0, "bytes": 1},
        "walk ebbflow bf16": {"seconds": 1.0, "first": 4.0, "bytes": 1},
        "walk diffusers bf16": {"error": "no such module"},
    }
    facts = {"title": "net", "train": 2, "forward": 1, "parameters": 1, "batch": 10, "walked": 4, "points": points}
    facts |= {"steps": 50, "noise": 0.001}
    found = {"machine": {"device": "one", "date": "d", "torch": "t"}, "rates": {"bf16": 400.0}, "nets": {"dit": facts}}
    found |= {"quick": False, "left_out": ""}
    assert gpu_page.utilisation(facts, points["train ebbflow bf16"], 400.0) == pytest.approx(0.5)
    assert gpu_page.against(facts, "train", "bf16, compiled") == pytest.approx(2.0)
    assert list(gpu_page.aims(found)) == [
        "- at least 0.5 of the GEMM rate: 0.62, reached",
        "- at least 1.5 of diffusers' loop: 2.00, reached",
        "- at most 3.0 seconds to the first sample: 4.00, missed",
    ]
    assert "failed: no such module" in gpu_page.page(found)


def test_the_nets_of_the_gpu_benchmark_are_of_the_sizes_that_are_said() -> None:
    sizes = {name: gpu.flops(net) for name, net in gpu.NETS.items()}
    assert sizes["dit"]["parameters"] == pytest.approx(130e6, rel=0.02)
    assert sizes["unet"]["parameters"] == pytest.approx(35e6, rel=0.05)
    assert all(size["train"] == pytest.approx(3 * size["forward"], rel=0.05) for size in sizes.values())
