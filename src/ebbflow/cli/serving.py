"""`ebbflow serve` and `ebbflow studio`."""

from __future__ import annotations

from ebbflow.cli.progress import tell
from ebbflow.requests.serving import ServeRequest, StudioRequest


def serve(request: ServeRequest) -> None:
    """Serve trained models to programs, in the way that OpenAI's images are asked for.

    POST /v1/images/generations and /v1/images/edits, GET /v1/models, /healthz, /metrics (Prometheus), /openapi.json.
    Requests share batches; a newer checkpoint of a run is taken up as it comes; Ctrl-C finishes what was begun.
    """
    from ebbflow.studio.server import serve as listen

    listen(request, tell)


def studio(request: StudioRequest) -> None:
    """Open a page on the runs of a folder: watch and start trainings, play with models, see how it all works.

    It works offline and answers to this machine alone, unless a token is set. Trainings that it starts are ordinary
    `ebbflow train` processes, which outlive it. The routes of `ebbflow serve` are there too.
    """
    from ebbflow.studio.server import studio as show

    show(request, tell)
