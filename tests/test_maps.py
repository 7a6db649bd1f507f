"""Flow maps: jumps of nets and of oracles, the sampler that makes them, and the objectives that train them."""

from __future__ import annotations

import pytest
import torch
from conftest import F64, normal, valid_pair

from ebbflow.core.paths import PATHS, Path
from ebbflow.methods.denoise import FlowMap, NetDenoiser, NetFlowMap, flow_map
from ebbflow.methods.guidance import classifier_free
from ebbflow.nets import NETS


def jumping(path: Path, prediction: str = "velocity", clock: str = "unit", seed: int = 0) -> NetFlowMap:
    """A small net of two dimensions that is told gaps, all of its parameters alive."""
    torch.manual_seed(seed)
    net = NETS["mlp"](dim=16, depth=2, gap=True).build((2,), 2, None)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return NetFlowMap(net=net, path=path, prediction=prediction, clock=clock)


@valid_pair
def test_a_jump_to_where_one_is_is_a_call_and_all_jumps_agree_on_x_t(path: Path, prediction: str) -> None:
    model, x = jumping(path, prediction), normal(3, 2, dtype=torch.float32)
    t = torch.tensor([0.3, 0.6, 0.9], dtype=F64)
    with torch.no_grad():
        for when in (0.4, t):
            here, there = model(x, when), model.jump(x, when, when)
            assert torch.equal(here.x0, there.x0)
            assert torch.equal(here.eps, there.eps)
        far = model.jump(x, t, t / 3)
    torch.testing.assert_close(path.mix(far.x0, far.eps, t), x, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(far.x0, model(x, t).x0)


def test_a_number_and_a_tensor_of_times_jump_alike() -> None:
    model, x = jumping(PATHS["cosine"](), "v"), normal(3, 2, dtype=torch.float32)
    with torch.no_grad():
        one, many = model.jump(x, 0.7, 0.2), model.jump(x, torch.full((3,), 0.7), torch.full((3,), 0.2))
        mixed = model.jump(x, 0.7, torch.full((3,), 0.2))
    for other in (many, mixed):
        torch.testing.assert_close(one.x0, other.x0, rtol=1e-5, atol=1e-6)


def test_a_jump_to_more_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="`s` must be at most `t`"):
        jumping(PATHS["flow"]()).jump(torch.zeros(2, 2), 0.3, torch.tensor([0.2, 0.4]))


def test_what_cannot_jump_says_why() -> None:
    model = jumping(PATHS["flow"]())
    assert flow_map(model) is model
    assert isinstance(model, FlowMap)
    plain = NetDenoiser(net=model.net, path=model.path, make_null=lambda num: torch.zeros(num))
    for cannot, why in ((plain, "told no gap"), (classifier_free(plain, guidance=2.0), "`guidance` 1")):
        with pytest.raises(ValueError, match=why):
            flow_map(cannot)
