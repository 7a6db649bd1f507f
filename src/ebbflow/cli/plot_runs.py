"""`ebbflow plot run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ebbflow.cli.common import print_json, this_command


def run(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, finished or not.")],
    output: Annotated[Path, typer.Option(help="A picture (.png .jpg .webp).")] = Path("run.png"),
    json: Annotated[bool, typer.Option("--json", help="Print the last values as an array of objects.")] = False,
) -> None:
    """Draw what runs wrote down: training and held-out loss (averaged and raw weights), their gap, gradient norm,
    learning rate, throughput, and loss by log-SNR over the steps."""
    from ebbflow.runs.folder import read_metrics
    from ebbflow.show import canvas
    from ebbflow.show.run_plots import draw_runs, summary

    canvas.check_suffix(output, canvas.PICTURE_SUFFIXES)
    rows: dict[str, Any] = {name: read_metrics(folder) for name, folder in _named(runs).items()}
    canvas.save_picture(draw_runs(rows), output, this_command())
    if json:
        print_json([summary(name, lines) for name, lines in rows.items()])
    else:
        print(output)


def _named(runs: list[Path]) -> dict[str, Path]:
    """Runs by folder name where that tells them apart, else by path; each once."""
    runs = list(dict.fromkeys(runs))
    names = [folder.resolve().name for folder in runs]
    return {name if names.count(name) == 1 else str(folder): folder for name, folder in zip(names, runs, strict=True)}
