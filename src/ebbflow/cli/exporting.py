"""`ebbflow export` and `ebbflow push`."""

from __future__ import annotations

from ebbflow.cli.common import print_json, print_lines, this_command
from ebbflow.requests.base import narrowed
from ebbflow.requests.tools import ExportCommand, ExportRequest, PushCommand, PushRequest


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
    from ebbflow.interop.push import push as work_of
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
