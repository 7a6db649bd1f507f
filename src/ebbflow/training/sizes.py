"""The numbers of a step, loss and gradient norm, which a device has before the host does; and the step that goes by
them."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from ebbflow.training import dealt
from ebbflow.training.task import Loss


class Sizes:
    """The numbers of a step, on their way from the device: whoever reads one waits for it.

    Args:
        loss: of the whole batch.
        norm: of the gradient, ().
    """

    def __init__(self, loss: Loss, norm: Tensor) -> None:
        means = [loss.each.mean(), norm, *(value.mean() for value in loss.report.values())]
        self._names, self._there = list(loss.report), torch.stack([value.detach().float() for value in means])
        self._came: torch.cuda.Event | None = None
        self._here = self._there
        if self._there.device.type == "cuda":
            self._here = torch.empty(self._there.shape, pin_memory=True)
            self._here.copy_(self._there, non_blocking=True)
            self._came = torch.cuda.Event()
            self._came.record()

    @property
    def are_here(self) -> bool:
        """Whether they were made on the host."""
        return self._there.device.type == "cpu"

    @property
    def have_come(self) -> bool:
        """Whether they are read without waiting."""
        return self.are_here or (self._came is not None and self._came.query())

    @property
    def bad(self) -> Tensor:
        """1 where loss or gradient is not finite, else 0; float32 () on the device."""
        return 1 - self._there[:2].isfinite().all().float()

    @cached_property
    def read(self) -> tuple[float, float, dict[str, float]]:
        """The mean loss, the gradient norm and the means of what the task reports."""
        if self._came is not None:
            self._came.synchronize()
        loss, norm, *others = self._here.tolist()
        return loss, norm, dict(zip(self._names, others, strict=True))

    @property
    def are_finite(self) -> bool:
        """Whether loss and gradient are."""
        return all(map(math.isfinite, self.read[:2]))


def stepped(optimiser: torch.optim.Optimizer, sizes: Sizes) -> bool:
    """Take the optimiser's step, unless the numbers are not finite; whether it was taken, as far as the host knows.

    Where they are not here, an optimiser that can is told on the device whether to take it, as by torch's
    GradScaler; another one waits for them.
    """
    if not sizes.are_here and _is_told(optimiser):
        optimiser.found_inf = sizes.bad  # type: ignore[attr-defined]
        optimiser.step()
        del optimiser.found_inf  # type: ignore[attr-defined]
        return True
    if sizes.are_finite:
        optimiser.step()
    return sizes.are_finite


def _is_told(optimiser: torch.optim.Optimizer) -> bool:
    """Whether an optimiser reads on the device whether to step; of weights that are dealt out it is not known to."""
    weights = (p for group in optimiser.param_groups for p in group["params"])
    return getattr(optimiser, "_step_supports_amp_scaling", False) and not any(map(dealt.is_dealt, weights))
