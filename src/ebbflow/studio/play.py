"""The routes of playing with a model: what it takes, samples and edits as they come, the nearest of its data."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response, StreamingResponse
from torch import Tensor

from ebbflow.config import presets
from ebbflow.core.paths import PATHS
from ebbflow.core.times import TIME_GRIDS
from ebbflow.data import DATASETS, to_uint8
from ebbflow.errors import ConfigError
from ebbflow.methods.editing import psnr
from ebbflow.methods.samplers import SAMPLERS
from ebbflow.requests.sampling import EditRequest, SampleRequest
from ebbflow.requests.serving import NewRunRequest, NewStudentRequest
from ebbflow.runs.opened import require_images
from ebbflow.runs.pictures import read_picture
from ebbflow.runs.same_data import splits_of_run
from ebbflow.studio import gallery, lessons
from ebbflow.studio.asking import Question, edit_question, sample_question, through_question
from ebbflow.studio.desk import Desk, NoSuchError
from ebbflow.studio.images import JSON, check_type, described, form_of, sse
from ebbflow.studio.pixels import base64_of, uploaded
from ebbflow.studio.schema import from_fields, object_of, schema_of
from ebbflow.studio.together import Asked, Through
from ebbflow.studio.worker import Preview, as_images

# A page names no files of the server.
FILES = ("autoguide", "classifier", "target", "mask", "loss", "images", "batch_size")
FORMS = {"train": NewRunRequest, "distill": NewStudentRequest, "sample": SampleRequest}
NEAREST = 6
CHUNK = 4096  # pictures that are compared at once


@dataclass(frozen=True, kw_only=True)
class Play:
    """The routes.

    Args:
        desk: opens models and answers questions.
        folder: whose runs are played with.
    """

    desk: Desk
    folder: Path

    @property
    def gets(self) -> dict[str, Callable[..., Any]]:
        """By address."""
        return {"/studio/choices": self.choices, "/studio/model": self.model}

    @property
    def posts(self) -> dict[str, Callable[..., Any]]:
        """By address."""
        return {
            "/studio/sample": self.sample,
            "/studio/edit": self.edit,
            "/studio/through": self.through,
            "/studio/nearest": self.nearest,
        }

    def run_folder(self, name: str) -> Path:
        """The folder of a run of this name.

        Raises:
            NoSuchError: there is none.
        """
        found = gallery.runs_in(self.folder)
        if name not in found:
            raise NoSuchError(f"there is no run {name[:60]!r} in this folder.")
        return found[name]

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
            "forms": {name: schema_of(form) for name, form in FORMS.items()},
        }

    async def model(self, name: str) -> dict[str, Any]:
        """What the model of a run takes."""
        await self._model(name)
        return await described(self.desk, name)

    async def sample(self, request: Request) -> Response:
        """Samples of a run, as they come."""
        check_type(request, JSON)
        given = object_of(await request.body())
        name, previews = str(given.pop("model", "")), given.pop("previews", 0)
        asked = from_fields(SampleRequest, _allowed(given))
        model = await self._model(name)
        question = await run_in_threadpool(sample_question, model, asked, self.desk.limits, self._place(name))
        return self._streamed(question, previews)

    async def edit(self, request: Request) -> Response:
        """Edits of a picture, as they come."""
        given, files = await form_of(request)
        name, previews, asked = self._edit(given)
        model = await self._model(name)

        def ask() -> Question:
            with uploaded(files, self.desk.limits.most_pixels) as kept:
                return edit_question(model, asked, kept, self.desk.limits, self._place(name))

        return self._streamed(await run_in_threadpool(ask), previews)

    async def through(self, request: Request) -> Response:
        """A picture to its noise and back, or pictures from one to another, as they come."""
        given, files = await form_of(request, ("image", "other"))
        name, previews, asked = self._edit(given)
        model = await self._model(name)

        def ask() -> Question:
            with uploaded(files, self.desk.limits.most_pixels) as kept:
                return through_question(model, asked, sorted(kept.values()), self.desk.limits, self._place(name))

        return self._streamed(await run_in_threadpool(ask), previews)

    def _edit(self, given: dict[str, str]) -> tuple[str, Any, EditRequest]:
        """Name of the model, number of glimpses, and the request of a form."""
        said = object_of(given.get("request", "{}").encode())
        name, previews = str(said.pop("model", "")), said.pop("previews", 0)
        return name, previews, from_fields(EditRequest, _allowed(said))

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
                    seconds = round(time.monotonic() - began, 3)
                    yield sse("done", {"shown": shown, "seconds": seconds, **_returned(question.asked, one)})
        except Exception as error:
            yield sse("failed", self.desk.failed(error)[1])
        finally:
            await told.aclose()  # type: ignore[attr-defined]

    async def nearest(self, request: Request) -> dict[str, Any]:
        """The pictures of a run's training data that are nearest to one."""
        given, files = await form_of(request)
        name = str(object_of(given.get("request", "{}").encode()).get("model", ""))
        model = await self._model(name)

        def look() -> dict[str, Any]:
            require_images(model, "the nearest pictures")
            with uploaded(files, self.desk.limits.most_pixels) as kept:
                x0 = read_picture(kept["image"], model.dims)[0]
            data = splits_of_run(model.require_run("its data is not known")).train
            distances = _distances(to_uint8(x0)[0], data.x)
            best = distances.topk(min(NEAREST, len(distances)), largest=False)
            rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            return {"nearest": [{"index": i, "distance": d, "image": base64_of(data.x[i])} for i, d in rows]}

        return await run_in_threadpool(look)

    async def _model(self, name: str) -> Any:
        self.desk.shelf.add(name, str(self.run_folder(name)))
        return (await self.desk.model(name))[1]

    def _place(self, name: str) -> str:
        return str(self.folder / name)


async def name_of(request: Request) -> str:
    """The name in a body of JSON."""
    check_type(request, JSON)
    return str(object_of(await request.body()).get("name"))


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


def _returned(asked: Asked, x: Tensor) -> dict[str, float]:
    """How near pictures come that went by way of their noises: decibels at both ends, the lower of them."""
    if not isinstance(asked, Through):
        return {}
    ends = x[[0, -1]].clamp(-1, 1).cpu()
    return {"psnr": round(float(psnr(ends, asked.pair).min()), 2)}


def _sampler(sampler: Any) -> dict[str, Any]:
    options = {name: one.default for name, one in sampler.options.items()}
    says = (sampler.__doc__ or "").strip().split("\n\n")[0]
    plain = {name: v if _is_plain(v) else str(v) for name, v in options.items()}
    kind = {"order": sampler.order, "stochastic": sampler.stochastic, "jumps": sampler.jumps}
    return {**kind, "options": plain, "says": " ".join(says.split())}


def _is_plain(value: Any) -> bool:
    return math.isfinite(value) if isinstance(value, float) else isinstance(value, str | int | None)


def _distances(image: Tensor, others: Tensor) -> Tensor:
    """Root mean square distance in grey levels of an image (C, H, W) to others (N, C, H, W), all uint8."""
    row, found = image.float().flatten(), []
    for part in others.split(CHUNK):
        found.append((part.float().flatten(1) - row).square().mean(1).sqrt())
    return torch.cat(found)
