"""azula: the loop of its MNIST tutorial."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from azula.denoise import Denoiser as AzulaDenoiser
from azula.denoise import DiracPosterior, KarrasDenoiser
from azula.nn.unet import UNet
from azula.noise import Schedule, VPSchedule
from azula.sample import DDIMSampler, HeunSampler
from torch import Tensor, nn

from benchmarks.contest import Contestant, Training, Walk, alpha_bars, by_batches
from benchmarks.shared import batches

SAMPLERS = {"ddim": DDIMSampler, "heun": HeunSampler}


class Entry(Contestant):
    """`KarrasDenoiser` on `VPSchedule` around a loop by hand."""

    loop = example = "probabilists/azula, docs/tutorials/mnist.ipynb"
    does = "nothing more"

    def shared(self, net: nn.Module, batch_size: int) -> Training:
        return Training(
            losses=self._losses(KarrasDenoiser(net, VPSchedule()), batch_size), batch_size=batch_size, net=net
        )

    def own(self) -> Training:
        denoiser = KarrasDenoiser(backbone=Backbone(), schedule=VPSchedule())

        def drawn(labels: Tensor) -> Tensor:
            sampler = DDIMSampler(denoiser, steps=64, silent=True)
            out: Tensor = sampler(sampler.init((len(labels), 1, 28, 28)), label=labels)
            return out

        return Training(
            losses=self._losses(denoiser, 64, conditional=True),
            batch_size=64,
            net=denoiser.backbone,
            draw=lambda num, labels: by_batches(drawn, labels),
            conditional=True,
            settings="UNet (16, 32, 64), x0 with EDM's scales on VPSchedule, Adam 3e-4; sampled by DDIM, 64 steps",
        )

    def walk(self, net: nn.Module, method: str, num_steps: int) -> Walk | None:
        if method not in SAMPLERS:
            return None
        sampler = SAMPLERS[method](Eps(net), steps=num_steps, start=1.0, stop=1e-3, silent=True)
        return lambda noise: sampler(noise)

    def _losses(self, denoiser: KarrasDenoiser, batch_size: int, *, conditional: bool = False) -> Iterator[float]:
        optimiser = torch.optim.Adam(denoiser.parameters(), lr=3e-4)
        for x, labels in batches(self.data_dir, batch_size):
            loss = denoiser.loss(x, torch.rand(len(x)), **({"label": labels} if conditional else {}))
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            yield loss.item()


class Backbone(nn.Module):
    """Their U-Net with an embedding of the class and of the noise level."""

    def __init__(self, features: int = 64) -> None:
        super().__init__()
        self.unet = UNet(
            in_channels=1,
            out_channels=1,
            hid_channels=[16, 32, 64],
            hid_blocks=[2, 2, 2],
            mod_features=features,
        )
        self.label = nn.Embedding(10, features)
        self.time = nn.Sequential(nn.Linear(1, features), nn.SiLU(), nn.Linear(features, features))

    def forward(self, x: Tensor, level: Tensor, label: Tensor) -> Tensor:
        out: Tensor = self.unet(x, self.label(label) + self.time(level[..., None]))
        return out


class Table(Schedule):
    """The linear beta schedule at any time, log-linear between its steps."""

    def __init__(self) -> None:
        self.log_bars = torch.cat([torch.zeros(1), alpha_bars().log().float()])

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        place = (t * 1000).clamp(0, 1000)
        low = place.floor().long().clamp(max=999)
        log_bar = torch.lerp(self.log_bars[low], self.log_bars[low + 1], place - low)
        return (log_bar / 2).exp(), (1 - log_bar.exp()).sqrt()


class Eps(AzulaDenoiser):
    """A net that predicts eps, as the denoiser of their interface."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.schedule = net, Table()

    def forward(self, x_t: Tensor, t: Tensor, **_: Any) -> DiracPosterior:
        alpha, sigma = self.schedule(t)
        return DiracPosterior(mean=(x_t - sigma * self.net(x_t, t)) / alpha)


assert math.isclose(float(Table()(torch.tensor(1.0))[0]) ** 2, float(alpha_bars()[-1]), rel_tol=1e-4)
