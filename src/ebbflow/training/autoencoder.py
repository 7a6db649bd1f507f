"""The training loop of an autoencoder, a generator as `fit` is, and its reconstruction error."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ebbflow.core.noise import generator_for
from ebbflow.nets.autoencoder import Autoencoder, kl_divergence
from ebbflow.training.engine import WorkingCopy, descend
from ebbflow.training.loop import Loader
from ebbflow.training.optim import LearningRate

Reconstruction = Literal["l1", "mse"]


@dataclass(frozen=True, kw_only=True)
class AutoencoderStep:
    """What one step did: its number (1 for the first), mean loss, its reconstruction part and KL in nats an image,
    learning rate, and gradient norm before clipping."""

    step: int
    loss: float
    reconstruction: float
    kl: float
    lr: float
    grad_norm: float


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How well images come back: the mean squared error on the scale [-1, 1] and 10 log10(2^2 / mse) in dB."""

    mse: float

    @property
    def psnr(self) -> float:
        """Peak signal to noise ratio in dB; infinite for a perfect copy."""
        return 10 * math.log10(4 / self.mse) if self.mse > 0 else math.inf


def losses_of(
    net: Autoencoder, x: Tensor, noise: Tensor, *, loss: Reconstruction, kl_weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """mean |xhat - x|^p + kl_weight KL / numel, p = 1 for "l1" and 2 for "mse"; with the mean and the KL on their own.

    Args:
        x: images (B, C, H, W) in [-1, 1].
        noise: standard normal, of the shape of the code.

    Returns:
        three tensors of shape (B,): the whole, the reconstruction part, the KL in nats.
    """
    decoded, mean, log_var = net(x, noise)
    error = (decoded.float() - x.float()).flatten(1)
    reconstruction = (error.abs() if loss == "l1" else error.square()).mean(1)
    kl = kl_divergence(mean, log_var)
    return reconstruction + kl_weight * kl / error.shape[1], reconstruction, kl


def fit_autoencoder(
    net: Autoencoder,
    loader: Loader,
    optimiser: torch.optim.Optimizer,
    *,
    num_steps: int,
    lr: LearningRate,
    start: int = 0,
    loss: Reconstruction = "mse",
    kl_weight: float = 1e-3,
    seed: int = 0,
    clip: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> Iterator[AutoencoderStep]:
    """Train `net` in place from step `start` to `num_steps`; all randomness of step n comes from (seed, n).

    Args:
        loader: batches by step; conditions are ignored.
        loss, kl_weight: as in `losses_of`.
        clip: largest gradient norm.
        dtype: bfloat16 trains a copy in that precision beside the float32 master.

    Raises:
        FloatingPointError: a loss or gradient that is not finite, before it touches the weights.
    """
    working = WorkingCopy(net.train(), dtype)
    assert isinstance(working.module, Autoencoder)
    device = next(net.parameters()).device
    for step in range(start, num_steps):
        rate, x = lr.at(step), loader.batch(step).x0
        f, latent_channels = net.options.factor, net.options.latent_channels
        places = (-(-x.shape[2] // f), -(-x.shape[3] // f))
        noise = torch.randn(len(x), latent_channels, *places, generator=generator_for(seed, "code", step))
        whole, reconstruction, kl = losses_of(
            working.module, x.to(device), noise.to(device), loss=loss, kl_weight=kl_weight
        )

        def require_finite(value: Tensor, step: int = step, rate: float = rate) -> None:
            if not torch.isfinite(value):
                raise FloatingPointError(
                    f"the loss or its gradient is not finite at step {step + 1} (learning rate {rate:.3g}). The "
                    "weights were not touched. Lower the learning rate, or use engine.precision=fp32."
                )

        norm = descend(whole.mean(), working, optimiser, lr=rate, clip=clip, require_finite=require_finite)
        yield AutoencoderStep(
            step=step + 1,
            loss=float(whole.detach().mean()),
            reconstruction=float(reconstruction.detach().mean()),
            kl=float(kl.detach().mean()),
            lr=rate,
            grad_norm=float(norm),
        )


@torch.no_grad()
def measure_fidelity(net: Autoencoder, batches: Iterable[Tensor], device: torch.device) -> Fidelity:
    """The error of decode(mean(x)) over images in [-1, 1] that come in batches; decoded values are clamped first."""
    total, count = 0.0, 0
    for x in batches:
        error = net(x.to(device))[0].float().clamp(-1, 1).cpu() - x
        total, count = total + float(error.double().square().sum()), count + error.numel()
    return Fidelity(mse=total / count)
