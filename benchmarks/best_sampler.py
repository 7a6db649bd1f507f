"""Which sampler on which grid gives the best samples for a number of network evaluations, on trained runs.

    python benchmarks/best_sampler.py RUN... [--data-dir DIR] [--num 1000] [--finalists 6]

Every pair of sampler and grid is walked for a few seeds; the finalists are those that end nearest to where a fine grid
ends, and the samplers that draw noise, which end nowhere in particular, on the grid of the first of them. Of finalists
the Frechet distance is measured, all on the same seeds. What is done is kept in best_sampler.jsonl beside this file
and not done again; the choice is printed as `ebbflow.methods.samplers.best` has it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebbflow.core.device import keep_large_blocks
from ebbflow.core.predictions import path_name
from ebbflow.methods.samplers import SAMPLERS
from ebbflow.methods.samplers.best import most_steps
from ebbflow.metrics.measure import jackknife, left_out
from ebbflow.metrics.scores import frechet_of, moments
from ebbflow.metrics.yardstick import Made, Yardstick, yardstick_of
from ebbflow.progress import finish
from ebbflow.requests.studies import EvaluateRequest
from ebbflow.runs.opened import Opened
from ebbflow.runs.plan import Plan
from ebbflow.runs.sample import generate, in_net_precision
from ebbflow.studies.evaluate import features_for, plan_for, sides_of, splits_of
from ebbflow.training.engine import pick_precision

STORE = Path(__file__).with_suffix(".jsonl")
BUDGETS = (5, 10, 20)
SIMPLER = (
    "ddim",
    "euler",
    "ab2",
    "dpmpp_2m",
    "heun",
    "midpoint",
    "rk4",
    "unipc",
    "ddpm",
    "sde",
    "dpmpp_2m_sde",
    "edm",
    "pc",
)
GRIDS = ("uniform", "cosine", "shifted", "quadratic", "log_snr", "karras", "trailing")
ALIKE = (("ddim", "dpmpp_2m", "unipc"), ("cosine", "log_snr", "karras"))  # pairs that step alike on every path
TEACHER = {"sampler": "heun", "grid": "cosine", "num_steps": 48}
FEW = 24  # seeds of the first round
Row = dict[str, Any]


def candidates(path: str, evaluations: int) -> Iterator[Row]:
    """Every pair that so many evaluations allow: of samplers that are one on this path, the first."""
    for sampler in SIMPLER:
        num_steps = most_steps(SAMPLERS[sampler], evaluations)
        if num_steps < 2 or (path == "flow" and sampler == "euler"):
            continue
        for grid in GRIDS:
            if not (path == "flow" and grid == "trailing"):
                yield {
                    "path": path,
                    "evaluations": evaluations,
                    "sampler": sampler,
                    "grid": grid,
                    "num_steps": num_steps,
                }


def ends(model: Opened, plan: Plan) -> Tensor:
    """The samples of a plan."""
    return torch.cat([one.x for one in generate(model, plan) if one.done])


def of(plan: Plan, row: Mapping[str, Any]) -> Plan:
    """The plan with the sampler, grid and number of steps of a row."""
    return replace(plan, **{key: row[key] for key in ("sampler", "grid", "num_steps")}, options={})


def drift(model: Opened, plan: Plan, row: Row, wanted: Tensor) -> float:
    """Root mean square distance of a row's samples from the teacher's."""
    return round(float((ends(model, of(plan, row)) - wanted).square().mean().sqrt()), 5)


def finalists(rows: Sequence[Row], num: int) -> list[Row]:
    """The `num` rows of least drift and the first of those that step alike everywhere; the samplers that draw noise on
    the grid of the first of all."""
    walked = sorted((row for row in rows if not SAMPLERS[row["sampler"]].stochastic), key=lambda row: row["drift"])
    drawn = [row for row in rows if SAMPLERS[row["sampler"]].stochastic and row["grid"] == walked[0]["grid"]]
    alike = [row for row in walked[num:] if is_alike(row)][: max(1, num // 2)]
    return walked[:num] + alike + drawn


def is_alike(row: Mapping[str, Any]) -> bool:
    """Whether a pair takes the same steps on every path."""
    return row["sampler"] in ALIKE[0] and row["grid"] in ALIKE[1]


def scored(model: Opened, plan: Plan, yardstick: Yardstick) -> Row:
    """Frechet distance, its value without each tenth of the samples, and label accuracy."""
    seen = [yardstick.features.of(one.for_features) for one in generate(model, plan) if one.done]
    c = yardstick.comparison(Made.of(seen, torch.zeros(0)), plan.labels)
    rests = [frechet_of(c.real_moments, moments(rest)) for rest in left_out(c.generated)]
    right = None if c.classes is None or c.labels is None else float((c.classes == c.labels).double().mean())
    return {
        "frechet": round(frechet_of(c.real_moments, moments(c.generated)), 4),
        "without": [round(value, 4) for value in rests],
        "error": round(jackknife(rests), 4),
        "label_accuracy": right,
        "num": len(c.generated),
    }


def chosen(rows: Sequence[Row]) -> Row:
    """The least distance; of those that cannot be told from it (the jackknife of the difference, on the same seeds,
    within one standard error), the simplest sampler on the simplest grid."""
    best = min(rows, key=lambda row: row["frechet"])

    def is_tied(row: Row) -> bool:
        apart = jackknife([a - b for a, b in zip(row["without"], best["without"], strict=True)])
        return bool(row["frechet"] - best["frechet"] <= apart)

    return min(filter(is_tied, rows), key=lambda row: (SIMPLER.index(row["sampler"]), GRIDS.index(row["grid"])))


def table(rows: Sequence[Row]) -> dict[str, dict[int, Row]]:
    """The choice for each path and number of evaluations among the rows that were scored, the last of each pair."""
    scores = [row for row in {key_of(row): row for row in rows}.values() if "frechet" in row]
    found: dict[str, dict[int, Row]] = {}
    for path, evaluations in dict.fromkeys((row["path"], row["evaluations"]) for row in scores):
        fitting = [row for row in scores if (row["path"], row["evaluations"]) == (path, evaluations)]
        found.setdefault(path, {})[evaluations] = chosen(fitting)
    return found


def choices(rows: Sequence[Row]) -> dict[str, Any]:
    """What `ebbflow.methods.samplers.best` holds, by these rows."""
    alike = [row for row in rows if is_alike(row) and row["path"] == "flow"]

    def named(found: Mapping[int, Row]) -> dict[int, tuple[str, str]]:
        return {evaluations: (row["sampler"], row["grid"]) for evaluations, row in found.items()}

    return {
        "MEASURED": {path: named(found) for path, found in table(rows).items()},
        "ON_EVERY_PATH": named(table(alike).get("flow", {})),
    }


def kept(store: Path) -> list[Row]:
    """What is in the store."""
    return [json.loads(line) for line in store.read_text().splitlines()] if store.is_file() else []


def keep(store: Path, row: Row) -> None:
    """Add a row to the store and print it."""
    with store.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(*(f"{row[key]}" for key in ("path", "evaluations", "sampler", "grid", "num_steps", "drift")), end="  ")
    print(row.get("frechet", ""), row.get("error", ""), row.get("label_accuracy", ""), flush=True)


def key_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a row is of."""
    return tuple(row[key] for key in ("path", "evaluations", "sampler", "grid"))


def measure(model: Opened, request: EvaluateRequest, num_finalists: int, store: Path) -> None:
    """Both rounds of a run."""
    splits = splits_of(model, request)
    reference, other = sides_of(splits, request.reference, request.num)
    features = finish(features_for(splits, request.features, request.num, len(reference), model.device))
    yardstick = finish(yardstick_of(features, reference, other, splits.held_out))
    plan = plan_for(model, splits, request)
    model = model.with_denoiser(in_net_precision(model.denoiser, pick_precision(request.precision, model.device)))
    path = path_name(model.denoiser.path)
    for evaluations in BUDGETS:
        rows, known = list(candidates(path, evaluations)), {key_of(row): row for row in kept(store)}
        if missing := [row for row in rows if key_of(row) not in known]:
            few = plan.rows(slice(FEW))
            wanted = ends(model, of(few, TEACHER))
            for row in missing:
                is_drawn = SAMPLERS[row["sampler"]].stochastic
                keep(store, row | {"drift": None if is_drawn else drift(model, few, row, wanted)})
            known = {key_of(row): row for row in kept(store)}
        for row in finalists([known[key_of(row)] for row in rows], num_finalists):
            if "frechet" not in row:
                keep(store, row | scored(model, of(plan, row), yardstick))


def main() -> None:
    """Measure runs and print the choices."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--num", type=int, default=1000)
    parser.add_argument("--finalists", type=int, default=6)
    parser.add_argument("--store", type=Path, default=STORE)
    given = parser.parse_args()
    keep_large_blocks()
    print(f"torch {torch.__version__}, CPU capability {torch.backends.cpu.get_cpu_capability()}")
    for run in given.runs:
        request = EvaluateRequest(
            num=given.num, guidance=1.0, batch_size=100, precision="auto", data_dir=given.data_dir
        )
        measure(Opened.from_run(run), request, given.finalists, given.store)
    for path, found in table(kept(given.store)).items():
        for evaluations, row in found.items():
            print(path, evaluations, row["sampler"], row["grid"], row["num_steps"], row["frechet"], row["error"])
    print(*(f"{name} = {value}" for name, value in choices(kept(given.store)).items()), sep="\n")


if __name__ == "__main__":
    main()
