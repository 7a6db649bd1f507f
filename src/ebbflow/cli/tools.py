"""`ebbflow ema`, `export` and `push`."""

from __future__ import annotations

from ebbflow.cli.common import print_json, print_lines, this_command
from ebbflow.cli.progress import watched
from ebbflow.requests.base import narrowed
from ebbflow.requests.tools import EmaRequest, ExportCommand, ExportRequest, PushCommand, PushRequest


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


def export(request: ExportCommand) -> None:
    """Write a run in a form that other programs open, with a card: its weights, a pipeline of diffusers, ONNX graphs,
    or programs for PyTorch alone."""
    from ebbflow.interop.export import export as work_of
    from ebbflow.interop.export import files_of
    from ebbflow.runs import Model

    model = Model.from_run(request.ckpt, weights=request.weights)
    folder = work_of(model, narrowed(ExportRequest, request), command=this_command())
    if request.json:
        print_json({"folder": str(folder), "to": request.to, "files": files_of(folder)})
        return
    _tell_files(files_of(folder))
    print(f"done: {folder}\nhow it is used: {folder / 'README.md'}")
    if request.license is None:
        print("the card says no licence; say one with --license")


def push(request: PushCommand) -> None:
    """Export a run and put it on the Hugging Face hub, from where `--ckpt hf:USER/NAME` opens it.

    The hub's own log-in is used: `hf auth login`, or the token in HF_TOKEN.
    """
    from ebbflow.interop.export import push as work_of
    from ebbflow.runs import Model

    model = Model.from_run(request.ckpt, weights=request.weights)
    sent = work_of(model, narrowed(PushRequest, request), command=this_command())
    if request.json:
        print_json({"repo": request.repo, "url": sent.url, "revision": sent.revision, "files": sent.files})
        return
    _tell_files(sent.files)
    if request.dry_run:
        print(f"nothing was sent; without --dry-run these files go to {request.repo}")
    else:
        print(f"done: {sent.url}\nuse it with: ebbflow sample --ckpt hf:{request.repo} --output samples.png")


def _tell_files(files: dict[str, int]) -> None:
    total = sum(files.values())
    print_lines([(f"{size:>13,}", name) for name, size in (*files.items(), ("in all", total))])
