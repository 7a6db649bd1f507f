"""Operations that a CPU trains faster than by torch's own: the same values and gradients, to rounding.

They are used inside `fused()`, which a training step is, for backward differentiation in float32 and bfloat16.
Everywhere else, and there too without gradients, on another device and under torch's transforms (compile, vmap, jvp),
torch's own operations do; and where a gradient is differentiated again, it is theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

SMALLEST = 2**24  # multiplications of a matrix product from which oneDNN's is worth its call
BLOCK = 2**17  # numbers that are worked on at a time, so that what lies between stays in the cache
SLOPE, CUBE = 2 * math.sqrt(2 / math.pi), 0.044715  # gelu(h) = h sigmoid(SLOPE (h + CUBE h^3))

_IS_ON: ContextVar[bool] = ContextVar("fused", default=False)


@contextmanager
def fused() -> Iterator[None]:
    """Where the operations of this file may be used."""
    token = _IS_ON.set(True)
    try:
        yield
    finally:
        _IS_ON.reset(token)


def is_trained(x: Tensor, *weights: Tensor) -> bool:
    """Whether a CPU is to differentiate backwards, and no more than that, what is made of `x` and `weights`."""
    return (
        _IS_ON.get()
        and x.device.type == "cpu"
        and torch.is_grad_enabled()
        and any(k.requires_grad for k in (x, *weights))
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
    )


def multiplied_in(x: Tensor) -> torch.dtype:
    """The dtype of matrix products with `x`: autocast's, where there is one."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _again(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor | None, ...]:
    """The gradient by torch's own operations, which can be differentiated once more."""
    with torch.enable_grad():
        wanted = [k for k in inputs if k.requires_grad]
        found = iter(torch.autograd.grad(function(*inputs), wanted, grad, create_graph=True))
    return tuple(next(found) if k.requires_grad else None for k in inputs)


class Linear(nn.Linear):
    """A linear layer; oneDNN multiplies it, with its bias, and its input's gradient."""

    def forward(self, x: Tensor) -> Tensor:
        if not is_trained(x, self.weight):
            return super().forward(x)  # first of all, for `torch.export` would take a size that is asked for as fixed
        dtype = multiplied_in(x)
        is_large = x.numel() * self.out_features >= SMALLEST and torch.backends.mkldnn.is_available()
        if not is_large or dtype not in (torch.float32, torch.bfloat16):
            return super().forward(x)
        bias = None if self.bias is None else self.bias.to(dtype)
        out: Tensor = _Linear.apply(x.to(dtype), self.weight.to(dtype), bias)
        return out


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x weight^T + bias of matrices; addmm would copy the bias first, and MKL is slower than oneDNN on some CPUs."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        return _product(x.reshape(-1, x.shape[-1]), weight, bias).view(*x.shape[:-1], len(weight))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, bias = ctx.saved_tensors
        if torch.is_grad_enabled():
            inputs = (x, weight) if bias is None else (x, weight, bias)
            return (*_again(nn.functional.linear, inputs, grad), None)[:3]
        rows = grad.reshape(-1, grad.shape[-1])
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        return (
            _product(rows, weight.t().contiguous(), None).view_as(x) if wants_x else None,
            rows.t() @ x.reshape(-1, x.shape[-1]) if wants_weight else None,
            rows.sum(0) if wants_bias else None,
        )


class GELU(nn.Module):
    """h sigmoid(2 sqrt(2 / pi) (h + 0.044715 h^3)), which is h (1 + tanh(half of that)) / 2 (Hendrycks & Gimpel, 2016,
    1606.08415); its slope is found on the way."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype in (torch.float32, torch.bfloat16) and is_trained(x):
            out: Tensor = _GELU.apply(x.contiguous())
            return out
        return _gelu(x)


def _gelu(x: Tensor) -> Tensor:
    return nn.functional.gelu(x, approximate="tanh")


class _GELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out, slope = torch.empty_like(x), torch.empty_like(x)
        scratch = torch.empty(4, min(BLOCK, x.numel()))
        for parts in zip(*(k.view(-1).split(BLOCK) for k in (x, out, slope)), strict=True):
            _gelu_block(*parts, *scratch[:, : len(parts[0])])
        ctx.save_for_backward(x, slope)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor | None:  # type: ignore[override]
        x, slope = ctx.saved_tensors
        return _again(_gelu, (x,), grad)[0] if torch.is_grad_enabled() else grad * slope


def _gelu_block(x: Tensor, out: Tensor, slope: Tensor, h: Tensor, inner: Tensor, gate: Tensor, spare: Tensor) -> None:
    """Fill `out` and `slope`, with four scratch vectors: slope = gate + SLOPE (3 inner - 2 h) gate (1 - gate)."""
    h.copy_(x)
    torch.addcmul(h, torch.mul(h, h, out=spare), h, value=CUBE, out=inner)
    torch.mul(inner, SLOPE, out=gate).sigmoid_()
    torch.mul(h, gate, out=out)
    torch.ops.aten.sigmoid_backward(inner.sub_(h, alpha=2 / 3), gate, grad_input=spare)
    torch.add(gate, spare, alpha=3 * SLOPE, out=slope)
