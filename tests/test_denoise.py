"""Laws of nets as denoisers: what they are shown and told, which paths they serve, and what conditions they take."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any

import pytest
import torch
from conftest import F64, PATH_CASES, each_path, interior, is_valid, normal
from torch import Tensor, nn

import ebbflow as ef
from ebbflow.conditioning import ConditionedNet, DataFacts, LabelConditioning, TextConditioning
from ebbflow.core.condition import Cond
from ebbflow.core.paths import PATHS, VE, Flow, Path, VPDiscrete
from ebbflow.core.predictions import EDM, PREDICTIONS, Estimate
from ebbflow.core.shape import per_sample
from ebbflow.errors import ConfigError
from ebbflow.methods.denoise import Conditional, FunctionDenoiser, NetDenoiser, Wrapped, takes_condition
from ebbflow.methods.guidance import CONDITION_RULES, Autoguidance, LossGuidance, classifier_free
from ebbflow.methods.likelihood import log_likelihood
from ebbflow.methods.oracles import GaussianMixture
from ebbflow.methods.told import CLOCKS, SCALES, RawSteps
from ebbflow.methods.variance import measure_variance
from ebbflow.metrics.denoising import denoising_errors
from ebbflow.nets import NETS, Context
from ebbflow.progress import finish

FLOW = PATH_CASES["flow"]
MEANS = torch.tensor([[-1.5, 0.5], [1.0, 1.0], [0.3, -1.2]], dtype=F64)


def cloud(path: Path) -> GaussianMixture:
    return GaussianMixture(MEANS, torch.tensor([0.4, 0.6, 0.5], dtype=F64), [0.3, 0.4, 0.3], path)


class Knowing:
    """The exact net of one path: shown scale * x_t and told a clock, it answers a x0 + b eps of that path."""

    def __init__(self, path: Path, prediction: str, scale: str = "unit") -> None:
        self.path, self.prediction, self.scale = path, prediction, scale

    def __call__(self, shown: Tensor, clock: Tensor, cond: Tensor | None) -> Tensor:
        t = self.path.time_of(clock.double() / 25)
        c = self.path.at(t)
        x_t = shown / per_sample(SCALES[self.scale](c), shown)
        estimate = cloud(self.path).given(cond)(x_t, t)
        a, b = PREDICTIONS[self.prediction](c)
        return per_sample(a, x_t) * estimate.x0 + per_sample(b, x_t) * estimate.eps


# -- what a net is shown and told ------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("clock", CLOCKS)
@each_path
def test_a_number_and_a_tensor_of_times_show_and_tell_the_same(path: Path, scale: str, clock: str) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def net(x: Tensor, told: Tensor, cond: Cond | None) -> Tensor:
        seen.append((x, told))
        return x

    model = NetDenoiser(net=net, path=path, prediction="x0", scale=scale, clock=clock)
    x = normal(3, 2)
    model(x, 0.37), model(x, torch.full((3,), 0.37, dtype=F64)), model(x, torch.tensor(0.37))
    for shown, told in seen:
        torch.testing.assert_close(shown, seen[0][0], rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(told, seen[0][1], rtol=1e-5, atol=1e-4)
        assert told.dtype == torch.float32 and told.shape == (3,)
    c = path.at(0.37)
    size = 1 if scale == "none" else float((c.alpha**2 + c.sigma**2) ** -0.5)
    torch.testing.assert_close(seen[0][0], size * x)


@pytest.mark.parametrize("num_steps", [50, 1000])
@pytest.mark.parametrize("first", [0, 1])
def test_raw_steps_are_the_entries_of_the_table(num_steps: int, first: int) -> None:
    """Entry k of T is t = (k + 1) / T; a net that is told its number answers as one that is told nothing but t."""
    path, told = VPDiscrete(num_steps=num_steps), []

    def net(x: Tensor, step: Tensor, cond: Tensor | None) -> Tensor:
        told.append(step)
        alpha_bar = path.alpha_bars[(step - first).round().long()][:, None]
        return (x - alpha_bar.sqrt() * 0.3) / (1 - alpha_bar).sqrt()  # the eps of data that are 0.3 everywhere

    model = NetDenoiser(
        net=net, path=path, prediction="eps", scale="none", clock=ef.raw_steps(num_steps=num_steps, first=first)
    )
    t = (torch.arange(num_steps) + 1).double() / num_steps
    x = path.mix(torch.full((num_steps, 2), 0.3, dtype=F64), normal(num_steps, 2), t)
    torch.testing.assert_close(model(x, t).x0, torch.full_like(x, 0.3), rtol=0, atol=1e-4)
    torch.testing.assert_close(told[0], torch.arange(num_steps).float() + first, rtol=0, atol=1e-4)
    for k in (0, 7, num_steps - 1):
        model(x[k : k + 1], (k + 1) / num_steps)
        assert float(told[-1]) == pytest.approx(k + first, abs=1e-4)
    model(x, 1e-9)
    assert float(told[-1][0]) == first, "below the first entry a net is told the first"
    with pytest.raises(ValueError, match="`num_steps` must be at least 1"):
        RawSteps(num_steps=0)


def test_a_clock_or_scale_is_a_name_options_or_a_function() -> None:
    clocks = ["raw_steps", {"kind": "raw_steps", "first": 0}, ef.raw_steps(), CLOCKS["raw_steps"]]
    answers = [NetDenoiser(net=lambda x, t, c: t[:, None] * x, path=FLOW, clock=k)(normal(2, 1), 0.5) for k in clocks]
    for answer in answers:
        assert torch.equal(answer.x0, answers[0].x0)
    own = NetDenoiser(
        net=lambda x, t, c: x, path=FLOW, scale=lambda c: 1 / c.sigma, clock=lambda path, t: path.log_snr(t)
    )
    torch.testing.assert_close(own.output(torch.ones(2, 1), 0.25, None), torch.full((2, 1), 4.0))
    with pytest.raises(ConfigError, match=r"unknown clock 'raw_step'.* Did you mean 'raw_steps'"):
        NetDenoiser(net=lambda x, t, c: x, path=FLOW, clock="raw_step")
    with pytest.raises(ConfigError, match=r"unknown scale 'units'.* Did you mean 'unit'"):
        NetDenoiser(net=lambda x, t, c: x, path=FLOW, scale="units")
    with pytest.raises(ConfigError, match=r"clock 'raw_steps' has no option 'frist'.* Did you mean 'first'"):
        NetDenoiser(net=lambda x, t, c: x, path=FLOW, clock={"kind": "raw_steps", "frist": 1})


# -- other paths -----------------------------------------------------------------------------------

VARIANCE_PRESERVING = {"cosine", "cosine_discrete", "vp", "vp_discrete", "linear_variance"}


def may_move(prediction: str, here: str, there: str) -> bool:
    """By the algebra: x_t differs by a factor k at equal log-SNR, so (a, b) of degree 0 in (alpha, sigma) agree always,
    others where k = 1, and velocities where the speeds agree too."""
    if prediction in ("eps", "x0", "edm") or here == there:
        return True
    return prediction in ("v", "score") and {here, there} <= VARIANCE_PRESERVING


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("here", PATHS)
@pytest.mark.parametrize("there", PATHS)
def test_a_net_moves_to_another_path_where_it_means_the_same_and_nowhere_else(
    prediction: str, here: str, there: str
) -> None:
    path, other = PATH_CASES[here], PATH_CASES[there]
    if not (is_valid(prediction, path) and is_valid(prediction, other)):
        return
    model = NetDenoiser(net=Knowing(path, prediction), path=path, prediction=prediction)
    if not may_move(prediction, here, there):
        with pytest.raises(
            ValueError, match=f"cannot move from path '{here}' to '{there}': at equal log-SNR prediction"
        ):
            model.on(other)
        return
    t = other.time_of(torch.linspace(-5, 5, 7, dtype=F64))
    x = other.mix(MEANS[[0, 1, 2, 0, 1, 2, 0]], normal(7, 2), t)
    found, wanted = model.on(other)(x, t), cloud(other)(x, t)
    torch.testing.assert_close(found.x0, wanted.x0, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.eps, wanted.eps, rtol=1e-3, atol=1e-3)


def test_swapping_the_path_of_a_velocity_net_by_hand_is_wrong_which_is_why_it_is_refused() -> None:
    t = PATH_CASES["cosine"].time_of(0.5)
    model = NetDenoiser(net=Knowing(FLOW, "velocity"), path=FLOW)
    forced, wanted = replace(model, path=PATH_CASES["cosine"]), cloud(PATH_CASES["cosine"])
    x = normal(4, 2)
    assert float((forced(x, t).x0 - wanted(x, t).x0).abs().max()) > 0.05
    with pytest.raises(ValueError, match="prediction 'velocity' means another target"):
        model.on(PATH_CASES["cosine"])


def test_moving_asks_for_the_scale_and_the_clock_too() -> None:
    model = NetDenoiser(net=lambda x, t, c: x, path=FLOW, prediction="x0")
    with pytest.raises(ValueError, match="scale 'none' shows the net x_t of another size"):
        replace(model, scale="none").on(PATH_CASES["vp"])
    with pytest.raises(ValueError, match="clock 'time' tells the net another number"):
        replace(model, clock="time").on(Flow(shift=2.0))
    assert replace(model, scale="none", clock="log_snr").on(Flow(shift=2.0)).path == Flow(shift=2.0)
    assert NetDenoiser(net=lambda x, t, c: x, path=VE(), prediction="v").on(VE(sigma_max=50.0)).path.sigma_max == 50
    assert replace(model, prediction=EDM(sigma_data=1.0)).on(PATH_CASES["ve"]).path == PATH_CASES["ve"]


# -- conditions ------------------------------------------------------------------------------------


class Pair(nn.Module):
    """A net from elsewhere that takes two tensors, pooled and tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(2 + 3 + 4, 2)

    def forward(self, x: Tensor, clock: Tensor, cond: dict[str, Tensor]) -> Tensor:
        assert len(cond["pooled"]) == len(cond["tokens"]) == len(x)
        return self.mix(torch.cat([x, cond["pooled"], cond["tokens"].mean(1)], dim=1))


def pair_of(num: int, seed: int) -> dict[str, Tensor]:
    return {
        "pooled": normal(num, 3, seed=seed, dtype=torch.float32),
        "tokens": normal(num, 5, 4, seed=seed + 1, dtype=torch.float32),
    }


def pair_denoiser() -> NetDenoiser:
    torch.manual_seed(0)
    return NetDenoiser(net=Pair(), path=FLOW, make_null=lambda num: {k: 0 * v for k, v in pair_of(num, 0).items()})


@pytest.mark.parametrize("rule", CONDITION_RULES)
@pytest.mark.parametrize("batched", [True, False])
def test_a_pair_of_tensors_travels_through_every_rule(rule: str, batched: bool) -> None:
    model, x, cond = pair_denoiser(), normal(4, 2, dtype=torch.float32), pair_of(4, 5)
    guided = CONDITION_RULES[rule](model, guidance=3.0, batched=batched, negative=pair_of(1, 9)).given(cond)
    other = CONDITION_RULES[rule](model, guidance=3.0, batched=not batched, negative=pair_of(1, 9)).given(cond)
    torch.testing.assert_close(guided(x, 0.5).x0, other(x, 0.5).x0)
    alone = CONDITION_RULES[rule](model, guidance=1.0).given(cond)(x, 0.5)
    assert torch.equal(alone.x0, model.given(cond)(x, 0.5).x0)
    assert not torch.allclose(guided(x, 0.5).x0, alone.x0)
    for i in range(4):
        row = {name: value[i : i + 1] for name, value in cond.items()}
        torch.testing.assert_close(guided.given(row)(x[i : i + 1], 0.5).x0, guided(x, 0.5).x0[i : i + 1])
    one = guided.given({name: value[:1] for name, value in cond.items()})(x, 0.5)
    assert one.x0.shape == x.shape, "a single row is for all"


def test_a_pair_of_tensors_travels_through_what_is_measured_of_a_model() -> None:
    model, x0, cond = pair_denoiser(), normal(5, 2, dtype=torch.float32), pair_of(5, 5)
    together, apart = (
        (finish(denoising_errors(model, x0, cond, log_snrs=(0.0,), batch_size=size))[0]["x0_mse"],
         measure_variance(model, x0, cond, batch_size=size).variance[3])
        for size in (5, 2)
    )  # fmt: skip
    assert together == pytest.approx(apart, rel=1e-5)
    other = finish(denoising_errors(model, x0, pair_of(5, 9), log_snrs=(0.0,)))[0]["x0_mse"]
    assert other != pytest.approx(together[0], rel=1e-3)


def test_a_pair_of_tensors_travels_through_autoguidance() -> None:
    good, bad, cond, x = pair_denoiser(), pair_denoiser(), pair_of(3, 5), normal(3, 2, dtype=torch.float32)
    bad = replace(bad, net=nn.Module.requires_grad_(Pair(), False))
    u, c = bad.given(cond)(x, 0.4), good.given(cond)(x, 0.4)
    found = Autoguidance(good, bad=bad, guidance=2.0).given(cond)(x, 0.4)
    torch.testing.assert_close(found.x0, u.x0 + 2 * (c.x0 - u.x0))


@pytest.mark.parametrize("rule", CONDITION_RULES)
@pytest.mark.parametrize("prediction", ["velocity", "x0", "eps"])
def test_every_rule_works_on_any_conditional_function(rule: str, prediction: str) -> None:
    path = PATH_CASES["vp"]
    exact, x, cond = cloud(path), normal(5, 2), torch.tensor([0, 1, 2, 1, 0])

    def function(x_t: Tensor, t: float | Tensor, cond: Tensor) -> Tensor:
        (a, b), estimate = PREDICTIONS[prediction](path.at(t)), exact.given(cond)(x_t, t)
        return per_sample(a, x_t) * estimate.x0 + per_sample(b, x_t) * estimate.eps

    model = FunctionDenoiser(function=function, path=path, prediction=prediction, make_null=exact.null)
    assert takes_condition(model)
    for guidance in (0.0, 1.0, 3.0):
        found = CONDITION_RULES[rule](model, guidance=guidance).given(cond)(x, 0.6)
        wanted = CONDITION_RULES[rule](exact, guidance=guidance).given(cond)(x, 0.6)
        torch.testing.assert_close(found.x0, wanted.x0)
    torch.testing.assert_close(model(x, 0.6).x0, exact(x, 0.6).x0)


def test_a_function_without_conditions_says_so() -> None:
    model = FunctionDenoiser(function=lambda x, t: x, path=FLOW)
    assert not takes_condition(model)
    with pytest.raises(ValueError, match="trained without a condition; it cannot take one"):
        model.given(torch.tensor([1]))
    with pytest.raises(ValueError, match="nothing to guide"):
        classifier_free(model, guidance=2.0)


def test_what_has_both_methods_is_conditional_and_a_wrapper_asks_what_it_holds() -> None:
    class Mine(ef.Denoiser):
        path = FLOW

        def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
            return Estimate(x0=x_t, eps=x_t)

    class Own(Mine):
        def given(self, cond: Cond | None) -> Own:
            return self

        def null(self, num: int) -> Tensor:
            return torch.zeros(num)

    assert not isinstance(Mine(), Conditional) and isinstance(Own(), Conditional)

    class Around(Wrapped):
        def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
            return self.inner(x_t, t)

    assert takes_condition(Around(inner=Own())) and not takes_condition(Around(inner=Mine()))
    with pytest.raises(ValueError, match="a Mine takes no condition"):
        Around(inner=Mine()).given(torch.zeros(1))
    classifier_free(Own(), guidance=2.0).given(torch.zeros(2))(torch.zeros(2, 1), 0.5)


# -- reading a condition once ----------------------------------------------------------------------


def text_denoiser() -> tuple[Any, list[int]]:
    """A small text model and the number of texts at each call of its encoder."""
    torch.manual_seed(0)
    facts = DataFacts(dims=(1, 8, 8), is_image=True, captions=("a", "b"))
    conditioner = TextConditioning(dim=16, depth=1, num_heads=2, max_length=12).build(facts)
    net = ConditionedNet(NETS["unet"](channels=(8, 16), num_heads=2).build((1, 8, 8), 1, conditioner.spec), conditioner)
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    calls: list[int] = []
    conditioner.encoder.register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
    model = NetDenoiser(net=net.eval(), path=FLOW, make_null=conditioner.null)
    return model, calls


@torch.no_grad()
def test_a_text_is_read_once_however_many_steps_are_walked() -> None:
    model, calls = text_denoiser()
    x, cond = normal(4, 1, 8, 8, dtype=torch.float32), model.net.conditioner.read(["one", "two", "one", "three"])
    bound = model.given(cond)
    for step in range(1, 6):
        found = bound(x, step / 6)
    assert calls == [3], "three different texts, one call of the encoder"
    plain = model.output(x, 5 / 6, cond)
    torch.testing.assert_close(found.x0, ef.solve("velocity", plain, x, 5 / 6, FLOW).x0)
    for batched in (True, False):
        guided = classifier_free(model, guidance=2.0, batched=batched).given(cond)
        calls.clear()
        for step in range(1, 6):
            guided(x, step / 6)
        assert len(calls) == (1 if batched else 2), "each branch reads its condition once"
    calls.clear()
    single = model.given(model.net.conditioner.read(["one"]))
    torch.testing.assert_close(single(x, 0.5).x0[:1], single(x[:1], 0.5).x0, rtol=1e-4, atol=1e-5)
    assert calls == [1], "one text for all samples is read as one"


def test_a_condition_is_read_again_when_the_weights_change_and_where_gradients_reach_them() -> None:
    model, calls = text_denoiser()
    x, bound = normal(2, 1, 8, 8, dtype=torch.float32), model.given(model.net.conditioner.read(["one", "two"]))
    with torch.no_grad():
        first = bound(x, 0.5).x0
        for parameter in model.net.conditioner.parameters():
            parameter.mul_(1.5)
        second = bound(x, 0.5).x0
        fresh = model.given(model.net.conditioner.read(["one", "two"]))(x, 0.5).x0
    assert not torch.allclose(first, second) and torch.equal(second, fresh)
    assert len(calls) == 3
    bound(x, 0.5).x0.sum().backward()
    assert all(p.grad is not None for p in model.net.conditioner.encoder.parameters())
    with torch.no_grad():
        other = replace(bound, net=text_denoiser()[0].net)
        assert not torch.equal(other(x, 0.5).x0, second), "another net reads for itself"


def test_gradients_of_x_alone_do_not_read_the_text_again() -> None:
    model, calls = text_denoiser()
    model.net.requires_grad_(False)
    bound, x = model.given(model.net.conditioner.read(["one", "two"])), normal(2, 1, 8, 8, dtype=torch.float32)
    with torch.inference_mode():
        bound(x, 0.5)
    guided = LossGuidance(bound, loss=lambda x0: x0.square().flatten(1).sum(1))
    for t in (0.7, 0.5, 0.2):
        assert torch.isfinite(guided(x, t).x0).all()
    assert calls == [2]


@torch.no_grad()
def test_a_ready_context_is_what_the_condition_says() -> None:
    torch.manual_seed(1)
    conditioner = LabelConditioning(dim=8).build(DataFacts(dims=(2,), is_image=False, label_names=("a", "b")))
    net = ConditionedNet(NETS["mlp"](dim=8, depth=1, num_heads=2).build((2,), 2, conditioner.spec), conditioner)
    x, clock, cond = torch.randn(3, 2), torch.rand(3), torch.tensor([0, 1, -1])
    assert torch.equal(net(x, clock, net.read(cond)), net(x, clock, cond))
    context = Context(vector=torch.ones(1, 4))
    assert context.expanded(3).vector.shape == (3, 4) and context.expanded(1) is context
    with pytest.raises(ValueError, match="built without a condition"):
        ConditionedNet(net.net, None).read(cond)


# -- the precision of nets from elsewhere ----------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_net_that_casts_nothing_is_shown_its_own_dtype(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(2, 2).to(dtype)

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor, clock: Tensor, cond: None) -> Tensor:
            return self.layer(x)

    model, x = NetDenoiser(net=Plain(), path=FLOW, prediction="x0"), normal(4, 2)
    assert model(x.float(), 0.5).x0.dtype == torch.float32 and model(x, interior(4)).x0.dtype == F64
    assert log_likelihood(model, x, num_steps=3).dtype == F64


def test_float64_is_made_on_devices_that_have_none_nowhere() -> None:
    """`.double()` of a tensor that may live on such a device, and float64 tensors made there, end in a TypeError; in
    these rooms everything goes through `in_float64`, but for tensors that are on the CPU by construction."""
    source, on_cpu = FilePath(ef.__file__).parent, {"core/times.py", "proof"}
    files = [
        *(source / name for name in ("latent.py", "metrics/denoising.py", "studies/search_grid.py")),
        *(
            f
            for room in ("core", "methods", "nets", "conditioning", "training", "runs")
            for f in (source / room).rglob("*.py")
        ),
    ]
    for file in files:
        if str(file.relative_to(source)) in on_cpu:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            where = f"{file}:{node.lineno}"
            if node.func.attr == "double":
                assert ast.unparse(node.func.value).endswith(".cpu()"), f"{where} doubles a tensor of any device"
            words = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if "float64" in words.get("dtype", "") and "device" in words:
                assert words["device"] == "'cpu'", f"{where} makes float64 on any device"


def test_numbers_that_a_device_has_not_are_worked_on_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from ebbflow.core import shape

    moved: list[str] = []
    cpu = Tensor.cpu
    monkeypatch.setattr(shape, "WITHOUT_FLOAT64", {"cpu"})
    monkeypatch.setattr(Tensor, "cpu", lambda self: moved.append(self.device.type) or cpu(self))
    assert shape.as_float64(torch.ones(2)).dtype == F64 and shape.in_float64(torch.ones(1)).dtype == F64
    assert moved == ["cpu", "cpu"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x: (x,), "must answer a tensor, got tuple"),
        (lambda x: None, "must answer a tensor, got NoneType"),
        (lambda x: x[:1], r"\(3, 2\); got \(1, 2\)"),
        (lambda x: x[..., None], r"\(3, 2\); got \(3, 2, 1\)"),
        (lambda x: x[:, :1], "for data of 2 channels a model answers 2, or 4"),
        (lambda x: torch.cat([x, x[:, :1]], dim=1), "learned variance; got 3"),
    ],
    ids=["tuple", "none", "one row for all", "a rank more", "too few channels", "too many"],
)
@pytest.mark.parametrize("of_a_net", [True, False], ids=["net", "function"])
def test_an_answer_of_another_shape_is_refused_and_not_spread(answer: Any, words: str, of_a_net: bool) -> None:
    """A single row was spread over the batch, and three channels were taken for two and a variance."""
    net = NetDenoiser(net=lambda x, clock, cond: answer(x), path=Flow())
    function = FunctionDenoiser(function=lambda x, t: answer(x), path=Flow())
    with pytest.raises(ValueError, match=words):
        (net if of_a_net else function)(normal(3, 2), 0.5)
