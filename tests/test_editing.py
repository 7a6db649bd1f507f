"""Editing against closed forms: Gaussian data is linear, a mixture has exact quantiles, a finite data set is its own
model."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from conftest import F64, PATH_CASES, WALKERS, Counted, line, mixture, normal, registered_path
from torch import Tensor

from ebbflow.core.kernels import renoise, transition
from ebbflow.core.noise import Noise
from ebbflow.core.paths import PATHS, Path
from ebbflow.core.predictions import PREDICTIONS
from ebbflow.core.times import TIME_GRIDS
from ebbflow.errors import ConfigError
from ebbflow.methods.denoise import FunctionDenoiser
from ebbflow.methods.editing import (
    Inpainting,
    inpaint,
    interpolate,
    invert,
    last,
    psnr,
    reconstruct,
    sdedit,
    slerp,
    sub_grid,
)
from ebbflow.methods.guidance import classifier_free
from ebbflow.methods.oracles import FiniteData, Gaussian, GaussianMixture
from ebbflow.methods.samplers import SAMPLERS
from ebbflow.methods.sampling import walk

DETERMINISTIC = [name for name in WALKERS if not SAMPLERS[name].stochastic]
each_name = pytest.mark.parametrize("name", WALKERS)
each_deterministic = pytest.mark.parametrize("name", DETERMINISTIC)


def images(num: int = 3, seed: int = 1) -> Tensor:
    return normal(num, 1, 4, 4, seed=seed, dtype=torch.float32).clamp(-1, 1)


# -- the forward chain -------------------------------------------------------------------------------------------------


@registered_path
def test_a_forward_step_followed_by_another_is_the_step_over_both(path: Path) -> None:
    a, b, c = path.at(0.2), path.at(0.5), path.at(0.9)
    first, second, both = transition(a, b), transition(b, c), transition(a, c)
    torch.testing.assert_close(both.scale, first.scale * second.scale, rtol=1e-12, atol=0)
    torch.testing.assert_close(both.variance, second.scale**2 * first.variance + second.variance, rtol=1e-10, atol=0)


def test_on_the_discrete_path_the_forward_step_is_the_betas_of_ddpm() -> None:
    path = PATHS["vp_discrete"]()
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=F64)
    for i in (1, 2, 500, 1000):
        step = transition(path.at((i - 1) / 1000), path.at(i / 1000))
        assert step.variance == pytest.approx(float(betas[i - 1]), rel=1e-9)
        assert step.scale == pytest.approx(math.sqrt(1 - float(betas[i - 1])), rel=1e-9)


@registered_path
def test_the_iterated_chain_has_the_moments_of_the_closed_form(path: Path) -> None:
    """x0 = 1 in one row, and in row k a unit impulse for the k-th noise: mean and variance without Monte Carlo."""
    times = line(0.8, 0.0, 12).flip(0)
    x = torch.zeros(14, 1, dtype=F64)
    x[13] = 1.0
    for k, (s, t) in enumerate(pairwise(times.tolist())):
        x = renoise(path, x, s, t, torch.zeros_like(x).index_fill_(0, torch.tensor([k]), 1.0))
    c = path.at(0.8)
    assert float(x[13]) == pytest.approx(float(c.alpha), rel=1e-10)
    assert float(x[:13].square().sum()) == pytest.approx(float(c.sigma**2), rel=1e-9)


def test_noise_is_not_taken_away_by_adding_it() -> None:
    with pytest.raises(ValueError, match="later t"):
        renoise(PATHS["flow"](), images(), 0.5, 0.4, images())


# -- SDEdit ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("strength", "steps"), [(1.0, 10), (0.6, 6), (0.61, 7), (0.3, 3), (1e-6, 1)])
def test_the_sub_grid_is_the_last_share_of_the_steps(strength: float, steps: int) -> None:
    times = TIME_GRIDS["uniform"](PATHS["flow"](), 10)
    part = sub_grid(times, strength)
    assert part.tolist() == times[10 - steps :].tolist()


@pytest.mark.parametrize("strength", [0.0, -0.1, 1.01, math.nan])
def test_a_strength_outside_is_refused(strength: float) -> None:
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        sub_grid(line(1, 0, 4), strength)


@registered_path
@pytest.mark.parametrize("name", ["heun", "ddpm", "dpmpp_2m_sde"])
def test_strength_1_is_pure_generation_bit_for_bit(path: Path, name: str) -> None:
    data = FiniteData(images(20), path)
    seeds = [3, 4]
    generated = last(walk(data, (1, 4, 4), seeds, sampler=name, num_steps=6))
    edited = last(sdedit(data, images(1, seed=9), Noise(seeds), strength=1.0, sampler=name, num_steps=6))
    everything = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    painted = last(inpaint(data, images(1, seed=9), everything, Noise(seeds), sampler=name, num_steps=6))
    assert torch.equal(edited, generated)
    assert torch.equal(painted, generated)


@registered_path
def test_sdedit_of_gaussian_data_keeps_what_the_closed_form_says(path: Path) -> None:
    """Gain on x0 and on eps of a linear sampler, from two runs; DDIM's product formula is the reference."""
    std, num_steps, strength = 0.5, 8, 0.5
    data = Gaussian(0.0, std, path)
    x0 = torch.tensor([[0.0], [1.0]], dtype=F64)
    with_image = last(sdedit(data, x0, Noise([7, 7]), strength=strength, num_steps=num_steps))
    c = path.at(sub_grid(TIME_GRIDS["uniform"](path, num_steps), strength))
    spread = c.alpha**2 * std**2 + c.sigma**2
    gain = ((c.alpha[1:] * c.alpha[:-1] * std**2 + c.sigma[1:] * c.sigma[:-1]) / spread[:-1]).prod()
    eps = float(Noise([7]).draw((1,)))
    assert float(with_image[1] - with_image[0]) == pytest.approx(float(gain * c.alpha[0]), rel=1e-5)
    assert float(with_image[0]) == pytest.approx(float(gain * c.sigma[0]) * eps, rel=1e-5)


def test_less_strength_stays_nearer_to_the_image() -> None:
    data = FiniteData(images(50), PATHS["flow"]())
    x0, distances = images(1), []
    for strength in (0.2, 0.5, 0.9):
        edits = last(sdedit(data, x0, Noise(range(32)), strength=strength, num_steps=20))
        distances.append(float((edits - x0).square().mean()))
    assert distances[0] == pytest.approx(0, abs=1e-6)  # the image is in the data set, and nearest
    assert distances == sorted(distances)
    assert distances[2] > 0.1


@each_name
def test_an_edit_does_not_depend_on_its_batch(name: str) -> None:
    data, mask = FiniteData(images(20), PATHS["flow"]()), torch.ones(1, 1, 4, 4, dtype=torch.bool).triu()
    x0, sampling = images(1, seed=5), {"sampler": name, "num_steps": 5}
    together = last(inpaint(data, x0, mask, Noise([1, 2, 3]), strength=0.8, resample=2, **sampling))
    alone = last(inpaint(data, x0, mask, Noise([2]), strength=0.8, resample=2, **sampling))
    assert torch.allclose(together[1:2], alone, atol=1e-5)


# -- inpainting --------------------------------------------------------------------------------------------------------


@registered_path
@each_name
def test_the_kept_region_comes_back_exactly(path: Path, name: str) -> None:
    data = FiniteData(images(20), path)
    x0 = images(2, seed=8)
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    mask[..., 2:] = True
    for options in ({}, {"resample": 2, "jump": 2}, {"strength": 0.5}):
        x = last(inpaint(data, x0, mask, Noise([0, 1]), sampler=name, num_steps=5, **options))
        assert torch.equal(x[..., :2], x0[..., :2])
        assert torch.isfinite(x).all()


@registered_path
def test_the_kept_region_has_the_noise_level_of_its_time_on_the_way(path: Path) -> None:
    data = FiniteData(images(20).double(), path)
    x0 = images(1, seed=8).double()
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    eps = Noise([0]).like(x0)
    for step in inpaint(data, x0, mask, Noise([0]), sampler="ddim", num_steps=6):
        assert torch.allclose(step.x, path.mix(x0, eps, step.t), rtol=1e-9, atol=1e-9)


def test_where_pixels_are_independent_inpainting_is_generation() -> None:
    """No information passes between the regions, so what is generated is what would be generated without the image."""
    data = Gaussian(torch.tensor([[0.5, -0.2]]), 0.5, PATHS["cosine"]())
    x0, mask = torch.zeros(4, 1, 2), torch.tensor([[[False, True]]])
    painted = last(inpaint(data, x0, mask, Noise(range(4)), sampler="heun", num_steps=8))
    generated = last(walk(data, (1, 2), range(4), sampler="heun", num_steps=8))
    assert torch.allclose(painted[..., 1], generated[..., 1], atol=1e-6)
    assert torch.equal(painted[..., 0], x0[..., 0])


def test_resampling_brings_the_region_nearer_to_its_conditional_law() -> None:
    """Two modes (2, 2) and (-2, -2): given the first coordinate the second is known up to 0.3."""
    data = GaussianMixture([[2.0, 2.0], [-2.0, -2.0]], 0.3, [0.5, 0.5], PATHS["flow"]())
    x0, mask, right = torch.full((1, 2), 2.0), torch.tensor([[False, True]]), []
    for resample in (1, 4, 16):
        noise = Noise(range(400))
        x = last(inpaint(data, x0, mask, noise, sampler="ddpm", num_steps=20, resample=resample))
        right.append(float(((x[:, 1] - 2).abs() < 1.2).double().mean()))
    assert right[0] < 0.97
    assert right[0] < right[1] <= right[2]
    assert right[2] > 0.99


def test_resampling_walks_every_piece_so_often() -> None:
    data = Counted(FiniteData(images(10), PATHS["flow"]()))
    mask = torch.ones(1, 1, 4, 4, dtype=torch.bool).triu()
    steps = list(inpaint(data, images(1), mask, Noise([0]), num_steps=6, resample=3, jump=2))
    assert len(steps) == len(data.asked) == 18
    assert [round(t * 6) for t in data.asked] == [6, 5] * 3 + [4, 3] * 3 + [2, 1] * 3


@pytest.mark.parametrize("options", [{"resample": 0}, {"jump": 0}, {"strength": 0.0}])
def test_a_bad_inpainting_is_refused_at_once(options: dict[str, float]) -> None:
    data, mask = FiniteData(images(10), PATHS["flow"]()), torch.ones(1, 1, 4, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="must be"):
        inpaint(data, images(1), mask, Noise([0]), **options)


def test_inpainting_wraps_a_guided_model_and_takes_conditions() -> None:
    data = GaussianMixture([[1.0, 0.0], [-1.0, 0.0]], 0.2, [0.5, 0.5], PATHS["flow"]())
    keeping = Inpainting(
        inner=classifier_free(data, guidance=2.0), known=torch.zeros(1, 2), mask=torch.tensor([[True, False]])
    )
    assert keeping.null(2).tolist() == [-1, -1]
    estimate = keeping.given(torch.tensor([0]))(torch.randn(3, 2, generator=torch.Generator().manual_seed(0)), 0.5)
    assert torch.equal(estimate.x0[:, 1], torch.zeros(3))
    assert bool((estimate.x0_variance[:, 1] == 0).all())


# -- inversion ---------------------------------------------------------------------------------------------------------


def reconstruct_gain(path: Path, times: Tensor, std: float, iterations: int) -> float:
    """Inversion then DDIM on data N(0, std^2). A step projects in the plane of (alpha std, sigma), so two steps between
    the same levels, there and back, multiply by the squared cosine of their angle."""
    c = path.at(times)
    a, s = c.alpha * std, c.sigma
    spread = a**2 + s**2
    inner = ((a[1:] * a[:-1] + s[1:] * s[:-1]) ** 2 / (spread[1:] * spread[:-1]))[:-1].prod()
    alpha, share = c.alpha[-2], s[-2] ** 2 / spread[-2]
    x_m = torch.tensor(1.0, dtype=F64)
    for _ in range(iterations):
        x_m = alpha + share * x_m
    return float(inner * x_m * a[-2] * std / spread[-2])


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_ddim_reconstruction_of_gaussian_data_is_the_closed_form(name: str, iterations: int) -> None:
    path = PATH_CASES[name]
    x0 = torch.tensor([[1.0], [-0.3]], dtype=F64)
    for num_steps in (3, 10, 50):
        times = TIME_GRIDS["uniform"](path, num_steps)
        again = reconstruct(Gaussian(0.0, 0.5, path), x0, times, iterations=iterations)
        assert torch.allclose(
            again / x0, torch.full_like(x0, reconstruct_gain(path, times, 0.5, iterations)), rtol=1e-9
        )


@pytest.mark.parametrize(
    ("num_steps", "gain"), [(10, 0.5780), (50, 0.8914), (100, 0.9435), (250, 0.9767), (1000, 0.9940)]
)
def test_the_known_gains_of_ddim_inversion_on_ddpms_table(num_steps: int, gain: float) -> None:
    """Published for such a set-up: .523 .891 .944 .978 .994 (their 10 steps are spaced otherwise)."""
    path = PATHS["vp_discrete"]()
    x0 = torch.ones(1, 1, dtype=F64)
    times = TIME_GRIDS["uniform"](path, num_steps)
    again = reconstruct(Gaussian(0.0, 0.5, path), x0, times, iterations=0)
    assert float(again) == pytest.approx(gain, abs=6e-5)


@pytest.mark.parametrize("name", PATHS)
def test_the_first_step_looks_for_the_inverse_of_the_last_step_of_sampling(name: str) -> None:
    """The more turns, the nearer the x0 of the state found is to the image."""
    data = mixture(PATH_CASES[name])
    x0 = torch.tensor([[-2.1], [0.4], [2.4]], dtype=F64)
    times = TIME_GRIDS["uniform"](data.path, 20)
    found = [step.x for step in invert(data, x0, times, iterations=40)][39]
    errors = [float((data(x, float(times[-2])).x0 - x0).abs().max()) for x in (x0, found)]
    assert errors[1] < 0.2 * errors[0]
    assert errors[1] < 1e-6 or name == "linear_variance"  # there the last step is large, and turns slowly


@pytest.mark.parametrize("path", [PATH_CASES["flow"], PATH_CASES["vp_discrete"]], ids=["flow", "vp_discrete"])
@each_deterministic
def test_inversion_and_sampling_together_have_the_order_of_the_sampler(path: Path, name: str) -> None:
    """At points where the data is; between the modes the flow stretches so much that the asymptotic rate comes late."""
    x = torch.tensor([-2.3, -2.0, -1.8, 0.2, 0.8, 2.3, 2.7], dtype=F64)[:, None]
    data, errors = mixture(path), []
    if SAMPLERS[name].is_adaptive:  # its accuracy is its tolerance's, whatever the grid
        assert torch.allclose(reconstruct(data, x, line(0.98, 0.02, 8), sampler=name), x, atol=1e-2)
        return
    for n in (64, 256) if SAMPLERS[name].evaluations(10) > 10 else (256, 1024):
        errors.append(float((reconstruct(data, x, line(0.98, 0.02, n), sampler=name) - x).abs().mean()))
    assert math.log2(errors[0] / errors[1]) / 2 >= SAMPLERS[name].order - 0.25


@pytest.mark.parametrize("name", ["heun", "rk4"])
def test_the_whole_way_from_0_to_1_keeps_the_order_too(name: str) -> None:
    x = torch.tensor([-2.3, -2.0, -1.8, 0.2, 0.8, 2.3, 2.7], dtype=F64)[:, None]
    data, errors = mixture(PATHS["flow"]()), []
    for n in (32, 128):
        errors.append(float((reconstruct(data, x, line(1, 0, n), sampler=name, iterations=20) - x).abs().mean()))
    assert math.log2(errors[0] / errors[1]) / 2 >= SAMPLERS[name].order - 0.25


@pytest.mark.parametrize("path", [PATH_CASES["flow"], PATH_CASES["vp"]], ids=["flow", "vp"])
@each_deterministic
def test_inversion_reaches_the_noise_that_the_exact_flow_reaches(path: Path, name: str) -> None:
    """Gaussian data: the ODE scales by the ratio of the marginals' standard deviations."""
    x0, times = torch.tensor([[1.0], [-0.4]], dtype=F64), TIME_GRIDS["uniform"](path, 400)
    noise = last(invert(Gaussian(0.0, 0.5, path), x0, times, sampler=name, iterations=20))
    c = path.at(1.0)
    exact = float(torch.sqrt((c.alpha * 0.5) ** 2 + c.sigma**2) / 0.5)
    assert torch.allclose(noise, exact * x0, rtol=0.03)


@registered_path
@each_deterministic
def test_inversion_is_finite_on_every_grid_and_any_number_of_steps(path: Path, name: str) -> None:
    data, x0 = mixture(path), torch.tensor([[0.3]], dtype=F64)
    for grid in ("uniform", "karras", "log_snr"):
        for num_steps in (2, 3, 7):
            assert torch.isfinite(reconstruct(data, x0, TIME_GRIDS[grid](path, num_steps), sampler=name)).all()


def test_a_prediction_that_is_singular_at_0_can_be_inverted() -> None:
    """x0-prediction knows no eps at sigma = 0: a net in it must never be asked there."""
    path = PATHS["flow"]()
    exact, asked = Gaussian(0.0, 0.5, path), []

    def function(x_t: Tensor, t: float | Tensor) -> Tensor:
        asked.append(float(t))
        a, b = PREDICTIONS["x0"](path.at(t))
        estimate = exact(x_t, t)
        return a * estimate.x0 + b * estimate.eps

    x0, times = torch.ones(1, 1, dtype=F64), TIME_GRIDS["uniform"](path, 10)
    again = reconstruct(FunctionDenoiser(function=function, path=path, prediction="x0"), x0, times, sampler="heun")
    assert torch.isfinite(again).all()
    assert min(asked) == pytest.approx(0.1)


@pytest.mark.parametrize("iterations", [0, 3])
def test_what_inversion_costs(iterations: int) -> None:
    data = Counted(mixture(PATHS["flow"]()))
    steps = list(invert(data, torch.zeros(1, 1, dtype=F64), line(1, 0, 10), iterations=iterations))
    assert len(data.asked) == len(steps) == iterations + 9
    assert [s.t for s in steps] == sorted(s.t for s in steps)
    assert steps[-1].t == 1


def test_the_image_is_not_changed_in_place() -> None:
    x0 = images(1)
    before = x0.clone()
    data = FiniteData(images(10), PATHS["flow"]())
    reconstruct(data, x0, line(1, 0, 5), sampler="heun")
    last(sdedit(data, x0, Noise([0])))
    assert torch.equal(x0, before)


def test_bad_inversions_are_refused() -> None:
    data, x0 = mixture(PATHS["flow"]()), torch.zeros(1, 1, dtype=F64)
    with pytest.raises(ValueError, match="draws noise"):
        invert(data, x0, line(1, 0, 5), sampler="ddpm")
    with pytest.raises(ConfigError, match="Did you mean 'heun'"):
        invert(data, x0, line(1, 0, 5), sampler="huen")
    with pytest.raises(ValueError, match="2 steps or more"):
        invert(data, x0, line(1, 0, 1))
    with pytest.raises(ValueError, match="0 or more"):
        invert(data, x0, line(1, 0, 5), iterations=-1)


# -- interpolation and PSNR --------------------------------------------------------------------------------------------


def test_slerp_keeps_the_norm_and_the_angles() -> None:
    a, b = torch.tensor([[3.0, 0.0]], dtype=F64), torch.tensor([[0.0, 3.0]], dtype=F64)
    x = slerp(a, b, torch.tensor([0.0, 1 / 3, 1.0], dtype=F64))
    assert torch.equal(x[0], a[0])
    assert torch.allclose(x[1], torch.tensor([3 * math.cos(math.pi / 6), 1.5], dtype=F64))
    assert torch.allclose(x[2], b[0], atol=1e-15)


@pytest.mark.parametrize("other", [1.0, 1.0 + 1e-9, -1.0])
def test_slerp_of_parallel_states_is_finite(other: float) -> None:
    a = normal(1, 1, 4, 4)
    x = slerp(a, other * a, torch.linspace(0, 1, 5, dtype=F64))
    assert torch.isfinite(x).all()
    assert torch.allclose(x[-1], other * a[0])


def test_interpolation_ends_at_the_reconstructions() -> None:
    data = FiniteData(images(20).double(), PATHS["flow"]())
    pair, times = data.x[:2], line(1, 0, 30)
    x = interpolate(data, pair, times, num=5, sampler="heun")
    assert x.shape == (5, 1, 4, 4)
    assert torch.allclose(x[[0, -1]], reconstruct(data, pair, times, sampler="heun"), atol=1e-6)
    with pytest.raises(ValueError, match="at least 2"):
        interpolate(data, pair, times, num=1)


def test_psnr_of_a_known_difference() -> None:
    x = torch.zeros(2, 1, 4, 4)
    y = torch.stack([torch.full((1, 4, 4), 0.2), torch.full((1, 4, 4), 2.0)])
    assert psnr(x, y).tolist() == pytest.approx([20.0, 0.0])
    assert psnr(x, x).tolist() == [math.inf, math.inf]
