"""Claims about formulas: that flow is simpler but equivalent, and that noising in one go is noising step by step."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor

from ebbflow.core.kernels import forward_chain
from ebbflow.core.noise import Noise, derive_seed
from ebbflow.core.paths import Path
from ebbflow.core.predictions import PREDICTIONS
from ebbflow.core.times import num_table_steps
from ebbflow.core.weights import effective_weight
from ebbflow.methods.denoise import Denoiser
from ebbflow.methods.objective import Objective
from ebbflow.metrics.denoising import denoising_errors
from ebbflow.progress import Stage, Work
from ebbflow.studies.claims.base import Claim, Finding, Side, Table, Trial, Verdict, squares
from ebbflow.studies.claims.draw import curves, pictures

LOG_SNRS = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0)  # log-SNR
SAME = 1e-3  # relative difference up to which two losses are the same in float32
TIMES_SIMPLER = 100
NUM_DENOISED = 128
CHAIN_END = 0.5
NUM_CHAINS = 128
CODE_LINES = {"euler": 5, "ddim": 16, "ddpm": 12}  # of a sampler, as a test counts them


# -- simpler but equivalent --------------------------------------------------------------------------------------------


def measure_simpler(trial: Trial) -> Work[Finding]:
    """The losses' ratio on both nets, the weights of both objectives, and the lines of code of the samplers."""
    rows: list[dict[str, Any]] = []
    errors: dict[str, list[dict[str, Any]]] = {}
    x0 = trial.x0[:NUM_DENOISED]
    labels = None if trial.labels is None else trial.labels[:NUM_DENOISED]
    for side in trial.sides:
        cond = None if labels is None else side.read(labels.tolist())
        errors[side.name] = yield from denoising_errors(side.denoiser, x0, cond, log_snrs=LOG_SNRS, device=trial.device)
        bound = side.given(labels)
        for level in LOG_SNRS:
            rows.append({"net": side.name, "log-SNR": level} | ratios(bound, x0, level, trial.seed))
    weights = {side.name: eps_weight(side.objective, LOG_SNRS) for side in trial.sides}
    verdict, because = simpler_verdict(rows, CODE_LINES)
    chart = curves(
        {name: (LOG_SNRS, [(value, 0.0) for value in values]) for name, values in weights.items()},
        xlabel="log-SNR",
        ylabel="weight of the eps loss, 1 at log-SNR 0",
        log="y",
    )
    return Finding(
        verdict=verdict,
        because=because,
        tables=(
            Table(title="Largest relative difference to the velocity loss, by way of eps and of x0", rows=rows),
            Table(title="The same x0 error asked of both nets: E||x0 - x0^||^2 per element", rows=_errors(errors)),
            Table(title="Weight of the eps loss by log-SNR, 1 at log-SNR 0", rows=_weights(weights)),
            Table(title="Lines of code of a sampler", rows=[{"sampler": n, "lines": k} for n, k in CODE_LINES.items()]),
        ),
        pictures=pictures(simpler=chart),
    )


@torch.no_grad()
def ratios(denoiser: Denoiser, x0: Tensor, level: float, seed: int = 0) -> dict[str, float]:
    """How far ||v - v^||^2 lies from (D/alpha)^2 ||eps - eps^||^2 and from (D/sigma)^2 ||x0 - x0^||^2 at a log-SNR:
    the largest relative difference over the samples."""
    t = denoiser.path.time_of(level)
    eps = Noise([derive_seed(seed, "ratios", i) for i in range(len(x0))]).like(x0)
    c, estimate = denoiser.path.at(t), denoiser(denoiser.path.mix(x0, eps, t), t)
    a, b = PREDICTIONS["velocity"](c)

    velocity = squares(a * (x0 - estimate.x0).cpu().double() + b * (eps - estimate.eps).cpu().double())
    by_eps = (c.determinant / c.alpha) ** 2 * squares(eps - estimate.eps)
    by_x0 = (c.determinant / c.sigma) ** 2 * squares(x0 - estimate.x0)
    return {
        "by eps": float((by_eps / velocity - 1).abs().max()),
        "by x0": float((by_x0 / velocity - 1).abs().max()),
    }


def eps_weight(objective: Objective, log_snrs: tuple[float, ...]) -> list[float]:
    """w(L) of an objective written as 1/2 int w ||eps - eps^||^2 dL, divided by w(0); see `effective_weight`."""
    ending_at_0 = torch.tensor([*log_snrs, 0.0], dtype=torch.float64)
    weight = effective_weight(objective.path, objective.prediction, objective.times, objective.weight, ending_at_0)
    return (weight[:-1] / weight[-1]).tolist()


def _errors(errors: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    by_level = {name: {row["log_snr"]: row["x0_mse"] for row in rows} for name, rows in errors.items()}
    return [{"log-SNR": level} | {name: rows.get(level, "-") for name, rows in by_level.items()} for level in LOG_SNRS]


def _weights(weights: dict[str, list[float]]) -> list[dict[str, Any]]:
    return [{"log-SNR": lv} | {name: w[i] for name, w in weights.items()} for i, lv in enumerate(LOG_SNRS)]


def simpler_verdict(rows: list[dict[str, Any]], lines: dict[str, int]) -> tuple[Verdict, tuple[str, ...]]:
    """Equivalence from the losses, simplicity from the lines of code."""
    worst = max(max(row["by eps"], row["by x0"]) for row in rows)
    equivalent, ratio = worst < SAME, lines["ddpm"] / lines["euler"]
    because = (
        f"On both trained nets ||v - v^||^2, (D/alpha)^2 ||eps - eps^||^2 and (D/sigma)^2 ||x0 - x0^||^2 agree "
        f"sample by sample to {worst:.1e}: the losses are the same up to a weight, which depends on t and is no "
        "constant.",
        f"In code the difference is that of {lines['euler']} lines (Euler), {lines['ddim']} (DDIM) and {lines['ddpm']} "
        f"(DDPM): a factor of {ratio:.1f}, not {TIMES_SIMPLER}. 'Simpler' is also a matter "
        "of the derivation, which lines of code do not measure.",
    )
    if not equivalent:
        return "refuted", because
    return ("supported" if ratio >= TIMES_SIMPLER else "depends"), because


SIMPLER = Claim(
    statement="Flow matching is 100 times simpler than DDPM, and its loss equals the noise loss up to a constant.",
    place="S2, flow matching notes; S4, section 4.3",
    asked="The losses against each other on both trained nets, the weights of both objectives, lines of code.",
    measure=measure_simpler,
)


# -- step by step or in one go -----------------------------------------------------------------------------------------


def measure_one_go(trial: Trial) -> Work[Finding]:
    """500 small steps of the forward chain against the closed form, on real data."""
    side: Side = trial.diffusion
    path, x0 = side.denoiser.path, trial.x0[:NUM_CHAINS].cpu()
    num_steps = round(num_table_steps(path) * CHAIN_END)
    rows, chain, once = compare(path, x0, num_steps, trial.seed)
    yield Stage("one go", 1, 1)
    worst = max(max(abs(row["mean z"]), abs(row["variance z"])) for row in rows)
    distance, p = kolmogorov(chain, once)
    same = worst < 4 and p > 1e-3
    rows.append(
        {"way": "two-sample test", "mean z": "-", "variance z": "-", "seconds": "-", "distance": distance, "p": p}
    )
    return Finding(
        verdict="supported" if same else "refuted",
        because=(
            f"After {num_steps} steps to t = {CHAIN_END:g}, (x_t - alpha x0) / sigma should be standard normal: its "
            f"mean and variance are within {worst:.1f} standard errors of 0 and 1, for both ways.",
            f"A two-sample Kolmogorov-Smirnov test on {len(chain):,} numbers each finds a distance of "
            f"{distance:.1e}, p = {p:.2f}: {'no difference' if p > 1e-3 else 'a difference'}.",
            "Equal in law, that is; the numbers themselves differ, since the noise does.",
        ),
        tables=(Table(title=f"{len(x0)} held-out entries noised to t = {CHAIN_END:g}", rows=rows),),
    )


def compare(path: Path, x0: Tensor, num_steps: int, seed: int = 0) -> tuple[list[dict[str, Any]], Tensor, Tensor]:
    """The standardised noise of both ways at t = `CHAIN_END`, flattened, and a row on each."""
    times = torch.linspace(0, CHAIN_END, num_steps + 1, dtype=torch.float64)
    c = path.at(times[-1])
    seeds = [[derive_seed(seed, way, i) for i in range(len(x0))] for way in ("chain", "once")]
    began = time.perf_counter()
    *_, chain = forward_chain(path, x0.double(), times, Noise(seeds[0]))
    between = time.perf_counter()
    once = path.mix(x0.double(), Noise(seeds[1]).like(x0).double(), times[-1])
    seconds = (between - began, time.perf_counter() - between)
    noises = [((x - c.alpha * x0.double()) / c.sigma).flatten() for x in (chain, once)]
    names = (f"{num_steps} steps", "one go")
    rows = [
        {"way": name, **scores(noise), "seconds": took, "distance": "-", "p": "-"}
        for name, noise, took in zip(names, noises, seconds, strict=True)
    ]
    return rows, noises[0], noises[1]


def scores(noise: Tensor) -> dict[str, float]:
    """How many standard errors mean and variance of supposed standard normal numbers (N,) lie from 0 and 1."""
    n = noise.numel()
    return {
        "mean z": float(noise.mean()) * math.sqrt(n),
        "variance z": (float(noise.square().mean()) - 1) * math.sqrt(n / 2),
    }


def kolmogorov(x: Tensor, y: Tensor) -> tuple[float, float]:
    """The two-sample Kolmogorov-Smirnov distance of numbers (N,) and (M,), and its asymptotic p-value (Smirnov,
    1948)."""
    both, n, m = torch.cat([x, y]).sort().values, x.numel(), y.numel()
    below = [torch.searchsorted(z.sort().values, both, right=True).double() / z.numel() for z in (x, y)]
    distance = float((below[0] - below[1]).abs().max())
    root = distance * math.sqrt(n * m / (n + m))
    if root < 0.2:
        return distance, 1.0
    tail = 2 * sum((-1) ** (k - 1) * math.exp(-2 * (k * root) ** 2) for k in range(1, 101))
    return distance, min(max(tail, 0.0), 1.0)


ONE_GO = Claim(
    statement="x_t after t steps of noising is x_t noised in one go.",
    place="S3, sections 2.2 and 5",
    asked="Moments and a two-sample test of the forward chain against the closed form.",
    measure=measure_one_go,
)
