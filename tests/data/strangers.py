"""A stranger's module: one thing for every registry, made with nothing but what is public."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path as File

import torch
from torch import Tensor, nn

import ebbflow as ef
from ebbflow.conditioning import Conditioner
from ebbflow.core.coefficients import Coefficients
from ebbflow.core.operators import Dims, Operator
from ebbflow.core.times import TimeSampler
from ebbflow.data import Dataset, Splits
from ebbflow.methods.couplings import Coupling, Pairing, Pool
from ebbflow.nets import Context, ContextSpec


class Net(nn.Module):
    """Three layers and a condition that is added."""

    def __init__(self, dims: tuple[int, ...], out_channels: int, context: ContextSpec | None, width: int) -> None:
        super().__init__()
        self.out_dims = (out_channels, *dims[1:])
        self.first, self.clock = nn.Linear(torch.Size(dims).numel(), width), nn.Linear(1, width)
        self.told = None if context is None else nn.Linear(context.dim, width)
        self.last = nn.Linear(width, torch.Size(self.out_dims).numel())

    def forward(self, x: Tensor, clock: Tensor, context: Context | None = None) -> Tensor:
        h = self.first(x.flatten(1)) + self.clock(clock[:, None] / 500)
        if self.told is not None and context is not None:
            h = h + self.told(context.vector)
        return self.last(torch.tanh(h)).reshape(-1, *self.out_dims)


@dataclass(frozen=True, kw_only=True)
class NetOptions:
    """A net of three layers."""

    width: int = 16

    def build(self, dims: tuple[int, ...], out_channels: int, context: ContextSpec | None) -> nn.Module:
        return Net(dims, out_channels, context, self.width)


class Parity(Conditioner):
    """Whether a label is odd; 2 for nothing."""

    takes = "odd and even labels"

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.spec, self.table = ContextSpec(dim=dim, injection="add"), nn.Embedding(3, dim)

    def null(self, num: int) -> Tensor:
        return torch.full((num,), 2)

    def encode(self, cond: Tensor) -> Context:
        return Context(vector=self.table(cond))

    def conditions(self, dataset: Dataset) -> Tensor | None:
        return None if dataset.labels is None else dataset.labels % 2

    def of_label(self, label: int) -> Tensor:
        return torch.tensor(label % 2)


@dataclass(frozen=True, kw_only=True)
class DescentOptions:
    """Plain gradient descent."""

    momentum: float = 0.0

    def build(self, net: nn.Module, *, lr: float, weight_decay: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(net.parameters(), lr=lr, weight_decay=weight_decay, momentum=self.momentum)


@dataclass(frozen=True, kw_only=True)
class ParityOptions:
    """By the parity of a label."""

    dim: int = 8
    drop: float = 0.1

    def build(self, facts: object) -> Parity:
        return Parity(self.dim)

    def examples(self, facts: object) -> tuple[int, ...]:
        return (0, 1)


@dataclass(frozen=True, kw_only=True)
class Square(ef.Path):
    """alpha = 1 - t^2, sigma = t."""

    def scales(self, t: Tensor) -> Coefficients:
        return Coefficients(alpha=1 - t**2, sigma=t, alpha_dot=-2 * t, sigma_dot=torch.ones_like(t))

    def unshifted_time_of(self, log_snr: Tensor) -> Tensor:
        r = torch.exp(log_snr / 2)
        return 2 / (r + torch.sqrt(r**2 + 4))


@dataclass(frozen=True, kw_only=True)
class Late(TimeSampler):
    """t = u^(1 / power): mostly noise."""

    power: float = 2.0

    def draw(self, num: int, path: ef.Path, generator: torch.Generator) -> Tensor:
        return (1 - torch.rand(num, generator=generator, dtype=torch.float64)) ** (1 / self.power)

    def density(self, t: Tensor, path: ef.Path) -> Tensor:
        return self.power * t ** (self.power - 1)


@dataclass(frozen=True, kw_only=True)
class Power:
    """t = (1 - i / N)^power."""

    power: float = 1.5

    def __call__(self, path: ef.Path, num_steps: int) -> Tensor:
        return torch.linspace(1, 0, num_steps + 1, dtype=torch.float64) ** self.power


@ef.sampler(order=1, evaluations=lambda num_steps: num_steps)
def patient(denoise: ef.Denoiser, x: Tensor, levels: list[ef.Level], *, keep: float = 0.0) -> Iterator[ef.Step]:
    """DDIM of an x0 that is drawn towards 0."""
    for t, s in pairwise(levels):
        estimate = denoise(x, t.t)
        x = ef.remix(estimate, s) * (1 - keep)
        yield ef.Step(s.t, x, estimate)


def stripes(data_dir: str | File | None = None) -> Splits:
    """Pictures of 6 x 6 with stripes, of two classes."""
    upright = (torch.arange(6) % 2 * 255).to(torch.uint8).expand(6, 6)
    labels = torch.arange(64) % 2
    x = torch.stack([upright, upright.T])[labels][:, None]
    data = Dataset(name="stripes", x=x.contiguous(), labels=labels, label_names=("down", "across"))
    return Splits(train=data.select(torch.arange(48)), held_out=data.select(torch.arange(48, 64)))


def timid(
    denoiser: ef.Denoiser,
    *,
    guidance: float,
    negative: Tensor | None = None,
    interval: tuple[float, float] | None = None,
    rescale: float = 0.0,
    batched: bool | None = None,
    share: float = 0.5,
) -> ef.Denoiser:
    """A share of the guidance."""
    w = 1 + share * (guidance - 1)
    return ef.classifier_free(denoiser, guidance=w, negative=negative, interval=interval, rescale=rescale)


def brightness(target: Tensor, power: float = 2.0) -> object:
    """The mean of an image is the target's."""
    return lambda x0: (x0.flatten(1).mean(1) - target.mean()).abs() ** power


@dataclass(frozen=True, kw_only=True)
class Turned(Coupling):
    """The noise of one row meets the row `by` places on, of the same class."""

    by: int = 1

    def pairing(self, pool: Pool, learned: Tensor | None) -> Pairing:
        def paired(rows: Tensor, eps: Tensor) -> Tensor:
            found = rows.clone()
            for c in pool.classes[rows].unique():
                places = (pool.classes[rows] == c).nonzero().flatten()
                found[places] = rows[places].roll(self.by)
            return found

        return paired


@dataclass(frozen=True, kw_only=True)
class Dimmed(Operator):
    """Every pixel times `by`."""

    by: float = 0.5

    def measure(self, x: Tensor) -> Tensor:
        return self.by * x

    def back(self, y: Tensor, dims: Dims, noise: Tensor) -> Tensor:
        return self.by * y / (self.by**2 + noise.to(y))


NETS = {"three_layers": NetOptions}
OPTIMISERS = {"descent": DescentOptions}
CONDITIONINGS = {"parity": ParityOptions}
PATHS = {"square": Square}
PREDICTIONS = {"rotated": lambda c: (-c.sigma, c.alpha)}
WEIGHTS = {"near": lambda c, d: c.alpha**4}
TIME_SAMPLERS = {"late": Late()}
TIME_GRIDS = {"power": Power()}
COUPLINGS = {"turned": Turned()}
OPERATORS = {"dimmed": Dimmed()}
DATASETS = {"stripes": stripes}
CONDITION_RULES = {"timid": timid}
LOSSES = {"brightness": brightness}
METRICS = {"mean_feature": lambda c: float(c.generated.mean())}
