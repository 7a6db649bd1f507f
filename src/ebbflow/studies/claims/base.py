"""Claims and findings, the two models under test, and their samples, made once and used by many claims."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ebbflow.core.condition import Cond, Condition
from ebbflow.core.noise import Noise, derive_seed
from ebbflow.data import to_uint8
from ebbflow.methods.denoise import Denoiser, conditional
from ebbflow.methods.guidance import classifier_free
from ebbflow.methods.objective import Objective
from ebbflow.methods.sampling import grid_times, pure_noise, walk, walk_from
from ebbflow.metrics.measure import jackknife, left_out
from ebbflow.metrics.scores import Moments, frechet_of, manifold, moments, spread_rows
from ebbflow.metrics.yardstick import Made
from ebbflow.progress import Stage, Work
from ebbflow.show.strips import toy

if TYPE_CHECKING:
    from PIL import Image

Verdict = Literal["supported", "refuted", "depends", "not measured"]
Gap = tuple[float, float]  # a value, or a difference, and its standard error
CONFIDENT = 2.0  # standard errors from which a difference counts
NUM_SHOWN = 40  # samples of each setting that are kept for pictures


@dataclass(frozen=True, kw_only=True)
class Table:
    """Numbers of a finding: a title and rows of equal keys, values plain or (value, standard error)."""

    title: str
    rows: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found of one claim.

    Args:
        verdict: what the numbers say.
        because: plain sentences that say why.
        tables: the numbers.
        pictures: by name; they are written beside the page.
    """

    verdict: Verdict
    because: tuple[str, ...]
    tables: tuple[Table, ...] = ()
    pictures: Mapping[str, Image.Image] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim of the notes and the function that measures it.

    Args:
        statement: what the notes say, in English.
        place: where they say it.
        asked: what is measured, in a sentence.
        measure: generator function (trial) -> Finding.
    """

    statement: str
    place: str
    asked: str
    measure: Callable[[Trial], Work[Finding]]


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two models.

    Args:
        name: "diffusion" or "flow".
        denoiser: float32, no condition bound.
        quick: the same in the precision that many samples are made in.
        read: class indices in the form that both take.
        objective: what it was trained with.
        grid: where its steps lie.
        ode, sde: its deterministic and its random sampler, names of `SAMPLERS`.
    """

    name: str
    denoiser: Denoiser
    quick: Denoiser
    read: Callable[[Sequence[Condition]], Cond] = torch.tensor
    objective: Objective
    grid: str
    ode: str
    sde: str

    def given(self, labels: Tensor | None, denoiser: Denoiser | None = None) -> Denoiser:
        """Its denoiser, or another with the same net, with classes bound, int64 (B,)."""
        denoiser = self.denoiser if denoiser is None else denoiser
        return denoiser if labels is None else conditional(denoiser).given(self.read(labels.tolist()))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How many samples are made: sampler, steps and guidance (1 is none)."""

    sampler: str
    num_steps: int
    guidance: float = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """Two models, the data they were trained on, and how much is to be measured.

    Args:
        diffusion, flow: the models.
        x0: held-out entries, float32 (M, *dims).
        labels: their classes int64 (M,), or None for models that take no label.
        num_classes: 0 without labels.
        features_of: x0 float32 (B, *dims) -> {"features"} and perhaps {"classes"}.
        real: features of the reference (R, D).
        other_real: features of as many other real entries as samples are made, for the floor.
        num: samples of one setting.
        few: entries for what is measured sample by sample.
        steps: numbers of steps of the first claim, rising.
        seed: of the first sample.
        batch_size: samples a network evaluation.
        device: where the models and `x0` are.
        made: what has been sampled so far, by side and recipe.
    """

    diffusion: Side
    flow: Side
    x0: Tensor
    labels: Tensor | None
    num_classes: int
    features_of: Callable[[Tensor], dict[str, Tensor]]
    real: Tensor
    other_real: Tensor
    num: int = 500
    few: int = 32
    steps: tuple[int, ...] = (5, 10, 20, 50, 100)
    seed: int = 0
    batch_size: int = 64
    device: torch.device = torch.device("cpu")
    made: dict[tuple[str, Recipe], Made] = field(default_factory=dict)

    @property
    def sides(self) -> tuple[Side, Side]:
        """Both models, diffusion first."""
        return self.diffusion, self.flow

    @property
    def dims(self) -> tuple[int, ...]:
        """The shape of one entry."""
        return tuple(self.x0.shape[1:])

    @property
    def is_image(self) -> bool:
        """Whether the data are images."""
        return self.x0.ndim == 4

    @property
    def real_moments(self) -> Moments:
        """Moments of the reference."""
        return moments(self.real)

    @property
    def floor(self) -> float:
        """The Frechet distance of real data in the place of samples."""
        return frechet_of(self.real_moments, moments(self.other_real))

    def asked(self, num: int) -> Tensor | None:
        """The classes that `num` samples are asked for, in turn, or None."""
        return None if self.labels is None else torch.arange(num) % self.num_classes

    def samples(self, side: Side, recipe: Recipe) -> Work[Made]:
        """`num` samples, made when they are first asked for."""
        if (side.name, recipe) not in self.made:
            self.made[side.name, recipe] = yield from self._sampled(side, recipe)
        return self.made[side.name, recipe]

    def _sampled(self, side: Side, recipe: Recipe) -> Work[Made]:
        seen, first, labels = [], [], self.asked(self.num)
        guided = side.quick if recipe.guidance == 1 else classifier_free(side.quick, guidance=recipe.guidance)
        name = f"{side.name} {recipe.sampler}{recipe.num_steps}"
        for rows in torch.arange(self.num).split(self.batch_size):
            bound, done = side.given(None if labels is None else labels[rows], guided), int(rows[0])
            seeds = [self.seed + int(row) for row in rows]
            x = torch.empty(0)
            for i, state in enumerate(states(bound, self.dims, seeds, recipe, side.grid, self.device), start=1):
                x = state
                yield Stage(name, done + i * len(rows) // recipe.num_steps, self.num)
            x = self.shown(x)
            seen.append(self.features_of(x))
            first.append(x[: max(0, NUM_SHOWN - done)])
        return Made.of(seen, torch.cat(first))

    def shown(self, x: Tensor) -> Tensor:
        """Samples as a picture file would hold them: float32, images clamped and rounded to 256 levels.

        Raises:
            FloatingPointError: they are not finite.
        """
        x = x.float().cpu()
        if not bool(torch.isfinite(x).all()):
            raise FloatingPointError("samples are not finite. Was the model trained to its end?")
        return to_uint8(x.clamp(-1, 1)).float() / 127.5 - 1 if self.is_image else x

    def start(self, side: Side, num: int, num_steps: int) -> tuple[Tensor, Tensor]:
        """The start noise of the first `num` seeds at times[0], and the times."""
        times = grid_times(side.denoiser, side.grid, num_steps)
        eps = Noise(range(self.seed, self.seed + num)).draw(self.dims).to(self.device)
        return pure_noise(side.denoiser, eps, times), times

    @staticmethod
    def estimated(statistic: Callable[..., float], *made: Made) -> Gap:
        """A number of the features of samples, and its standard error by the jackknife."""
        every = [one.features for one in made]
        return statistic(*every), jackknife([statistic(*rest) for rest in zip(*map(left_out, every), strict=True)])

    def frechet(self, made: Made) -> tuple[float, float]:
        """The Frechet distance of samples to the reference, and its standard error by the jackknife."""
        real = self.real_moments
        return self.estimated(lambda rows: frechet_of(real, moments(rows)), made)

    def frechet_gap(self, one: Made, other: Made) -> tuple[float, float]:
        """How much farther from the reference `one` is than `other`, made from the same seeds, and its standard
        error."""
        real = self.real_moments
        return self.estimated(lambda a, b: frechet_of(real, moments(a)) - frechet_of(real, moments(b)), one, other)

    def recall(self, made: Made) -> tuple[float, float]:
        """Recall of the reference by the samples, and its standard error by the jackknife."""
        real = spread_rows(self.real, len(made.features))
        return self.estimated(lambda rows: manifold(real, rows).recall, made)

    def accuracy(self, made: Made) -> tuple[float, float] | None:
        """Label accuracy and its binomial standard error; None without labels or a classifier."""
        asked = self.asked(len(made.features))
        if asked is None or made.classes is None:
            return None
        right = float((made.classes == asked).double().mean())
        return right, (right * (1 - right) / len(asked)) ** 0.5


def states(
    denoiser: Denoiser,
    dims: tuple[int, ...],
    seeds: Sequence[int],
    recipe: Recipe,
    grid: str,
    device: torch.device,
) -> Generator[Tensor, None, None]:
    """The state after each step of a recipe; "toy" is the notes' x <- x - eps(x, t)."""
    if recipe.sampler == "toy":
        times = grid_times(denoiser, grid, recipe.num_steps)
        steps = toy(denoiser, pure_noise(denoiser, Noise(seeds).draw(dims).to(device), times), times)
    else:
        steps = walk(
            denoiser, dims, seeds, sampler=recipe.sampler, num_steps=recipe.num_steps, grid=grid, device=device
        )
    for step in steps:
        yield step.x


def repeats(
    denoiser: Denoiser, x: Tensor, times: Tensor, *, sampler: str, num: int, seed: int = 0, options: dict[str, Any]
) -> Tensor:
    """`num` walks from the same states `x` (B, *dims) with fresh noise on the way, shape (num, B, *dims)."""
    found = []
    for k in range(num):
        noise = Noise([derive_seed(seed, "repeat", k, i) for i in range(len(x))])
        *_, step = walk_from(denoiser, x, times, noise, sampler=sampler, options=options)
        found.append(step.x)
    return torch.stack(found)


def squares(x: Tensor) -> Tensor:
    """The sum of squares of each row, float64 (B,) on the CPU."""
    return x.cpu().double().flatten(1).square().sum(1)


def apart(one: Gap, other: Gap) -> Gap:
    """The difference of two independent values and its standard error."""
    return one[0] - other[0], (one[1] ** 2 + other[1] ** 2) ** 0.5


def clearly(gap: Gap) -> int:
    """The sign of a (difference, standard error) where it is beyond `CONFIDENT` errors, otherwise 0."""
    value, error = gap
    return 0 if abs(value) <= CONFIDENT * error else (1 if value > 0 else -1)
