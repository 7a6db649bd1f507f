"""From what a client sends to what a worker is asked: checked, within the limits, and written down as a command."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ebbflow.errors import ConfigError
from ebbflow.requests.base import complete, values
from ebbflow.requests.sampling import EditCall, EditCommand, EditRequest, SampleCall, SampleCommand, SampleRequest
from ebbflow.requests.serving import GenerationRequest, ImageEditRequest, Images, Limits
from ebbflow.requests.written import command_of, python_of
from ebbflow.runs.edit import Edit, edit_of, edit_plan
from ebbflow.runs.model import Model
from ebbflow.runs.opened import require_images
from ebbflow.runs.pictures import read_picture
from ebbflow.runs.plan import Plan, plan_of
from ebbflow.runs.results import row_name
from ebbflow.studio.together import Asked

SHARED = ("steps", "sampler", "grid", "options", "guidance", "clip")


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked, and what is said of it in the answer.

    Args:
        asked: for the worker.
        command, python: which remake it.
    """

    asked: Asked
    command: str
    python: str

    def names(self) -> list[str | None]:
        """What each sample is to be, in words."""
        plan, model = self.asked.plan, self.asked.model
        names = model.label_names or plan.guides.label_names
        if plan.conditions is None:
            return [None] * len(plan.seeds)
        return [row_name(one, names) for one in plan.conditions]


def place_of(model: Model, name: str) -> str:
    """Where a model lies, for a command."""
    return name if model.run is None else str(model.run.folder)


def sample_question(model: Model, request: SampleRequest, limits: Limits, place: str) -> Question:
    """Samples of a model.

    Raises:
        ConfigError, ValueError: what the model cannot do, or what is beyond the limits.
    """
    plan = plan_of(model, request)
    within(plan, limits)
    asked = Asked(model=model, plan=plan)
    asked.check()
    return Question(asked=asked, **_written("sample", place, SampleCommand, SampleCall, vars(request)))


def edit_question(
    model: Model, request: EditRequest, folder: Path, image: str, mask: str | None, limits: Limits, place: str
) -> Question:
    """Edits of an uploaded picture.

    Args:
        folder: where the uploads lie, for as long as this takes.
        image, mask: their names there.

    Raises:
        ConfigError, ValueError, DataError: what the model cannot do, or a picture that cannot be read.
    """
    request = replace(request, mask=None if mask is None else folder / mask)
    plan = edit_plan(model, request)
    within(plan, limits, request.resample)
    x0: Tensor = read_picture(folder / image, model.dims)[0]
    how: Edit = edit_of(request, model.dims, folder / image)
    asked = Asked(model=model, plan=plan, image=x0, edit=how)
    asked.check()
    given = {**vars(request), "input": Path(image), "mask": None if mask is None else Path(mask)}
    return Question(asked=asked, **_written("edit", place, EditCommand, EditCall, given))


def _written(verb: str, place: str, command: type[Any], call: type[Any], given: dict[str, Any]) -> dict[str, str]:
    said = {name: value for name, value in given.items() if value is not None}
    python = python_of(verb, place, call, said)
    if verb == "edit":
        python = python.replace(f"({place!r}", f"({place!r}, {str(given['input'])!r}", 1)
    return {
        "command": command_of(verb, command, {**said, "ckpt": place, "output": Path(f"{verb}s.png")}),
        "python": python,
    }


def within(plan: Plan, limits: Limits, times: int = 1) -> None:
    """Refuse a plan of too many samples or steps with a ConfigError."""
    if len(plan.seeds) > limits.most:
        raise ConfigError(f"`n` is at most {limits.most} here, got {len(plan.seeds)}. Ask several times.")
    if plan.num_steps * times > limits.most_steps:
        raise ConfigError(f"`steps` is at most {limits.most_steps} here, got {plan.num_steps * times}.")


# -- as OpenAI's clients ask -------------------------------------------------------------------------------------------


def generation(model: Model, request: GenerationRequest) -> SampleRequest:
    """The request of samples that a body of /v1/images/generations means.

    Raises:
        ConfigError: the prompt and another condition at once.
    """
    require_images(model, "image generation")
    more = {"negative_label": request.negative_label, "negative_prompt": request.negative_prompt}
    return _common(SampleRequest, model, request, {name: one for name, one in more.items() if one is not None})


def image_edit(model: Model, request: ImageEditRequest) -> EditRequest:
    """The request of edits that a form of /v1/images/edits means; see `generation`."""
    more = {"strength": request.strength, "resample": request.resample, "jump": request.jump}
    return _common(EditRequest, model, request, {name: one for name, one in more.items() if one is not None})


def _common(cls: type[Any], model: Model, request: Images, more: dict[str, Any]) -> Any:
    given = {name: getattr(request, name) for name in SHARED if getattr(request, name) is not None}
    seed = secrets.randbelow(2**31) if request.seed is None else request.seed
    return complete(cls, values(cls, {**_condition(model, request), **given, **more, "num": request.n, "seed": seed}))


def _condition(model: Model, request: Images) -> dict[str, Any]:
    said = [name for name in ("prompt", "label", "vector") if getattr(request, name) not in (None, "")]
    if len(said) > 1:
        raise ConfigError(f"{' and '.join(f'`{name}`' for name in said)} all choose what to make. Give one.")
    if request.label is not None:
        return {"labels": (request.label,)}
    if request.vector is not None:
        return {"vectors": (request.vector,)}
    if not request.prompt.strip():
        return {}
    if hears_text(model) or not model.label_names:
        return {"prompts": (request.prompt,)}
    return {"labels": (request.prompt.strip(),)}


def hears_text(model: Model) -> bool:
    """Whether a model is asked by text."""
    return bool(model.examples) and isinstance(model.examples[0], str)
