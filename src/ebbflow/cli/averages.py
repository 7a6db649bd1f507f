"""`ebbflow ema`: averages of a run's weights over other lengths, after its training."""

from __future__ import annotations

from ebbflow.cli.common import print_json, print_lines, this_command
from ebbflow.cli.progress import watched
from ebbflow.requests.tools import EmaRequest


def ema(request: EmaRequest) -> None:
    """Make averages of a run's weights over lengths that its training did not keep, and measure the held-out loss of
    each; keep one as a checkpoint to be sampled. The run must have been trained with ema.kind=power."""
    from ebbflow.runs import open_run
    from ebbflow.runs.averages import average_of, held_out_by_length, write_average
    from ebbflow.show import canvas
    from ebbflow.show.run_plots import draw_lengths

    run = open_run(request.ckpt)
    if request.into is not None:
        write_average(run, average_of(run, request.lengths[0]), request.into)
    work = held_out_by_length(run, request.lengths, data_dir=request.data_dir, device=request.device)
    rows = list(watched(work, len(request.lengths), "average"))
    if request.output is not None:
        canvas.save_picture(draw_lengths(run.folder.name, rows), request.output, this_command())
    if request.json:
        print_json(rows)
        return
    best = min(rows, key=lambda row: row["held_out"])
    mark = "  best" if len(rows) > 1 else ""
    print_lines(
        [
            ("length", "held-out loss", "error of its profile"),
            *(
                (
                    f"{row['length']:g}",
                    f"{row['held_out']:.5f}",
                    f"{100 * row['error']:.1f} %{mark if row is best else ''}",
                )
                for row in rows
            ),
        ]
    )
    if request.output is not None:
        print(request.output)
    if request.into is not None:
        print(f"done: {request.into}\nuse it with: ebbflow sample --ckpt {request.into} --output samples.png")
