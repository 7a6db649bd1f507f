"""`ebbflow plot ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ebbflow.cli import plot_process, plot_runs, plot_weights
from ebbflow.cli.common import read_items, this_command

plot = typer.Typer(
    help="Draw schedules and runs.", no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]}
)


@plot.callback()
def _plots() -> None:
    """Draw schedules and runs."""


@plot.command()
def schedules(
    output: Annotated[Path, typer.Option(help="A picture (.png .jpg .webp).")] = Path("schedules.png"),
    paths: Annotated[
        str, typer.Option(help="Paths to draw, such as vp_discrete,cosine_discrete,flow.")
    ] = "vp_discrete,cosine_discrete,flow",
    num_steps: Annotated[int, typer.Option(min=10, help="Steps that beta refers to.")] = 1000,
) -> None:
    """Draw beta, alpha, alpha-bar, their square roots and log-SNR of any paths."""
    from ebbflow.core.paths import PATHS
    from ebbflow.errors import choose
    from ebbflow.show import canvas
    from ebbflow.show.plots import draw_schedules

    canvas.check_suffix(output, canvas.PICTURE_SUFFIXES)
    chosen = {name: choose(PATHS, name, "path")() for name in read_items(paths)}
    canvas.save_picture(draw_schedules(chosen, num_steps), output, this_command())
    print(output)


plot.command()(plot_process.noising)
plot.command()(plot_process.denoising)
plot.command("toy-sampler")(plot_process.toy_sampler)
plot.command()(plot_process.trajectories)
plot.command()(plot_weights.weights)
plot.command("run")(plot_runs.run)
