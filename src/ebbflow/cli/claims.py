"""`ebbflow claims`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from ebbflow.cli.common import print_json, print_rows, read_integers, read_items, shown, this_command
from ebbflow.errors import ConfigError


def claims(
    diffusion: Annotated[Path, typer.Option(help="A run on a variance-preserving path.")],
    flow: Annotated[Path, typer.Option(help="A run on the flow path, of the same data and budget.")],
    num: Annotated[int, typer.Option(min=2, help="Samples of one setting; more than there are features (128).")] = 500,
    output: Annotated[Path, typer.Option(help="The page; pictures go to images/ beside it.")] = Path("docs/claims.md"),
    only: Annotated[str | None, typer.Option(help="Only these claims, such as steps,toy.")] = None,
    steps: Annotated[str, typer.Option(help="Numbers of steps of the first claim.")] = "5,10,20,50,100",
    few: Annotated[int, typer.Option(min=2, help="Entries for what is measured sample by sample.")] = 32,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first sample; the next ones count up.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples a network evaluation.")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="In which many samples are made: fp32, bf16 or auto.")] = "auto",
    features: Annotated[str, typer.Option(help="auto, classifier, pca, coordinates, dinov2:FOLDER or clip:FOLDER.")] = (
        "auto"
    ),
    data_dir: Annotated[Path | None, typer.Option(help="Where the runs' data lies.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print settings and findings as JSON.")] = False,
) -> None:
    """Measure the study notes' claims on a diffusion and a flow model, and write a page with verdicts.

    Finished claims are kept beside the page: the same command goes on where it was stopped.
    """
    if precision not in ("fp32", "bf16", "auto"):
        raise ConfigError(f"--precision must be fp32, bf16 or auto, got {precision!r}.")
    from ebbflow.runs import open_run
    from ebbflow.studies.claims.pair import Examination, examine
    from ebbflow.training.engine import keep_large_blocks, pick_device

    how = Examination(
        num=num,
        few=few,
        steps=tuple(read_integers(steps, "--steps")),
        only=() if only is None else tuple(read_items(only)),
        seed=seed,
        batch_size=batch_size,
        features=features,
        precision=cast(Any, precision),
        data_dir=None if data_dir is None else str(data_dir),
        output=output,
    )
    keep_large_blocks()
    work = examine(open_run(diffusion), open_run(flow), how, device=pick_device(device), command=this_command())
    result = shown(work, "stopped; the same command goes on after the last finished claim.")
    if json:
        print_json(result)
    else:
        print_rows([{"name": n, "verdict": c["verdict"], "claim": c["statement"]} for n, c in result["claims"].items()])
        print(f"\n{result['page']}")
