"""`ebbflow evaluate`, `compare`, `likelihood`, `search-grid` and `claims`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from shlex import quote
from typing import TYPE_CHECKING, Any

from ebbflow.cli.common import print_json, print_lines, print_rows, this_command
from ebbflow.cli.progress import BY_BATCH, shown
from ebbflow.cli.sampling import opened
from ebbflow.requests.studies import (
    ClaimsRequest,
    CompareCommand,
    EvaluateCommand,
    EvaluateImagesCommand,
    LikelihoodRequest,
    SearchGridRequest,
)

if TYPE_CHECKING:
    from pathlib import Path

    from ebbflow.studies.report import Report


def evaluate(request: EvaluateCommand) -> None:
    """Measure a run's samples against its data: Frechet distance, KID, precision, recall, label accuracy, copying."""
    from ebbflow.studies.evaluate import evaluate as work_of

    work = work_of(opened(request), request, command=this_command())
    result = shown(work, BY_BATCH)
    if request.json:
        print_json(result)
    else:
        _print_evaluation(result, request.num)
        print(result["file"])


def evaluate_images(request: EvaluateImagesCommand) -> None:
    """Score pictures made by anything, in a folder or an .npz file, against a data set."""
    from ebbflow.studies.evaluate import evaluate_images as work_of

    result = shown(work_of(request.images, request), "stopped.")
    if request.json:
        print_json(result)
    else:
        _print_evaluation(result, result["num"])


def _print_evaluation(result: dict[str, Any], num: int) -> None:
    from ebbflow.metrics.scores import HIGHER, METRICS

    floor, errors = result["floor"] or {}, result["standard_errors"]
    rows = [
        {
            "metric": name,
            "value": _number(value),
            "+-": _number(errors.get(name), 2),
            "real data": _number(floor.get(name)),
            "better": "higher" if name in HIGHER else "lower",
        }
        for name in METRICS
        if (value := result[name]) is not None
    ]
    if result["nearest_ratio"] is not None:
        known = {"+-": "-", "real data": "1", "better": "near 1; a copy is 0"}
        rows.append({"metric": "nearest_ratio", "value": _number(result["nearest_ratio"]), **known})
    beside = {"psnr": "higher", "psnr_of_given": "higher", "frechet_of_given": "lower"}
    rows += [
        {"metric": name, "value": _number(result[name]), "+-": "-", "real data": "-", "better": better}
        for name, better in beside.items()
        if name in result
    ]
    print_rows(rows, headed=True)
    judge = result["classifier"] or {}
    error = judge.get("held_out_error")
    says = "" if error is None else f"; classifier wrong on {error:.2%} of the held-out data"
    print("", *(f"{note}." for note in result["notes"]), sep="\n" if result["notes"] else "")
    spent = f" in {result['seconds']} s" if "seconds" in result else ""
    print(f"\n{num} samples{spent}{_way(result)}, features {result['features']}{says}")
    learned = [name for name in ("label_accuracy", "caption_agreement") if result[name] is not None]
    unseen = f", and unseen data for {' and '.join(learned)}" if learned else ""
    print(
        f"+- is a standard error; `real data` is the other split in the place of samples{unseen}. nearest_ratio: how "
        "near samples lie to the training data, over how near unseen data lies."
    )


def _way(result: Mapping[str, Any]) -> str:
    """How the samples were made, where they were."""
    if "sampler" not in result:
        return ""
    from ebbflow.core.entries import spelt

    grid = "" if result["grid"] is None else f", grid {spelt(result['grid'])}"
    return f" by {result['sampler']}, {result['steps']} steps{grid}, guidance {result['guidance']:g}"


def compare(request: CompareCommand) -> None:
    """Compare runs, samplers, grids, steps and guidance on the same seeds: quality against evaluations and seconds.

    Finished cells are kept beside the report and not made again: a stopped comparison goes on where it was, and a
    larger one makes only what is new.
    """
    from ebbflow.api import open as open_model
    from ebbflow.files import write_text
    from ebbflow.studies.compare import compare as work_of
    from ebbflow.studies.report import as_json, page
    from ebbflow.training.world import here

    store = request.output.with_suffix(".cells.jsonl")
    models = [open_model(run, weights=request.weights, device=request.device) for run in request.runs]
    work = work_of(models, request, store, command=this_command())
    report = shown(work, f"stopped; finished cells are in {store}, and the same command goes on.", unit="eval")
    if here().leads:
        write_text(request.output, page(report))
    if request.json:
        print_json({**as_json(report), "output": str(request.output), "store": str(store)})
    else:
        _print_comparison(report, request.output)


def _print_comparison(report: Report, output: Path) -> None:
    good = report.by_evaluations
    print_rows(
        [
            {
                "run": cell.run,
                "sampler": cell.sampler,
                "steps": str(cell.steps),
                "grid": cell.grid,
                "guidance": f"{cell.guidance:g}",
                "evaluations": f"{cell.evaluations:g}",
                "ms a sample": f"{cell.milliseconds:.3g}",
                "frechet (lower is better)": cell.failed or f"{cell.frechet:.4g}",
                "+-": f"{cell.errors['frechet']:.2g}" if "frechet" in cell.errors else "",
                "on the frontier": "*" if cell.key in good else "",
            }
            for cell in sorted(report.cells, key=lambda cell: cell.frechet)
        ],
        headed=True,
    )
    print("", *report.notes, *report.advice, output, sep="\n")


def likelihood(request: LikelihoodRequest) -> None:
    """Measure the likelihood of held-out data, in bits a dimension: less is better."""
    from ebbflow.files import write_text
    from ebbflow.studies.likelihood import measure_likelihood
    from ebbflow.training.world import here

    report = shown(measure_likelihood(opened(request), request), BY_BATCH, unit="sample")
    if request.output is not None and here().leads:
        write_text(request.output, json.dumps(report, indent=2))
    if request.json:
        print_json(report)
    else:
        _print_likelihood(report)


def _print_likelihood(report: Mapping[str, Any]) -> None:
    """The figure with its error and its unit, then how it was found."""
    error = report["standard_error"]
    bar = "" if error is None else f" +- {error:.3f}"
    print(f"{report['bits_per_dim']:.3f}{bar} bits a dimension of {report['num']} held-out samples; lower is better\n")
    rest = {key: value for key, value in report.items() if value is not None and key not in HEAD}
    print_lines([(key, _short(value)) for key, value in rest.items()])


HEAD = ("bits_per_dim", "standard_error", "num")


def _short(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else value


def search_grid(request: SearchGridRequest) -> None:
    """Search the time grid on which few steps stay nearest to many; use it as `ebbflow sample --grid learned`."""
    from ebbflow.runs.derived import GRIDS
    from ebbflow.studies.search_grid import search_grids

    model = opened(request)
    stopped = "stopped; the same command goes on after the last finished time."
    found = shown(search_grids(model, request), stopped, unit="time")
    if request.json:
        print_json(found)
        return
    _print_grids(found)
    assert model.run is not None
    print(
        f"\n{model.run.checkpoint.folder / GRIDS}\n"
        f"Use it: ebbflow sample --ckpt {quote(str(model.run.folder))} --grid learned --steps {found[0]['steps']} "
        "--output samples.png"
    )


def _print_grids(found: Sequence[Mapping[str, Any]]) -> None:
    print_rows(
        [
            {
                "steps": str(one["steps"]),
                "off the teacher": f"{one['error']:.3g}",
                "on the uniform grid": f"{one['error_uniform']:.3g}",
                "times": " ".join(f"{t:.3f}" for t in one["times"]),
            }
            for one in found
        ],
        headed=True,
    )
    worse = [str(one["steps"]) for one in found if one["error"] >= one["error_uniform"]]
    if worse:
        print(f"\nWith {' and '.join(worse)} steps the uniform grid stays nearer to the teacher: no need to learn one.")


def claims(request: ClaimsRequest) -> None:
    """Measure the study notes' claims on a diffusion and a flow model, and write a page with verdicts.

    Finished claims are kept beside the page: the same command goes on where it was stopped.
    """
    from ebbflow.runs.opened import Opened
    from ebbflow.studies.claims.pair import examine

    diffusion, flow = (Opened.from_run(folder, device=request.device) for folder in (request.diffusion, request.flow))
    parts = examine(diffusion, flow, request, command=this_command())
    result = shown(parts, "stopped; the same command goes on after the last finished claim.", lines=True)
    if request.json:
        print_json(result)
    else:
        print_lines([(name, one["verdict"], one["statement"]) for name, one in result["claims"].items()])
        print(f"\n{result['page']}")


def _number(value: Any, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}g}"
