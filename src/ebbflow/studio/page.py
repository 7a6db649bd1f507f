"""The routes of the page: runs and trainings, play, lessons, reports, and the page itself."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from fastapi import Depends, FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, Response

from ebbflow.requests.serving import NewRunRequest, NewStudentRequest
from ebbflow.studio import gallery, lessons
from ebbflow.studio.desk import Desk, NoSuchError
from ebbflow.studio.images import JSON, check_type
from ebbflow.studio.pixels import encoded
from ebbflow.studio.play import Play, name_of
from ebbflow.studio.schema import from_fields, object_of
from ebbflow.studio.trainings import Trainings

STATIC = Path(__file__).with_name("static")
FREE = ("/healthz", "/", "/static/", "/studio/report")  # a report wants a ticket
TICKET = 60.0  # seconds that a ticket is good for
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"


@dataclass(frozen=True, kw_only=True)
class Page:
    """The routes.

    Args:
        desk: opens models and answers questions.
        folder: whose runs are shown.
        trainings: of that folder.
    """

    desk: Desk
    folder: Path
    trainings: Trainings
    play: Play = field(init=False)
    tickets: dict[str, tuple[str, float]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "play", Play(desk=self.desk, folder=self.folder))

    def add_to(self, app: FastAPI) -> None:
        """Put the routes on an application."""
        gets: dict[str, Callable[..., Any]] = {
            "/": self.index,
            "/static/{name}": self.static,
            "/studio/runs": self.runs,
            "/studio/curves": self.curves,
            "/studio/picture": self.picture,
            "/studio/path": self.path,
            "/studio/noised": self.noised,
            "/studio/views": self.views,
            "/studio/ways": self.ways,
            "/studio/measured": self.measured,
            "/studio/reports": self.reports,
            "/studio/report": self.report,
        }
        gets |= self.play.gets
        for path, get in gets.items():
            app.add_api_route(path, get, methods=["GET"], response_model=None, include_in_schema=path != "/")
        posts: dict[str, Callable[..., Any]] = {
            "/studio/train": self.train,
            "/studio/distill": self.distill,
            "/studio/resume": self.resume,
            "/studio/stop": self.stop,
            "/studio/ticket": self.ticket,
        }
        posts |= self.play.posts
        for path, post in posts.items():
            app.add_api_route(path, post, methods=["POST"], response_model=None)

    # -- files ---------------------------------------------------------------------------------------------------------

    async def index(self) -> FileResponse:
        """The page."""
        return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})

    async def static(self, name: str) -> FileResponse:
        """A file of the page."""
        known = {path.name: path for path in STATIC.iterdir() if path.is_file()}
        if name not in known:
            raise NoSuchError(f"there is no file {name[:60]!r} of the page.")
        return FileResponse(known[name], headers={"cache-control": "no-cache"})

    # -- runs and trainings --------------------------------------------------------------------------------------------

    async def runs(self) -> dict[str, Any]:
        """The runs of the folder."""
        found = await run_in_threadpool(gallery.cards, self.folder)
        failed, known = self.trainings.failed, {card.name for card in found}
        rows = [
            {**asdict(card), "state": self._state(card), "error": failed(card.name) or card.damage} for card in found
        ]
        for name in self.trainings.names:
            if name not in known:
                state = "starting" if self.trainings.is_starting(name) else "failed"
                rows.insert(0, {"name": name, "state": state, "error": failed(name)})
        root = str(self.trainings.root.resolve())
        return {"folder": str(self.folder), "data_root": root, "runs": rows}

    def _state(self, card: gallery.Card) -> str:
        if card.state == "training" or not self.trainings.is_starting(card.name):
            return "failed" if self.trainings.failed(card.name) else card.state
        return "starting"

    async def curves(self, name: str, after: int = -1) -> dict[str, Any]:
        """What a training wrote down."""
        return await run_in_threadpool(gallery.curves, self.play.run_folder(name), after)

    async def picture(self, name: str, step: int) -> FileResponse:
        """A grid that a training drew."""
        found = gallery.pictures(self.play.run_folder(name))
        if step not in found:
            raise NoSuchError(f"`name` {name!r} has no picture of step {step}.")
        return FileResponse(found[step], headers={"cache-control": "private, max-age=3600"})

    async def train(self, request: Request) -> dict[str, Any]:
        """Start a training."""
        check_type(request, JSON)
        asked = from_fields(NewRunRequest, object_of(await request.body()))
        return await run_in_threadpool(self.trainings.start, asked)

    async def distill(self, request: Request) -> dict[str, Any]:
        """Start a training that learns from a run."""
        check_type(request, JSON)
        asked = from_fields(NewStudentRequest, object_of(await request.body()))
        return await run_in_threadpool(self.trainings.distill, asked, self.play.run_folder(asked.run))

    async def resume(self, request: Request) -> dict[str, Any]:
        """Go on with one."""
        name = await name_of(request)
        return await run_in_threadpool(self.trainings.resume, name, self.play.run_folder(name))

    async def stop(self, request: Request) -> dict[str, Any]:
        """Stop one."""
        name = await name_of(request)
        await run_in_threadpool(self.trainings.stop, name, self.play.run_folder(name))
        return {"name": name}

    # -- lessons -------------------------------------------------------------------------------------------------------

    async def path(self, path: str = "flow") -> dict[str, Any]:
        """Curves of a path."""
        return await run_in_threadpool(lessons.curves, path)

    async def noised(self, path: str = "flow", index: int = 0) -> Response:
        """A digit at every time, side by side."""
        frames = await run_in_threadpool(lessons.noised, path, index)
        row = torch.cat(list(frames), dim=2)
        headers = {"cache-control": "private, max-age=3600"}
        return Response(encoded(row), media_type="image/png", headers=headers)

    async def views(self, data: str, path: str, t: float, x: float, y: float) -> dict[str, Any]:
        """x0, eps and velocity at a point."""
        return await run_in_threadpool(lambda: lessons.views(data=data, path=path, t=t, x=x, y=y))

    async def ways(self, asked: lessons.Lesson = Depends()) -> dict[str, Any]:
        """Ways from noise to data in the plane."""
        return await run_in_threadpool(lessons.ways, asked)

    # -- reports -------------------------------------------------------------------------------------------------------

    async def measured(self, name: str) -> dict[str, Any]:
        """What comparisons found of a run."""
        self.play.run_folder(name)
        return {"cells": await run_in_threadpool(gallery.measured, self.folder, name)}

    async def reports(self) -> dict[str, Any]:
        """The pages that other commands left."""
        found = await run_in_threadpool(gallery.reports, self.folder)
        rows = [{"name": name, "changed": path.stat().st_mtime} for name, path in found.items()]
        return {"reports": sorted(rows, key=lambda row: -float(row["changed"]))}

    async def ticket(self, request: Request) -> dict[str, str]:
        """What opens a report once: a frame cannot bring the token."""
        name = await name_of(request)
        if name not in await run_in_threadpool(gallery.reports, self.folder):
            raise NoSuchError(f"there is no report {name[:60]!r} in this folder.")
        now = time.monotonic()
        for old in [key for key, (_, until) in self.tickets.items() if until < now]:
            self.tickets.pop(old, None)
        ticket = secrets.token_urlsafe(24)
        self.tickets[ticket] = name, now + TICKET
        return {"ticket": ticket}

    async def report(self, ticket: str) -> FileResponse:
        """A report, which may do nothing but be looked at."""
        name, until = self.tickets.pop(ticket, ("", 0.0))
        found = await run_in_threadpool(gallery.reports, self.folder)
        if name not in found or until < time.monotonic():
            raise NoSuchError("this address opens a report once. Open it from the page again.")
        return FileResponse(found[name], media_type="text/html", headers={"content-security-policy": REPORT_POLICY})
