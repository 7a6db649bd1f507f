"""k-diffusion: the loop of its train.py, and its transformer for MNIST."""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from benchmarks.contest import Contestant, Training, Walk, alpha_bars, by_batches, stand_in
from benchmarks.peers import PEERS
from benchmarks.shared import loader_of

stand_in(*PEERS["k_diffusion"].without)

import accelerate  # noqa: E402
import k_diffusion as K  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

# configs/config_mnist_transformer.json as of the release, without its augmentation, which needs scikit-image
CONFIG: dict[str, Any] = {
    "model": {
        "type": "image_transformer_v1",
        "input_channels": 1,
        "input_size": [28, 28],
        "patch_size": [4, 4],
        "width": 256,
        "depth": 8,
        "loss_config": "karras",
        "loss_weighting": "soft-min-snr",
        "dropout_rate": 0.05,
        "augment_prob": 0.0,
        "sigma_data": 0.6162,
        "sigma_min": 1e-2,
        "sigma_max": 80,
        "sigma_sample_density": {"type": "cosine-interpolated"},
    },
    "dataset": {"type": "mnist", "location": "data", "num_classes": 10, "cond_dropout_rate": 0.1},
    "optimizer": {"type": "adamw", "lr": 5e-4, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 1e-4},
    "lr_sched": {"type": "constant", "warmup": 0.0},
    "ema_sched": {"type": "inverse", "power": 0.6667, "max_value": 0.9999},
}
SAMPLERS = {"ddim": K.sampling.sample_euler, "heun": K.sampling.sample_heun, "dpmpp_2m": K.sampling.sample_dpmpp_2m}


class Told(nn.Module):
    """A net as their wrapper calls one."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        out: Tensor = self.net(x, sigma)
        return out


class Entry(Contestant):
    """`make_denoiser_wrapper`, `make_sample_density`, `EMAWarmup` and `ema_update`."""

    loop = "crowsonkb/k-diffusion, train.py"
    does = "schedule, EMA"
    example = "crowsonkb/k-diffusion, configs/config_mnist_transformer.json of release 0.1.1"

    def shared(self, net: nn.Module, batch_size: int) -> Training:
        losses, _ = self._train(Told(net), [{"params": list(net.parameters())}], batch_size, conditional=False)
        return Training(losses=losses, batch_size=batch_size, net=net)

    def own(self) -> Training:
        net = K.config.make_model(K.config.load_config(deepcopy(CONFIG)))
        losses, average = self._train(net, net.param_groups(CONFIG["optimizer"]["lr"]), 64, conditional=True)
        sigmas = K.sampling.get_sigmas_karras(50, 1e-2, 80, rho=7.0)

        @torch.no_grad()
        def drawn(labels: Tensor) -> Tensor:
            average.eval()
            x = torch.randn(len(labels), 1, 28, 28) * 80
            out: Tensor = K.sampling.sample_dpmpp_2m_sde(
                average, x, sigmas, extra_args={"class_cond": labels}, eta=0.0, solver_type="heun", disable=True
            )
            return out

        return Training(
            losses=losses,
            batch_size=64,
            net=net,
            draw=lambda num, labels: by_batches(drawn, labels),
            conditional=True,
            settings="transformer (256, 8, patch 4), EDM, AdamW 5e-4; sampled by DPM-Solver++(2M), 50 steps",
        )

    def walk(self, net: nn.Module, method: str, num_steps: int) -> Walk:
        model = K.external.DiscreteEpsDDPMDenoiser(net, alpha_bars().float(), quantize=False)

        def walked(noise: Tensor) -> Tensor:
            sigmas = model.get_sigmas(num_steps)
            out: Tensor = SAMPLERS[method](model, noise * sigmas[0], sigmas, disable=True)
            return out

        return walked

    def _train(
        self, net: nn.Module, groups: list[dict[str, Any]], batch_size: int, *, conditional: bool
    ) -> tuple[Iterator[float], nn.Module]:
        config = K.config.load_config(deepcopy(CONFIG))
        accelerator, average, chosen = accelerate.Accelerator(), deepcopy(net), config["optimizer"]
        optimiser = torch.optim.AdamW(
            groups,
            lr=chosen["lr"],
            betas=tuple(chosen["betas"]),
            eps=chosen["eps"],
            weight_decay=chosen["weight_decay"],
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda _: 1.0)
        warmup = K.utils.EMAWarmup(power=config["ema_sched"]["power"], max_value=config["ema_sched"]["max_value"])
        net, average, optimiser, loader = accelerator.prepare(
            net, average, optimiser, loader_of(self.data_dir, batch_size)
        )
        wrap = K.config.make_denoiser_wrapper(config)
        model, model_average = wrap(net), wrap(average)
        density = K.config.make_sample_density(config["model"])

        def losses() -> Iterator[float]:
            while True:
                for reals, labels in loader:
                    with accelerator.accumulate(model):
                        extra = {}
                        if conditional:
                            dropped = torch.rand(labels.shape) < config["dataset"]["cond_dropout_rate"]
                            extra["class_cond"] = labels.masked_fill(dropped, 10)
                        each = model.loss(reals, torch.randn_like(reals), density([len(reals)]), **extra)
                        loss = accelerator.gather(each).mean().item()
                        accelerator.backward(each.mean())
                        optimiser.step()
                        schedule.step()
                        optimiser.zero_grad()
                        K.utils.ema_update(model, model_average, warmup.get_value())
                        warmup.step()
                    assert math.isfinite(loss)
                    yield loss

        return losses(), model_average
