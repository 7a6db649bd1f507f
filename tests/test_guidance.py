"""Laws of guidance: its two ends, its closed form on a mixture, and its options."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import (
    F64,
    MODES,
    PATH_CASES,
    VALID_PAIRS,
    WALKERS,
    line,
    mixture,
    normal,
    parts,
    registered_path,
    seeded,
    walk,
)
from torch import Tensor

from ebbflow.core.paths import Path
from ebbflow.core.predictions import PREDICTIONS, Estimate
from ebbflow.core.shape import per_sample
from ebbflow.methods.denoise import Denoiser, NetDenoiser
from ebbflow.methods.guidance import BATCH_LIMITS, CONDITION_RULES, ClassifierFree, classifier_free
from ebbflow.methods.oracles import Gaussian, GaussianMixture

FLOW = PATH_CASES["flow"]
COND, NEGATIVE = torch.tensor([0, 1, 2, 1, 0, 2]), torch.tensor([2, 2, 0, 0, 1, 1])
X = normal(6, 1, seed=1)


class Spy(Denoiser):
    """Counts the calls and the rows that reach a denoiser."""

    def __init__(self, inner: Denoiser, log: list[int] | None = None) -> None:
        self.inner, self.path, self.log = inner, inner.path, [] if log is None else log

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        self.log.append(len(x_t))
        return self.inner(x_t, t)

    def given(self, cond: Tensor | None) -> Spy:
        return Spy(self.inner.given(cond), self.log)

    def null(self, num: int) -> Tensor:
        return self.inner.null(num)


def equal(a: Estimate, b: Estimate) -> bool:
    return torch.equal(a.x0, b.x0) and torch.equal(a.eps, b.eps)


def posterior_mean(path: Path, x: Tensor, t: float, only: Tensor | None = None) -> Tensor:
    """E[x0 | x_t], or that of one component a sample, from Bayes' rule alone."""
    c, (means, stds, weights) = path.at(t), parts(MODES)
    spread = torch.sqrt((c.alpha * stds) ** 2 + c.sigma**2)
    centres = means + c.alpha * stds**2 / spread**2 * (x - c.alpha * means)
    if only is not None:
        return centres.gather(1, only[:, None])
    likelihood = weights * torch.exp(torch.distributions.Normal(c.alpha * means, spread).log_prob(x))
    return (likelihood * centres).sum(1, keepdim=True) / likelihood.sum(1, keepdim=True)


# -- over the registry -----------------------------------------------------------------------------


@pytest.mark.parametrize("rule", CONDITION_RULES)
@registered_path
def test_one_is_conditional_and_zero_unconditional_to_the_bit(rule: str, path: Path) -> None:
    inner = mixture(path)
    for t in (0.2, 0.8, 1.0):
        assert equal(CONDITION_RULES[rule](inner, guidance=1.0).given(COND)(X, t), inner.given(COND)(X, t)), (
            f"w = 1 at t = {t}"
        )
        if rule != "classifier_free":
            continue
        assert equal(CONDITION_RULES[rule](inner, guidance=0.0).given(COND)(X, t), inner.given(inner.null(6))(X, t)), (
            f"w = 0 at t = {t}"
        )


@pytest.mark.parametrize("rule", CONDITION_RULES)
@pytest.mark.parametrize("name", WALKERS)
def test_every_sampler_walks_a_guided_model(rule: str, name: str) -> None:
    """On images: on the line all directions are parallel, and apg and cfg_zero_star do nothing there."""
    x, inner, cond = normal(3, 4, 5, 5, seed=9), images(FLOW), torch.tensor([0, 1, 0])
    denoisers = (CONDITION_RULES[rule](inner, guidance=1.0), inner, CONDITION_RULES[rule](inner, guidance=2.0))
    guided, conditional, strong = (
        walk(name, d.given(cond), x, line(1, 0, 8), **seeded(name, {}, 3))[-1].x for d in denoisers
    )
    assert torch.equal(guided, conditional), "w = 1 is not the conditional model"
    assert bool(torch.isfinite(strong).all()) and (strong - conditional).abs().max() > 1e-3, "w = 2 has no effect"


# -- classifier-free -------------------------------------------------------------------------------


@registered_path
@pytest.mark.parametrize("w", [-0.5, 0.0, 0.5, 1.0, 3.0])
def test_guidance_has_the_closed_form(path: Path, w: float) -> None:
    for t in (0.2, 0.6, 0.9):
        x = path.mix(X, normal(6, 1, seed=2), t)
        found = classifier_free(mixture(path), guidance=w).given(COND)(x, t)
        u, c = posterior_mean(path, x, t), posterior_mean(path, x, t, COND)
        torch.testing.assert_close(found.x0, u + w * (c - u), rtol=1e-9, atol=1e-9)
        k = path.at(t)
        torch.testing.assert_close(k.alpha * found.x0 + k.sigma * found.eps, x, rtol=1e-9, atol=1e-9)


def test_one_call_gives_what_two_give(monkeypatch: pytest.MonkeyPatch) -> None:
    logs = []
    for t in (0.4, torch.linspace(0.1, 0.9, 6, dtype=F64)):
        results = []
        for batched in (True, False, None):
            spy = Spy(mixture(FLOW))
            results.append(classifier_free(spy, guidance=2.5, negative=NEGATIVE, batched=batched).given(COND)(X, t))
            logs.append(spy.log)
        for other in results[1:]:
            for field in ("x0", "eps", "x0_variance"):
                torch.testing.assert_close(getattr(other, field), getattr(results[0], field), rtol=1e-12, atol=1e-12)
    assert logs == [[12], [6, 6], [12]] * 2, "the small batch was not joined"
    big, spy = normal(40, 1), Spy(mixture(FLOW))
    classifier_free(spy, guidance=2.5).given(torch.zeros(40, dtype=torch.long))(big, 0.4)
    assert spy.log == [40, 40], "the large batch was not split"
    monkeypatch.delitem(BATCH_LIMITS, "cpu")
    classifier_free(spy, guidance=2.5).given(torch.zeros(40, dtype=torch.long))(big, 0.4)
    assert spy.log[2:] == [80], "the limit is a processor's own; a kind of device that is not in the table has none"


@pytest.mark.parametrize(("w", "rows"), [(1.0, [6]), (0.0, [6]), (0.5, [12])])
def test_the_ends_cost_one_evaluation(w: float, rows: list[int]) -> None:
    spy = Spy(mixture(FLOW))
    classifier_free(spy, guidance=w).given(COND)(X, 0.5)
    assert spy.log == rows


def test_a_negative_condition_takes_the_place_of_the_null() -> None:
    inner = mixture(FLOW)
    guided = classifier_free(inner, guidance=2.0, negative=NEGATIVE).given(COND)(X, 0.6)
    n, c = posterior_mean(FLOW, X, 0.6, NEGATIVE), posterior_mean(FLOW, X, 0.6, COND)
    torch.testing.assert_close(guided.x0, n + 2 * (c - n), rtol=1e-9, atol=1e-9)
    assert equal(
        classifier_free(inner, guidance=0.0, negative=NEGATIVE).given(COND)(X, 0.6), inner.given(NEGATIVE)(X, 0.6)
    )
    single = classifier_free(inner, guidance=2.0, negative=torch.tensor([1])).given(torch.tensor([0]))(X, 0.6)
    full = classifier_free(inner, guidance=2.0, negative=torch.full((6,), 1)).given(torch.full((6,), 0))(X, 0.6)
    assert equal(single, full), "a single row is not spread over the batch"


def test_without_a_condition_guidance_changes_nothing() -> None:
    guided = classifier_free(mixture(FLOW), guidance=4.0)(X, 0.5)
    torch.testing.assert_close(guided.x0, mixture(FLOW)(X, 0.5).x0, rtol=1e-12, atol=1e-12)


def test_the_interval_counts_its_ends_and_spares_the_outside() -> None:
    inner, t = mixture(FLOW), 0.5  # log-SNR 0
    plain, guided = inner.given(COND)(X, t), classifier_free(inner, guidance=3.0).given(COND)(X, t)
    for interval, wanted in (
        ((-1.0, 1.0), guided),
        ((0.0, 1.0), guided),
        ((-1.0, 0.0), guided),
        ((0.1, 1.0), plain),
        ((-1.0, -0.1), plain),
    ):
        assert equal(classifier_free(inner, guidance=3.0, interval=interval).given(COND)(X, t), wanted), (
            f"interval {interval}"
        )


def test_the_interval_is_kept_sample_by_sample() -> None:
    guided = classifier_free(mixture(FLOW), guidance=3.0, interval=(-1.0, 1.0)).given
    t = torch.tensor([0.1, 0.5, 0.9, 0.45, 0.55, 0.99], dtype=F64)
    together = guided(COND)(X, t)
    for i in range(6):
        alone = guided(COND[i : i + 1])(X[i : i + 1], float(t[i]))
        torch.testing.assert_close(
            together.x0[i], alone.x0[0], rtol=1e-9, atol=1e-9, msg=lambda m, i=i: f"sample {i} at t = {t[i]}: {m}"
        )


# -- many channels ---------------------------------------------------------------------------------


def images(path: Path) -> GaussianMixture:
    """Two classes of four-channel images."""
    return GaussianMixture(
        normal(2, 4, 5, 5, seed=4), torch.tensor([0.5, 0.8], dtype=F64), torch.tensor([0.4, 0.6], dtype=F64), path
    )


def test_all_channels_are_guided() -> None:
    inner, x, cond = images(FLOW), normal(3, 4, 5, 5, seed=5), torch.tensor([0, 1, 0])
    u, c = inner(x, 0.9), inner.given(cond)(x, 0.9)
    moved = classifier_free(inner, guidance=3.0).given(cond)(x, 0.9).x0 - c.x0
    assert bool((c.x0 != u.x0).all()), "the branches agree somewhere: this test sees nothing there"
    torch.testing.assert_close(moved, 2 * (c.x0 - u.x0), rtol=1e-9, atol=1e-12)


def test_rescale_gives_back_the_spread_of_the_conditional_x0() -> None:
    inner, x, cond, t = images(FLOW), normal(3, 4, 5, 5, seed=5), torch.tensor([0, 1, 0]), 0.9
    spread = [
        e.x0.flatten(1).std(dim=1)
        for e in (inner.given(cond)(x, t), classifier_free(inner, guidance=6.0).given(cond)(x, t))
    ]
    assert bool(((spread[1] / spread[0] - 1).abs() > 0.02).all()), "guidance changed no spread: this test sees nothing"
    for phi in (1.0, 0.7, 0.0):
        found = classifier_free(inner, guidance=6.0, rescale=phi).given(cond)(x, t)
        torch.testing.assert_close(
            found.x0.flatten(1).std(dim=1), phi * spread[0] + (1 - phi) * spread[1], rtol=1e-9, atol=0
        )
        torch.testing.assert_close((1 - t) * found.x0 + t * found.eps, x, rtol=1e-9, atol=1e-9)


def test_rescale_takes_samples_of_a_single_number() -> None:
    found = classifier_free(mixture(FLOW), guidance=3.0, rescale=0.5).given(COND)(X, 0.5)
    assert bool(torch.isfinite(found.x0).all()), f"one number has no standard deviation: {found.x0.flatten().tolist()}"


@pytest.mark.parametrize("pair", [pair for pair in VALID_PAIRS if "/" not in pair])
def test_a_guided_net_is_guided_alike_in_every_prediction(pair: str) -> None:
    """Guidance on the net's outputs, whatever they mean, is guidance on x0; the null comes from the model."""
    path, prediction = VALID_PAIRS[pair]
    oracle, t, cond = images(path), 0.6, torch.tensor([1, 0, 1])
    x = path.mix(normal(3, 4, 5, 5, seed=6), normal(3, 4, 5, 5, seed=7), t)

    def net(scaled: Tensor, clock: Tensor, given: Tensor | None) -> Tensor:
        c = path.at(t)
        estimate, (a, b) = (
            oracle.given(given)(scaled * torch.sqrt(c.alpha**2 + c.sigma**2), t),
            PREDICTIONS[prediction](c),
        )
        return per_sample(a, scaled) * estimate.x0 + per_sample(b, scaled) * estimate.eps

    model = NetDenoiser(net=net, path=path, prediction=prediction, make_null=oracle.null)
    got, want = (classifier_free(d, guidance=2.5).given(cond)(x, t) for d in (model, oracle))
    torch.testing.assert_close(got.x0, want.x0, rtol=1e-7, atol=1e-7)


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rescale": 1.5}, r"`rescale` must be in \[0, 1\], got 1.5"),
        ({"rescale": math.nan}, "`rescale` must be finite, got nan"),
        ({"interval": (2.0, -2.0)}, r"`interval` must be \(low, high\) in log-SNR with low < high"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classifier_free(mixture(FLOW), guidance=2.0, **options)  # type: ignore[arg-type]


def test_models_without_a_null_condition_cannot_be_guided() -> None:
    with pytest.raises(ValueError, match="takes no condition"):
        classifier_free(Gaussian(0.0, 1.0, FLOW), guidance=2.0)
    model = NetDenoiser(net=lambda x, clock, cond: x, path=FLOW)
    with pytest.raises(ValueError, match="no null condition and guidance has nothing to guide"):
        ClassifierFree(inner=model, guidance=2.0)
    with pytest.raises(ValueError, match="trained without a condition; it cannot take one"):
        model.given(torch.tensor([1]))
