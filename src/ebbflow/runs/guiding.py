"""What guides a request: the rule, a second model, a classifier, a loss; opened, checked against the run, and wrapped
around its denoiser."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ebbflow.conditioning import DataFacts, LabelConditioning, NoConditioning
from ebbflow.data.convert import recolour, resize
from ebbflow.errors import ConfigError, DataError, choose, nearest
from ebbflow.methods.denoise import Denoiser, conditional
from ebbflow.methods.guidance import (
    CONDITION_RULES,
    EMPHASES,
    LOSSES,
    Loss,
    NoisyClassifier,
    autoguidance,
    classifier_guidance,
    loss_guidance,
)
from ebbflow.runs.classifier import open_classifier
from ebbflow.runs.spaces import fingerprint
from ebbflow.runs.store import Run, Weights, open_run

if TYPE_CHECKING:
    from ebbflow.runs.generate import Request

BRANCH_OPTIONS = ("guidance", "negative", "interval", "rescale", "batched")


@dataclass(frozen=True, kw_only=True)
class Guides:
    """What guides a request besides the run's own condition; make it with `open_guides`.

    Args:
        rule: a name of `CONDITION_RULES`, for the request's `guidance` between the condition and none.
        rule_options: keyword options of the rule beyond guidance, negative, interval and rescale.
        bad: a worse model, which takes the request's `guidance` over: bad + w (good - bad).
        classifier, classifier_scale: log p(y | x_t) of the request's labels, and gamma.
        loss, loss_weight, loss_emphasis: of x0, zeta, and "early", "late" or "none".
        label_names: the classes that the classifier knows.
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

    def __post_init__(self) -> None:
        rule = choose(CONDITION_RULES, self.rule, "guidance rule")
        check_options(self.rule_options, rule, f"guidance rule {self.rule!r}", BRANCH_OPTIONS)
        choose(EMPHASES, self.loss_emphasis, "loss emphasis")


def check_options(given: Mapping[str, Any], function: Any, what: str, taken: tuple[str, ...]) -> None:
    """Refuse options that `function` does not take by keyword, or that are given in another way.

    Raises:
        ConfigError: such an option.
    """
    parameters = list(inspect.signature(function).parameters)[1:]
    known = [name for name in parameters if name not in taken]
    for name in given:
        if name not in known:
            raise ConfigError(f"{what} has no option {name!r}. {nearest(name, known) if known else 'It has none.'}")


def open_guides(
    run: Run,
    *,
    classifier: str | Path | None = None,
    autoguide: str | Path | None = None,
    weights: Weights = "ema",
    device: torch.device | str = "cpu",
    **settings: Any,
) -> Guides:
    """The guides of a run, opened and checked against it.

    Args:
        run: what is sampled.
        classifier: a folder made by `ebbflow train-classifier`.
        autoguide: a run, or a checkpoint, of a worse model.
        weights: of the worse model.
        device: where they live.
        settings: other fields of `Guides`.

    Raises:
        CheckpointError: nothing of the kind there.
        ConfigError: other data, labels or path than the run's; an unknown rule, option or emphasis.
    """
    if classifier is not None:
        opened = open_classifier(classifier, device=device)
        _require_same_data(f"the classifier in {classifier}", opened.facts, run.facts)
        if run.facts.latent_dims is not None:
            raise ConfigError("a classifier looks at noisy images, and this run makes noisy latents. Leave it out.")
        settings |= {"classifier": opened.classifier, "label_names": opened.facts.label_names}
    if autoguide is not None:
        settings["bad"] = _bad_model(run, autoguide, weights, device)
    if (loss := settings.get("loss")) is not None and (space := run.space(device)) is not None:
        settings["loss"] = lambda x0: loss(space.decode(x0))
    return Guides(**settings)


def _bad_model(run: Run, path: str | Path, weights: Weights, device: torch.device | str) -> Denoiser:
    bad = open_run(path)
    _require_same_data(f"the model in {path}", bad.facts, run.facts)
    spaces = [None if space is None else fingerprint(space) for space in (bad.space(), run.space())]
    if spaces[0] != spaces[1]:
        raise ConfigError(
            f"autoguidance needs two models in the same latent space; {path} is not in that of {run.folder}."
        )
    if bad.config.path != run.config.path:
        raise ConfigError(
            f"autoguidance needs two models on the same path: {path} is on {bad.config.path}, {run.folder} on "
            f"{run.config.path}. Train the guiding model on that path."
        )
    return bad.denoiser(weights, device=device)


def _require_same_data(what: str, other: DataFacts, own: DataFacts) -> None:
    if other.dims != own.dims:
        sizes = ["x".join(map(str, facts.dims)) for facts in (other, own)]
        raise ConfigError(f"{what} is for data of {sizes[0]}, this run makes {sizes[1]}. Train one on the run's data.")
    if own.label_names and other.label_names != own.label_names:
        raise ConfigError(
            f"{what} knows the classes {', '.join(other.label_names) or '(none)'}; this run's are "
            f"{', '.join(own.label_names)}. Train one on the run's data."
        )


def named(run: Run, guides: Guides) -> Run:
    """`run` with the names of the classifier's classes where it has none of its own."""
    if not guides.label_names or run.facts.label_names:
        return run
    return replace(run, facts=replace(run.facts, label_names=guides.label_names))


def labelled(run: Run, guides: Guides) -> Run:
    """What labels are chosen by: an unconditional run takes those of its classifier."""
    if guides.classifier is None or not isinstance(run.config.conditioning, NoConditioning):
        return run
    return replace(run, config=replace(run.config, conditioning=LabelConditioning(drop=0)))


def check_guides(request: Request, conditional: bool) -> None:
    """Refuse guides that contradict the rest of a request.

    Raises:
        ConfigError: a classifier without labels, guidance without anything to guide, settings without effect.
    """
    guides, named_rule = request.guides, request.guides.rule != "classifier_free" or request.guides.rule_options
    if guides.classifier is not None and request.labels is None:
        raise ConfigError("classifier guidance needs the classes to guide to. Give --label or --labels.")
    if not conditional and guides.classifier is None and request.asked is not None:
        raise ConfigError(
            "this run is unconditional: it cannot take labels, prompts or vectors. Leave --label out, or give a "
            "--classifier."
        )
    if not conditional and request.negative is not None:
        raise ConfigError("this run is unconditional: it cannot take a negative label. Leave --negative-label out.")
    if not conditional and guides.bad is None and (request.guidance != 1 or named_rule):
        raise ConfigError(
            "this run is unconditional: there is nothing to guide. Leave --guidance out, or guide it by --classifier, "
            "--autoguide or --loss."
        )
    if guides.bad is not None and (named_rule or request.negative is not None or request.rescale):
        raise ConfigError(
            "autoguidance is a rule of its own. Leave --guidance-rule, --guidance-set, --negative-label and --rescale "
            "out."
        )
    if request.guidance == 1 and (guides.bad is not None or named_rule or request.rescale):
        what = "autoguidance" if guides.bad is not None else f"rule {guides.rule!r}" if named_rule else "--rescale"
        raise ConfigError(f"{what} acts through guidance, which is off at --guidance 1. Use --guidance 2, say.")


def guide(
    denoiser: Denoiser,
    request: Request,
    labels: tuple[int, ...] | None,
    cond: Tensor | None,
    negative: Tensor | None,
) -> Denoiser:
    """`denoiser` with a batch's condition bound and everything that guides it around it: the rule or the worse model
    first, then the classifier, then the loss."""
    guides, bound = request.guides, _conditioned(denoiser, request, cond, negative)
    if guides.classifier is not None and labels is not None:
        bound = classifier_guidance(
            bound,
            classifier=guides.classifier,
            labels=torch.tensor(labels),
            scale=guides.classifier_scale,
            interval=request.interval,
        )
    if guides.loss is not None:
        bound = loss_guidance(
            bound,
            loss=guides.loss,
            weight=guides.loss_weight,
            emphasis=guides.loss_emphasis,
            interval=request.interval,
        )
    return bound


def _conditioned(denoiser: Denoiser, request: Request, cond: Tensor | None, negative: Tensor | None) -> Denoiser:
    guides = request.guides
    if guides.bad is not None:
        guided = autoguidance(denoiser, bad=guides.bad, guidance=request.guidance, interval=request.interval)
        return guided if cond is None else guided.given(cond)
    if request.guidance == 1 or (cond is None and negative is None):
        return denoiser if cond is None else conditional(denoiser).given(cond)
    return CONDITION_RULES[guides.rule](
        denoiser,
        guidance=request.guidance,
        negative=negative,
        interval=request.interval,
        rescale=request.rescale,
        **guides.rule_options,
    ).given(cond)


def open_loss(name: str, facts: DataFacts, *, target: str, mask: str | None, options: Mapping[str, Any]) -> Loss:
    """The loss called `name`, for data of these facts.

    Args:
        name: a name of `LOSSES`.
        target: an image file; or for "colour" a number in [0, 1] for each channel, or one for all.
        mask: for "inpaint": an image file, white where the target is known, or left, right, top or bottom.
        options: keyword options of the loss.

    Raises:
        ConfigError: unknown loss, option or mask, a target that does not fit, or points.
        DataError: an image that cannot be read.
    """
    make = choose(LOSSES, name, "loss")
    if not facts.is_image:
        raise ConfigError(f"loss {name!r} is for images; this run makes points. In Python, any function of x0 will do.")
    check_options(options, make, f"loss {name!r}", ("mask",))
    wanted = _target(name, target, facts.dims)
    if (mask is not None) != (name == "inpaint"):
        raise ConfigError("loss 'inpaint', and only that, needs a --mask: an image, or left, right, top or bottom.")
    return make(wanted, _mask(mask, facts.dims), **options) if mask is not None else make(wanted, **options)


def _target(name: str, text: str, dims: tuple[int, ...]) -> Tensor:
    if Path(text).is_file():
        return read_picture(Path(text), dims)
    try:
        levels = torch.tensor([float(part) for part in text.split(",")])
    except ValueError as error:
        raise ConfigError(f"--target {text!r} is neither an image file nor numbers such as 0.8 or 1,0.5,0.") from error
    if name != "colour":
        raise ConfigError(f"loss {name!r} needs an image as its --target, got {text!r}.")
    if len(levels) not in (1, dims[0]) or not bool(((levels >= 0) & (levels <= 1)).all()):
        raise ConfigError(f"--target of loss 'colour' wants 1 or {dims[0]} numbers in [0, 1], got {text!r}.")
    return 2 * levels - 1


def _mask(text: str, dims: tuple[int, ...]) -> Tensor:
    height, width = dims[1:]
    row, column = torch.arange(height)[:, None], torch.arange(width)[None]
    halves = {
        "left": column < width // 2,
        "right": column >= width // 2,
        "top": row < height // 2,
        "bottom": row >= height // 2,
    }
    if Path(text).is_file():
        return (read_picture(Path(text), (1, height, width))[0] > 0).float()
    return choose(halves, text, "mask (no such image either)").expand(height, width).float()


def read_picture(path: Path, dims: tuple[int, ...]) -> Tensor:
    """An image file as the nets see it: float32 of shape `dims` in [-1, 1].

    Raises:
        DataError: it cannot be read.
        ConfigError: it has other proportions.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            size = (image.width, image.height)
            pixels = torch.from_numpy(np.array(image.convert("RGBA"))).permute(2, 0, 1)[None]
    except OSError as error:
        raise DataError(f"{path} cannot be read as an image: {error}.") from error
    found = recolour(pixels, dims[0])
    if size != (dims[2], dims[1]):
        if dims[1] != dims[2]:
            raise ConfigError(f"{path} is {size[0]} x {size[1]} pixels, this run makes {dims[2]} x {dims[1]}.")
        found = resize(found, dims[1])
    return found[0].float() / 127.5 - 1
