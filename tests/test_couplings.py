"""Laws of couplings, over the registry: the marginals stay, pairs depend on (seed, step) alone, and the optimum is exact
where it is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import normal
from scipy.optimize import linear_sum_assignment
from scipy.stats import chisquare, norm

from ebbflow.config import parse
from ebbflow.data import Splits, load_dataset
from ebbflow.errors import ConfigError
from ebbflow.methods.couplings import COUPLINGS, Pool, Semidiscrete, assignment, effective
from ebbflow.progress import finish
from ebbflow.runs import Trainer, task_of
from ebbflow.training.task import Draw

each = pytest.mark.parametrize("name", COUPLINGS)


def pool(num: int = 24, dim: int = 3, classes: int = 2) -> Pool:
    x = normal(num, dim, seed=1, dtype=torch.float32)
    return Pool(x0=lambda rows: x[rows], classes=torch.arange(num) % classes)


def paired(name: str, data: Pool, rows: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    coupling = COUPLINGS[name]
    return coupling.pairing(data, finish(coupling.learn(data, 0)))(rows, eps)


@each
def test_every_entry_is_as_likely_as_without_it_inside_its_class(name: str) -> None:
    data, num = pool(), 6000
    rows = torch.randint(24, (num,), generator=torch.Generator().manual_seed(3))
    eps = normal(num, 3, seed=4, dtype=torch.float32)
    pairing = COUPLINGS[name].pairing(data, finish(COUPLINGS[name].learn(data, 0)))
    found = torch.cat([pairing(r, e) for r, e in zip(rows.split(60), eps.split(60), strict=True)])
    assert torch.equal(data.classes[found], data.classes[rows]), "the labels are others"
    counts = torch.bincount(found, minlength=24).numpy()
    expected = [counts[c::2].sum() / 12 for c in (0, 1)] * 12
    assert chisquare(counts, expected).pvalue > 1e-4
    if name != "semidiscrete":
        assert torch.equal(rows.sort().values, found.sort().values), "a batch is another one"


@pytest.mark.parametrize("name", ["minibatch_ot", "semidiscrete"])
def test_in_one_dimension_it_is_the_sorted_coupling(name: str) -> None:
    x = torch.tensor([0.3, -1.0, 2.0, 0.9])[:, None]
    data = Pool(x0=lambda rows: x[rows], classes=torch.zeros(4, dtype=torch.long))
    if name == "minibatch_ot":
        eps = torch.tensor([1.5, -0.2, 0.1, -2.0])[:, None]
        assert paired(name, data, torch.arange(4), eps).tolist() == [2, 0, 3, 1]
        return
    coupling = Semidiscrete(iterations=20_000, batch_size=64)
    eps = torch.linspace(-3, 3, 1201)[:, None]
    found = coupling.pairing(data, finish(coupling.learn(data, 0)))(torch.zeros(1201, dtype=torch.long), eps)
    wanted = torch.tensor([1, 0, 3, 2])[torch.bucketize(eps[:, 0], torch.tensor(norm.ppf([0.25, 0.5, 0.75])).float())]
    assert float((found != wanted).float().mean()) < 0.01


@pytest.mark.parametrize("num", [1, 2, 7, 40, 128])
def test_the_assignment_is_the_best_one(num: int) -> None:
    rng = np.random.default_rng(num)
    ties = rng.integers(0, 3, (num, num)).astype(float)
    for cost in (rng.normal(size=(num, num)), -rng.normal(size=(num, 60)) @ rng.normal(size=(60, num)), ties):
        found = assignment(cost)
        assert sorted(found) == list(range(num))
        assert cost[np.arange(num), found].sum() == pytest.approx(cost[linear_sum_assignment(cost)].sum(), abs=1e-9)


def test_near_pairs_cost_less_and_the_whole_data_less_than_a_batch() -> None:
    splits = load_dataset("digits")
    data = Pool(x0=splits.train.x0, classes=splits.train.labels)
    rows, eps = torch.arange(128), normal(128, 1, 8, 8, seed=2, dtype=torch.float32)
    costs = {name: float((eps - data.x0(paired(name, data, rows, eps))).square().flatten(1).sum(1).mean())
             for name in COUPLINGS}  # fmt: skip
    assert costs["semidiscrete"] < costs["minibatch_ot"] - 3 < costs["independent"] - 6, costs


def test_how_many_share_the_draws_is_told_without_bias() -> None:
    p = torch.tensor([0.5, 0.25, 0.125, 0.125])
    drawn = torch.multinomial(p, 20_000, replacement=True, generator=torch.Generator().manual_seed(0))
    assert effective(drawn, 4) == pytest.approx(1 / float(p.square().sum()), rel=0.03)
    assert effective(torch.arange(50), 50) == 50


# -- in a run --------------------------------------------------------------------------------------


def tiny(folder: Path, coupling: object, *, num_steps: int = 4, **conditioning: object) -> Trainer:
    config = parse({
        "net": {"kind": "mlp", "dim": 16}, "objective": {"coupling": coupling}, "conditioning": conditioning,
        "train": {"num_steps": num_steps, "batch_size": 8, "save_every": 2, "sample_every": 0, "held_out_every": 0,
                  "log_every": 1, "warmup_steps": 0, "schedule": "constant"},
    })  # fmt: skip
    splits = load_dataset("moons")
    small = Splits(train=splits.train.select(torch.arange(40)), held_out=splits.held_out.select(torch.arange(8)))
    return Trainer(task_of(config, small, folder))


QUICK = {"kind": "semidiscrete", "iterations": 20}


@pytest.mark.parametrize("coupling", ["minibatch_ot", QUICK], ids=str)
def test_a_run_resumes_exactly_and_draws_the_noise_of_an_independent_one(tmp_path: Path, coupling: object) -> None:
    whole, halved = tiny(tmp_path / "a", coupling), tiny(tmp_path / "b", coupling, num_steps=2)
    notes = [event.note for event in whole.events() if event.note]
    assert any("semidiscrete coupling" in note for note in notes) == (coupling == QUICK), notes
    list(halved.events())
    again = tiny(tmp_path / "b", coupling)
    notes = [event.note for event in again.events() if event.note]
    assert not any("semidiscrete coupling" in note for note in notes), "it was learned a second time"
    for name, tensor in whole.task.net.state_dict().items():
        assert torch.equal(tensor, again.task.net.state_dict()[name]), name
    batch = again.task.batches().batch(3)
    wanted = Draw(seed=0, step=3, rows=range(8), num=8).normal((2,))
    assert batch.eps is not None and torch.equal(batch.eps, wanted)
    assert torch.equal(batch.x0, whole.task.batches().batch(3).x0)


def test_stored_potentials_of_other_data_are_not_believed(tmp_path: Path) -> None:
    list(tiny(tmp_path / "a", QUICK).events())
    other = tiny(tmp_path / "b", {**QUICK, "iterations": 21})
    (tmp_path / "b" / "coupling.safetensors").write_bytes((tmp_path / "a" / "coupling.safetensors").read_bytes())
    assert any("semidiscrete coupling" in (event.note or "") for event in other.events())


def test_what_it_cannot_pair_is_refused_before_training(tmp_path: Path) -> None:
    splits = load_dataset("digits")
    words = tuple(f"a {label}" for label in splits.train.labels.tolist())
    train = replace(splits.train, captions=words)
    config = parse({"objective": {"coupling": "minibatch_ot"}, "conditioning": {"kind": "text"}})
    with pytest.raises(ConfigError, match="'minibatch_ot' pairs inside classes, and this run is conditioned on text"):
        task_of(config, Splits(train=train, held_out=train.select(torch.arange(4))), tmp_path)
    with pytest.raises(ConfigError, match="unknown coupling 'optimal'"):
        parse({"objective": {"coupling": "optimal"}})
    with pytest.raises(ConfigError, match=r"`iterations` of coupling .* must be in \[1, 1000000\], got 0"):
        parse({"objective": {"coupling": {"kind": "semidiscrete", "iterations": 0}}})
