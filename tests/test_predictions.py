"""Laws of predictions on paths, of the exact kernels, and of nets as denoisers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import mpmath
import pytest
import torch
from conftest import F64, PATH_CASES, VALID_PAIRS, each_path, interior, is_valid, normal, registered_path, valid_pair
from torch import Tensor

from ebbflow.core.kernels import posterior
from ebbflow.core.paths import Cosine, DiscretePath, Path
from ebbflow.core.predictions import PREDICTIONS, Estimate, check_pair, solve
from ebbflow.errors import ConfigError
from ebbflow.methods.denoise import FunctionDenoiser, NetDenoiser
from ebbflow.methods.guidance import combine
from ebbflow.methods.objective import Objective
from ebbflow.methods.oracles import Gaussian

each_prediction = pytest.mark.parametrize("prediction", PREDICTIONS)


def column(values: Tensor) -> Tensor:
    return values.reshape(-1, 1, 1)


def target(prediction: str, path: Path, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    a, b = PREDICTIONS[prediction](path.at(t))
    return column(a) * x0 + column(b) * eps


def pairs(num: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    return normal(num, 3, 4, seed=1), normal(num, 3, 4, seed=2), interior(num)


@each_path
@each_prediction
def test_solving_the_target_gives_back_data_and_noise(path: Path, prediction: str) -> None:
    x0, eps, t = pairs()
    found = solve(prediction, target(prediction, path, x0, eps, t), path.mix(x0, eps, t), t, path)
    assert (found.x0 - x0).abs().max() < 1e-10, f"x0 from {prediction}"
    assert (found.eps - eps).abs().max() < 1e-10, f"eps from {prediction}"


@valid_pair
def test_accepted_pairs_recover_both_at_pure_noise(path: Path, prediction: str) -> None:
    x0, eps, _ = pairs()
    t = torch.ones(12, dtype=F64)
    found = solve(prediction, target(prediction, path, x0, eps, t), path.mix(x0, eps, t), 1.0, path)
    torch.testing.assert_close(found.x0, x0, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.eps, eps, rtol=0, atol=1e-9)


# -- targets, from definitions that do not mention (a, b) ------------------------------------------


def _velocity(path: Path, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    h = 1e-5
    return (path.mix(x0, eps, t + h) - path.mix(x0, eps, t - h)) / (2 * h)


def _score(path: Path, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    x_t = path.mix(x0, eps, t).requires_grad_()
    c = path.at(t)
    log_density = torch.distributions.Normal(column(c.alpha) * x0, column(c.sigma)).log_prob(x_t).sum()
    return torch.autograd.grad(log_density, x_t)[0]


def _edm(path: Path, x0: Tensor, eps: Tensor, t: Tensor, s: float = 0.5) -> Tensor:
    """(x0 - c_skip x) / c_out of Karras et al., table 1, in their own scale x_t / alpha."""
    c = path.at(t)
    level, x = column(c.sigma / c.alpha), path.mix(x0, eps, t) / column(c.alpha)
    skip, out = s**2 / (level**2 + s**2), level * s / torch.sqrt(level**2 + s**2)
    return (x0 - skip * x) / out


def _v(path: Path, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    snr = column(torch.exp(path.log_snr(t)))
    size = torch.sqrt(column(path.at(t).alpha) ** 2 + column(path.at(t).sigma) ** 2)
    return size * (torch.sqrt(snr / (1 + snr)) * eps - torch.sqrt(1 / (1 + snr)) * x0)


TEXTBOOK: dict[str, Callable[[Path, Tensor, Tensor, Tensor], Tensor]] = {
    "eps": lambda path, x0, eps, t: eps,
    "x0": lambda path, x0, eps, t: x0,
    "v": _v,
    "velocity": _velocity,
    "score": _score,
    "edm": _edm,
}


@each_path
@each_prediction
def test_targets_are_the_textbook_ones(path: Path, prediction: str) -> None:
    assert prediction in TEXTBOOK, f"write down what {prediction!r} is, without its coefficients"
    x0, eps, t = pairs()
    t = 0.05 + 0.9 * t
    wanted = TEXTBOOK[prediction](path, x0, eps, t)
    tolerance = 1e-5 if prediction == "velocity" else 1e-9
    torch.testing.assert_close(target(prediction, path, x0, eps, t), wanted, rtol=tolerance, atol=tolerance)


def test_v_is_the_velocity_on_the_cosine_path_only() -> None:
    x0, eps, t = pairs()
    for name in ("cosine", "flow", "vp"):
        path = PATH_CASES[name]
        gap = (target("v", path, x0, eps, t) * math.pi / 2 - target("velocity", path, x0, eps, t)).abs().max()
        assert (gap < 1e-12) == (name == "cosine"), f"{name}: {gap}"


@each_path
def test_edm_targets_have_unit_variance(path: Path) -> None:
    a, b = PREDICTIONS["edm"](path.at(interior(40)))
    torch.testing.assert_close((a * 0.5) ** 2 + b**2, torch.ones_like(a), rtol=1e-12, atol=0)


@each_path
def test_losses_of_one_error_are_related_by_the_path(path: Path) -> None:
    """||dv||^2 = (D/alpha)^2 ||deps||^2 = (D/sigma)^2 ||dx0||^2 and ||deps||^2 = SNR ||dx0||^2."""
    x0, eps, t = pairs()
    c, x_t, wrong = path.at(t), path.mix(x0, eps, t), x0 + normal(12, 3, 4, seed=5)
    wrong_eps = (x_t - column(c.alpha) * wrong) / column(c.sigma)
    dx0, deps, dv = (
        (e**2).sum((1, 2)) for e in (wrong - x0, wrong_eps - eps, path.velocity(wrong - x0, wrong_eps - eps, t))
    )
    torch.testing.assert_close(dv, (c.determinant / c.alpha) ** 2 * deps, rtol=1e-8, atol=0)
    torch.testing.assert_close(dv, (c.determinant / c.sigma) ** 2 * dx0, rtol=1e-8, atol=0)
    torch.testing.assert_close(deps, torch.exp(path.log_snr(t)) * dx0, rtol=1e-8, atol=0)


@valid_pair
def test_guidance_means_the_same_in_every_prediction(path: Path, prediction: str) -> None:
    u, c, t = normal(12, 3, 4, seed=3), normal(12, 3, 4, seed=4), interior(12)
    x_t = normal(12, 3, 4, seed=5)
    mixed = combine(solve(prediction, u, x_t, t, path), solve(prediction, c, x_t, t, path), 3.5)
    direct = solve(prediction, u + 3.5 * (c - u), x_t, t, path)
    torch.testing.assert_close(mixed.x0, direct.x0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(mixed.eps, direct.eps, rtol=1e-9, atol=1e-9)


@valid_pair
@torch.no_grad()
def test_an_estimate_is_the_same_value_however_it_is_read(path: Path, prediction: str) -> None:
    out, other, x_t = normal(12, 3, 4, seed=3), normal(12, 3, 4, seed=4), normal(12, 3, 4, seed=5)
    u, c = (solve(prediction, one, x_t, 0.6, path) for one in (out, other))
    mixed, cut, moved = u.mixed(0.3, -0.7), u.each(lambda values: values[:5]), combine(u, c, 3.5)  # nothing is read yet
    with torch.enable_grad():
        known = solve(prediction, out, x_t, 0.6, path)
    changed, by_value = replace(u, x0=c.x0), Estimate(x0=u.x0, eps=u.eps)
    assert torch.equal(u.x0, known.x0) and torch.equal(u.eps, known.eps)
    assert torch.equal(changed.x0, c.x0) and torch.equal(changed.eps, u.eps)
    assert torch.equal(changed.mixed(1, 1), c.x0 + u.eps)
    assert torch.equal(cut.x0, u.x0[:5]) and torch.equal(cut.eps, u.eps[:5])
    torch.testing.assert_close(mixed, 0.3 * u.x0 - 0.7 * u.eps, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(moved.x0, combine(by_value, c, 3.5).x0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(moved.eps, combine(u, by_value, 3.5).eps + 3.5 * (c.eps - u.eps), rtol=1e-9, atol=1e-9)


def test_an_estimate_keeps_the_gradients_of_where_it_was_made() -> None:
    out, x_t = normal(2, 3), normal(2, 3, seed=1).requires_grad_()
    with torch.no_grad():
        without = solve("v", out, x_t, 0.6, Cosine())
    assert not without.x0.requires_grad and not without.mixed(1, 1).requires_grad
    with torch.enable_grad():
        within = solve("v", out, x_t, 0.6, Cosine())
    assert within.x0.requires_grad


@registered_path
@each_prediction
def test_one_time_a_sample_is_not_broadcast_over_the_width(path: Path, prediction: str) -> None:
    out, x_t, t = normal(28, 1, 28, 28, seed=1), normal(28, 1, 28, 28, seed=2), interior(28)
    found = solve(prediction, out, x_t, t, path)
    for i in (0, 13, 27):
        alone = solve(prediction, out[i : i + 1], x_t[i : i + 1], float(t[i]), path)
        torch.testing.assert_close(found.x0[i], alone.x0[0], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(found.eps[i], alone.eps[0], rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match="one number a sample"):
        solve(prediction, out, x_t, t.reshape(28, 1, 1, 1), path)


# -- refusals --------------------------------------------------------------------------------------


def reaches_pure_noise(name: str) -> bool:
    return name.split("/")[0] in ("flow", "cosine", "linear_variance") or name.endswith("zero_snr")


def is_singular(name: str, prediction: str) -> bool:
    """By the table of formulas.md, section 2, and the ends of each path."""
    if prediction in ("eps", "score"):
        return reaches_pure_noise(name)
    return prediction == "velocity" and (name.startswith("linear_variance") or name.endswith("zero_snr"))


@pytest.mark.parametrize("name", PATH_CASES)
@each_prediction
def test_singular_pairs_are_refused_and_no_others(name: str, prediction: str) -> None:
    path = PATH_CASES[name]
    assert is_valid(prediction, path) != is_singular(name, prediction)
    if not is_singular(name, prediction):
        return
    cause = "has an unbounded target" if prediction == "velocity" else "cannot recover x0 where alpha = 0"
    for build in (
        lambda: check_pair(prediction, path),
        lambda: Objective(path, prediction=prediction, weight="snr"),
        lambda: FunctionDenoiser(function=lambda x, t: x, path=path, prediction=prediction),
        lambda: NetDenoiser(net=lambda x, clock, cond: x, path=path, prediction=prediction),
    ):
        with pytest.raises(ValueError, match=rf"{cause}.*Use ") as caught:
            build()
    assert repr(prediction) in str(caught.value) and repr(name.split("/")[0]) in str(caught.value)
    cures = str(caught.value).split("Use ")[1].rstrip(".").replace(" or ", ", ").split(", ")
    refused = [cure for cure in cures if not is_valid(cure, path)]
    assert not refused, f"the message recommends {refused}, which this path refuses too: {caught.value}"


def test_a_class_is_no_path() -> None:
    with pytest.raises(ValueError, match=r"a path is an object such as PATHS\['flow'\]\(\), got <class"):
        check_pair("velocity", Cosine)  # type: ignore[arg-type]


def test_unknown_predictions_get_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"unknown prediction 'velocty'. Did you mean 'velocity'"):
        solve("velocty", torch.zeros(1, 1), torch.zeros(1, 1), 0.5, PATH_CASES["flow"])


# -- kernels ---------------------------------------------------------------------------------------


@each_path
@pytest.mark.parametrize("t", [1.0, 0.73, 0.31])
def test_posterior_is_gaussian_conditioning(path: Path, t: float) -> None:
    """Condition the joint law of (x_s, x_t) given x0 by hand, in 50 digits."""
    mpmath.mp.dps = 50
    for s in (0.999 * t, 0.6 * t, 0.01 * t):
        ct, cs = path.at(t), path.at(s)
        k = posterior(ct, cs)
        a_t, s_t, a_s, s_s = (mpmath.mpf(float(v)) for v in (ct.alpha, ct.sigma, cs.alpha, cs.sigma))
        covariance = a_t / a_s * s_s**2
        gain = covariance / s_t**2
        wanted = (gain, a_s - gain * a_t, s_s**2 - gain * covariance, s_t**2 - (a_t / a_s) ** 2 * s_s**2)
        for got, want, scale in zip(
            (k.from_x_t, k.from_x0, k.small, k.large), wanted, (1, 1, s_s**2, s_t**2), strict=True
        ):
            assert abs(got - want) <= 1e-12 * max(scale, 1), f"from t = {t} to s = {s}: got {got}, want {want}"


@pytest.mark.parametrize("name", [n for n, p in PATH_CASES.items() if isinstance(p, DiscretePath) and p.shift == 1])
def test_posterior_of_neighbours_is_ddpms(name: str) -> None:
    """mu-tilde and beta-tilde of Ho et al., eq. 7, with alpha-bar, not alpha (trap 4)."""
    path = PATH_CASES[name]
    bar_before, steps = 1.0, path.num_steps  # type: ignore[attr-defined]
    for i, beta in enumerate(path.betas.tolist(), start=1):  # type: ignore[attr-defined]
        bar = bar_before * (1 - beta)
        if i > 1:
            k = posterior(path.at(i / steps), path.at((i - 1) / steps))
            wanted = (
                math.sqrt(1 - beta) * (1 - bar_before) / (1 - bar),
                math.sqrt(bar_before) * beta / (1 - bar),
                (1 - bar_before) / (1 - bar) * beta,
                beta,
            )
            got = (k.from_x_t, k.from_x0, k.small, k.large)
            assert all(abs(g - w) < 1e-12 for g, w in zip(got, wanted, strict=True)), f"entry {i}: {got} != {wanted}"
        bar_before = bar


# -- nets as denoisers -----------------------------------------------------------------------------


def exact_net(prediction: str, std: float) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """The exact net for Gaussian data as a function of (scaled x, 25 log-SNR) alone: it never hears of the path."""

    def net(x: Tensor, clock: Tensor, cond: Tensor | None) -> Tensor:
        level = column(clock.double()) / 25
        alpha, sigma = torch.sigmoid(level).sqrt(), torch.sigmoid(-level).sqrt()
        shrink = 1 / ((alpha * std) ** 2 + sigma**2)
        x0, eps = alpha * std**2 * shrink * x, sigma * shrink * x
        if prediction == "edm":
            root = torch.sqrt((alpha * 0.5) ** 2 + sigma**2)
            return sigma / (0.5 * root) * x0 - alpha * 0.5 / root * eps
        return x0 if prediction == "x0" else eps

    return net


@pytest.mark.parametrize(("path", "prediction"), VALID_PAIRS.values(), ids=VALID_PAIRS)
def test_a_net_on_the_log_snr_clock_serves_every_path(path: Path, prediction: str) -> None:
    if prediction not in ("eps", "x0", "edm"):
        assert prediction in ("v", "velocity", "score"), "say whether the new prediction depends on the path's speed"
        return
    denoiser = NetDenoiser(net=exact_net(prediction, 0.5), path=path, prediction=prediction)
    for t in (0.2, 0.6, 0.9):
        x_t = path.mix(0.5 * normal(12, 3, 4, seed=1), normal(12, 3, 4, seed=2), t)
        got, want = denoiser(x_t, t), Gaussian(0.0, 0.5, path)(x_t, t)
        torch.testing.assert_close(got.x0, want.x0, rtol=1e-4, atol=1e-5)


def test_a_net_with_twice_the_channels_learns_its_variance() -> None:
    def net(x: Tensor, clock: Tensor, cond: Tensor | None) -> Tensor:
        return torch.cat([x, torch.full_like(x, 0.5)], dim=1)

    estimate: Estimate = NetDenoiser(net=net, path=PATH_CASES["vp"], prediction="eps")(normal(2, 3, 4), 0.5)
    assert estimate.eps.shape == (2, 3, 4) and estimate.log_variance_fraction is not None
    assert torch.equal(estimate.log_variance_fraction, torch.full((2, 3, 4), 0.75, dtype=F64))
