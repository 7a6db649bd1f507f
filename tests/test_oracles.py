"""Laws of the oracles: their density is what torch.distributions says, and they are what calculus makes of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import (
    F64,
    MODES,
    PATH_CASES,
    each_path,
    interior,
    mixture,
    mixture_quantiles,
    normal,
    parts,
    registered_path,
)
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from ebbflow.core.paths import PATHS, DiscretePath, Path
from ebbflow.methods.denoise import Conditional, Denoiser, FlowMap, takes_condition
from ebbflow.methods.guidance import classifier_free
from ebbflow.methods.maps.solved import ODEMap
from ebbflow.methods.oracles import FiniteData, Gaussian, GaussianMixture, GuidedGaussian, MixtureProduct
from ebbflow.methods.samplers import SAMPLERS

TIMES = (0.01, 0.3, 0.7, 0.99, 1.0)


def anisotropic(path: Path) -> Gaussian:
    return Gaussian(torch.tensor([0.5, -1.0, 0.0], dtype=F64), torch.tensor([0.1, 0.5, 2.0], dtype=F64), path)


def cloud(path: Path) -> GaussianMixture:
    """Three components in three dimensions, each with a standard deviation a dimension."""
    return GaussianMixture(normal(3, 3, seed=1), 0.2 + normal(3, 3, seed=2).abs(), [1.0, 2.0, 1.0], path)


ORACLES = {"gaussian": anisotropic, "mixture": cloud}
each_oracle = pytest.mark.parametrize("make", ORACLES.values(), ids=ORACLES)


def reference(make: object, path: Path, t: float) -> torch.distributions.Distribution:
    c, oracle = path.at(t), make(path)  # type: ignore[operator]
    if isinstance(oracle, Gaussian):
        return Independent(Normal(c.alpha * oracle.mean, torch.sqrt((c.alpha * oracle.std) ** 2 + c.sigma**2)), 1)
    spread = torch.sqrt((c.alpha * oracle.stds) ** 2 + c.sigma**2)
    parts = Independent(Normal(c.alpha * oracle.means, spread), 1)
    return MixtureSameFamily(Categorical(torch.tensor(oracle.weights, dtype=F64)), parts)


def states(path: Path, t: float, seed: int = 3) -> Tensor:
    return path.mix(normal(40, 3, seed=seed), normal(40, 3, seed=seed + 1), t)


@each_path
@each_oracle
def test_log_density_is_that_of_the_marginal(path: Path, make: object) -> None:
    for t in TIMES:
        x = states(path, t)
        wanted = reference(make, path, t).log_prob(x)
        torch.testing.assert_close(make(path).log_prob(x, t), wanted, rtol=1e-10, atol=1e-10)  # type: ignore[operator]


@each_path
@each_oracle
def test_estimates_are_tweedies(path: Path, make: object) -> None:
    """score = grad log p_t, x0 = (x + sigma^2 score) / alpha and eps = -sigma score."""
    for t in TIMES[:-1]:
        c, x = path.at(t), states(path, t).requires_grad_()
        (score,) = torch.autograd.grad(reference(make, path, t).log_prob(x).sum(), x)
        estimate = make(path)(x.detach(), t)  # type: ignore[operator]
        torch.testing.assert_close(estimate.eps, -c.sigma * score, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(estimate.x0, ((x + c.sigma**2 * score) / c.alpha).detach(), rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(c.alpha * estimate.x0 + c.sigma * estimate.eps, x.detach(), rtol=1e-9, atol=1e-9)


@each_path
def test_x0_variance_is_the_slope_of_x0(path: Path) -> None:
    """Var[x0 | x_t] = (sigma^2 / alpha) dx0/dx, here in every dimension of every oracle."""
    data = FiniteData(normal(6, 3, seed=8), path)
    for t in TIMES[:-1]:
        c = path.at(t)
        for oracle in (anisotropic(path), cloud(path), data):
            x = states(path, t).requires_grad_()
            x0 = oracle(x, t).x0
            slopes = [torch.autograd.grad(x0[:, k].sum(), x, retain_graph=True)[0][:, k] for k in range(3)]
            wanted = c.sigma**2 / c.alpha * torch.stack(slopes, dim=1)
            found = oracle(x.detach(), t).x0_variance
            torch.testing.assert_close(
                found, wanted, rtol=1e-6, atol=1e-9, msg=lambda m, o=oracle, t=t: f"{o} at t = {t}: {m}"
            )


@each_path
def test_the_velocity_transports_the_density(path: Path) -> None:
    """d/dt log p + div v + v . grad log p = 0: path, oracle and clock agree (trap 15)."""
    oracle = mixture(path)
    t, x = interior(30, 0.05, 0.95).requires_grad_(), torch.linspace(-3, 3, 30, dtype=F64)[:, None].requires_grad_()
    dt, score = torch.autograd.grad(oracle.log_prob(x, t).sum(), (t, x))
    estimate = oracle(x, t.detach())
    v = path.velocity(estimate.x0, estimate.eps, t.detach())
    (divergence,) = torch.autograd.grad(v.sum(), x)
    terms = torch.stack([dt, divergence[:, 0], (v * score).detach()[:, 0]])
    assert (terms.sum(0).abs() / terms.abs().sum(0).clamp(min=1)).max() < 1e-8


@registered_path
def test_finite_data_is_a_mixture_of_points(path: Path) -> None:
    data = normal(7, 2, 4, seed=5)
    points = GaussianMixture(data, torch.full((7,), 1e-7, dtype=F64), [1.0] * 7, path)
    for t in TIMES:
        x = path.mix(data[:5], normal(5, 2, 4, seed=6), t)
        got, want = FiniteData(data, path)(x, t), points(x, t)
        torch.testing.assert_close(got.x0, want.x0, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(got.eps, want.eps, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(got.x0_variance, want.x0_variance, rtol=1e-6, atol=1e-9)
    near = FiniteData(data, path)(path.mix(data, torch.zeros_like(data), 1e-4), 1e-4)
    torch.testing.assert_close(near.x0, data, rtol=0, atol=1e-6)


@each_path
def test_one_time_a_sample_is_the_same_as_one_time_for_all(path: Path) -> None:
    image = normal(28, 1, 28, 28, seed=7)
    oracles: list[Denoiser] = [
        Gaussian(0.3, 0.5, path),
        GaussianMixture(normal(4, 1, 28, 28, seed=8), [0.5, 0.4, 0.3, 0.2], [0.25] * 4, path),
        FiniteData(normal(5, 1, 28, 28, seed=9), path),
    ]
    t = torch.cat([interior(27), torch.ones(1, dtype=F64)])
    for oracle in oracles:
        together = oracle(image, t)
        for i in (0, 14, 27):
            alone = oracle(image[i : i + 1], float(t[i]))
            for field in ("x0", "eps", "x0_variance"):
                got, want = getattr(together, field)[i], getattr(alone, field)[0]
                torch.testing.assert_close(
                    got, want, rtol=1e-8, atol=1e-9, msg=lambda m, f=field, o=oracle: f"{type(o)}.{f}: {m}"
                )


@registered_path
def test_conditions_pick_components(path: Path) -> None:
    oracle, t = mixture(path), 0.4
    x = normal(6, 1, seed=4)
    cond = torch.tensor([0, 1, 2, -1, 1, 0])
    found = oracle.given(cond)(x, t)
    for i, k in enumerate(cond.tolist()):
        mean, std, _ = (values[k] for values in parts(MODES))
        alone = oracle(x[i : i + 1], t) if k < 0 else Gaussian(mean, std, path)(x[i : i + 1], t)
        torch.testing.assert_close(found.x0[i], alone.x0[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found.x0_variance[i], alone.x0_variance[0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(oracle.given(oracle.null(6))(x, t).x0, oracle(x, t).x0, rtol=0, atol=0)
    torch.testing.assert_close(
        oracle.given(torch.tensor([2]))(x, t).x0, oracle.given(torch.full((6,), 2))(x, t).x0, rtol=0, atol=0
    )


def test_plain_numbers_keep_their_double_precision_and_weights_need_no_norm() -> None:
    path, x, t = PATH_CASES["flow"], normal(5, 1), 0.5
    means, stds, weights = (list(row) for row in zip(*MODES, strict=True))
    double = GaussianMixture([[m] for m in means], stds, [2 * w for w in weights], path)
    torch.testing.assert_close(double.log_prob(x, t), mixture(path).log_prob(x, t), rtol=1e-12, atol=1e-12)
    tensors = Gaussian(torch.tensor(0.7, dtype=F64), torch.tensor(0.3, dtype=F64), path)
    torch.testing.assert_close(Gaussian(0.7, 0.3, path)(x, t).x0, tensors(x, t).x0, rtol=1e-12, atol=1e-12)


def test_the_variance_survives_single_precision() -> None:
    """At low noise Var[x0 | x_t] is far below x0^2: a difference of squares would lose it."""
    path = PATH_CASES["flow"]
    x = path.mix(torch.full((4, 1), 0.5), normal(4, 1, dtype=torch.float32), 1e-3)
    wanted = mixture(path)(x.double(), 1e-3).x0_variance
    torch.testing.assert_close(mixture(path)(x, 1e-3).x0_variance.double(), wanted, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    "oracle",
    [Gaussian(0.0, 1.0, PATH_CASES["flow"]), FiniteData(torch.zeros(2, 3), PATH_CASES["flow"])],
    ids=["gaussian", "data"],
)
def test_oracles_without_conditions_say_so(oracle: Denoiser) -> None:
    assert not isinstance(oracle, Conditional) and not takes_condition(oracle)
    assert isinstance(mixture(oracle.path), Conditional)
    with pytest.raises(ValueError, match=f"a {type(oracle).__name__} takes no condition, so it has no null one"):
        classifier_free(oracle, guidance=2.0)


# -- jumps ---------------------------------------------------------------------------------------------------------------


def product(path: Path) -> MixtureProduct:
    """Three coordinates, each a mixture of three of its own."""
    return MixtureProduct(normal(3, 3, seed=1), 0.2 + normal(3, 3, seed=2).abs(), [1.0, 2.0, 1.0], path)


def guided(path: Path) -> GuidedGaussian:
    return GuidedGaussian(torch.tensor([0.5, -1.0, 0.0]), torch.tensor([0.1, 0.5, 2.0]), 1.3, 2.5, path)


MAPS = {"gaussian": anisotropic, "product": product, "guided": guided}
each_map = pytest.mark.parametrize("make", MAPS.values(), ids=MAPS)


def arrived(oracle: FlowMap, x: Tensor, t: float | Tensor, s: float | Tensor) -> Tensor:
    found = oracle.jump(x, t, s)
    torch.testing.assert_close(oracle.path.mix(found.x0, found.eps, t), x, rtol=1e-9, atol=1e-9)
    return oracle.path.mix(found.x0, found.eps, s)


@registered_path
@each_map
def test_a_jump_is_the_ode_solved(path: Path, make: Callable[[Path], FlowMap]) -> None:
    oracle, x = make(path), states(path, 0.9)
    *_, last = SAMPLERS["rk4"](oracle, x, torch.linspace(0.9, 0.1, 401, dtype=F64))
    floor = 1e-5 if isinstance(path, DiscretePath) else 1e-7  # the rates of tables are interpolated
    torch.testing.assert_close(arrived(oracle, x, 0.9, 0.1), last.x, rtol=floor, atol=floor)


@each_path
@each_map
def test_jumps_compose_and_one_to_where_one_is_is_a_call(path: Path, make: Callable[[Path], FlowMap]) -> None:
    oracle, x = make(path), states(path, 1.0)
    there = arrived(oracle, arrived(oracle, x, 1.0, 0.6), 0.6, 0.0)
    torch.testing.assert_close(there, arrived(oracle, x, 1.0, 0.0), rtol=1e-8, atol=1e-8)
    still, here = oracle.jump(x, 0.7, 0.7), oracle(x, 0.7)
    assert torch.equal(still.x0, here.x0)
    assert torch.equal(still.eps, here.eps)
    t, s = torch.tensor([0.7] * 20 + [0.4] * 20, dtype=F64), torch.tensor([0.7, 0.3] * 10 + [0.4, 0.0] * 10, dtype=F64)
    rows = torch.stack([arrived(oracle, x[i : i + 1], float(t[i]), float(s[i]))[0] for i in range(40)])
    torch.testing.assert_close(arrived(oracle, x, t, s), rows, rtol=1e-9, atol=1e-9)


@registered_path
def test_jumps_keep_the_law(path: Path) -> None:
    """Quantiles of the data, from those of the noise."""
    u = torch.linspace(0.001, 0.999, 41, dtype=F64)
    start, wanted = (mixture_quantiles(path, t, u)[:, None] for t in (1.0, 0.0))
    torch.testing.assert_close(arrived(mixture(path), start, 1.0, 0.0), wanted, rtol=1e-7, atol=1e-7)


def test_tails_are_mapped_as_exactly_as_the_middle() -> None:
    """Far out the nearest component is alone, whose map is a Gaussian's."""
    path = PATHS["flow"]()
    far, alone = MixtureProduct([[-1.0], [1.0]], [[0.5], [0.5]], [1, 1], path), Gaussian(1.0, 0.5, path)
    x = torch.tensor([[9.0], [12.0]], dtype=F64)
    torch.testing.assert_close(arrived(far, x, 0.5, 0.1), arrived(alone, x, 0.5, 0.1), rtol=1e-2, atol=0)


@registered_path
def test_the_solved_map_is_the_exact_one(path: Path) -> None:
    oracle = product(path)
    x = states(path, 0.9)[:4]
    solved = ODEMap(oracle, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(arrived(solved, x, 0.9, 0.0), arrived(oracle, x, 0.9, 0.0), rtol=0, atol=2e-3)
    t = torch.tensor([0.9, 0.85, 0.9, 0.85], dtype=F64)
    floor = 1e-5 if isinstance(path, DiscretePath) else 1e-6
    torch.testing.assert_close(arrived(solved, x, t, t / 4), arrived(oracle, x, t, t / 4), rtol=floor, atol=floor)


def test_finite_data_jumps_onto_the_data() -> None:
    path, data = PATHS["flow"](), normal(4, 1, 3, 3, seed=5)
    x = normal(5, 1, 3, 3, seed=6)
    ends = arrived(FiniteData(data, path), x, 1.0, 0.0)
    assert float((ends[:, None] - data).flatten(2).square().mean(2).min(1).values.max()) < 1e-8
