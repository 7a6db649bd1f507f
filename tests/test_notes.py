"""The page that leads from the notes to the commands: what it names exists, and what it corrects is correct."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import math
import re
import shlex
from functools import cache
from itertools import pairwise
from pathlib import Path
from unittest import mock

import click
import numpy as np
import pytest
import torch

import ebbflow
from ebbflow import Noise, oracles
from ebbflow.cli.app import _hyphened, app
from ebbflow.cli.command import RequestCommand
from ebbflow.cli.train import flags_of
from ebbflow.config import merge, parse, presets, read_preset, read_settings
from ebbflow.core.kernels import ddpm_factors, posterior
from ebbflow.core.paths import PATHS, Cosine, CosineDiscrete, Flow, LinearVariance, VPDiscrete
from ebbflow.core.paths import Path as NoisePath
from ebbflow.core.predictions import Estimate
from ebbflow.core.times import TIME_GRIDS
from ebbflow.core.weights import WEIGHTS, loss_weight
from ebbflow.methods.guidance.branches import combine
from ebbflow.methods.samplers import SAMPLERS
from ebbflow.requests.training import TrainRequest

ROOT = Path(__file__).parents[1]
SOURCE = Path(ebbflow.__file__).parent
PAGES = ("notes.md", "recipes.md", "reliability.md")
F64 = torch.float64
ROWS = [
    "P1",
    "P2",
    "P3",
    "P4",
    "P5",
    "P6",
    "B1",
    "B2",
    "B3",
    "B4",
    "B5",
    "L1",
    "L2",
    "L3",
    "L4",
    "L5",
    "L6",
    "L7",
    "L8",
    "L9",
    "V1",
    "V2",
    "M1",
    "M2",
    "M3",
    "M4",
    "M5",
    "M6",
    "M7",
    "M8",
    "G1",
    "G2",
    "G3",
    "G4",
    "G5",
    "G6",
    "A1",
    "A2",
    "A3",
    "A4",
    "A5",
    "A6",
    "D1",
    "D2",
    "C1",
    "C2",
    "C3",
    "C4",
    "C5",
    "C6",
    "C7",
    "R1",
    "R2",
    "R3",
]


def cells(page: str) -> list[list[str]]:
    """The rows of all tables of a page, as cells."""
    lines = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    return [[c.strip() for c in line.strip("|").split("|")] for line in lines if line.startswith("|")]


def quoted(pattern: str, pages: tuple[str, ...] = PAGES) -> list[str]:
    """What stands between backticks in the tables and matches, each once."""
    found = [
        text
        for page in pages
        if (ROOT / "docs" / page).is_file()
        for row in cells(page)
        for cell in row
        for text in re.findall(r"`([^`]+)`", cell)
    ]
    return sorted({text for text in found if re.fullmatch(pattern, text)})


NAMES = quoted(r"[\w/]+\.py::[\w.]+")
COMMANDS = quoted(r"ebbflow .*")


def test_every_row_and_every_error_has_its_line() -> None:
    ids = [row[0] for row in cells("notes.md")]
    assert [i for i in ids if i in ROWS] == ROWS
    assert [i for i in ids if re.fullmatch(r"E\d+", i)] == [f"E{n}" for n in range(1, 53)]
    for row in cells("notes.md"):
        assert len(row) in (5, 6), row
        if row[0] in ROWS:
            assert row[2].startswith("`ebbflow ") and "::" in row[3] and "::" in row[4], f"{row[0]} is not complete"


@cache
def names_of(path: Path) -> set[str]:
    """What a file defines at its top."""
    defined = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        defined |= {t.id for t in targets if isinstance(t, ast.Name)} | {getattr(node, "name", "")}
    return defined


@pytest.mark.parametrize("name", NAMES)
def test_every_symbol_and_test_exists(name: str) -> None:
    file, _, symbol = name.partition("::")
    first, *rest = symbol.split(".")
    if Path(file).name.startswith("test_"):
        assert first in names_of(ROOT / "tests" / file), f"{name} does not exist"
        return
    path = SOURCE / file
    assert first in names_of(path), f"{name} does not exist"
    module = ".".join(["ebbflow", *Path(file).with_suffix("").parts]).removesuffix(".__init__")
    found = getattr(importlib.import_module(module), first)
    for part in rest:
        found = getattr(found, part)
    assert found is not None


def is_one_of(value: object, known: object, what: str) -> None:
    assert value is None or value in known, f"{what} {value!r} does not exist"  # type: ignore[operator]


@pytest.mark.parametrize("text", COMMANDS)
def test_every_command_is_one(text: str) -> None:
    """The verb exists, its flags parse, and presets, settings, samplers and grids are known."""
    command, (_, *arguments) = app, shlex.split(text)
    while isinstance(command, click.Group):
        command = command.get_command(click.Context(command), arguments.pop(0))
    assert isinstance(command, RequestCommand)
    request = command.read([_hyphened(a) for a in arguments])
    if isinstance(request, TrainRequest):
        is_one_of(request.preset, presets(), "preset")
        settings = read_settings(request.settings)
        parse(merge(read_preset(request.preset or "digits"), settings, flags_of(request)))
        return
    given = vars(request)
    is_one_of(given.get("sampler"), SAMPLERS, "sampler")
    is_one_of(given.get("grid"), TIME_GRIDS, "grid")
    if given.get("sampler"):
        assert set(given.get("options") or ()) <= set(SAMPLERS[given["sampler"]].options)


def previous(path: VPDiscrete, i: int) -> float:
    """alpha-bar of the entry before entry i = 1..T."""
    return 1.0 if i == 1 else float(path.alpha_bars[i - 2])


@pytest.mark.parametrize("i", [2, 10, 500, 1000])
def test_the_factors_are_ddpms(i: int) -> None:
    path = VPDiscrete()
    beta, bar = float(path.betas[i - 1]), float(path.alpha_bars[i - 1])
    t, s = path.at(i / 1000), path.at((i - 1) / 1000)
    small, large = ddpm_factors(t, s), ddpm_factors(t, s, "large")
    assert small.s1 == pytest.approx(1 / math.sqrt(1 - beta), rel=1e-10)
    assert small.s2 == pytest.approx(beta / math.sqrt(1 - bar), rel=1e-9)
    assert small.s3 == pytest.approx(math.sqrt((1 - previous(path, i)) / (1 - bar) * beta), rel=1e-9)
    assert large.s3 == pytest.approx(math.sqrt(beta), rel=1e-9)


@pytest.mark.parametrize("name", [n for n in PATHS if n != "ve"])
@pytest.mark.parametrize(("t", "s"), [(0.97, 0.8), (0.5, 0.49), (0.2, 0.01), (0.3, 0.0)])
def test_the_mean_form_is_the_posterior_form(name: str, t: float, s: float) -> None:
    path = PATHS[name]()
    ct, cs = path.at(t), path.at(s)
    x0, eps = torch.randn(2, 50, dtype=F64, generator=torch.Generator().manual_seed(0))
    x_t, k, f = ct.alpha * x0 + ct.sigma * eps, posterior(ct, cs), ddpm_factors(ct, cs)
    torch.testing.assert_close(f.s1 * (x_t - f.s2 * eps), k.from_x_t * x_t + k.from_x0 * x0, rtol=1e-9, atol=1e-9)
    assert f.s3**2 == pytest.approx(k.small, abs=1e-12)


def test_the_factors_make_the_step_of_the_sampler() -> None:
    path, times = VPDiscrete(), torch.tensor([0.6, 0.55], dtype=F64)
    model = oracles.Gaussian(mean=0.3, std=0.5, path=path)
    x = torch.linspace(-2, 2, 6, dtype=F64).reshape(6, 1)
    step = next(iter(SAMPLERS["ddpm"](model, x, times, noise=Noise(range(6)), variance="large")))
    f, z = ddpm_factors(path.at(0.6), path.at(0.55), "large"), Noise(range(6)).like(x)
    torch.testing.assert_close(step.x, f.s1 * (x - f.s2 * model(x, 0.6).eps) + f.s3 * z)


def test_the_last_step_adds_no_noise() -> None:
    path = VPDiscrete()
    assert ddpm_factors(path.at(0.001), path.at(0.0)).s3 == ddpm_factors(path.at(0.001), path.at(0.0), "large").s3 == 0
    assert posterior(path.at(0.001), path.at(0.0)).small == 0


def test_factors_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="alpha_t = 0"):
        ddpm_factors(Flow().at(1.0), Flow().at(0.5))
    with pytest.raises(ValueError, match="small or large"):
        ddpm_factors(Flow().at(0.9), Flow().at(0.5), "medium")  # type: ignore[arg-type]


def test_the_first_beta_is_one_ten_thousandth() -> None:
    """E2: with the notes' 0.001 the first step's noise has ten times the variance."""
    right, wrong = (float(VPDiscrete(beta_start=b).at(0.001).sigma ** 2) for b in (1e-4, 1e-3))
    assert VPDiscrete().beta_start == 1e-4
    assert right == pytest.approx(1e-4, rel=1e-9) and wrong / right == pytest.approx(10, rel=1e-9)


def test_the_last_beta_is_two_hundredths() -> None:
    """E16, against the product written out."""
    for end, bar in ((0.02, 4.04e-5), (0.002, 0.35)):
        ours = float(VPDiscrete(beta_end=end).at(1.0).alpha ** 2)
        assert ours == pytest.approx(float(np.prod(1 - np.linspace(1e-4, end, 1000))), rel=1e-9)
        assert ours == pytest.approx(bar, rel=0.01)


def test_one_step_of_a_flow_gives_the_mean_of_the_data() -> None:
    """E7: from pure noise the velocity points at the mean; the modes need more steps."""
    model = oracles.GaussianMixture(
        means=torch.tensor([[-1.0], [1.0]]),
        stds=torch.tensor([0.05, 0.05]),
        weights=torch.tensor([0.5, 0.5]),
        path=Flow(),
    )
    x = Noise(range(64)).like(torch.zeros(64, 1, dtype=F64))
    ends = {n: [*SAMPLERS["euler"](model, x, TIME_GRIDS["uniform"](Flow(), n))][-1].x for n in (1, 64)}
    assert ends[1].abs().max() < 1e-6
    assert (ends[64].abs() - 1).abs().max() < 0.25


def test_a_flow_runs_from_noise_to_data_with_falling_t() -> None:
    """E11: adding v with t rising from 0, as the notes do, leaves noise as noise; falling t gives the data's spread."""
    model, steps = oracles.Gaussian(mean=0.0, std=0.1, path=Flow()), 200
    start = torch.tensor([[1.0]], dtype=F64)

    def walk(times: torch.Tensor) -> float:
        x = start
        for t, s in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
            e = model(x, min(max(t, 1e-9), 1.0))
            x = x + (s - t) * (e.eps - e.x0)
        return float(x)

    assert walk(torch.linspace(1, 0, steps + 1, dtype=F64)) == pytest.approx(0.1, rel=0.05)
    assert walk(torch.linspace(0, 1, steps + 1, dtype=F64)) > 1


def test_the_mean_that_is_left_is_the_root_of_alpha_bar() -> None:
    """E18: the chain of one-step scales sqrt(alpha) multiplies up to sqrt(alpha-bar)."""
    path, mean = VPDiscrete(), 1.0
    for beta in path.betas[:300].tolist():
        mean *= math.sqrt(1 - beta)
    assert mean == pytest.approx(float(path.at(0.3).alpha), rel=1e-10)
    assert abs(math.sqrt(1 - float(path.betas[299])) - mean) > 0.3, "a single alpha says something else"


@pytest.mark.parametrize(("power", "keeps"), [(1, True), (2, False)])
def test_noise_is_scaled_by_the_root_of_beta(power: int, keeps: bool) -> None:
    """E30: variance 1 - alpha-bar follows from noise of variance beta, not of standard deviation beta."""
    path, variance = VPDiscrete(), 0.0
    for beta in path.betas.tolist():
        variance = (1 - beta) * variance + beta**power
    assert (abs(variance - float(1 - path.alpha_bars[-1])) < 1e-9) == keeps


@pytest.mark.parametrize("i", [2, 50, 900])
def test_the_posterior_mean_is_bayes_product(i: int) -> None:
    """E31: multiply q(x_t given x_{t-1}) and q(x_{t-1} given x0) as functions of x_{t-1}: precisions add."""
    path = VPDiscrete()
    beta, bar, before = float(path.betas[i - 1]), float(path.alpha_bars[i - 1]), previous(path, i)
    precision = (1 - beta) / beta + 1 / (1 - before)
    k = posterior(path.at(i / 1000), path.at((i - 1) / 1000))
    assert k.from_x0 == pytest.approx(math.sqrt(before) / (1 - before) / precision, rel=1e-8)
    assert k.from_x0 == pytest.approx(math.sqrt(before) * beta / (1 - bar), rel=1e-8)
    assert k.from_x0 != pytest.approx(math.sqrt(bar) * beta / (1 - bar), rel=1e-6), "alpha-bar_t would be wrong"
    assert k.small == pytest.approx(1 / precision, rel=1e-8)


def test_alpha_bar_is_the_product_up_to_t() -> None:
    """E32."""
    path = VPDiscrete()
    for i in (1, 7, 1000):
        assert float(path.alpha_bars[i - 1]) == pytest.approx(
            math.prod(1 - b for b in path.betas[:i].tolist()), rel=1e-9
        )
    assert path.alpha_bars[6] > path.alpha_bars[-1] * 1000


def normal(x: np.ndarray | float, mean: np.ndarray | float, variance: float) -> np.ndarray:
    return np.exp(-((x - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)


def test_the_marginal_integrates_the_step_between() -> None:
    """E33, by quadrature over x1."""
    b1, b2, x0, x2 = 0.1, 0.3, 0.7, 0.4
    x1 = np.linspace(-6, 6, 4001)
    joint = normal(x2, math.sqrt(1 - b2) * x1, b2) * normal(x1, math.sqrt(1 - b1) * x0, b1)
    bar = (1 - b1) * (1 - b2)
    marginal = float(normal(x2, math.sqrt(bar) * x0, 1 - bar))
    assert float(joint.sum() * (x1[1] - x1[0])) == pytest.approx(marginal, rel=1e-9)
    assert abs(joint.max() - marginal) > 0.1, "the joint density at one x1 is another number"


def test_the_root_of_alpha_bar_favours_late_steps() -> None:
    """E35: sampling begins at t = 1."""
    path = VPDiscrete()
    assert path.at(0.99).alpha < 0.01 and path.at(0.01).alpha > 0.99
    assert path.at(0.99).sigma > 0.99 and path.at(0.01).sigma < 0.1


def test_linear_and_cosine_are_both_variance_preserving() -> None:
    """E38: sigma^2 = t is one more of them once alpha is said; with alpha = 1 it would not be."""
    t = torch.linspace(0.05, 1, 20, dtype=F64)
    for path in (VPDiscrete(), CosineDiscrete(), Cosine(), LinearVariance()):
        c = path.at(t)
        torch.testing.assert_close(c.alpha**2 + c.sigma**2, torch.ones_like(t), rtol=0, atol=1e-12)
    torch.testing.assert_close(LinearVariance().at(t).sigma ** 2, t)


def mixture(path: NoisePath) -> oracles.GaussianMixture:
    return oracles.GaussianMixture(
        means=torch.tensor([[-1.0], [0.8]], dtype=F64), stds=torch.tensor([0.3, 0.5], dtype=F64),
        weights=torch.tensor([0.4, 0.6], dtype=F64), path=path,
    )  # fmt: skip


def score_by_autograd(model: oracles.GaussianMixture, x: torch.Tensor, t: float) -> torch.Tensor:
    x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model.log_prob(x, t).sum(), x)
    return slope


@pytest.mark.parametrize("name", [n for n in PATHS if "discrete" not in n])
def test_the_probability_flow_takes_g_and_not_sigma(name: str) -> None:
    """E40, on a mixture, its score by autograd."""
    path, x = PATHS[name](), torch.linspace(-2, 2, 9, dtype=F64).reshape(-1, 1)
    model, c = mixture(path), path.at(0.5)
    e, score = model(x, 0.5), score_by_autograd(mixture(path), x, 0.5)
    velocity, drift = c.alpha_dot * e.x0 + c.sigma_dot * e.eps, c.alpha_dot / c.alpha * x
    squared = 2 * c.sigma * c.determinant / c.alpha
    torch.testing.assert_close(velocity, drift - squared / 2 * score, rtol=1e-9, atol=1e-9)
    assert (velocity - (drift - c.sigma**2 / 2 * score)).abs().max() > 1e-2


def test_the_coefficient_of_x_t_wants_alpha_bar() -> None:
    """E41, at index 900 of 1000, counted from 0 as the notes do."""
    betas = np.linspace(1e-4, 0.02, 1000)
    alphas, bars = 1 - betas, np.cumprod(1 - betas)
    as_written = math.sqrt(alphas[900]) * (1 - alphas[899]) / (1 - bars[900])
    k = posterior(VPDiscrete().at(0.901), VPDiscrete().at(0.900))
    assert k.from_x_t == pytest.approx(0.991, abs=5e-4) and as_written == pytest.approx(0.018, abs=5e-4)


def test_fifty_steps_begin_at_the_end_of_the_table() -> None:
    """E42: index 49 is nearly clean."""
    assert float(VPDiscrete().alpha_bars[49]) == pytest.approx(0.971, abs=5e-4)
    times = TIME_GRIDS["trailing"](VPDiscrete(), 50)
    assert len(times) == 51 and times[0] == 1 and times[-1] == 0
    assert float(VPDiscrete().at(float(times[0])).alpha ** 2) < 1e-4


@pytest.mark.parametrize(("share", "ratio"), [(0.5, 0.999), (0.0, 3.36), (-0.5, 20.3), (1.0, 0.504)])
def test_the_reverse_sde_needs_half_of_g_squared_and_a_plus(share: float, ratio: float) -> None:
    """E43 on Gaussian data of standard deviation 0.5 on the flow path, g^2 = 2 t: the variance of the recursion
    x_s = x + (v - share g^2 score)(s - t) + g sqrt(t - s) z in closed form, against the data's."""
    variance, steps = 1.0, 1000
    for i in range(steps, 0, -1):
        t, h = i / steps, 1 / steps
        total = (0.5 * (1 - t)) ** 2 + t**2
        slope = (t - (1 - t) * 0.25) / total  # v = slope x
        gain = 1 - h * (slope + share * 2 * t / total)
        variance = gain**2 * variance + (2 * t * h if i > 1 else 0)
    assert variance / 0.25 == pytest.approx(ratio, rel=0.02)


def test_snr_on_x0_is_one_on_eps() -> None:
    """E44, and what it would be on eps."""
    c = VPDiscrete().at(torch.tensor([0.001, 0.3, 0.9], dtype=F64))
    torch.testing.assert_close(loss_weight(WEIGHTS["snr"], c, -c.alpha), torch.ones(3, dtype=F64))
    torch.testing.assert_close(loss_weight(WEIGHTS["snr"], c, c.sigma), c.log_snr.exp())
    assert c.log_snr.exp()[0] > 9000


def test_losses_of_the_flow_path_differ_by_functions_of_t() -> None:
    """E45, for any error of a net: its x0 is off by e, so eps is off by -(1 - t) e / t and v by -e / t."""
    e, x0, eps, t = 0.7, 0.2, -1.1, 0.35
    off_x0, off_eps = x0 + e, eps - (1 - t) * e / t
    assert (1 - t) * off_x0 + t * off_eps == pytest.approx((1 - t) * x0 + t * eps), "both agree on x_t"
    velocity = ((off_eps - off_x0) - (eps - x0)) ** 2
    assert velocity == pytest.approx((off_eps - eps) ** 2 / (1 - t) ** 2)
    assert velocity == pytest.approx((off_x0 - x0) ** 2 / t**2)
    c = Flow().at(t)
    assert float(loss_weight(WEIGHTS["snr"], c, -c.determinant)) == pytest.approx((1 - t) ** 2), (
        "the eps loss, weighed in v"
    )


@pytest.mark.parametrize("t", [0.1, 0.5, 0.95])
def test_velocity_and_score_of_the_flow_path(t: float) -> None:
    """E46, on a mixture with the score by autograd; the notes' line is far from it."""
    x = torch.linspace(-2, 2, 9, dtype=F64).reshape(-1, 1)
    model = mixture(Flow())
    e, score = model(x, t), score_by_autograd(model, x, t)
    velocity = e.eps - e.x0
    torch.testing.assert_close(velocity, -(x + t * score) / (1 - t), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(score, -(x + (1 - t) * velocity) / t, rtol=1e-10, atol=1e-10)
    assert (velocity + t**2 * score).abs().max() > 0.05


def test_the_other_convention_of_guidance_is_one_less() -> None:
    """E52: u + w (c - u) = c + (w - 1)(c - u)."""
    u, c = (Estimate(x0=torch.full((1, 2), a), eps=torch.full((1, 2), -a)) for a in (0.25, 1.0))
    assert combine(u, c, 1.0).x0.equal(c.x0) and combine(u, c, 0.0).x0.equal(u.x0)
    torch.testing.assert_close(combine(u, c, 3.0).x0, c.x0 + 2 * (c.x0 - u.x0))


def test_the_reference_page_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert written == module.page(), "run `python docs/make_reference.py`"


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda p: p.name)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([\w./-]+\.md)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda p: p.name)
def test_python_on_a_page_runs(page: Path, tmp_path: Path) -> None:
    """From top to bottom: a snippet may use what those above it made."""
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        if "127.0.0.1:8000" in code:
            continue  # tests/test_server.py runs it against a server
        if "FOLDER_OR_NAME" in code:
            code = code.replace("FOLDER_OR_NAME", str(small_pipeline(tmp_path / "pipeline")))
        with mock.patch.dict(SAMPLERS):  # a page may give an own sampler its name
            exec(compile(code, str(page), "exec"), names)


def small_pipeline(folder: Path) -> Path:
    """A pipeline of text with small random weights."""
    pytest.importorskip("diffusers")
    from test_interop import saved, stable_diffusion

    saved(stable_diffusion, folder)
    return folder


@pytest.mark.parametrize("w", [1.0, 2.0, 3.0])
def test_guided_samples_are_narrower_than_the_tilted_density(w: float) -> None:
    """The example of docs/concepts.md: u of variance 2, c of variance 1; the guided ODE leaves 2^(1 - w), while the
    tilted density has 2 / (w + 1)."""
    path = PATHS["ve"](sigma_min=0.01, sigma_max=300.0)
    u, c = (oracles.Gaussian(mean=0.0, std=math.sqrt(v), path=path) for v in (2.0, 1.0))
    times = torch.linspace(1, 0, 3001, dtype=F64).tolist()
    x = path.at(1.0).sigma * torch.ones(1, 1, dtype=F64)
    for t, s in pairwise(times):
        e = combine(u(x, t), c(x, t), w)
        x = path.mix(e.x0, e.eps, s) if s > 0 else e.x0
    assert float(x) ** 2 == pytest.approx(2 ** (1 - w), rel=0.02)
    assert w == 1 or float(x) ** 2 < 0.8 * 2 / (w + 1)
