"""Laws of seeded noise, and of the samplers that draw it: their seeds, their moments and their variances."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from conftest import (
    F64,
    MODES,
    NOISY_CASES,
    PATH_CASES,
    Counted,
    Stream,
    each_sampler,
    exact_variance,
    line,
    marginal_variance,
    mixture,
    mixture_data,
    noise_start,
    noisy_sampler,
    normal,
    parts,
    registered_path,
    seeded,
    walk,
    with_noise,
)
from scipy.stats import kstest

from ebbflow.core.noise import Noise, derive_seed, generator_for
from ebbflow.core.paths import Path
from ebbflow.core.predictions import Estimate
from ebbflow.core.times import TIME_GRIDS
from ebbflow.methods.samplers import SAMPLERS

DIMS = [(3,), (2, 5), (1, 28, 28)]


def draws(seeds: list[int], dims: tuple[int, ...], num: int) -> torch.Tensor:
    """`num` draws in a row, shape (num, B, *dims)."""
    noise = Noise(seeds)
    return torch.stack([noise.draw(dims) for _ in range(num)])


@pytest.mark.parametrize("dims", DIMS, ids=str)
def test_a_sample_does_not_know_its_batch(dims: tuple[int, ...]) -> None:
    together = draws([7, 0, 123456789, 3], dims, 11)
    assert torch.equal(draws([123456789], dims, 11)[:, 0], together[:, 2]), "alone"
    assert torch.equal(draws([3, 7], dims, 11)[:, 0], together[:, 3]), "in another place of another batch"
    big = draws(list(range(64)), dims, 11)
    assert torch.equal(big[:, 7], together[:, 0]) and torch.equal(big[:, 3], together[:, 3]), "in a batch of 64"


@pytest.mark.parametrize("dims", DIMS, ids=str)
def test_draws_are_independent_standard_normals(dims: tuple[int, ...]) -> None:
    x = draws(list(range(400)), dims, 17).double()
    flat = x.flatten()
    num = len(flat)
    assert abs(float(flat.mean())) < 4.5 / num**0.5 and abs(float(flat.var()) - 1) < 4.5 * (2 / num) ** 0.5
    assert kstest(flat[:: max(num // 20_000, 1)].numpy(), "norm").pvalue > 1e-4
    for what, left, right in (
        ("draws", x[:-1], x[1:]),
        ("seeds", x[:, :-1], x[:, 1:]),
        ("block ends", x[:8], x[8:16]),
        ("block starts", x[0:9:8], x[1:10:8]),
    ):
        assert abs(float((left * right).mean())) < 4.5 / left.numel() ** 0.5, f"neighbouring {what} are correlated"
    assert len(torch.unique(x.reshape(17 * 400, -1)[:, 0])) > 0.99 * 17 * 400, "draws repeat"


def test_the_first_draw_is_made_alone_and_large_samples_are_never_made_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    draw = Noise._draws
    monkeypatch.setattr(Noise, "_draws", lambda self, num, dims: made.append(num) or draw(self, num, dims))
    small, large = Noise([4, 5]), Noise([4])
    first = small.draw((1, 28, 28))
    assert made == [1], "a deterministic sampler asks for one draw and pays for one"
    for i, seed in enumerate((4, 5)):
        alone = torch.empty(1, 28, 28).normal_(generator=torch.Generator().manual_seed(seed))
        assert torch.equal(first[i], alone)
    for _ in range(9):
        small.draw((1, 28, 28))
    assert made == [1, 8, 8]
    for _ in range(3):
        large.draw((3, 64, 64))
    assert made[3:] == [1, 1, 1], "a draw of 3x64x64 costs far more than the call, so none is kept waiting"


def test_a_draw_that_is_kept_is_never_written_over() -> None:
    noise = Noise([1, 2])
    kept = [noise.draw((5,)) for _ in range(20)]
    assert torch.equal(torch.stack(kept), draws([1, 2], (5,), 20))


def test_dtype_and_device_do_not_change_the_values() -> None:
    single = Noise([1, 2]).like(torch.zeros(2, 6))
    double = Noise([1, 2]).like(torch.zeros(2, 6, dtype=F64))
    half = Noise([1, 2]).like(torch.zeros(2, 6, dtype=torch.bfloat16))
    assert single.dtype == torch.float32 and double.dtype == F64 and half.dtype == torch.bfloat16
    assert torch.equal(single.double(), double) and torch.equal(single.bfloat16(), half)


def test_the_global_generator_is_neither_read_nor_moved() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = Noise([1]).draw((4,))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert torch.equal(Noise([1]).draw((4,)), first)


def test_bad_seeds_and_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="seeds must be 0 or more, got -2"):
        Noise([3, -2])
    with pytest.raises(ValueError, match="2 seeds, one a sample; got a batch of 3"):
        Noise([1, 2]).like(torch.zeros(3, 4))


def test_derived_seeds_are_stable_and_apart() -> None:
    assert derive_seed(0, "step", 500) == 3916610788860614397, (
        "a run's seeds changed: its samples are no longer reproducible"
    )
    seeds = [
        derive_seed(seed, *tags) for seed in range(20) for tags in ((), ("a",), ("b",), ("a", 1), ("a", "1"), (1, "a"))
    ]
    assert len(set(seeds)) == len(seeds) and all(0 <= seed < 2**63 for seed in seeds)
    first, second = (torch.randn(3, generator=generator_for(1, "eps")) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, torch.randn(3, generator=generator_for(1, "times")))


# -- samplers --------------------------------------------------------------------------------------

VP_TABLE = PATH_CASES["vp_discrete"]


@registered_path
@each_sampler
def test_a_sample_depends_on_its_seed_alone(path: Path, name: str, options: dict[str, object]) -> None:
    x, times, oracle = noise_start(path, 8), line(1, 0, 5), mixture(path)
    together = walk(name, oracle, x, times, **seeded(name, options, 8))[-1].x
    assert torch.equal(together, walk(name, oracle, x, times, **seeded(name, options, 8))[-1].x), (
        "same seeds, another result"
    )
    alone = [walk(name, oracle, x[i : i + 1], times, **with_noise(name, options, Noise([i])))[-1].x for i in range(8)]
    torch.testing.assert_close(torch.cat(alone), together, rtol=1e-9, atol=1e-9)
    if (name, options) in NOISY_CASES.values():
        other = walk(name, oracle, x, times, **with_noise(name, options, Noise(range(50, 58))))[-1].x
        assert not torch.isclose(other, together).any(), "the noise has no effect"


@each_sampler
def test_runs_share_no_history(name: str, options: dict[str, object]) -> None:
    first, second = (
        SAMPLERS[name](mixture(VP_TABLE), noise_start(VP_TABLE, 4) + shift, times, **seeded(name, options, 4))
        for shift, times in ((0.0, line(1, 0, 6)), (1.0, line(0.9, 0.2, 6)))
    )
    interleaved = [(a.x, b.x) for a, b in zip(first, second, strict=True)]
    for i, (shift, times) in enumerate(((0.0, line(1, 0, 6)), (1.0, line(0.9, 0.2, 6)))):
        alone = walk(name, mixture(VP_TABLE), noise_start(VP_TABLE, 4) + shift, times, **seeded(name, options, 4))
        assert all(torch.equal(step.x, pair[i]) for step, pair in zip(alone, interleaved, strict=True)), (
            f"run {i} was disturbed"
        )


# -- the laws they sample --------------------------------------------------------------------------


@registered_path
@noisy_sampler
def test_variance_converges_at_the_declared_order(path: Path, name: str, options: dict[str, object]) -> None:
    """Exact variances on Gaussian data of std 0.5, no Monte Carlo: by order inside, and with both ends of the grid."""
    wanted = marginal_variance(path, 0.02, 0.5)
    coarse, fine = (
        abs(exact_variance(name, path, line(0.98, 0.02, n), 0.5, **options) / wanted - 1) for n in (160, 320)
    )
    assert fine < 1e-12 or math.log2(coarse / fine) >= SAMPLERS[name].order - 0.25, f"inside: {coarse} then {fine}"
    coarse, fine = (abs(exact_variance(name, path, line(1, 0, n), 0.5, **options) / 0.25 - 1) for n in (50, 100))
    assert fine < 0.7 * coarse + 1e-9 and fine < 0.13, f"whole grid: {coarse} then {fine}"


@registered_path
@noisy_sampler
def test_stochastic_samplers_find_the_mixture(path: Path, name: str, options: dict[str, object]) -> None:
    """At 80 steps the bias, 16 % of the 4 % of the variance inside modes, is far below the error of 2000 samples."""
    num, (means, stds, weights) = 2000, parts(MODES)
    x = path.mix(mixture_data(num, seed=1), normal(num, 1, seed=2), 1.0)
    x = walk(name, mixture(path), x, line(1, 0, 80), **with_noise(name, options, Stream(3)))[-1].x
    mean = float((weights * means).sum())
    moment = [
        float((weights * k).sum())
        for k in (stds**2 + (means - mean) ** 2, 3 * stds**4 + 6 * (stds * (means - mean)) ** 2 + (means - mean) ** 4)
    ]
    assert abs(float(x.mean()) - mean) < 4.5 * math.sqrt(moment[0] / num), "mean"
    assert abs(float(x.var()) - moment[0]) < 4.5 * math.sqrt((moment[1] - moment[0] ** 2) / num), "variance"
    found = torch.bincount((x - means).abs().argmin(1), minlength=3) / num
    assert ((found - weights).abs() < 4.5 * (weights * (1 - weights) / num).sqrt() + 2e-3).all(), (
        f"mode weights {found}"
    )


# Final variance over 0.25 on the DDPM table, trailing grid of 1000, 250, 50 and 10 steps, if the last kernel is noised
# too.
DDPM_RATIOS = {
    "small": (0.9845, 0.944, 0.789, 0.4448),
    "large": (1.003, 1.013, 1.070, 1.388),
    "optimal": (1.0, 1.0, 1.0, 1.0),
}


@pytest.mark.parametrize("variance", DDPM_RATIOS)
def test_ddpm_variances_are_the_published_regression(variance: str) -> None:
    """Trap 30. The sampler's last step is x0 without noise; those numbers have the last kernel's variance in them."""
    for num_steps, ratio in zip((1000, 250, 50, 10), DDPM_RATIOS[variance], strict=True):
        times = TIME_GRIDS["trailing"](VP_TABLE, num_steps)
        bars = [1 - float(VP_TABLE.at(t).sigma) ** 2 for t in times]
        total, spread = 0.25 * bars[0] + 1 - bars[0], 0.0
        for bar, bar_s in pairwise(bars):  # textbook recursion: x_s = c_t x_t + c_0 x0(x_t) + noise
            beta, known = 1 - bar / bar_s, math.sqrt(bar) * 0.25 / (0.25 * bar + 1 - bar)
            before, c_0 = total, math.sqrt(bar_s) * beta / (1 - bar)
            small, unknown = beta * (1 - bar_s) / (1 - bar), 0.25 * (1 - bar) / (0.25 * bar + 1 - bar)
            spread = {"small": small, "large": beta, "optimal": small + c_0**2 * unknown}[variance]
            total = (math.sqrt(bar / bar_s) * (1 - bar_s) / (1 - bar) + c_0 * known) ** 2 * before + spread
        assert total / 0.25 == pytest.approx(ratio, abs=1e-9 if variance == "optimal" else 2.5e-3), (
            f"recursion at {num_steps}"
        )
        got = exact_variance("ddpm", VP_TABLE, times, 0.5, variance=variance)
        assert got == pytest.approx(total - spread, rel=1e-8), f"{num_steps} steps: {got / 0.25}"
        if variance == "optimal":
            got = exact_variance("ddpm", VP_TABLE, times[:-1], 0.5, variance=variance)
            assert got == pytest.approx(marginal_variance(VP_TABLE, times[-2], 0.5), rel=1e-12), f"{num_steps} steps"


class Learned(Counted):
    """A denoiser with an opinion on its variance."""

    fraction = 0.0

    def __call__(self, x_t: torch.Tensor, t: float | torch.Tensor) -> Estimate:
        return replace(super().__call__(x_t, t), log_variance_fraction=torch.full_like(x_t, self.fraction))


def test_learned_variance_runs_from_small_to_large() -> None:
    learned, args = Learned(mixture(VP_TABLE)), (noise_start(VP_TABLE, 8), line(1, 0, 5))
    for learned.fraction, variance in ((0.0, "small"), (1.0, "large")):
        got = walk("ddpm", learned, *args, noise=Noise(range(8)), variance="learned")[-1].x
        want = walk("ddpm", mixture(VP_TABLE), *args, noise=Noise(range(8)), variance=variance)[-1].x
        torch.testing.assert_close(got, want)
