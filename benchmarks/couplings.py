"""Couplings of data and noise beside each other: `python benchmarks/couplings.py --preset digits --seeds 0,1`.

The same net, noise, order of labels and number of steps with each; then what a step costs, the cost of the pairs, the
images reached, the bend of the trajectories and the Frechet distance at few Euler steps, on the same seeds, guidance 1.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

import ebbflow as ef
from ebbflow.config import merge, parse, preset_folder, read_settings, read_toml
from ebbflow.core.noise import Noise
from ebbflow.progress import finish
from ebbflow.runs import Trainer, load_splits, task_of
from ebbflow.runs.tasks import ModelTask
from ebbflow.studies.claims.quality import bend
from ebbflow.values import read_value

STEPS = (1, 2, 4)
PAIRED = 50  # batches whose pairs are measured


def task_for(preset: str, settings: dict[str, Any], coupling: str, seed: int, folder: Path) -> ModelTask:
    """The run of one coupling, untrained."""
    given = {"objective.coupling": coupling, "train.seed": seed, **settings}
    config = parse(merge(read_toml(preset_folder() / f"{preset}.toml"), read_settings(given)))
    task = task_of(config, load_splits(config), folder)
    assert isinstance(task, ModelTask)
    return task


def train(task: ModelTask) -> None:
    """Train it, or find it trained."""
    trainer = Trainer(task)
    if not trainer.is_finished:
        list(trainer.events())


def pairs(task: ModelTask) -> dict[str, float]:
    """Of the first batches: processor time, E||eps - x0||^2, and the share of the data that they hold."""
    finish(task.prepare())
    loader, seen, costs = task.batches(), set(), []
    began = time.process_time()
    batches = [loader.batch(step) for step in range(PAIRED)]
    spent = 1000 * (time.process_time() - began) / PAIRED
    for batch in batches:
        eps = (
            torch.randn(batch.x0.shape, generator=torch.Generator().manual_seed(0)) if batch.eps is None else batch.eps
        )
        costs.append(float((eps - batch.x0).square().flatten(1).sum(1).mean()))
        seen |= {hash(x.numpy().tobytes()) for x in batch.x0}
    drawn = sum(map(len, batches)) / len(task.splits.train)
    return {
        "ms_a_batch": spent,
        "cost": sum(costs) / PAIRED,
        "seen": len(seen) / len(task.splits.train),
        "epochs": drawn,
    }


def straightness(folder: Path, num: int = 200) -> float:
    """The mean bend of trajectories, 0 being straight."""
    model = ef.open(folder, device="cpu")
    cond = model.read([i % max(1, len(model.label_names)) for i in range(num)]) if model.is_conditional else None
    bound = model.denoiser if cond is None else model.denoiser.given(cond)  # type: ignore[attr-defined]
    with torch.no_grad():
        return float(bend(bound, Noise(range(num)).draw(model.facts.state_dims), own_clock=True).mean())


def measured(folder: Path, num: int, features: str) -> dict[str, float]:
    """Frechet distance by Euler steps, and of Heun's 10."""
    ways = {f"euler-{steps}": ("euler", steps) for steps in STEPS} | {"heun-10": ("heun", 10)}
    model, found = ef.open(folder, device="cpu"), {}
    for name, (sampler, steps) in ways.items():
        table = ef.evaluate(
            model, num=num, sampler=sampler, steps=steps, guidance=1.0, batch_size=250, features=features
        )
        found[name] = table["frechet"]
    return found


def main() -> None:
    """Print a line of JSON for each coupling and seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="digits")
    parser.add_argument("--couplings", default="independent,minibatch_ot,semidiscrete")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--num", type=int, default=1000)
    parser.add_argument("--features", default="auto")
    parser.add_argument("--pairs", action="store_true", help="measure the pairs alone, without training")
    parser.add_argument("--set", action="append", default=[], help="section.key=value")
    parser.add_argument("--output", type=Path, default=Path("runs/couplings"))
    asked = parser.parse_args()
    settings = {key: read_value(value) for key, _, value in (one.partition("=") for one in asked.set)}
    for seed in map(int, asked.seeds.split(",")):
        for coupling in asked.couplings.split(","):
            folder = asked.output / f"{asked.preset}_{coupling}_{seed}"
            task = task_for(asked.preset, settings, coupling, seed, folder)
            row = {"coupling": coupling, "seed": seed, **pairs(task)}
            if not asked.pairs:
                train(task)
                row |= {"bend": straightness(folder), **measured(folder, asked.num, asked.features)}
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
