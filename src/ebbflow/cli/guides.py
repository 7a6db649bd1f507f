"""The flags of `ebbflow sample` that say what else guides, and what they become."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ebbflow.cli.common import read_options
from ebbflow.errors import ConfigError

if TYPE_CHECKING:
    from ebbflow.runs import Run
    from ebbflow.runs.guiding import Guides

GuidanceRule = Annotated[
    str | None, typer.Option(help="How --guidance acts: classifier_free, cfg_zero_star or apg.", show_default=False)
]
GuidanceSet = Annotated[
    list[str] | None,
    typer.Option(help="Option of the rule, such as eta=0.5, norm_threshold=5 (apg), zero_above=0.9 (cfg_zero_star)."),
]
Autoguide = Annotated[
    Path | None, typer.Option(help="A worse run or checkpoint of the same data; --guidance leads away from it.")
]
ClassifierFolder = Annotated[
    Path | None, typer.Option("--classifier", help="A folder of `ebbflow train-classifier`; guides to --label.")
]
ClassifierScale = Annotated[float | None, typer.Option(help="How strongly the classifier guides. Default: 1.")]
LossName = Annotated[
    str | None, typer.Option("--loss", help="Guide by a loss: colour, inpaint, blur or downsample of --target.")
]
LossWeight = Annotated[
    float | None, typer.Option(help="How strongly the loss guides; late and none overshoot above 2. Default: 1.")
]
LossEmphasis = Annotated[
    str | None, typer.Option(help="Where the loss acts: early (shape), late (texture) or none. Default: none.")
]
LossSet = Annotated[
    list[str] | None, typer.Option(help="Option of the loss, such as factor=4 (downsample) or width=1.5 (blur).")
]
Target = Annotated[
    str | None, typer.Option(help="What the loss aims at: an image, or for colour numbers in [0, 1] such as 1,0.5,0.")
]
Mask = Annotated[
    str | None,
    typer.Option(
        help="What of --target is known to inpaint: an image, white where known, or left, right, top, bottom."
    ),
]


def read_guides(
    run: Run,
    *,
    guidance_rule: str | None,
    guidance_set: list[str] | None,
    autoguide: Path | None,
    classifier: Path | None,
    classifier_scale: float | None,
    loss: str | None,
    loss_weight: float | None,
    loss_emphasis: str | None,
    loss_set: list[str] | None,
    target: str | None,
    mask: str | None,
    weights: Any,
    device: Any,
) -> Guides:
    """The guides of these flags.

    Raises:
        ConfigError: a flag without the one that it belongs to.
    """
    from ebbflow.runs.guiding import open_guides, open_loss

    _require("--classifier", classifier, {"--classifier-scale": classifier_scale})
    of_loss = {"--loss-weight": loss_weight, "--loss-emphasis": loss_emphasis, "--loss-set": loss_set}
    _require("--loss", loss, {**of_loss, "--target": target, "--mask": mask})
    if loss is not None and target is None:
        raise ConfigError("--loss needs a --target: an image, or for colour numbers in [0, 1] such as 1,0.5,0.")
    options = read_options(loss_set or [], "--loss-set")
    settings = {
        "rule": guidance_rule,
        "rule_options": read_options(guidance_set or [], "--guidance-set"),
        "classifier_scale": classifier_scale,
        "loss": None if loss is None else open_loss(loss, run.facts, target=target or "", mask=mask, options=options),
        "loss_weight": loss_weight,
        "loss_emphasis": loss_emphasis,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    return open_guides(run, classifier=classifier, autoguide=autoguide, weights=weights, device=device, **given)


def _require(owner: str, value: object, flags: dict[str, object]) -> None:
    for flag, given in flags.items():
        if value is None and given is not None:
            raise ConfigError(f"{flag} says nothing without {owner}. Give {owner}, or leave {flag} out.")
