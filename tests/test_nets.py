"""Laws of every net, for every way a context may enter."""

from __future__ import annotations

import pytest
import torch

from ebbflow.conditioning import ConditionedNet, DataFacts, LabelConditioner, LabelConditioning
from ebbflow.nets import NETS
from ebbflow.nets.blocks import Attention, attend, grid_embedding

SMALL = {
    "unet": {"channels": (8, 16), "num_heads": 2},
    "dit": {"dim": 24, "depth": 2, "num_heads": 2, "patch_size": 2},
    "mlp": {"dim": 24, "depth": 2, "num_heads": 2},
}
PATCHED = {"channels": (8, 16), "num_heads": 2, "patch_size": 2, "num_blocks": (1, 2), "upsample": "shuffle"}
EVERY = [*NETS, "unet of patches"]
INJECTIONS = ["add", "scale", "cross_attention"]


def build(name: str, dims: tuple[int, ...], injection: str | None, out_channels: int | None = None) -> ConditionedNet:
    """A small conditioned net whose zero-initialised parameters are made alive."""
    conditioner = None if injection is None else LabelConditioner(3, dim=16, injection=injection)
    options = NETS["unet"](**PATCHED) if name == "unet of patches" else NETS[name](**SMALL[name])
    torch.manual_seed(0)
    spec = None if conditioner is None else conditioner.spec
    return ConditionedNet(options.build(dims, out_channels or dims[0], spec), conditioner)


def alive(net: torch.nn.Module) -> torch.nn.Module:
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(parameter.numel()))
    return net


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dims", [(1, 8, 8), (3, 7, 10), (4, 5, 5)])
def test_output_has_the_samples_shape_and_starts_at_zero(name: str, dims: tuple[int, ...]) -> None:
    net, x = build(name, dims, "scale"), torch.randn(2, *dims)
    out = net(x, torch.tensor([10.0, 900.0]), torch.tensor([0, 2]))
    assert out.shape == x.shape
    assert not out.any(), f"{name}: a fresh net must output zero"
    doubled = build(name, dims, None, out_channels=2 * dims[0])(x, torch.ones(2), None)
    assert doubled.shape == (2, 2 * dims[0], *dims[1:])


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("injection", INJECTIONS)
def test_every_parameter_learns_and_clock_and_condition_matter(name: str, injection: str) -> None:
    net = alive(build(name, (1, 8, 8), injection))
    x, clock, cond = torch.randn(6, 1, 8, 8), torch.linspace(0, 1000, 6), torch.tensor([0, 1, 2, -1, 0, 1])
    out = net(x, clock, cond)
    (out * torch.randn_like(out)).sum().backward()
    for parameter_name, parameter in net.named_parameters():
        assert parameter.grad is not None, f"{name}/{injection}: {parameter_name} gets no gradient"
        assert torch.isfinite(parameter.grad).all()
        assert parameter.grad.any(), f"{name}/{injection}: {parameter_name} has zero gradient"
    with torch.no_grad():
        assert not torch.allclose(out, net(x, clock + 3, cond), atol=1e-6), "the clock does not matter"
        assert not torch.allclose(out, net(x, clock, (cond + 1) % 3), atol=1e-6), "the condition does not matter"


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("injection", INJECTIONS)
def test_samples_do_not_leak_into_each_other(name: str, injection: str) -> None:
    net = alive(build(name, (2, 6, 6), injection)).eval()
    x, clock, cond = torch.randn(4, 2, 6, 6), torch.rand(4) * 1000, torch.tensor([0, 1, 2, -1])
    with torch.no_grad():
        together = net(x, clock, cond)
        alone = torch.cat([net(x[i : i + 1], clock[i : i + 1], cond[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_positions_are_a_buffer_that_no_checkpoint_holds() -> None:
    net = alive(build("dit", (1, 8, 6), None)).eval()
    assert not any("places" in name for name in net.state_dict()), "old checkpoints have none"
    assert [name for name, _ in net.named_buffers()] == ["net.places"]
    x = torch.randn(1, 1, 10, 6)
    assert net(x, torch.ones(1), None).shape == x.shape, "another size than it was built for"
    assert torch.equal(build("dit", (1, 10, 6), None).net.places, grid_embedding(5, 3, 24))


def test_patches_of_a_unet_are_the_channels_of_one_place() -> None:
    net = alive(NETS["unet"](channels=(8,), attention=False, num_heads=1, patch_size=2).build((1, 8, 8), 1, None))
    unpatched = NETS["unet"](channels=(8,), attention=False, num_heads=1).build((4, 4, 4), 4, None)
    unpatched.load_state_dict(net.state_dict())
    x, clock = torch.randn(2, 1, 8, 8), torch.tensor([3.0, 700.0])
    corners = torch.cat([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], dim=1)
    expected, out = unpatched(corners, clock), net(x, clock)
    torch.testing.assert_close(torch.cat([out[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], dim=1), expected)


@pytest.mark.parametrize("masked", [False, True])
def test_explicit_attention_equals_the_fused_kernel(masked: bool) -> None:
    q, k, v = (torch.randn(2, 3, n, 8, dtype=torch.float64) for n in (5, 7, 7))
    mask = torch.tensor([[True] * 7, [True] * 4 + [False] * 3]) if masked else None
    allowed = None if mask is None else mask[:, None, None, :]
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
    torch.testing.assert_close(attend(q, k, v, mask), expected)


def test_attention_is_equivariant_to_the_order_of_its_tokens() -> None:
    attention = alive(Attention(8, 2))
    x, order = torch.randn(1, 5, 8), torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(attention(x)[:, order], attention(x[:, order]))


def test_the_clock_embedding_tells_neighbours_apart_with_a_bounded_derivative() -> None:
    from ebbflow.nets.blocks import frequencies

    clock = torch.tensor([500.0, 501.0])
    a, b = frequencies(clock, 128)
    assert torch.nn.functional.cosine_similarity(a, b, dim=0) < 0.999
    assert (a - b).abs().max() <= 1.0


def test_dropped_labels_are_independent_and_as_frequent_as_asked() -> None:
    conditioner = LabelConditioner(10, dim=4, injection="scale")
    cond = torch.arange(20_000) % 10
    dropped = conditioner.drop(cond, 0.1, torch.Generator().manual_seed(0)) < 0
    rate, pairs = dropped.double().mean(), (dropped[1:] & dropped[:-1]).double().mean()
    assert abs(rate - 0.1) < 3 * (0.09 / 20_000) ** 0.5
    assert abs(pairs - 0.01) < 0.003, "drops must be independent from sample to sample"


def test_the_null_row_is_its_own_and_independent_of_the_label() -> None:
    conditioner = LabelConditioner(3, dim=4, injection="scale")
    rows = conditioner(torch.tensor([-1, 0, 1, 2])).vector
    assert torch.unique(rows, dim=0).shape[0] == 4
    rows[0].sum().backward()
    assert conditioner.table.weight.grad[3].any()
    assert not conditioner.table.weight.grad[:3].any()


def test_labels_without_labelled_data_are_refused() -> None:
    with pytest.raises(ValueError, match="needs labelled data"):
        LabelConditioning().build(DataFacts(dims=(1, 8, 8), is_image=True))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("unet", {"channels": (6, 9)}, "multiple of `num_heads`"),
        ("unet", {"channels": ()}, "one width or more"),
        ("unet", {"patch_size": 0}, r"`patch_size` must be in \[1, 65536\], got 0"),
        ("unet", {"channels": (8, 16), "num_blocks": (1, 0)}, r"`num_blocks` .* in \[1, 1024\], got \(1, 0\)"),
        ("unet", {"channels": (8, 16), "num_blocks": (1, 2, 3)}, "one for each of the 2 resolutions"),
        ("dit", {"dim": 10, "num_heads": 4}, "multiple of `num_heads`"),
        ("mlp", {"depth": 0}, r"`depth` must be in \[1, 1024\], got 0"),
    ],
)
def test_impossible_nets_are_refused(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NETS[name](**options)


def test_image_nets_refuse_points() -> None:
    for name in ("unet", "dit"):
        with pytest.raises(ValueError, match=r"net\.kind=mlp"):
            NETS[name]().build((2,), 2, None)


@pytest.mark.parametrize("name", NETS)
def test_a_gap_of_nothing_adds_nothing_whatever_was_learned(name: str) -> None:
    torch.manual_seed(0)
    ordinary = NETS[name](**SMALL[name]).build((1, 8, 8), 1, None)
    jumping = NETS[name](**SMALL[name], gap=True).build((1, 8, 8), 1, None)
    missing = jumping.load_state_dict(alive(ordinary).state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert all(key.startswith("clock.gap.") for key in missing.missing_keys), "an ordinary checkpoint fits"
    x, clock, gap = torch.randn(4, 1, 8, 8), torch.rand(4) * 6, torch.tensor([0.0, 0.0, 0.5, 6.0])
    told = torch.stack([clock, gap], dim=1)
    assert torch.equal(jumping(x, told, None), ordinary(x, clock, None)), "a fresh gap is not heard"
    torch.nn.init.normal_(jumping.clock.gap.second.weight)
    out, plain = jumping(x, told, None), ordinary(x, clock, None)
    assert torch.equal(jumping(x, clock, None), plain)
    assert torch.equal(out[:2], plain[:2]), "at gap 0 it is the ordinary net"
    assert not torch.isclose(out[2:], plain[2:]).flatten(1).all(1).any()


def test_a_net_without_a_gap_says_so() -> None:
    with pytest.raises(ValueError, match="cannot jump"):
        NETS["mlp"](**SMALL["mlp"]).build((2,), 2, None)(torch.randn(3, 2), torch.rand(3, 2), None)


def test_the_gentle_clock_is_gentle() -> None:
    from ebbflow.core.paths import PATHS
    from ebbflow.methods.told import CLOCKS
    from ebbflow.nets.blocks import frequencies

    def steepness(name: str) -> float:
        def waves(t: torch.Tensor) -> torch.Tensor:
            return frequencies(CLOCKS[name](PATHS["flow"](), t), 128)

        t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
        return float(((waves(t + 1e-4) - waves(t - 1e-4)) / 2e-4).square().sum(1).sqrt().max())

    assert steepness("unit") < 20 < 100 * steepness("unit") < steepness("log_snr")
    assert steepness("unit") < 20 < steepness("time") / 20
