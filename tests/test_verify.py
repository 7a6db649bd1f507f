"""`ebbflow verify`: the built-in ones pass, what is broken on purpose is caught, and the surfaces say so."""

from __future__ import annotations

import itertools
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import WALKERS

from ebbflow.cli.app import run_app
from ebbflow.core.paths import PATHS, VPDiscrete
from ebbflow.core.predictions import PREDICTIONS
from ebbflow.core.times import TIME_GRIDS
from ebbflow.methods.oracles import Gaussian
from ebbflow.methods.samplers import SAMPLERS
from ebbflow.proof import exact, faults
from ebbflow.proof.maps import MapVerdict
from ebbflow.proof.tables import page
from ebbflow.proof.verify import Scope, Verdict, verify

F64 = torch.float64
KEYS = {
    "sampler", "path", "prediction", "grid", "order_declared", "order_measured", "error", "evaluations", "mean_error",
    "variance_ratio", "mode_weight_error", "ok", "reason",
}  # fmt: skip

SAMPLER = '''
"""A sampler from elsewhere."""
from itertools import pairwise
from ebbflow.methods.samplers.base import Step, remix, sampler, slope

@sampler(order=2, evaluations=lambda n: {evaluations})
def mine(denoise, x, levels):
    for t, s in pairwise(levels):
        estimate = denoise(x, t.t)
        if s.sigma == 0 or not (t.is_regular and s.is_regular):
            x = remix(estimate, s)
        else:
            h, k1 = s.t - t.t, slope(estimate, t)
            k2 = slope(denoise(x + h * k1, s.t), s)
            x = x + h * ({weight} * k1 + (1 - {weight}) * k2)
        {more}
        yield Step(s.t, x, estimate)
{tail}
'''

PATH = '''
"""A path from elsewhere: alpha = (1 - t)^2, sigma = t."""
from dataclasses import dataclass
import torch
from ebbflow.core.coefficients import Coefficients
from ebbflow.core.paths import Path

@dataclass(frozen=True, kw_only=True)
class Square(Path):
    def scales(self, t):
        return Coefficients(alpha=(1 - t) ** 2, sigma=t, alpha_dot={slope} * (1 - t), sigma_dot=torch.ones_like(t))

    def unshifted_time_of(self, log_snr):
        low, high = torch.zeros_like(log_snr), torch.ones_like(log_snr)
        for _ in range(60):
            mid = (low + high) / 2
            noisier = self.scales(mid).log_snr < log_snr
            low, high = torch.where(noisier, low, mid), torch.where(noisier, mid, high)
        return (low + high) / 2

{tail}
'''


def heun_like(weight: float = 0.5, evaluations: str = "2 * n - 1", more: str = "pass", tail: str = "") -> str:
    return SAMPLER.format(weight=weight, evaluations=evaluations, more=more, tail=tail)


_count = itertools.count()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def module(folder: Path, text: str) -> str:
    """Write a module of a name not used before; returns the name."""
    name = f"elsewhere_{next(_count)}"
    (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return name


def rows_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[dict[str, object]]]:
    capsys.readouterr()
    code = run_app(["verify", "--quick", "--json", *arguments])
    return code, json.loads(capsys.readouterr().out)


# -- the built-in ones -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def everything() -> list[Verdict]:
    plan = Scope(
        samplers=SAMPLERS,
        paths={name: PATHS[name]() for name in ("flow", "vp_discrete")},
        predictions=tuple(PREDICTIONS),
        grids=TIME_GRIDS,
    ).quick()
    rows = list(verify(plan))
    assert len(rows) == len(plan)
    return rows


def test_the_built_in_ones_pass_and_every_registry_is_covered(everything: list[Verdict]) -> None:
    assert [row for row in everything if not row.ok] == []
    assert {row.sampler for row in everything} == set(SAMPLERS)
    assert {row.prediction for row in everything} == set(PREDICTIONS)
    assert {row.grid for row in everything} == set(TIME_GRIDS)
    plain = [row for row in everything if not row.refused]
    assert all(row.error is not None and row.prediction_error is not None for row in plain)
    on_grid = [row for row in plain if row.sampler in WALKERS and not SAMPLERS[row.sampler].is_adaptive]
    assert all(row.order_measured is not None and row.order_measured >= row.order_declared - 0.25 for row in on_grid)


def test_every_registered_path_is_in_the_plan_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[Scope] = []
    monkeypatch.setattr("ebbflow.proof.verify.verify", lambda plan: plans.append(plan) or [])
    monkeypatch.setattr("ebbflow.cli.verify._print", lambda rows, output: None)
    assert run_app(["verify"]) == 0
    assert (set(plans[0].samplers), set(plans[0].paths)) == (set(SAMPLERS), set(PATHS))
    assert len(plans[0]) == len(SAMPLERS) * len(PATHS) * len(PREDICTIONS) * len(TIME_GRIDS)


def test_singular_pairs_are_refused_exactly_where_they_are_singular(everything: list[Verdict]) -> None:
    refused = {(row.path, row.prediction) for row in everything if row.refused}
    assert refused == {("flow", "eps"), ("flow", "score")}
    assert faults.is_singular("velocity", PATHS["linear_variance"]())
    assert not faults.is_singular("eps", VPDiscrete()) and faults.is_singular("eps", VPDiscrete(zero_terminal_snr=True))


def test_evaluations_and_rates_are_those_of_the_method(everything: list[Verdict]) -> None:
    by = {(row.sampler, row.path, row.grid): row for row in everything if row.prediction == "velocity"}
    assert by["rk4", "flow", "uniform"].evaluations == 4 * 24 - 3
    assert by["heun", "flow", "uniform"].error < by["euler", "flow", "uniform"].error / 5
    assert by["euler", "flow", "uniform"].rate == pytest.approx(1, abs=0.15)


# -- the yardstick itself, against something else ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["flow", "vp", "ve"])
def test_the_exact_transport_solves_the_ode(name: str) -> None:
    """d/dt of the quantile is the oracle's velocity, by central differences."""
    path, u, t, h = PATHS[name](), exact.lattice(32), 0.4, 1e-5
    x = exact.quantiles(path, t, u)
    moved = (exact.quantiles(path, t + h, u) - exact.quantiles(path, t - h, u)) / (2 * h)
    known = exact.mixture(path)(x, t)
    assert torch.allclose(moved, path.velocity(known.x0, known.eps, t), rtol=1e-5, atol=1e-6)


def test_moments_by_impulses_are_those_of_many_draws() -> None:
    path, times = PATHS["vp"](), torch.linspace(1, 0, 9, dtype=F64)
    found = exact.sampled_moments(SAMPLERS["ddpm"], path, times)
    start = exact.gaussian_moments(path, 1.0)
    z = torch.randn(40_000, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    denoise = Gaussian(exact.GAUSSIAN_MEAN, exact.GAUSSIAN_STD, path)
    x = start.mean + start.variance.sqrt() * z
    x = faults.arrive(SAMPLERS["ddpm"], denoise, x, times, noise=exact.Stream(1, len(x)))
    assert torch.allclose(found.mean, x.mean(0), atol=0.02) and torch.allclose(found.variance, x.var(0), rtol=0.04)
    assert torch.allclose(found.variance, exact.ancestral_variance(path, times, "small"), rtol=1e-9)


def test_the_optimal_variance_is_exact_at_any_number_of_steps() -> None:
    path, times = PATHS["cosine"](), torch.linspace(1, 0.2, 4, dtype=F64)
    found = exact.sampled_moments(SAMPLERS["ddpm"], path, times, variance="optimal")
    assert torch.allclose(found.variance, exact.gaussian_moments(path, 0.2).variance, rtol=1e-9)


def test_the_order_is_read_above_rounding_only() -> None:
    assert faults.measured_order([1e-2, 2.5e-3, 3e-9], (16, 32, 64)) == pytest.approx(2)
    assert faults.measured_order([1e-9, 1e-9, 1e-9], (16, 32, 64)) is None


# -- a third party's ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tail", ["", 'SAMPLERS = {"theirs": mine}', 'import ebbflow; ebbflow.SAMPLERS["theirs"] = mine']
)
def test_a_correct_sampler_from_elsewhere_passes(here: Path, capsys: pytest.CaptureFixture[str], tail: str) -> None:
    before = dict(SAMPLERS)
    chosen = ["--samplers", "theirs", "--paths", "flow,linear_variance"] if tail else []
    code, rows = rows_of(capsys, "--import", module(here, heun_like(tail=tail)), *chosen)
    assert code == 0 and {row["sampler"] for row in rows} == {"theirs" if tail else "mine"}
    assert {row["path"] for row in rows} == ({"flow", "linear_variance"} if tail else set(PATHS)) and rows[
        0
    ].keys() >= KEYS
    assert all(row["ok"] and row["reason"] is None and row["order_measured"] > 1.75 for row in rows)
    assert before == SAMPLERS


BROKEN = {
    "order 2 is declared": heun_like(weight=0.6),
    "evaluations are declared": heun_like(evaluations="n"),
    "in place": heun_like().replace("estimate = denoise", "x.add_(1e-3); estimate = denoise"),
    "not tend to the truth|order 2": heun_like(more="x = x * 1.1 if s.sigma == 0 else x"),
    "depends on the others": heun_like(more="x = x + 1e-3 * (x - x.mean(0))"),
    "raised KeyError": heun_like(more="{}['gone']"),
    "not finite": heun_like(more="x = x * float('nan')"),
    "must yield a Step for each of": heun_like(more="if s.sigma == 0: return"),
}  # fmt: skip


@pytest.mark.parametrize("reason", BROKEN)
def test_a_broken_sampler_is_caught(here: Path, capsys: pytest.CaptureFixture[str], reason: str) -> None:
    name = module(here, BROKEN[reason])
    code, rows = rows_of(capsys, "--import", name, "--samplers", "mine,heun", "--paths", "flow", "--grids", "uniform")
    own = [row for row in rows if row["sampler"] == "mine"]
    assert code == 1 and own and not any(row["ok"] for row in own if row["prediction"] == "velocity")
    assert re.search(reason, own[-1]["reason"])
    assert all(row["ok"] for row in rows if row["sampler"] == "heun")


def test_a_sampler_that_asks_at_clean_data_is_told_where_that_fails(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = module(here, heun_like(evaluations="2 * n").replace("s.sigma == 0 or ", ""))
    code, rows = rows_of(capsys, "--import", name, "--samplers", "mine", "--paths", "flow", "--grids", "uniform")
    assert code == 1 and {row["prediction"] for row in rows if not row["ok"]} == {"x0"}
    assert "the sampler asks at t = 0" in next(row["reason"] for row in rows if not row["ok"])


def test_noise_on_the_last_step_is_caught(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = """
from itertools import pairwise
from ebbflow.core.kernels import posterior
from ebbflow.methods.samplers.base import Step, sampler

@sampler(order=1, evaluations=lambda n: n, stochastic=True)
def mine(denoise, x, levels, *, noise):
    for t, s in pairwise(levels):
        estimate, k = denoise(x, t.t), posterior(t, s)
        x = k.from_x_t * x + k.from_x0 * estimate.x0 + max(k.small, {least}) ** 0.5 * noise.like(x)
        yield Step(s.t, x, estimate)
"""
    chosen = ["--samplers", "mine", "--paths", "flow", "--predictions", "velocity", "--grids", "uniform"]
    assert rows_of(capsys, "--import", module(here, text.format(least=0.0)), *chosen)[0] == 0
    code, rows = rows_of(capsys, "--import", module(here, text.format(least=0.02)), *chosen)
    assert code == 1 and rows[0]["variance_ratio"] > 1.05


@pytest.mark.parametrize("tail", ['PATHS = {"square": Square}', 'PATHS = {"square": Square()}', "square = Square()"])
def test_a_correct_path_from_elsewhere_passes(here: Path, capsys: pytest.CaptureFixture[str], tail: str) -> None:
    name = module(here, PATH.format(slope=-2, tail=tail))
    chosen = () if "{" not in tail else ("--samplers", "heun,ddpm", "--paths", "square")
    code, rows = rows_of(capsys, "--import", name, *(chosen or ("--samplers", "unipc", "--paths", "square")))
    assert code == 0, [row for row in rows if not row["ok"]][:1]
    assert {row["path"] for row in rows} == {"square"}


def test_a_path_whose_derivative_lies_is_caught(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = module(here, PATH.format(slope=-1.5, tail='PATHS = {"square": Square}'))
    code, rows = rows_of(capsys, "--import", name)
    assert code == 1 and {row["path"] for row in rows} == {"square"}
    assert {row["sampler"] for row in rows} == set(SAMPLERS) and not any(row["ok"] for row in rows)
    assert "alpha_dot is not the derivative of alpha" in rows[0]["reason"]


def test_even_unchecked_a_lying_derivative_spoils_the_order() -> None:
    """The reference is no sampler: integrators that believe the path agree with one another, not with the truth."""
    bench = faults.Bench.on(PATHS["flow"](), 128, ())
    lying = replace(bench, oracle=exact.mixture(_Liar()))
    errors = faults.order_errors(SAMPLERS["rk4"], lying, (16, 32, 64))
    assert "order 4 is declared" in faults.order_fault(
        SAMPLERS["rk4"], errors, faults.measured_order(errors, (16, 32, 64))
    )


class _Liar(PATHS["flow"]):
    def scales(self, t):  # type: ignore[no-untyped-def]
        return replace(super().scales(t), sigma_dot=torch.full_like(t, 1.05))


def test_predictions_from_elsewhere(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = """
import torch
PREDICTIONS = {
    "tilted": lambda c: (c.sigma_dot, c.alpha + 0.5),
    "blind": lambda c: (c.alpha, c.sigma),
    "wrong": lambda c: (c.alpha * torch.nan, c.sigma) if float(c.sigma.max()) < 0.9 else (-c.sigma, c.alpha),
}
"""
    code, rows = rows_of(
        capsys, "--import", module(here, text), "--samplers", "ddim", "--paths", "flow", "--grids", "uniform"
    )
    by = {row["prediction"]: row for row in rows}
    assert code == 1 and by["velocity"]["ok"] and not by["wrong"]["ok"] and "not finite" in by["wrong"]["reason"]
    assert by["blind"]["refused"] and by["blind"]["ok"] and by["tilted"]["ok"] is not None
    assert "tilted" not in PREDICTIONS


# -- surfaces ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samplers", "huen"], "Did you mean 'heun'"),
        (["--paths", "cosin"], "unknown path 'cosin'"),
        (["--grids", "kerras"], "Did you mean 'karras'"),
        (["--predictions", "x1"], "unknown prediction 'x1'"),
        (["--samplers", ","], "--samplers is an empty list"),
        (["--output", "verify.pdf"], "--output must be a file ending in .html"),
        (["--import", "no_such_module"], "no module 'no_such_module'"),
        (["--import", "folder/mine.py"], "--import wants a module's name such as 'mine'"),
    ],
)
def test_bad_usage_is_one_sentence(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run_app(["verify", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "holds nothing that ebbflow knows"),
        ("import gone_missing", "cannot be imported: No module named 'gone_missing'"),
        ("def (", "cannot be imported: SyntaxError"),
        ("from ebbflow.methods.samplers.ode import heun", "holds nothing that ebbflow knows"),
        ("SAMPLERS = {'mine': print}", "is no sampler. Decorate the function"),
        ("SAMPLERS = 3", "must be a dict of names"),
        ("PATHS = {'mine': dict}", "must be a Path or a class of Path, got dict"),
        (heun_like(tail="SAMPLERS = {'heun': mine}"), "names 'heun', which ebbflow has already"),
    ],
)
def test_a_module_that_is_of_no_use_is_one_sentence(
    here: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    assert run_app(["verify", "--import", module(here, text)]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_the_table_and_the_page_hold_everything(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = module(here, heun_like(weight=0.6))
    arguments = ["verify", "--quick", "--import", name, "--samplers", "mine,ddim", "--paths", "flow,ve"]
    assert run_app([*arguments, "--output", "out/verify.html"]) == 1
    said = capsys.readouterr().out
    assert "measured order" in said and "mine on flow: order 2 is declared" in said and "not ok" in said
    text = (here / "out" / "verify.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|src=|<script|@import|url\(", text)
    assert text.count('<tr><td class="word">') == 2 * 2 * (len(PREDICTIONS) + len(TIME_GRIDS) - 1)
    assert "prefers-color-scheme: dark" in text and "order 2 is declared" in text


def test_the_page_has_a_row_a_verdict_and_escapes_what_it_is_given(everything: list[Verdict]) -> None:
    odd = replace(everything[0], sampler="<b>", ok=False, reason="1 < 2 & so on", error=None)
    text = page([*everything, odd], "ebbflow verify --samplers '<i>'")
    assert text.count('<tr><td class="word">') == len(everything) + 1
    assert "<b>" not in text.replace("<b>Each", "").replace("<b>Order", "").split("<h2>All rows</h2>")[1]
    assert "1 &lt; 2 &amp; so on" in text and "&lt;i&gt;" in text
    told = {(row.sampler, row.path) for row in everything if dict(row.order_errors).get(32, 0) > 1e-12}
    assert all(f"<title>{sampler}, 32 steps: error " in text for sampler, _ in told) and len(told) > 20
    assert text.count("<figure>") == 2 and "at the exact map" not in text


def test_the_errors_that_are_drawn_have_the_order_that_is_told(everything: list[Verdict]) -> None:
    for row in everything:
        if row.order_measured is not None:
            (few, coarse), (many, fine) = row.order_errors[-2:]
            if fine > 1e-6:
                assert math.log(coarse / fine) / math.log(many / few) == pytest.approx(row.order_measured, abs=1e-9)


def test_the_page_of_maps_alone_has_their_table() -> None:
    rows = [
        MapVerdict(objective="<lsd>", path="flow", prediction="velocity", loss=0.0, floor=0.0, ok=False, reason="<no>")
    ]
    text = page([], "ebbflow verify --maps lsd", rows)
    assert "&lt;lsd&gt;" in text and "&lt;no&gt;" in text and "0 ok" in text and "All rows" not in text


def test_json_numbers_are_json(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    code, rows = rows_of(capsys, "--samplers", "heun", "--paths", "flow")
    assert code == 0 and all(math.isfinite(v) for row in rows for v in row.values() if isinstance(v, float))
