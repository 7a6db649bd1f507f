"""What a configuration would cost on this machine, measured before it is trained."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ebbflow.config import LatentConfig, RunConfig, to_dict
from ebbflow.core.memory import keep_large_blocks
from ebbflow.data import Splits
from ebbflow.runs.choice import TRAIN, autoencoder_for
from ebbflow.runs.tasks import AutoencoderTask, ModelTask
from ebbflow.training import engine
from ebbflow.training.loop import fit

TIMED_STEPS = 3


def measure_cost(config: RunConfig, splits: Splits, num: int | None = None) -> dict[str, Any]:
    """Resolved configuration, parameters, forward FLOPs a sample, and measured seconds a step, an epoch and in all.

    Args:
        config, splits: what is to be trained, on data of which a batch is enough.
        num: entries to train on; None where `splits` holds them all.
    """
    from torch.utils.flop_counter import FlopCounterMode

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
    batch = task.batches().batch(0).rows(range(1), engine.device_of(task.net))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        task.conditioned.output(batch.x0, 0.5, batch.cond)  # type: ignore[arg-type]
    optimiser, seconds = config.optimiser.build(task.net, lr=config.train.lr, weight_decay=0.0), []
    steps = fit(task, task.batches(), optimiser, num_steps=TIMED_STEPS + 1, engine=runs)
    for _ in range(TIMED_STEPS + 1):
        began = time.perf_counter()
        next(steps)
        seconds.append(time.perf_counter() - began)
    each, train = sorted(seconds[1:])[TIMED_STEPS // 2], config.train
    steps_in_all = train.num_steps or max(1, round(60 * (train.minutes or 0) / each))
    return {
        "config": to_dict(replace(task.config, latent=latent)),
        "num_parameters": sum(p.numel() for p in task.net.parameters()),
        "forward_flops_per_sample": counter.get_total_flops(),
        "seconds_per_step": each,
        "seconds_per_epoch": each * num / size,
        "num_steps": steps_in_all,
        "seconds_in_all": 60 * train.minutes if train.minutes else each * steps_in_all,
    }
