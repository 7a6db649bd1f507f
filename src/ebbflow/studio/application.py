"""The application: routes, guard, health, metrics, and what happens at its start and its end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from ebbflow import __version__
from ebbflow.requests.serving import Limits
from ebbflow.studio import images
from ebbflow.studio.desk import Desk, LeftError
from ebbflow.studio.guard import OPEN, Guard, TooLargeError, error_body
from ebbflow.studio.meter import Meter
from ebbflow.studio.shelf import Shelf
from ebbflow.studio.worker import BusyError, StoppedError, Worker

LEFT = 499  # as nginx has it: the client closed the connection


def desk_of(shelf: Shelf, limits: Limits, meter: Meter, say: Callable[[str], None]) -> Desk:
    """A desk with a worker of its own."""
    worker = Worker(batch_size=limits.batch_size, queue=limits.queue, together=limits.batching, meter=meter, say=say)
    return Desk(shelf=shelf, worker=worker, limits=limits, meter=meter, say=say)


def application(
    desk: Desk,
    *,
    token: str | None = None,
    local: bool = True,
    free: tuple[str, ...] = OPEN,
    add: Callable[[FastAPI], None] = lambda app: None,
) -> Guard:
    """The application.

    Args:
        desk: answers.
        token, local, free: as in `Guard`.
        add: puts more routes on it.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        desk.shelf.watch()
        yield
        desk.shelf.close()
        await run_in_threadpool(desk.worker.close, desk.limits.grace)

    app = FastAPI(title="ebbflow", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    guard = Guard(app, token=token, local=local, most_bytes=desk.limits.most_bytes, meter=desk.meter, free=free)
    app.include_router(images.router(desk))

    async def healthz() -> dict[str, Any]:
        """Whether the server is well."""
        return {"status": "ok" if desk.worker.is_alive else "the worker is down", "models": len(desk.shelf.names)}

    async def metrics() -> PlainTextResponse:
        """Counts for Prometheus."""
        return PlainTextResponse(desk.meter.text(desk.gauges()), media_type="text/plain; version=0.0.4")

    app.add_api_route("/healthz", healthz, methods=["GET"])
    app.add_api_route("/metrics", metrics, methods=["GET"], response_class=PlainTextResponse)
    add(app)

    async def left(request: Request, error: Exception) -> Response:
        return Response(status_code=LEFT)

    async def too_large(request: Request, error: Exception) -> JSONResponse:
        status, body = guard.too_large()
        return JSONResponse(body, status_code=status)

    async def wrong_type(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(error_body(str(error), "invalid_request_error", "content_type"), status_code=415)

    async def by_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        codes = {404: "there is nothing at this address.", 405: "this address does not take that method."}
        message = codes.get(error.status_code, str(error.detail))
        body = error_body(message, "invalid_request_error", f"http_{error.status_code}")
        return JSONResponse(body, status_code=error.status_code)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        name = str(first["loc"][-1])
        body = error_body(f"`{name}`: {first['msg']}.", "invalid_request_error", "invalid_value", name)
        return JSONResponse(body, status_code=400)

    app.add_exception_handler(LeftError, left)
    app.add_exception_handler(images.WrongTypeError, wrong_type)
    app.add_exception_handler(HTTPException, by_http)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(TooLargeError, too_large)
    for kind in (ValueError, RuntimeError, ImportError, ArithmeticError, OSError, BusyError, StoppedError, Exception):
        app.add_exception_handler(kind, desk.refuse)
    return guard
