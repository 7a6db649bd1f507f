"""`ebbflow serve`."""

from __future__ import annotations

from ebbflow.cli.progress import tell
from ebbflow.requests.serving import ServeRequest


def serve(request: ServeRequest) -> None:
    """Serve trained models to programs, in the way that OpenAI's images are asked for.

    POST /v1/images/generations and /v1/images/edits, GET /v1/models, /healthz, /metrics (Prometheus), /openapi.json.
    Requests share batches; a newer checkpoint of a run is taken up as it comes; Ctrl-C finishes what was begun.
    """
    from ebbflow.studio.server import serve as listen

    listen(request, tell)
