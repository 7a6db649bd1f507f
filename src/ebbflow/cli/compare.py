"""`ebbflow compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ebbflow.cli.common import check_weights, print_json, print_rows, read_integers, read_items, shown, this_command
from ebbflow.cli.options import AsJson, BatchSize, Device, WeightsName
from ebbflow.errors import ConfigError

if TYPE_CHECKING:
    from ebbflow.studies.report import Report


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs or of checkpoints, trained on the same data.")],
    samplers: Annotated[
        str, typer.Option(help="Which to compare; see `ebbflow list samplers`.")
    ] = "ddim,heun,dpmpp_2m",
    grids: Annotated[
        str, typer.Option(help="See `ebbflow list grids`; learned needs `ebbflow search-grid`.")
    ] = "uniform",
    steps: Annotated[str, typer.Option(help="Numbers of steps.")] = "5,10,20",
    guidance: Annotated[str, typer.Option(help="Values of w; runs that cannot be guided are at 1.")] = "1,2,4",
    num: Annotated[int, typer.Option(min=2, help="Samples a cell; the same seeds in each.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first sample; the next ones count up.")] = 0,
    within: Annotated[float, typer.Option(min=0, help="Per cent above the best that are good enough.")] = 5.0,
    output: Annotated[Path, typer.Option(help="The report, a single .html file.")] = Path("compare.html"),
    weights: WeightsName = "ema",
    reference: Annotated[str, typer.Option(help="Compare with the split held_out or train.")] = "held_out",
    features: Annotated[str, typer.Option(help="As in `ebbflow evaluate`.")] = "auto",
    batch_size: BatchSize = 64,
    device: Device = "auto",
    data_dir: Annotated[Path | None, typer.Option(help="Where the runs' data lies.")] = None,
    json: AsJson = False,
) -> None:
    """Compare runs, samplers, grids, steps and guidance on the same seeds: quality against evaluations and seconds.

    Finished cells are kept beside the report and not made again, so a stopped comparison goes on where it was, and a
    larger one makes only what is new.
    """
    check_weights(weights)
    if reference not in ("held_out", "train"):
        raise ConfigError(f"--reference must be held_out or train, got {reference!r}.")
    if output.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--output wants a file ending in .html, got {output.name!r}.")
    from ebbflow.files import write_text
    from ebbflow.runs import Request, open_run
    from ebbflow.studies.compare import Comparing
    from ebbflow.studies.compare import compare as stages_of
    from ebbflow.studies.evaluate import Evaluation
    from ebbflow.studies.report import as_json, page
    from ebbflow.training.engine import keep_large_blocks, pick_device

    keep_large_blocks()
    wanted = Comparing(
        samplers=tuple(read_items(samplers)),
        grids=tuple(read_items(grids)),
        steps=tuple(read_integers(steps, "--steps")),
        guidance=_numbers(guidance),
        within=within,
        base=Evaluation(
            num=num,
            seed=seed,
            request=Request(seeds=(), batch_size=batch_size),
            weights=cast(Any, weights),
            reference=cast(Any, reference),
            features=features,
            data_dir=None if data_dir is None else str(data_dir),
        ),
    )
    store = output.with_suffix(".cells.jsonl")
    opened = [open_run(run) for run in runs]
    work = stages_of(opened, wanted, store, device=pick_device(device), command=this_command())
    report = shown(work, f"stopped; finished cells are in {store}, and the same command goes on.")
    write_text(output, page(report))
    if json:
        print_json({**as_json(report), "output": str(output), "store": str(store)})
    else:
        _print(report, output)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--guidance wants numbers with commas between them, such as 1,2,4; got {text!r}.") from error
    return tuple(dict.fromkeys(found))


def _print(report: Report, output: Path) -> None:
    good = report.by_evaluations
    rows = [
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
    print_rows([dict(zip(rows[0], rows[0], strict=True)), *rows])
    print()
    for line in [*report.notes, *report.advice]:
        print(line)
    print(output)
