"""denoising-diffusion-pytorch: its `Trainer`, fed from memory instead of a folder of pictures."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

from benchmarks.contest import Contestant, Training, Walk, alpha_bars, by_batches, stand_in
from benchmarks.peers import PEERS
from benchmarks.shared import DIMS, pictures

stand_in(*PEERS["lucidrains"].without)

import torch  # noqa: E402
from denoising_diffusion_pytorch import GaussianDiffusion, Trainer, Unet  # noqa: E402
from denoising_diffusion_pytorch import denoising_diffusion_pytorch as inside  # noqa: E402
from torch import Tensor, nn  # noqa: E402


class InMemory(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Pictures in [0, 1] in the place of their data set of files."""

    x: Tensor

    def __init__(self, folder: str, *_: Any, **__: Any) -> None: ...

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Tensor:
        return self.x[index]


class Entry(Contestant):
    """`GaussianDiffusion` and `Trainer` with what they are by default: v-prediction, sigmoid schedule, Adam, EMA."""

    loop = "lucidrains/denoising-diffusion-pytorch, Trainer.train"
    does = "clipping, EMA every tenth step"
    example = (
        "lucidrains/denoising-diffusion-pytorch, README.md, and the annotated code that it links (28 pictures wide)"
    )

    def shared(self, net: nn.Module, batch_size: int) -> Training:
        trainer = self._trainer(net, batch_size, lr=8e-5)
        return Training(losses=_losses(trainer), batch_size=batch_size, net=net)

    def own(self) -> Training:
        net = Unet(dim=28, channels=1, dim_mults=(1, 2, 4))
        trainer = self._trainer(net, 128, lr=1e-3)

        def drawn(labels: Tensor) -> Tensor:
            out: Tensor = trainer.ema.ema_model.sample(batch_size=len(labels))
            return 2 * out - 1

        return Training(
            losses=_losses(trainer),
            batch_size=128,
            net=net,
            draw=lambda num, labels: by_batches(drawn, labels),
            settings="Unet (28, 56, 112), v on the sigmoid schedule, Adam 1e-3, EMA 0.995; sampled by DDIM, 50 steps",
        )

    def walk(self, net: nn.Module, method: str, num_steps: int) -> Walk | None:
        if method != "ddim":
            return None
        net.channels = net.out_dim = DIMS[0]  # type: ignore[assignment]
        net.self_condition = False  # type: ignore[assignment]
        diffusion = GaussianDiffusion(
            net, image_size=28, objective="pred_noise", sampling_timesteps=num_steps, beta_schedule="linear"
        )
        assert abs(float(diffusion.alphas_cumprod[-1] / alpha_bars()[-1]) - 1) < 0.01
        return lambda noise: diffusion.sample(batch_size=len(noise))

    def _trainer(self, net: nn.Module, batch_size: int, *, lr: float) -> Trainer:
        InMemory.x = (pictures(self.data_dir)[0] + 1) / 2
        inside.Dataset, inside.cpu_count = InMemory, lambda: 0
        diffusion = GaussianDiffusion(net, image_size=28, timesteps=1000, sampling_timesteps=50)
        return Trainer(
            diffusion,
            "pictures",
            train_batch_size=batch_size,
            train_lr=lr,
            train_num_steps=0,
            save_and_sample_every=10**9,
            calculate_fid=False,
            results_folder=tempfile.mkdtemp(prefix="bench-lucidrains-"),
        )


def _losses(trainer: Trainer) -> Iterator[float]:
    """A step of their loop at a time; they keep the loss to themselves, so it is listened for."""
    heard: list[float] = []
    trainer.model.register_forward_hook(lambda module, args, out: heard.append(out.item()))
    while True:
        trainer.train_num_steps = trainer.step + 1
        trainer.train()
        yield heard[-1]
