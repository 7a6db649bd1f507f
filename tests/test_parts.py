"""Long measurements that are stopped go on from what they finished, and end at the same numbers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ebbflow.cli.app import run_app
from ebbflow.progress import Work, finish
from ebbflow.requests.sampling import ReconstructCommand
from ebbflow.requests.studies import EvaluateRequest, LikelihoodRequest, SearchGridRequest
from ebbflow.runs import parts
from ebbflow.runs.edit import reconstructions
from ebbflow.runs.model import Model
from ebbflow.runs.opened import held_out_of
from ebbflow.runs.parts import parts_of
from ebbflow.runs.plan import default_plan
from ebbflow.studies.evaluate import evaluate
from ebbflow.studies.likelihood import measure_likelihood
from ebbflow.studies.search_grid import search_grids

FORMAT1 = Path(__file__).parent / "data" / "format1" / "model"


def _likelihood(model: Model, run: str) -> Work[Any]:
    return measure_likelihood(model, LikelihoodRequest(ckpt=run, num=6, batch_size=2, steps=2))


def _bound(model: Model, run: str) -> Work[Any]:
    return measure_likelihood(model, LikelihoodRequest(ckpt=run, num=6, batch_size=2, steps=4, method="vlb"))


def _grids(model: Model, run: str) -> Work[Any]:
    return search_grids(model, SearchGridRequest(ckpt=run, steps=(2,), candidates=6, num=2))


def _evaluation(model: Model, run: str) -> Work[Any]:
    return evaluate(model, EvaluateRequest(num=8, batch_size=2, steps=2, features="pca:2"))


def _reconstruction(model: Model, run: str) -> Work[Any]:
    asked = ReconstructCommand(ckpt=run, num=6, steps=(2, 3), batch_size=2)
    plan = replace(default_plan(model, seeds=[0]), batch_size=2)
    data = held_out_of(model, None, 6)
    return reconstructions(model, plan, data, asked.steps, parts_of(model, asked, data))


WORKS: dict[str, Callable[[Model, str], Work[Any]]] = {
    "likelihood": _likelihood, "bound": _bound, "grids": _grids, "evaluation": _evaluation, "reconstruction": _reconstruction,
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> str:
    return str(shutil.copytree(FORMAT1, tmp_path / "run"))


def _plain(result: Any) -> Any:
    if isinstance(result, list):
        return [one.row() if hasattr(one, "row") else one for one in result]
    return {name: value for name, value in result.items() if name not in ("seconds", "file", "command")}


@pytest.mark.parametrize("work", WORKS.values(), ids=WORKS)
def test_what_was_finished_is_not_done_again(
    run: str, work: Callable[[Model, str], Work[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    keep = parts.Parts.keep
    monkeypatch.setattr(parts.Parts, "keep", lambda self, name, part: (names.append(name), keep(self, name, part)))
    model, folder = Model.from_run(run), Path(run)
    whole, every = finish(work(model, run)), list(names)
    assert not list(folder.rglob(".partial-*")), "nothing is left behind"
    names.clear()
    begun = work(model, run)
    while len(names) < 2:
        next(begun)
    begun.close()
    assert list(folder.rglob(".partial-*"))
    damaged = next(folder.rglob(f"{names[-1]}.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-3])
    assert _plain(finish(work(model, run))) == _plain(whole)
    assert sorted(names) == sorted([*every, names[1]]), "each once, and the damaged one twice"
    assert not list(folder.rglob(".partial-*"))


def test_a_run_of_someone_else_is_measured_all_the_same(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    model = Model.from_run(run)
    whole = [finish(work(model, run)) for work in (_likelihood, _evaluation)]
    monkeypatch.setattr(parts, "remember", full)
    assert [_plain(finish(work(model, run))) for work in (_likelihood, _evaluation)] == [_plain(one) for one in whole]


def test_two_at_once_take_nothing_from_each_other(run: str) -> None:
    """The first to end takes the folder away."""
    model = Model.from_run(run)
    first, second = _evaluation(model, run), _evaluation(model, run)
    while next(second).name != "sample":
        pass
    whole = finish(first)
    assert _plain(finish(second)) == _plain(whole) and not list(Path(run).rglob(".partial-*"))


def test_other_weights_and_requests_have_other_parts(run: str) -> None:
    model = Model.from_run(run)
    asked = LikelihoodRequest(ckpt=run, num=6)
    folders = {parts_of(model, one).folder for one in (asked, LikelihoodRequest(ckpt=run, num=6, seed=1))}
    assert len(folders) == 2 and parts_of(model, LikelihoodRequest(ckpt="else", num=6)).folder in folders
    with torch.no_grad():
        next(model.denoiser.net.parameters()).add_(1)  # type: ignore[attr-defined]
    assert parts_of(model, asked).folder not in folders


def test_the_command_says_so(run: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(parts.Parts, "keep", interrupted)
    for words in (
        ["likelihood"],
        ["reconstruct", "--steps", "2"],
        ["search-grid", "--steps", "2", "--candidates", "4"],
    ):
        assert run_app([*words, "--ckpt", run, "--num", "2"]) == 130
        assert "the same command goes on" in capsys.readouterr().err
