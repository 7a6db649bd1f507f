"""Numbers near the ends: paths that leave float range are refused when they are made, all others are finite at every
prediction, sampler and grid from one step up."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path as FilePath

import pytest
import torch
from conftest import PATH_CASES, WALKERS, is_valid, seeded, walk
from torch import Tensor

from ebbflow.config import parse
from ebbflow.core.paths import PATHS, VE, VP, CosineDiscrete, Flow, Path, SubVP, VPDiscrete
from ebbflow.core.predictions import PREDICTIONS
from ebbflow.core.shape import per_sample
from ebbflow.core.times import TIME_GRIDS
from ebbflow.data import load_dataset
from ebbflow.methods.denoise import FunctionDenoiser
from ebbflow.methods.oracles import Gaussian
from ebbflow.methods.told import require_told
from ebbflow.runs.tasks.model import ModelTask

OUT_OF_RANGE: dict[str, tuple[Callable[[], Path], str]] = {
    "shift far up": (lambda: Flow(shift=1e30), r"`shift` must be in \[0.0001, 10000.0\]"),
    "shift far down": (lambda: VE(shift=1e-30), "`shift`"),
    "all noise": (lambda: VP(beta_max=900.0), "`beta_min` = 0.1, `beta_max` = 900"),
    "sub_vp underflows": (lambda: SubVP(beta_max=900.0), "`beta_max` = 900"),
    "no noise": (lambda: VP(beta_min=1e-30, beta_max=1e-30), "`beta_min` = 1e-30"),
    "next to no noise": (lambda: SubVP(beta_min=1e-6, beta_max=1e-6), "`beta_max` = 1e-06"),
    "beta overflows": (lambda: VP(beta_min=1e300, beta_max=1e308), "`beta_min` must be in"),
    "sigma underflows": (lambda: VE(sigma_min=1e-308), "`sigma_min` must be in"),
    "sigma of both ends": (lambda: VE(sigma_min=1e-20, sigma_max=1e15), "`sigma_min` must be in"),
    "a table of noise": (lambda: VPDiscrete(beta_start=0.9, beta_end=0.999), "`beta_start` = 0.9"),
}

FAR: dict[str, Path] = {
    "flow/1e4": Flow(shift=1e4),
    "flow/1e-4": Flow(shift=1e-4),
    "vp/100": VP(beta_max=100.0),
    "vp/shift1e4": VP(shift=1e4),
    "sub_vp/120": SubVP(beta_max=120.0),
    "sub_vp/little": SubVP(beta_min=0.02, beta_max=0.02),
    "ve/1e15": VE(sigma_min=1e-3, sigma_max=1e15),
    "ve/18 decades": VE(sigma_min=1e-9, sigma_max=1e9),
    "vp_discrete/0.5": VPDiscrete(beta_start=0.01, beta_end=0.1),
    "cosine_discrete/flat": CosineDiscrete(offset=1.0),
    "cosine_discrete/long": CosineDiscrete(num_steps=20_000),
}
ENDS: dict[str, Path] = {**PATH_CASES, **FAR}


def exact(path: Path, prediction: str) -> FunctionDenoiser:
    """The output, in float32, of a net that knows Gaussian data exactly."""
    known = Gaussian(0.1, 0.5, path)

    def output(x: Tensor, t: float | Tensor) -> Tensor:
        found = known(x.double(), t)
        a, b = PREDICTIONS[prediction](path.at(t))
        return (per_sample(a, x) * found.x0 + per_sample(b, x) * found.eps).to(x.dtype)

    return FunctionDenoiser(function=output, path=path, prediction=prediction)


def walked(path: Path, prediction: str, sampler: str, grid: str, steps: int) -> Tensor | None:
    """Where three samples end; None where the pair or the number of steps is refused."""
    if not is_valid(prediction, path):
        return None
    try:
        times = TIME_GRIDS[grid](path, steps)
    except ValueError:
        return None
    start = torch.randn(3, 2, generator=torch.Generator().manual_seed(1)) * float(path.at(times[0]).sigma)
    with torch.no_grad():
        return walk(sampler, exact(path, prediction), start, times, **seeded(sampler, {}, 3))[-1].x


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_a_path_that_leaves_the_range_of_floats_is_refused_with_its_keys(name: str) -> None:
    make, says = OUT_OF_RANGE[name]
    with pytest.raises(ValueError, match=says):
        make()


@pytest.mark.parametrize("name", ENDS)
def test_every_sampler_is_finite_from_one_step_up(name: str) -> None:
    """The predictions, grids and one or two steps in turn; all of them together below."""
    turns = itertools.cycle(PREDICTIONS), itertools.cycle(TIME_GRIDS)
    for i, sampler in enumerate(WALKERS, start=[*ENDS].index(name)):
        steps = 1 + i % 2
        found = next(x for p in turns[0] if (x := walked(ENDS[name], p, sampler, next(turns[1]), steps)) is not None)
        assert bool(found.isfinite().all()), (sampler, steps)


@pytest.mark.long
@pytest.mark.parametrize("name", ENDS)
def test_every_path_prediction_sampler_and_grid_is_finite_from_one_step_up(name: str) -> None:
    bad, made = [], 0
    for case in itertools.product(PREDICTIONS, WALKERS, TIME_GRIDS, (1, 2, 3)):
        found = walked(ENDS[name], *case)
        made += found is not None
        if found is not None and not bool(found.isfinite().all()):
            bad.append(case)
    assert not bad and made >= 2 * len(WALKERS) * len(TIME_GRIDS), (made, bad[:20])


BLIND = {"flow/1e4", "flow/1e-4", "vp/100", "sub_vp/120", "ve/1e15", "ve/18 decades", "vp_discrete/0.5"}


@pytest.mark.parametrize("name", ENDS)
def test_a_net_is_told_times_apart_or_its_clock_is_refused_with_the_key(name: str) -> None:
    """log-SNR is told up to 20 either way; a quarter of the times beyond it were one time to the net."""
    for clock in ("time", "unit"):
        require_told(ENDS[name], clock)
    if name not in BLIND:
        return require_told(ENDS[name], "log_snr")
    with pytest.raises(ValueError, match=r"the same at \d\d% of the times .* `objective.clock` = 'time'"):
        require_told(ENDS[name], "log_snr")


def test_a_run_with_such_a_clock_is_refused_and_one_that_began_so_goes_on(tmp_path: FilePath) -> None:
    far, net = {"kind": "ve", "sigma_max": 1e15}, {"kind": "mlp", "dim": 8}
    config = parse({"path": far, "net": net})
    with pytest.raises(ValueError, match=r"path 've'.*`objective.clock`"):
        ModelTask(config, load_dataset("digits"), tmp_path)
    (tmp_path / "checkpoints" / "step_000001").mkdir(parents=True)
    ModelTask(config, load_dataset("digits"), tmp_path)
    ModelTask(
        parse({"path": far, "net": net, "objective": {"clock": "time"}}), load_dataset("digits"), tmp_path / "other"
    )


def test_the_list_has_every_kind_of_path() -> None:
    assert {type(path) for path in FAR.values()} >= set(PATHS.values()) - {PATHS["cosine"], PATHS["linear_variance"]}
