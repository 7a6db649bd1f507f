"""The calculator of a step's memory counts what PyTorch's own tracker counts, and deals it out as sharding does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker

from ebbflow.config import RunConfig, merge, parse_as
from ebbflow.data import load_dataset
from ebbflow.runs.scale import Alive, Memory, memory_of, scale_of
from ebbflow.runs.tasks import ModelTask
from ebbflow.training.engine import Engine

NETS: dict[str, dict[str, Any]] = {
    "dit": {"kind": "dit", "patch_size": 1, "dim": 64, "depth": 2, "num_heads": 2},
    "unet": {"kind": "unet", "channels": [16, 32]},
}


def made(net: str, precision: str, folder: Path, **engine: Any) -> tuple[ModelTask, Engine, RunConfig]:
    asked = {"data": {"name": "digits"}, "net": NETS[net], "train": {"batch_size": 128}}
    config = parse_as(RunConfig, merge(asked, {"engine": {"device": "cpu", "precision": precision, **engine}}))
    return (
        ModelTask(config, load_dataset("digits"), folder),
        Engine(device="cpu", precision=config.engine.precision),
        config,
    )


def test_what_is_alive_at_once_is_counted() -> None:
    given = torch.zeros(1000)
    with Alive([given]) as alive:
        given.add_(1)
        first = given + 1
        view = first[10:].view(2, -1)
        del first
        second = view * 2
        del view
        torch.cat([second, second])
    assert alive.most == 4 * (990 + 2 * 990)
    assert alive.now == 4 * 990


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("net", NETS)
def test_a_step_takes_what_pytorch_tracks_of_it(net: str, precision: str, tmp_path: Path) -> None:
    """Of a whole batch, where the calculator has seen half of it: all that is there at the fullest moment."""
    task, engine, config = made(net, precision, tmp_path)
    batch = task.batches().batch(0)
    said = memory_of(task, engine, batch, config, 1)
    optimiser = config.optimiser.build(task.net, lr=0.0, weight_decay=0.0)
    for p in task.net.parameters():
        p.grad = torch.zeros_like(p)
    optimiser.step()
    tracker = MemTracker()
    tracker.track_external(task.net, optimiser)
    with tracker:
        engine.backward(task, batch, seed=0, step=0)
    tracked = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    assert said.of(len(batch)) - said.averages == pytest.approx(tracked, rel=0.05)


def test_weights_that_are_dealt_out_take_their_share(tmp_path: Path) -> None:
    task, engine, config = made("dit", "fp32", tmp_path)
    dealt = replace(config, engine=replace(config.engine, shard=True))
    batch = task.batches().batch(0)
    one, many = (memory_of(task, engine, batch, which, 8) for which in (config, dealt))
    for part in ("weights", "gradients", "optimiser", "averages"):
        assert getattr(many, part) == getattr(one, part) // 8
    block = sum(p.nbytes for p in task.net.get_submodule("net.blocks")[0].parameters())
    outside = one.weights - 2 * block
    assert many.messages == 4 * block + outside  # two blocks, the gradient of one twice, and what is in none
    assert (many.row, many.kept) == (one.row, one.kept)
    wires = [scale_of(memory, which, 8, None).wire for memory, which in ((one, config), (many, dealt))]
    assert wires[0] == pytest.approx(2 * 7 / 8 * one.weights) and wires[1] == pytest.approx(
        3 * 7 / 8 * one.weights, rel=1e-3
    )


def test_rows_that_fit_are_those_that_are_said_to() -> None:
    memory = Memory(weights=10, gradients=10, optimiser=20, averages=10, kept=5, row=7, messages=0)
    assert memory.of(3) == 76
    assert [memory.rows_in(there) for there in (54, 55, 75, 76)] == [-1, 0, 2, 3]
