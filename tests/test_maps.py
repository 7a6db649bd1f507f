"""Flow maps: jumps of nets and of oracles, the sampler that makes them, and the objectives that train them."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from pathlib import Path as FilePath

import pytest
import torch
from conftest import F64, exact_variance, mixture, mixture_quantiles, normal, registered_path, valid_pair
from test_notes import test_every_command_is_one as check_command
from torch import Tensor

import ebbflow as ef
from ebbflow.config import merge, parse, read_preset
from ebbflow.core.paths import PATHS, Path
from ebbflow.core.predictions import PREDICTIONS
from ebbflow.core.times import TIME_GRIDS
from ebbflow.data import Dataset, Splits
from ebbflow.errors import ConfigError
from ebbflow.methods.denoise import FlowMap, NetDenoiser, NetFlowMap, flow_map
from ebbflow.methods.guidance import classifier_free
from ebbflow.methods.maps import MAPS, MapKind, MapObjective, ODEMap
from ebbflow.methods.maps.kinds import LSD, Consistency, Jumps, MeanFlow, Midpoint
from ebbflow.methods.objective import Objective
from ebbflow.methods.oracles import Gaussian, GuidedGaussian
from ebbflow.methods.samplers import SAMPLERS
from ebbflow.nets import NETS
from ebbflow.proof.maps import Spoken, verify_maps
from ebbflow.runs import Trainer, task_of
from ebbflow.runs.build import load_splits
from ebbflow.training.batches import Batch
from ebbflow.training.loop import fit


def jumping(path: Path, prediction: str = "velocity", clock: str = "unit", seed: int = 0) -> Doubled:
    """A small net of two dimensions that is told gaps, all of its parameters alive."""
    torch.manual_seed(seed)
    net = NETS["mlp"](dim=16, depth=2, gap=True).build((2,), 2, None)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return Doubled(net=net, path=path, prediction=prediction, clock=clock)


class Doubled(NetFlowMap):
    """A net whose weights can be widened in place."""

    def double(self) -> Doubled:
        self.net.double()
        return Doubled(net=self.net, path=self.path, prediction=self.prediction, clock=self.clock)


@valid_pair
def test_a_jump_to_where_one_is_is_a_call_and_all_jumps_agree_on_x_t(path: Path, prediction: str) -> None:
    model, x = jumping(path, prediction), normal(3, 2, dtype=torch.float32)
    t = torch.tensor([0.3, 0.6, 0.9], dtype=F64)
    with torch.no_grad():
        for when in (0.4, t):
            here, there = model(x, when), model.jump(x, when, when)
            assert torch.equal(here.x0, there.x0)
            assert torch.equal(here.eps, there.eps)
        far = model.jump(x, t, t / 3)
    torch.testing.assert_close(path.mix(far.x0, far.eps, t), x, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(far.x0, model(x, t).x0)


def test_a_number_and_a_tensor_of_times_jump_alike() -> None:
    model, x = jumping(PATHS["cosine"](), "v"), normal(3, 2, dtype=torch.float32)
    with torch.no_grad():
        one, many = model.jump(x, 0.7, 0.2), model.jump(x, torch.full((3,), 0.7), torch.full((3,), 0.2))
        mixed = model.jump(x, 0.7, torch.full((3,), 0.2))
    for other in (many, mixed):
        torch.testing.assert_close(one.x0, other.x0, rtol=1e-5, atol=1e-6)


def test_a_jump_to_more_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="`s` must be at most `t`"):
        jumping(PATHS["flow"]()).jump(torch.zeros(2, 2), 0.3, torch.tensor([0.2, 0.4]))


def test_what_cannot_jump_says_why() -> None:
    model = jumping(PATHS["flow"]())
    assert flow_map(model) is model
    assert isinstance(model, FlowMap)
    plain = NetDenoiser(net=model.net, path=model.path, make_null=lambda num: torch.zeros(num))
    for cannot, why in ((plain, "told no gap"), (classifier_free(plain, guidance=2.0), "`guidance` 1")):
        with pytest.raises(ValueError, match=why):
            flow_map(cannot)


# -- objectives ----------------------------------------------------------------------------------------------------------


KINDS: dict[str, MapKind] = {
    **MAPS,
    **{f"{name}/jvp": replace(kind, derivative="jvp") for name, kind in MAPS.items() if hasattr(kind, "derivative")},
    "midpoint/uniform": Midpoint(split="uniform"),
    "mean_flow/model": MeanFlow(tangent="model"),
    "consistency/0.1": Consistency(first=0.1, last=0.1),
}
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def objective(path: Path, kind: MapKind, prediction: str = "velocity", **options: object) -> MapObjective:
    return MapObjective(Objective(path, prediction=prediction), map=kind, **options)  # type: ignore[arg-type]


def rows_of_a_batch(num: int, made: MapObjective, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    x0, eps = normal(num, 2, seed=seed), normal(num, 2, seed=seed + 1)
    return x0, eps, made.draw(num, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["flow", "cosine", "vp_discrete"])
def test_every_objective_is_proved_on_the_oracles(name: str) -> None:
    found = list(verify_maps(KINDS, {name: PATHS[name]()}, tuple(PREDICTIONS)))
    assert {row.objective for row in found} == set(KINDS)
    assert not [row for row in found if not row.ok]
    assert not all(row.refused for row in found)


def test_the_proof_sees_a_tangent_in_the_wrong_order() -> None:
    """The classic mistake of mean flow: the derivative taken in s where t is meant."""

    class Swapped(MeanFlow):
        def _slope(self, jumps: Jumps, w: Tensor) -> Tensor:
            return torch.func.jvp(
                lambda x, s: jumps.output(x, jumps.t, s), (jumps.x_t, jumps.s), (w, torch.ones_like(jumps.s))
            )[1]

    class Still(MeanFlow):
        def _slope(self, jumps: Jumps, w: Tensor) -> Tensor:
            return torch.zeros_like(w)

    for wrong in (Swapped(), Still()):
        (row,) = verify_maps({"wrong": wrong}, {"flow": PATHS["flow"]()}, ("velocity",))
        assert not row.ok
        assert "loss of the exact map" in str(row.reason)


@each_kind
def test_diagonal_rows_are_the_ordinary_loss_and_permuted_rows_permuted_losses(kind: MapKind) -> None:
    path = PATHS["cosine"]()
    made, model = objective(path, kind, "v"), jumping(path, "v").double()
    x0, eps, drawn = rows_of_a_batch(12, made)
    each, jumps = made.losses_of(model, x0, None, eps, drawn, 0.4)
    plain = made.plain.losses(model, x0[~jumps], None, eps[~jumps], drawn[~jumps.cpu(), 0])
    assert torch.equal(each[~jumps], plain)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    again, _ = made.losses_of(model, x0[order], None, eps[order], drawn[order], 0.4)
    torch.testing.assert_close(again, each[order], rtol=1e-9, atol=1e-12)


@each_kind
def test_a_difference_is_the_derivative(kind: MapKind) -> None:
    if not hasattr(kind, "derivative"):
        return
    path = PATHS["flow"]()
    model = jumping(path).double()
    losses = []
    for derivative in ("difference", "jvp"):
        made = objective(path, replace(kind, derivative=derivative))
        x0, eps, drawn = rows_of_a_batch(32, made)
        losses.append(made.losses_of(model, x0, None, eps, drawn)[0])
    torch.testing.assert_close(*losses, rtol=0.05, atol=1e-2)
    assert not torch.equal(*losses)


def test_consistency_at_ratio_one_is_the_ordinary_target() -> None:
    """X = x_s then, the state of the same data and noise: the output to learn is the ordinary target whatever the
    gap."""
    for name, prediction in (("flow", "velocity"), ("cosine", "v"), ("vp", "x0"), ("ve", "edm")):
        path = PATHS[name]()
        made, model = objective(path, Consistency(first=1, last=1), prediction, diagonal=0), jumping(path, prediction)
        x0, eps, drawn = rows_of_a_batch(8, made)
        t, s, _ = drawn.unbind(1)
        a, b = PREDICTIONS[prediction](path.at(t))
        target = a[:, None] * x0 + b[:, None] * eps
        out = model.double().output(path.mix(x0, eps, t), t, None, s)
        wanted = (out - target).square().mean(1)
        torch.testing.assert_close(made.losses_of(model, x0, None, eps, drawn)[0], wanted, rtol=1e-6, atol=1e-9)


@each_kind
def test_targets_take_no_gradient_and_the_derivative_of_lsd_does(kind: MapKind) -> None:
    path, calls = PATHS["flow"](), []
    model = jumping(path).double()

    class Spied:
        def output(self, x: Tensor, t: Tensor, cond: object, s: Tensor | None = None) -> Tensor:
            out = model.output(x, t, cond, s)
            calls.append(bool(out.requires_grad))
            return out

    made = objective(path, kind)
    x0, eps, drawn = rows_of_a_batch(8, made)
    made.losses_of(Spied(), x0, None, eps, drawn, 0.5)[0].sum().backward()
    if kind.__class__.__name__ != "LSD" and getattr(kind, "derivative", "") != "jvp":
        assert sum(calls) == 2, "the ordinary rows and one evaluation of those that jump"
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.net.parameters())


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("pairs", ["uniform", "logit_normal", "discrete"])
def test_pairs_fall_and_as_many_rows_as_asked_do_not_jump(share: float, pairs: str) -> None:
    made = objective(PATHS["flow"](), Consistency(), diagonal=share, pairs=pairs)
    t, s, cut = made.draw(64, torch.Generator().manual_seed(0)).unbind(1)
    still = s == t
    assert int(still.sum()) == round(64 * share)
    assert bool((s[~still] < t[~still]).all())
    assert bool(((s >= 0) & (t <= 1) & (cut > 0) & (cut < 1)).all())
    assert torch.equal(t[still], made.plain.draw_times(64, torch.Generator().manual_seed(0))[still])


def test_a_teacher_takes_the_place_of_the_data() -> None:
    """Distillation of a guided Gaussian: its exact map is a zero of every loss, without the spread of the data."""
    path = PATHS["flow"]()
    teacher = GuidedGaussian(0.4, 0.3, 0.8, 2.0, path)
    exact = Spoken(oracle=teacher, prediction=PREDICTIONS["velocity"])
    for kind in (Midpoint(), LSD(derivative="jvp"), MeanFlow(derivative="jvp")):
        made = objective(path, kind, teacher=teacher)
        x0, eps, drawn = rows_of_a_batch(16, made)
        each, _ = made.losses_of(exact, x0, None, eps, drawn)
        assert float(each.max()) < 1e-12


@each_kind
def test_guidance_is_built_into_jumps_as_into_the_ordinary_loss(kind: MapKind) -> None:
    """A net that is the guided exact map is a stationary point: with w = 2 and null answers twice the deviation."""
    path, w = PATHS["flow"](), 2.0
    guided, weak = GuidedGaussian(0.4, 0.3, 0.8, w, path), Gaussian(0.4, 0.8, path)
    if not isinstance(kind, Midpoint | LSD | MeanFlow) or getattr(kind, "derivative", "jvp") != "jvp":
        return

    class Answers:
        def output(self, x: Tensor, t: Tensor, cond: Tensor | None, s: Tensor | None = None) -> Tensor:
            known = (
                weak(x, t) if cond is not None and cond.any() else guided(x, t) if s is None else guided.jump(x, t, s)
            )
            return known.eps - known.x0

        def null(self, num: int) -> Tensor:
            return torch.ones(num)

    plain = Objective(path, guidance=w)
    made = MapObjective(plain, map=kind)
    num = 40_000
    g = torch.Generator().manual_seed(0)
    x0 = 0.4 + 0.3 * torch.randn(num, 1, generator=g, dtype=F64)
    eps = torch.randn(num, 1, generator=g, dtype=F64)
    t, s = torch.full((num,), 0.7, dtype=F64), torch.full((num,), 0.2, dtype=F64)
    seen: list[Tensor] = []

    class Watched(type(kind)):  # type: ignore[misc]
        def errors(self, jumps: Jumps) -> Tensor:
            seen.append(super().errors(jumps))
            return seen[-1]

    watched = MapObjective(plain, map=Watched(**{f.name: getattr(kind, f.name) for f in fields(kind)}))
    watched.losses_of(Answers(), x0, None, eps, torch.stack([t, s, s], dim=1))
    x_t = path.mix(x0, eps, t)
    for weight in (torch.ones_like(x_t), x_t):
        terms = seen[0] * weight
        assert abs(float(terms.mean())) < 4.5 * float(terms.std()) / num**0.5 + 1e-9
    assert made.diagonal == 0.5


def test_what_no_map_can_be_trained_with_is_refused() -> None:
    flow = PATHS["flow"]()
    for options, message in (
        ({"map": "midpoint", "diagonal": 0.0}, "with `diagonal` 0 nothing teaches it that"),
        ({"map": "lsd", "diagonal": 1.0}, r"`diagonal` must be in \[0, 1\)"),
        ({"map": "lsd", "adaptive": 1.5}, r"`adaptive` must be in \[0, 1\]"),
        ({"map": "midpoit"}, "midpoint"),
        ({"map": {"kind": "lsd", "step": 0.5}}, "`step` of objective of maps .lsd. must be in"),
        ({"map": {"kind": "mean_flow", "derivative": "exact"}}, "difference or jvp"),
        (
            {"map": {"kind": "consistency", "last": 0.0}},
            r"`last` of objective of maps .consistency. must be in \(0, 1\]",
        ),
        ({"teacher": Gaussian(0.0, 1.0, PATHS["cosine"]())}, "teacher is on another path"),
    ):
        with pytest.raises(ValueError, match=message):
            MapObjective(Objective(flow), **options)  # type: ignore[arg-type]
    for plain in (Objective(flow, times="importance"), Objective(flow, learn_uncertainty=True)):
        with pytest.raises(ValueError, match="a map has no learned variance"):
            MapObjective(plain)
    with pytest.raises(ValueError, match="multiplies the error of prediction 'eps' by 15"):
        MapObjective(Objective(PATHS["vp"](), prediction="eps"))


def test_a_robust_loss_of_few_numbers_is_warned_of() -> None:
    made = MapObjective(Objective(PATHS["flow"]()), adaptive=1.0)
    assert "Use `adaptive` 0" in str(made.caution(2))
    assert made.caution(64) is None
    assert MapObjective(Objective(PATHS["flow"]())).caution(2) is None
    x0, eps, drawn = rows_of_a_batch(8, made)
    model = jumping(PATHS["flow"]()).double()
    plain, _ = replace(made, adaptive=0.0).losses_of(model, x0, None, eps, drawn)
    torch.testing.assert_close(made.losses_of(model, x0, None, eps, drawn)[0], plain / (plain + 1e-3))


def test_models_that_cannot_be_trained_as_maps_are_refused() -> None:
    flow = PATHS["flow"]()
    made, model = MapObjective(Objective(flow), map="mean_flow"), jumping(flow)
    made.check(model)
    with pytest.raises(ValueError, match="told the gap of a jump, got a NetDenoiser"):
        made.check(NetDenoiser(net=model.net, path=flow))
    with pytest.raises(ValueError, match="clock 'log_snr' is so steep"):
        made.check(jumping(flow, clock="log_snr"))
    MapObjective(Objective(flow), map="midpoint").check(jumping(flow, clock="log_snr"))
    dropping = torch.nn.Sequential(torch.nn.Dropout(0.1))
    with pytest.raises(ValueError, match="dropout makes them different nets"):
        made.check(replace(model, net=dropping))


@pytest.mark.parametrize("kind", MAPS.values(), ids=MAPS)
def test_it_trains_and_one_jump_comes_near(kind: MapKind) -> None:
    """Gaussian data in two dimensions, a small net, a few seconds: one jump is nearer to the exact map than Euler's."""
    path = PATHS["flow"]()
    torch.manual_seed(0)
    net = NETS["mlp"](dim=32, depth=2, gap=True).build((2,), 2, None)
    model, truth = NetFlowMap(net=net, path=path, clock="unit"), Gaussian(torch.tensor([1.0, -0.5]), 0.3, path)
    data = torch.tensor([1.0, -0.5]) + 0.3 * normal(512, 2, seed=3, dtype=torch.float32)
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    made = MapObjective(Objective(path), map=kind)
    *_, last = fit(model, made, [data[i : i + 128] for i in range(0, 512, 128)], optimiser, num_steps=120)
    assert {"loss_diagonal", "loss_jumps"} <= set(last.report)
    x = normal(256, 2, seed=4, dtype=torch.float32)
    with torch.no_grad():
        once, exact = model.jump(x, 1.0, 0.0).x0, truth.jump(x, 1.0, 0.0).x0
        euler = model(x, 1.0).x0
    assert float((once - exact).square().mean()) < 0.5 * float((euler - exact).square().mean())


def test_reflow_learns_straight_ways_from_pairs() -> None:
    """On the pairs of the exact map the ordinary loss has no spread left: its best net is straight, and one Euler step
    of a briefly trained one beats that of the exact ordinary model."""
    path = PATHS["flow"]()
    oracle = Gaussian(torch.tensor([1.0, -0.5]), 0.3, path)
    eps = normal(256, 2, seed=3, dtype=torch.float32)
    ends = ODEMap(oracle).jump(eps, 1.0, 0.0).x0
    torch.testing.assert_close(ends, oracle.jump(eps, 1.0, 0.0).x0, rtol=0, atol=2e-3)
    torch.manual_seed(0)
    net = NETS["mlp"](dim=32, depth=2).build((2,), 2, None)
    model = NetDenoiser(net=net, path=path)
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in fit(model, Objective(path), [Batch(x0=ends, eps=eps)], optimiser, num_steps=100):
        pass
    fresh = normal(64, 2, seed=4, dtype=torch.float32)
    wanted = oracle.jump(fresh, 1.0, 0.0).x0
    with torch.no_grad():
        learned = model(fresh, 1.0).x0
    assert float((learned - wanted).square().mean()) < 0.5 * float((oracle(fresh, 1.0).x0 - wanted).square().mean())


# -- the sampler -----------------------------------------------------------------------------------------------------------


@registered_path
def test_any_number_of_jumps_on_any_grid_is_the_exact_sample(path: Path) -> None:
    u = torch.linspace(0.02, 0.98, 9, dtype=F64)
    start, wanted = (mixture_quantiles(path, t, u)[:, None] for t in (1.0, 0.0))
    for grid, make in TIME_GRIDS.items():
        for num_steps in (1, 3):
            *_, last = SAMPLERS["flow_map"](mixture(path), start, make(path, num_steps))
            torch.testing.assert_close(last.x, wanted, rtol=1e-7, atol=1e-6, msg=lambda m, grid=grid: f"{grid}: {m}")


@registered_path
@pytest.mark.parametrize("renoise", [0.5, 1.0])
def test_renoising_keeps_the_variance(path: Path, renoise: float) -> None:
    times = torch.linspace(1, 0, 5, dtype=F64)
    found = exact_variance("flow_map", path, times, 0.5, renoise=renoise)
    assert found == pytest.approx(0.25, rel=1e-6)


# -- runs ------------------------------------------------------------------------------------------------------------------


TINY = {
    "net": {"channels": [8, 16]},
    "train": {"num_steps": 4, "batch_size": 8, "sample_every": 0, "held_out_size": 8, "save_every": 2},
    "engine": {"device": "cpu", "precision": "fp32"},
}


def stand_in() -> Splits:
    x = torch.randint(0, 256, (24, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = Dataset(name="digits", x=x, labels=torch.arange(24) % 10, label_names=tuple("0123456789"))
    return Splits(train=data, held_out=data)


def trained(folder: FilePath, *layers: dict[str, object]) -> FilePath:
    config = parse(merge(read_preset("digits_map"), TINY, *layers))  # type: ignore[arg-type]
    list(Trainer(task_of(config, stand_in(), folder)).events())
    return folder


def test_a_run_is_a_map_and_an_ordinary_model(tmp_path: FilePath) -> None:
    model = ef.open(trained(tmp_path / "run"))
    assert isinstance(model.denoiser, NetFlowMap)
    stored = model.run.config
    assert (stored.objective.clock, stored.net.gap, stored.objective.map) == ("unit", True, "midpoint")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any({"loss_diagonal", "loss_jumps"} <= set(row) for row in rows)
    one = model.sample(num=2, sampler="flow_map", steps=1, labels=[1]).x
    assert torch.equal(one, model.sample(num=2, steps=1, labels=[1]).x), "the preset jumps"
    assert not torch.equal(one, model.sample(num=2, sampler="heun", steps=2, guidance=2.0, labels=[1]).x)
    renoised = model.sample(num=2, steps=2, labels=[1], options={"renoise": 1.0}).x
    assert not torch.equal(renoised, model.sample(num=2, steps=2, labels=[1]).x)
    for refused in ({"guidance": 2.0}, {"clip": True}):
        with pytest.raises(ConfigError, match="`guidance` 1, or another sampler"):
            model.sample(num=1, sampler="flow_map", **refused)


def test_an_ordinary_run_cannot_jump_and_says_why(tmp_path: FilePath) -> None:
    model = ef.open(trained(tmp_path / "run", {"objective": {"map": None}, "sample": {"sampler": "heun"}}))
    with pytest.raises(ValueError, match=r"its net is told no gap. Train one that is: objective\.map=midpoint"):
        model.sample(num=1, sampler="flow_map", guidance=1.0)


def test_a_map_resumes_as_if_it_had_never_stopped(tmp_path: FilePath) -> None:
    kind = {"objective": {"map": {"kind": "consistency", "first": 0.9}}}
    whole = ef.open(trained(tmp_path / "whole", kind)).denoiser.net.state_dict()
    config = parse(merge(read_preset("digits_map"), TINY, kind))
    stops = iter([False, True])
    trainer = Trainer(task_of(config, stand_in(), tmp_path / "halves"), should_stop=lambda: next(stops))
    assert [event.step for event in trainer.events()][-1] == 2
    again = ef.open(trained(tmp_path / "halves", kind)).denoiser.net.state_dict()
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_what_cannot_be_trained_is_refused_before_training(tmp_path: FilePath) -> None:
    for layer, message in (
        ({"objective": {"map": "mean_flow", "clock": "log_snr"}}, "Use clock 'unit'"),
        ({"objective": {"diagonal": 0.0}}, "`diagonal` 0"),
        ({"objective": {"variance": "learned"}}, "no learned variance"),
        ({"path": {"kind": "vp"}, "objective": {"prediction": "eps"}}, "multiplies the error"),
    ):
        with pytest.raises(ValueError, match=message):
            trained(tmp_path / "none", layer)
    assert not (tmp_path / "none" / "checkpoints").exists()
    with pytest.raises(ConfigError, match="midpoint"):
        parse({"objective": {"map": "midpoit"}})


def test_the_commands_of_the_page_are_commands() -> None:
    page = (FilePath(__file__).parents[1] / "docs" / "few_steps.md").read_text(encoding="utf-8")
    commands = re.findall(r"^ebbflow .*$", page, re.MULTILINE) + re.findall(r"`(ebbflow [^`]*--maps [^`]*)`", page)
    assert len(commands) >= 4
    for command in commands:
        check_command(command)


def test_jumps_are_measured_beside_the_same_models_ode(tmp_path: FilePath) -> None:
    layers = (
        {"data": {"name": "swiss_roll"}, "net": {"kind": "mlp", "dim": 16, "depth": 2}, "objective": {"map": "lsd"}},
        {"train": TINY["train"], "engine": TINY["engine"]},
    )
    config = parse(merge(*layers))  # type: ignore[arg-type]
    list(Trainer(task_of(config, load_splits(config), tmp_path / "run")).events())
    found = ef.evaluate(tmp_path / "run", sampler="flow_map", steps=2, num=40)
    assert found["rms_from_own_ode"] > 0
    assert "rms_from_own_ode" not in ef.evaluate(tmp_path / "run", sampler="heun", steps=2, num=40)
    output = tmp_path / "compare.html"
    report = ef.compare([tmp_path / "run"], samplers=["flow_map", "heun"], steps=[1, 2], num=40, output=output)
    cells = {(cell.sampler, cell.steps): cell.evaluations for cell in report.cells}
    assert cells == {("flow_map", 1): 1, ("flow_map", 2): 2, ("heun", 1): 1, ("heun", 2): 3}
