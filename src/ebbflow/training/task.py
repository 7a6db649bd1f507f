"""What is trained: the `Task`, the loss of a batch, the randomness of its rows, and the ready case of a denoiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from ebbflow.core.device import sent
from ebbflow.core.noise import generator_for
from ebbflow.core.paths import Path
from ebbflow.core.predictions import prediction_of
from ebbflow.core.shape import float64_on
from ebbflow.methods.denoise import NetDenoiser
from ebbflow.methods.maps import MapObjective
from ebbflow.methods.objective import Losses, Objective
from ebbflow.training.batches import Batch, as_floats
from ebbflow.training.world import World

if TYPE_CHECKING:
    from PIL.Image import Image

GROUP = 16  # rows that share a generator


@dataclass(frozen=True, kw_only=True)
class Draw:
    """The randomness of some rows of a step's whole batch: the same for a row whatever process, microbatch or device
    holds it.

    Rows have a generator by groups of 16, keyed by (seed, step, group), so nobody draws all that the others need.

    Args:
        seed, step: of the run; the step counted from 0.
        rows: which rows of the whole batch.
        num: rows of the whole batch.
        done: the share of the run that is done before the step, in [0, 1).
    """

    seed: int
    step: int
    rows: range
    num: int
    done: float = 0.0

    def normal(self, dims: tuple[int, ...], purpose: str = "eps") -> Tensor:
        """Standard normal, float32 on the CPU, shape (rows, *dims)."""
        first, last = self.rows.start // GROUP, -(-self.rows.stop // GROUP)
        generators = [generator_for(self.seed, purpose, self.step, group) for group in range(first, last)]
        drawn = torch.cat([torch.randn(GROUP, *dims, generator=generator) for generator in generators])
        return drawn[self.rows.start - first * GROUP :][: len(self.rows)]

    def times(self, law: Callable[[int, torch.Generator], Tensor], purpose: str = "t") -> Tensor:
        """What `law`(num, generator) draws for the whole batch, which may be stratified over it; these rows of it."""
        return law(self.num, generator_for(self.seed, purpose, self.step))[self.rows.start : self.rows.stop]


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The loss of a batch.

    Args:
        each: what is minimised in the mean, (B,).
        level: the time t of each sample, or None for a loss without noise.
        plain: the losses that a reader wants to see, (B,); `each` where None.
        report: further quantities by sample whose means are logged, (B,) each.
    """

    each: Tensor
    level: Tensor | None = None
    plain: Tensor | None = None
    report: dict[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def joined(parts: list[Loss]) -> Loss:
        """The losses of a batch that came in parts, without their graph."""

        def cat(values: list[Tensor | None]) -> Tensor | None:
            kept = [value.detach() for value in values if value is not None]
            return torch.cat(kept) if kept else None

        each = cat([part.each for part in parts])
        assert each is not None
        report = {name: torch.cat([part.report[name].detach() for part in parts]) for name in parts[0].report}
        return Loss(each=each, level=cat([p.level for p in parts]), plain=cat([p.plain for p in parts]), report=report)

    def gathered(self, world: World) -> Loss:
        """The losses of the whole batch, of which every process has a share, in the order of its rows."""
        if world.size == 1:
            return self
        named = {"each": self.each, "level": self.level, "plain": self.plain}
        there = {name: part for name, part in named.items() if part is not None}
        found = dict(zip([*there, *self.report], world.rows([*there.values(), *self.report.values()]), strict=True))
        return Loss(
            each=found["each"],
            level=found.get("level"),
            plain=found.get("plain"),
            report={name: found[name] for name in self.report},
        )


class Task(Protocol):
    """What is trained; a class of it gives a net and its loss, and as much of the rest as it has.

    `net` is stepped, averaged and stored, the objective's own parameters in it. Every method is given the net to use,
    which may be the average. With `fewest_rows` at a time every process calls the net equally often, and one that
    `is_exact` leaves autocast where it has to.
    """

    net: nn.Module
    path: Path | None = None
    fewest_rows: int = 1
    is_exact: bool = False

    def loss(self, net: nn.Module, batch: Batch, draw: Draw) -> Loss:
        """The loss of some rows of a batch; all randomness from `draw`."""
        ...

    def observe(self, loss: Loss) -> None:
        """Be told the losses of the whole batch, after the step."""
        return

    def held_out(self, net: nn.Module) -> dict[str, Any]:
        """Quantities on data that no step sees, in evaluation and without gradients; {} where there is none."""
        return {}

    def picture(self, net: nn.Module) -> Image | None:
        """A picture of what the net can do, under the same conditions."""
        return None

    def card(self) -> str:
        """What this is and how it is used, in Markdown."""
        return ""

    def state(self) -> dict[str, Tensor]:
        """Tensors besides the net that an exact resume needs."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`."""
        return


class Trainable(Protocol):
    """What a `DenoiserTask` trains: a dataclass around a net, such as a NetDenoiser."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def net(self) -> Any: ...


class Joined(nn.Module):
    """A net and what its objective learns beside it, as one module to step, average and store."""

    def __init__(self, inner: nn.Module, objective: nn.Module) -> None:
        super().__init__()
        self.inner, self.objective = inner, objective

    @staticmethod
    def inner_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The net's own part of stored tensors, which may be all of them."""
        return {name.removeprefix("inner."): t for name, t in tensors.items() if not name.startswith("objective.")}


class DenoiserTask(Task):
    """A denoiser, or another model around a net, and its objective.

    Args:
        denoiser: a NetDenoiser, or another dataclass whose `net` is a module.
        objective: its loss; for a NetDenoiser it must have the denoiser's path and prediction.

    Raises:
        ValueError: they do not belong together.
    """

    def __init__(self, denoiser: Trainable, objective: Losses) -> None:
        if not isinstance(getattr(denoiser, "net", None), nn.Module):
            raise ValueError(
                f"only a model whose net is a torch module can be trained, got {type(denoiser).__name__}. Put a net "
                "into ef.NetDenoiser(net=, path=, prediction=); of an open model take its `denoiser`."
            )
        if isinstance(objective, type) or not callable(getattr(objective, "losses", None)):
            raise ValueError(
                f"an objective such as ef.Objective(path, prediction='velocity') comes after the denoiser, "
                f"got {objective!r}."
            )
        self.denoiser, self.objective, self.path = denoiser, objective, objective.path
        self.net: nn.Module = denoiser.net
        self.importance = None
        if isinstance(objective, MapObjective):
            objective.check(denoiser)
            self.fewest_rows, self.is_exact = objective.fewest_rows, objective.kind.is_exact
            _require_same_meaning(denoiser, objective.plain)
        if isinstance(objective, Objective):
            _require_same_meaning(denoiser, objective)
            self.importance = objective.importance
            if objective.uncertainty is not None:
                self.net = Joined(self.net, objective.uncertainty)

    def model(self, net: nn.Module) -> Any:
        """The denoiser with another net's weights."""
        return replace(self.denoiser, net=net.inner if isinstance(net, Joined) else net)  # type: ignore[type-var]

    def loss(self, net: nn.Module, batch: Batch, draw: Draw) -> Loss:
        x0 = as_floats(batch.x0, next(net.parameters()).dtype)
        if isinstance(self.objective, MapObjective):
            return self._map_loss(self.objective, net, replace(batch, x0=x0), draw)
        drawn = float64_on(draw.times(self._times), x0.device)
        t = drawn[:, 0]
        eps = _noise(x0, batch, draw)
        plain = each = self.objective.losses(self.model(net), x0, batch.cond, eps, t)  # type: ignore[arg-type]
        if isinstance(net, Joined):
            u = net.objective(t)
            each = plain * torch.exp(-u) + u
        if self.importance is not None:
            each = each * drawn[:, 1].to(each)
        return Loss(each=each, level=t, plain=plain)

    def _map_loss(self, objective: MapObjective, net: nn.Module, batch: Batch, draw: Draw) -> Loss:
        """The losses of rows that jump and of those that do not, which are told apart in the report."""
        x0, drawn = batch.x0, draw.times(objective.draw)
        eps = _noise(x0, batch, draw)
        each, jumps = objective.losses_of(self.model(net), x0, batch.cond, eps, drawn, draw.done)
        kinds = {"loss_diagonal": ~jumps, "loss_jumps": jumps}
        report = {name: each[sent(rows.nonzero()[:, 0], each.device)] for name, rows in kinds.items()}
        return Loss(each=each, level=drawn[:, 0], report=report)

    def _times(self, num: int, generator: torch.Generator) -> Tensor:
        """t and the weights of its losses, float64 (num, 2)."""
        if self.importance is not None:
            return torch.stack(self.importance.draw(num, generator), dim=1)
        t = self.objective.draw_times(num, generator)
        return torch.stack([t, torch.ones_like(t)], dim=1)

    @torch.no_grad()
    def observe(self, loss: Loss) -> None:
        if self.importance is not None and loss.level is not None and loss.plain is not None:
            sizes = loss.plain
            if isinstance(self.net, Joined):
                sizes = sizes * torch.exp(-self.net.objective(loss.level))
            self.importance.observe(loss.level, sizes)

    def state(self) -> dict[str, Tensor]:
        return {} if self.importance is None else self.importance.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        if self.importance is not None:
            self.importance.load(state)


def _noise(x0: Tensor, batch: Batch, draw: Draw) -> Tensor:
    """The noise of a batch: its own, or what is drawn, on its way to the device of `x0`."""
    eps = draw.normal(tuple(x0.shape[1:])) if batch.eps is None else batch.eps
    return sent(eps, x0.device).to(x0.dtype)


def _require_same_meaning(denoiser: Trainable, objective: Objective) -> None:
    if not isinstance(denoiser, NetDenoiser):
        return
    meant, learnt = prediction_of(denoiser.prediction), prediction_of(objective.prediction)
    if (denoiser.path, meant) != (objective.path, learnt):
        raise ValueError("the denoiser and the objective must share their path and prediction.")
