"""Plans: what to sample and how, with nothing left open, from a request and the model that it is of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from ebbflow.conditioning import ImageConditioner, label_indices
from ebbflow.core.condition import Condition
from ebbflow.core.entries import Choice
from ebbflow.errors import ConfigError
from ebbflow.memory import require
from ebbflow.methods.denoise import flow_map
from ebbflow.methods.samplers import SAMPLERS, Sampler, sampler_of
from ebbflow.methods.samplers.best import AUTO, best_for
from ebbflow.methods.sampling import check_sampler
from ebbflow.requests.sampling import Conditions, EditRequest, Guiding, RestoreRequest, SampleRequest, Sampling
from ebbflow.requests.shared import Precision
from ebbflow.runs.build import built_in
from ebbflow.runs.derived import LEARNED
from ebbflow.runs.guides import Guides, open_guides
from ebbflow.runs.opened import Opened
from ebbflow.runs.pictures import given_images, held_out_images

T = TypeVar("T")
SAYS = ("labels", "prompts", "vectors", "images")  # fields of a request, one of which says what is to be made
NONE = "none"  # the label that stands for no condition
POINTS = 1000  # points when no number is said
EXAMPLES = 8  # held-out pictures that a run conditioned on them is shown by when none are said
MOST_ROWS = 100  # classes that are sampled when none is named
FEW = 4  # samples of a model from elsewhere when no number is said, and at once where they are large
LARGE = 3 * 64 * 64  # values of such a sample
UNSAID = 20  # evaluations of sampler auto where the run's own sampler chooses how many


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to sample and how, with nothing left open.

    Args:
        seeds: one a sample.
        conditions: what each sample is to be (the index of a class, a prompt, a vector); None for no condition.
        negative: what guidance moves away from, None for the null condition.
        guidance: w of u + w (c - u); 1 is the conditional model, 0 the unconditional one.
        interval: log-SNR window of the guidance.
        rescale: phi in [0, 1] of the guidance.
        guides: what else guides.
        clip: keep every x0 on the way inside [-1, 1]; of images only.
        sampler, num_steps, grid, options: as in `methods.sampling.walk`; a grid may also be "learned".
        batch_size: samples a network evaluation.
        precision: of the net; "fp32" leaves it as it was opened.
        chosen: why these sampler, grid and number of steps, where they were left to sampler auto.
    """

    seeds: tuple[int, ...]
    conditions: tuple[Condition, ...] | None = None
    negative: Condition | None = None
    guidance: float = 1.0
    interval: tuple[float, float] | None = None
    rescale: float = 0.0
    guides: Guides = Guides()
    clip: bool = False
    sampler: str | Sampler = "heun"
    num_steps: int = 10
    grid: Any = "uniform"
    options: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 64
    precision: Precision = "fp32"
    chosen: str = ""

    @property
    def labels(self) -> tuple[int, ...] | None:
        """The class of each sample; None where they are not all classes."""
        found = tuple(one for one in self.conditions or () if isinstance(one, int))
        return found if found and len(found) == len(self.seeds) else None

    @property
    def prompts(self) -> tuple[str, ...] | None:
        """The text of each sample; None where they are not all texts."""
        found = tuple(one for one in self.conditions or () if isinstance(one, str))
        return found if found and len(found) == len(self.seeds) else None

    @property
    def is_learned(self) -> bool:
        """Whether its grid was searched for the model."""
        return isinstance(self.grid, str) and self.grid == LEARNED

    @property
    def named_grid(self) -> Choice | None:
        """Its grid as a file can hold it; None for one that has no name."""
        return self.grid if isinstance(self.grid, str | Mapping) else None

    @property
    def num_batches(self) -> int:
        """How many batches its samples are made in."""
        return -(-len(self.seeds) // self.batch_size)

    def rows(self, rows: slice) -> Plan:
        """The plan of some of its samples."""
        return replace(
            self, seeds=self.seeds[rows], conditions=None if self.conditions is None else self.conditions[rows]
        )

    def batches(self) -> Iterator[Plan]:
        """The plans of its batches."""
        for first in range(0, len(self.seeds), self.batch_size):
            yield self.rows(slice(first, first + self.batch_size))


# -- from a request ----------------------------------------------------------------------------------------------------


def plan_of(model: Opened, request: SampleRequest) -> Plan:
    """What a request means for a model, checked.

    With no condition asked for, each class (or a few captions or vectors of the data) gets a row; the label "none"
    asks for no condition. Samples are dealt to the conditions in equal blocks.

    Raises:
        ConfigError, ValueError: what the model cannot do, or settings that contradict each other.
        CheckpointError: a classifier or worse model that is not there.
    """
    guides = open_guides(model, request)
    rows = conditions_of(model, request, guides.label_names)
    seeds = _seeds(model, request, rows)
    plan = replace(
        default_plan(model, seeds=seeds, conditions=repeat_in_blocks(rows, len(seeds))),
        guides=guides,
        rescale=request.rescale,
        interval=request.interval,
        negative=_negative(model, request),
        precision=request.precision,
        **changes_of(model, request),
    )
    if request.guidance is None and guides.bad is not None:
        plan = replace(plan, guidance=model.defaults.guidance)
    check(model, plan)
    return plan


def default_plan(model: Opened, *, seeds: Sequence[int], conditions: Sequence[Condition] | None = None) -> Plan:
    """How a model is sampled when nothing else is said."""
    sample = model.defaults
    plan = Plan(
        seeds=tuple(seeds),
        conditions=None if conditions is None else tuple(conditions),
        grid=sample.grid if model.grid is None else model.grid,
        clip=sample.clip,
        batch_size=FEW if model.run is None and math.prod(model.dims) > LARGE else 64,
    )
    if sample.sampler == AUTO:
        plan = replace(plan, **best_changes(model, sample.num_steps))
    else:
        plan = replace(plan, sampler=sample.sampler, num_steps=sample.num_steps, options=dict(sample.options))
    guided = conditions is not None and model.is_conditional and model.is_guidable
    return replace(plan, guidance=sample.guidance) if guided else plan


def best_changes(model: Opened, evaluations: int) -> dict[str, Any]:
    """The fields of a plan that sampler auto sets for a number of network evaluations."""
    best = best_for(model.denoiser.path, evaluations, SAMPLERS)
    return {
        "sampler": best.sampler,
        "grid": best.grid,
        "num_steps": best.num_steps,
        "options": {},
        "chosen": best.reason,
    }


def _auto(model: Opened, request: Sampling) -> dict[str, Any]:
    """What sampler auto makes of a request; {} where a sampler was named."""
    sample, named = model.defaults, request.sampler
    says_more = any(value is not None for value in (request.steps, request.grid, request.options))
    if named != AUTO and (named is not None or sample.sampler != AUTO or not says_more):
        return {}
    if request.grid is not None or request.options:
        raise ConfigError(
            "sampler auto chooses the grid too, and takes no options. Leave `grid` and `options` out, or name a "
            "`sampler` beside them."
        )
    own = sample.num_steps if sample.sampler == AUTO else _evaluations(sample.sampler, sample.num_steps, sample.options)
    return best_changes(model, request.steps or own)


def _evaluations(sampler: str, num_steps: int, options: Mapping[str, Any]) -> int:
    return sampler_of(sampler).evaluations(num_steps, **options) or UNSAID


def changes_of(model: Opened, request: Sampling) -> dict[str, Any]:
    """The fields of a plan that a request sets; another sampler drops the options of the model's own, and sampler auto
    becomes what was best for so many evaluations as the request has `steps`, or the model's own way costs.

    Raises:
        ConfigError: options of a grid without its name, or a grid or options beside sampler auto.
    """
    auto = _auto(model, request)
    options = {key: value for key, value in (request.options or {}).items() if not key.startswith("grid.")}
    of_grid = {key.removeprefix("grid."): value for key, value in (request.options or {}).items() if "." in key}
    grid: Any = request.grid
    if of_grid:
        if not isinstance(request.grid, str):
            raise ConfigError("options of a grid, such as grid.rho=5, need the name of the `grid` that they are of.")
        grid = {"kind": request.grid, **of_grid}
    given = {
        "sampler": request.sampler,
        "num_steps": request.steps,
        "grid": grid,
        "options": options if request.options is not None or request.sampler is not None else None,
        "guidance": request.guidance,
        "clip": request.clip,
        "batch_size": request.batch_size,
        "chosen": "" if request.sampler is not None else None,
    }
    return {name: value for name, value in given.items() if value is not None} | auto


def conditions_of(model: Opened, request: Conditions, label_names: Sequence[str] = ()) -> tuple[Condition, ...]:
    """What is to be made, row by row; () for no condition.

    Args:
        model: its examples are taken where the request names nothing.
        request: at most one of labels, prompts and vectors.
        label_names: the classes of a classifier that guides, for a model that knows none.

    Raises:
        ConfigError: more than one kind, or something that an unconditional model cannot take.
        ValueError: an unknown label.
    """
    given = {name: getattr(request, name) for name in SAYS}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise ConfigError(f"{' and '.join(f'`{name}`' for name in named)} all choose what to make. Give one.")
    names = model.label_names or tuple(label_names)
    if not named and isinstance(model.reader, ImageConditioner):
        return held_out_images(model, EXAMPLES)
    if not named:
        return model.examples[:MOST_ROWS] if model.is_conditional else tuple(range(len(label_names)))
    asked = given[named[0]]
    if not asked or (asked == (NONE,) and NONE not in names):
        return ()
    if not model.is_conditional and not (label_names and request.labels):
        what = named[0].rstrip("s")
        raise ConfigError(f"this model is unconditional: it cannot take {what}s. Leave `{named[0]}` out.")
    if request.labels is not None:
        if not names:
            raise ConfigError("this model knows no labels. Leave `labels` out.")
        return tuple(label_indices(request.labels, names))
    if request.images is not None:
        return given_images(model, request.images)
    return tuple(request.prompts or tuple(tuple(map(float, vector)) for vector in request.vectors or ()))


def _seeds(model: Opened, request: SampleRequest, rows: Sequence[Condition]) -> tuple[int, ...]:
    if request.seeds is None:
        num = request.num or _unsaid(model, rows, single=named_any(request) and len(rows) == 1)
        size = num * (4 * math.prod(model.dims) + 64)
        require(size, f"{num:,} samples", "Lower `num`, and give the rest other seeds.")
        return tuple(range(request.seed, request.seed + num))
    if request.seed:
        raise ConfigError("`seed` and `seeds` both choose seeds. Give one.")
    if request.num is not None and request.num != len(request.seeds):
        raise ConfigError(f"`num` is {request.num}, and {len(request.seeds)} `seeds` are given. Leave `num` out.")
    return tuple(request.seeds)


def _unsaid(model: Opened, rows: Sequence[Condition], *, single: bool) -> int:
    """How many samples are made when no number is said."""
    if not model.facts.is_image:
        return POINTS
    if single:
        return 1
    return (len(rows) or FEW) if model.run is None else 8 * len(rows) or 64


def _negative(model: Opened, request: Guiding) -> Condition | None:
    label, prompt = request.negative_label, request.negative_prompt
    if label is not None and prompt is not None:
        raise ConfigError("`negative_label` and `negative_prompt` both say what to avoid. Give one.")
    if label is None:
        return prompt
    if not model.label_names:
        raise ConfigError("this model knows no labels. Leave `negative_label` out.")
    return label_indices([label], model.label_names)[0]


def named_any(request: Conditions) -> bool:
    """Whether a request says what is to be made."""
    return any(getattr(request, name) is not None for name in SAYS)


def repeat_in_blocks(items: Sequence[T], num: int) -> tuple[T, ...] | None:
    """`num` times an item, in equal blocks in the order given; None where there are no items."""
    return tuple(items[i * len(items) // num] for i in range(num)) if items else None


def plan_beside(
    model: Opened,
    request: EditRequest | RestoreRequest,
    rows: Sequence[Condition],
    each: int,
    guides: Guides = Guides(),
) -> Plan:
    """What a request means for samples that are made of an image: `num` in all, or else `each` for every condition.

    Raises:
        ConfigError: they cannot be dealt alike to the conditions, which a picture shows row by row.
        ConfigError, ValueError: what the model cannot do.
    """
    count = request.num or each * max(1, len(rows))
    if count % max(1, len(rows)):
        raise ConfigError(
            f"`num` counts all samples: a multiple of the {len(rows)} conditions is wanted, got {request.num}."
        )
    seeds = range(request.seed, request.seed + count)
    plan = default_plan(model, seeds=seeds, conditions=repeat_in_blocks(rows, count))
    plan = replace(plan, guides=guides, **changes_of(model, request))
    check(model, plan)
    return plan


# -- checks ------------------------------------------------------------------------------------------------------------


def check(model: Opened, plan: Plan) -> None:
    """Refuse what a model cannot do, and settings that contradict each other.

    Raises:
        ConfigError: an unknown sampler or option, a condition or guidance for an unconditional model, a negative
            condition without guidance, a classifier without labels, settings without effect.
        ValueError: an option out of range.
    """
    guides = plan.guides
    check_sampler(plan.sampler, plan.options)
    if sampler_of(plan.sampler).jumps:
        _check_jumps(model, plan)
    if plan.clip and (not model.facts.is_image or model.space is not None):
        raise ConfigError("clipping is of images in [-1, 1], and this model makes points or latents. Leave `clip` out.")
    if plan.conditions is not None and len(plan.conditions) != len(plan.seeds):
        raise ConfigError(
            f"one condition a seed is wanted, got {len(plan.conditions)} conditions and {len(plan.seeds)} seeds."
        )
    if guides.classifier is not None and plan.labels is None:
        raise ConfigError("classifier guidance needs the classes to guide to. Give `labels`.")
    if not model.is_conditional:
        _check_unconditional(plan)
    if guides.bad is not None and (guides.names_rule or plan.negative is not None or plan.rescale):
        raise ConfigError(
            "autoguidance is a rule of its own. Leave `guidance_rule`, `guidance_options`, `negative_label` and "
            "`rescale` out."
        )
    within = 1.0 if model.run is None else built_in(model.run.config)
    if within != 1 and guides.bad is None and plan.guidance not in (0, 1):
        where = "teacher" if model.run is not None and model.run.config.teacher.run else "objective"
        raise ConfigError(
            f"guidance {within:g} was built into {model.name} in training ({where}.guidance), and more would guide "
            "it twice. Use `guidance` 1, or 0 for the unconditional model."
        )
    if plan.guidance == 1:
        _check_unguided(plan)


def _check_jumps(model: Opened, plan: Plan) -> None:
    flow_map(model.denoiser)
    guides = plan.guides
    if plan.guidance != 1 or plan.clip or any((guides.bad, guides.classifier, guides.loss)):
        raise ConfigError(
            f"sampler {str(plan.sampler)!r} makes the jumps that the net has learned, and guidance or clipping would "
            "lead elsewhere. Use `guidance` 1, or another sampler."
        )


def _check_unconditional(plan: Plan) -> None:
    if plan.conditions is not None and plan.guides.classifier is None:
        raise ConfigError(
            "this model is unconditional: it cannot take labels, prompts or vectors. Leave `labels` out, or give a "
            "`classifier`."
        )
    if plan.negative is not None:
        raise ConfigError("this model is unconditional: it cannot take a negative condition. Leave it out.")
    if plan.guides.bad is None and (plan.guidance != 1 or plan.guides.names_rule):
        raise ConfigError(
            "this model is unconditional: there is nothing to guide. Leave `guidance` out, or guide it by a "
            "`classifier`, a worse model (`autoguide`) or a `loss`."
        )


def _check_unguided(plan: Plan) -> None:
    guides = plan.guides
    if plan.negative is not None:
        what = "prompt" if isinstance(plan.negative, str) else "label"
        raise ConfigError(f"a negative {what} acts through guidance, which is off at `guidance` 1. Try `guidance` 2.")
    if guides.bad is not None or guides.names_rule or plan.rescale:
        what = (
            "autoguidance" if guides.bad is not None else f"rule {guides.rule!r}" if guides.names_rule else "`rescale`"
        )
        raise ConfigError(f"{what} acts through guidance, which is off at `guidance` 1. Try `guidance` 2.")
