"""The routes that OpenAI's clients know: /v1/models, /v1/images/generations and /v1/images/edits."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, fields
from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.datastructures import UploadFile
from torch import Tensor

from ebbflow.conditioning import VectorConditioner
from ebbflow.errors import ConfigError
from ebbflow.requests.serving import GenerationRequest, ImageEditRequest, Images
from ebbflow.runs.model import Model
from ebbflow.studio.asking import (
    Question,
    asked_by,
    edit_question,
    generation,
    image_edit,
    jumps,
    place_of,
    sample_question,
)
from ebbflow.studio.desk import Desk, NoSuchError
from ebbflow.studio.pixels import base64_of, scale_of, uploaded
from ebbflow.studio.schema import from_fields, object_of, schema_of
from ebbflow.studio.worker import Preview, as_images

AT_ONCE = 2**14  # values of pictures that are sooner written than handed to another thread
JSON = "application/json"
FORM = "multipart/form-data"
FILES = {"image": "The picture to edit.", "mask": "Generate where it is white, or where it is transparent."}


class WrongTypeError(ConfigError):
    """A body of another content type."""


@dataclass(frozen=True, kw_only=True)
class Answering:
    """How the images of a question are answered.

    Args:
        question: what was asked.
        request: how the client wants it.
        name: of the model.
        scale: by how much images are enlarged.
        event: the first word of streamed events.
    """

    question: Question
    request: Images
    name: str
    scale: int
    event: str

    @property
    def facts(self) -> dict[str, Any]:
        """What is said of all images."""
        height, width = (side * self.scale for side in self.question.asked.model.dims[1:])
        return {"size": f"{width}x{height}", "output_format": self.request.output_format}

    def file(self, image: Tensor) -> str:
        """An image as base64."""
        return base64_of(image, self.request.output_format, self.scale)

    def rows(self, x: Tensor, first: int = 0) -> list[dict[str, Any]]:
        """Samples, the first of which is number `first`, with seed and condition."""
        plan, names = self.question.asked.plan, self.question.names()
        return [
            {"b64_json": self.file(image), "seed": plan.seeds[i], **({"label": names[i]} if names[i] else {})}
            for i, image in enumerate(as_images(x), start=first)
        ]

    def whole(self, x: Tensor) -> dict[str, Any]:
        """The whole answer."""
        model = self.question.asked.model
        step = {} if model.run is None else {"step": model.run.checkpoint.step}
        remade = {"command": self.question.command, "python": self.question.python}
        return {"created": int(time.time()), "data": self.rows(x), **self.facts, "model": self.name, **step, **remade}

    def glimpse(self, preview: Preview) -> list[dict[str, Any]]:
        """The events of a glimpse, one an image."""
        index = {"partial_image_index": preview.step - 1, "step": preview.step, "num_steps": preview.num_steps}
        return [
            self._event("partial_image", row, preview.first + i, index)
            for i, row in enumerate(self.rows(preview.x0, preview.first))
        ]

    def completed(self, x: Tensor) -> list[dict[str, Any]]:
        """The last events, one an image."""
        remade = {"command": self.question.command, "python": self.question.python}
        usage = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
        usage |= {"input_tokens_details": {"image_tokens": 0, "text_tokens": 0}}  # type: ignore[dict-item]
        return [
            self._event("completed", row, i, {"usage": usage, "model": self.name, **remade})
            for i, row in enumerate(self.rows(x))
        ]

    def _event(self, name: str, row: dict[str, Any], index: int, more: dict[str, Any]) -> dict[str, Any]:
        always = {"created_at": int(time.time()), "background": "opaque", "quality": "auto", "image_index": index}
        return {"type": f"{self.event}.{name}", **row, **self.facts, **always, **more}


def router(desk: Desk) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    async def models() -> dict[str, Any]:
        """The models that are served."""
        return {"object": "list", "data": [await described(desk, name) for name in desk.shelf.names]}

    async def model(name: str) -> dict[str, Any]:
        """One of them."""
        return await described(desk, name)

    async def generations(request: Request) -> Response:
        """Images out of nothing."""
        check_type(request, JSON)
        asked = from_fields(GenerationRequest, object_of(await request.body()))
        name, opened = await desk.model(asked.model)

        def question() -> Question:
            place = place_of(opened, desk.shelf.slot(name).path)
            return sample_question(opened, generation(opened, asked), desk.limits, place)

        return await _answered(
            desk, request, asked, name, opened, await run_in_threadpool(question), "image_generation"
        )

    async def edits(request: Request) -> Response:
        """Images out of an image."""
        given, files = await form_of(request)
        asked = from_fields(ImageEditRequest, given, text=True)
        name, opened = await desk.model(asked.model)
        question = await run_in_threadpool(_edit_question, desk, opened, asked, files, desk.shelf.slot(name).path)
        return await _answered(desk, request, asked, name, opened, question, "image_edit")

    routes.add_api_route("/v1/models", models, methods=["GET"])
    routes.add_api_route("/v1/models/{name:path}", model, methods=["GET"])
    about = {"responses": {"200": {"description": "The images, or a stream of events."}}}
    body = {JSON: {"schema": schema_of(GenerationRequest)}}
    more = {"requestBody": {"required": True, "content": body}, **about}
    routes.add_api_route("/v1/images/generations", generations, methods=["POST"], openapi_extra=more)
    form = {FORM: {"schema": _with_files(schema_of(ImageEditRequest))}}
    more = {"requestBody": {"required": True, "content": form}, **about}
    routes.add_api_route("/v1/images/edits", edits, methods=["POST"], openapi_extra=more)
    return routes


async def _answered(
    desk: Desk, request: Request, asked: Images, name: str, model: Model, question: Question, event: str
) -> Response:
    scale = scale_of(asked.size, model.dims, desk.limits.most_pixels)
    how = Answering(question=question, request=asked, name=name, scale=scale, event=event)
    if not asked.stream:
        if asked.partial_images:
            raise ConfigError("`partial_images` belongs to `stream`. Set `stream` to true, or leave it out.")
        x = await desk.answer(question, request)
        few = x.numel() * scale**2 <= AT_ONCE
        return JSONResponse(how.whole(x) if few else await run_in_threadpool(how.whole, x))
    told = desk.listen(question, asked.partial_images)
    return StreamingResponse(_stream(desk, how, told), media_type="text/event-stream")


async def _stream(desk: Desk, how: Answering, told: AsyncIterator[Preview | Tensor]) -> AsyncIterator[str]:
    try:
        async for one in told:
            events = how.glimpse if isinstance(one, Preview) else how.completed
            for event in await run_in_threadpool(events, one):  # type: ignore[arg-type]
                yield sse(event["type"], event)
    except Exception as error:
        _, body, _ = desk.failed(error)
        yield sse("error", {"type": "error", **body})
    finally:
        await told.aclose()  # type: ignore[attr-defined]


def sse(name: str, data: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


def check_type(request: Request, wanted: str) -> None:
    """Raise a WrongTypeError unless the body is of this type."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != wanted:
        raise WrongTypeError(f"the body must be {wanted}, got {given or 'nothing'}.")


async def form_of(request: Request, known: Collection[str] = FILES) -> tuple[dict[str, str], dict[str, bytes]]:
    """The fields of a form and its files, which are called as `known` says; `image` is one of them.

    Raises:
        WrongTypeError: no form.
        ConfigError: a file that is not known or missing, or something twice.
    """
    check_type(request, FORM)
    fields_, files = {}, {}
    async with request.form(max_files=4, max_fields=64) as form:
        for key, value in form.multi_items():
            name = key.removesuffix("[]")
            if name in fields_ or name in files:
                raise ConfigError(f"`{name}` is given twice. One is taken.")
            if isinstance(value, UploadFile):
                files[name] = await value.read()
            else:
                fields_[name] = value
    for name in files:
        if name not in known:
            raise ConfigError(f"unknown file `{name}`. Known: {', '.join(known)}.")
    if "image" not in files:
        raise ConfigError("`image` is missing: the picture to edit, as a file of the form.")
    return fields_, files


def _edit_question(desk: Desk, model: Model, asked: ImageEditRequest, files: dict[str, bytes], place: str) -> Question:
    with uploaded(files, desk.limits.most_pixels) as kept:
        return edit_question(model, image_edit(model, asked), kept, desk.limits, place_of(model, place))


def _with_files(schema: dict[str, Any]) -> dict[str, Any]:
    files = {name: {"type": "string", "format": "binary", "description": says} for name, says in FILES.items()}
    return {**schema, "properties": {**files, **schema["properties"]}, "required": ["image"]}


async def described(desk: Desk, name: str) -> dict[str, Any]:
    """A model as a client sees it."""
    if name not in desk.shelf.names:
        raise NoSuchError(f"unknown `model` {name!r}. Known: {', '.join(desk.shelf.names)}.")
    _, model = await desk.model(name)
    slot, given = desk.shelf.slot(name), model.defaults
    image = model.facts.is_image
    return {
        "id": name,
        "object": "model",
        "created": int(slot.opened),
        "owned_by": "ebbflow",
        "step": slot.step,
        "kind": "images" if image else "points",
        "size": f"{model.dims[2]}x{model.dims[1]}" if image else None,
        "channels": model.dims[0] if image else None,
        "labels": list(model.label_names),
        "asked_by": asked_by(model),
        "examples": [one for one in model.examples if isinstance(one, str | tuple)],
        "numbers": model.reader.size if isinstance(model.reader, VectorConditioner) else 0,
        "guidable": model.is_guidable and not jumps(model),
        "defaults": {one.name: getattr(given, one.name) for one in fields(given)},
    }
