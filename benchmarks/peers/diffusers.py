"""diffusers: the loop of its unconditional example, and the class-conditional MNIST notebook of its course."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, HeunDiscreteScheduler, UNet2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from benchmarks.contest import Contestant, Training, Walk, alpha_bars, by_batches
from benchmarks.shared import batches, loader_of

SCHEDULERS = {
    "ddim": lambda betas: DDIMScheduler(trained_betas=betas, timestep_spacing="trailing", clip_sample=False),
    "heun": lambda betas: HeunDiscreteScheduler(trained_betas=betas, timestep_spacing="trailing"),
    "dpmpp_2m": lambda betas: DPMSolverMultistepScheduler(trained_betas=betas, timestep_spacing="trailing"),
}


class Entry(Contestant):
    """accelerate, `DDPMScheduler`, `get_scheduler` and `EMAModel`."""

    loop = "huggingface/diffusers, examples/unconditional_image_generation/train_unconditional.py"
    does = "clipping, schedule, EMA"
    precision = "no"
    example = "huggingface/diffusion-models-class, unit2/02_class_conditioned_diffusion_model_example.ipynb"

    def shared(self, net: nn.Module, batch_size: int) -> Training:
        return self.trained(net, loader_of(self.data_dir, batch_size), batch_size)

    def trained(self, net: nn.Module, loader: DataLoader[Any], batch_size: int) -> Training:
        """The loop on any pictures, on the device that accelerate picks."""
        accelerator = Accelerator(mixed_precision=self.precision)
        noise_scheduler = DDPMScheduler(num_train_timesteps=1000)
        optimiser = torch.optim.AdamW(net.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
        schedule = get_scheduler("cosine", optimizer=optimiser, num_warmup_steps=500, num_training_steps=100_000)
        net, optimiser, loader, schedule = accelerator.prepare(net, optimiser, loader, schedule)
        average = EMAModel(
            net.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=3 / 4, model_cls=type(net)
        )

        def losses() -> Iterator[float]:
            net.train()
            while True:
                for clean, _ in loader:
                    noise = torch.randn(clean.shape, device=clean.device)
                    steps = torch.randint(
                        0, noise_scheduler.config.num_train_timesteps, (len(clean),), device=clean.device
                    )
                    noisy = noise_scheduler.add_noise(clean, noise, steps)
                    with accelerator.accumulate(net):
                        loss = functional.mse_loss(net(noisy, steps).float(), noise)
                        accelerator.backward(loss)
                        if accelerator.sync_gradients:
                            accelerator.clip_grad_norm_(net.parameters(), 1.0)
                        optimiser.step()
                        schedule.step()
                        optimiser.zero_grad()
                    if accelerator.sync_gradients:
                        average.step(net.parameters())
                    yield loss.detach().item()

        return Training(losses=losses(), batch_size=batch_size, net=net)

    def own(self) -> Training:
        net, scheduler = ClassConditioned(), DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")
        optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
        sampler = DDIMScheduler(
            num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", timestep_spacing="trailing"
        )

        def losses() -> Iterator[float]:
            for x, labels in batches(self.data_dir, 128):
                noise, steps = torch.randn_like(x), torch.randint(0, 999, (len(x),)).long()
                loss = functional.mse_loss(net(scheduler.add_noise(x, noise, steps), steps, labels), noise)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                yield loss.item()

        @torch.no_grad()
        def drawn(labels: Tensor) -> Tensor:
            sampler.set_timesteps(50)
            x = torch.randn(len(labels), 1, 28, 28)
            for t in sampler.timesteps:
                x = sampler.step(net(x, t, labels), t, x).prev_sample
            return x

        return Training(
            losses=losses(),
            batch_size=128,
            net=net,
            draw=lambda num, labels: by_batches(drawn, labels),
            conditional=True,
            settings="UNet2DModel (32, 64, 64), eps on the cosine schedule, Adam 1e-3; sampled by DDIM, 50 steps",
        )

    def walk(self, net: nn.Module, method: str, num_steps: int) -> Walk:
        scheduler = SCHEDULERS[method]((1 - _ratios()).tolist())

        def walked(noise: Tensor) -> Tensor:
            scheduler.set_timesteps(num_steps)
            x = noise * scheduler.init_noise_sigma
            for t in scheduler.timesteps:
                x = scheduler.step(net(scheduler.scale_model_input(x, t), t), t, x).prev_sample
            return x

        return walked


class ClassConditioned(nn.Module):
    """Their U-Net whose input has four more channels, an embedding of the class."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.unet = UNet2DModel(
            sample_size=28,
            in_channels=5,
            out_channels=1,
            layers_per_block=2,
            block_out_channels=(32, 64, 64),
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        )

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        planes = self.embedding(labels)[:, :, None, None].expand(-1, -1, *x.shape[2:])
        out: Tensor = self.unet(torch.cat([x, planes], 1), t).sample
        return out


def _ratios() -> Tensor:
    bars = alpha_bars()
    return bars / torch.cat([bars.new_ones(1), bars[:-1]])
