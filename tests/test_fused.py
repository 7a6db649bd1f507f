"""Laws of the operations that training uses on a CPU: what torch's own compute, to any derivative, and nobody else's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import pytest
import torch
from conftest import normal as normal64
from torch import Tensor, nn
from torch.autograd import forward_ad

from ebbflow.core.paths import Flow
from ebbflow.errors import ConfigError
from ebbflow.methods.denoise import NetDenoiser
from ebbflow.methods.objective import Objective
from ebbflow.nets import fused
from ebbflow.nets.blocks import GroupNorm
from ebbflow.nets.dit import DiTOptions
from ebbflow.nets.unet import UNetOptions
from ebbflow.training import engine
from ebbflow.training.engine import Engine
from ebbflow.training.loop import fit
from ebbflow.training.optim import adamw

NETS = {
    "dit": DiTOptions(patch_size=2, dim=16, depth=2, num_heads=2),
    "unet": UNetOptions(channels=(8, 16), num_heads=2, clock_dim=16),
}
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: fused.Linear(6, 10), (3, 5, 6)),
    "linear without bias": (lambda: fused.Linear(6, 10, bias=False), (5, 6)),
    "gelu": (fused.GELU, (3, 50)),
    "group norm": (lambda: GroupNorm(2, 6), (3, 6, 4, 5)),
}


@pytest.fixture(autouse=True)
def small_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "SMALLEST", 1)
    monkeypatch.setattr(fused, "BLOCK", 64)  # several blocks, and one that is cut short


def normal(dims: tuple[int, ...], seed: int = 0) -> Tensor:
    return normal64(dims, seed=seed).float()


def net_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    net = NETS[name].build((2, 8, 8), 2, None)
    for p in net.parameters():
        nn.init.normal_(p, std=0.2)  # nothing is at zero, as fresh gates and last layers are
    return net


def gradients(net: nn.Module, x: Tensor, *, faster: bool, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """The output, and the gradients of its mean square with respect to input and weights, in float32."""
    x = x.clone().requires_grad_()
    inputs = (x, torch.linspace(-50, 50, len(x))) if hasattr(net, "clock") else (x,)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16)
    with autocast, fused.fused() if faster else nullcontext():
        out = net(*inputs)
    found = torch.autograd.grad(out.float().square().mean(), [x, *net.parameters()])
    return [k.detach().float() for k in (out, *found)]


def distance(a: list[Tensor], b: list[Tensor]) -> float:
    """The largest of the relative distances of tensors."""
    return max(float((p - q).norm() / q.norm().clamp(min=1e-12)) for p, q in zip(a, b, strict=True))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("order", [1, 2])
def test_a_layer_has_the_values_and_derivatives_of_torch(name: str, order: int) -> None:
    make, shape = LAYERS[name]
    layer = make()

    def derivatives(faster: bool) -> list[Tensor]:
        x = 2 * normal(shape)
        x.requires_grad_()
        wanted = [x, *layer.parameters()]
        with fused.fused() if faster else nullcontext():
            out = layer(x)
        found = torch.autograd.grad(out.sin().sum(), wanted, create_graph=order == 2)
        if order == 1:
            return [out.detach(), *found]
        again = torch.autograd.grad(sum(k.square().sum() for k in found), wanted)
        return [k.detach() for k in (*found, *again)]

    assert distance(derivatives(True), derivatives(False)) < 1e-5


@pytest.mark.parametrize("name", NETS)
def test_a_net_trains_as_it_does_by_torch(name: str) -> None:
    net, x = net_of(name), normal((4, 2, 8, 8))
    assert distance(gradients(net, x, faster=True), gradients(net, x, faster=False)) < 1e-4


@pytest.mark.parametrize("name", NETS)
def test_bfloat16_is_as_near_to_float32_as_by_autocast_alone(name: str) -> None:
    net, x = net_of(name), normal((16, 2, 8, 8))
    exact = gradients(net, x, faster=False)
    ours, torchs = (gradients(net, x, faster=faster, dtype=torch.bfloat16) for faster in (True, False))
    assert distance(ours, exact) < max(1.5 * distance(torchs, exact), 0.02)


@pytest.mark.parametrize("name", NETS)
def test_no_sample_hears_of_another(name: str) -> None:
    net, x = net_of(name), normal((3, 2, 8, 8)).requires_grad_()
    with fused.fused():
        out = net(x, torch.zeros(3))
    (found,) = torch.autograd.grad(out[0].square().sum(), x)
    assert bool(found[0].any()) and not bool(found[1:].any())


@pytest.fixture(params=["func", "dual", "double"])
def derivative(request: pytest.FixtureRequest) -> Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], Tensor]:
    """The ways to a derivative along a direction: functorch, dual numbers, and backward twice."""

    def along(function: Callable[[Tensor], Tensor], x: Tensor, direction: Tensor) -> Tensor:
        if request.param == "func":
            found: Tensor = torch.func.jvp(function, (x,), (direction,))[1]
            return found
        if request.param == "dual":
            with forward_ad.dual_level():
                tangent = forward_ad.unpack_dual(function(forward_ad.make_dual(x, direction))).tangent
                assert tangent is not None
                return tangent
        found = torch.autograd.functional.jvp(function, x, direction)[1]
        return found

    return along


@pytest.mark.parametrize("name", NETS)
def test_a_net_is_differentiated_forwards_where_it_trains(
    name: str, derivative: Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], Tensor]
) -> None:
    net, x, direction = net_of(name), normal((2, 2, 8, 8)), normal((2, 2, 8, 8), seed=1)

    def function(x: Tensor) -> Tensor:
        out: Tensor = net(x, torch.tensor([-30.0, 40.0]))
        return out

    expected = torch.func.jvp(function, (x,), (direction,))[1].detach()
    with fused.fused():
        found = derivative(function, x, direction).detach()
    assert distance([found], [expected]) < 1e-4


def names(out: Tensor) -> Iterator[str]:
    """The operations that a tensor came from."""
    waiting = [out.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None:
            yield node.name()
            waiting += [inner for inner, _ in node.next_functions]


def test_they_are_used_where_a_cpu_trains_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, clock = net_of("dit"), normal((2, 2, 8, 8)), torch.zeros(2)
    assert not {"_LinearBackward", "_GELUBackward"} & set(names(net(x, clock)))
    seen: set[str] = set()
    losses = Objective.losses

    def watched(*args: object) -> Tensor:
        out = losses(*args)  # type: ignore[arg-type]
        seen.update(names(out))
        return out

    monkeypatch.setattr(Objective, "losses", watched)
    model = NetDenoiser(net=lambda_net(net), path=Flow())
    list(fit(model, Objective(Flow()), [x], adamw(net.parameters(), lr=1e-3), num_steps=1))
    assert seen >= {"_LinearBackward", "_GELUBackward"}
    with torch.no_grad(), fused.fused():
        assert net(x, clock).grad_fn is None


def lambda_net(net: nn.Module) -> nn.Module:
    """A net without conditions as a model calls one."""

    class Told(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net

        def forward(self, x: Tensor, clock: Tensor, cond: object) -> Tensor:
            out: Tensor = self.inner(x, clock)
            return out

    return Told()


def test_a_compiled_net_is_the_same_net(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[nn.Module] = []

    def compiled(net: nn.Module, *, dynamic: bool) -> nn.Module:
        made.append(net)
        return net

    monkeypatch.setattr(torch, "compile", compiled)
    net, x = net_of("dit"), normal((2, 2, 8, 8))
    model, objective = NetDenoiser(net=lambda_net(net), path=Flow()), Objective(Flow(), learn_uncertainty=True)
    assert objective.uncertainty is not None
    optimiser = adamw([*net.parameters(), *objective.uncertainty.parameters()], lr=1e-3)
    before = {name: k.clone() for name, k in net.state_dict().items()}
    on = Engine(device="cpu", precision="fp32", compile="on")
    list(fit(model, objective, [x], optimiser, num_steps=3, engine=on))
    assert made == [model.net]
    assert before.keys() == net.state_dict().keys()
    assert any(not torch.equal(before[name], k) for name, k in net.state_dict().items())


def test_compiling_needs_a_compiler_and_does_not_pay_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert not engine.pick_compile("auto", cpu) and not engine.pick_compile("off", cpu)
    monkeypatch.setattr(engine.shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"engine\.compile=on needs a C\+\+ compiler"):
        engine.pick_compile("on", cpu)
