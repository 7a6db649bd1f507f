"""Laws of the objective: its value and its gradient at the exact model of Gaussian data are known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from conftest import F64, PATH_CASES, is_valid, normal, objective_or_none, registered_path
from torch import Tensor

from ebbflow.core.paths import PATHS, Path
from ebbflow.core.predictions import PREDICTIONS
from ebbflow.core.shape import per_sample
from ebbflow.core.times import TIME_SAMPLERS
from ebbflow.core.weights import WEIGHTS
from ebbflow.errors import ConfigError
from ebbflow.methods.objective import Objective
from ebbflow.methods.oracles import Gaussian

STD = 0.5
PAIRS = {f"{n}-{p}": (PATH_CASES[n], p) for n in PATHS for p in PREDICTIONS if is_valid(p, PATH_CASES[n])}
each_pair = pytest.mark.parametrize(("path", "prediction"), PAIRS.values(), ids=PAIRS)
each_weight = pytest.mark.parametrize("weight", WEIGHTS)


@dataclass
class Exact:
    """The conditional mean of the target for data N(mean, STD^2), plus a bias."""

    objective: Objective
    mean: float = 0.0
    bias: Tensor | float = 0.0

    def output(self, x_t: Tensor, t: float | Tensor, cond: Tensor | None) -> Tensor:
        path = self.objective.path
        estimate = Gaussian(self.mean, STD, path)(x_t, t)
        a, b = PREDICTIONS[self.objective.prediction](path.at(t))
        return per_sample(a, x_t) * estimate.x0 + per_sample(b, x_t) * estimate.eps + self.bias


def residual(objective: Objective, t: Tensor) -> Tensor:
    """The loss that no model can avoid: weight (d/sigma)^2 Var[x0 | x_t] = W s^2 / (alpha^2 s^2 + sigma^2)."""
    c = objective.path.at(t)
    a, b = PREDICTIONS[objective.prediction](c)
    common = WEIGHTS[objective.weight](c, a * c.sigma - b * c.alpha)
    return common * STD**2 / ((c.alpha * STD) ** 2 + c.sigma**2)


def batch(num: int, dims: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    return STD * normal(num, dims, seed=2 * seed + 1), normal(num, dims, seed=2 * seed + 2)


@each_pair
@each_weight
def test_loss_of_the_exact_model_is_the_conditional_variance(path: Path, prediction: str, weight: str) -> None:
    objective = objective_or_none(path, prediction, weight)
    if objective is None:
        return
    x0, eps = batch(400, 64)
    t = objective.draw_times(400, torch.Generator().manual_seed(1))
    ratio = objective.losses(Exact(objective), x0, None, eps, t) / residual(objective, t)
    error = 4.5 * math.sqrt(2 / x0.numel())  # every element is a chi-square with one degree of freedom
    assert abs(float(ratio.mean()) - 1) < error, f"{float(ratio.mean())} times the closed form"


@each_pair
@each_weight
def test_the_exact_model_is_stationary(path: Path, prediction: str, weight: str) -> None:
    objective = objective_or_none(path, prediction, weight)
    if objective is None:
        return
    x0, eps = batch(400, 32, seed=3)
    t = objective.draw_times(400, torch.Generator().manual_seed(2))

    def z_score(mean: float) -> float:
        bias = torch.zeros(400, 32, dtype=F64, requires_grad=True)
        (g,) = torch.autograd.grad(objective.losses(Exact(objective, mean, bias), x0, None, eps, t).sum(), bias)
        scale = (
            g.square().mean(1, keepdim=True).sqrt()
        )  # one weight a sample: studentise, or the largest weight decides alone
        return float((g / scale).mean()) * math.sqrt(g.numel())

    assert abs(z_score(0.0)) < 4.5, "the gradient with respect to a bias is not zero at the optimum"
    assert abs(z_score(0.5)) > 6, "this test would not notice a wrong model"


# Closed forms of the expected loss for data N(0, s^2), t uniform.
INTEGRALS = {
    "flow": ("velocity", STD * math.pi / 2),  # int s^2 / (s^2 (1-t)^2 + t^2) dt
    "cosine": ("v", STD),  # int s^2 / (s^2 cos^2 + sin^2) dt
}


@pytest.mark.parametrize("name", INTEGRALS)
def test_expected_loss_in_closed_form(name: str) -> None:
    prediction, wanted = INTEGRALS[name]
    objective = Objective(PATH_CASES[name], prediction=prediction, times="stratified")
    x0, eps = batch(20_000, 8, seed=5)
    losses = objective.losses(
        Exact(objective), x0, None, eps, objective.draw_times(20_000, torch.Generator().manual_seed(3))
    )
    assert abs(float(losses.mean()) - wanted) < 4.5 * float(losses.std()) / math.sqrt(20_000)


@pytest.mark.parametrize("times", TIME_SAMPLERS)
@pytest.mark.parametrize("name", ["flow", "vp", "cosine_discrete"])
def test_expected_loss_under_every_time_sampling(name: str, times: str) -> None:
    objective = Objective(PATH_CASES[name], prediction="x0", weight="snr", times=times)

    logits = torch.linspace(-30, 30, 20_001, dtype=F64)
    t = torch.sigmoid(logits)
    integrand = TIME_SAMPLERS[times].density(t, objective.path) * residual(objective, t) * t * (1 - t)
    wanted = float(torch.trapezoid(integrand, logits))
    x0, eps = batch(20_000, 8, seed=6)
    losses = objective.losses(
        Exact(objective), x0, None, eps, objective.draw_times(20_000, torch.Generator().manual_seed(4))
    )
    slack = 1e-3 if times == "discrete" else 0.0  # a sum over 1000 entries in the place of the integral
    assert abs(float(losses.mean()) - wanted) < 4.5 * float(losses.std()) / math.sqrt(20_000) + slack


@registered_path
@pytest.mark.parametrize("prediction", PREDICTIONS)
@each_weight
def test_accepted_objectives_have_a_finite_expectation(path: Path, prediction: str, weight: str) -> None:
    """With t uniform the expected loss converges at t -> 0 only if t times the loss at t vanishes."""
    if not is_valid(prediction, path):
        return
    objective = objective_or_none(path, prediction, weight)
    if objective is None:
        return
    near, nearer = (t * residual(objective, torch.tensor(t, dtype=F64)) for t in (1e-9, 1e-13))
    assert nearer < 0.5 * near, (
        f"the expected loss of {prediction} with weight {weight} diverges as sigma -> 0, and nothing refused it"
    )


def test_the_unweighted_score_loss_is_refused_with_its_cure() -> None:
    with pytest.raises(ValueError, match=r"diverges as sigma -> 0. Use weight 'snr'"):
        Objective(PATH_CASES["vp"], prediction="score")
    objective = Objective(PATH_CASES["vp"], prediction="score", weight="snr")
    twin = Objective(PATH_CASES["vp"], prediction="eps", weight="uniform")
    (x0, eps), t = batch(16, 4), torch.linspace(0.01, 1, 16, dtype=F64)
    torch.testing.assert_close(
        objective.losses(Exact(objective, mean=1.0), x0, None, eps, t),
        twin.losses(Exact(twin, mean=1.0), x0, None, eps, t),
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"prediction": "velocities"}, "unknown prediction 'velocities'. Did you mean 'velocity'"),
        ({"times": "logit-normal"}, "unknown time sampling 'logit-normal'. Did you mean 'logit_normal'"),
        ({"weight": "minsnr"}, "unknown weighting 'minsnr'. Did you mean 'min_snr'"),
    ],
)
def test_unknown_names_get_a_suggestion(names: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Objective(PATH_CASES["flow"], **names)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_losses_are_kept_in_single_precision_or_wider(dtype: torch.dtype) -> None:
    objective = Objective(PATH_CASES["vp"], prediction="x0", weight="snr")
    (x0, eps), t = batch(64, 32), torch.linspace(0.01, 1, 64, dtype=F64)
    losses = objective.losses(Exact(objective, mean=1.0), x0.to(dtype), None, eps.to(dtype), t)
    assert losses.shape == (64,)
    assert losses.dtype == torch.float32, f"data in {dtype} gave losses in {losses.dtype}"


def test_one_time_a_sample_is_not_broadcast_over_the_width() -> None:
    objective = Objective(PATH_CASES["flow"])
    x0, eps, t = normal(28, 1, 28, 28, seed=1), normal(28, 1, 28, 28, seed=2), torch.linspace(0.01, 0.99, 28, dtype=F64)
    model = Exact(objective, mean=1.0)
    alone = [objective.losses(model, x0[i : i + 1], None, eps[i : i + 1], t[i : i + 1]) for i in range(28)]
    torch.testing.assert_close(objective.losses(model, x0, None, eps, t), torch.cat(alone), rtol=1e-12, atol=0)
