"""`ebbflow evaluate`, `compare`, `likelihood`, `search-grid` and `claims`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ebbflow.cli.common import print_json, print_rows, this_command
from ebbflow.cli.progress import shown
from ebbflow.requests.studies import (
    ClaimsRequest,
    CompareRequest,
    EvaluateRequest,
    LikelihoodRequest,
    SearchGridRequest,
)

if TYPE_CHECKING:
    from pathlib import Path

    from ebbflow.studies.report import Report


def evaluate(request: EvaluateRequest) -> None:
    """Measure a run's samples against its data: Frechet distance, KID, precision, recall, label accuracy, copying."""
    from ebbflow.runs import open_run
    from ebbflow.studies.evaluate import Evaluation, base_request
    from ebbflow.studies.evaluate import evaluate as parts_of
    from ebbflow.training.engine import keep_large_blocks, pick_device

    keep_large_blocks()
    run = open_run(request.ckpt)
    wanted = Evaluation(
        num=request.num,
        repeats=request.repeats,
        seed=request.seed,
        request=replace(base_request(run), **_changes(request)),
        weights=request.weights,
        reference=request.reference,
        features=request.features,
        precision=request.precision,
        data_dir=_text(request.data_dir),
    )
    parts = parts_of(run, wanted, device=pick_device(request.device), command=this_command())
    result = shown(parts, "stopped; the same command goes on from the last finished batch.")
    if request.json:
        print_json(result)
    else:
        _print_evaluation(result, request.num)


def _changes(request: EvaluateRequest) -> dict[str, Any]:
    """What differs from the run's own way of sampling; another sampler drops the run's options."""
    options = request.options if request.options is not None else {} if request.sampler is not None else None
    given = {
        "sampler": request.sampler,
        "num_steps": request.steps,
        "grid": request.grid,
        "guidance": request.guidance,
        "clip": request.clip,
        "batch_size": request.batch_size,
        "options": options,
    }
    return {key: value for key, value in given.items() if value is not None}


def _print_evaluation(result: dict[str, Any], num: int) -> None:
    from ebbflow.metrics.scores import METRICS

    floor, errors = result["floor"] or {}, result["standard_errors"]
    rows = [
        {"metric": name, "value": _number(value), "+-": _number(errors.get(name)), "real": _number(floor.get(name))}
        for name in METRICS
        if (value := result[name]) is not None
    ]
    if result["nearest_ratio"] is not None:
        rows.append({"metric": "nearest_ratio", "value": _number(result["nearest_ratio"]), "+-": "-", "real": "1"})
    _print_table(rows)
    judge = result["classifier"] or {}
    error = judge.get("held_out_error")
    says = "" if error is None else f"; classifier wrong on {error:.2%} of the held-out data"
    print(f"\n{num} samples in {result['seconds']} s, features {result['features']}{says}\n{result['file']}")


def compare(request: CompareRequest) -> None:
    """Compare runs, samplers, grids, steps and guidance on the same seeds: quality against evaluations and seconds.

    Finished cells are kept beside the report and not made again: a stopped comparison goes on where it was, and a
    larger one makes only what is new.
    """
    from ebbflow.files import write_text
    from ebbflow.runs import Request, open_run
    from ebbflow.studies.compare import Comparing
    from ebbflow.studies.compare import compare as parts_of
    from ebbflow.studies.evaluate import Evaluation
    from ebbflow.studies.report import as_json, page
    from ebbflow.training.engine import keep_large_blocks, pick_device

    keep_large_blocks()
    wanted = Comparing(
        samplers=request.samplers,
        grids=request.grids,
        steps=request.steps,
        guidance=tuple(dict.fromkeys(request.guidance)),
        within=request.within,
        base=Evaluation(
            num=request.num,
            seed=request.seed,
            request=Request(seeds=(), batch_size=request.batch_size),
            weights=request.weights,
            reference=request.reference,
            features=request.features,
            data_dir=_text(request.data_dir),
        ),
    )
    store = request.output.with_suffix(".cells.jsonl")
    opened = [open_run(run) for run in request.runs]
    parts = parts_of(opened, wanted, store, device=pick_device(request.device), command=this_command())
    report = shown(parts, f"stopped; finished cells are in {store}, and the same command goes on.", unit="eval")
    write_text(request.output, page(report))
    if request.json:
        print_json({**as_json(report), "output": str(request.output), "store": str(store)})
    else:
        _print_comparison(report, request.output)


def _print_comparison(report: Report, output: Path) -> None:
    good = report.by_evaluations
    _print_table(
        [
            {
                "run": cell.run,
                "sampler": cell.sampler,
                "steps": str(cell.steps),
                "grid": cell.grid,
                "guidance": f"{cell.guidance:g}",
                "evaluations": f"{cell.evaluations:g}",
                "ms": f"{cell.milliseconds:.3g}",
                "frechet": cell.failed or f"{cell.frechet:.4g}",
                "+-": f"{cell.errors['frechet']:.2g}" if "frechet" in cell.errors else "",
                "frontier": "*" if cell.key in good else "",
            }
            for cell in sorted(report.cells, key=lambda cell: cell.frechet)
        ]
    )
    print("", *report.notes, *report.advice, output, sep="\n")


def likelihood(request: LikelihoodRequest) -> None:
    """Measure the likelihood of held-out data, in bits a dimension: less is better."""
    from ebbflow.files import write_text
    from ebbflow.runs import open_run
    from ebbflow.studies.likelihood import Question, measure_likelihood
    from ebbflow.training.engine import pick_device

    question = Question(
        num=request.num,
        method=request.method,
        num_steps=request.steps,
        sampler=request.sampler,
        variance=request.variance,
        seed=request.seed,
        weights=request.weights,
        data_dir=_text(request.data_dir),
        batch_size=request.batch_size,
    )
    report = measure_likelihood(open_run(request.ckpt), question, pick_device(request.device))
    if request.output is not None:
        write_text(request.output, json.dumps(report, indent=2))
    if request.json:
        print_json(report)
    else:
        print_rows([{"key": key, "value": value} for key, value in report.items() if value is not None])


def search_grid(request: SearchGridRequest) -> None:
    """Search the time grid on which few steps stay nearest to many; use it as `ebbflow sample --grid learned`."""
    from ebbflow.runs import open_run
    from ebbflow.runs.grids import FILE, GridSearch, search_grids
    from ebbflow.training.engine import pick_device

    run = open_run(request.ckpt)
    wanted = GridSearch(
        steps=request.steps,
        sampler=request.sampler,
        guidance=request.guidance,
        candidates=request.candidates,
        candidate_grid=request.candidate_grid,
        num=request.num,
        seed=request.seed,
        weights=request.weights,
    )
    found = shown(search_grids(run, wanted, pick_device(request.device)), "stopped; no grid was kept.", unit="time")
    if request.json:
        print_json(found)
        return
    _print_grids(found)
    print(
        f"\n{run.checkpoint.folder / FILE}\nUse it: ebbflow sample --ckpt {run.folder} --grid learned --steps "
        f"{found[0]['steps']} --output samples.png"
    )


def _print_grids(found: Sequence[Mapping[str, Any]]) -> None:
    _print_table(
        [
            {
                "steps": str(one["steps"]),
                "off the teacher": f"{one['error']:.3g}",
                "on the uniform grid": f"{one['error_uniform']:.3g}",
                "times": " ".join(f"{t:.3f}" for t in one["times"]),
            }
            for one in found
        ]
    )
    worse = [str(one["steps"]) for one in found if one["error"] >= one["error_uniform"]]
    if worse:
        print(f"\nWith {' and '.join(worse)} steps the uniform grid stays nearer to the teacher: no need to learn one.")


def claims(request: ClaimsRequest) -> None:
    """Measure the study notes' claims on a diffusion and a flow model, and write a page with verdicts.

    Finished claims are kept beside the page: the same command goes on where it was stopped.
    """
    from ebbflow.runs import open_run
    from ebbflow.studies.claims.pair import Examination, examine
    from ebbflow.training.engine import keep_large_blocks, pick_device

    keep_large_blocks()
    how = Examination(
        num=request.num,
        few=request.few,
        steps=request.steps,
        only=request.only,
        seed=request.seed,
        batch_size=request.batch_size,
        features=request.features,
        precision=request.precision,
        data_dir=_text(request.data_dir),
        output=request.output,
    )
    pair = open_run(request.diffusion), open_run(request.flow)
    parts = examine(*pair, how, device=pick_device(request.device), command=this_command())
    result = shown(parts, "stopped; the same command goes on after the last finished claim.", lines=True)
    if request.json:
        print_json(result)
    else:
        print_rows([{"name": n, "verdict": c["verdict"], "claim": c["statement"]} for n, c in result["claims"].items()])
        print(f"\n{result['page']}")


def _print_table(rows: Sequence[Mapping[str, str]]) -> None:
    print_rows([{key: key for key in rows[0]}, *rows])


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}"
