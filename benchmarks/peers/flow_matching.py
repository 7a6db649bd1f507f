"""flow_matching: the loop of its examples; it ships neither a net nor an example on MNIST."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from flow_matching.path import AffineProbPath
from flow_matching.path.scheduler import CondOTScheduler
from torch import nn

from benchmarks.contest import Contestant, Training
from benchmarks.shared import batches


class Entry(Contestant):
    """`AffineProbPath` around a loop by hand."""

    loop = "facebookresearch/flow_matching, examples/2d_flow_matching.ipynb"
    does = "nothing more"

    def shared(self, net: nn.Module, batch_size: int) -> Training:
        path, optimiser = AffineProbPath(scheduler=CondOTScheduler()), torch.optim.Adam(net.parameters(), lr=1e-3)

        def losses() -> Iterator[float]:
            for x1, _ in batches(self.data_dir, batch_size):
                optimiser.zero_grad()
                sample = path.sample(t=torch.rand(len(x1)), x_0=torch.randn_like(x1), x_1=x1)
                loss = torch.pow(net(sample.x_t, sample.t) - sample.dx_t, 2).mean()
                loss.backward()
                optimiser.step()
                yield loss.item()

        return Training(losses=losses(), batch_size=batch_size, net=net)
