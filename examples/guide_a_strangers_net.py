"""Guide a conditional function that knows nothing of ebbflow, by every rule there is.

python examples/guide_a_strangers_net.py
"""

import torch
from torch import Tensor

import ebbflow as ef

path = ef.PATHS["vp"]()
means = torch.tensor([[-2.0, 0.0], [2.0, 0.0]])


def eps_of_somebody(x_t: Tensor, t: float | Tensor, cond: Tensor) -> Tensor:
    """Their model: eps for a class, and for class -1 without one. Here exact, for two blobs of deviation 0.5."""
    law = ef.oracles.GaussianMixture(means, [0.5, 0.5], [0.5, 0.5], path)
    return law.given(cond)(x_t, t).eps


model = ef.FunctionDenoiser(
    function=eps_of_somebody, path=path, prediction="eps", make_null=lambda num: torch.full((num,), -1)
)
times = ef.TIME_GRIDS["uniform"](path, 40)
start = ef.Noise(range(500)).draw((2,))
for name in ("classifier_free", "cfg_zero_star", "apg"):
    for guidance in (0.0, 1.0, 3.0):
        guided = ef.GUIDANCE[name](model, guidance=guidance).given(torch.tensor([1]))
        *_, last = ef.SAMPLERS["dpmpp_2m"](guided, start, times)
        x, y = last.x.mean(0).tolist()
        print(f"{name:16} w = {guidance:g}: mean ({x:+.2f}, {y:+.2f}), spread {last.x.std(0).mean():.2f}")
