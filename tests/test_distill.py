"""From a run to one of few jumps: what a teacher says is learned, pairs are what it makes of noise, and neither is needed
afterwards."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from conftest import F64, normal
from torch import Tensor

import ebbflow as ef
from ebbflow.cli.app import run_app
from ebbflow.config import RunConfig, parse
from ebbflow.core.noise import Noise, derive_seed
from ebbflow.core.paths import Flow
from ebbflow.methods.guidance import classifier_free
from ebbflow.methods.maps import MAPS, MapKind, MapObjective, ODEMap
from ebbflow.methods.maps.kinds import LSD, MeanFlow, Midpoint
from ebbflow.methods.objective import Objective
from ebbflow.methods.oracles import Gaussian, GuidedGaussian
from ebbflow.runs.teacher import FOLDER, PAIRS, Pairs

TINY = ["--set", "net.channels=[8]", "--set", "train.held_out_every=0", "--set", "train.sample_every=0"]
SHORT = ["--batch-size", "8", "--device", "cpu", "--set", "train.warmup_steps=0", "--set", "train.schedule=constant"]


def train(folder: Path, *rest: str, steps: int = 3) -> int:
    return run_app(["train", *TINY, *SHORT, "--max-steps", str(steps), "--save-dir", str(folder), *rest])


def distill(run: Path, into: Path, *rest: str, steps: int = 2) -> int:
    return run_app(["distill", str(run), "--into", str(into), "--max-steps", str(steps), *rest])


def weights(folder: Path) -> dict[str, Tensor]:
    return ef.open(folder, weights="raw").denoiser.net.state_dict()  # type: ignore[attr-defined]


def config_of(folder: Path) -> RunConfig:
    return parse(json.loads((folder / "config.json").read_text())["config"])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "base"
    assert train(folder) == 0
    return folder


@pytest.fixture(scope="module")
def fast(base: Path) -> Path:
    folder = base.with_name("fast")
    assert distill(base, folder, "--guidance", "2") == 0
    return folder


# -- the laws ----------------------------------------------------------------------------------------------------------

TEACHER = GuidedGaussian(0.4, 0.3, 0.8, 2.0, Flow())


class Guided:
    """The exact map of the guided Gaussian with a bias and a slope that should not be wanted."""

    def __init__(self, *off: float) -> None:
        self.off = torch.tensor(off or (0.0, 0.0), dtype=F64, requires_grad=True)

    def output(self, x: Tensor, t: Tensor, cond: None, s: Tensor | None = None) -> Tensor:
        known = TEACHER(x, t) if s is None else TEACHER.jump(x, t, s)
        return known.eps - known.x0 + self.off[0] + self.off[1] * x


@pytest.mark.parametrize("kind", [Midpoint(), LSD(derivative="jvp"), MeanFlow(derivative="jvp")], ids=str)
def test_the_exact_map_of_a_guided_teacher_is_at_its_floor_with_no_slope(kind: MapKind) -> None:
    """The teacher's velocity has no spread, so that the floor is 0; the data is not even of the teacher's law."""
    made = MapObjective(Objective(Flow()), map=kind, teacher=TEACHER)
    x0, eps, drawn = normal(16, 1, seed=1), normal(16, 1, seed=2), made.draw(16, torch.Generator().manual_seed(0))
    slopes = []
    for model in (Guided(), Guided(0.3, 0.1)):
        each, jumps = made.losses_of(model, x0, None, eps, drawn)
        assert int(jumps.sum()) == 8 and (float(each.detach().max()) < 1e-12) == (not model.off.detach().any())
        slopes.append(float(torch.autograd.grad(each.mean(), model.off)[0].abs().max()))
    assert slopes[0] < 1e-5 < 1e-2 < slopes[1]


def test_the_ordinary_loss_of_a_teacher_is_the_distance_from_it() -> None:
    made = MapObjective(Objective(Flow()), teacher=TEACHER)
    x0, eps, t = normal(8, 1, seed=1), normal(8, 1, seed=2), torch.linspace(0.1, 0.9, 8, dtype=F64)
    assert float(made.losses(Guided(), x0, None, eps, t).max()) < 1e-20
    quarter = torch.full((8,), 0.25, dtype=F64)
    torch.testing.assert_close(made.losses(Guided(0.5, 0.0), x0, None, eps, t).detach(), quarter)


def test_on_pairs_of_a_gaussian_the_best_flow_is_straight_and_one_step_is_exact() -> None:
    """Reflow in one dimension: the velocity that pairs of (noise, end of the ODE) teach is fitted by least squares, and
    one Euler step of it is the monotone map."""
    oracle = Gaussian(0.4, 0.3, Flow())
    eps = normal(256, 1, seed=3)
    ends = ODEMap(oracle, rtol=1e-9, atol=1e-9).jump(eps, 1.0, 0.0).x0
    torch.testing.assert_close(ends, 0.4 + 0.3 * eps, rtol=1e-4, atol=1e-4)
    for t in (0.25, 0.5, 1.0):
        x_t = Flow().mix(ends, eps, t)
        terms = torch.cat([torch.ones_like(x_t), x_t], dim=1)
        found = torch.linalg.lstsq(terms, eps - ends).solution
        left = (terms @ found - (eps - ends)).square().mean()
        assert float(left) < 1e-6, "the pairs cross nowhere, so the velocity is known exactly"
    torch.testing.assert_close(eps - (terms @ found), 0.4 + 0.3 * eps, rtol=1e-3, atol=1e-3)


# -- runs --------------------------------------------------------------------------------------------------------------


def test_a_run_is_distilled_sampled_and_its_guidance_is_not_repeated(
    base: Path, fast: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(fast)
    assert (config.teacher.run, config.teacher.guidance) == (str(base), 2.0)
    assert (config.objective.map, config.objective.clock, config.net.gap) == ("midpoint", "log_snr", True)  # type: ignore[attr-defined]
    assert config.sample.sampler == "flow_map" and config.init.run == str(base)
    assert f"It learned from its velocity from {base} at guidance 2." in (fast / "README.md").read_text()
    moved = shutil.copytree(fast, tmp_path / "moved")
    shutil.rmtree(moved / FOLDER)
    out = str(tmp_path / "x.png")
    ask = ["sample", "--ckpt", str(moved), "--labels", "3", "--num", "2", "--output", out]
    assert run_app([*ask, "--steps", "1"]) == run_app([*ask, "--sampler", "heun", "--steps", "2"]) == 0
    capsys.readouterr()
    assert run_app([*ask, "--sampler", "heun", "--guidance", "2"]) == 2
    said = capsys.readouterr().err
    assert "guidance 2 was built into moved in training (teacher.guidance)" in said and said.count("\n") == 1


def test_it_starts_as_its_teacher(base: Path, tmp_path: Path) -> None:
    """A rate of next to nothing leaves it the teacher, to the last bit, until it jumps."""
    assert distill(base, tmp_path / "same", "--lr", "1e-30", steps=1) == 0
    own, its = weights(tmp_path / "same"), ef.open(base).denoiser.net.state_dict()  # type: ignore[attr-defined]
    assert all(torch.equal(own[name], value) for name, value in its.items())
    assert {name for name in own if name not in its} and all("gap" in name for name in own if name not in its)


def test_a_resume_is_exact_and_needs_no_teacher(base: Path, tmp_path: Path) -> None:
    gone = shutil.copytree(base, tmp_path / "gone")
    assert distill(gone, tmp_path / "whole", "--guidance", "2", steps=4) == 0
    assert distill(gone, tmp_path / "half", "--guidance", "2", steps=2) == 0
    args = ["--config", str(tmp_path / "half" / "config.json"), "--save-dir", str(tmp_path / "half")]
    shutil.rmtree(gone)
    assert run_app(["train", *args, "--max-steps", "4"]) == 0, "what distill does can be said as train"
    assert all(torch.equal(v, weights(tmp_path / "half")[k]) for k, v in weights(tmp_path / "whole").items())


def test_settings_of_train_say_the_same(base: Path, fast: Path, tmp_path: Path) -> None:
    said = f"teacher.run={base} teacher.guidance=2 objective.map=midpoint objective.clock=log_snr init.partial=true"
    sets = [part for one in said.split() for part in ("--set", one)]
    assert train(tmp_path / "said", "--init-from", str(base), *sets, steps=2) == 0
    assert all(torch.equal(v, weights(tmp_path / "said")[k]) for k, v in weights(fast).items())


def test_a_distilled_run_teaches_with_the_guidance_that_it_has(
    fast: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert distill(fast, tmp_path / "again", steps=1) == 0
    assert config_of(tmp_path / "again").teacher.guidance == 2
    assert not ef.open(tmp_path / "again").is_guidable
    capsys.readouterr()
    assert distill(fast, tmp_path / "twice", "--guidance", "3") == 2
    assert "has guidance 2 built in, and would be guided twice by 3. Use 2." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        (["--set", "path.kind=cosine"], "is on path 'flow', and this run on 'cosine'"),
        (["--set", "conditioning.kind=none"], "is conditioned by kind 'label', and this run by 'none'"),
        (["--data", "moons", "--set", "net.kind=mlp"], "was trained on 'digits' of 1x8x8 with 10 classes"),
        (["--map", "mean_flow"], "Use clock 'unit', or 'midpoint'"),
        (["--map", "nope"], "nope"),
        (["--set", "objective.guidance=2"], "not both. Use objective.guidance=1 and teacher.guidance"),
        (["--pairs", "8", "--set", "objective.coupling=minibatch_ot"], "Use objective.coupling=independent"),
        (["--set", "teacher.run=nowhere"], "teacher.run: nowhere does not exist"),
        (["--img-size", "9"], "this run is of 'digits' of 1x9x9"),
    ],
)
def test_a_teacher_that_does_not_fit_is_one_sentence_before_training(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], rest: list[str], words: str
) -> None:
    assert distill(base, tmp_path / "x", *rest) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and not (tmp_path / "x").exists(), said


def test_what_teaches_nothing_is_refused(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert distill(tmp_path / "none", tmp_path / "x") == 2
    assert "does not exist" in capsys.readouterr().err
    assert train(tmp_path / "x", "--set", f"teacher.run={base}") == 2
    assert "this run has neither. Use objective.map=midpoint" in capsys.readouterr().err
    assert train(tmp_path / "x", "--set", "teacher.guidance=2") == 2
    assert "nobody teaches" in capsys.readouterr().err
    assert train(tmp_path / "sure", "--set", "conditioning.kind=label", "--set", "conditioning.drop=0", steps=1) == 0
    capsys.readouterr()
    assert distill(tmp_path / "sure", tmp_path / "x", "--guidance", "2") == 2
    assert "there is nothing to guide. Use 1." in capsys.readouterr().err


# -- pairs -------------------------------------------------------------------------------------------------------------


def test_pairs_are_the_noise_of_their_seed_and_where_the_teacher_takes_it(base: Path, tmp_path: Path) -> None:
    """Against the teacher sampled in the ordinary way: pair i under the condition of entry i of the data."""
    from ebbflow.progress import finish
    from ebbflow.runs import load_splits, task_of

    folder = tmp_path / "reflow"
    more = ("--guidance", "2", "--pairs", "12", "--set", "teacher.num_steps=3", "--set", "engine.precision=fp32")
    assert distill(base, folder, *more) == 0
    stored = (folder / PAIRS).read_bytes()
    config = config_of(folder)
    assert config.objective.map is None and not ef.open(folder).is_guidable
    task = task_of(config, load_splits(config), folder)
    finish(task.prepare())  # type: ignore[attr-defined]
    pairs = task.batches().dataset  # type: ignore[attr-defined]
    assert isinstance(pairs, Pairs) and (folder / PAIRS).read_bytes() == stored
    rows = torch.arange(12)
    eps = Noise([derive_seed(0, "pairs", i) for i in range(12)]).draw((1, 8, 8))
    assert torch.equal(pairs.noise(rows), eps) and pairs.labels is not None
    model = ef.open(base)
    teacher = classifier_free(model.denoiser, guidance=2.0).given(model.read(pairs.labels.tolist()))  # type: ignore[arg-type]
    x = eps
    for step in ef.SAMPLERS["heun"](teacher, eps, torch.linspace(1, 0, 4, dtype=F64)):
        x = step.x
    torch.testing.assert_close(pairs.x0(rows), x, rtol=1e-4, atol=1e-4)
    batch = task.batches().batch(0)
    assert batch.eps is not None and len(batch.x0) == 8
    first = [int((eps.flatten(1) == one.flatten()).all(1).nonzero()) for one in batch.eps]
    assert torch.equal(pairs.x0(torch.tensor(first)), batch.x0), "they stay together in a batch"


def test_reflow_resumes_exactly_and_samples_with_its_own_sampler(base: Path, tmp_path: Path) -> None:
    more = ("--pairs", "12", "--set", "teacher.num_steps=2")
    assert distill(base, tmp_path / "whole", *more, steps=4) == 0
    assert distill(base, tmp_path / "half", *more) == distill(base, tmp_path / "half", *more, steps=4) == 0
    assert all(torch.equal(v, weights(tmp_path / "half")[k]) for k, v in weights(tmp_path / "whole").items())
    assert ef.open(tmp_path / "half").is_guidable, "nothing was built in"
    assert len(ef.sample(tmp_path / "half", num=2, steps=1, labels="3").x) == 2
    assert distill(base, tmp_path / "both", *more, "--map", "midpoint") == 0, "jumps may learn on pairs"


def test_all_kinds_learn_from_a_teacher(base: Path, tmp_path: Path) -> None:
    for name in MAPS:
        gentle = ["--set", "objective.clock=unit"] if MAPS[name].is_steep else []
        assert distill(base, tmp_path / name, "--map", name, *gentle, steps=1) == 0
        assert math.isfinite(float(ef.sample(tmp_path / name, num=1, steps=1, labels="3").x.sum()))
