"""Which MNIST recipe gives the best pictures for a budget of processor time: variants, each trained for as long on one
thread and scored alike, a line of `recipe_log.jsonl` each.

    OMP_NUM_THREADS=1 python benchmarks/recipe.py --minutes 2 shuffle "batch 64"

The minutes are those of the process's own clock, so neighbours on the machine take none of them. One minute of two
cores is about two of these.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ebbflow.config import RunConfig, merge, parse, read_settings
from ebbflow.core.device import keep_large_blocks
from ebbflow.data import Splits, load_dataset
from ebbflow.metrics.measure import block_errors, table
from ebbflow.metrics.yardstick import Features, Made, Yardstick, yardstick_of
from ebbflow.progress import finish
from ebbflow.runs.model import Model
from ebbflow.runs.plan import Plan, default_plan
from ebbflow.runs.sample import generate
from ebbflow.runs.tasks import ModelTask
from ebbflow.studies.evaluate import features_for, sides_of
from ebbflow.training.engine import Engine, in_precision, pick_precision
from ebbflow.training.loop import fit
from ebbflow.training.optim import LearningRate

NUM, CPU = 1000, torch.device("cpu")
LOG = Path(__file__).with_name("recipe_log.jsonl")

BASE: dict[str, Any] = {
    "data.name": "mnist",
    "net.kind": "unet",
    "net.channels": [32, 64],
    "net.patch_size": 2,
    "net.upsample": "shuffle",
    "conditioning.kind": "label",
    "conditioning.injection": "scale",
    "optimiser.kind": "muon",
    "train.lr": 6e-3,
    "train.batch_size": 64,
    "train.warmup_steps": 50,
    "train.held_out_size": 2000,
    "ema.kind": "power",
    "ema.lengths": [0.06],
}
ADAMW = {"optimiser.kind": "adamw"}
NEAREST = {"net.upsample": "nearest"}
DIT = {"net.kind": "dit", "net.patch_size": 4, "net.dim": 128, "net.depth": 5, "net.num_heads": 4}
VARIANTS: dict[str, dict[str, Any]] = {
    "adamw 2e-3": {**NEAREST, **ADAMW, "train.lr": 2e-3, "train.batch_size": 128},
    "adamw 4e-3": {**NEAREST, **ADAMW, "train.lr": 4e-3, "train.batch_size": 128},
    "adamw 3e-3, batch 64": {**NEAREST, **ADAMW, "train.lr": 3e-3},
    "muon 4e-3": {**NEAREST, "train.lr": 4e-3, "train.batch_size": 128},
    "batch 64": NEAREST,
    "24-48": {**NEAREST, "net.channels": [24, 48], "train.lr": 4e-3},
    "blocks 1, 2": {**NEAREST, "net.num_blocks": [1, 2]},
    "64-64, blocks 1, 2, adamw": {
        **NEAREST,
        **ADAMW,
        "net.channels": [64, 64],
        "net.num_blocks": [1, 2],
        "train.lr": 2e-3,
        "train.batch_size": 128,
    },
    "patch 4": {
        **ADAMW,
        "net.channels": [96],
        "net.num_blocks": 2,
        "net.patch_size": 4,
        "train.lr": 4e-3,
        "train.batch_size": 128,
    },
    "dit": {**DIT, "train.lr": 4e-3},
    "shuffle": {},
    "shuffle-fp32": {"engine.precision": "fp32"},
    "shuffle, 12e-3": {"train.lr": 12e-3},
    "shuffle, batch 32": {"train.batch_size": 32},
    "shuffle, label added": {"conditioning.injection": "add"},
    "shuffle, times uniform": {"objective.times": "uniform"},
    "shuffle, shift 1.5": {"path.shift": 1.5},
    "shuffle, shift 2": {"path.shift": 2.0},
    "shuffle, x0": {"objective.prediction": "x0", "objective.weight": "truncated_snr"},
    "shuffle 24-48": {"net.channels": [24, 48]},
    "shuffle 48-96": {"net.channels": [48, 96]},
    "shuffle 64-128": {"net.channels": [64, 128], "train.lr": 5e-3},
}


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained variant: its averaged model, and what the training took."""

    model: Model
    facts: dict[str, Any]


def config_of(name: str, seed: int) -> RunConfig:
    """The configuration of a variant; a net of another kind leaves the base's own keys out."""
    own = VARIANTS[name]
    base = {key: value for key, value in BASE.items() if "net.kind" not in own or not key.startswith("net.")}
    return parse(merge(read_settings(base), read_settings({**own, "train.seed": seed})))


def train(config: RunConfig, splits: Splits, minutes: float) -> Trained:
    """Train for some minutes of this process's own time."""
    with TemporaryDirectory() as folder:
        task = ModelTask(config, splits, Path(folder))
    how, ema = config.train, config.ema.build(task.net)
    flops = forward_flops(task)
    steps = fit(
        task,
        task.batches(),
        config.optimiser.build(task.net, lr=how.lr, weight_decay=how.weight_decay),
        minutes=minutes,
        engine=Engine(device="cpu", precision=config.engine.precision, clip=how.clip),
        ema=ema,
        lr=LearningRate(peak=how.lr, warmup_steps=how.warmup_steps, schedule=how.schedule),
        seed=how.seed,
        clock=time.process_time,
    )
    last = list(steps)[-1]
    net = in_precision(ema.module, pick_precision(config.engine.precision, CPU))
    model = Model.described(task.model(net.eval()), task.config, task.facts, None, device=CPU)
    facts = {
        "steps": last.step,
        "images": last.step * how.batch_size,
        "images_per_second": round(last.step * how.batch_size / last.minutes / 60),
        "parameters": sum(p.numel() for p in task.net.parameters()),
        "forward_mflop": round(flops / 1e6, 1),
        "held_out_loss": round(task.held_out(ema.module)["held_out"], 4),
    }
    return Trained(model=model, facts=facts)


def forward_flops(task: ModelTask) -> int:
    """Operations of one forward pass of one sample."""
    batch = task.batches().batch(0).rows(range(1), CPU)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        task.conditioned.output(batch.x0.float(), 0.5, batch.cond)  # type: ignore[arg-type]
    return counter.get_total_flops()


@torch.no_grad()
def score(model: Model, yardstick: Yardstick, plan: Plan) -> dict[str, Any]:
    """Frechet distance and label accuracy of the samples of a plan."""
    seen, images = [], []
    for part in generate(model, plan):
        if part.done:
            seen.append(yardstick.features.of(part.for_features))
            images.append(part.images)
    comparison = yardstick.comparison(Made.of(seen, torch.cat(images)), plan.labels)
    found, errors = table(comparison), block_errors(comparison)
    return {
        "sampler": str(plan.sampler),
        "steps": plan.num_steps,
        "guidance": plan.guidance,
        "frechet": round(found["frechet"] or 0.0, 3),
        "error": round(errors["frechet"], 3),
        "label_accuracy": found["label_accuracy"],
    }


def plan_of(model: Model, sampler: str, num_steps: int, guidance: float) -> Plan:
    """1,000 samples, the classes in turn."""
    plan = default_plan(model, seeds=range(NUM), conditions=[i % 10 for i in range(NUM)])
    return replace(plan, sampler=sampler, num_steps=num_steps, guidance=guidance, batch_size=100)


def yardstick_for(splits: Splits) -> Yardstick:
    """The classifier's features of the held-out split, as `ebbflow evaluate` takes them."""
    reference, other = sides_of(splits, "held_out", NUM)
    features: Features = finish(features_for(splits, "classifier", NUM, len(reference), CPU))
    return finish(yardstick_of(features, reference, other, splits.held_out))


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a log."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def log_table(path: Path) -> str:
    """A log in Markdown: of each row the scores at the guidance that gave the least distance."""
    lines = [
        "| variant | minutes | parameters | MFLOP | images/s | steps | held-out loss | guidance | Frechet | accuracy |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in read_log(path):
        best = min(
            (one for one in row["scores"] if "interval" not in one), key=lambda one: one["frechet"], default=None
        )
        scored = ("", "", "")
        if best is not None:
            scored = (
                f"{best['guidance']:g}",
                f"{best['frechet']:.2f} +- {best['error']:.2f}",
                f"{best['label_accuracy']:.3f}",
            )
        cells = (
            row["variant"],
            f"{row['minutes']:g}",
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['forward_mflop']:.0f}",
            str(row["images_per_second"]),
            str(row["steps"]),
            f"{row['held_out_loss']:.4f}",
            *scored,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Train and score the variants that are named, and append what came out to the log."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", default=["shuffle"], metavar="NAME", help=", ".join(VARIANTS))
    parser.add_argument("--minutes", type=float, default=2.0, help="of processor time, each")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.2, 1.35, 1.5])
    parser.add_argument("--sampler", default="heun")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--log", type=Path, default=LOG)
    parser.add_argument("--table", action="store_true", help="print the log as a table, and train nothing")
    given = parser.parse_args()
    if given.table:
        print(log_table(given.log))
        return
    keep_large_blocks()
    splits = load_dataset("mnist", data_dir=given.data_dir)
    yardstick = yardstick_for(splits)
    for name in given.variants:
        config = config_of(name, given.seed)
        trained = train(config, splits, given.minutes)
        scores = [
            score(trained.model, yardstick, plan_of(trained.model, given.sampler, given.steps, w))
            for w in given.guidance
        ]
        row = {
            "variant": name,
            "settings": VARIANTS[name],
            "minutes": given.minutes,
            "seed": given.seed,
            **trained.facts,
            "scores": scores,
            **machine(),
        }
        with given.log.open("a", encoding="utf-8") as log:
            log.write(json.dumps(row) + "\n")
        print(json.dumps(row, indent=1), flush=True)


def machine() -> dict[str, Any]:
    """Where it ran."""
    return {
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "bf16": torch.cpu._is_avx512_bf16_supported(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    main()
