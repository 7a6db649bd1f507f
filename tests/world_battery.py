"""What several processes do together in `test_world.py`, where one process does the same alone."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import torch

from ebbflow.cli.app import _run
from ebbflow.core.paths import Flow
from ebbflow.data import DATASETS
from ebbflow.files import save_tensors
from ebbflow.methods.couplings import MinibatchOT, Pool
from ebbflow.methods.denoise import NetDenoiser, NetFlowMap
from ebbflow.methods.maps import MapObjective
from ebbflow.methods.objective import Objective
from ebbflow.nets.mlp import MLPOptions
from ebbflow.runs.build import DatasetLoader
from ebbflow.training import world
from ebbflow.training.ema import EMA
from ebbflow.training.engine import Engine, Precision
from ebbflow.training.loop import fit
from ebbflow.training.optim import AdamWOptions, MuonOptions
from ebbflow.training.task import DenoiserTask

BATCH, STEPS = 32, 4


def task_of(kind: str) -> DenoiserTask:
    """A small task in float64."""
    torch.manual_seed(0)
    net = MLPOptions(dim=16, depth=2, gap="map" in kind).build((2,), 2, None)
    net = net if "bf16" in kind else net.double()
    plain = Objective(
        Flow(),
        prediction="velocity",
        times="importance" if "importance" in kind else "logit_normal",
        learn_uncertainty="uncertainty" in kind,
    )
    made = NetFlowMap if "map" in kind else NetDenoiser
    clock = "unit" if "map" in kind else "log_snr"
    return DenoiserTask(
        made(net=net, path=Flow(), prediction="velocity", clock=clock),
        MapObjective(plain, map="mean_flow") if "map" in kind else plain,
    )


KINDS = ("plain", "accumulated", "importance", "uncertainty", "coupled", "map")
KINDS += ("dealt", "dealt_accumulated_importance", "dealt_uncertainty", "dealt_muon", "dealt_map", "dealt_bf16")


def fitted(kind: str) -> dict[str, torch.Tensor]:
    """Losses, norms, weights and the task's own state after a few steps."""
    data, task = DATASETS["moons"]().train, task_of(kind)
    pool = Pool(x0=data.x0, classes=torch.zeros(len(data), dtype=torch.long))
    pairing = MinibatchOT().pairing(pool, None) if "coupled" in kind else None
    loader = DatasetLoader(dataset=data, cond=None, batch_size=BATCH, seed=0, pairing=pairing)
    accumulate = 2 if "accumulated" in kind else 1
    precision: Precision = "bf16" if "bf16" in kind else "fp32"
    engine = Engine(device=None, precision=precision, accumulate=accumulate, clip=0.5, shard="dealt" in kind)
    options = MuonOptions() if "muon" in kind else AdamWOptions()
    ema = EMA(task.net, 0.5)
    optimiser = options.build(task.net, lr=1e-2, weight_decay=0.1)
    steps = list(fit(task, loader, optimiser, num_steps=STEPS, engine=engine, ema=ema))
    return {
        "loss": torch.tensor([step.loss for step in steps], dtype=torch.float64),
        "norm": torch.tensor([step.grad_norm for step in steps], dtype=torch.float64),
        "level": torch.stack([step.level for step in steps if step.level is not None]),
        **{f"report.{name}": torch.tensor(value) for name, value in steps[-1].report.items()},
        **{f"net.{name}": value for name, value in engine.whole(task.net).state_dict().items()},
        **{f"ema.{name}": value for name, value in engine.whole(ema.module).state_dict().items()},
        **{f"task.{name}": value for name, value in task.state().items()},
    }


TRAIN = ["train", "--data", "moons", "--batch-size", "32", "--set", "net.kind=mlp", "--set", "engine.precision=fp32"]
TRAIN += ["--set", "train.schedule=constant", "--set", "train.save_every=3", "--set", "train.log_every=1"]
TRAIN += ["--set", "train.held_out_every=3"]
DEALT = ["--set", "engine.shard=true"]


def commands(out: Path) -> list[list[str]]:
    """Train, go on, and every use of a run that is dealt to processes."""
    run, num = str(out / "run"), ["--num", "300"]
    few = ["--batch-size", "64", "--device", "cpu"]
    return [
        [*TRAIN, "--max-steps", "6", "--save-dir", str(out / "dealt"), *DEALT],
        [*TRAIN, "--max-steps", "6", "--save-dir", run],
        [*TRAIN, "--max-steps", "9", "--save-dir", run, "--set", "train.accumulate=2"],
        ["sample", "--ckpt", run, "--num", "70", "--output", str(out / "samples.npz"), *few],
        ["evaluate", "--ckpt", run, *num, "--steps", "4", *few],
        ["compare", run, *num, "--samplers", "heun", "--steps", "2", "--output", str(out / "compare.html"), *few],
        ["likelihood", "--ckpt", run, "--num", "20", "--batch-size", "8", "--output", str(out / "likelihood.json")],
    ]


def all_well(command: list[str]) -> None:
    """Run a command, which must not fail."""
    code = _run(command)
    assert code == 0, (command, code)


def everything(out: Path) -> None:
    """All of it; results lie in `out`."""
    leads = world.here().leads
    for kind in KINDS:
        found = fitted(kind)
        if leads:
            save_tensors(found, out / f"{kind}.safetensors")
    for command in commands(out):
        all_well(command)


def gone_on(run: Path, to: Path, *more: str) -> None:
    """A copy of a run, trained on to step 12."""
    with world.here().leader_first():
        if world.here().leads:
            shutil.copytree(run, to)
    all_well([*TRAIN, "--max-steps", "12", "--save-dir", str(to), *more])


if __name__ == "__main__":
    its, alone = map(Path, sys.argv[1:])
    world.join()
    everything(its)
    while not (alone / "done").exists():
        time.sleep(0.05)
    gone_on(alone / "run", its / "run_of_one")
    gone_on(alone / "run", its / "dealt_of_one", *DEALT)
    world.leave()
