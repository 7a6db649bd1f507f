"""Laws of registry entries with numbers of their own: by name, by name and options, or as objects, everywhere alike."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import pytest
import torch
from conftest import F64, PATH_CASES, interior, mixture, normal

from ebbflow.config import ObjectiveConfig, RunConfig, SampleConfig, merge, parse, read_preset, read_settings, to_dict
from ebbflow.core.entries import as_choice, entry, spelt
from ebbflow.core.predictions import EDM, PREDICTIONS, solve
from ebbflow.core.times import TIME_GRIDS, TIME_SAMPLERS, KarrasGrid, LogitNormal, LogNormalSigma, Mode, ShiftedGrid
from ebbflow.core.weights import P2, WEIGHTS, MinSNR, Sigmoid, effective_weight
from ebbflow.errors import ConfigError
from ebbflow.methods.denoise import NetDenoiser
from ebbflow.methods.objective import Objective
from ebbflow.methods.samplers import SAMPLERS
from ebbflow.methods.sampling import check_sampler, walk
from ebbflow.runs.build import build_objective
from ebbflow.values import checked_value, read_value

FLOW = PATH_CASES["flow"]
REGISTRIES: dict[str, tuple[Mapping[str, Any], str]] = {
    "objective.prediction": (PREDICTIONS, "prediction"),
    "objective.times": (TIME_SAMPLERS, "time sampling"),
    "objective.weight": (WEIGHTS, "weighting"),
    "sample.grid": (TIME_GRIDS, "time grid"),
}
EVERY = [(key, name) for key, (registry, _) in REGISTRIES.items() for name in registry]
OPTIONS = [
    (key, name, option.name)
    for key, name in EVERY
    if is_dataclass(REGISTRIES[key][0][name])
    for option in fields(REGISTRIES[key][0][name])
]


@pytest.mark.parametrize(("key", "name"), EVERY)
def test_a_name_a_table_and_the_object_are_one_entry(key: str, name: str) -> None:
    registry, what = REGISTRIES[key]
    for given in (name, {"kind": name}, registry[name], copy(registry[name])):
        assert entry(registry, given, what) == registry[name]
        assert as_choice(registry, given, what) == name
    assert hash(registry[name]) == hash(copy(registry[name])), "a path remembers what was derived by entry"


@pytest.mark.parametrize(("key", "name", "option"), OPTIONS)
def test_every_option_is_set_by_a_configuration_and_comes_back_from_json(key: str, name: str, option: str) -> None:
    registry, what = REGISTRIES[key]
    section, field = key.split(".")
    value = getattr(registry[name], option) * 1.25 + 0.125 if name != "mode" else 0.5
    layer = read_settings({f"{key}.{option}": value, key: name})
    config = parse({**layer, "path": {"kind": "vp"}})
    choice = getattr(getattr(config, section), field)
    assert choice == {"kind": name, option: value}
    assert getattr(entry(registry, choice, what), option) == value
    assert parse(json.loads(json.dumps(to_dict(config)))) == config
    with pytest.raises(ConfigError, match=f"`{option}` of {what} '{name}' must be a number, got 'much'"):
        parse(read_settings({key: name, f"{key}.{option}": "much"}))
    with pytest.raises(ConfigError, match=rf"{what} '{name}' has no option '{option}s'\..*'{option}'"):
        parse(read_settings({key: name, f"{key}.{option}s": 1}))


@pytest.mark.parametrize(
    "make",
    [
        lambda: MinSNR(gamma=0),
        lambda: P2(k=-1),
        lambda: P2(gamma=-0.1),
        lambda: Sigmoid(bias=float("inf")),
        lambda: LogitNormal(std=0.0),
        lambda: LogNormalSigma(mean=float("nan")),
        lambda: Mode(scale=1.8),
        lambda: Mode(scale=-1.1),
        lambda: KarrasGrid(rho=0.0),
        lambda: ShiftedGrid(shift=-1.0),
        lambda: EDM(sigma_data=0.0),
    ],
)
def test_values_out_of_range_are_refused_where_they_are_said(make: Any) -> None:
    with pytest.raises(ValueError, match=r"`[a-z_]+`.* must be"):
        make()


def test_what_is_no_entry_is_refused_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"unknown weighting 'min_snt'\. Did you mean 'min_snr'"):
        entry(WEIGHTS, "min_snt", "weighting")
    with pytest.raises(ConfigError, match=r"unknown weighting ''\. Known: cosine_smooth"):
        entry(WEIGHTS, {"gamma": 3}, "weighting")
    for wrong in (3, None, [1], MinSNR):
        with pytest.raises(ConfigError, match="a weighting is a name, a table with a `kind`, or an object, got"):
            entry(WEIGHTS, wrong, "weighting")
    with pytest.raises(ConfigError, match=r"weighting 'uniform' has no option 'gamma'\. It has none"):
        entry(WEIGHTS, {"kind": "uniform", "gamma": 3}, "weighting")

    @dataclass
    class Changing:
        def __call__(self, c: Any, d: torch.Tensor) -> torch.Tensor:
            return d

    with pytest.raises(ConfigError, match="make Changing a frozen dataclass"):
        entry(WEIGHTS, Changing(), "weighting")
    with pytest.raises(ConfigError, match="draws times and knows their density"):
        Objective(FLOW, times=own_weight)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="registered kinds of weighting only"):
        as_choice(WEIGHTS, lambda c, d: d, "weighting")


def test_options_keep_the_type_of_their_default() -> None:
    def bare(a=1.0, b=1, c=False, d="x"): ...  # type: ignore[no-untyped-def]

    def of(name: str, value: object) -> object:
        return checked_value(bare, name, value, default=inspect.signature(bare).parameters[name].default)

    assert of("a", 3) == 3.0 and isinstance(of("a", 3), float)
    for name, value in (("a", True), ("b", 1.5), ("b", True), ("c", "x"), ("d", 1), ("c", 1), ("a", float("nan"))):
        with pytest.raises(ConfigError, match=f"`{name}` must be"):
            of(name, value)
    assert spelt({"kind": "p2", "k": 2.0}) == "p2(k=2.0)" and spelt("p2") == "p2" == spelt({"kind": "p2"})


# -- everywhere that a name is accepted ------------------------------------------------------------


def own_weight(c: Any, d: torch.Tensor) -> torch.Tensor:
    return c.alpha * c.sigma


@pytest.mark.parametrize("weight", [own_weight, WEIGHTS["debiased"], {"kind": "debiased"}])
def test_an_objective_takes_any_form(weight: Any) -> None:
    path, x0, eps, t = PATH_CASES["vp"], normal(4, 2), normal(4, 2, seed=1), interior(4)
    model = NetDenoiser(net=lambda x, clock, cond: 0.3 * x, path=path, prediction="v")
    plain, other = (
        Objective(path, prediction=p, times=k, weight=w)
        for p, k, w in (("v", "logit_normal", "debiased"), (PREDICTIONS["v"], LogitNormal(), weight))
    )
    assert torch.equal(plain.losses(model, x0, None, eps, t), other.losses(model, x0, None, eps, t))
    draws = [o.draw_times(5, torch.Generator().manual_seed(0)) for o in (plain, other)]
    assert torch.equal(*draws)
    levels = torch.linspace(-3, 3, 7, dtype=F64)
    args = [
        effective_weight(path, p, k, w, levels)
        for p, k, w in (("v", "mode", "debiased"), (PREDICTIONS["v"], Mode(), weight))
    ]
    torch.testing.assert_close(*args)


def test_options_change_what_they_should() -> None:
    x, out = normal(3, 2), normal(3, 2, seed=1)
    ones = [solve(p, out, x, 0.4, FLOW).x0 for p in ("edm", {"kind": "edm", "sigma_data": 1}, EDM(sigma_data=1.0))]
    assert torch.equal(ones[1], ones[2]) and not torch.allclose(ones[0], ones[1])
    c = PATH_CASES["cosine"].at(interior(50))
    a, b = EDM(sigma_data=1.0)(c)
    torch.testing.assert_close(a**2 + b**2, torch.ones_like(a), msg="the target of data of std 1 has variance 1")
    grids = [
        list(walk(mixture(FLOW), (1,), [0], grid=g, num_steps=6))
        for g in ({"kind": "karras", "rho": 3}, KarrasGrid(rho=3.0), "karras")
    ]
    assert [s.t for s in grids[0]] == [s.t for s in grids[1]] != [s.t for s in grids[2]]


@pytest.mark.parametrize("mean", [-1.0, 0.7])
def test_densities_follow_their_options(mean: float) -> None:
    for law in (LogitNormal(mean=mean, std=0.5), LogNormalSigma(mean=mean, std=0.8), Mode(scale=0.8 * mean)):
        path = PATH_CASES["vp"]
        t = torch.linspace(0, 1, 4001, dtype=F64)[1:-1]
        assert float(torch.trapezoid(law.density(t, path), t)) == pytest.approx(1, abs=5e-3)
        drawn = law.draw(40_000, path, torch.Generator().manual_seed(0))
        wanted = torch.trapezoid(law.density(t, path) * t, t)
        assert float(drawn.mean()) == pytest.approx(float(wanted), abs=0.01)


# -- configurations --------------------------------------------------------------------------------


def settings(*given: str, preset: str = "digits") -> RunConfig:
    pairs = dict(one.split("=", 1) for one in given)
    return parse(merge(read_preset(preset), read_settings({name: read_value(text) for name, text in pairs.items()})))


def test_settings_of_any_depth_reach_the_objective() -> None:
    config = settings(
        "objective.weight.gamma=3",
        "objective.weight.kind=min_snr",
        "objective.times.mean=0.5",
        "objective.prediction.sigma_data=1",
        "objective.prediction=edm",
        "sample.grid.rho=5",
        "sample.grid=karras",
    )
    assert config.objective.weight == {"kind": "min_snr", "gamma": 3.0}
    assert config.objective.times == {"kind": "logit_normal", "mean": 0.5}, "options join the kind that is there"
    objective = build_objective(config)
    assert entry(PREDICTIONS, objective.prediction, "prediction") == EDM(sigma_data=1.0)
    assert config.sample.grid == {"kind": "karras", "rho": 5.0}
    assert parse(to_dict(config)) == config
    assert ObjectiveConfig(weight=MinSNR(gamma=3.0)).weight == config.objective.weight


def test_another_kind_leaves_the_options_of_the_last_behind() -> None:
    layers = [{"objective": {"weight": {"kind": "p2", "k": 2.0}}}, {"objective": {"weight": {"gamma": 2.0}}}]
    assert parse(merge(*layers)).objective.weight == {"kind": "p2", "k": 2.0, "gamma": 2.0}
    assert parse(merge(*layers, {"objective": {"weight": {"kind": "min_snr"}}})).objective.weight == "min_snr"
    assert parse(merge(*layers, {"objective": {"weight": "snr"}})).objective.weight == "snr"
    assert settings("sample.sampler=heun", preset="digits_score_vp").sample.options == {}, "they belong to the sampler"
    assert settings(preset="digits_score_vp").sample.options != {}
    assert settings("sample.options={}", preset="digits_score_vp").sample.options == {}


def test_a_configuration_of_before_loads_and_is_the_same() -> None:
    """As config.json was written when entries had no options."""
    before = {
        "objective": {"prediction": "edm", "times": "log_normal_sigma", "weight": "min_snr", "clock": "log_snr"},
        "sample": {"sampler": "ddim", "num_steps": 10, "grid": "karras", "guidance": 2.0, "options": {"eta": 0.5}},
    }
    config = parse(before)
    assert to_dict(config)["objective"] | before["objective"] == to_dict(config)["objective"]
    assert to_dict(config)["sample"] | before["sample"] == to_dict(config)["sample"]
    written = {"objective": {"weight": {"kind": "min_snr", "gamma": 5}}}
    assert parse(merge(before, written)) == config, "an option that is the default is no difference"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sample.sampler=heum", "unknown sampler 'heum'.* Did you mean 'heun'"),
        ("sample.grid=karas", "unknown time grid 'karas'.* Did you mean 'karras'"),
        ("sample.options.eta=1", "sampler 'heun' has no option 'eta'"),
        ("sample.grid.rho=1", "time grid 'uniform' has no option 'rho'"),
        ("objective.weight.gamma=1", "weighting 'uniform' has no option 'gamma'"),
        ("objective.times.std=-1", r"`std` of time sampling 'logit_normal' must be in \(0, 100\], got -1"),
        ("train=3", "a setting is section.key=value, for example train.lr=3e-4"),
        ("train..lr=3", "a setting is section.key=value"),
    ],
)
def test_what_cannot_work_is_refused_when_the_configuration_is_parsed(setting: str, message: str) -> None:
    """`sample.sampler=heum` used to train 500 steps and die in the first preview."""
    with pytest.raises(ConfigError, match=message):
        settings(setting)


@pytest.mark.parametrize(
    ("sampler", "options", "message"),
    [
        ("ddim", {"eta": 1.5}, r"`eta` of sampler 'ddim' must be in \[0, 1\], got 1.5"),
        ("ddim", {"eta": "yes"}, "`eta` of sampler 'ddim' must be a number, got 'yes'"),
        ("ddpm", {"variance": "optimum"}, "`variance` of sampler 'ddpm' must be small, large, optimal or learned"),
        ("pc", {"corrector_steps": 1.5}, "must be a whole number"),
        ("sde", {"diffusion": "foreward"}, "`diffusion` of sampler 'sde' must be sigma or forward"),
        ("edm", {"s_min": 2.0, "s_max": 1.0}, "must satisfy 0 <= s_min <= s_max"),
        ("dopri5", {"rtol": 2.0}, "`rtol` of sampler 'dopri5' must be in"),
    ],
)
def test_options_of_samplers_are_tried_before_anything_depends_on_them(
    sampler: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        SampleConfig(sampler=sampler, options=options)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_option_of_every_sampler_passes_with_its_default(sampler: str) -> None:
    check_sampler(sampler, {name: option.default for name, option in SAMPLERS[sampler].options.items()})
    if sampler == "ddpm":
        for variance in ("small", "large", "optimal", "learned"):
            check_sampler(sampler, {"variance": variance})
