"""Where and in what precision a net runs: the device, the working copy in bfloat16, the allocator."""

from __future__ import annotations

import copy
import ctypes
import sys
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

Precision = Literal["auto", "fp32", "bf16"]


def pick_device(name: str) -> torch.device:
    """The device called `name`; "auto" is CUDA, then MPS, then the CPU.

    Raises:
        ValueError: the device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device {name!r} is not available here ({str(error).splitlines()[0]}). Use --device cpu."
        ) from error
    return device


def pick_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype that the net trains in; "auto" is bfloat16 where the hardware multiplies it."""
    if precision == "auto":
        if device.type == "cuda":
            precision = "bf16" if torch.cuda.is_bf16_supported() else "fp32"
        else:
            precision = "bf16" if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported() else "fp32"
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def keep_large_blocks() -> None:
    """Have glibc keep freed blocks instead of handing them to the kernel, which page-faults each activation anew; a
    no-op elsewhere."""
    if not sys.platform.startswith("linux"):
        return
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
    except (OSError, AttributeError):
        return


class WorkingCopy:
    """The module that runs forward and backward, beside the float32 master that the optimiser steps.

    In float32 they are one and the same. In bfloat16 the copy's gradients are moved to the master before the step and
    the master's weights to
    the copy after it, so small updates are never lost to rounding.
    """

    def __init__(self, master: nn.Module, dtype: torch.dtype) -> None:
        self.master = master
        self.module = master if dtype == torch.float32 else copy.deepcopy(master).to(dtype)
        self._pairs = (
            list(zip(self.module.parameters(), master.parameters(), strict=True)) if self.module is not master else []
        )

    def collect_gradients(self) -> None:
        """Move the copy's gradients to the master."""
        for own, master in self._pairs:
            master.grad = None if own.grad is None else own.grad.to(master.dtype)
            own.grad = None

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the master's weights."""
        if self._pairs:
            torch._foreach_copy_([own for own, _ in self._pairs], [master for _, master in self._pairs])


def descend(
    loss: Tensor,
    working: WorkingCopy,
    optimiser: torch.optim.Optimizer,
    *,
    lr: float,
    clip: float,
    require_finite: Callable[[Tensor], None],
) -> Tensor:
    """One optimiser step on the master's weights; returns the gradient norm before clipping to `clip`.

    `require_finite` is shown the loss and the norm and raises before either touches the weights.
    """
    for group in optimiser.param_groups:
        group["lr"] = lr
    require_finite(loss)
    loss.backward()
    working.collect_gradients()
    norm = torch.nn.utils.clip_grad_norm_(list(working.master.parameters()), clip)
    require_finite(norm)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    working.refresh()
    return norm
