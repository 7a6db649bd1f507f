"""`ebbflow evaluate`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ebbflow.cli.common import print_json, print_rows, read_options, shown, this_command
from ebbflow.errors import ConfigError

if TYPE_CHECKING:
    from ebbflow.studies.evaluate import Evaluation


def evaluate(
    ckpt: Annotated[Path, typer.Option(help="The folder of a run or of one of its checkpoints.")],
    num: Annotated[int, typer.Option(min=2, help="How many samples to measure.")] = 1000,
    repeats: Annotated[int, typer.Option(min=1, help="Measure so many times, each with the next seeds.")] = 1,
    sampler: Annotated[str | None, typer.Option(help="See `ebbflow list samplers`.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Number of steps.")] = None,
    grid: Annotated[str | None, typer.Option(help="Where the steps lie; see `ebbflow list grids`.")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="w of u + w (c - u): 1 is conditional, 0 unconditional.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Option of the sampler, such as eta=0.5; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first sample; the next ones count up.")] = 0,
    weights: Annotated[str, typer.Option(help="ema (averaged) or raw.")] = "ema",
    batch_size: Annotated[int, typer.Option(min=1, help="Samples a network evaluation.")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="Of the sampled net: fp32, bf16 or auto.")] = "fp32",
    reference: Annotated[str, typer.Option(help="Compare with the split held_out or train.")] = "held_out",
    features: Annotated[
        str, typer.Option(help="auto, classifier, pca, coordinates, dinov2:FOLDER or clip:FOLDER.")
    ] = "auto",
    data_dir: Annotated[Path | None, typer.Option(help="Where the run's data lies.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the whole table as JSON.")] = False,
) -> None:
    """Measure a run's samples against its data: Frechet distance, KID, precision, recall, label accuracy, copying."""
    _one_of("--weights", weights, ("ema", "raw"))
    _one_of("--reference", reference, ("held_out", "train"))
    _one_of("--precision", precision, ("fp32", "bf16", "auto"))
    from ebbflow.runs import open_run
    from ebbflow.studies.evaluate import Evaluation, base_request
    from ebbflow.studies.evaluate import evaluate as stages_of
    from ebbflow.training.engine import keep_large_blocks, pick_device

    keep_large_blocks()
    run = open_run(ckpt)
    changes = {
        "sampler": sampler,
        "num_steps": steps,
        "grid": grid,
        "guidance": guidance,
        "batch_size": batch_size,
        "options": read_options(set_) if set_ is not None else {} if sampler is not None else None,
    }
    wanted = Evaluation(
        num=num,
        repeats=repeats,
        seed=seed,
        request=replace(base_request(run), **cast(Any, {k: v for k, v in changes.items() if v is not None})),
        weights=cast(Any, weights),
        reference=cast(Any, reference),
        features=cast(Any, features),
        precision=cast(Any, precision),
        data_dir=None if data_dir is None else str(data_dir),
    )
    work = stages_of(run, wanted, device=pick_device(device), command=this_command())
    result = shown(work, "stopped; the same command goes on from the last finished batch.")
    if json:
        print_json(result)
    else:
        _print(result, wanted)


def _one_of(flag: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{flag} must be {', '.join(known[:-1])} or {known[-1]}, got {value!r}.")


def _print(result: dict[str, Any], wanted: Evaluation) -> None:
    from ebbflow.metrics.scores import METRICS

    floor, errors = result["floor"] or {}, result["standard_errors"]
    rows = [
        {"metric": name, "value": _number(value), "+-": _number(errors.get(name)), "real": _number(floor.get(name))}
        for name in METRICS
        if (value := result[name]) is not None
    ]
    if result["nearest_ratio"] is not None:
        rows.append({"metric": "nearest_ratio", "value": _number(result["nearest_ratio"]), "+-": "-", "real": "1"})
    print_rows([dict(zip(rows[0], rows[0], strict=True)), *rows])
    classifier = result["classifier"]
    says = (
        ""
        if classifier is None or classifier["held_out_error"] is None
        else f"; classifier wrong on {classifier['held_out_error']:.2%} of the held-out data"
    )
    print(f"\n{wanted.num} samples in {result['seconds']} s, features {result['features']}{says}\n{result['file']}")


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}"
