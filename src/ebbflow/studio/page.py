"""The routes of the page: runs and trainings, play, lessons, reports, and the page itself."""

from __future__ import annotations

import json
import math
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from fastapi import Depends, FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, Response, StreamingResponse
from torch import Tensor

from ebbflow.config import presets
from ebbflow.core.paths import PATHS
from ebbflow.core.times import TIME_GRIDS
from ebbflow.data import DATASETS, to_uint8
from ebbflow.errors import ConfigError
from ebbflow.methods.samplers import SAMPLERS
from ebbflow.requests.sampling import EditRequest, SampleRequest
from ebbflow.requests.serving import NewRunRequest
from ebbflow.runs.opened import require_images
from ebbflow.runs.pictures import read_picture
from ebbflow.runs.same_data import splits_of_run
from ebbflow.studio import gallery, lessons
from ebbflow.studio.asking import Question, edit_question, sample_question
from ebbflow.studio.desk import Desk, NoSuchError
from ebbflow.studio.images import JSON, check_type, described, form_of, sse
from ebbflow.studio.pixels import base64_of, encoded, keep, keep_mask
from ebbflow.studio.schema import from_fields, from_json, schema_of
from ebbflow.studio.trainings import Trainings
from ebbflow.studio.worker import Preview, as_images

STATIC = Path(__file__).with_name("static")
FREE = ("/healthz", "/", "/static/", "/studio/report")  # a report wants a ticket
# A page names no files of the server.
FILES = ("autoguide", "classifier", "target", "mask", "loss", "images", "batch_size")
NEAREST = 6
TICKET = 60.0  # seconds that a ticket is good for
CHUNK = 4096  # pictures that are compared at once
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
    tickets: dict[str, tuple[str, float]] = field(default_factory=dict, init=False)

    def add_to(self, app: FastAPI) -> None:
        """Put the routes on an application."""
        gets: dict[str, Callable[..., Any]] = {
            "/": self.index,
            "/static/{name}": self.static,
            "/studio/runs": self.runs,
            "/studio/curves": self.curves,
            "/studio/picture": self.picture,
            "/studio/choices": self.choices,
            "/studio/model": self.model,
            "/studio/path": self.path,
            "/studio/noised": self.noised,
            "/studio/views": self.views,
            "/studio/ways": self.ways,
            "/studio/reports": self.reports,
            "/studio/report": self.report,
        }
        for path, get in gets.items():
            app.add_api_route(path, get, methods=["GET"], response_model=None, include_in_schema=path != "/")
        posts: dict[str, Callable[..., Any]] = {
            "/studio/train": self.train,
            "/studio/resume": self.resume,
            "/studio/stop": self.stop,
            "/studio/sample": self.sample,
            "/studio/edit": self.edit,
            "/studio/nearest": self.nearest,
            "/studio/ticket": self.ticket,
        }
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
        rows = [{**asdict(card), "state": self._state(card), "error": failed(card.name)} for card in found]
        for name in self.trainings.names:
            if name not in known:
                state = "starting" if self.trainings.is_starting(name) else "failed"
                rows.insert(0, {"name": name, "state": state, "error": failed(name)})
        return {"folder": str(self.folder), "runs": rows}

    def _state(self, card: gallery.Card) -> str:
        if card.state == "training" or not self.trainings.is_starting(card.name):
            return "failed" if self.trainings.failed(card.name) else card.state
        return "starting"

    async def curves(self, name: str, after: int = -1) -> dict[str, Any]:
        """What a training wrote down."""
        return await run_in_threadpool(gallery.curves, self._run(name), after)

    async def picture(self, name: str, step: int) -> FileResponse:
        """A grid that a training drew."""
        found = gallery.pictures(self._run(name))
        if step not in found:
            raise NoSuchError(f"`name` {name!r} has no picture of step {step}.")
        return FileResponse(found[step], headers={"cache-control": "private, max-age=3600"})

    async def train(self, request: Request) -> dict[str, Any]:
        """Start a training."""
        check_type(request, JSON)
        asked = from_json(NewRunRequest, await request.body())
        return await run_in_threadpool(self.trainings.start, asked)

    async def resume(self, request: Request) -> dict[str, Any]:
        """Go on with one."""
        name = await self._name(request)
        return await run_in_threadpool(self.trainings.resume, name, self._run(name))

    async def stop(self, request: Request) -> dict[str, Any]:
        """Stop one."""
        name = await self._name(request)
        await run_in_threadpool(self.trainings.stop, name, self._run(name))
        return {"name": name}

    async def _name(self, request: Request) -> str:
        check_type(request, JSON)
        return str(_object(await request.body()).get("name"))

    def _run(self, name: str) -> Path:
        found = gallery.runs_in(self.folder)
        if name not in found:
            raise NoSuchError(f"there is no run {name[:60]!r} in this folder.")
        return found[name]

    # -- play ----------------------------------------------------------------------------------------------------------

    async def choices(self) -> dict[str, Any]:
        """What there is to choose from, and the forms."""
        return {
            "samplers": {name: _sampler(one) for name, one in SAMPLERS.items()},
            "grids": list(TIME_GRIDS),
            "paths": list(PATHS),
            "presets": list(presets()),
            "datasets": list(DATASETS),
            "plane": list(lessons.PLANE),
            "limits": {"most": self.desk.limits.most, "most_steps": self.desk.limits.most_steps},
            "forms": {"train": schema_of(NewRunRequest), "sample": schema_of(SampleRequest)},
        }

    async def model(self, name: str) -> dict[str, Any]:
        """What the model of a run takes."""
        await self._model(name)
        return await described(self.desk, name)

    async def sample(self, request: Request) -> Response:
        """Samples of a run, as they come."""
        check_type(request, JSON)
        given = _object(await request.body())
        name, previews = str(given.pop("model", "")), given.pop("previews", 0)
        asked = from_fields(SampleRequest, _allowed(given))
        model = await self._model(name)
        question = await run_in_threadpool(sample_question, model, asked, self.desk.limits, self._place(name))
        return self._streamed(question, previews)

    async def edit(self, request: Request) -> Response:
        """Edits of a picture, as they come."""
        given, files = await form_of(request)
        said = _object(given.get("request", "{}").encode())
        name, previews = str(said.pop("model", "")), said.pop("previews", 0)
        asked = from_fields(EditRequest, _allowed(said))
        model = await self._model(name)

        def ask() -> Question:
            with tempfile.TemporaryDirectory(prefix="ebbflow-") as folder:
                most, mask = self.desk.limits.most_pixels, "mask.png" if "mask" in files else None
                keep(files["image"], Path(folder) / "image.png", most)
                if mask:
                    keep_mask(files["mask"], Path(folder) / mask, most)
                place = self._place(name)
                return edit_question(model, asked, Path(folder), "image.png", mask, self.desk.limits, place)

        return self._streamed(await run_in_threadpool(ask), previews)

    def _streamed(self, question: Question, previews: Any) -> Response:
        if not isinstance(previews, int) or not 0 <= previews <= self.desk.limits.most_steps:
            raise ConfigError(f"`previews` must be a whole number of at least 0, got {previews!r}.")
        told = self.desk.listen(question, previews)
        return StreamingResponse(self._events(question, told), media_type="text/event-stream")

    async def _events(self, question: Question, told: AsyncIterator[Preview | Tensor]) -> AsyncIterator[str]:
        began, plan = time.monotonic(), question.asked.plan
        head = {"seeds": plan.seeds, "names": question.names(), "num_steps": question.asked.num_steps}
        yield sse("begin", {**head, "command": question.command, "python": question.python})
        try:
            async for one in told:
                if isinstance(one, Preview):
                    shown = await run_in_threadpool(_shown, question, one.x0)
                    yield sse("preview", {"step": one.step, "first": one.first, "shown": shown})
                else:
                    shown = await run_in_threadpool(_shown, question, one)
                    yield sse("done", {"shown": shown, "seconds": round(time.monotonic() - began, 3)})
        except Exception as error:
            yield sse("failed", self.desk.failed(error)[1])
        finally:
            await told.aclose()  # type: ignore[attr-defined]

    async def nearest(self, request: Request) -> dict[str, Any]:
        """The pictures of a run's training data that are nearest to one."""
        given, files = await form_of(request)
        name = str(_object(given.get("request", "{}").encode()).get("model", ""))
        model = await self._model(name)

        def look() -> dict[str, Any]:
            require_images(model, "the nearest pictures")
            with tempfile.TemporaryDirectory(prefix="ebbflow-") as folder:
                keep(files["image"], Path(folder) / "image.png", self.desk.limits.most_pixels)
                x0 = read_picture(Path(folder) / "image.png", model.dims)[0]
            data = splits_of_run(model.require_run("its data is not known")).train
            distances = _distances(to_uint8(x0)[0], data.x)
            best = distances.topk(min(NEAREST, len(distances)), largest=False)
            rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            return {"nearest": [{"index": i, "distance": d, "image": base64_of(data.x[i])} for i, d in rows]}

        return await run_in_threadpool(look)

    async def _model(self, name: str) -> Any:
        self.desk.shelf.add(name, str(self._run(name)))
        return (await self.desk.model(name))[1]

    def _place(self, name: str) -> str:
        return str(self.folder / name)

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

    async def reports(self) -> dict[str, Any]:
        """The pages that other commands left."""
        found = await run_in_threadpool(gallery.reports, self.folder)
        rows = [{"name": name, "changed": path.stat().st_mtime} for name, path in found.items()]
        return {"reports": sorted(rows, key=lambda row: -float(row["changed"]))}

    async def ticket(self, request: Request) -> dict[str, str]:
        """What opens a report once: a frame cannot bring the token."""
        name = await self._name(request)
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


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the body is no JSON: {error}.") from None
    if not isinstance(found, dict):
        raise ConfigError(f"the body must be a JSON object, got {type(found).__name__}.")
    return found


def _allowed(given: dict[str, Any]) -> dict[str, Any]:
    for name in FILES:
        if given.get(name) is not None:
            raise ConfigError(f"`{name}` is not taken from a page. Use the command line.")
    return given


def _shown(question: Question, x: Tensor) -> list[Any]:
    """Samples for the page: pictures as base64, points as numbers."""
    if question.asked.model.facts.is_image:
        return [base64_of(image) for image in as_images(x)]
    return x.mul(1e4).round().div(1e4).tolist()


def _sampler(sampler: Any) -> dict[str, Any]:
    options = {name: one.default for name, one in sampler.options.items()}
    says = (sampler.__doc__ or "").strip().split("\n\n")[0]
    plain = {name: v if _is_plain(v) else str(v) for name, v in options.items()}
    return {"order": sampler.order, "stochastic": sampler.stochastic, "options": plain, "says": " ".join(says.split())}


def _is_plain(value: Any) -> bool:
    return math.isfinite(value) if isinstance(value, float) else isinstance(value, str | int | None)


def _distances(image: Tensor, others: Tensor) -> Tensor:
    """Root mean square distance in grey levels of an image (C, H, W) to others (N, C, H, W), all uint8."""
    row, found = image.float().flatten(), []
    for part in others.split(CHUNK):
        found.append((part.float().flatten(1) - row).square().mean(1).sqrt())
    return torch.cat(found)
