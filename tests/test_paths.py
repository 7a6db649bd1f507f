"""Laws of paths: the four coefficients, their inverse, the clock, and the tables of betas."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from conftest import F64, PATH_CASES, each_path, interior, normal, registered_path, shifted

from ebbflow.core.paths import (
    PATHS,
    REMEMBERED,
    VE,
    VP,
    Cosine,
    CosineDiscrete,
    DiscretePath,
    Flow,
    Path,
    SubVP,
    VPDiscrete,
    warp,
)

TABLES = {name: path for name, path in PATH_CASES.items() if isinstance(path, DiscretePath) and path.shift == 1}
TABLES |= {"vp_discrete/100": VPDiscrete(num_steps=100)}
TABLES |= {f"cosine_discrete/{n}": CosineDiscrete(num_steps=n) for n in (50, 100)}
each_table = pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)


@each_path
def test_scales_run_from_data_to_noise_and_the_snr_falls(path: Path) -> None:
    t = torch.linspace(0, 1, 4001, dtype=F64)
    c = path.at(t)
    assert bool((c.alpha >= 0).all()) and bool((c.sigma >= 0).all()), "a scale is negative or NaN"
    assert c.alpha[0] == 1 and c.sigma[0] == 0, "t = 0 is not clean data"
    assert bool((c.log_snr.diff() < 0).all()), "log-SNR does not fall strictly"
    assert torch.equal(c.log_snr, path.log_snr(t)), "log_snr() is not the log-SNR of at()"


@each_path
@pytest.mark.parametrize("end", [0.0, 1.0])
def test_rates_at_the_ends_are_numbers_or_infinities(path: Path, end: float) -> None:
    c = path.at(end)
    assert c.alpha_dot <= 0, f"alpha' = {c.alpha_dot} at t = {end}"
    assert c.sigma_dot >= 0, f"sigma' = {c.sigma_dot} at t = {end}"
    assert c.determinant > 0, f"D = {c.determinant} at t = {end}"


@each_path
def test_rates_are_the_derivatives(path: Path) -> None:
    t = interior(300, 0.001, 0.999).requires_grad_()
    c = path.at(t)
    for scale, rate in ((c.alpha, c.alpha_dot), (c.sigma, c.sigma_dot)):
        (slope,) = torch.autograd.grad((scale + 0 * t).sum(), t, retain_graph=True)
        torch.testing.assert_close(rate.detach(), slope, rtol=1e-9, atol=1e-11)
    (slope,) = torch.autograd.grad(c.log_snr.sum(), t)
    torch.testing.assert_close(-slope * (c.alpha * c.sigma).detach() / 2, c.determinant.detach(), rtol=1e-9, atol=1e-11)


@each_path
def test_time_of_inverts_log_snr(path: Path) -> None:
    t = torch.linspace(1e-4, 1 - 1e-4, 801, dtype=F64)
    assert (path.time_of(path.log_snr(t)) - t).abs().max() < 1e-10


@each_path
def test_time_of_gives_the_nearer_end_outside_the_range(path: Path) -> None:
    found = path.time_of(torch.tensor([math.inf, 1e4, -1e4, -math.inf], dtype=F64))
    torch.testing.assert_close(found, torch.tensor([0.0, 0, 1, 1], dtype=F64), rtol=0, atol=1e-12)


@each_path
def test_moments_of_the_marginal(path: Path) -> None:
    num, mean, std = 20_000, 1.5, 0.5
    t = torch.tensor([0.01, 0.3, 0.6, 0.9, 1.0], dtype=F64)
    eps = normal(len(t), num, seed=1)
    x = path.mix(mean + std * normal(len(t), num, seed=2), eps, t)
    c = path.at(t)
    variance = (c.alpha * std) ** 2 + c.sigma**2
    z = torch.stack(
        [
            (x.mean(1) - c.alpha * mean) / (variance / num).sqrt(),
            (x.var(1) - variance) / (variance * math.sqrt(2 / num)),
            ((x - x.mean(1, keepdim=True)) * eps).mean(1).sub(c.sigma) / ((variance + c.sigma**2) / num).sqrt(),
        ]
    )
    assert z.abs().max() < 4.5, f"mean, variance or covariance with eps is off: {z}"


@each_path
def test_velocity_is_the_slope_of_mix(path: Path) -> None:
    x0, eps, t = normal(20, 3, seed=1), normal(20, 3, seed=2), interior(20, 0.05, 0.95)
    h = 1e-5
    slope = (path.mix(x0, eps, t + h) - path.mix(x0, eps, t - h)) / (2 * h)
    torch.testing.assert_close(path.velocity(x0, eps, t), slope, rtol=1e-5, atol=1e-5)


@each_path
def test_one_time_a_sample_is_not_broadcast_over_the_width(path: Path) -> None:
    x0, eps, t = normal(28, 1, 28, 28, seed=1), normal(28, 1, 28, 28, seed=2), interior(28)
    for rule in (path.mix, path.velocity):
        rows = torch.cat([rule(x0[i : i + 1], eps[i : i + 1], float(t[i])) for i in range(28)])
        torch.testing.assert_close(rule(x0, eps, t), rows, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match=r"shape \(28,\) or \(\), got \(1, 28\)"):
        path.mix(x0, eps, t[None])


# -- the clock -------------------------------------------------------------------------------------


def test_warps_compose_by_multiplication_and_keep_the_ends() -> None:
    t = torch.linspace(0, 1, 101, dtype=F64)
    torch.testing.assert_close(warp(warp(t, 3.0), 0.7), warp(t, 2.1), rtol=0, atol=1e-15)
    torch.testing.assert_close(warp(warp(t, 5.0), 1 / 5.0), t, rtol=0, atol=1e-14)
    assert warp(t, 3.0)[0] == 0 and warp(t, 3.0)[-1] == 1


@registered_path
def test_a_shifted_path_is_the_path_on_a_warped_clock(path: Path) -> None:
    t = interior(50)
    once, twice = shifted(path, 6.0).at(t), shifted(path, 2.0).at(warp(t, 3.0))
    torch.testing.assert_close(once.alpha, twice.alpha, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(once.sigma, twice.sigma, rtol=1e-12, atol=1e-14)


def test_a_shift_lowers_the_log_snr_of_flow_by_two_log_k() -> None:
    t = interior(50)
    for k in (0.3, 3.0):
        torch.testing.assert_close(
            Flow(shift=k).log_snr(t), Flow().log_snr(t) - 2 * math.log(k), rtol=1e-12, atol=1e-12
        )


# -- tables ----------------------------------------------------------------------------------------


def textbook_betas(table: DiscretePath) -> list[float]:
    """Betas from the papers in plain Python, zero-terminal-SNR rescaling (Lin et al., algorithm 1) included."""
    n = table.num_steps
    if isinstance(table, VPDiscrete):
        p = 2 if table.spacing == "scaled_linear" else 1
        low, high = table.beta_start ** (1 / p), table.beta_end ** (1 / p)
        betas = [(low + (high - low) * i / (n - 1)) ** p * 1000 / n for i in range(n)]
    else:
        bars = [math.cos((i / n + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(n + 1)]
        betas = [min(1 - bars[i + 1] / bars[i], 0.999) for i in range(n)]
    if not table.zero_terminal_snr:
        return betas
    roots = [math.sqrt(bar) for bar in products(betas)]
    roots = [(root - roots[-1]) * roots[0] / (roots[0] - roots[-1]) for root in roots]
    return [1 - roots[0] ** 2, *(1 - (roots[i] / roots[i - 1]) ** 2 for i in range(1, n))]


def products(betas: list[float]) -> list[float]:
    bars, bar = [], 1.0
    for beta in betas:
        bar *= 1 - beta
        bars.append(bar)
    return bars


@each_table
def test_tables_are_the_beta_recursion(table: DiscretePath) -> None:
    betas = torch.tensor(textbook_betas(table), dtype=F64)
    c = table.at(torch.arange(1, table.num_steps + 1, dtype=F64) / table.num_steps)
    bars = torch.tensor(products(betas.tolist()), dtype=F64)
    torch.testing.assert_close(table.betas, betas, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(c.alpha**2, bars, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(c.sigma**2, 1 - bars, rtol=1e-10, atol=1e-14)


@each_table
def test_the_chain_of_single_steps_has_the_closed_form_marginals(table: DiscretePath) -> None:
    mean, variance = 1.0, 0.0
    for i, beta in enumerate(textbook_betas(table), start=1):
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        if i % 5 == 0:
            c = table.at(i / table.num_steps)
            assert math.isclose(float(c.alpha), mean, rel_tol=1e-9, abs_tol=1e-13), f"mean after {i} steps"
            assert math.isclose(float(c.sigma**2), variance, rel_tol=1e-9), f"variance after {i} steps"


@each_table
def test_no_signal_is_left_at_the_end_of_the_table(table: DiscretePath) -> None:
    limit = 5e-3 if getattr(table, "spacing", "") == "scaled_linear" else 1e-3
    assert table.at(1.0).alpha ** 2 < limit, "alpha_bar_T is not small: sampling from N(0, I) would be biased"


@pytest.mark.parametrize(
    "table", [VPDiscrete(), VPDiscrete(num_steps=50), CosineDiscrete(), CosineDiscrete(num_steps=10)], ids=repr
)
def test_zero_terminal_snr_ends_at_exactly_no_signal_and_keeps_the_first_entry(table: DiscretePath) -> None:
    zero = type(table)(num_steps=table.num_steps, zero_terminal_snr=True)
    assert zero.at(1.0).alpha == 0 and zero.at(1.0).sigma == 1
    assert zero.betas[-1] == 1
    torch.testing.assert_close(zero.alpha_bars[0], table.alpha_bars[0], rtol=1e-14, atol=0)


def test_cosine_betas_stop_at_their_limit() -> None:
    betas = CosineDiscrete().betas
    assert betas.max() == pytest.approx(0.999, abs=1e-12) and (betas > 0.99).sum() >= 1
    assert CosineDiscrete(beta_limit=0.5).betas.max() == pytest.approx(0.5, abs=1e-12)


def test_the_ddpm_table_tends_to_the_continuous_path() -> None:
    t = torch.tensor([0.1, 0.25, 0.5, 0.75, 1.0], dtype=F64)
    errors = [(VPDiscrete(num_steps=n).at(t).alpha.log() - VP().at(t).alpha.log()).abs().max() for n in (1000, 4000)]
    assert errors[0] < 0.04 and 3.6 < errors[0] / errors[1] < 4.4, f"not first order in 1/T: {errors}"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        *(
            (lambda kind=kind, k=k: kind(shift=k), "`shift` must be")
            for kind in PATHS.values()
            for k in (0.0, -1.0, math.inf, math.nan)
        ),
        (lambda: VP(beta_min=0.0), "`beta_min` must be"),
        (lambda: VP(beta_min=5.0, beta_max=1.0), "`beta_max` must be at least `beta_min` = 5.0, got 1.0"),
        (lambda: SubVP(beta_max=math.nan), "`beta_max` must be"),
        (lambda: VE(sigma_min=0.0), "`sigma_min` must be"),
        (lambda: VE(sigma_min=1.0, sigma_max=1.0), "`sigma_max` must be above `sigma_min` = 1.0, got 1.0"),
        (lambda: VPDiscrete(num_steps=3), r"`num_steps` must be in \[4, 100000\], got 3"),
        (lambda: VPDiscrete(num_steps=10), r"every beta must lie in \(0, 1\).*use more steps or smaller betas"),
        (lambda: VPDiscrete(beta_start=0.0), "`beta_start` must be"),
        (lambda: VPDiscrete(beta_end=2.0), r"`beta_end` must be in \(0, 1\), got 2.0"),
        (lambda: VPDiscrete(spacing="quadratic"), "`spacing` must be linear or scaled_linear, got 'quadratic'"),
        (lambda: CosineDiscrete(beta_limit=1.0), r"`beta_limit` must be in \(0, 1\), got 1.0"),
    ],
)
def test_bad_parameters_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


@each_path
def test_single_precision_data_stays_so_and_times_do_not(path: Path) -> None:
    x0, eps = normal(4, 3, seed=1), normal(4, 3, seed=2)
    for t in (0.9371, torch.tensor(0.9371, dtype=F64), torch.full((4,), 0.9371, dtype=F64)):
        x = path.mix(x0.float(), eps.float(), t)
        assert x.dtype == torch.float32
        torch.testing.assert_close(x.double(), path.mix(x0, eps, 0.9371), rtol=1e-6, atol=1e-6)
    assert path.at(0.9371).alpha.dtype == F64


def test_cosine_moves_at_constant_angular_speed() -> None:
    c = Cosine().at(interior(50))
    torch.testing.assert_close(c.determinant, torch.full_like(c.determinant, math.pi / 2), rtol=1e-14, atol=0)


# -- what is remembered ----------------------------------------------------------------------------


@registered_path
def test_coefficients_of_a_number_are_computed_once_and_do_not_depend_on_their_company(path: Path) -> None:
    times = torch.linspace(1, 0.003, 37, dtype=F64).tolist()
    together, apart = replace(path), replace(path)
    for t, c in zip(times, together.at_each(times), strict=True):
        assert together.at(t) is c
        assert apart.at(t).numbers == c.numbers, "the last bit depends on what else was asked"
        exact = path.at(torch.tensor(t, dtype=F64))
        for got, wanted in zip(c.numbers, (exact.alpha, exact.sigma, exact.alpha_dot, exact.sigma_dot), strict=True):
            assert math.isclose(got, float(wanted), rel_tol=1e-13, abs_tol=1e-300)
        assert c.alpha.shape == () and c.alpha.dtype == F64 and c.alpha.device.type == "cpu"


def test_a_path_computes_once_for_all_that_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    scales = VPDiscrete.scales
    monkeypatch.setattr(VPDiscrete, "scales", lambda self, t: asked.append(t.numel()) or scales(self, t))
    path, x = VPDiscrete(), normal(4, 3)
    asked.clear()  # what it was asked when it was made
    t = torch.full((4,), 0.3, dtype=F64)
    for _ in range(3):
        path.mix(x, x, 0.5), path.log_snr(0.5), path.velocity(x, x, 0.5)
    assert len(asked) == 1
    for _ in range(3):
        path.mix(x, x, t), path.velocity(x, x, t)
    assert len(asked) == 2, "the same tensor of times was computed again"
    t.fill_(0.7)
    torch.testing.assert_close(path.at(t).alpha, path.at(torch.full((4,), 0.7, dtype=F64)).alpha, rtol=0, atol=0)


def test_the_memory_is_bounded_and_no_part_of_the_path() -> None:
    path = PATH_CASES["cosine"]
    fresh = replace(path)
    for t in torch.linspace(0.001, 1, 3 * REMEMBERED, dtype=F64).tolist():
        fresh.at(t)
    assert len(fresh._remembered) <= REMEMBERED
    assert fresh == path and hash(fresh) == hash(path) and "remember" not in repr(fresh)


def test_coefficients_first_asked_for_under_inference_mode_serve_gradients() -> None:
    path, x = replace(PATH_CASES["vp"]), torch.ones(2, 3)
    with torch.inference_mode():
        path.mix(x, x, 0.5)
    x = x.requires_grad_()
    path.mix(x, x, 0.5).square().sum().backward()
    t = torch.full((2,), 0.5, dtype=F64, requires_grad=True)
    for _ in range(2):  # a graph is never remembered
        path.at(t).alpha.sum().backward()
    assert torch.isfinite(t.grad).all()


def test_threads_that_share_a_path_do_not_get_each_others_times() -> None:
    path = VPDiscrete(num_steps=50)
    times = [torch.full((3,), k / 10, dtype=F64) for k in range(1, 9)]
    wanted = [replace(path).at(t).alpha for t in times]

    def ask(k: int) -> bool:
        return all(torch.equal(path.at(times[k]).alpha, wanted[k]) for _ in range(200))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(8)))
