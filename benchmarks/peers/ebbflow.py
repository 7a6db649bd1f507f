"""ebbflow as `ebbflow train` runs it: its loader, engine, optimiser and average, in the precision that it picks."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from benchmarks.contest import Contestant, Training, Walk
from benchmarks.shared import pictures
from ebbflow.core.device import keep_large_blocks
from ebbflow.core.noise import Noise
from ebbflow.core.paths import Flow, Path, VPDiscrete
from ebbflow.core.times import TIME_GRIDS
from ebbflow.methods.denoise import NetDenoiser
from ebbflow.methods.objective import Objective
from ebbflow.methods.samplers import SAMPLERS
from ebbflow.training import engine
from ebbflow.training.batches import Batch, permutation
from ebbflow.training.ema import EMA
from ebbflow.training.loop import fit
from ebbflow.training.optim import LearningRate, adamw


class InMemory:
    """Batches that are a function of the step, as a run of ebbflow draws them."""

    def __init__(self, x0: Tensor, batch_size: int) -> None:
        self.x0, self.size, self.per_epoch = x0, batch_size, len(x0) // batch_size
        self.order = torch.empty(0, dtype=torch.long)
        self.epoch = -1

    def batch(self, step: int) -> Batch:
        """That of step `step`."""
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self.epoch:
            self.epoch, self.order = epoch, permutation(len(self.x0), 0, "bench", epoch)
        return Batch(x0=self.x0[self.order[place * self.size : (place + 1) * self.size]])


class Entry(Contestant):
    """The loop of `ebbflow train`; what it makes of MNIST is measured from its own commands in `wall`."""

    loop = "src/ebbflow/training/loop.py"
    does = "clipping, EMA, exact resume"
    precision: ClassVar[engine.Precision] = "auto"

    def shared(self, net: nn.Module, batch_size: int) -> Training:
        keep_large_blocks()
        model = self._model(net, Flow(), "velocity")
        steps = fit(
            model,
            Objective(Flow(), times="logit_normal"),
            InMemory(pictures(self.data_dir)[0], batch_size),
            adamw(net.parameters(), lr=1e-3),
            num_steps=10**9,
            engine=engine.Engine(device="cpu", precision=self.precision),
            ema=EMA(net),
            lr=LearningRate(peak=1e-3),
        )
        return Training(losses=(step.loss for step in steps), batch_size=batch_size, net=net)

    def walk(self, net: nn.Module, method: str, num_steps: int) -> Walk | None:
        keep_large_blocks()
        path, sampler = VPDiscrete(), SAMPLERS[method]
        dtype = engine.pick_precision(self.precision, torch.device("cpu"))
        model = self._model(engine.in_precision(net, dtype), path, "eps")
        times = TIME_GRIDS["trailing"](path, num_steps)

        def walked(noise: Tensor) -> Tensor:
            extra = {"noise": Noise(range(len(noise)))} if sampler.stochastic else {}
            x = noise
            for step in sampler(model, noise, times, **extra):
                x = step.x
            return x

        return walked

    def _model(self, net: nn.Module, path: Path, prediction: str) -> NetDenoiser:
        return NetDenoiser(net=Told(net), path=path, prediction=prediction)


class Told(nn.Module):
    """(x, clock, condition) -> (x, clock)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, clock: Tensor, cond: object = None) -> Tensor:
        out: Tensor = self.net(x, clock)
        return out
