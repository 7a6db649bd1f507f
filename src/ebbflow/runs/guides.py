"""What guides besides the condition: the rule, a worse model, a classifier, a loss; opened, checked against the model,
and wrapped around its denoiser."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebbflow.conditioning import DataFacts
from ebbflow.core.condition import Cond
from ebbflow.core.operators import regions
from ebbflow.errors import ConfigError, choose, nearest
from ebbflow.methods.denoise import Denoiser, conditional
from ebbflow.methods.guidance import (
    CONDITION_RULES,
    EMPHASES,
    LOSSES,
    RESTORATIONS,
    Autoguidance,
    ClassifierGuidance,
    Loss,
    LossGuidance,
    Measurement,
    NoisyClassifier,
)
from ebbflow.requests.sampling import Guiding
from ebbflow.runs.classifier import open_classifier
from ebbflow.runs.latent_files import fingerprint
from ebbflow.runs.opened import Opened, as_latent_space
from ebbflow.runs.pictures import read_picture
from ebbflow.values import checked_value

BRANCH_OPTIONS = ("cond", "guidance", "negative", "interval", "rescale", "batched")
BELONGS_TO = {
    "classifier_scale": "classifier",
    "loss_weight": "loss",
    "loss_emphasis": "loss",
    "loss_options": "loss",
    "target": "loss",
    "mask": "loss",
}


@dataclass(frozen=True, kw_only=True)
class Guides:
    """What guides besides a model's own condition; make it with `open_guides`.

    Args:
        rule: a name of `CONDITION_RULES`, for the guidance between the condition and none.
        rule_options: keyword options of the rule beyond guidance, negative, interval and rescale.
        bad: a worse model, which takes the guidance over: bad + w (good - bad).
        classifier, classifier_scale: log p(y | x_t) of the labels, and gamma.
        loss, loss_weight, loss_emphasis: of x0, zeta, and "early", "late" or "none".
        label_names: the classes that the classifier knows.
        measured, restoration: what is known of the image that is restored, and a name of `RESTORATIONS`.
    """

    rule: str = "classifier_free"
    rule_options: dict[str, Any] = field(default_factory=dict)
    bad: Denoiser | None = None
    classifier: NoisyClassifier | None = None
    classifier_scale: float = 1.0
    loss: Loss | None = None
    loss_weight: float = 1.0
    loss_emphasis: str = "none"
    label_names: tuple[str, ...] = ()
    measured: Measurement | None = None
    restoration: str = "pigdm"

    def __post_init__(self) -> None:
        rule = choose(CONDITION_RULES, self.rule, "guidance rule")
        check_options(self.rule_options, rule, f"guidance rule {self.rule!r}", BRANCH_OPTIONS)
        choose(EMPHASES, self.loss_emphasis, "loss emphasis")
        choose(RESTORATIONS, self.restoration, "restoration method")

    @property
    def names_rule(self) -> bool:
        """Whether a rule was chosen, or told something."""
        return self.rule != "classifier_free" or bool(self.rule_options)

    def around(
        self,
        denoiser: Denoiser,
        *,
        guidance: float,
        cond: Cond | None,
        negative: Cond | None = None,
        labels: Tensor | None = None,
        interval: tuple[float, float] | None = None,
        rescale: float = 0.0,
    ) -> Denoiser:
        """`denoiser` with a batch's condition bound and everything that guides it around it: the rule or the worse
        model first, then the classifier, then the loss, then what was measured."""
        if self.bad is not None:
            bound: Denoiser = Autoguidance(denoiser, bad=self.bad, guidance=guidance, interval=interval)
        elif guidance == 1 or (cond is None and negative is None):
            bound = denoiser
        else:
            bound = CONDITION_RULES[self.rule](
                denoiser, guidance=guidance, negative=negative, interval=interval, rescale=rescale, **self.rule_options
            )
        if cond is not None:
            bound = conditional(bound).given(cond)
        if self.classifier is not None and labels is not None:
            bound = ClassifierGuidance(
                bound, classifier=self.classifier, labels=labels, scale=self.classifier_scale, interval=interval
            )
        if self.loss is not None:
            bound = LossGuidance(
                bound, loss=self.loss, weight=self.loss_weight, emphasis=self.loss_emphasis, interval=interval
            )
        if self.measured is not None:
            bound = RESTORATIONS[self.restoration](bound, measured=self.measured)
        return bound


def check_options(given: Mapping[str, Any], function: Any, what: str, taken: tuple[str, ...]) -> None:
    """Refuse options that `function` does not take by keyword, that are given in another way, or are of another type.

    Raises:
        ConfigError: such an option.
    """
    parameters = inspect.signature(function).parameters
    known = [name for name in list(parameters)[1:] if name not in taken]
    for name, value in given.items():
        if name not in known:
            raise ConfigError(f"{what} has no option {name!r}. {nearest(name, known) if known else 'It has none.'}")
        checked_value(function, name, value, what, parameters[name].default)


def open_guides(model: Opened, request: Guiding) -> Guides:
    """The guides that a request names, opened and checked against the model.

    Args:
        model: what is sampled.
        request: a classifier's folder, a worse model's, a loss with its target, a rule, and their settings.

    Raises:
        CheckpointError: nothing of the kind there.
        ConfigError: other data, labels or path than the model's; an unknown rule, option, loss or emphasis; a setting
            without the thing that it belongs to.
    """
    for name, owner in BELONGS_TO.items():
        if getattr(request, name) is not None and getattr(request, owner) is None:
            raise ConfigError(f"`{name}` says nothing without `{owner}`. Give `{owner}`, or leave `{name}` out.")
    given: dict[str, Any] = {
        "rule": request.guidance_rule,
        "rule_options": request.guidance_options,
        "classifier_scale": request.classifier_scale,
        "loss_weight": request.loss_weight,
        "loss_emphasis": request.loss_emphasis,
        "bad": None if request.autoguide is None else _worse(model, request.autoguide),
        "loss": None if request.loss is None else _loss(model, request.loss, request),
    }
    if request.classifier is not None:
        opened = open_classifier(request.classifier, device=model.device)
        _require_same_data(f"the classifier in {request.classifier}", opened.facts, model.facts)
        if model.space is not None:
            raise ConfigError("a classifier looks at noisy images, and this model makes noisy latents. Leave it out.")
        given |= {"classifier": opened.classifier, "label_names": opened.facts.label_names}
    return Guides(**{name: value for name, value in given.items() if value is not None})


def _worse(model: Opened, path: Path) -> Denoiser:
    bad = Opened.from_run(path, weights=model.weights, device=model.device)
    _require_same_data(f"the model in {path}", bad.facts, model.facts)
    if None not in (bad.reader, model.reader) and type(bad.reader) is not type(model.reader):
        raise ConfigError(f"the model in {path} hears another kind of condition than {model.name}: it cannot guide it.")
    prints = [None if one is None else fingerprint(one) for one in map(as_latent_space, (bad.space, model.space))]
    if prints[0] != prints[1]:
        raise ConfigError(
            f"autoguidance needs two models in the same latent space; {path} is not in that of {model.name}."
        )
    if bad.denoiser.path != model.denoiser.path:
        raise ConfigError(
            f"autoguidance needs two models on the same path: {path} is on {bad.denoiser.path}, {model.name} on "
            f"{model.denoiser.path}. Train the guiding model on that path."
        )
    return bad.denoiser


def _require_same_data(what: str, other: DataFacts, own: DataFacts) -> None:
    if other.dims != own.dims:
        sizes = ["x".join(map(str, facts.dims)) for facts in (other, own)]
        raise ConfigError(
            f"{what} is for data of {sizes[0]}, this model makes {sizes[1]}. Train one on the model's data."
        )
    if own.label_names and other.label_names != own.label_names:
        raise ConfigError(
            f"{what} knows the classes {', '.join(other.label_names) or '(none)'}; this model's are "
            f"{', '.join(own.label_names)}. Train one on the model's data."
        )


# -- losses ------------------------------------------------------------------------------------------------------------


def _loss(model: Opened, loss: str | Loss, request: Guiding) -> Loss:
    """The loss of a request, of x0 as the model has it."""
    if callable(loss):
        return _of_states(model, loss)
    if request.target is None:
        raise ConfigError("`loss` needs a `target`: an image, or for colour numbers in [0, 1] such as 1,0.5,0.")
    options = request.loss_options or {}
    return _of_states(model, open_loss(loss, model.facts, target=request.target, mask=request.mask, options=options))


def _of_states(model: Opened, loss: Loss) -> Loss:
    """A loss of images or points as one of the model's states."""
    space = model.space
    return loss if space is None else lambda x0: loss(space.decode(x0))


def open_loss(name: str, facts: DataFacts, *, target: str, mask: str | None, options: Mapping[str, Any]) -> Loss:
    """The loss called `name`, for data of these facts.

    Args:
        name: a name of `LOSSES`.
        target: an image file; or for "colour" a number in [0, 1] for each channel, or one for all.
        mask: for "inpaint": an image file, white where it is to be generated, or left, right, top, bottom or centre.
        options: keyword options of the loss.

    Raises:
        ConfigError: unknown loss, option or mask, a target that does not fit, or points.
        DataError: an image that cannot be read.
    """
    make = choose(LOSSES, name, "loss")
    if not facts.is_image:
        raise ConfigError(
            f"loss {name!r} is for images; this model makes points. In Python, any function of x0 will do."
        )
    check_options(options, make, f"loss {name!r}", ("known",))
    wanted = _target(name, target, facts.dims)
    if (mask is not None) != (name == "inpaint"):
        raise ConfigError(
            "loss 'inpaint', and only that, needs a `mask`: an image, or left, right, top, bottom or centre."
        )
    return make(wanted, _known(mask, facts.dims), **options) if mask is not None else make(wanted, **options)


def _target(name: str, text: str, dims: tuple[int, ...]) -> Tensor:
    if Path(text).is_file():
        return read_picture(Path(text), dims)[0][0]
    try:
        values = torch.tensor([float(part) for part in text.split(",")])
    except ValueError as error:
        raise ConfigError(f"`target` {text!r} is neither an image file nor numbers such as 0.8 or 1,0.5,0.") from error
    if name != "colour":
        raise ConfigError(f"loss {name!r} needs an image as its `target`, got {text!r}.")
    if len(values) not in (1, dims[0]) or not bool(((values >= 0) & (values <= 1)).all()):
        raise ConfigError(
            f"`target` of loss 'colour' wants numbers in [0, 1], one for all channels or one for each of {dims[0]}, "
            f"got {text!r}."
        )
    return 2 * values - 1


def _known(text: str, dims: tuple[int, ...]) -> Tensor:
    """1 where a mask, a picture or the name of a part, leaves the target as it is, float32 (H, W)."""
    if Path(text).is_file():
        return (read_picture(Path(text), (1, *dims[1:]))[0][0, 0] <= 0).float()
    return 1 - choose(regions(*dims[1:]), text, "mask (no such image either)").float()
