"""Claims about randomness: what the same noise gives, how diverse the random samplers are, and the way back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ebbflow.core.noise import Noise
from ebbflow.methods.denoise import Denoiser
from ebbflow.methods.editing import invert, last, psnr
from ebbflow.methods.sampling import grid_times, walk_from
from ebbflow.metrics.measure import mean_and_error
from ebbflow.progress import Stage, Work
from ebbflow.runs.sample import in_net_precision
from ebbflow.studies.claims.base import (
    CONFIDENT,
    Claim,
    Finding,
    Recipe,
    Side,
    Table,
    Trial,
    Verdict,
    apart,
    clearly,
    repeats,
)
from ebbflow.studies.claims.draw import curves, pictures, rows_of

DRAW_STEPS = 20  # of both models where randomness is looked at
NUM_REPEATS = 6
OTHER_BATCH = 5
INVERSION_STEPS = (5, 10, 20, 50, 100)
NEARLY = 40.0  # decibels: an error of 2.6 of 256 grey levels
POOR = 30.0


# -- the same noise, the same result -----------------------------------------------------------------------------------


def measure_deterministic(trial: Trial) -> Work[Finding]:
    """How far two samplings from the same noise lie apart when one thing is changed."""
    rows = []
    for side in trial.sides:
        for what, (largest, rms) in differences(trial, side).items():
            rows.append({"model": side.name, "changed": what, "largest difference": largest, "rms": rms})
            yield Stage("same noise", len(rows), 10)
    verdict, because = same_verdict(rows)
    return Finding(
        verdict=verdict,
        because=because,
        tables=(Table(title="Pixels in [-1, 1] of deterministic samples from the same start noise", rows=rows),),
    )


def differences(trial: Trial, side: Side) -> dict[str, tuple[float, float]]:
    """The largest and the root mean square difference of samples from the same noise, by what was changed."""
    labels = trial.asked(trial.few)
    bound = side.given(labels)
    x, times = trial.start(side, trial.few, DRAW_STEPS)
    base = ended(bound, x, times, side.ode)
    parts = [
        ended(side.given(None if labels is None else labels[rows]), x[rows], times, side.ode)
        for rows in torch.arange(trial.few).split(OTHER_BATCH)
    ]
    finer = grid_times(bound, side.grid, 2 * DRAW_STEPS)
    changed = {
        "nothing": ended(bound, x, times, side.ode),
        f"batches of {OTHER_BATCH}": torch.cat(parts),
        "bf16 net": ended(side.given(labels, in_net_precision(side.denoiser, torch.bfloat16)), x, times, side.ode),
        "solver dpmpp_2m": ended(bound, x, times, "dpmpp_2m"),
        "twice the steps": ended(bound, x, finer, side.ode),
    }
    return {what: distances(base, other) for what, other in changed.items()}


def ended(denoiser: Denoiser, x: Tensor, times: Tensor, sampler: str) -> Tensor:
    """The result of a sampler from `x`; one that draws takes its noise from the rows' numbers."""
    return last(walk_from(denoiser, x, times, Noise(range(len(x))), sampler=sampler))


def distances(one: Tensor, other: Tensor) -> tuple[float, float]:
    """The largest difference, and the root mean square of all."""
    gap = (one - other).cpu().double()
    return float(gap.abs().max()), float(gap.square().mean().sqrt())


def same_verdict(rows: list[dict[str, Any]]) -> tuple[Verdict, tuple[str, ...]]:
    """Whether the same noise gives the same result when nothing, and when anything, is changed."""
    same = [row for row in rows if row["changed"] == "nothing"]
    others = {row["changed"] for row in rows if row["largest difference"] > 1 / 255}
    if any(row["largest difference"] > 0 for row in same):
        return "refuted", ("Two runs of the very same sampling differ.",)
    because = (
        "The very same sampling twice is equal in every bit, for both models: nothing random is left.",
        "Other batch sizes change the order of floating-point sums and so only the last digits, "
        f"at most {max(r['largest difference'] for r in rows if r['changed'].startswith('batches')):.1e}.",
        f"More than a grey level is changed by: {', '.join(sorted(others)) or 'nothing'}.",
    )
    return ("depends" if others else "supported"), because


DETERMINISTIC = Claim(
    statement="With an ODE the same start noise always gives the same result.",
    place="S2, fun facts; S4, section 7",
    asked="Deterministic samples from the same noise, with one thing changed at a time.",
    measure=measure_deterministic,
)


# -- diversity from one noise ------------------------------------------------------------------------------------------


def measure_diversity(trial: Trial) -> Work[Finding]:
    """How far repeats from one start noise lie apart, and what that does to recall."""
    rows: list[dict[str, Any]] = []
    first: dict[str, Tensor] = {}
    for side in trial.sides:
        for sampler in (side.ode, side.sde):
            x, times = trial.start(side, trial.few, DRAW_STEPS)
            bound = side.given(trial.asked(trial.few), side.quick)
            found = repeats(bound, x, times, sampler=sampler, num=NUM_REPEATS, seed=trial.seed, options={})
            yield Stage(f"{side.name} repeats", len(rows) + 1, 4)
            made = yield from trial.samples(side, Recipe(sampler=sampler, num_steps=DRAW_STEPS))
            key = f"{side.name}, {sampler}"

            rows.append(
                {
                    "sampler": key,
                    "pixels": relative_spread(found),
                    "features": relative_spread(seen_repeats(trial, found)),
                    "recall": trial.recall(made),
                    "Frechet": trial.frechet(made),
                }
            )
            first |= {f"{key} #{k + 1}": found[k, :10] for k in range(3 if sampler == side.sde else 2)}
    verdict, because = diversity_verdict(rows)
    return Finding(
        verdict=verdict,
        because=because,
        tables=(
            Table(
                title=f"Distance of {NUM_REPEATS} repeats from one noise over that of different noises, "
                f"{DRAW_STEPS} steps; recall and Frechet distance of all samples",
                rows=rows,
            ),
        ),
        pictures=pictures(diversity=rows_of(first)),
    )


def seen_repeats(trial: Trial, found: Tensor) -> Tensor:
    """Repeats (K, B, *dims) as features (K, B, D)."""
    return torch.stack([trial.features_of(trial.shown(one))["features"] for one in found])


def relative_spread(found: Tensor) -> tuple[float, float]:
    """The mean squared distance of repeats of one noise over that of different noises, and its standard error over
    the noises; exactly 0 where all repeats are equal.

    Args:
        found: shape (K, B, ...), K at least 2 repeats of B at least 2 noises.
    """
    rows = found.cpu().double().flatten(2)
    centred = rows - rows[:1]  # exact zeros where repeats are equal
    within = 2 * centred.var(0).sum(1)
    between = 2 * rows.mean(0).var(0).sum() if float(within.sum()) == 0 else 2 * rows.flatten(0, 1).var(0).sum()
    value, error = mean_and_error(within)
    return value / float(between), error / float(between)


def diversity_verdict(rows: list[dict[str, Any]]) -> tuple[Verdict, tuple[str, ...]]:
    """Whether ODE repeats are equal and SDE repeats apart, and whether the ODE's samples as a whole are less
    diverse."""
    fixed, drawn = rows[::2], rows[1::2]
    equal = all(row["pixels"][0] == 0 for row in fixed)
    spread = all(row["pixels"][0] > CONFIDENT * row["pixels"][1] for row in drawn)
    because = [
        "Repeats of the ODE from one noise are "
        + ("equal in every bit" if equal else "not equal")
        + "; those of the SDE reach "
        + " and ".join(f"{row['pixels'][0]:.0%} ({row['sampler']})" for row in drawn)
        + " of the squared distance between different noises, in pixels."
    ]
    for ode, sde in zip(fixed, drawn, strict=True):
        a, b = ode["recall"], sde["recall"]
        word = {1: "clearly more than", -1: "clearly less than", 0: "not clearly different from"}[clearly(apart(a, b))]
        because.append(
            f"Over many noises, {ode['sampler']} has recall {a[0]:.2f}, {word} {sde['sampler']}'s {b[0]:.2f}."
        )
    return ("supported" if equal and spread else "refuted"), tuple(because)


DIVERSITY = Claim(
    statement="From one noise image an ODE always makes the same picture, an SDE makes diverse ones.",
    place="S2, fun facts",
    asked="Squared distances between repeats from one start noise, and recall over many noises.",
    measure=measure_diversity,
)


# -- reconstruction ----------------------------------------------------------------------------------------------------


def measure_reconstruction(trial: Trial) -> Work[Finding]:
    """PSNR of the way there and back, by steps, for both models, and of DDPM from the same noise."""
    rows: list[dict[str, Any]] = []
    found: dict[str, list[tuple[float, float]]] = {"diffusion": [], "flow": [], "DDPM": []}
    x0 = trial.x0[: trial.few]
    shown: dict[str, Tensor] = {"image": x0[:10]}
    for num_steps in INVERSION_STEPS:
        for side in trial.sides:
            back = there_and_back(trial, side, x0, num_steps, side.ode)
            found[side.name].append(mean_and_error(psnr(back, x0)))
            if num_steps in (INVERSION_STEPS[1], INVERSION_STEPS[-1]):
                shown[f"{side.name} {num_steps}"] = back[:10]
        back = there_and_back(trial, trial.diffusion, x0, num_steps, "ddpm")
        found["DDPM"].append(mean_and_error(psnr(back, x0)))
        rows.append({"steps": num_steps} | {name: values[-1] for name, values in found.items()})
        yield Stage("reconstruction", len(rows), len(INVERSION_STEPS))
    shown[f"DDPM {INVERSION_STEPS[-1]}"] = back[:10]
    by_steps = dict(zip(INVERSION_STEPS, found["diffusion"], strict=True))
    verdict, because = reconstruction_verdict(by_steps, found["DDPM"])
    lines = {name: (INVERSION_STEPS, values) for name, values in found.items()}
    chart = curves(lines, xlabel="steps", ylabel="PSNR (dB)", dashed={"nearly perfect": NEARLY}, log="x")
    return Finding(
        verdict=verdict,
        because=because,
        tables=(Table(title=f"PSNR in dB of {trial.few} held-out entries, higher is better", rows=rows),),
        pictures=pictures(reconstruction=chart, reconstruction_samples=rows_of(shown)),
    )


def there_and_back(trial: Trial, side: Side, x0: Tensor, num_steps: int, sampler: str) -> Tensor:
    """Images inverted with the side's deterministic sampler, then sampled with `sampler` on the same grid."""
    bound = side.given(None if trial.labels is None else trial.labels[: len(x0)])
    times = grid_times(bound, side.grid, num_steps)
    noise = last(invert(bound, x0, times, sampler=side.ode))
    return ended(bound, noise, times, sampler)


def reconstruction_verdict(
    by_steps: Mapping[int, tuple[float, float]], random: list[tuple[float, float]]
) -> tuple[Verdict, tuple[str, ...]]:
    """Whether the deterministic way there and back is nearly perfect, and at how many steps."""
    enough = [num for num, (value, error) in by_steps.items() if value - CONFIDENT * error >= NEARLY]
    few, many = min(by_steps), max(by_steps)
    because = (
        f"DDIM there and back reaches {by_steps[few][0]:.1f} dB with {few} steps and {by_steps[many][0]:.1f} dB with "
        f"{many}; DDPM from the same noise {random[-1][0]:.1f} dB.",
        f"We call {NEARLY:g} dB nearly perfect, an error of 2.6 of 256 grey levels: reached from "
        f"{min(enough)} steps on."
        if enough
        else f"We call {NEARLY:g} dB nearly perfect: not reached.",
    )
    if few in enough:
        return "supported", because
    return ("depends" if enough or by_steps[many][0] >= POOR else "refuted"), because


RECONSTRUCTION = Claim(
    statement="DDIM goes forward and back deterministically and reconstructs an image nearly perfectly; DDPM cannot.",
    place="S3, section 6",
    asked="PSNR of held-out images after inversion and sampling, by the number of steps.",
    measure=measure_reconstruction,
)
