"""What the routes share: models, a worker, limits, and the way from a question to its answer."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from torch import Tensor

from ebbflow.cli.errors import BUG, explained
from ebbflow.errors import CheckpointError, ConfigError
from ebbflow.requests.serving import Limits
from ebbflow.runs.model import Model
from ebbflow.studio.asking import Question
from ebbflow.studio.guard import error_body
from ebbflow.studio.meter import Labels, Meter
from ebbflow.studio.shelf import Shelf
from ebbflow.studio.worker import BusyError, Job, Preview, StoppedError, Worker

UNTOLD = 2.0  # seconds after which an answer is looked for: a worker may die between giving it and telling of it


class LeftError(Exception):
    """The client is gone."""


class NoSuchError(ConfigError):
    """Something that is asked for by a name that nothing has."""


@dataclass(frozen=True, kw_only=True)
class Desk:
    """Takes questions and brings answers.

    Args:
        shelf: the models.
        worker: makes the samples.
        limits: of what may be asked.
        meter: counts.
        say: is told what an operator should know.
    """

    shelf: Shelf
    worker: Worker
    limits: Limits
    meter: Meter
    say: Callable[[str], None] = field(default=print)

    async def model(self, name: str | None) -> tuple[str, Model]:
        """The name and the model of this name, or the first one.

        Raises:
            NoSuchError: there is none.
        """
        chosen = name or (self.shelf.names or [""])[0]
        try:
            ready = self.shelf.ready(chosen)
            return chosen, await run_in_threadpool(self.shelf.model, chosen) if ready is None else ready
        except CheckpointError:
            raise
        except ConfigError as error:
            raise NoSuchError(str(error)) from error

    def submit(self, question: Question, *, previews: int = 0, watch: Callable[[Preview], None] | None = None) -> Job:
        """Have a question answered.

        Raises:
            BusyError, StoppedError: the worker takes no more.
        """
        job = Job(question.asked, previews=previews, watch=watch or (lambda preview: None), timeout=self.limits.timeout)
        return self.worker.submit(job)

    async def answer(self, question: Question, request: Request) -> Tensor:
        """The samples, float32 (N, *dims); given up where the client leaves.

        Raises:
            LeftError: it did.
            Exception: whatever the worker met.
        """
        job = self.submit(question)
        future, leaving = asyncio.wrap_future(job.answer), asyncio.ensure_future(_left(request))
        both: set[asyncio.Future[Any]] = {future, leaving}
        try:
            while job.is_open and not leaving.done():
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED, timeout=UNTOLD)
            if job.is_open:
                raise LeftError
            return job.answer.result(0)
        finally:
            leaving.cancel()
            future.cancel()

    async def follow(self, job: Job, previews: asyncio.Queue[Preview | None]) -> AsyncIterator[Preview | Tensor]:
        """The glimpses of a job as they come, then its samples; given up where nobody goes on listening.

        Raises:
            Exception: whatever the worker met.
        """
        try:
            while True:
                try:
                    preview = await asyncio.wait_for(previews.get(), UNTOLD)
                except TimeoutError:
                    if job.is_open:
                        continue
                    break
                if preview is None:
                    break
                yield preview
            yield job.answer.result(0)
        finally:
            job.cancel("the client left")

    def listen(self, question: Question, num: int) -> AsyncIterator[Preview | Tensor]:
        """Submit a question of which `num` glimpses are wanted, and follow it.

        Raises:
            BusyError, StoppedError: the worker takes no more.
        """
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[Preview | None]()

        def tell(preview: Preview | None) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody listens
                loop.call_soon_threadsafe(queue.put_nowait, preview)

        job = self.submit(question, previews=num, watch=tell)
        job.answer.add_done_callback(lambda answer: tell(None))
        return self.follow(job, queue)

    def gauges(self) -> Mapping[str, Mapping[Labels, float]]:
        """What is measured at this moment."""
        steps: dict[Labels, float] = {(("model", name),): self.shelf.slot(name).step for name in self.shelf.names}
        waiting: dict[Labels, float] = {(): self.worker.num_waiting}
        alive: dict[Labels, float] = {(): float(self.worker.is_alive)}
        return {"waiting_samples": waiting, "worker_up": alive, "model_step": steps}

    # -- errors --------------------------------------------------------------------------------------------------------

    def failed(self, error: BaseException) -> tuple[int, dict[str, object], dict[str, str]]:
        """Status, body and headers for an error."""
        if isinstance(error, BusyError):
            body = error_body(str(error), "rate_limit_error", "busy")
            return 429, body, {"retry-after": str(error.seconds)}
        if isinstance(error, StoppedError):
            late = str(error).startswith("not done")
            kind, code = ("timeout_error", "timeout") if late else ("server_error", "stopped")
            return (504 if late else 503), error_body(f"{error}.", kind, code), {} if late else {"retry-after": "5"}
        if isinstance(error, NoSuchError):
            return 404, error_body(str(error), "invalid_request_error", "not_found", _param(str(error))), {}
        if isinstance(error, CheckpointError):
            return 409, error_body(str(error), "server_error", "checkpoint"), {}
        message, exit_code = explained(error)
        if exit_code != BUG:
            return 400, error_body(message, "invalid_request_error", "invalid_value", _param(message)), {}
        self.say(message)
        return 500, error_body("this is a bug of ebbflow; the server's log says more.", "server_error", "bug"), {}

    async def refuse(self, request: Request, error: Exception) -> JSONResponse:
        """The answer to an error, as a handler of the application."""
        status, body, headers = self.failed(error)
        return JSONResponse(body, status_code=status, headers=headers)


def _param(message: str) -> str | None:
    """The field that a message names first."""
    found = re.search(r"`(\w+)`", message) or re.match(r"unknown argument '(\w+)'", message)
    return found[1] if found else None


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
