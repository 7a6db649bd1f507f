"""Weights that are dealt out: each process holds a part of every tensor, and has a block of them whole while it works.

PyTorch's `fully_shard` gathers a block's weights before it is run, forward and backward, and afterwards adds up its
gradients and deals those out. A block is an element of a `ModuleList`; what is in none comes with the net itself.
Averages and moments of the optimiser are dealt out alike. Tensors are whole again in files, measures and pictures.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ebbflow.training.task import Joined
from ebbflow.training.world import answered, here


def is_dealt(tensor: Tensor) -> bool:
    """Whether this process holds a part of it; who never dealt anything out does not wait for the import."""
    tensors = sys.modules.get("torch.distributed.tensor")
    return tensors is not None and isinstance(tensor, tensors.DTensor)


def own(tensor: Any) -> Tensor:
    """What this process holds of a tensor: all of it, or its part."""
    found: Tensor = tensor.to_local() if is_dealt(tensor) else tensor
    return found


def whole(tensor: Any) -> Tensor:
    """All of a tensor; every process asks for it where it is dealt out."""
    with answered():
        found: Tensor = tensor.detach().full_tensor() if is_dealt(tensor) else tensor
    return found


def part(tensor: Tensor, like: Any) -> Tensor:
    """This process's part of a tensor that all have whole, dealt out as `like` is."""
    if not is_dealt(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.detach(), like.device_mesh, like.placements, src_data_rank=None).clone()


def gathered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All of each tensor on rank 0, one after the other, in the memory of its CPU where they were dealt out; {} on the
    other processes."""
    leads, found = here().leads, {}
    for name, tensor in tensors.items():
        all_of_it = whole(tensor)
        if leads:
            found[name] = all_of_it.cpu() if is_dealt(tensor) else all_of_it
    return found


def is_finite(net: nn.Module) -> bool:
    """Whether all weights that this process holds are."""
    return bool(torch.stack([own(p).isfinite().all() for p in net.parameters()]).all())


def frame(module: nn.Module) -> nn.Module:
    """A copy of a module without the numbers of its parameters."""
    bare = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in module.parameters()
    }
    return copy.deepcopy(module, bare)


def filled(bare: nn.Module, module: nn.Module, device: torch.device) -> nn.Module:
    """The `frame` of a module with its weights, whole, on a device; every process asks for it."""
    found = copy.deepcopy(bare)
    found.load_state_dict({name: whole(t) for name, t in module.state_dict().items()}, assign=True)
    return found.to(device)


def deal(
    net: nn.Module,
    averages: Sequence[nn.Module],
    optimiser: torch.optim.Optimizer,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Deal out what all processes have whole: the net's weights, in place, their averages, and the optimiser's state.

    Args:
        device: where the parts are to be.
        dtype: what the blocks' weights are gathered in; what is outside of blocks, and every part, stays as it is.
    """
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    from torch.distributed.tensor import Shard, distribute_tensor

    assert dist.group.WORLD is not None
    mesh = DeviceMesh.from_group(dist.group.WORLD, device.type)
    names: dict[Tensor, str] = {p: name for name, p in net.named_parameters()}
    groups = [[names[p] for p in group["params"]] for group in optimiser.param_groups]
    states = {names[p]: state for p, state in optimiser.state.items()}
    for group in optimiser.param_groups:  # nobody but the net holds a weight, so that each goes when it is dealt out
        group["params"] = []
    optimiser.state.clear()
    names.clear()
    narrow = None if dtype == torch.float32 else dtype
    sums = None if narrow is None else torch.float32
    policy = MixedPrecisionPolicy(param_dtype=narrow, reduce_dtype=sums, cast_forward_inputs=False)
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")  # nobody writes into outputs
    root = _called(net)
    for block in blocks(root):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(root, mesh=mesh, reshard_after_forward=True)
    for module in _sharded(net):
        module.set_gradient_divide_factor(1.0)  # a sum over all rows, each over the whole batch
        module.set_force_sum_reduction_for_comms(True)
    net.to(device)
    named = dict(net.named_parameters())
    for group, members in zip(optimiser.param_groups, groups, strict=True):
        group["params"] = [named[name] for name in members]
        if len({is_dealt(p) for p in group["params"]}) == 2:  # torch steps no list that holds both kinds
            group.update(foreach=False, fused=False)
            optimiser._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    for name in list(states):
        p, state = named[name], states.pop(name)
        optimiser.state[p] = {key: part(t, p) if t.shape == p.shape else t.to(device) for key, t in state.items()}
    for module in averages:
        for holder in _called(module).modules():
            for name, p in holder.named_parameters(recurse=False):
                its = distribute_tensor(p.detach(), mesh, [Shard(0)], src_data_rank=None).clone()
                holder.register_parameter(name, nn.Parameter(its, requires_grad=False))
        module.to(device)


def clip(parameters: Iterable[Tensor], most: float) -> Tensor:
    """Scale gradients so that their norm, over the parts of all processes, is at most `most`; the norm before that."""
    with_gradient = [p for p in parameters if p.grad is not None]
    if not any(map(is_dealt, with_gradient)):
        return nn.utils.clip_grad_norm_(with_gradient, most)
    parts = {kind: [own(p.grad) for p in with_gradient if is_dealt(p) is kind] for kind in (True, False)}
    shared, alike = (nn.utils.get_total_norm(parts[kind]).square() for kind in (True, False))
    with answered():
        dist.all_reduce(shared)
    norm = (shared + alike).sqrt()
    torch._foreach_mul_([*parts[True], *parts[False]], (most / (norm + 1e-6)).clamp(max=1.0))
    return norm


def exchange(net: nn.Module, is_on: bool) -> None:
    """Whether the next backward pass adds up the gradients of all processes, or leaves them for a later one."""
    for module in _sharded(net):
        module.set_requires_gradient_sync(is_on, recurse=False)


def _called(net: nn.Module) -> nn.Module:
    """The part that is dealt out; what an objective learns beside it is a handful of numbers, and all hold them."""
    inner: nn.Module = net.inner if isinstance(net, Joined) else net
    return inner


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost elements of lists, of those that have weights."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from (one for one in child if next(one.parameters(), None) is not None)
        else:
            yield from blocks(child)


def _sharded(net: nn.Module) -> list[Any]:
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return [] if fsdp is None else [module for module in net.modules() if isinstance(module, fsdp.FSDPModule)]
