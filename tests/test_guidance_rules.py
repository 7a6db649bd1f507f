"""Laws of the guidance rules: closed forms on Gaussian mixtures, and autograd for what is a slope."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import F64, PATH_CASES, each_path, interior, mixture, normal
from torch import Tensor

from ebbflow.core.paths import PATHS, VP, Cosine, Flow, Path
from ebbflow.core.predictions import PREDICTIONS, Estimate, check_pair, solve
from ebbflow.core.shape import per_sample
from ebbflow.errors import ConfigError
from ebbflow.methods.clipping import Clipped
from ebbflow.methods.denoise import Denoiser, NetDenoiser, UntrainedNullError
from ebbflow.methods.guidance import (
    CONDITION_RULES,
    GUIDANCE,
    LOSSES,
    RESTORATIONS,
    Autoguidance,
    ClassifierGuidance,
    LossGuidance,
    NetClassifier,
    classifier_free,
)
from ebbflow.methods.guidance.apg import split
from ebbflow.methods.oracles import FiniteData, Gaussian, GaussianMixture
from ebbflow.methods.samplers import SAMPLERS
from ebbflow.nets.classifier import ClassifierOptions

each_rule = pytest.mark.parametrize("rule", CONDITION_RULES.values(), ids=CONDITION_RULES)
OPTIONS: dict[str, list[dict[str, object]]] = {
    "classifier_free": [{}, {"rescale": 0.5}],
    "cfg_zero_star": [{}, {"zero_above": 0.8}],
    "apg": [{}, {"eta": 0.5}, {"norm_threshold": 0.3}],
}
RULE_CASES = {f"{n}-{o}": (CONDITION_RULES[n], o) for n, options in OPTIONS.items() for o in options}
each_case = pytest.mark.parametrize(("rule", "options"), RULE_CASES.values(), ids=RULE_CASES)


def cloud(path: Path) -> GaussianMixture:
    """Three components of images of two channels."""
    stds = 0.2 + normal(3, 2, 3, 2, seed=2).abs()
    return GaussianMixture(normal(3, 2, 3, 2, seed=1), stds, [1.0, 2.0, 1.0], path)


def states(path: Path, t: float | Tensor, num: int = 6, seed: int = 3) -> Tensor:
    return path.mix(normal(num, 2, 3, 2, seed=seed), normal(num, 2, 3, 2, seed=seed + 1), t)


def posterior(mix: GaussianMixture) -> NetClassifier:
    """log p(component | x_t), exact, as a classifier."""
    return lambda x_t, t, path: mix._components(x_t, t)[-1].log_softmax(1)  # type: ignore[return-value]


def close(found: Estimate, wanted: Estimate, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(found.x0, wanted.x0, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found.eps, wanted.eps, rtol=tolerance, atol=tolerance)


def branches(path: Path, t: float) -> tuple[Tensor, Tensor, Estimate, Estimate]:
    """States, conditions, and the unconditional and conditional estimates."""
    cond, x, mix = torch.tensor([0, 1, 2, 0, 1, 2]), states(path, t), cloud(path)
    return x, cond, mix(x, t), mix.given(cond)(x, t)


# -- every rule between a condition and none --------------------------------------------------------------------------


def test_the_registry_has_every_rule_documented() -> None:
    assert (
        set(CONDITION_RULES) < set(GUIDANCE) == {*CONDITION_RULES, *RESTORATIONS, "autoguidance", "classifier", "loss"}
    )
    assert set(OPTIONS) == set(CONDITION_RULES), "a new rule needs a row here"
    assert all(entry.__doc__ for entry in (*GUIDANCE.values(), *LOSSES.values()))


@each_rule
def test_one_is_the_conditional_model_bitwise(rule: object) -> None:
    for t in (0.05, 0.6, 1.0):
        x, cond, _, c = branches(Flow(), t)
        found = rule(cloud(Flow()), guidance=1.0).given(cond)(x, t)  # type: ignore[operator]
        assert torch.equal(found.x0, c.x0) and torch.equal(found.eps, c.eps)


def test_zero_is_the_unconditional_model_bitwise_where_the_rule_is_linear() -> None:
    x, cond, u, _ = branches(Flow(), 0.6)
    found = classifier_free(cloud(Flow()), guidance=0.0).given(cond)(x, 0.6)
    assert torch.equal(found.x0, u.x0) and torch.equal(found.eps, u.eps)


@each_path
@each_case
def test_estimates_still_add_up_to_the_state(path: Path, rule: object, options: dict[str, object]) -> None:
    """alpha x0 + sigma eps = x_t, one number of t or one a sample, and nothing infinite at either end."""
    guided = rule(cloud(path), guidance=3.0, **options).given(torch.tensor([0, 1, 2, 0, 1, 2]))  # type: ignore[operator]
    for t in (0.001, 0.5, 1.0, interior(6)):
        x = states(path, t)
        found = guided(x, t)
        torch.testing.assert_close(path.mix(found.x0, found.eps, t), x, rtol=1e-9, atol=1e-9)


@each_case
def test_one_call_is_two_calls_and_a_batch_is_its_samples(rule: object, options: dict[str, object]) -> None:
    x, cond, t = states(Flow(), 0.7), torch.tensor([0, 1, 2, 0, 1, 2]), torch.full((6,), 0.7, dtype=F64)
    found = [
        rule(cloud(Flow()), guidance=3.0, batched=b, **options).given(cond)(x, t)  # type: ignore[operator]
        for b in (True, False)
    ]
    close(*found, tolerance=1e-12)
    single = rule(cloud(Flow()), guidance=3.0, **options)  # type: ignore[operator]
    for i in range(6):
        alone = single.given(cond[i : i + 1])(x[i : i + 1], 0.7)
        torch.testing.assert_close(alone.x0, found[0].x0[i : i + 1], rtol=1e-10, atol=1e-10)


@each_case
def test_every_channel_is_guided(rule: object, options: dict[str, object]) -> None:
    x, cond, _, c = branches(Flow(), 0.7)
    found = rule(cloud(Flow()), guidance=3.0, **options).given(cond)(x, 0.7)  # type: ignore[operator]
    assert bool(((found.x0 - c.x0).abs().amax(dim=(2, 3)) > 1e-6).all())


@each_case
def test_it_means_the_same_in_every_prediction(rule: object, options: dict[str, object]) -> None:
    """A net that predicts anything gives the same guided x0, because the rule never sees the prediction."""
    path, t, cond = VP(), 0.4, torch.tensor([0, 1, 2, 0, 1, 2])
    x, exact = states(path, t), cloud(path)
    wanted = rule(exact, guidance=3.0, **options).given(cond)(x, t)  # type: ignore[operator]
    for name in ("eps", "x0", "v", "velocity", "edm"):
        denoiser = NetDenoiser(net=_Exact(exact, path, t, name), path=path, prediction=name, make_null=exact.null)
        found = rule(denoiser, guidance=3.0, **options).given(cond)(x, t)  # type: ignore[operator]
        close(found, wanted)


class _Exact:
    """The net that outputs what `name` wants of an exact denoiser at time t."""

    def __init__(self, exact: GaussianMixture, path: Path, t: float, name: str) -> None:
        self.exact, self.path, self.t, self.name = exact, path, t, name

    def __call__(self, x: Tensor, clock: Tensor, cond: Tensor | None) -> Tensor:
        c = self.path.at(self.t)
        estimate = self.exact.given(cond)(x * torch.sqrt(c.alpha**2 + c.sigma**2), self.t)
        a, b = PREDICTIONS[self.name](c)
        return a * estimate.x0 + b * estimate.eps


@each_case
def test_outside_its_interval_it_is_the_conditional_model(rule: object, options: dict[str, object]) -> None:
    if "zero_above" in options:
        pytest.skip("what stands still does so in or outside the interval")
    x, cond, _, c = branches(Flow(), 0.9)
    found = rule(cloud(Flow()), guidance=3.0, interval=(-1.0, 1.0), **options).given(cond)(x, 0.9)  # type: ignore[operator]
    assert torch.equal(found.x0, c.x0)


@each_case
def test_sampling_twice_gives_the_same(rule: object, options: dict[str, object]) -> None:
    """Nothing leaks from one run to the next."""
    guided = rule(cloud(Flow()), guidance=2.0, **options).given(torch.tensor([0, 1, 2, 0, 1, 2]))  # type: ignore[operator]
    times, x = torch.linspace(1, 0, 6, dtype=F64), normal(6, 2, 3, 2)
    first, second = ([s.x for s in SAMPLERS["heun"](guided, x, times)][-1] for _ in range(2))
    assert torch.equal(first, second) and bool(first.isfinite().all())


# -- CFG-Zero* -------------------------------------------------------------------------------------------------------


@each_path
def test_cfg_zero_star_is_its_formula_in_velocities(path: Path) -> None:
    t = 0.6
    x, cond, u, c = branches(path, t)
    v_u, v_c = (path.velocity(e.x0, e.eps, t) for e in (u, c))
    s = per_sample((v_c * v_u).flatten(1).sum(1) / v_u.square().flatten(1).sum(1), x)
    found = CONDITION_RULES["cfg_zero_star"](cloud(path), guidance=3.0).given(cond)(x, t)
    wanted = s * v_u + 3.0 * (v_c - s * v_u)
    torch.testing.assert_close(path.velocity(found.x0, found.eps, t), wanted, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(((v_c - s * v_u) * v_u).flatten(1).sum(1), torch.zeros(6, dtype=F64))


def test_cfg_zero_star_with_equal_branches_is_that_branch() -> None:
    x = states(Flow(), 0.6)
    found = CONDITION_RULES["cfg_zero_star"](cloud(Flow()), guidance=5.0)(x, 0.6)
    close(found, cloud(Flow())(x, 0.6))


@each_path
def test_cfg_zero_star_stands_still_where_told(path: Path) -> None:
    rule = CONDITION_RULES["cfg_zero_star"](cloud(path), guidance=3.0, zero_above=0.7)
    x = states(path, 0.8)
    found = rule(x, 0.8)
    torch.testing.assert_close(path.velocity(found.x0, found.eps, 0.8) / path.at(0.8).determinant, torch.zeros_like(x))
    moving = rule(x, 0.7)
    assert bool((path.velocity(moving.x0, moving.eps, 0.7).abs() > 1e-6).any())
    times = torch.tensor([1.0, 0.8, 0.6], dtype=F64)
    if path == Flow():
        steps = list(SAMPLERS["ddim"](rule, x, times))
        assert torch.allclose(steps[0].x, x) and torch.allclose(steps[1].x, x)


# -- APG -------------------------------------------------------------------------------------------------------------


def test_apg_leaves_out_what_lies_along_the_conditional_estimate() -> None:
    x, cond, u, c = branches(Flow(), 0.7)
    parallel, orthogonal = split(c.x0 - u.x0, c.x0)
    dots = (orthogonal * c.x0).flatten(1).sum(1)
    torch.testing.assert_close(dots, torch.zeros(6, dtype=F64), rtol=0, atol=1e-12)
    torch.testing.assert_close(parallel + orthogonal, c.x0 - u.x0)
    cosine = torch.nn.functional.cosine_similarity(parallel.flatten(1), c.x0.flatten(1)).abs()
    torch.testing.assert_close(cosine, torch.ones(6, dtype=F64))
    found = CONDITION_RULES["apg"](cloud(Flow()), guidance=4.0).given(cond)(x, 0.7)
    torch.testing.assert_close(found.x0, c.x0 + 3 * orthogonal)


def test_apg_with_the_whole_difference_is_the_linear_rule() -> None:
    x, cond, _, _ = branches(Flow(), 0.7)
    found = CONDITION_RULES["apg"](cloud(Flow()), guidance=4.0, eta=1.0).given(cond)(x, 0.7)
    close(found, classifier_free(cloud(Flow()), guidance=4.0).given(cond)(x, 0.7))


def test_apg_shortens_long_differences_and_leaves_short_ones() -> None:
    x, cond, u, c = branches(Flow(), 0.7)
    lengths = (c.x0 - u.x0).flatten(1).norm(dim=1)
    limit = float(lengths.median())
    found = CONDITION_RULES["apg"](cloud(Flow()), guidance=2.0, eta=1.0, norm_threshold=limit).given(cond)(x, 0.7)
    torch.testing.assert_close((found.x0 - c.x0).flatten(1).norm(dim=1), lengths.clamp(max=limit))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("apg", {"eta": -1.0}, "eta"),
        ("apg", {"norm_threshold": 0.0}, "norm_threshold"),
        ("cfg_zero_star", {"zero_above": 1.5}, "zero_above"),
        ("classifier_free", {"rescale": 2.0}, "rescale"),
        ("apg", {"interval": (1.0, -1.0)}, "interval"),
    ],
)
def test_bad_options_are_refused(name: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CONDITION_RULES[name](cloud(Flow()), guidance=2.0, **options)


@each_rule
def test_an_unconditional_model_has_nothing_to_guide(rule: object) -> None:
    with pytest.raises(ValueError, match="condition"):
        rule(Gaussian(0.0, 1.0, Flow()), guidance=2.0)  # type: ignore[operator]


@each_rule
def test_a_null_that_was_never_trained_is_refused(rule: object) -> None:
    mix = cloud(Flow())
    net = _Exact(mix, Flow(), 0.5, "velocity")
    denoiser = NetDenoiser(net=net, path=Flow(), make_null=mix.null, null_trained=False)
    with pytest.raises(UntrainedNullError, match="never saw the null condition"):
        rule(denoiser, guidance=2.0)  # type: ignore[operator]
    with pytest.raises(UntrainedNullError, match="never saw the null condition"):
        denoiser(states(Flow(), 0.5), 0.5)
    x, cond = states(Flow(), 0.5), torch.tensor([0, 1, 2, 0, 1, 2])
    found = rule(denoiser, guidance=2.0, negative=torch.tensor([1])).given(cond)(x, 0.5)  # type: ignore[operator]
    wanted = rule(mix, guidance=2.0, negative=torch.tensor([1])).given(cond)(x, 0.5)  # type: ignore[operator]
    close(found, wanted)


# -- autoguidance ----------------------------------------------------------------------------------------------------


def test_autoguidance_is_linear_in_two_models() -> None:
    good, bad = cloud(Flow()), GaussianMixture(normal(3, 2, 3, 2, seed=9), 0.8, [1.0, 1.0, 1.0], Flow())
    bad = replace(bad, stds=torch.full((3,), 0.8, dtype=F64))
    cond, x = torch.tensor([0, 1, 2, 0, 1, 2]), states(Flow(), 0.6)
    g, b = good.given(cond)(x, 0.6), bad.given(cond)(x, 0.6)
    for w in (0.0, 0.5, 1.0, 3.0):
        found = Autoguidance(good, bad=bad, guidance=w).given(cond)(x, 0.6)
        torch.testing.assert_close(found.x0, b.x0 + w * (g.x0 - b.x0))
        torch.testing.assert_close(Flow().mix(found.x0, found.eps, 0.6), x)
    assert torch.equal(Autoguidance(good, bad=bad, guidance=1.0).given(cond)(x, 0.6).x0, g.x0)
    assert torch.equal(Autoguidance(good, bad=bad, guidance=0.0).given(cond)(x, 0.6).x0, b.x0)
    assert torch.equal(Autoguidance(good, bad=good, guidance=7.0).given(cond)(x, 0.6).x0, g.x0)


def test_autoguidance_by_an_unconditional_model_is_classifier_free() -> None:
    mix, cond, x = cloud(Flow()), torch.tensor([0, 1, 2, 0, 1, 2]), states(Flow(), 0.6)

    class Unconditional(Denoiser):
        path = Flow()

        def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
            return mix(x_t, t)

        def given(self, cond: Tensor | None) -> Denoiser:
            raise AssertionError("it takes no condition")

        def null(self, num: int) -> Tensor:
            raise ValueError("none")

    found = Autoguidance(mix, bad=Unconditional(), guidance=3.0).given(cond)(x, 0.6)
    close(found, classifier_free(mix, guidance=3.0).given(cond)(x, 0.6))


def test_autoguidance_needs_one_path() -> None:
    with pytest.raises(ValueError, match="same path"):
        Autoguidance(cloud(Flow()), bad=cloud(Cosine()), guidance=2.0)


# -- classifier guidance ---------------------------------------------------------------------------------------------


@each_path
def test_the_mixture_guided_by_its_own_posterior_is_the_component(path: Path) -> None:
    mix, labels = cloud(path), torch.tensor([0, 1, 2, 0, 1, 2])
    guided = ClassifierGuidance(mix, classifier=posterior(mix), labels=labels)
    for t in (0.02, 0.3, 0.7, 0.98, interior(6, seed=5)):
        x = states(path, t)
        close(guided(x, t), mix.given(labels)(x, t), tolerance=1e-7)


@each_path
def test_so_it_is_at_pure_noise_in_the_limit(path: Path) -> None:
    mix, labels = cloud(path), torch.tensor([0, 1, 2, 0, 1, 2])
    x = normal(6, 2, 3, 2) * float(path.at(1.0).sigma)
    found = ClassifierGuidance(mix, classifier=posterior(mix), labels=labels)(x, 1.0)
    close(found, mix.given(labels)(x, 1.0), tolerance=2e-2)


def test_sampling_with_it_is_sampling_the_component() -> None:
    mix = mixture(Flow())
    x, times = normal(2000, 1), torch.linspace(1, 0, 41, dtype=F64)
    guided = ClassifierGuidance(mix, classifier=posterior(mix), labels=torch.tensor([2]))
    ends = [list(SAMPLERS["heun"](d, x, times))[-1].x for d in (guided, mix.given(torch.tensor([2])))]
    torch.testing.assert_close(*ends, rtol=1e-3, atol=1e-3)


def test_the_shift_is_gamma_sigma_times_the_slope() -> None:
    path, t, labels, gamma = Cosine(), 0.4, torch.tensor([1]), 2.5
    mix, x = cloud(path), states(path, t)
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(posterior(mix)(leaf, t, path)[:, 1].sum(), leaf)  # type: ignore[operator]
    found = ClassifierGuidance(mix, classifier=posterior(mix), labels=labels, scale=gamma)(x, t)
    torch.testing.assert_close(found.eps, mix(x, t).eps - gamma * path.at(t).sigma * slope)
    torch.testing.assert_close(path.mix(found.x0, found.eps, t), x)


def test_scale_zero_and_outside_the_interval_change_nothing() -> None:
    mix, x = cloud(Flow()), states(Flow(), 0.9)
    for options in ({"scale": 0.0}, {"interval": (-1.0, 1.0)}):
        found = ClassifierGuidance(mix, classifier=posterior(mix), labels=torch.tensor([1]), **options)(x, 0.9)
        assert torch.equal(found.x0, mix(x, 0.9).x0)


def test_under_no_grad_nothing_keeps_a_graph() -> None:
    mix, x = cloud(Flow()), states(Flow(), 0.5)
    losses = LOSSES["colour"](torch.tensor([0.5]))
    with torch.no_grad():
        for guided in (
            ClassifierGuidance(mix, classifier=posterior(mix), labels=torch.tensor([1])),
            LossGuidance(mix, loss=losses),
        ):
            found = guided(x, 0.5)
            assert not found.x0.requires_grad and not found.eps.requires_grad
            assert bool((found.x0 - mix(x, 0.5).x0).abs().max() > 1e-6)


@pytest.mark.parametrize("dims", [(1, 8, 8), (3, 9, 7), (2,)])
def test_a_net_classifier_hears_of_log_snr_alone(dims: tuple[int, ...]) -> None:
    """Trained on one path it serves every other: at equal log-SNR it is asked the same question."""
    torch.manual_seed(0)
    net = ClassifierOptions(channels=(8, 8)).build(dims, 4)
    torch.nn.init.normal_(net.head.weight)
    torch.nn.init.normal_(net.head.bias)
    classifier = NetClassifier(net=net)
    x0, eps = normal(5, *dims, dtype=torch.float32), normal(5, *dims, seed=1, dtype=torch.float32)
    for t in (0.1, 0.6, 0.95):
        wanted = classifier(Flow().mix(x0, eps, t), t, Flow())
        assert wanted.shape == (5, 4)
        torch.testing.assert_close(wanted.exp().sum(1), torch.ones(5))
        for path in PATH_CASES.values():
            s = path.time_of(Flow().log_snr(t))
            if abs(float(path.log_snr(s) - Flow().log_snr(t))) < 1e-3:
                found = classifier(path.mix(x0, eps, s), s, path)
                torch.testing.assert_close(found, wanted, rtol=2e-3, atol=2e-3)


def test_a_net_classifier_knows_only_how_common_classes_are_where_there_is_no_data() -> None:
    torch.manual_seed(0)
    net = ClassifierOptions(channels=(8,)).build((1, 8, 8), 3)
    torch.nn.init.normal_(net.head.weight)
    net.head.bias.data = torch.tensor([1.0, 0.0, -1.0])
    found = NetClassifier(net=net)(normal(5, 1, 8, 8, dtype=torch.float32), 1.0, Flow())
    torch.testing.assert_close(found, net.head.bias.log_softmax(0).expand(5, 3))
    guided = ClassifierGuidance(
        Gaussian(0.0, 1.0, Flow()), classifier=NetClassifier(net=net), labels=torch.tensor([0]), scale=3.0
    )
    found = guided(normal(5, 1, 8, 8, dtype=torch.float32), 1.0)
    assert bool(found.x0.isfinite().all()) and bool((found.x0.abs().amax(dim=(1, 2, 3)) > 1e-4).all())


# -- loss guidance ---------------------------------------------------------------------------------------------------


def gaussian(path: Path) -> Gaussian:
    return Gaussian(0.3, 0.7, path)


@pytest.mark.parametrize("path", [kind() for kind in PATHS.values()], ids=PATHS)
@pytest.mark.parametrize("emphasis", ["early", "late", "none"])
def test_on_gaussian_data_the_shift_has_a_closed_form(path: Path, emphasis: str) -> None:
    """x0(x_t) has slope J = alpha s^2 / (alpha^2 s^2 + sigma^2), so the shift is -zeta k J (x0 - y)."""
    y = normal(2, 3, 2, seed=8)
    for t in (0.05, 0.5, 0.95):
        c, x = path.at(t), states(path, t)
        estimate = gaussian(path)(x, t)
        slope = c.alpha * 0.49 / (c.alpha**2 * 0.49 + c.sigma**2)
        k = {"early": c.sigma, "late": c.alpha, "none": (c.alpha**2 + c.sigma**2).sqrt()}[emphasis]
        loss = LOSSES["inpaint"](y, torch.ones(3, 2))
        found = LossGuidance(gaussian(path), loss=loss, weight=0.8, emphasis=emphasis)(x, t)
        torch.testing.assert_close(found.x0, estimate.x0 - 0.8 * k * slope * (estimate.x0 - y))
        torch.testing.assert_close(path.mix(found.x0, found.eps, t), x)


def image_losses(dims: tuple[int, int, int]) -> dict[str, object]:
    image = normal(*dims, seed=11)
    mask = torch.zeros(dims[1:], dtype=F64)
    mask[:, : dims[2] // 2] = 1
    return {
        "colour": LOSSES["colour"](torch.tensor([0.4])),
        "colour/image": LOSSES["colour"](image),
        "inpaint": LOSSES["inpaint"](image, mask),
        "blur": LOSSES["blur"](image, width=1.0),
        "downsample": LOSSES["downsample"](image, factor=2),
    }


def test_every_ready_loss_falls_along_the_guidance_and_weight_one_does_not_overshoot() -> None:
    losses = image_losses((2, 4, 6))
    assert {name.split("/")[0] for name in losses} == set(LOSSES)
    for name, loss in losses.items():
        for t in (0.05, 0.5, 0.9):
            x = Flow().mix(normal(6, 2, 4, 6), normal(6, 2, 4, 6, seed=1), t)
            before = loss(gaussian(Flow())(x, t).x0)  # type: ignore[operator]
            assert before.shape == (6,)
            for emphasis in ("early", "late", "none"):
                found = LossGuidance(gaussian(Flow()), loss=loss, emphasis=emphasis)(x, t)  # type: ignore[arg-type]
                assert bool((loss(found.x0) < before).all()), (name, t, emphasis)  # type: ignore[operator]


def test_a_projection_is_met_in_one_step_of_weight_one() -> None:
    """The losses are scaled so that x0 minus their slope has loss 0 where A A^T = 1: all but the blur."""
    for name, loss in image_losses((2, 4, 6)).items():
        if name == "blur":
            continue
        x0 = normal(3, 2, 4, 6, seed=4).requires_grad_()
        (slope,) = torch.autograd.grad(loss(x0).sum(), x0)  # type: ignore[operator]
        after = loss(x0 - slope)  # type: ignore[operator]
        torch.testing.assert_close(after, torch.zeros_like(after), rtol=0, atol=1e-20)


def test_losses_measure_what_they_say() -> None:
    image = normal(3, 8, 8, seed=5)
    coarse = torch.nn.functional.avg_pool2d(image[None], 4)
    assert float(LOSSES["downsample"](image)(torch.nn.functional.interpolate(coarse, scale_factor=4.0))) < 1e-20
    flat = torch.full((1, 3, 8, 8), 0.25, dtype=F64)
    assert float(LOSSES["blur"](flat[0])(flat)) < 1e-20
    assert float(LOSSES["colour"](torch.tensor([0.25]))(flat)) < 1e-20
    other = flat.clone()
    other[..., 0] = 9.0
    mask = torch.ones(8, 8)
    mask[:, 0] = 0
    assert float(LOSSES["inpaint"](flat[0], mask)(other)) == 0.0


def test_guided_sampling_fills_in_the_other_half() -> None:
    """Data with two faces, each of one sign: what is known of the left half decides the right one."""
    means = torch.stack([torch.ones(1, 4, 4), -torch.ones(1, 4, 4)]).double()
    mix = GaussianMixture(means, torch.full((2,), 0.1, dtype=F64), [0.5, 0.5], Flow())
    mask = torch.zeros(4, 4, dtype=F64)
    mask[:, :2] = 1
    x, times = normal(40, 1, 4, 4), torch.linspace(1, 0, 31, dtype=F64)
    for sign in (1.0, -1.0):
        loss = LOSSES["inpaint"](torch.full((1, 4, 4), sign, dtype=F64), mask)
        guided = LossGuidance(mix, loss=loss, weight=3.0, emphasis="none")
        right = list(SAMPLERS["euler"](guided, x, times))[-1].x[..., 2:].mean(dim=(1, 2, 3))
        assert float((right.sign() == sign).double().mean()) == 1.0


def test_losses_and_emphases_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="must divide"):
        LOSSES["downsample"](normal(1, 8, 8), factor=3)
    with pytest.raises(ValueError, match="width"):
        LOSSES["blur"](normal(1, 8, 8), width=0.0)
    with pytest.raises(ConfigError, match="Did you mean 'early'"):
        LossGuidance(cloud(Flow()), loss=LOSSES["colour"](torch.tensor([0.0])), emphasis="erly")
    with pytest.raises(ValueError, match="at least 0"):
        LossGuidance(cloud(Flow()), loss=LOSSES["colour"](torch.tensor([0.0])), weight=-1.0)


def test_rules_nest() -> None:
    """A classifier on a guided model and a loss on both: each adds its own shift."""
    mix, labels = cloud(Flow()), torch.tensor([0, 1, 2, 0, 1, 2])
    base = classifier_free(mix, guidance=2.0).given(labels)
    both = ClassifierGuidance(base, classifier=posterior(mix), labels=labels)
    x = states(Flow(), 0.6)
    shift = both(x, 0.6).x0 - base(x, 0.6).x0
    torch.testing.assert_close(shift, mix.given(labels)(x, 0.6).x0 - mix(x, 0.6).x0)
    lossy = LossGuidance(both, loss=LOSSES["colour"](torch.tensor([0.0])), weight=0.5)(x, 0.6)
    assert bool(lossy.x0.isfinite().all()) and not torch.equal(lossy.x0, both(x, 0.6).x0)
    check_pair("velocity", Flow())
    torch.testing.assert_close(solve("velocity", lossy.eps - lossy.x0, x, 0.6, Flow()).x0, lossy.x0)


# -- clipping ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["flow", "vp", "ve"])
def test_clipping_keeps_x0_in_range_and_the_state_explained(name: str) -> None:
    path = PATHS[name]()
    inner, x, t = Gaussian(0.8, 0.7, path), normal(64, 3, seed=3), 0.3
    x = path.mix(0.8 + 0.7 * x, normal(64, 3, seed=4), t)
    assert float(inner(x, t).x0.abs().max()) > 1, "nothing to clip: this test sees nothing"
    clipped = Clipped(inner=inner)(x, t)
    torch.testing.assert_close(clipped.x0, inner(x, t).x0.clamp(-1, 1))
    torch.testing.assert_close(path.mix(clipped.x0, clipped.eps, t), x, rtol=1e-9, atol=1e-9)


def test_clipping_does_nothing_to_an_exact_model_of_bounded_data() -> None:
    inner = FiniteData(torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=F64), PATHS["flow"]())
    x = normal(16, 2, seed=5)
    torch.testing.assert_close(Clipped(inner=inner)(x, 0.6).eps, inner(x, 0.6).eps, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="`limit` must be above 0, got 0"):
        Clipped(inner=inner, limit=0)
