"""The claims of the notes: each measurement on laws known in closed form, the page, going on, and bad input."""

from __future__ import annotations

import ast
import inspect
import json
import math
import textwrap
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import F64, OnDevice, normal, on_device
from scipy import stats

from ebbflow.cli.app import run_app
from ebbflow.core.paths import PATHS
from ebbflow.methods.editing import psnr
from ebbflow.methods.objective import Objective
from ebbflow.methods.oracles import Gaussian, GaussianMixture
from ebbflow.methods.samplers import SAMPLERS
from ebbflow.methods.sampling import grid_times
from ebbflow.metrics.learning import LearnerSettings
from ebbflow.metrics.measure import mean_and_error
from ebbflow.progress import Stage, finish
from ebbflow.studies.claims import CLAIMS, Recipe, Side, Trial
from ebbflow.studies.claims import base as claims_base
from ebbflow.studies.claims.base import clearly, repeats, toy
from ebbflow.studies.claims.comparison import costs_of, timing, to_quality
from ebbflow.studies.claims.determinism import distances, ended, relative_spread, same_verdict, there_and_back
from ebbflow.studies.claims.identities import (
    CODE_LINES,
    compare,
    eps_weight,
    kolmogorov,
    ratios,
    scores,
)
from ebbflow.studies.claims.pair import entry, page
from ebbflow.studies.claims.quality import (
    bend,
    class_spread,
    guidance_verdict,
    listed,
    straight_verdict,
    threshold_verdict,
    toy_verdict,
)

FLOW, VP = PATHS["flow"](), PATHS["vp_discrete"]()
QUICK = {**LearnerSettings.__init__.__kwdefaults__, "min_steps": 20, "max_steps": 20, "num_features": 8}


def mixture(path: Any) -> GaussianMixture:
    return GaussianMixture(torch.tensor([[-1.0, 0.5], [1.0, -0.5]]), torch.tensor([0.2, 0.3]), [0.5, 0.5], path)


def side(name: str, path: Any) -> Side:
    objective = Objective(path, prediction="velocity" if name == "flow" else "eps")
    oracle, sde = mixture(path), "sde" if name == "flow" else "ddpm"
    return Side(name=name, denoiser=oracle, quick=oracle, objective=objective, grid="uniform", ode="ddim", sde=sde)


@pytest.fixture
def trial() -> Trial:
    """Exact models of two Gaussians in the plane, with the coordinates as features and the sides as classes."""
    x = torch.cat([torch.tensor([s, -s / 2]) + (0.25 * normal(200, 2, seed=3)).float() for s in (-1.0, 1.0)])
    return Trial(
        diffusion=side("diffusion", VP),
        flow=side("flow", FLOW),
        x0=x[::4],
        labels=(x[::4, 0] > 0).long(),
        num_classes=2,
        features_of=lambda rows: {"features": rows, "classes": (rows[:, 0] > 0).long()},
        real=x,
        other_real=x.flip(0) + 0.01,
        num=60,
        few=8,
        steps=(2, 5),
        batch_size=32,
    )


# -- the pure parts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [True, False])
def test_the_exact_flow_to_a_point_is_straight(own: bool) -> None:
    to_point = Gaussian(torch.tensor([0.3, -2.0], dtype=F64), 0.0, FLOW)
    assert bend(to_point, normal(5, 2), own_clock=own).max() < 1e-20


def test_the_bend_of_gaussian_data_is_the_closed_form() -> None:
    """x_t = S_t z with S_t^2 = (1 - t)^2 s^2 + t^2, so v = S_t' z against (1 - s) z."""
    s, t = 0.3, (torch.arange(400, dtype=F64) + 0.5) / 400
    slope = (t - (1 - t) * s**2) / torch.sqrt((1 - t) ** 2 * s**2 + t**2)
    wanted = float(((slope - (1 - s)) ** 2).mean()) / (1 - s) ** 2
    found = bend(Gaussian(0.0, s, FLOW), normal(4, 2), own_clock=True, num_steps=400)
    torch.testing.assert_close(found, torch.full_like(found, wanted), rtol=0.03, atol=0)


def test_on_the_straight_line_exact_models_bend_alike() -> None:
    """One family: rescaled, the trajectories of an exact VP model are those of the exact flow; in its own clock not."""
    x = normal(6, 2)
    flow, vp = (bend(mixture(path), x, own_clock=False, num_steps=300) for path in (FLOW, PATHS["vp"]()))
    torch.testing.assert_close(flow, vp, rtol=0.06, atol=1e-3)
    own = bend(mixture(PATHS["vp"]()), x, own_clock=True, num_steps=300)
    assert float((own - vp).abs().mean()) > 0.2


def test_repeats_of_an_ode_do_not_spread_and_those_of_an_sde_do() -> None:
    x, times = normal(6, 2, dtype=torch.float32), grid_times(mixture(FLOW), "uniform", 8)
    ode = repeats(mixture(FLOW), x, times, sampler="ddim", num=3, options={})
    sde = repeats(mixture(FLOW), x, times, sampler="sde", num=3, options={})
    assert relative_spread(ode) == (0.0, 0.0)
    assert relative_spread(sde)[0] > 0.1
    again = repeats(mixture(FLOW), x, times, sampler="sde", num=3, options={})
    assert torch.equal(sde, again)


def test_repeats_that_ignore_their_noise_spread_as_far_as_different_noises() -> None:
    value, error = relative_spread(normal(40, 50, 3))
    assert value == pytest.approx(1, abs=4 * error + 0.02)


@pytest.mark.parametrize("path", [FLOW, VP, PATHS["cosine"]()], ids=["flow", "vp_discrete", "cosine"])
@pytest.mark.parametrize("level", [-4.0, 0.0, 3.0])
def test_the_losses_are_the_same_up_to_their_weight(path: Any, level: float) -> None:
    found = ratios(mixture(path), normal(16, 2, seed=5), level)
    assert max(found.values()) < 1e-9


def test_a_wrong_weight_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from ebbflow.studies.claims import identities

    monkeypatch.setitem(identities.PREDICTIONS, "velocity", identities.PREDICTIONS["v"])
    assert max(ratios(mixture(FLOW), normal(16, 2, seed=5), 2.0).values()) > 0.1


def test_the_weight_of_an_objective_is_that_of_the_table() -> None:
    """Uniform t on the flow path, velocity loss: w(L) = 2 (1/(1-t)^2) t (1-t) / 2 = t / (1 - t) = e^{-L/2}."""
    levels = (-3.0, 0.0, 2.0)
    found = eps_weight(Objective(FLOW, prediction="velocity", times="uniform"), levels)
    assert found == pytest.approx([math.exp(-level / 2) for level in levels])
    cosine = eps_weight(Objective(PATHS["cosine"](), prediction="v", times="uniform", weight="snr"), levels)
    assert cosine == pytest.approx([1 / math.cosh(level / 2) for level in levels])


def test_two_sample_test_agrees_with_scipy() -> None:
    x, y = normal(900, seed=1), 1.1 * normal(700, seed=2) + 0.05
    wanted = stats.ks_2samp(x.numpy(), y.numpy(), method="asymp")
    distance, p = kolmogorov(x, y)
    assert distance == pytest.approx(wanted.statistic, abs=1e-12)
    assert p == pytest.approx(wanted.pvalue, abs=0.02)
    assert kolmogorov(x, x) == (0.0, 1.0)


@pytest.mark.parametrize("path", [VP, FLOW], ids=["vp_discrete", "flow"])
def test_noising_step_by_step_is_noising_in_one_go(path: Any) -> None:
    rows, chain, once = compare(path, normal(60, 40, seed=4), 50)
    assert all(abs(row["mean z"]) < 4 and abs(row["variance z"]) < 4 for row in rows)
    assert kolmogorov(chain, once)[1] > 1e-3
    assert abs(scores(1.1 * chain)["variance z"]) > 4


def test_the_toy_subtracts_the_noise_at_every_time() -> None:
    oracle, x = Gaussian(0.0, 1.0, FLOW), normal(3, 2)
    times = torch.tensor([1.0, 0.5, 0.0], dtype=F64)
    *_, step = toy(oracle, x, times)
    once = x - oracle(x, 1.0).eps
    assert torch.equal(step.x, once - oracle(once, 0.5).eps)


def code_lines(function: Any) -> int:
    """Lines of a function that hold code: no docstring, comments or blank lines."""
    text = textwrap.dedent(inspect.getsource(function))
    (node,) = ast.parse(text).body
    assert isinstance(node, ast.FunctionDef)
    lines = set(range(1, len(text.splitlines()) + 1))
    said = node.body[0]
    if isinstance(said, ast.Expr) and isinstance(said.value, ast.Constant):
        lines -= set(range(said.lineno, (said.end_lineno or said.lineno) + 1))
    body = text.splitlines()
    return sum(1 for i in lines if body[i - 1].strip() and not body[i - 1].strip().startswith(("#", "@")))


def test_code_lines_leave_docstrings_and_comments_out() -> None:
    assert code_lines(sample_function) == 3


def test_the_lines_of_samplers_that_a_claim_quotes_are_those_of_the_code() -> None:
    assert {name: code_lines(SAMPLERS[name].run) for name in CODE_LINES} == CODE_LINES


def sample_function(x: int) -> int:
    """Two
    lines."""
    # a comment

    y = x + 1
    return y


def test_class_spread_is_the_mean_trace() -> None:
    x, labels = normal(40, 3), torch.arange(40) % 2
    wanted = sum(float(torch.cov(x[labels == k].T).trace()) for k in (0, 1)) / 2
    assert class_spread(x, labels) == pytest.approx(wanted)


def test_small_helpers() -> None:
    assert distances(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 5.0])) == (3.0, math.sqrt(4.5))
    assert clearly((1.0, 0.6)) == 0 and clearly((1.0, 0.4)) == 1 and clearly((-1.0, 0.4)) == -1
    assert mean_and_error(torch.tensor([1.0, 3.0])) == (2.0, pytest.approx(1.0))
    assert listed([]) == "none" and listed([1]) == "1" and listed([1, 2, 3]) == "1, 2 and 3"
    assert timing([1.0, 2.0, 9.0])[0] == 2.0


@pytest.mark.parametrize(
    "measured",
    [
        lambda x: mean_and_error(x[:, 0])[0],
        lambda x: distances(x, x + 1)[0],
        lambda x: relative_spread(torch.stack([x, x + 1]))[0],
        lambda x: ratios(on_device(), x, 0.0)["by eps"],
        lambda x: bend(on_device(), x, own_clock=False, num_steps=4).mean(),
    ],
)
def test_measurements_work_where_there_is_no_float64(measured: Any) -> None:
    x = normal(6, 2, dtype=torch.float32)
    assert float(measured(x.as_subclass(OnDevice))) == pytest.approx(float(measured(x)), rel=1e-4, abs=1e-5)


# -- verdicts ----------------------------------------------------------------------------------------------------------

SURE, UNSURE = 0.1, 10.0


@pytest.mark.parametrize(
    ("gaps", "verdict"),
    [
        ({50: (-1.0, SURE), 1000: (1.0, SURE)}, "supported"),
        ({50: (1.0, SURE), 1000: (1.0, SURE)}, "refuted"),
        ({50: (-1.0, SURE), 1000: (-1.0, SURE)}, "refuted"),
        ({50: (-1.0, SURE), 1000: (1.0, UNSURE)}, "depends"),
        ({50: (-1.0, SURE)}, "depends"),
    ],
)
def test_the_threshold_is_judged_on_clear_differences_only(gaps: Any, verdict: str) -> None:
    assert threshold_verdict(gaps)[0] == verdict


def test_straightness_wants_one_step_to_be_enough() -> None:
    bends = {"flow": [torch.tensor([0.1, 0.1])] * 2, "diffusion": [torch.tensor([0.5, 0.6])] * 2}
    better = dict.fromkeys((1, 2, 4, 8), (-1.0, SURE))
    assert straight_verdict(bends, better, (0.0, SURE))[0] == "supported"
    assert straight_verdict(bends, better, (5.0, SURE))[0] == "depends"
    worse = dict.fromkeys((1, 2, 4, 8), (1.0, SURE))
    bent = {"flow": bends["diffusion"], "diffusion": bends["flow"]}
    assert straight_verdict(bent, worse, (5.0, SURE))[0] == "refuted"


def test_guidance_is_judged_by_accuracy_and_by_where_it_is_best() -> None:
    def row(accuracy: float, frechet: float) -> dict[str, Any]:
        return {"label accuracy": (accuracy, 0.01), "Frechet": (frechet, 1.0), "spread within a class": (1.0, 0.1)}

    assert guidance_verdict({1.0: row(0.8, 5), 7.5: row(0.9, 3)})[0] == "supported"
    assert guidance_verdict({1.0: row(0.8, 3), 7.5: row(0.9, 5)})[0] == "depends"
    assert guidance_verdict({1.0: row(0.8, 3), 7.5: row(0.8, 5)})[0] == "refuted"


def test_a_toy_whose_classes_can_be_told_is_no_mess() -> None:
    real = {"Frechet": (1.0, 0.1), "label accuracy": (0.9, 0.01), "recall": (0.9, 0.01)}
    toy = real | {"Frechet": (20.0, 0.1), "recall": (0.1, 0.01)}
    assert toy_verdict(toy, real, (19.0, 0.1))[0] == "depends"
    assert toy_verdict(toy | {"label accuracy": (0.1, 0.01)}, real, (19.0, 0.1))[0] == "supported"
    assert toy_verdict(toy, real, (0.1, 0.1))[0] == "refuted"


def test_two_different_runs_of_one_sampling_refute_determinism() -> None:
    rows = [{"changed": "nothing", "largest difference": 1e-7}, {"changed": "batches of 5", "largest difference": 0.0}]
    assert same_verdict(rows)[0] == "refuted"
    assert same_verdict([rows[0] | {"largest difference": 0.0}, rows[1]])[0] == "supported"


# -- every claim on exact models ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_runs_on_exact_models_and_on_points(name: str, trial: Trial) -> None:
    finding = finish(CLAIMS[name].measure(trial))
    assert finding.verdict in ("supported", "refuted", "depends")
    assert all(sentence[0].isupper() and sentence[-1] == "." for sentence in finding.because)
    assert finding.tables and all(table.rows for table in finding.tables)


def test_exact_models_give_the_verdicts_that_theory_gives(trial: Trial) -> None:
    assert finish(CLAIMS["deterministic"].measure(trial)).verdict == "depends"
    assert finish(CLAIMS["diversity"].measure(trial)).verdict == "supported"
    assert finish(CLAIMS["one_go"].measure(trial)).verdict == "supported"


def test_models_without_labels_cannot_be_guided(trial: Trial) -> None:
    assert finish(CLAIMS["guidance"].measure(replace(trial, labels=None))).verdict == "not measured"


def test_samples_are_made_once_and_do_not_depend_on_the_batch_size(trial: Trial) -> None:
    recipe = Recipe(sampler="ddpm", num_steps=3)
    one = finish(trial.samples(trial.diffusion, recipe))
    assert finish(trial.samples(trial.diffusion, recipe)) is one
    other = finish(replace(trial, batch_size=7, made={}).samples(trial.diffusion, recipe))
    torch.testing.assert_close(one.features, other.features, rtol=1e-5, atol=1e-5)


def test_errors_of_distances_are_those_of_repeated_measurements(trial: Trial) -> None:
    """The jackknife of a gap of paired samples is smaller than that of its parts taken apart."""
    a = finish(trial.samples(trial.flow, Recipe(sampler="ddim", num_steps=2)))
    b = finish(trial.samples(trial.flow, Recipe(sampler="ddim", num_steps=3)))
    gap, error = trial.frechet_gap(a, b)
    (fa, ea), (fb, eb) = trial.frechet(a), trial.frechet(b)
    assert gap == pytest.approx(fa - fb) and 0 < error < math.hypot(ea, eb) * 1.5
    assert trial.frechet_gap(a, a) == (0.0, 0.0)


def test_non_finite_samples_are_refused(trial: Trial) -> None:
    with pytest.raises(FloatingPointError, match="not finite"):
        trial.shown(torch.tensor([[math.nan, 0.0]]))


def test_reconstruction_gets_better_with_steps(trial: Trial) -> None:
    found = [psnr(there_and_back(trial, trial.flow, trial.x0[:8], n, "ddim"), trial.x0[:8]).mean() for n in (5, 80)]
    assert found[1] > found[0] + 10


def test_the_race_to_equal_quality(trial: Trial) -> None:
    costs = costs_of(trial)
    assert costs == [2, 5, 20]
    made = {}
    for one in trial.sides:
        for sampler in (one.ode, one.sde):
            for num in costs:
                made[one.name, sampler, num] = finish(trial.samples(one, Recipe(sampler=sampler, num_steps=num)))
    race, level = to_quality(trial, made, costs)
    assert set(race) == {("flow", "ddim"), ("flow", "sde"), ("diffusion", "ddim"), ("diffusion", "ddpm")}
    for (name, sampler), num in race.items():
        assert num is None or trial.frechet(made[name, sampler, num])[0] <= level


def test_a_deterministic_end_is_the_same_twice(trial: Trial) -> None:
    x, times = trial.start(trial.flow, 4, 5)
    assert torch.equal(ended(trial.flow.denoiser, x, times, "ddim"), ended(trial.flow.denoiser, x, times, "ddim"))


# -- the page ----------------------------------------------------------------------------------------------------------


def said() -> dict[str, dict[str, Any]]:
    return {name: {"statement": c.statement, "place": c.place, "asked": c.asked} for name, c in CLAIMS.items()}


def test_numbers_and_tables_in_markdown() -> None:
    assert entry((1.23456, 0.0789)) == "1.23 +- 0.079" and entry(0.5) == "0.5" and entry("a") == "a"
    table = {"title": "Numbers", "rows": [{"a": 1, "b": "x|y"}]}
    record = {"verdict": "depends", "because": ["So."], "tables": [table], "pictures": ["toy.png"], "seconds": 1.6}
    text = page({"command": "", "notes": []}, {"toy": said()["toy"] | record}, "images")
    assert "Numbers:\n\n| a | b |\n| --- | --- |\n| 1 | x&#124;y |\n\n![toy, picture 1](images/toy.png)\n\n`ebb" in text
    assert "**depends**.\n\n- So.\n\nNumbers" in text and "2 s." in text


def test_a_page_names_what_is_still_to_be_measured() -> None:
    text = page({"command": "ebbflow claims", "notes": ["A remark."], "data": "digits"}, said(), "images/claims")
    assert text.count("still to be measured") == 2 * len(CLAIMS) and "A remark." in text and "| data | digits |" in text


def test_what_users_name_begins_no_tag() -> None:
    text = page({"command": "", "notes": ["On '<script>'."], "flow run": "<script>|</script>"}, said(), "images")
    assert "<script" not in text and "&#60;script&#62;&#124;&#60;/script&#62;" in text


def test_the_page_of_the_documentation_is_what_was_measured() -> None:
    docs = Path(__file__).parent.parent / "docs"
    kept = json.loads((docs / "claims.json").read_text(encoding="utf-8"))
    found = {name: one | kept["claims"].get(name, {}) for name, one in said().items()}
    assert page(kept["settings"], found, "images/claims") == (docs / "claims.md").read_text(encoding="utf-8")


def test_every_claim_says_what_and_where() -> None:
    for claim in CLAIMS.values():
        assert claim.statement.endswith(".") and claim.asked.endswith(".") and claim.place[0] == "S"
        assert claim.measure.__doc__
    assert claims_base.CONFIDENT == 2


# -- from the command line ---------------------------------------------------------------------------------------------

TINY = ["net.channels=[8,16]", "net.clock_dim=16", "train.sample_every=0", "train.batch_size=16"]
DIFFUSION = ["path.kind=vp_discrete", "objective.prediction=eps", "objective.times=discrete"]


def trained(folder: Path, *settings: str) -> Path:
    flags = [part for setting in (*TINY, *settings) for part in ("--set", setting)]
    assert run_app(["train", "--preset", "digits", "--max-steps", "2", "--save-dir", str(folder), *flags]) == 0
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("pair")
    return trained(root / "diffusion", *DIFFUSION), trained(root / "flow")


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EBBFLOW_CACHE", str(tmp_path_factory.getbasetemp() / "claims_cache"))
    monkeypatch.setattr(LearnerSettings.__init__, "__kwdefaults__", QUICK)


def flags(pair: tuple[Path, Path], output: Path, *more: str) -> list[str]:
    names = ["--diffusion", str(pair[0]), "--flow", str(pair[1]), "--output", str(output)]
    return ["claims", *names, "--num", "20", "--few", "4", "--steps", "2,3", *more]


def test_it_writes_a_page_and_goes_on(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "docs" / "claims.md"
    assert run_app(flags(pair, output, "--only", "steps,one_go", "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["claims"]) == {"steps", "one_go"} and found["page"] == str(output)
    text = output.read_text()
    assert "images/claims/steps.png" in text and (tmp_path / "docs/images/claims/steps_samples.png").is_file()
    assert str(tmp_path) not in text.split("The same again")[0]
    monkeypatch.setitem(CLAIMS, "steps", replace(CLAIMS["steps"], measure=fails))
    assert run_app(flags(pair, output, "--only", "steps,toy")) == 0
    kept = json.loads(output.with_suffix(".json").read_text())
    assert list(kept["claims"]) == ["steps", "one_go", "toy"]
    assert "toy" in capsys.readouterr().out
    assert run_app([*flags(pair, output, "--only", "steps"), "--seed", "5"]) == 70
    assert "asked again" in capsys.readouterr().err


def fails(trial: Trial) -> Generator[Any, None, Any]:
    raise AssertionError("asked again")
    yield


def test_what_was_done_before_an_interruption_is_kept(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(trial: Trial) -> Generator[Any, None, Any]:
        yield Stage("toy", 0, 1)
        raise KeyboardInterrupt

    output = tmp_path / "claims.md"
    monkeypatch.setitem(CLAIMS, "toy", replace(CLAIMS["toy"], measure=stopped))
    assert run_app(flags(pair, output, "--only", "one_go,toy")) == 130
    assert "goes on after the last finished claim" in capsys.readouterr().err
    assert list(json.loads(output.with_suffix(".json").read_text())["claims"]) == ["one_go"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--only", "stepz"], "unknown claim 'stepz'. Did you mean 'steps'?"),
        (["--output", "claims.html"], "--output wants a file ending in .md"),
        (["--steps", "a,b"], "each entry must be a whole number"),
        (["--steps", "0,5"], "each entry must be in"),
        (["--precision", "fp8"], "--precision must be fp32, bf16 or auto"),
        (["--num", "5", "--features", "classifier"], "5 samples are too few"),
    ],
)
def test_bad_flags(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert run_app([*flags(pair, tmp_path / "claims.md"), *more]) == 2
    assert message in capsys.readouterr().err


def test_runs_that_are_no_pair(pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, (diffusion, flow) = tmp_path / "claims.md", pair
    bare = trained(tmp_path / "bare", "conditioning.kind=none")
    for (one, two), message in {
        (flow, flow): "is a run on path 'flow', and a variance-preserving one is wanted",
        (diffusion, diffusion): "is a run on path 'vp_discrete', and one on path 'flow' is wanted",
        (diffusion, bare): "one run takes a label and the other does not",
        (diffusion, tmp_path / "nothing"): "does not exist",
    }.items():
        assert run_app(flags((one, two), output)) == 2
        assert message in capsys.readouterr().err
    assert not output.exists()


def test_runs_on_different_data(pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    points = tmp_path / "moons"
    moons = ["data.name=moons", "net.kind=mlp", "conditioning.kind=none", "train.sample_every=0"]
    settings = [part for setting in moons for part in ("--set", setting)]
    assert run_app(["train", "--max-steps", "2", "--save-dir", str(points), *settings]) == 0
    assert run_app(flags((pair[0], points), tmp_path / "claims.md")) == 2
    assert "the runs were trained on different data" in capsys.readouterr().err


def test_runs_of_unequal_budget_are_named(pair: tuple[Path, Path], tmp_path: Path) -> None:
    larger = trained(tmp_path / "larger", "net.channels=[8,24]")
    output = tmp_path / "claims.md"
    assert run_app(flags((pair[0], larger), output, "--only", "one_go")) == 0
    assert "The two models differ in more than path and loss: net:" in output.read_text()
