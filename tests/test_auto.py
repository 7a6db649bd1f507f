"""Laws of sampler auto: what it stands for was measured, exists, costs what was asked, and is said and kept."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path as File
from typing import Any

import pytest
import torch
from conftest import F64, PATH_CASES, mixture
from PIL import Image
from torch import Tensor

from ebbflow.cli.app import run_app
from ebbflow.cli.common import this_command
from ebbflow.conditioning import DataFacts
from ebbflow.config import SampleConfig, parse, to_dict
from ebbflow.core.paths import PATHS, Flow, Path
from ebbflow.core.predictions import path_name
from ebbflow.core.times import TIME_GRIDS
from ebbflow.errors import ConfigError
from ebbflow.methods.oracles import Gaussian
from ebbflow.methods.samplers import SAMPLERS
from ebbflow.methods.samplers.best import MEASURED, ON_EVERY_PATH, best_for, most_steps
from ebbflow.requests.sampling import EditRequest, SampleRequest
from ebbflow.runs.build import build_denoiser
from ebbflow.runs.edit import edit_plan
from ebbflow.runs.model import Model
from ebbflow.runs.plan import default_plan, plan_of
from ebbflow.training.engine import pick_precision

BENCHMARKS = File(__file__).parents[1] / "benchmarks"


def model_on(path: Path, **sample: Any) -> Model:
    facts = DataFacts(dims=(1, 4, 4), is_image=True)
    return Model(denoiser=Gaussian(0.2, 0.4, path), facts=facts, defaults=SampleConfig(**sample))


@pytest.mark.parametrize("evaluations", [1, 2, 5, 9, 20, 100])
@pytest.mark.parametrize("path", PATH_CASES.values(), ids=PATH_CASES)
def test_it_resolves_to_registered_names_within_the_evaluations(path: Path, evaluations: int) -> None:
    best = best_for(path, evaluations, SAMPLERS)
    assert best.sampler in SAMPLERS and best.grid in TIME_GRIDS
    cost = SAMPLERS[best.sampler].evaluations(best.num_steps)
    assert cost is not None and cost <= evaluations < (
        SAMPLERS[best.sampler].evaluations(best.num_steps + 1) or math.inf
    )
    assert path_name(path) in best.reason and ("was not measured" in best.reason) == (path_name(path) not in MEASURED)
    plan = plan_of(model_on(path), SampleRequest(sampler="auto", steps=evaluations, num=2))
    assert (plan.sampler, plan.grid, plan.num_steps) == (best.sampler, best.grid, best.num_steps)
    assert plan.chosen == best.reason


@pytest.mark.parametrize("path", PATHS)
def test_samples_are_made_on_every_path(path: str) -> None:
    made = model_on(PATHS[path]()).sample(sampler="auto", steps=6, num=3)
    assert bool(made.x.isfinite().all())


@pytest.mark.parametrize("sampler", sorted({sampler for sampler, _ in ON_EVERY_PATH.values()} | {"dpmpp_2m"}))
def test_what_holds_on_every_path_steps_alike_on_every_path(sampler: str) -> None:
    """At equal log-SNR the normalised states of all paths are the same after each step."""
    log_snrs, start = torch.linspace(-5, 5, 9, dtype=F64), torch.linspace(-2, 2, 9, dtype=F64)[:, None]
    states: dict[str, list[Tensor]] = {}
    for name in ("flow", "cosine", "vp", "ve"):
        path = PATHS[name]()
        times = path.time_of(log_snrs)
        sizes = [float(torch.sqrt(c.alpha**2 + c.sigma**2)) for c in path.at_each(times.tolist())]
        steps = SAMPLERS[sampler](mixture(path), sizes[0] * start, times)
        states[name] = [step.x / size for step, size in zip(steps, sizes[1:], strict=True)]
    for name, found in states.items():
        for here, there in zip(found, states["flow"], strict=True):
            torch.testing.assert_close(here, there, rtol=1e-7, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}")


def test_grids_of_what_holds_on_every_path_lie_alike_on_every_path() -> None:
    """Inside the noise levels that two paths share they visit the same ones."""
    for _, grid in ON_EVERY_PATH.values():
        log_snrs = [path.log_snr(TIME_GRIDS[grid](path, 10)[1:-1]) for path in (PATHS["flow"](), PATHS["cosine"]())]
        torch.testing.assert_close(log_snrs[1], log_snrs[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [n for n, s in SAMPLERS.items() if s.cost is not None])
def test_most_steps(name: str) -> None:
    for evaluations in range(1, 30):
        num_steps, cost = most_steps(SAMPLERS[name], evaluations), SAMPLERS[name].evaluations
        assert num_steps == 1 or (cost(num_steps) or 0) <= evaluations
        assert (cost(num_steps + 1) or 0) > evaluations


def test_without_steps_it_costs_what_the_model_costs() -> None:
    for sample, evaluations in (
        ({"sampler": "heun", "num_steps": 8}, 15),
        ({"sampler": "ddim", "num_steps": 8}, 8),
        ({"sampler": "auto", "num_steps": 8}, 8),
        ({"sampler": "dopri5"}, 20),
    ):
        plan = plan_of(model_on(Flow(), **sample), SampleRequest(sampler="auto", num=2))
        assert plan.chosen == best_for(Flow(), evaluations, SAMPLERS).reason


def test_a_run_may_say_auto() -> None:
    model = model_on(Flow(), sampler="auto", num_steps=12)
    best = best_for(Flow(), 12, SAMPLERS)
    assert default_plan(model, seeds=[0]).chosen == plan_of(model, SampleRequest(num=2)).chosen == best.reason
    assert plan_of(model, SampleRequest(num=2, steps=5)).chosen == best_for(Flow(), 5, SAMPLERS).reason
    named = plan_of(model, SampleRequest(num=2, sampler="heun", steps=3, grid="karras"))
    assert (named.sampler, named.num_steps, named.grid, named.chosen) == ("heun", 3, "karras", "")
    assert edit_plan(model, EditRequest(num=2)).sampler == best.sampler
    section = to_dict(parse({"sample": {"sampler": "auto"}}))["sample"]
    assert section["sampler"] == "auto" and parse({"sample": section}).sample.sampler == "auto"


@pytest.mark.parametrize(
    "more", [{"grid": "karras"}, {"options": {"eta": 0.5}}, {"grid": "karras", "options": {"grid.rho": 3}}]
)
def test_it_takes_no_grid_and_no_options(more: dict[str, Any]) -> None:
    for model, sampler in ((model_on(Flow()), "auto"), (model_on(Flow(), sampler="auto"), None)):
        with pytest.raises(ConfigError, match="sampler auto chooses the grid too, and takes no options"):
            plan_of(model, SampleRequest(sampler=sampler, num=2, **more))
    with pytest.raises(ConfigError, match="sampler auto chooses the grid too, and takes no options"):
        SampleConfig(sampler="auto", **({"grid": "karras"} if "grid" in more else more))


def test_the_choices_are_those_of_the_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import best_sampler

    rows = best_sampler.kept(best_sampler.STORE)
    assert best_sampler.choices(rows) == {"MEASURED": MEASURED, "ON_EVERY_PATH": ON_EVERY_PATH}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("sample --ckpt r --sampler auto --steps 10 --output a.png", "sample --ckpt r --output a.png"),
        ("sample --sampler=auto --ckpt r --output a.png", "sample --ckpt r --output a.png"),
        ("sample --ckpt r --output a.png", "sample --ckpt r --output a.png"),
    ],
)
def test_the_command_in_a_picture_names_what_was_chosen(
    given: str, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["ebbflow", *given.split()])
    command = this_command({"--sampler": "heun", "--steps": "5", "--grid": "karras"})
    assert command == f"ebbflow {wanted} --sampler heun --steps 5 --grid karras"
    assert this_command() == f"ebbflow {given}"


def test_the_command_line_says_what_was_chosen(
    tmp_path: File, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = "--set train.sample_every=0 --set train.held_out_every=0 --set net.channels=[8] --set net.num_heads=2 --device cpu"
    run, picture = tmp_path / "run", tmp_path / "a.png"
    assert run_app(["train", "--max-steps", "1", "--batch-size", "8", "--save-dir", str(run), *quick.split()]) == 0
    capsys.readouterr()
    arguments = [
        "sample",
        "--ckpt",
        str(run),
        "--sampler",
        "auto",
        "--steps",
        "5",
        "--label",
        "1",
        "--output",
        str(picture),
    ]
    monkeypatch.setattr(sys, "argv", ["ebbflow", *arguments])
    assert run_app(arguments) == 0
    best = best_for(Flow(), 5, SAMPLERS)
    assert f"sampler auto: {best.reason}" in capsys.readouterr().out
    command = Image.open(picture).text["ebbflow"].split()
    again = tmp_path / "b.png"
    remade = [one if one != str(picture) else str(again) for one in command[1:]]
    assert "auto" not in remade and run_app(remade) == 0
    assert Image.open(again).tobytes() == Image.open(picture).tobytes()
    capsys.readouterr()
    assert run_app([*arguments, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["sampler"], said["grid"], said["num_steps"]) == (best.sampler, best.grid, best.num_steps)
    assert said["chosen"] == best.reason


# -- the net's precision ------------------------------------------------------------------------------------------------


def small_net() -> Model:
    """A U-Net that was not trained, whose answers still depend on all of its weights."""
    facts = DataFacts(dims=(1, 8, 8), is_image=True)
    denoiser = build_denoiser(parse({"net": {"channels": [8, 8]}, "conditioning": {"kind": "none"}}), facts)
    with torch.no_grad():
        for weight in denoiser.net.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())))
    denoiser.net.requires_grad_(False)
    return Model(denoiser=denoiser, facts=facts)


def test_a_net_in_bfloat16_makes_nearly_the_same_and_stays_as_it_was() -> None:
    model = small_net()
    plain, half = (model.sample(num=5, steps=6, precision=precision).x for precision in ("fp32", "bf16"))
    assert half.dtype == torch.float32 and not torch.equal(plain, half)
    assert float((plain - half).square().mean().sqrt()) < 0.02 * float(plain.std())
    assert {weight.dtype for weight in model.denoiser.net.parameters()} == {torch.float32}
    assert torch.equal(model.sample(num=5, steps=6, batch_size=2, precision="bf16").x, half)
    wanted = half if pick_precision("auto", torch.device("cpu")) == torch.bfloat16 else plain
    assert torch.equal(model.sample(num=5, steps=6, precision="auto").x, wanted)


def test_no_net_no_precision() -> None:
    model = model_on(Flow())
    assert torch.equal(model.sample(num=2, precision="bf16").x, model.sample(num=2).x)
