"""From what a client sends to what a worker is asked: checked, within the limits, and written down as a command."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebbflow.conditioning import VectorConditioner
from ebbflow.errors import ConfigError
from ebbflow.methods.samplers import SAMPLERS
from ebbflow.requests.base import complete, values
from ebbflow.requests.sampling import (
    EditCall,
    EditCommand,
    EditRequest,
    InvertCommand,
    SampleCall,
    SampleCommand,
    SampleRequest,
)
from ebbflow.requests.serving import GenerationRequest, ImageEditRequest, Images, Limits
from ebbflow.requests.written import command_of, python_of
from ebbflow.runs.edit import edit_of, edit_plan
from ebbflow.runs.model import Model
from ebbflow.runs.opened import require_images
from ebbflow.runs.pictures import read_picture
from ebbflow.runs.plan import Plan, plan_of
from ebbflow.runs.results import row_name
from ebbflow.studio.together import Asked, Through

INVERTED = InvertCommand(ckpt="", input=Path(), output=Path())  # its defaults
NOISE = Path("noise.npz")
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
    model: Model, request: EditRequest, files: Mapping[str, Path], limits: Limits, place: str
) -> Question:
    """Edits of an uploaded picture.

    Args:
        files: `image`, and perhaps `mask`, which lie there for as long as this takes.

    Raises:
        ConfigError, ValueError, DataError: what the model cannot do, or a picture that cannot be read.
    """
    request = replace(request, mask=files.get("mask"))
    plan = edit_plan(model, request)
    within(plan, limits, request.resample)
    x0: Tensor = read_picture(files["image"], model.dims)[0]
    asked = Asked(model=model, plan=plan, image=x0, edit=edit_of(request, model.dims, files["image"]))
    asked.check()
    named = {name: Path(path.name) for name, path in files.items()}
    given = {**vars(request), "input": named["image"], "mask": named.get("mask")}
    return Question(asked=asked, **_written("edit", place, EditCommand, EditCall, given))


def through_question(
    model: Model, request: EditRequest, pictures: Sequence[Path], limits: Limits, place: str
) -> Question:
    """One picture to its noise and back, as `ebbflow invert` goes, or `num` of them from one to another.

    Args:
        pictures: one or two files, which lie there for as long as this takes.

    Raises:
        ConfigError, ValueError, DataError: as `edit_question`, or a sampler that cannot be walked backwards.
    """
    if len(pictures) == 1:
        guidance = INVERTED.guidance if request.guidance is None else request.guidance
        request = replace(request, num=1, steps=request.steps or INVERTED.steps, guidance=guidance)
    plan = edit_plan(model, request, as_one=True)
    within(plan, limits)
    num, x0 = len(plan.seeds), [read_picture(path, model.dims)[0] for path in (pictures[0], pictures[-1])]
    if num < len(pictures):
        raise ConfigError(f"`num` must be at least 2 (both ends count), got {num}.")
    fractions = tuple(i / max(1, num - 1) for i in range(num))
    asked = Through(model=model, plan=plan, pair=torch.cat(x0), fractions=fractions)
    asked.check()
    names = [path.name for path in pictures]
    said = {name: value for name, value in vars(request).items() if value is not None}
    return Question(asked=asked, command=_through(names, place, said), python=_through_python(names, place, said))


def _through(names: list[str], place: str, said: dict[str, Any]) -> str:
    given = {**said, "ckpt": place, "input": Path(names[0]), "output": Path("edits.png")}
    if len(names) == 2:
        return command_of("edit", EditCommand, {**given, "interpolate_with": Path(names[1])})
    back = {name: given.get(name) for name in ("ckpt", "labels", "prompts", "vectors", "output")}
    there = command_of("invert", InvertCommand, {**given, "output": NOISE})
    return f"{there} && {command_of('edit', EditCommand, {**back, 'noise': NOISE})}"


def _through_python(names: list[str], place: str, said: dict[str, Any]) -> str:
    num = {} if len(names) == 2 else {"num": 2}
    call = python_of("interpolate", names[0], EditRequest, {**said, **num}).removeprefix("ebbflow.")
    both = call.replace(repr(names[0]), f"{names[0]!r}, {names[-1]!r}", 1)
    return f"{python_of('open', place, EditRequest, {})}.{both}"


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


def asked_by(model: Model) -> str | None:
    """What a model is asked by: text, vector or label; None for one that is asked for nothing."""
    if isinstance(model.reader, VectorConditioner):
        return "vector"
    return "text" if hears_text(model) else "label" if model.is_conditional and model.label_names else None


def jumps(model: Model) -> bool:
    """Whether a model makes jumps that nothing can guide, unless another sampler is chosen."""
    sampler = SAMPLERS.get(model.defaults.sampler)  # none where it is "auto"
    return sampler is not None and sampler.jumps
