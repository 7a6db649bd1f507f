"""Guidance built in by training: its fixed point is the guided model, and it is not guided a second time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import F64, normal
from torch import Tensor

from ebbflow.cli.app import run_app
from ebbflow.config import parse
from ebbflow.core.condition import Cond
from ebbflow.core.paths import Flow
from ebbflow.errors import ConfigError
from ebbflow.methods.guidance import classifier_free
from ebbflow.methods.objective import Objective
from ebbflow.methods.oracles import GaussianMixture
from ebbflow.runs.build import build_objective

MIX = GaussianMixture(torch.tensor([[-1.0], [1.0]], dtype=F64), [0.5, 0.4], [0.5, 0.5], Flow())


class Exact:
    """The exact model of the mixture with guidance w in it for t up to `below`, plus a bias and a slope that should not
    be wanted."""

    def __init__(self, w: float, below: float = 1.0) -> None:
        self.w, self.below = w, below
        self.bias = torch.zeros(2, dtype=F64, requires_grad=True)

    def output(self, x_t: Tensor, t: Tensor, cond: Cond | None) -> Tensor:
        assert isinstance(cond, Tensor)
        outs = []
        for w in (self.w, 1.0):
            guided = classifier_free(MIX, guidance=w).given(cond)(x_t, t)
            outs.append(guided.eps - guided.x0)
        out = torch.where((t <= self.below)[:, None], *outs)
        return torch.where(cond[:, None] < 0, outs[1], out) + self.bias[0] + self.bias[1] * x_t

    def null(self, num: int) -> Tensor:
        return torch.full((num,), -1)


def gradients(objective: Objective, model: Exact, null: bool = False, num: int = 20_000) -> Tensor:
    """The gradient by bias and slope in standard errors, for one component or for all of them without condition."""
    g = torch.Generator().manual_seed(1)
    cond = torch.randint(2, (num,), generator=g) if null else torch.zeros(num, dtype=torch.long)
    stds = torch.tensor([0.5, 0.4], dtype=F64)
    x0 = MIX.means[cond] + stds[cond, None] * normal(num, 1, seed=2)  # type: ignore[index]
    t = 0.05 + 0.9 * torch.rand(num, generator=g, dtype=F64)
    told = torch.full_like(cond, -1) if null else cond
    parts = []
    for rows in torch.arange(num).split(num // 20):
        loss = objective.losses(model, x0[rows], told[rows], normal(num, 1, seed=3)[rows], t[rows]).mean()
        parts.append(torch.autograd.grad(loss, model.bias)[0])
    several = torch.stack(parts)
    return several.mean(0) / (several.std(0) / 20**0.5)


@pytest.mark.parametrize(("w", "below"), [(1.0, 1.0), (2.0, 1.0), (3.0, 0.6)])
def test_the_guided_model_is_the_fixed_point(w: float, below: float) -> None:
    objective = Objective(Flow(), guidance=w, guidance_below=below)
    for null in (False, True):
        assert float(gradients(objective, Exact(w, below), null).abs().max()) < 4.5
    if w != 1:
        assert float(gradients(objective, Exact(1.0)).abs().max()) > 10, "the plain model would do as well"


def test_without_it_nothing_is_asked_of_the_null() -> None:
    model = Exact(1.0)
    model.null = None  # type: ignore[assignment,method-assign]
    gradients(Objective(Flow()), model, num=40)


def test_bad_numbers_and_runs_without_a_null_are_refused() -> None:
    with pytest.raises(ValueError, match="`guidance` that is built in must be 1 or more"):
        Objective(Flow(), guidance=0.5)
    with pytest.raises(ValueError, match=r"`guidance_below` must be in \(0, 1\], got 0"):
        Objective(Flow(), guidance_below=0.0)
    for settings in ({"kind": "none"}, {"kind": "label", "drop": 0.0}):
        with pytest.raises(ConfigError, match="this run has no condition that training drops"):
            build_objective(parse({"objective": {"guidance": 2.0}, "conditioning": settings}))


def test_a_run_with_it_is_sampled_without_guidance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, output = str(tmp_path / "run"), str(tmp_path / "x.png")
    tiny = ["--set", "net.channels=[8]", "--set", "train.held_out_every=0", "--batch-size", "8", "--device", "cpu"]
    assert run_app(["train", *tiny, "--set", "objective.guidance=2", "--max-steps", "2", "--save-dir", folder]) == 0
    ask = ["sample", "--ckpt", folder, "--num", "2", "--labels", "1", "--steps", "2", "--output", output]
    assert run_app(ask) == 0 and run_app([*ask, "--guidance", "0"]) == 0
    capsys.readouterr()
    assert run_app([*ask, "--guidance", "2"]) == 2
    said = capsys.readouterr().err
    assert "guidance 2 was built into run in training" in said and "Use --guidance 1" in said and said.count("\n") == 1
