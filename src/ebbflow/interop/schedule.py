"""What a diffusers scheduler says of a model: its path, what its net predicts, and the times it is sampled at."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebbflow.core.paths import CosineDiscrete, DiscretePath, Flow, Path, VPDiscrete
from ebbflow.core.shape import as_float64
from ebbflow.core.times import TimeGrid
from ebbflow.errors import ConfigError, choose
from ebbflow.methods.told import Clock, RawSteps

PREDICTION_TYPES = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
VARIANCES = {"fixed_large": "large", "learned": "learned", "learned_range": "learned"}
FLOW = "FlowMatchEulerDiscreteScheduler"
SAME_TABLE = 1e-3  # largest difference in log alpha_bar between a table of ours and one kept in float32


@dataclass(frozen=True, kw_only=True)
class TrainedTable(DiscretePath):
    """A discrete path whose betas were written down one by one.

    Args:
        trained_betas: one a table step, each in (0, 1).
    """

    trained_betas: tuple[float, ...]

    def table_betas(self) -> Tensor:
        return torch.tensor(self.trained_betas, dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class TableTimes:
    """The grid of a scheduler with a table of betas: entry k of T, counted from 0, is t = (k + 1) / T.

    The last time is 0, or 1 / T where the scheduler ends at its first entry.

    Args:
        scheduler: of diffusers; it is asked for its timesteps and never changed.
    """

    scheduler: Any = field(repr=False)

    def __call__(self, path: Path, num_steps: int) -> Tensor:
        """num_steps + 1 falling times, float64.

        Raises:
            ValueError: the scheduler has no such grid.
        """
        config = self.scheduler.config
        own = type(self.scheduler).from_config(config)
        if num_steps > config.num_train_timesteps:
            raise self._without(num_steps)
        own.set_timesteps(num_steps)
        visited = torch.unique_consecutive(own.timesteps.cpu().double())
        times = (visited + 1) / config.num_train_timesteps
        if len(times) != num_steps or times[0] > 1:
            raise self._without(num_steps)
        first = 1 / config.num_train_timesteps
        ends_early = not config.get("set_alpha_to_one", True) or config.get("final_sigmas_type") == "sigma_min"
        return torch.cat([times, times.new_tensor([first if ends_early and times[-1] > first else 0.0])])

    def _without(self, num_steps: int) -> ValueError:
        return ValueError(
            f"{type(self.scheduler).__name__} has no grid of {num_steps} steps inside its table of "
            f"{self.scheduler.config.num_train_timesteps}. Use another number of steps, or a grid such as 'trailing'."
        )


@dataclass(frozen=True, kw_only=True)
class FlowTimes:
    """The grid of a flow-matching scheduler: its sigmas, which are t of the flow path, shifted as it shifts them.

    Args:
        scheduler: of diffusers; it is asked for its sigmas and never changed.
        num_tokens: patches of an image, by which a dynamic shift goes.
        plain: start from 1, (N-1)/N, ..., 1/N, as Flux does, and not from what the scheduler starts from by itself.
    """

    scheduler: Any = field(repr=False)
    num_tokens: int
    plain: bool = False

    def __call__(self, path: Path, num_steps: int) -> Tensor:
        """num_steps + 1 falling times from 1 to 0, float64."""
        own = type(self.scheduler).from_config(self.scheduler.config)
        steps: dict[str, Any] = {"num_inference_steps": num_steps}
        if self.plain:
            steps["sigmas"] = np.linspace(1.0, 1 / num_steps, num_steps)
        if own.config.use_dynamic_shifting:
            steps["mu"] = _dynamic_shift(own.config, self.num_tokens)
        own.set_timesteps(**steps)
        return own.sigmas.cpu().double()


def _dynamic_shift(config: Mapping[str, Any], num_tokens: int) -> float:
    """The log of the shift, a line through (base tokens, base shift) and (most tokens, largest shift)."""
    (x0, x1), (y0, y1) = (
        (config["base_image_seq_len"], config["max_image_seq_len"]),
        (config["base_shift"], config["max_shift"]),
    )
    return y0 + (y1 - y0) * (num_tokens - x0) / (x1 - x0)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A scheduler in our words.

    Args:
        path, prediction, clock: of the net's denoiser.
        grid: the times that it visits.
        most_steps: in its table.
        clip: whether x0 is kept inside [-1, 1] on the way.
        variance: of ancestral steps, as the sampler `ddpm` calls it.
    """

    path: Path
    prediction: str
    clock: str | Clock
    grid: TimeGrid
    most_steps: int
    clip: bool = False
    variance: str = "small"


def read_schedule(scheduler: Any, *, num_tokens: int, plain: bool) -> Schedule:
    """The path, prediction and grid of a scheduler of diffusers.

    Args:
        num_tokens, plain: as in `FlowTimes`.

    Raises:
        ConfigError: a scheduler of another kind, or with another prediction.
    """
    config, num_steps = scheduler.config, scheduler.config.get("num_train_timesteps")
    if type(scheduler).__name__ == FLOW:
        grid = FlowTimes(scheduler=scheduler, num_tokens=num_tokens, plain=plain)
        clock: str | Clock = "time" if num_steps == 1000 else lambda path, t: num_steps * as_float64(t)
        return Schedule(path=Flow(), prediction="velocity", clock=clock, grid=grid, most_steps=num_steps)
    alpha_bars = getattr(scheduler, "alphas_cumprod", None)
    if alpha_bars is None or "beta_schedule" not in config:
        raise ConfigError(
            f"the scheduler {type(scheduler).__name__} has no path here. Known: those with a table of betas "
            f"(DDPM, DDIM, PNDM, Euler, DPMSolver, UniPC, ...) and {FLOW}."
        )
    return Schedule(
        path=table_path(config, alpha_bars.cpu().double()),
        prediction=choose(PREDICTION_TYPES, config.prediction_type, "prediction_type of the scheduler"),
        clock=RawSteps(num_steps=num_steps),
        grid=TableTimes(scheduler=scheduler),
        most_steps=num_steps,
        clip=bool(config.get("clip_sample", False)) or bool(config.get("thresholding", False)),
        variance=VARIANCES.get(config.get("variance_type") or "", "small"),
    )


def table_path(config: Mapping[str, Any], alpha_bars: Tensor) -> DiscretePath:
    """The path of a table of betas: one of ours where its formula gives the same table, else the table itself.

    Args:
        config: of the scheduler.
        alpha_bars: its cumulative products, float64 of shape (T,).
    """
    num_steps, zero_snr = int(config["num_train_timesteps"]), bool(config.get("rescale_betas_zero_snr", False))
    named: DiscretePath | None = None
    if config.get("trained_betas") is None and config["beta_schedule"] in ("linear", "scaled_linear"):
        named = VPDiscrete(
            num_steps=num_steps,
            beta_start=config["beta_start"] * num_steps / 1000,
            beta_end=config["beta_end"] * num_steps / 1000,
            spacing=config["beta_schedule"],
            zero_terminal_snr=zero_snr,
        )
    elif config.get("trained_betas") is None and config["beta_schedule"] == "squaredcos_cap_v2":
        named = CosineDiscrete(num_steps=num_steps, zero_terminal_snr=zero_snr)
    if named is not None and _same(named.alpha_bars, alpha_bars):
        return named
    before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bars[:-1]])
    return TrainedTable(num_steps=num_steps, trained_betas=tuple((1 - alpha_bars / before).tolist()))


def _same(ours: Tensor, theirs: Tensor) -> bool:
    inside = (ours > math.exp(-20)) & (theirs > 0)
    return bool(((ours.log() - theirs.log()).abs()[inside] < SAME_TABLE).all())
