"""The loop that anybody would write in PyTorch, in float32: what every library is measured from."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from benchmarks.contest import Contestant, Training
from benchmarks.shared import batches


class Entry(Contestant):
    """Rectified flow by hand."""

    loop = "benchmarks/peers/plain.py"
    does = "clipping, EMA"

    def shared(self, net: nn.Module, batch_size: int) -> Training:
        average = torch.optim.swa_utils.AveragedModel(
            net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999)
        )
        optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3)

        def losses() -> Iterator[float]:
            net.train()
            for x0, _ in batches(self.data_dir, batch_size):
                noise, t = torch.randn_like(x0), torch.rand(len(x0))
                w = t[:, None, None, None]
                loss = (net((1 - w) * x0 + w * noise, t) - (noise - x0)).square().mean()
                optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimiser.step()
                average.update_parameters(net)
                yield loss.item()

        return Training(losses=losses(), batch_size=batch_size, net=net)
