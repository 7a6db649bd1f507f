"""Optimisers, and their learning rate, a pure function of the step or of the time that is spent."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from ebbflow.training.dealt import part, whole
from ebbflow.values import Below1, check_fields

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al., 2024: steep at 0, singular values end in about [0.7, 1.2]
NARROW = 8  # rows or columns up to which a matrix is left to AdamW


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """The learning rate at step n, counted from 0: linear warm-up, then constant, cosine to 0, or a factor every few
    steps.

    Args:
        peak: the rate after warm-up.
        warmup_steps: steps of linear warm-up.
        schedule: "constant", "cosine" (to 0 at `num_steps`) or "step".
        num_steps: length of the run, where that is a number of steps.
        decay_every: "step" multiplies by `decay_rate` each time so many steps have gone by.
        decay_rate: that factor.
    """

    peak: float
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine", "step"] = "constant"
    num_steps: int = 1
    decay_every: int = 1000
    decay_rate: float = 0.5

    def at(self, step: int, done: float | None = None) -> float:
        """The rate that step `step` uses.

        Args:
            step: counted from 0.
            done: the share of the run before it, in [0, 1], where its length is a time; the cosine then falls over
                the whole of it.
        """
        warm = min(1.0, (step + 1) / (self.warmup_steps + 1))
        if self.schedule == "cosine":
            if done is None:
                done = max(0, step - self.warmup_steps) / max(1, self.num_steps - self.warmup_steps)
            return self.peak * warm * (1 + math.cos(math.pi * min(1.0, done))) / 2
        if self.schedule == "step":
            return self.peak * warm * self.decay_rate ** (step // self.decay_every)
        return self.peak * warm


def adamw(
    parameters: Iterable[nn.Parameter], *, lr: float, weight_decay: float = 0.0, beta1: float = 0.9, beta2: float = 0.99
) -> torch.optim.AdamW:
    """AdamW with betas (beta1, beta2), decaying matrices only (Loshchilov & Hutter, 2017, 1711.05101); on a CPU and on
    CUDA in one pass over the memory."""
    parameters = [p for p in parameters if p.requires_grad]
    groups = _by_decay(parameters, weight_decay)
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    return torch.optim.AdamW(groups, lr=lr, betas=(beta1, beta2), fused=fused or None)


def _by_decay(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Groups of parameters: matrices, which decay, and vectors, which do not."""
    parameters = list(parameters)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


# -- Muon --------------------------------------------------------------------------------------------------------------


def orthogonalised(matrices: Tensor, num_iterations: int = 5) -> Tensor:
    """About the nearest orthogonal matrices U V^T of U S V^T, by the quintic iteration X <- a X + (b A + c A A) X with
    A = X X^T (K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024), all of it done on the
    smaller A; singular values end in about [0.7, 1.2].

    Args:
        matrices: floating (..., rows, columns).
        num_iterations: at least 1; each takes 8 m^3 operations of an m x n matrix with m <= n, and beside them there
            are 4 m^2 n.
    """
    x = matrices if matrices.shape[-2] <= matrices.shape[-1] else matrices.mT
    a, b, c = NEWTON_SCHULZ
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    gram, factor = x @ x.mT, None
    for k in range(num_iterations):  # all factors are polynomials of the first gram, so they commute
        step = b * gram + c * (gram @ gram)
        step.diagonal(dim1=-2, dim2=-1).add_(a)
        factor = step if factor is None else step @ factor
        gram = step @ gram @ step if k < num_iterations - 1 else gram
    x = x if factor is None else factor @ x
    return x if matrices.shape[-2] <= matrices.shape[-1] else x.mT


class Muon(torch.optim.Optimizer):
    """Steps of orthogonalised momentum for matrices of hidden layers, AdamW for everything else (K. Jordan et al.,
    2024; scaled as by J. Liu et al., 2025, 2502.16982, so that AdamW's learning rate and decay carry over):
    m <- momentum m + (1 - momentum) g, w <- w (1 - lr decay) - lr 0.2 sqrt(max(rows, columns)) O(g + momentum (m - g)).

    Args:
        hidden: weights of two dimensions or more; the last ones of a convolution are flattened to (out, in k k).
        others: what AdamW steps.
        lr, weight_decay: of both.
        momentum: in [0, 1).
        beta1, beta2: of AdamW.
    """

    def __init__(
        self,
        hidden: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        *,
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        beta1: float = 0.9,
        beta2: float = 0.99,
    ) -> None:
        hidden, others = list(hidden), list(others)
        self._adamw = adamw([*hidden, *others], lr=lr, beta1=beta1, beta2=beta2)
        groups = [{**group, "is_hidden": False} for group in _by_decay(others, weight_decay)]
        own = {"params": hidden, "weight_decay": weight_decay, "is_hidden": True, "momentum": momentum}
        super().__init__([group for group in (own, *groups) if group["params"]], self._adamw.defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step; `closure` computes the loss anew where it is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["is_hidden"]:
                for weight in group["params"]:
                    if weight.grad is not None:
                        self._step_matrix(weight, weight.grad, group)
        self._adamw.state = self.state
        self._adamw.param_groups = [group for group in self.param_groups if not group["is_hidden"]]
        self._adamw.step()
        return loss

    def _step_matrix(self, weight: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        momentum = state["momentum"].lerp_(grad, 1 - group["momentum"])
        matrix = grad.lerp(momentum, group["momentum"]).flatten(1)
        step = part(orthogonalised(whole(matrix)).reshape(weight.shape), weight)
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(step, alpha=-0.2 * group["lr"] * math.sqrt(max(matrix.shape)))


def hidden_weights(net: nn.Module) -> list[nn.Parameter]:
    """The matrices of a net's hidden layers: weights of linear and convolution layers, but of embeddings, of the first
    and last layers (children called stem, embed, first or head, and an out beside a stem or embed), and narrow ones.

    The first layer of a clock's embedding is one of those: stepped in all directions alike it would learn the waves
    that no training clock tells apart, and at t = 1, where a clock of log-SNR goes beyond those, answer anything.
    """
    edges: set[nn.Module] = set()
    for module in net.modules():
        children = dict(module.named_children())
        first = {"stem", "embed", "first"} & children.keys()
        last = {"head", "out"} if first else {"head"}
        edges |= {children[name] for name in first | (last & children.keys())}
    layers = (nn.Linear, nn.modules.conv._ConvNd)
    inside = [m.get_parameter("weight") for m in net.modules() if isinstance(m, layers) and m not in edges]
    return list(dict.fromkeys(w for w in inside if w.requires_grad and min(w.shape[:2]) > NARROW))


# -- what a configuration says -----------------------------------------------------------------------------------------


class OptimiserOptions(Protocol):
    """An optimiser's own numbers as a frozen dataclass that can build it."""

    def build(self, net: nn.Module, *, lr: float, weight_decay: float) -> torch.optim.Optimizer:
        """The optimiser of all parameters of `net` that learn."""
        ...


@dataclass(frozen=True, kw_only=True)
class AdamWOptions:
    """AdamW, decaying matrices only (Loshchilov & Hutter, 2017, 1711.05101).

    Args:
        beta1, beta2: of the averages of the gradient and of its square, in [0, 1).
    """

    beta1: Below1 = 0.9
    beta2: Below1 = 0.99

    def __post_init__(self) -> None:
        check_fields(self)

    def build(self, net: nn.Module, *, lr: float, weight_decay: float) -> torch.optim.Optimizer:
        """The optimiser of all parameters of `net` that learn."""
        return adamw(net.parameters(), lr=lr, weight_decay=weight_decay, beta1=self.beta1, beta2=self.beta2)


@dataclass(frozen=True, kw_only=True)
class MuonOptions:
    """Orthogonalised momentum for matrices of hidden layers, AdamW for the rest (Jordan et al., 2024; Liu et al., 2025,
    2502.16982).

    Args:
        momentum: of the matrices, in [0, 1).
        beta1, beta2: of AdamW, in [0, 1).
    """

    momentum: Below1 = 0.95
    beta1: Below1 = 0.9
    beta2: Below1 = 0.99

    def __post_init__(self) -> None:
        check_fields(self)

    def build(self, net: nn.Module, *, lr: float, weight_decay: float) -> torch.optim.Optimizer:
        """The optimiser of all parameters of `net` that learn."""
        hidden = hidden_weights(net)
        taken = set(hidden)
        others = [p for p in net.parameters() if p.requires_grad and p not in taken]
        betas = {"beta1": self.beta1, "beta2": self.beta2}
        return Muon(hidden, others, lr=lr, weight_decay=weight_decay, momentum=self.momentum, **betas)


OPTIMISERS: dict[str, type[Any]] = {"adamw": AdamWOptions, "muon": MuonOptions}
