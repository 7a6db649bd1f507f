"""Laws of the optimisers: what is orthogonal, who steps what, and that AdamW's numbers mean the same in Muon."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ebbflow.config import AutoencoderConfig, ClassifierConfig, RunConfig, merge, parse, parse_as, to_dict
from ebbflow.data import load_dataset
from ebbflow.errors import ConfigError
from ebbflow.nets import NETS
from ebbflow.runs import task_of
from ebbflow.training.optim import NARROW, OPTIMISERS, Muon, adamw, hidden_weights, orthogonalised

F64 = torch.float64


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def gradients(num: int, *shape: int) -> list[Tensor]:
    return [normal(*shape, seed=seed) for seed in range(num)]


def stepped(optimiser: torch.optim.Optimizer, weight: nn.Parameter, grads: list[Tensor]) -> Tensor:
    """Where a weight is after steps with these gradients."""
    for grad in grads:
        weight.grad = grad.to(weight).clone()
        optimiser.step()
    return weight.detach()


@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (24, 24)])
def test_the_orthogonal_factor_is_that_of_the_singular_values(shape: tuple[int, int]) -> None:
    """O = U diag(s) V^T with the U and V of the matrix and s near 1, whatever its singular values are."""
    u, _, vt = torch.linalg.svd(normal(*shape), full_matrices=False)
    values = torch.logspace(-2, 0, min(shape), dtype=F64)
    inside = u.T @ orthogonalised(u @ torch.diag(values) @ vt) @ vt.T
    assert (inside - torch.diag(inside.diag())).abs().max() < 1e-10
    assert inside.diag().min() > 0.65 and inside.diag().max() < 1.25
    polar = u @ vt
    assert (orthogonalised(u @ torch.diag(values) @ vt) - polar).norm() / polar.norm() < 0.25


def test_many_matrices_are_orthogonalised_at_once() -> None:
    many = normal(3, 5, 9)
    torch.testing.assert_close(orthogonalised(many), torch.stack([orthogonalised(one) for one in many]))
    assert torch.equal(orthogonalised(torch.zeros(4, 4)), torch.zeros(4, 4))


@pytest.mark.parametrize("shape", [(16, 48), (48, 16)])
def test_matrices_step_as_torchs_own_muon(shape: tuple[int, int]) -> None:
    """It is PyTorch's, which knows 2-D weights alone, but for its arithmetic in bfloat16."""
    grads, start = gradients(5, *shape), normal(*shape, seed=9).float()
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    one = Muon([ours], [], lr=0.02, weight_decay=0.1, momentum=0.9)
    other = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    a, b = (stepped(o, w, grads) - start for o, w in ((one, ours), (other, theirs)))
    assert (a - b).norm() < 0.03 * a.norm()


def test_a_step_is_as_large_as_one_of_adamw() -> None:
    """The root mean square of an update is about 0.2 lr, whatever the shape."""
    for shape in ((16, 16), (16, 144), (200, 32)):
        weight = nn.Parameter(torch.zeros(shape))
        moved = stepped(Muon([weight], [], lr=0.01), weight, gradients(1, *shape))
        assert 0.12 < float(moved.square().mean().sqrt()) / 0.01 < 0.25


def test_a_convolution_steps_as_its_matrix() -> None:
    grads = gradients(3, 16, 12, 3, 3)
    conv, matrix = (nn.Parameter(torch.zeros(s)) for s in ((16, 12, 3, 3), (16, 108)))
    a = stepped(Muon([conv], [], lr=0.1), conv, grads)
    b = stepped(Muon([matrix], [], lr=0.1), matrix, [g.flatten(1) for g in grads])
    assert torch.equal(a.flatten(1), b)


def test_what_is_not_hidden_steps_as_adamw_bit_for_bit() -> None:
    grads = gradients(4, 6, 3)
    one, other, hidden = (nn.Parameter(torch.ones(s)) for s in ((6, 3), (6, 3), (16, 16)))
    hidden.grad = torch.ones(16, 16)
    a = stepped(Muon([hidden], [one], lr=0.1, weight_decay=0.2, beta2=0.95), one, grads)
    assert torch.equal(a, stepped(adamw([other], lr=0.1, weight_decay=0.2, beta2=0.95), other, grads))


def test_adamw_is_torchs_plain_one() -> None:
    grads = gradients(6, 7, 5)
    one, other = (nn.Parameter(torch.ones(7, 5)) for _ in range(2))
    plain = torch.optim.AdamW([other], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1, foreach=False, fused=False)
    a, b = stepped(adamw([one], lr=0.01, weight_decay=0.1), one, grads), stepped(plain, other, grads)
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", NETS)
def test_hidden_matrices_are_between_the_first_and_the_last_layer(name: str) -> None:
    config = parse({"net": {"kind": name}})
    task = task_of(config, load_dataset("digits"), Path("nowhere"))
    names = {id(p): key for key, p in task.net.named_parameters()}
    found = [names[id(p)] for p in hidden_weights(task.net)]
    assert found and len(set(found)) == len(found)
    edges = ("net.stem.", "net.embed.", "net.out.", "net.clock.first.", "conditioner.")
    assert not [key for key in found if key.startswith(edges) or not key.endswith("weight")]
    inner = {key for key, p in task.net.named_parameters() if p.ndim > 1 and not key.startswith(edges)}
    assert {
        key for key in inner - set(found) if min(dict(task.net.named_parameters())[key].shape[:2]) > NARROW
    } == set()


@pytest.mark.parametrize("cls", [RunConfig, ClassifierConfig, AutoencoderConfig])
@pytest.mark.parametrize("kind", OPTIMISERS)
def test_every_parameter_is_stepped_once_by_every_kind(kind: str, cls: type) -> None:
    task = task_of(parse_as(cls, {"optimiser": {"kind": kind}}), load_dataset("digits"), Path("nowhere"))
    optimiser = task.config.optimiser.build(task.net, lr=0.1, weight_decay=0.5)
    stepped_ones = [id(p) for group in optimiser.param_groups for p in group["params"]]
    assert sorted(stepped_ones) == sorted(id(p) for p in task.net.parameters())
    for group in optimiser.param_groups:
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] > 0}
        assert group["lr"] == 0.1
    hidden = [group for group in optimiser.param_groups if group.get("is_hidden")]
    assert bool(hidden) == (kind == "muon")


def test_the_configuration_says_which() -> None:
    assert to_dict(parse({}))["optimiser"] == {"kind": "adamw", "beta1": 0.9, "beta2": 0.99}
    muon = parse(merge({"optimiser": {"beta1": 0.8}}, {"optimiser": {"kind": "muon", "momentum": 0.9}}))
    assert to_dict(muon)["optimiser"] == {"kind": "muon", "momentum": 0.9, "beta1": 0.9, "beta2": 0.99}
    for wrong, said in (
        ({"kind": "muom"}, r"unknown optimiser\.kind 'muom'. Did you mean 'muon'"),
        ({"kind": "muon", "momentum": 1.0}, r"`optimiser\.momentum` must be in \[0, 1\), got 1"),
        ({"momentum": 0.9}, r"unknown key 'optimiser\.momentum' \(optimiser of kind 'adamw'\)"),
    ):
        with pytest.raises(ConfigError, match=said):
            parse({"optimiser": wrong})
