"""Train your own net on your own data by rectified flow, and sample it with Heun's method.

python examples/own_net_and_data.py [STEPS]
"""

import sys

import torch
from torch import nn

import ebbflow as ef


class Net(nn.Module):
    """Any module that answers (x, clock, cond); the clock is one number a sample, here 1000 t."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 2))

    def forward(self, x: torch.Tensor, clock: torch.Tensor, cond: None = None) -> torch.Tensor:
        return self.layers(torch.cat([x, clock[:, None] / 1000], dim=1))


angle = torch.rand(4096, generator=torch.Generator().manual_seed(0)) * 6.2832
ring = torch.stack([angle.cos(), angle.sin()], dim=1)  # any Dataset of tensors, (x, label) pairs or dicts will do
batches = torch.utils.data.DataLoader(ring, batch_size=256, shuffle=True, generator=torch.Generator().manual_seed(1))
num_steps = int(sys.argv[1]) if len(sys.argv) > 1 else 1500

torch.manual_seed(0)
path = ef.PATHS["flow"]()
denoiser = ef.NetDenoiser(net=Net(), path=path, prediction="velocity", clock="time")
optimiser = torch.optim.AdamW(denoiser.net.parameters(), lr=2e-3)
for step in ef.fit(denoiser, ef.Objective(path, prediction="velocity"), batches, optimiser, num_steps=num_steps):
    if step.step % 500 == 0:
        print(f"step {step.step}: loss {step.loss:.3f}")
noise = ef.Noise(range(1000)).draw((2,))
*_, last = ef.SAMPLERS["heun"](denoiser, noise, ef.TIME_GRIDS["uniform"](path, 20))
print(f"mean radius {last.x.norm(dim=1).mean():.3f} (the data's is 1), spread {last.x.norm(dim=1).std():.3f}")
