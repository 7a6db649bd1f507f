"""The task of an autoencoder, whose end is a latent space."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn

from ebbflow.config import AutoencoderConfig
from ebbflow.core.device import sent, weighed
from ebbflow.core.noise import fresh_weights
from ebbflow.core.shape import in_float64
from ebbflow.data import Dataset, Splits, to_uint8
from ebbflow.errors import ConfigError
from ebbflow.files import write_text
from ebbflow.latent import LatentSpace, batches_of
from ebbflow.nets.autoencoder import Autoencoder, kl_divergence
from ebbflow.runs.build import DatasetLoader, augmentation_of, facts_of
from ebbflow.runs.folder import describe
from ebbflow.runs.latent_files import MODEL, save_space
from ebbflow.runs.tasks.base import RunTask
from ebbflow.show import canvas
from ebbflow.training.batches import Batch
from ebbflow.training.engine import device_of
from ebbflow.training.task import Draw, Loss

COLUMNS = 12
MEASURED = 10_000  # training images behind the latent statistics: means to about a thousandth


class AutoencoderTask(RunTask):
    """mean |xhat - x|^p + kl_weight KL / numel, p = 1 for train.loss "l1" and 2 for "mse".

    Args:
        config: the configuration.
        splits: images.
        folder: the autoencoder's.

    Raises:
        ConfigError: points.
    """

    net: Autoencoder
    products = (MODEL,)

    def __init__(self, config: AutoencoderConfig, splits: Splits, folder: Path) -> None:
        if not splits.train.is_image:
            raise ConfigError(f"an autoencoder works on images; {config.data.name!r} holds points. Give other `data`.")
        self.config, self.splits, self.folder, self.facts = config, splits, folder, facts_of(splits.train)
        with fresh_weights(config.train.seed):
            cure = "Make it smaller: see section `autoencoder`."
            self.net = weighed(lambda: config.autoencoder.build(self.facts.dims), "an autoencoder like this", cure)

    def batches(self) -> DatasetLoader:
        train = self.config.train
        return DatasetLoader(
            dataset=self.splits.train,
            cond=None,
            batch_size=train.batch_size,
            seed=train.seed,
            augment=augmentation_of(self.config, self.facts),
        )

    def loss(self, net: nn.Module, batch: Batch, draw: Draw) -> Loss:
        assert isinstance(net, Autoencoder)
        x, train, options = batch.x0, self.config.train, net.options
        noise = draw.normal((options.latent_channels, *(-(-side // options.factor) for side in x.shape[2:])), "code")
        decoded, mean, log_var = net(x, sent(noise, x.device).to(x.dtype))
        error = (decoded.float() - x).flatten(1)
        reconstruction = (error.abs() if train.loss == "l1" else error.square()).mean(1)
        kl = kl_divergence(mean, log_var)
        each = reconstruction + train.kl_weight * kl / error.shape[1]
        return Loss(each=each, report={"reconstruction": reconstruction, "kl": kl})

    @property
    def judged_on(self) -> Dataset:
        """Up to `train.held_out_size` held-out images, or training images where nothing is held out."""
        data = self.splits.held_out if len(self.splits.held_out) else self.splits.train
        return data.select(torch.arange(min(len(data), self.config.train.held_out_size)))

    def held_out(self, net: nn.Module) -> dict[str, Any]:
        """The mean squared error of what comes back, on the scale [-1, 1], and 10 log10(2^2 / mse) in dB."""
        total, count, device = 0.0, 0, device_of(net)
        for x in batches_of(self.judged_on):
            error = net(x.to(device))[0].float().clamp(-1, 1).cpu() - x
            total, count = total + float(in_float64(error).square().sum()), count + error.numel()
        mse = total / count
        return {"held_out_mse": mse, "held_out_psnr": 10 * math.log10(4 / mse) if mse > 0 else math.inf}

    def picture(self, net: nn.Module) -> Image:
        """Held-out images above what comes back of them."""
        x = self.judged_on.x0(torch.arange(min(COLUMNS, len(self.judged_on))))
        back: Tensor = net(x.to(device_of(net)))[0].float().cpu()
        both = to_uint8(torch.cat([x, back]).clamp(-1, 1))
        return canvas.grid(both, columns=len(x), row_names=("original", "decoded"))

    @property
    def latent_dims(self) -> tuple[int, ...]:
        """Shape of one code."""
        options = self.config.autoencoder
        return (options.latent_channels, *(-(-side // options.factor) for side in self.facts.dims[1:]))

    def finish(self, net: nn.Module) -> None:
        """Measure the latent statistics, over evenly spaced training images where there are many, and write what a run
        takes."""
        assert isinstance(net, Autoencoder)
        space, data = LatentSpace(net, self.facts.dims), self.splits.train
        space.measure(batches_of(data.select(torch.arange(0, len(data), -(-len(data) // MEASURED)))))
        facts = {
            **describe(self.config, self.facts),
            "latent": {
                "dims": list(space.latent_dims),
                "mean": space.mean.flatten().tolist(),
                "std": space.std.flatten().tolist(),
            },
            "held_out": {key.removeprefix("held_out_"): value for key, value in self.held_out(net).items()},
        }
        write_text(self.folder / "config.json", json.dumps(facts, indent=2))
        save_space(space, self.folder / MODEL)

    def card(self) -> str:
        shapes = " to latents of ".join("x".join(map(str, dims)) for dims in (self.facts.dims, self.latent_dims))
        num = sum(p.numel() for p in self.net.parameters())
        return f"A KL autoencoder of {num:,} parameters, from images of {shapes}."
