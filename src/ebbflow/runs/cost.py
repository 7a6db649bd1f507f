"""What a configuration would cost on this machine, measured before it is trained."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch

from ebbflow.config import RunConfig, to_dict
from ebbflow.core.noise import generator_for
from ebbflow.data import Splits
from ebbflow.runs.build import build_denoiser, build_objective, conditioner_of, facts_of, resolved
from ebbflow.runs.spaces import enter
from ebbflow.training import engine

TIMED_STEPS = 3


def measure_cost(config: RunConfig, splits: Splits) -> dict[str, Any]:
    """Resolved configuration, parameters, forward FLOPs a sample, and measured seconds a step, an epoch and in all."""
    from torch.utils.flop_counter import FlopCounterMode

    size, num = config.train.batch_size, len(splits.train)
    first = splits.train.select(torch.arange(size) % num)
    data = enter(config, Splits(train=first, held_out=first))[1].train
    facts = facts_of(data)
    config = resolved(config, facts)
    engine.keep_large_blocks()
    device = engine.pick_device(config.engine.device)
    denoiser, objective = build_denoiser(config, facts), build_objective(config)
    assert isinstance(denoiser.net, torch.nn.Module)
    num_parameters = sum(p.numel() for p in denoiser.net.parameters())
    working = engine.WorkingCopy(denoiser.net.to(device), engine.pick_precision(config.engine.precision, device)).module
    model, conditioner = replace(denoiser, net=working), conditioner_of(denoiser)
    x0 = data.x0(torch.arange(size)).to(device)
    known = None if conditioner is None else conditioner.conditions(splits.train)
    cond = None if known is None else known[torch.arange(size) % len(known)].to(device)
    generator = generator_for(0, "cost")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.output(x0[:1], 0.5, None if cond is None else cond[:1])
    seconds = []
    for _ in range(TIMED_STEPS + 1):
        began = time.perf_counter()
        objective.losses(model, x0, cond, torch.randn_like(x0), objective.draw_times(size, generator)).mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    each = sorted(seconds[1:])[TIMED_STEPS // 2]
    return {
        "config": to_dict(config),
        "num_parameters": num_parameters,
        "forward_flops_per_sample": counter.get_total_flops(),
        "seconds_per_step": each,
        "seconds_per_epoch": each * num / size,
        "seconds_in_all": each * config.train.num_steps,
    }
