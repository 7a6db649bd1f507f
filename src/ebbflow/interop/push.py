"""Putting a run on the Hugging Face hub."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from ebbflow import hub
from ebbflow.interop.export import export, files_of
from ebbflow.requests.base import narrowed
from ebbflow.requests.tools import ExportRequest, PushRequest
from ebbflow.runs.model import Model


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What was sent, or would have been: files and their bytes, and of what was sent its page and revision."""

    files: dict[str, int]
    url: str = ""
    revision: str = ""


def push(model: Model, request: PushRequest, *, command: str = "") -> Sent:
    """Export a run and commit it to a repository of the hub, in one commit.

    Raises:
        ConfigError: as `export`; no such name, or the hub refuses or does not answer.
        ImportError: huggingface-hub is missing.
    """
    hub.check_name(request.repo)
    step = model.require_run("only those are pushed").checkpoint.step
    with tempfile.TemporaryDirectory() as place:
        form = narrowed(ExportRequest, request, output=Path(place) / request.repo.rpartition("/")[2])
        folder = export(model, form, command=command, repo=request.repo)
        if request.dry_run:
            return Sent(files=files_of(folder))
        url, revision = hub.send(
            folder,
            request.repo,
            private=request.private,
            message=request.message or f"{model.name} after {step} steps",
            revision=request.revision,
        )
        return Sent(files=files_of(folder), url=url, revision=revision)
