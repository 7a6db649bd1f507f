"""The notes' table of flow matching against diffusion, line by line."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from ebbflow.core.noise import Noise, generator_for
from ebbflow.methods.denoise import NetDenoiser
from ebbflow.methods.editing import psnr
from ebbflow.metrics.measure import mean_and_error
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
)
from ebbflow.studies.claims.determinism import DRAW_STEPS, there_and_back
from ebbflow.studies.claims.draw import curves, pictures

NUM_TIMED = 5
TRAIN_BATCH = 64
MOST_STEPS = 50  # in the race to equal quality
INVERTED_STEPS = 50
MARGIN = 1.2  # equal quality: within this factor of the worse model's best Frechet distance


def measure_table(trial: Trial) -> Work[Finding]:
    """Every line of the table: training, sampling, invertibility, diversity, speed."""
    training, costs = training_seconds(trial), costs_of(trial)
    yield Stage("training steps", 1, 1)
    made: dict[tuple[str, str, int], Made] = {}
    for side in trial.sides:
        for sampler in (side.ode, side.sde):
            for num_steps in costs:
                made[side.name, sampler, num_steps] = yield from trial.samples(
                    side, Recipe(sampler=sampler, num_steps=num_steps)
                )
    seconds = evaluation_seconds(trial)
    yield Stage("evaluations", 1, 1)
    race, level = to_quality(trial, made, costs)
    inverted = {}
    x0 = trial.x0[: trial.few]
    for side in trial.sides:
        inverted[side.name] = mean_and_error(psnr(there_and_back(trial, side, x0, INVERTED_STEPS, side.ode), x0))
        yield Stage("invertibility", len(inverted), 2)
    rows = [_row(trial, side, race, training, seconds, inverted, made) for side in trial.sides]
    verdict, because = table_verdict(rows, level)
    curve = {
        f"{side.name}, {sampler}": (costs, [trial.frechet(made[side.name, sampler, n]) for n in costs])
        for side in trial.sides
        for sampler in (side.ode, side.sde)
    }
    chart = curves(
        curve, xlabel="network evaluations", ylabel="Frechet distance", dashed={"real data": trial.floor}, log="xy"
    )
    return Finding(
        verdict=verdict,
        because=because,
        tables=(Table(title="The notes' table, measured", rows=transposed(rows)),),
        pictures=pictures(flow_or_diffusion=chart),
    )


def costs_of(trial: Trial) -> list[int]:
    """The numbers of steps that race to equal quality."""
    return sorted({DRAW_STEPS, *(num for num in trial.steps if num <= MOST_STEPS)})


def _row(
    trial: Trial,
    side: Side,
    race: dict[tuple[str, str], int | None],
    training: dict[str, Gap],
    seconds: dict[str, Gap],
    inverted: dict[str, Gap],
    made: dict[tuple[str, str, int], Made],
) -> dict[str, Any]:
    """What the table says of one model."""
    ode, sde = race[side.name, side.ode], race[side.name, side.sde]
    value, error = seconds[side.name]
    return {
        "model": side.name,
        "training step, ms": tuple(1000 * number for number in training[side.name]),
        "steps to equal quality, ODE": ode or f"over {MOST_STEPS}",
        "steps to equal quality, SDE": sde or f"over {MOST_STEPS}",
        "seconds for 100 samples, ODE": "-" if ode is None else (100 * ode * value, 100 * ode * error),
        "seconds for 100 samples, SDE": "-" if sde is None else (100 * sde * value, 100 * sde * error),
        f"inversion, {INVERTED_STEPS} steps, dB": inverted[side.name],
        f"recall, ODE, {DRAW_STEPS} steps": trial.recall(made[side.name, side.ode, DRAW_STEPS]),
        f"recall, SDE, {DRAW_STEPS} steps": trial.recall(made[side.name, side.sde, DRAW_STEPS]),
    }


def transposed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a quantity, a column a model."""
    names = [name for name in rows[0] if name != "model"]
    return [{"quantity": name} | {row["model"]: row[name] for row in rows} for name in names]


def training_seconds(trial: Trial) -> dict[str, Gap]:
    """Seconds of loss and gradient of one batch, float32, both models in turn, and standard errors."""
    taken: dict[str, list[float]] = {side.name: [] for side in trial.sides}
    rows = torch.arange(TRAIN_BATCH) % len(trial.x0)
    for turn in range(NUM_TIMED + 1):
        for side in trial.sides:
            taken[side.name].append(_step_seconds(trial, side, rows, turn))
    return {name: timing(values[1:]) for name, values in taken.items()}


def _step_seconds(trial: Trial, side: Side, rows: torch.Tensor, turn: int) -> float:
    if not isinstance(side.denoiser, NetDenoiser) or not isinstance(side.denoiser.net, torch.nn.Module):
        return 0.0
    x0, net = trial.x0[rows], side.denoiser.net
    cond = None if trial.labels is None else side.read(trial.labels[rows].tolist())
    eps = Noise(range(len(rows))).like(x0)
    t = side.objective.draw_times(len(rows), generator_for(trial.seed, "timing", turn))
    net.requires_grad_(True)
    try:
        began = time.perf_counter()
        side.objective.losses(side.denoiser, x0, cond, eps, t).mean().backward()
        return time.perf_counter() - began
    finally:
        net.zero_grad(set_to_none=True)
        net.requires_grad_(False)


def evaluation_seconds(trial: Trial) -> dict[str, Gap]:
    """Seconds of one network evaluation a sample, in the precision that samples are made in, both in turn."""
    taken: dict[str, list[float]] = {side.name: [] for side in trial.sides}
    labels = trial.asked(trial.batch_size)
    x = Noise(range(trial.batch_size)).draw(trial.dims).to(trial.device)
    bound = {side.name: side.given(labels, side.quick) for side in trial.sides}
    with torch.no_grad():
        for _ in range(NUM_TIMED + 1):
            for side in trial.sides:
                began = time.perf_counter()
                bound[side.name](x, 0.5)
                taken[side.name].append((time.perf_counter() - began) / trial.batch_size)
    return {name: timing(values[1:]) for name, values in taken.items()}


def timing(values: list[float]) -> Gap:
    """The median of some timings, and a standard error from their spread."""
    return statistics.median(values), statistics.stdev(values) / len(values) ** 0.5


def to_quality(
    trial: Trial, made: dict[tuple[str, str, int], Made], costs: list[int]
) -> tuple[dict[tuple[str, str], int | None], float]:
    """The fewest steps at which each model and sampler is as good as the worse model at its best, None where none is,
    and that Frechet distance."""
    frechet = {key: trial.frechet(one)[0] for key, one in made.items()}
    best = {side.name: min(v for (name, _, _), v in frechet.items() if name == side.name) for side in trial.sides}
    level = MARGIN * max(best.values())
    pairs = {(name, sampler) for name, sampler, _ in made}
    return {
        (name, sampler): next((n for n in costs if frechet[name, sampler, n] <= level), None) for name, sampler in pairs
    }, level


def table_verdict(rows: list[dict[str, Any]], level: float) -> tuple[Verdict, tuple[str, ...]]:
    """Whether flow and diffusion differ as the table says, or ODE and SDE do."""
    diffusion, flow = rows
    inversion = next(name for name in flow if name.startswith("inversion"))
    ode, sde = (next(name for name in flow if name.startswith(f"recall, {kind}")) for kind in ("ODE", "SDE"))
    both_invert = all(row[inversion][0] > 25 for row in rows)
    gap = apart(flow[ode], diffusion[sde])
    word = {1: "clearly more diverse than", -1: "clearly less diverse than", 0: "not clearly different from"}
    counts = {row["model"]: [v for k, v in row.items() if k.startswith("steps to")] for row in rows}
    because = (
        "Both models are sampled with and without randomness, so 'deterministic' and 'random' are properties of the "
        "sampler, not of the model.",
        f"A training step of the flow takes {flow['training step, ms'][0]:.0f} ms, of the diffusion "
        f"{diffusion['training step, ms'][0]:.0f} ms: both losses cost one "
        "evaluation of the net and its gradient, and timings beside other work differ by more than that by chance.",
        f"To a Frechet distance of {level:.3g} the flow needs {counts['flow'][0]} steps of its ODE and "
        f"{counts['flow'][1]} of its SDE, the diffusion {counts['diffusion'][0]} and {counts['diffusion'][1]}.",
        f"Inverted with {INVERTED_STEPS} steps the flow reaches {flow[inversion][0]:.1f} dB and the diffusion "
        f"{diffusion[inversion][0]:.1f} dB: {'both go back' if both_invert else 'not both go back well'}.",
        f"The flow's ODE is {word[clearly(gap)]} the diffusion's SDE by recall "
        f"({flow[ode][0]:.2f}, {diffusion[sde][0]:.2f}).",
    )
    as_said = clearly(gap) < 0 and not both_invert
    return ("supported" if as_said else "depends"), because


FLOW_OR_DIFFUSION = Claim(
    statement="Flow matching is deterministic, invertible, less diverse and fast; diffusion is random, not invertible, "
    "more diverse and slow.",
    place="S4, section 7, the table",
    asked="Each line of the table on both models, each with an ODE and an SDE sampler.",
    measure=measure_table,
)
