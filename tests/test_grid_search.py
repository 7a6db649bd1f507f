"""Learned time grids: the dynamic programme against brute force, deviations against what they are made of."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
import torch
from conftest import F64, Counted, normal

from ebbflow.core.paths import PATHS, Path
from ebbflow.core.times import TIME_GRIDS
from ebbflow.errors import ConfigError
from ebbflow.methods.grid_search import cheapest_path, deviations, trajectory
from ebbflow.methods.oracles import GaussianMixture
from ebbflow.methods.samplers import SAMPLERS
from ebbflow.methods.sampling import walk

PATH = PATHS["cosine"]()


def modes(path: Path) -> GaussianMixture:
    means, stds, weights = [[-1.0, 0.3], [1.0, 0.8]], [0.2, 0.3], [0.5, 0.5]
    return GaussianMixture(*(torch.tensor(values, dtype=F64) for values in (means, stds, weights)), path)


MIXTURE = modes(PATH)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 5, 7])
def test_the_dynamic_programme_finds_what_trying_all_finds(num_steps: int) -> None:
    for seed in range(10):
        costs = torch.rand(7, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        tried = [(0, *inner, 7) for inner in combinations(range(1, 7), num_steps - 1)]
        totals = [sum(float(costs[i, j]) for i, j in pairwise(path)) for path in tried]
        best = min(range(len(tried)), key=totals.__getitem__)
        path, total = cheapest_path(costs, num_steps)
        assert tuple(path) == tried[best] and total == pytest.approx(totals[best])


@pytest.mark.parametrize("num_steps", [0, 8])
def test_too_few_or_too_many_steps_are_refused(num_steps: int) -> None:
    with pytest.raises(ValueError, match="Use 1 to 7"):
        cheapest_path(torch.ones(7, 8, dtype=torch.float64), num_steps)


@pytest.mark.parametrize("name", ["ddim", "heun", "dpmpp_2m"])
def test_a_deviation_is_one_step_against_the_teacher(name: str) -> None:
    times, x = TIME_GRIDS["cosine"](PATH, 6), normal(5, 2)
    rows = list(deviations(lambda: MIXTURE, list(trajectory(MIXTURE, x, times)), times, sampler=name))
    states = [x, *(step.x for step in SAMPLERS["dpmpp_2m"](MIXTURE, x, times))]
    assert len(rows) == 6
    for i, row in enumerate(rows):
        assert bool((row[: i + 1] == torch.inf).all())
        for j in range(i + 1, 7):
            (step,) = SAMPLERS[name](MIXTURE, states[i], times[[i, j]])
            carried = states[-1].square().mean() / states[j].square().mean()
            wanted = float((step.x - states[j]).square().mean() * carried)
            assert float(row[j]) == pytest.approx(wanted, rel=1e-12, abs=1e-30)


def test_steps_from_one_state_share_their_first_evaluation() -> None:
    counted, times = Counted(MIXTURE), TIME_GRIDS["cosine"](PATH, 6)
    states = list(trajectory(counted, normal(3, 2), times))
    list(deviations(lambda: counted, states, times, sampler="ddim"))
    assert len(counted.asked) == 6 + 6
    counted.asked.clear()
    list(deviations(lambda: counted, states, times, sampler="heun"))
    assert len(counted.asked) == 6 + 6 * 5 // 2


@pytest.mark.parametrize("name", ["flow", "cosine", "vp", "ve"])
def test_a_learned_grid_comes_nearer_to_the_exact_end_than_fixed_ones_on_other_points(name: str) -> None:
    path = PATHS[name]()
    exact, times, scale = modes(path), TIME_GRIDS["cosine"](path, 40), float(path.at(1.0).sigma)
    costs = torch.stack(list(deviations(lambda: exact, list(trajectory(exact, scale * normal(64, 2), times)), times)))
    x = scale * normal(200, 2, seed=1)
    *_, end = SAMPLERS["dpmpp_2m"](exact, x, TIME_GRIDS["log_snr"](path, 500))

    def error(grid: torch.Tensor) -> float:
        *_, last = SAMPLERS["ddim"](exact, x, grid)
        return float((last.x - end.x).square().mean())

    for num_steps in (4, 6, 10):
        learned = error(times[cheapest_path(costs, num_steps)[0]])
        assert learned < min(
            error(TIME_GRIDS[name](path, num_steps)) for name in ("uniform", "cosine", "karras", "log_snr")
        )


def test_samplers_that_draw_noise_are_refused() -> None:
    for name, options in (("ddpm", {}), ("ddim", {"eta": 0.5})):
        with pytest.raises(ConfigError, match="draws noise"):
            next(deviations(lambda: MIXTURE, [], TIME_GRIDS["uniform"](PATH, 4), sampler=name, options=options))


def test_walk_takes_the_times_themselves() -> None:
    times = (1.0, 0.7, 0.2, 0.0)
    steps = list(walk(MIXTURE, (2,), [0, 1], sampler="ddim", num_steps=3, times=times))
    assert [step.t for step in steps] == [0.7, 0.2, 0.0]
    same = list(walk(MIXTURE, (2,), [0, 1], sampler="ddim", num_steps=3, times=TIME_GRIDS["uniform"](PATH, 3).tolist()))
    plain = list(walk(MIXTURE, (2,), [0, 1], sampler="ddim", num_steps=3, grid="uniform"))
    assert torch.equal(same[-1].x, plain[-1].x)
    with pytest.raises(ValueError, match="need 5 `times`, got 4"):
        walk(MIXTURE, (2,), [0], num_steps=4, times=times)
