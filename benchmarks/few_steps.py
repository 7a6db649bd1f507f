"""Maps beside ordinary models: `python benchmarks/few_steps.py` writes the tables of docs/few_steps.md.

First the objectives on points whose exact map is known, then on scikit-learn's digits: every run is trained in
`--dir` (one that is there is not trained again), sampled from the same seeds and measured.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import ebbflow as ef
from ebbflow.cli.app import run_app
from ebbflow.core.noise import generator_for
from ebbflow.files import write_text
from ebbflow.methods.denoise import FlowMap, NetFlowMap
from ebbflow.methods.maps import MAPS, MapKind, MapObjective
from ebbflow.methods.maps.kinds import Consistency, MeanFlow
from ebbflow.methods.objective import Objective
from ebbflow.methods.oracles import MixtureProduct
from ebbflow.nets import NETS
from ebbflow.training.batches import Batch
from ebbflow.training.ema import EMA
from ebbflow.training.loop import fit
from ebbflow.training.optim import LearningRate

JUMPS = (1, 2, 4, 8)
BATCH, NUM_NOISES, GAP = 256, 4000, 16
TOY: dict[str, MapKind | None] = {
    "ordinary, by Euler": None,
    "midpoint": MAPS["midpoint"],
    "lsd": MAPS["lsd"],
    "mean_flow": MAPS["mean_flow"],
    "mean_flow, tangent = model": MeanFlow(tangent="model"),
    "consistency": MAPS["consistency"],
    "consistency, r = 0.1": Consistency(first=0.1, last=0.1),
}
Row = dict[str, Any]
BEGIN, END = "<!-- tables: python benchmarks/few_steps.py -->", "<!-- end of tables -->"


@dataclass(frozen=True, kw_only=True)
class Points:
    """Batches of points whose two coordinates are mixtures of their own."""

    seed: int

    def batch(self, step: int) -> Batch:
        """The points of a step."""
        g = generator_for(self.seed, "points", step)
        signs = torch.randint(2, (BATCH, 2), generator=g) * 2.0 - 1
        return Batch(x0=signs + 0.2 * torch.randn(BATCH, 2, generator=g))


def exact() -> MixtureProduct:
    """The law of `Points` and its map."""
    return MixtureProduct([[-1.0, -1.0], [1.0, 1.0]], [[0.2, 0.2], [0.2, 0.2]], [1.0, 1.0], ef.PATHS["flow"]())


def toy(name: str, kind: MapKind | None, num_steps: int, seed: int, adaptive: float = 0.0) -> Row:
    """Train a small net by one objective; the squared W2 distance a coordinate of k jumps from the exact map's
    points."""
    path = ef.PATHS["flow"]()
    torch.manual_seed(seed)
    net = NETS["mlp"](dim=128, depth=3, gap=True).build((2,), 2, None)
    model = NetFlowMap(net=net, path=path, clock="unit")
    plain = Objective(path)
    objective = plain if kind is None else MapObjective(plain, map=kind, adaptive=adaptive)
    optimiser, ema = torch.optim.Adam(net.parameters(), lr=1.5e-3), EMA(net, 0.998)
    rate = LearningRate(peak=1.5e-3, warmup_steps=20, schedule="cosine", num_steps=num_steps)
    for _ in fit(model, objective, Points(seed=seed), optimiser, num_steps=num_steps, ema=ema, lr=rate, seed=seed):
        pass
    averaged = NetFlowMap(net=ema.module, path=path, clock="unit")
    noises = torch.randn(NUM_NOISES, 2, generator=generator_for(seed, "noises"))
    wanted = exact().jump(noises, 1.0, 0.0).x0
    sampler = "euler" if kind is None else "flow_map"
    found = {str(k): w2(ends(averaged, noises, k, sampler), wanted) for k in JUMPS}
    return {"name": name, "num_steps": num_steps, "seed": seed, "adaptive": adaptive, **found}


def ends(model: FlowMap, x: Tensor, num_steps: int, sampler: str) -> Tensor:
    """Where `num_steps` steps of a sampler end."""
    times = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
    *_, last = ef.SAMPLERS[sampler](model, x, times)
    return last.x


def w2(x: Tensor, y: Tensor) -> float:
    """The mean over coordinates of the squared Wasserstein distance of two samples of one size."""
    return float((x.sort(0).values - y.sort(0).values).square().mean())


def toys(store: Path, num_steps: int, seeds: range) -> list[Row]:
    """The rows of all objectives, those in `store` not made again."""
    rows = [json.loads(line) for line in store.read_text().splitlines()] if store.is_file() else []
    cases = [(name, kind, 0.0) for name, kind in TOY.items()] + [("midpoint, adaptive = 1", MAPS["midpoint"], 1.0)]
    found = []
    for name, kind, adaptive in cases:
        for seed in seeds:
            known = [row for row in rows if (row["name"], row["num_steps"], row["seed"]) == (name, num_steps, seed)]
            if not known:
                known = [toy(name, kind, num_steps, seed, adaptive)]
                with store.open("a") as file:
                    file.write(json.dumps(known[0]) + "\n")
                print(known[0], flush=True)
            found += known
    return found


def said_of_toys(num_steps: int, num_seeds: int) -> list[str]:
    """What the table of points was made with."""
    seeds = "one seed" if num_seeds == 1 else f"{num_seeds} seeds"
    return [
        "Two coordinates, each a mixture of modes at -1 and 1 of deviation 0.2; a residual MLP (width 128, depth 3),",
        f"Adam, {num_steps} steps of {BATCH} rows, half of them ordinary, {seeds}; torch {torch.__version__}, "
        f"{torch.backends.cpu.get_cpu_capability()}.",
        "Numbers are the squared W2 distance a coordinate from the exact map's points, from the same 4,000 noises.",
    ]


def toy_table(rows: list[Row]) -> list[str]:
    """Objectives, and distances by number of jumps."""
    lines = ["| objective | 1 jump | 2 | 4 | 8 |", "|---|---|---|---|---|"]
    for name in dict.fromkeys(row["name"] for row in rows):
        own = [row for row in rows if row["name"] == name]
        cells = (" / ".join(f"{row[str(k)]:.3f}" for row in own) for k in JUMPS)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


# -- digits ------------------------------------------------------------------------------------------------------------


def trained(folder: Path, arguments: list[str]) -> Path:
    """The run in `folder`, trained where it is not."""
    if not (folder / "README.md").is_file() and run_app(["train", *arguments, "--save-dir", str(folder)]):
        raise SystemExit(f"{folder} could not be trained.")
    return folder


def measured(run: Path, sampler: str, steps: int, num: int, repeats: int) -> Row:
    """What `ebbflow evaluate` says of a run at guidance 1."""
    return dict(ef.evaluate(run, sampler=sampler, steps=steps, num=num, repeats=repeats, guidance=1.0))


def run_table(rows: list[tuple[str, str, int, Row]]) -> list[str]:
    """Runs and samplers, with the numbers that are measured and their spread over repeats."""
    lines = [
        "| run | sampler | evaluations | Frechet distance | labels right | from its own ODE |",
        "|---|---|---|---|---|---|",
    ]
    for name, sampler, steps, row in rows:
        evaluations = ef.SAMPLERS[sampler].evaluations(steps)
        own = row.get("rms_from_own_ode")
        shown = "" if own is None else f"{own:.3f}"
        lines.append(
            f"| {name} | {sampler} {steps} | {evaluations} | {_said(row, 'frechet')} | "
            f"{_said(row, 'label_accuracy')} | {shown} |"
        )
    return lines


def _said(row: Row, key: str) -> str:
    value, error = row.get(key), row["standard_errors"].get(key)
    if not isinstance(value, float) or math.isnan(value):
        return "-"
    return f"{value:.3f}" + ("" if error is None else f" +- {error:.3f}")


def picture(run: Path, file: Path) -> None:
    """Two of each class by 1, 2 and 4 jumps and by ten Heun steps, from the same seeds, side by side."""
    model, ways = ef.open(run), (("flow_map", 1), ("flow_map", 2), ("flow_map", 4), ("heun", 10))
    grids = [
        model.sample(sampler=sampler, steps=steps, guidance=1.0, labels=list(range(10)), num=20).grid()
        for sampler, steps in ways
    ]
    wide = Image.new("RGB", (sum(g.width for g in grids) + GAP * (len(grids) - 1), grids[0].height), "white")
    for i, one in enumerate(grids):
        wide.paste(one.convert("RGB"), (i * (one.width + GAP), 0))
    wide.save(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, default=Path("runs/few_steps"))
    parser.add_argument("--toy-steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only-toy", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("docs/few_steps.md"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.dir.mkdir(parents=True, exist_ok=True)
    rows = toys(given.dir / "toy.jsonl", given.toy_steps, range(given.seeds))
    lines = [*said_of_toys(given.toy_steps, given.seeds), "", *toy_table(rows)]
    if not given.only_toy:
        runs = []
        for name, arguments in (("ordinary", ["--preset", "digits"]), ("map", ["--preset", "digits_map"])):
            run = trained(given.dir / name, arguments)
            ways = [("heun", 10), *(("flow_map", k) for k in JUMPS if name == "map")]
            runs += [(name, way, steps, measured(run, way, steps, 500, 2)) for way, steps in ways]
        lines += ["", "Digits, guidance 1, 500 samples measured twice:", "", *run_table(runs)]
        picture(given.dir / "map", given.output.parent / "images" / "few_steps.png")
    before, _, rest = given.output.read_text(encoding="utf-8").partition(f"{BEGIN}\n")
    write_text(given.output, "\n".join([f"{before}{BEGIN}", *lines, END + rest.partition(END)[2]]))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
