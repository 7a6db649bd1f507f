"""What several processes do together in `test_world.py`, where one process does the same alone."""

from __future__ import annotations

import sys
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
from ebbflow.training.engine import Engine
from ebbflow.training.loop import fit
from ebbflow.training.task import DenoiserTask

BATCH, STEPS = 32, 4


def task_of(kind: str) -> DenoiserTask:
    """A small task in float64."""
    torch.manual_seed(0)
    net = MLPOptions(dim=16, depth=2, gap=kind == "map").build((2,), 2, None).double()
    plain = Objective(
        Flow(),
        prediction="velocity",
        times="importance" if kind == "importance" else "logit_normal",
        learn_uncertainty=kind == "uncertainty",
    )
    made = NetFlowMap if kind == "map" else NetDenoiser
    clock = "unit" if kind == "map" else "log_snr"
    return DenoiserTask(
        made(net=net, path=Flow(), prediction="velocity", clock=clock),
        MapObjective(plain, map="mean_flow") if kind == "map" else plain,
    )


KINDS = ("plain", "accumulated", "importance", "uncertainty", "coupled", "map")


def fitted(kind: str) -> dict[str, torch.Tensor]:
    """Losses, norms, weights and the task's own state after a few steps."""
    data, task = DATASETS["moons"]().train, task_of(kind)
    pool = Pool(x0=data.x0, classes=torch.zeros(len(data), dtype=torch.long))
    pairing = MinibatchOT().pairing(pool, None) if kind == "coupled" else None
    loader = DatasetLoader(dataset=data, cond=None, batch_size=BATCH, seed=0, pairing=pairing)
    engine = Engine(device=None, precision="fp32", accumulate=2 if kind == "accumulated" else 1, clip=0.5)
    optimiser = torch.optim.AdamW(task.net.parameters(), lr=1e-2)
    steps = list(fit(task, loader, optimiser, num_steps=STEPS, engine=engine))
    return {
        "loss": torch.tensor([step.loss for step in steps], dtype=torch.float64),
        "norm": torch.tensor([step.grad_norm for step in steps], dtype=torch.float64),
        "level": torch.stack([step.level for step in steps if step.level is not None]),
        **{f"report.{name}": torch.tensor(value) for name, value in steps[-1].report.items()},
        **{f"net.{name}": value for name, value in task.net.state_dict().items()},
        **{f"task.{name}": value for name, value in task.state().items()},
    }


TRAIN = ["train", "--data", "moons", "--batch-size", "32", "--set", "net.kind=mlp", "--set", "engine.precision=fp32"]
TRAIN += ["--set", "train.schedule=constant", "--set", "train.save_every=3", "--set", "train.log_every=1"]
TRAIN += ["--set", "train.held_out_every=3"]


def commands(out: Path) -> list[list[str]]:
    """Train, go on, and every use of a run that is dealt to processes."""
    run, num = str(out / "run"), ["--num", "300"]
    few = ["--batch-size", "64", "--device", "cpu"]
    return [
        [*TRAIN, "--max-steps", "6", "--save-dir", run],
        [*TRAIN, "--max-steps", "9", "--save-dir", run, "--set", "train.accumulate=2"],
        ["sample", "--ckpt", run, "--num", "70", "--output", str(out / "samples.npz"), *few],
        ["evaluate", "--ckpt", run, *num, "--steps", "4", *few],
        ["compare", run, *num, "--samplers", "heun", "--steps", "2", "--output", str(out / "compare.html"), *few],
        ["likelihood", "--ckpt", run, "--num", "20", "--batch-size", "8", "--output", str(out / "likelihood.json")],
    ]


def everything(out: Path) -> None:
    """All of it; results lie in `out`."""
    leads = world.here().leads
    for kind in KINDS:
        found = fitted(kind)
        if leads:
            save_tensors(found, out / f"{kind}.safetensors")
    for command in commands(out):
        code = _run(command)
        assert code == 0, (command, code)


if __name__ == "__main__":
    world.join()
    everything(Path(sys.argv[1]))
    world.leave()
