"""Guide a conditional function that knows nothing of ebbflow, by every rule there is.

python examples/guide_a_strangers_net.py
"""

from dataclasses import replace

import torch
from torch import Tensor

import ebbflow as ef

path, means, one = ef.PATHS["vp"](), torch.tensor([[-2.0, 1.0], [2.0, 1.0]]), torch.tensor([1])


def theirs(x_t: Tensor, t: float | Tensor, cond: Tensor, std: float = 0.5) -> Tensor:
    """Their model: eps for a class, and for class -1 without one. Here exact, for two blobs."""
    return ef.oracles.GaussianMixture(means, [std, std], [0.5, 0.5], path).given(cond)(x_t, t).eps


def classify(x_t: Tensor, t: float | Tensor, path: ef.Path) -> Tensor:
    """Their classifier of noisy samples: log p(y | x_t), here exact too."""
    c = path.at(t)
    distance = torch.cdist(x_t, (c.alpha * means).to(x_t))
    return (distance**2 / (c.alpha**2 / 4 + c.sigma**2) / -2).log_softmax(dim=1)


model = ef.FunctionDenoiser(function=theirs, path=path, prediction="eps", make_null=lambda num: torch.full((num,), -1))
worse = replace(model, function=lambda *given: theirs(*given, std=1.0))
rules = ("classifier_free", "cfg_zero_star", "apg")
guided = {name: ef.GUIDANCE[name](model, guidance=3.0).given(one) for name in rules}
guided["autoguidance"] = ef.GUIDANCE["autoguidance"](model, bad=worse, guidance=1.5).given(one)
guided["classifier"] = ef.GUIDANCE["classifier"](model, classifier=classify, labels=one)  # of the model without a class
guided["loss"] = ef.GUIDANCE["loss"](model.given(one), loss=lambda x0: x0[:, 1] ** 2 / 2)  # anything of x0: here, lower
for name, denoiser in {"unguided": model.given(one), **guided}.items():
    *_, last = ef.SAMPLERS["dpmpp_2m"](denoiser, ef.Noise(range(500)).draw((2,)), ef.TIME_GRIDS["uniform"](path, 40))
    (x, y), spread = last.x.mean(0).tolist(), last.x.std(0).mean()
    print(f"{name:16} mean ({x:+.2f}, {y:+.2f}), spread {spread:.2f}")
