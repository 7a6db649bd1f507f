"""Claims about the quality of samples: by steps, by straightness, by guidance, and of the notes' toy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ebbflow.core.shape import per_sample
from ebbflow.methods.denoise import Denoiser
from ebbflow.methods.samplers import SAMPLERS
from ebbflow.metrics.measure import jackknife, mean_and_error
from ebbflow.metrics.yardstick import Made
from ebbflow.progress import Stage, Work
from ebbflow.studies.claims.base import (
    Claim,
    Finding,
    Gap,
    Recipe,
    Side,
    Table,
    Trial,
    Verdict,
    apart,
    clearly,
    squares,
)
from ebbflow.studies.claims.draw import curves, pictures, rows_of

Row = dict[str, Any]
THRESHOLD = 500
FEW_STEPS = (1, 2, 4, 8)
GUIDANCES = (0.0, 1.0, 2.0, 4.0, 7.5)
GUIDED_STEPS = 20
TOY_STEPS = 20
NUM_FINE = 50  # steps of the trajectories whose straightness is measured


# -- DDIM and DDPM by steps --------------------------------------------------------------------------------------------


def measure_steps(trial: Trial) -> Work[Finding]:
    """Frechet distances of DDIM and DDPM on the diffusion model, over the same grids and start noise."""
    rows: list[Row] = []
    gaps: dict[int, Gap] = {}
    first: dict[str, Tensor] = {}
    for num in trial.steps:
        ddim = yield from trial.samples(trial.diffusion, Recipe(sampler="ddim", num_steps=num))
        ddpm = yield from trial.samples(trial.diffusion, Recipe(sampler="ddpm", num_steps=num))
        gaps[num] = trial.frechet_gap(ddim, ddpm)
        rows.append({"steps": num, "DDIM": trial.frechet(ddim), "DDPM": trial.frechet(ddpm), "DDIM - DDPM": gaps[num]})
        first |= {f"DDIM {num}": ddim.first[:10], f"DDPM {num}": ddpm.first[:10]}
    verdict, because = threshold_verdict(gaps)
    lines = {name: ([row["steps"] for row in rows], [row[name] for row in rows]) for name in ("DDIM", "DDPM")}
    chart = curves(lines, xlabel="steps", ylabel="Frechet distance", dashed={"real data": trial.floor}, log="xy")
    return Finding(
        verdict=verdict,
        because=(*because, f"Real data in the place of samples score {trial.floor:.3g} at this number of samples."),
        tables=(Table(title="Frechet distance by steps, lower is better", rows=rows),),
        pictures=pictures(steps=chart, steps_samples=rows_of(first)),
    )


def threshold_verdict(gaps: dict[int, tuple[float, float]]) -> tuple[Verdict, tuple[str, ...]]:
    """Whether DDIM wins below 500 steps and DDPM above, from the differences DDIM - DDPM by steps."""
    signs = {num: clearly(gap) for num, gap in gaps.items()}
    below = {num: sign for num, sign in signs.items() if num < THRESHOLD}
    above = {num: sign for num, sign in signs.items() if num > THRESHOLD}
    wrong = [num for num, sign in below.items() if sign > 0] + [num for num, sign in above.items() if sign < 0]
    said = [
        f"DDIM is clearly better at {listed([n for n, s in signs.items() if s < 0])} steps, DDPM at "
        f"{listed([n for n, s in signs.items() if s > 0])}; no clear difference at "
        f"{listed([n for n, s in signs.items() if s == 0])}."
    ]
    if not above:
        said.append(f"Nothing above {THRESHOLD} steps was measured, so the second half of the claim stays open.")
    if wrong:
        return "refuted", (*said, f"At {listed(wrong)} steps the order is the opposite of the claimed one.")
    if above and all(below.values()) and all(above.values()):
        return "supported", tuple(said)
    return "depends", tuple(said)


def listed(numbers: Sequence[object]) -> str:
    """ "1, 2 and 3", or "none"."""
    names = [str(number) for number in numbers]
    return "none" if not names else " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


STEPS = Claim(
    statement="Below 500 steps DDIM gives the better images, above 500 steps DDPM does.",
    place="S3, section 6",
    asked="Frechet distances of both samplers on the diffusion model, on the same grids, from the same start noise.",
    measure=measure_steps,
)


# -- straightness and few steps ----------------------------------------------------------------------------------------


def bend(denoiser: Denoiser, x: Tensor, *, own_clock: bool, num_steps: int = NUM_FINE) -> Tensor:
    """The mean over t of ||v(x_t, t) - (x_1 - x_0)||^2 / ||x_1 - x_0||^2 along the ODE's trajectories; 0 is straight.

    In its own clock v = alpha' x0 + sigma' eps over uniform t. On the straight line every path is first rescaled to
    x / (alpha + sigma) at time sigma / (alpha + sigma), where v = eps - x0: that takes the curvature of the schedule
    away and leaves what the data put in (Liu et al., 2022, section 2, 2209.03003, with a normalisation).

    Args:
        denoiser: its condition bound.
        x: the state at t = 1, shape (B, *dims).
        own_clock: which of the two.
        num_steps: DDIM steps, one evaluation each.

    Returns:
        Shape (B,).
    """
    middle = (torch.arange(num_steps, dtype=torch.float64).flip(0) + 0.5) / num_steps
    path = denoiser.path
    if not own_clock:
        middle = path.time_of(2 * torch.log((1 - middle) / middle))
    times = torch.cat([torch.ones(1, dtype=torch.float64), middle[middle < 1], torch.zeros(1, dtype=torch.float64)])
    states, slopes = [x], []
    for t, step in zip(times[:-1].tolist(), SAMPLERS["ddim"](denoiser, x, times), strict=True):
        c, estimate = path.at(t), step.estimate
        slopes.append(path.velocity(estimate.x0, estimate.eps, t) if own_clock else estimate.eps - estimate.x0)
        states.append(step.x)
    c = path.at(1.0)
    chord = (x if own_clock else x / per_sample(c.alpha + c.sigma, x)) - states[-1]
    inner = [slope for t, slope in zip(times[:-1].tolist(), slopes, strict=True) if t < 1]
    bends = torch.stack([squares(slope - chord) for slope in inner])
    return bends.mean(0) / squares(chord)


def measure_straight(trial: Trial) -> Work[Finding]:
    """How straight the trajectories of both models are, and what few steps give."""
    rows: list[Row] = []
    bends: dict[str, list[Tensor]] = {}
    for side in trial.sides:
        labels, num = trial.asked(trial.few), trial.few
        bound, (x, _) = side.given(labels), trial.start(side, num, 1)
        found = [bend(bound, x, own_clock=own) for own in (True, False)]
        bends[side.name] = found
        rows.append(
            {
                "model": side.name,
                "bend in its own clock": mean_and_error(found[0]),
                "bend on the straight line": mean_and_error(found[1]),
            }
        )
        yield Stage("straightness", len(rows), 2)
    few: list[Row] = []
    gaps: dict[int, Gap] = {}
    first: dict[str, Tensor] = {}
    flows: list[Made] = []
    for num_steps in FEW_STEPS:
        made: dict[str, Made] = {}
        for side in trial.sides:
            made[side.name] = yield from trial.samples(side, Recipe(sampler=side.ode, num_steps=num_steps))
            first[f"{side.name} {num_steps}"] = made[side.name].first[:10]
        flows.append(made["flow"])
        gaps[num_steps] = trial.frechet_gap(made["flow"], made["diffusion"])
        few.append(
            {"steps": num_steps}
            | {name: trial.frechet(one) for name, one in made.items()}
            | {"flow - diffusion": gaps[num_steps]}
        )
    verdict, because = straight_verdict(bends, gaps, trial.frechet_gap(flows[0], flows[-1]))
    lines = {name: (FEW_STEPS, [row[name] for row in few]) for name in ("diffusion", "flow")}
    chart = curves(lines, xlabel="steps", ylabel="Frechet distance", dashed={"real data": trial.floor}, log="xy")
    return Finding(
        verdict=verdict,
        because=because,
        tables=(
            Table(title="Bend of the trajectories, 0 is a straight line", rows=rows),
            Table(title="Frechet distance of few deterministic steps, lower is better", rows=few),
        ),
        pictures=pictures(straight=chart, straight_samples=rows_of(first)),
    )


def straight_verdict(
    bends: dict[str, list[Tensor]], gaps: dict[int, Gap], one_against_many: Gap
) -> tuple[Verdict, tuple[str, ...]]:
    """Whether flow is straight enough for one step, and straighter and better in few steps than diffusion."""
    (flow, error), (other, _) = mean_and_error(bends["flow"][0]), mean_and_error(bends["diffusion"][0])
    enough, straighter = clearly(one_against_many) <= 0, flow < other
    better = [num for num, gap in gaps.items() if clearly(gap) < 0]
    because = (
        f"The flow's trajectories bend by {flow:.3g} +- {error:.2g}, the diffusion's by {other:.3g} in its own clock; "
        f"on the straight line the figures are {bends['flow'][1].mean():.3g} and {bends['diffusion'][1].mean():.3g}.",
        "Exact models would bend alike on the straight line, since the two are one family seen through two schedules; "
        "what differs there is how well the nets know x0 in much noise.",
        f"One step of the flow lies {one_against_many[0]:.3g} +- {one_against_many[1]:.2g} farther from the data than "
        f"{FEW_STEPS[-1]} steps: one step is {'enough' if enough else 'not enough'}.",
        f"Of {listed(list(gaps))} steps the flow is clearly better at {listed(better)}.",
    )
    if enough and straighter and len(better) == len(gaps):
        return "supported", because
    return ("depends" if straighter or better else "refuted"), because


STRAIGHT = Claim(
    statement="Flow models walk a straight line and so generate in one step; every step's ground truth is constant.",
    place="S0, flow matching; S2, flow matching notes; S4, section 7",
    asked="How far the velocity along ODE trajectories is from x_1 - x_0, and Frechet distances of 1 to 8 steps.",
    measure=measure_straight,
)


# -- guidance ----------------------------------------------------------------------------------------------------------


def measure_guidance(trial: Trial) -> Work[Finding]:
    """Accuracy and diversity of the diffusion model by guidance."""
    if trial.labels is None:
        return Finding(verdict="not measured", because=("These runs take no condition, so nothing can be guided.",))
    rows: list[Row] = []
    made: dict[float, Made] = {}
    for w in GUIDANCES:
        recipe = Recipe(sampler=trial.diffusion.ode, num_steps=GUIDED_STEPS, guidance=w)
        made[w] = yield from trial.samples(trial.diffusion, recipe)
        rows.append(
            {
                "w": f"{w:g}",
                "label accuracy": trial.accuracy(made[w]) or "-",
                "Frechet": trial.frechet(made[w]),
                "recall": trial.recall(made[w]),
                "spread within a class": spread_within(trial, made[w]),
            }
        )
        yield Stage("guidance", len(rows), len(GUIDANCES))
    verdict, because = guidance_verdict({float(row["w"]): row for row in rows})
    images = {f"w = {w:g}": one.first[:10] for w, one in made.items()}
    return Finding(
        verdict=verdict,
        because=(*because, f"Real data in the place of samples score {trial.floor:.3g}."),
        tables=(Table(title=f"{trial.diffusion.ode}, {GUIDED_STEPS} steps, by guidance w", rows=rows),),
        pictures=pictures(guidance=rows_of(images)),
    )


def spread_within(trial: Trial, made: Made) -> tuple[float, float]:
    """The mean over classes of the features' total variance, of what was asked for, and its standard error."""
    asked = trial.asked(len(made.features))
    assert asked is not None
    ranks = torch.arange(len(asked)) // trial.num_classes  # the how-many-th sample of its class
    blocks = ranks * 10 // (int(ranks.max()) + 1)
    rests = [class_spread(made.features[blocks != b], asked[blocks != b]) for b in blocks.unique()]
    return class_spread(made.features, asked), jackknife(rests)


def class_spread(features: Tensor, labels: Tensor) -> float:
    """The mean over classes of tr Cov of their rows; classes of fewer than 2 rows are left out."""
    groups = [features[labels == k].double() for k in labels.unique()]
    return float(torch.stack([group.var(0).sum() for group in groups if len(group) > 1]).mean())


def guidance_verdict(rows: dict[float, Row]) -> tuple[Verdict, tuple[str, ...]]:
    """Whether guidance above 1 raises accuracy, and at what price."""

    def gap(name: str, one: float, other: float) -> tuple[float, float]:
        return apart(rows[one][name], rows[other][name])

    top, best = max(rows), min(rows, key=lambda w: rows[w]["Frechet"][0])
    judged = rows[1.0]["label accuracy"] != "-"
    helps = [w for w in rows if w > 1 and judged and clearly(gap("label accuracy", w, 1.0)) > 0]
    narrower = clearly(gap("spread within a class", top, 1.0)) < 0
    ratio = rows[top]["spread within a class"][0] / rows[1.0]["spread within a class"][0]
    because = (
        f"Accuracy rises clearly over w = 1 at w = {listed([f'{w:g}' for w in helps])}.",
        f"At w = {top:g} the spread within a class is {ratio:.2f} times that at w = 1, "
        f"{'clearly' if narrower else 'not clearly'} less.",
        f"The Frechet distance is best at w = {best:g}; the notes' default of {top:g} scores "
        f"{rows[top]['Frechet'][0]:.3g} against {rows[best]['Frechet'][0]:.3g}.",
    )
    if not helps and judged:
        return "refuted", because
    return ("supported" if best == top else "depends"), because


GUIDANCE = Claim(
    statement="Guidance u + w (c - u) with w > 1 strengthens the condition and improves results; w is 7.5 by default.",
    place="S0, CFG; S4, sections 6.1 and 6.2",
    asked="Label accuracy, Frechet distance, recall and spread within a class on the diffusion model by w.",
    measure=measure_guidance,
)


# -- the toy -----------------------------------------------------------------------------------------------------------


def measure_toy(trial: Trial) -> Work[Finding]:
    """The toy beside the real sampler, from the same noise."""
    side: Side = trial.diffusion
    real = yield from trial.samples(side, Recipe(sampler=side.ode, num_steps=TOY_STEPS))
    toy = yield from trial.samples(side, Recipe(sampler="toy", num_steps=TOY_STEPS))
    rows = [
        {
            "sampler": name,
            "Frechet": trial.frechet(made),
            "label accuracy": trial.accuracy(made) or "-",
            "recall": trial.recall(made),
        }
        for name, made in {"x - eps": toy, side.ode: real}.items()
    ]
    verdict, because = toy_verdict(rows[0], rows[1], trial.frechet_gap(toy, real))
    return Finding(
        verdict=verdict,
        because=because,
        tables=(Table(title=f"{TOY_STEPS} steps from the same noise", rows=rows),),
        pictures=pictures(toy=rows_of({"x - eps": toy.first[:10], side.ode: real.first[:10]})),
    )


def toy_verdict(toy: Row, real: Row, gap: Gap) -> tuple[Verdict, tuple[str, ...]]:
    """A mess is clearly farther from the data, and what it shows cannot be told any more."""
    far, near = toy["Frechet"][0], real["Frechet"][0]
    because = [
        f"After {TOY_STEPS} subtractions the toy scores {far:.3g}, the real sampler on the same times {near:.3g}.",
        "What is missing is the scale of each step: the notes' s1 and s2, or alpha and sigma of the next time.",
    ]
    if clearly(gap) <= 0:
        return "refuted", tuple(because)
    if toy["label accuracy"] != "-" and toy["label accuracy"][0] > real["label accuracy"][0] / 2:
        because.append(
            f"Still it is no mess here: the classifier finds the class that was asked for in "
            f"{toy['label accuracy'][0]:.0%} of the toy's samples. What it loses is diversity: its recall is "
            f"{toy['recall'][0]:.2f} against {real['recall'][0]:.2f}."
        )
        return "depends", tuple(because)
    return "supported", tuple(because)


TOY = Claim(
    statement="Repeating x <- x - predicted noise gives a mess.",
    place="S3, section 3.1",
    asked="The toy against the real sampler on the diffusion model, on the same times, from the same noise.",
    measure=measure_toy,
)
