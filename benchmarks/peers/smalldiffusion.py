"""smalldiffusion: its `training_loop`, and its class-conditional diffusion transformer."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.contest import Contestant, Training, Walk, alpha_bars, by_batches, stand_in
from benchmarks.peers import PEERS
from benchmarks.shared import DIMS, loader_of

stand_in(*PEERS["smalldiffusion"].without)

from accelerate import Accelerator  # noqa: E402
from smalldiffusion import (  # noqa: E402
    CondEmbedderLabel,
    DiT,
    MappedDataset,
    ModelMixin,
    Schedule,
    ScheduleDDPM,
    samples,
    training_loop,
)
from torch import Tensor, nn  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402
from torch_ema import ExponentialMovingAverage  # noqa: E402


class Model(nn.Module, ModelMixin):
    """A net as their loop calls one."""

    input_dims = DIMS

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        out: Tensor = self.net(x, sigma.flatten())
        return out


class Entry(Contestant):
    """`training_loop`, `samples` and the average of torch-ema."""

    loop = "yuanchenyang/smalldiffusion, examples/fashion_mnist_dit.py"
    does = "EMA"
    example = "yuanchenyang/smalldiffusion, examples/fashion_mnist_dit_cond.py (its batch of 1024 is 128 here)"

    def shared(self, net: nn.Module, batch_size: int) -> Training:
        losses, _ = self._train(Model(net), batch_size, decay=0.99, conditional=False)
        return Training(losses=losses, batch_size=batch_size, net=net)

    def own(self) -> Training:
        embedder = CondEmbedderLabel(32 * 6, 10, 0.1)
        net = DiT(
            in_dim=28, channels=1, patch_size=2, depth=6, head_dim=32, num_heads=6, mlp_ratio=4.0, cond_embed=embedder
        )
        losses, average = self._train(net, 128, decay=0.99, conditional=True)

        def drawn(labels: Tensor) -> Tensor:
            with average.average_parameters():
                for x in samples(net, _schedule().sample_sigmas(20), gam=1.6, batchsize=len(labels), cond=labels):
                    last = x
            net.train()
            return last

        return Training(
            losses=losses,
            batch_size=128,
            net=net,
            draw=lambda num, labels: by_batches(drawn, labels),
            conditional=True,
            settings="DiT (192, 6, patch 2), eps, AdamW 1e-3, EMA 0.99; sampled with gam 1.6, 20 steps",
        )

    def walk(self, net: nn.Module, method: str, num_steps: int) -> Walk | None:
        if method != "ddim":
            return None
        model, schedule = Model(net), Schedule(((1 - alpha_bars()) / alpha_bars()).sqrt().float())
        accelerator = Accelerator()

        def walked(noise: Tensor) -> Tensor:
            sigmas = schedule.sample_sigmas(num_steps)
            for x in samples(model, sigmas, batchsize=len(noise), xt=noise * sigmas[0], accelerator=accelerator):
                last = x
            return last

        return walked

    def _train(
        self, net: nn.Module, batch_size: int, *, decay: float, conditional: bool
    ) -> tuple[Iterator[float], ExponentialMovingAverage]:
        loader = loader_of(self.data_dir, batch_size)
        if not conditional:
            data = MappedDataset(loader.dataset, lambda row: row[0])
            loader = DataLoader(data, batch_size=batch_size, shuffle=True, drop_last=True)
        average = ExponentialMovingAverage(net.parameters(), decay=decay)

        def losses() -> Iterator[float]:
            loop = training_loop(loader, net, _schedule(), epochs=10**6, lr=1e-3, conditional=conditional)
            before = next(loop)  # it yields between the loss and its gradient
            for after in loop:
                average.update()
                yield before.loss.item()
                before = after

        return losses(), average


def _schedule() -> ScheduleDDPM:
    return ScheduleDDPM(beta_start=0.0001, beta_end=0.02, N=1000)
