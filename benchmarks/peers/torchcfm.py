"""torchcfm: the loop of its class-conditional MNIST notebook."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torchcfm.conditional_flow_matching import ConditionalFlowMatcher
from torchcfm.models.unet import UNetModel
from torchdiffeq import odeint

from benchmarks.contest import Contestant, Training, by_batches
from benchmarks.shared import batches


class Entry(Contestant):
    """`ConditionalFlowMatcher` around a loop by hand."""

    loop = example = "atong01/conditional-flow-matching, examples/images/conditional_mnist.ipynb"
    does = "nothing more"

    def shared(self, net: nn.Module, batch_size: int) -> Training:
        return Training(losses=self._losses(net, batch_size, conditional=False), batch_size=batch_size, net=net)

    def own(self) -> Training:
        net = UNetModel(dim=(1, 28, 28), num_channels=32, num_res_blocks=1, num_classes=10, class_cond=True)

        @torch.no_grad()
        def drawn(labels: Tensor) -> Tensor:
            x, ends = torch.randn(len(labels), 1, 28, 28), torch.linspace(0, 1, 2)
            field = lambda t, x: net(t, x, labels)  # noqa: E731
            out: Tensor = odeint(field, x, ends, atol=1e-4, rtol=1e-4, method="dopri5")[-1]
            return out

        return Training(
            losses=self._losses(net, 128, conditional=True),
            batch_size=128,
            net=net,
            draw=lambda num, labels: by_batches(drawn, labels),
            conditional=True,
            settings="UNetModel of 32 channels, Adam 1e-3; sampled by dopri5 at 1e-4",
        )

    def _losses(self, net: nn.Module, batch_size: int, *, conditional: bool) -> Iterator[float]:
        optimiser, matcher = torch.optim.Adam(net.parameters()), ConditionalFlowMatcher(sigma=0.0)
        for x1, labels in batches(self.data_dir, batch_size):
            optimiser.zero_grad()
            x0 = torch.randn_like(x1)
            t, xt, ut = matcher.sample_location_and_conditional_flow(x0, x1)
            vt = net(t, xt, labels) if conditional else net(xt, t)
            loss = torch.mean((vt - ut) ** 2)
            loss.backward()
            optimiser.step()
            yield loss.item()
