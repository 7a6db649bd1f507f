"""What a configuration would cost on this machine, measured before it is trained."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ebbflow.config import LatentConfig, RunConfig, to_dict
from ebbflow.core.device import keep_large_blocks
from ebbflow.data import Splits
from ebbflow.runs.build import require_batch
from ebbflow.runs.choice import TRAIN, autoencoder_for
from ebbflow.runs.scale import memory_of, scale_of, width_of
from ebbflow.runs.tasks import AutoencoderTask, ModelTask
from ebbflow.training import engine
from ebbflow.training.loop import fit

TIMED_STEPS, PATIENCE = 3, 4.0  # steps after the first, and seconds after which no further one is timed


def measure_cost(
    config: RunConfig,
    splits: Splits,
    num: int | None = None,
    *,
    world_size: int = 1,
    device_memory: float | None = None,
) -> dict[str, Any]:
    """Resolved configuration, parameters, forward FLOPs a sample, measured seconds a step, an epoch and in all, and
    what it takes of the memory of each process (see `scale_of`).

    Args:
        config, splits: what is to be trained, on data of which a batch is enough.
        num: entries to train on; None where `splits` holds them all.
        world_size: processes that would train it; the seconds stay those of this one alone.
        device_memory: gigabytes of each, or None.

    Raises:
        ConfigError: the batch cannot be dealt evenly to so many.
    """
    from torch.utils.flop_counter import FlopCounterMode

    require_batch(config, splits.train)
    size, num = config.train.batch_size, num or len(splits.train)
    few = splits.train.select(torch.arange(size) % len(splits.train))
    first = Splits(train=few, held_out=few)
    keep_large_blocks()
    latent = config.latent
    with TemporaryDirectory() as folder:
        if config.latent.autoencoder == TRAIN:
            untrained = AutoencoderTask(autoencoder_for(config, few.dims), first, Path(folder))
            untrained.finish(untrained.net)
            config = replace(config, latent=LatentConfig(autoencoder=folder))
        task = ModelTask(config, first, Path(folder) / "run")
    runs = engine.Engine(
        device=config.engine.device, precision=config.engine.precision, accumulate=config.train.accumulate
    )
    task.net.to(runs.place)
    whole = task.batches().batch(0)
    batch = whole.rows(range(1), engine.device_of(task.net))
    memory = memory_of(task, runs, whole, config, world_size) if size > 1 else None
    there = None if device_memory is None else 1e9 * device_memory
    scale = None if memory is None else scale_of(memory, config, world_size, there, width_of(runs, batch.x0.device))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        task.conditioned.output(batch.x0, 0.5, batch.cond)  # type: ignore[arg-type]
    optimiser = config.optimiser.build(task.net, lr=config.train.lr, weight_decay=0.0)
    seconds: list[float] = []
    steps = fit(task, task.batches(), optimiser, num_steps=TIMED_STEPS + 1, engine=runs)
    while len(seconds) <= TIMED_STEPS and sum(seconds) < PATIENCE:
        began = time.perf_counter()
        next(steps)
        seconds.append(time.perf_counter() - began)
    warm = sorted(seconds[1:] or seconds)
    each, train = warm[len(warm) // 2], config.train
    steps_in_all = train.num_steps or max(1, round(60 * (train.minutes or 0) / each))
    return {
        "config": to_dict(replace(task.config, latent=latent)),
        "num_parameters": sum(p.numel() for p in task.net.parameters()),
        "forward_flops_per_sample": counter.get_total_flops(),
        "seconds_per_step": each,
        "seconds_per_epoch": each * num / size,
        "num_steps": steps_in_all,
        "scale": scale,
        "seconds_in_all": 60 * train.minutes if train.minutes else each * steps_in_all,
    }
