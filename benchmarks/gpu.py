"""A device used well? Training and sampling of two nets against the rate of products on it, and against diffusers.

`python -m benchmarks.gpu` takes some twenty minutes on a GPU and writes benchmarks/results/gpu.json and gpu.md. Every
figure is of a process of its own, so that the memory is its own too. `--quick` does all of it with tiny nets, also on a
CPU: it shows that it works here, and no figure of it means anything.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor, nn

from benchmarks import machine
from benchmarks.arena import say
from benchmarks.environments import DEFAULT, ROOT, EnvironmentFailed, environment, python_of
from benchmarks.gpu_page import page
from benchmarks.shared import flops_of
from ebbflow.files import write_text
from ebbflow.nets.dit import DiTOptions
from ebbflow.nets.unet import UNetOptions

if TYPE_CHECKING:
    from ebbflow.methods.denoise import NetDenoiser

STEPS, WINDOWS, WALK = 20, 5, 50  # optimiser steps of a window, windows, steps of a walk
KINDS: dict[str, dict[str, str]] = {
    "fp32": {"precision": "fp32", "compile": "off", "products": "ieee"},
    "fp32, TF32 products": {"precision": "fp32", "compile": "off", "products": "tf32"},
    "bf16": {"precision": "bf16", "compile": "off", "products": "ieee"},
    "bf16, compiled": {"precision": "bf16", "compile": "on", "products": "ieee"},
}
PEER_KINDS = {"fp32": "no", "fp32, TF32 products": "no", "bf16": "bf16"}  # what accelerate calls them


@dataclass(frozen=True, kw_only=True)
class Net:
    """A net, what it is shown, and how many at once."""

    title: str
    options: Any
    dims: tuple[int, ...]
    batch: int
    walked: int


NETS = {
    "dit": Net(
        title="DiT-B/2 on latents of 32x32x4",
        options=DiTOptions(patch_size=2, dim=768, depth=12, num_heads=12),
        dims=(4, 32, 32),
        batch=256,
        walked=64,
    ),
    "unet": Net(
        title="U-Net on pictures of 32x32x3",
        options=UNetOptions(channels=(128, 256, 256, 256), num_blocks=(2, 2, 2, 3)),
        dims=(3, 32, 32),
        batch=256,
        walked=64,
    ),
}
TINY = {
    "dit": replace(
        NETS["dit"], options=DiTOptions(patch_size=2, dim=32, depth=1, num_heads=2), dims=(4, 8, 8), batch=4, walked=2
    ),
    "unet": replace(NETS["unet"], options=UNetOptions(channels=(8, 16)), dims=(3, 8, 8), batch=4, walked=2),
}


class Called(nn.Module):
    """A net as both libraries call it: (x, t) -> output, t a number or one a row."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = net.options.build(net.dims, net.dims[0], None)

    def forward(self, x: Tensor, t: Any, cond: object = None) -> Tensor:
        clock = torch.as_tensor(t, dtype=torch.float32, device=x.device).flatten().expand(len(x))
        out: Tensor = self.net(x, clock)
        return out


def flops(net: Net) -> dict[str, int]:
    """Parameters, and operations of one row: of a forward pass, and of a training step; nothing is computed."""
    with torch.device("meta"):
        model = Called(net)
        x, t = torch.empty(1, *net.dims), torch.empty(1)
        with torch.no_grad():
            forward = flops_of(model, x, t, backward=False)
        train = flops_of(model, x, t, backward=True)
    return {"parameters": sum(p.numel() for p in model.parameters()), "forward": forward, "train": train}


# -- in a process of its own -------------------------------------------------------------------------------------------


def synchronised(device: torch.device) -> float:
    """The time when all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peak(device: torch.device) -> int:
    """The most bytes of the device that tensors had at once; on a CPU, of memory that the process has had."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def multiply_by(products: str, device: torch.device) -> None:
    """Have a GPU multiply float32 so from now on: "ieee" or "tf32"."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.fp32_precision = products
        torch.backends.cudnn.conv.fp32_precision = products


def rates(device: torch.device, size: int) -> dict[str, float]:
    """FLOP/s of a square product in each precision, the best of ten rounds."""
    found = {}
    for name, dtype, products in (
        ("fp32", torch.float32, "ieee"),
        ("tf32", torch.float32, "tf32"),
        ("bf16", torch.bfloat16, "ieee"),
    ):
        multiply_by(products, device)
        a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
        seconds = []
        for _ in range(12):
            began = synchronised(device)
            for _ in range(4):
                a @ b
            seconds.append((synchronised(device) - began) / 4)
        found[name] = 2 * size**3 / min(seconds[2:])
    return found


def our_losses(net: Net, model: nn.Module, device: torch.device, kind: str) -> Iterator[None]:
    """Steps of the loop of `ebbflow train`: batches out of memory, its engine, optimiser and average."""
    from benchmarks.peers.ebbflow import InMemory
    from ebbflow.core.paths import Flow
    from ebbflow.methods.denoise import NetDenoiser
    from ebbflow.methods.objective import Objective
    from ebbflow.training.ema import EMA
    from ebbflow.training.engine import Engine
    from ebbflow.training.loop import fit
    from ebbflow.training.optim import adamw

    how: Any = {name: value for name, value in KINDS[kind].items() if name != "products"}
    steps = fit(
        NetDenoiser(net=model.to(device), path=Flow()),
        Objective(Flow(), times="logit_normal"),
        InMemory(torch.randn(4 * net.batch, *net.dims), net.batch),
        adamw(model.parameters(), lr=1e-4),
        num_steps=10**9,
        engine=Engine(device=str(device), **how),
        ema=EMA(model),
    )
    return (None for _ in steps)


def diffusers_losses(net: Net, model: nn.Module, device: torch.device, kind: str) -> Iterator[None]:
    """Steps of the loop of diffusers' example on the same net and batches; accelerate picks the device."""
    from torch.utils.data import DataLoader, TensorDataset

    from benchmarks.peers.diffusers import Entry

    entry = Entry()
    entry.precision = PEER_KINDS[kind]
    rows = TensorDataset(torch.randn(4 * net.batch, *net.dims), torch.zeros(4 * net.batch))
    loader: DataLoader[Any] = DataLoader(
        rows, batch_size=net.batch, shuffle=True, drop_last=True, pin_memory=device.type == "cuda"
    )
    return (None for _ in entry.trained(model, loader, net.batch).losses)


def trained(who: str, net: Net, device: torch.device, kind: str, quick: bool) -> dict[str, Any]:
    """Seconds a step: the median of windows that are synchronised at their ends alone; the first step's apart."""
    began = synchronised(device)
    losses = {"ebbflow": our_losses, "diffusers": diffusers_losses}[who](net, Called(net), device, kind)
    next(losses)
    first, each, steps = synchronised(device) - began, [], 2 if quick else STEPS
    for _ in range(1 if quick else WINDOWS + 1):
        began = synchronised(device)
        for _ in range(steps):
            next(losses)
        each.append((synchronised(device) - began) / steps)
    each = each if quick else each[1:]
    return {"seconds": median(each), "each": each, "first": first, "bytes": peak(device)}


def our_walk(model: nn.Module, net: Net, num_steps: int) -> Callable[[Tensor], Tensor]:
    """DDIM of ebbflow on the 1000 steps of a linear schedule."""
    from ebbflow.core.paths import VPDiscrete
    from ebbflow.core.times import TIME_GRIDS
    from ebbflow.methods.denoise import NetDenoiser
    from ebbflow.methods.samplers import SAMPLERS

    path = VPDiscrete()
    denoiser: NetDenoiser = NetDenoiser(net=model, path=path, prediction="eps")
    times = TIME_GRIDS["trailing"](path, num_steps)

    def walked(noise: Tensor) -> Tensor:
        *_, last = SAMPLERS["ddim"](denoiser, noise, times)
        return last.x

    return walked


def diffusers_walk(model: nn.Module, net: Net, num_steps: int) -> Callable[[Tensor], Tensor]:
    """The loop of diffusers' DDIMPipeline on the same schedule."""
    from benchmarks.peers.diffusers import Entry

    return Entry().walk(model, "ddim", num_steps)


def walked(who: str, net: Net, device: torch.device, kind: str, quick: bool) -> dict[str, Any]:
    """Seconds of a walk of `walked` samples, and from weights on the device to the first sample on the host."""
    dtype = torch.bfloat16 if KINDS[kind]["precision"] == "bf16" else torch.float32
    model = Called(net).to(device=device).eval()
    num_steps, began = 3 if quick else WALK, synchronised(device)
    model = model.to(dtype)
    walk = {"ebbflow": our_walk, "diffusers": diffusers_walk}[who](model, net, num_steps)
    wide = torch.float32 if who == "ebbflow" else dtype  # ebbflow keeps the state in float32, and casts for the net
    with torch.no_grad():
        walk(torch.randn(1, *net.dims).to(device=device, dtype=wide)).float().cpu()
        first, each = time.perf_counter() - began, []
        noise = torch.randn(net.walked, *net.dims).to(device=device, dtype=wide)
        for _ in range(1 if quick else WINDOWS + 1):
            began = synchronised(device)
            out = walk(noise)
            each.append(synchronised(device) - began)
    each = each if quick else each[1:]
    finite = bool(out.isfinite().all())
    return {"seconds": median(each), "each": each, "first": first, "bytes": peak(device), "finite": finite}


def noise(net: Net, quick: bool) -> dict[str, float]:
    """Seconds in which one thread of the host draws the noise of a batch, the median of twenty."""
    from ebbflow.training.task import Draw

    torch.set_num_threads(1)
    seconds = []
    for step in range(2 if quick else 20):
        began = time.process_time()
        Draw(seed=0, step=step, rows=range(net.batch), num=net.batch).normal(net.dims)
        seconds.append(time.process_time() - began)
    return {"seconds": median(seconds)}


def point(asked: dict[str, Any]) -> dict[str, Any]:
    """One figure, in this process."""
    device, quick = torch.device(asked["device"]), asked["quick"]
    if asked["what"] == "rates":
        return rates(device, 64 if quick else 8192)
    net = (TINY if quick else NETS)[asked["net"]]
    if asked["what"] == "noise":
        return noise(net, quick)
    multiply_by(KINDS[asked["kind"]]["products"], device)
    work = {"train": trained, "walk": walked}[asked["what"]]
    return work(asked["who"], net, device, asked["kind"], quick)


# -- all of them -------------------------------------------------------------------------------------------------------


def interpreters(cache: Path, wanted: bool) -> tuple[dict[str, str], str]:
    """Where each library runs, and why diffusers does not."""
    ours = {"ebbflow": sys.executable}
    if not wanted:
        return ours, "it was not asked for"
    try:
        return {**ours, "diffusers": str(python_of("diffusers", cache))}, ""
    except (EnvironmentFailed, OSError) as error:
        return ours, f"its environment could not be made: {error}"


def asked_of(python: str, asked: dict[str, Any]) -> dict[str, Any]:
    """A point's figures, or {"error": the last line that its process said}."""
    command = [python, "-m", "benchmarks.gpu", "--point", json.dumps(asked)]
    say(f"  {' '.join(str(asked.get(name, '')) for name in ('what', 'who', 'net', 'kind'))}")
    done = subprocess.run(command, env=environment(torch.get_num_threads()), cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        return {"error": said[-1]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def measured(device: str, quick: bool, cache: Path, peers: bool, kinds: Sequence[str]) -> dict[str, Any]:
    """Everything."""
    pythons, left_out = interpreters(cache, peers)
    how = {"device": device, "quick": quick}
    found: dict[str, Any] = {
        "machine": {**machine.facts(), "device": named(device), "date": datetime.now(UTC).date().isoformat()},
        "quick": quick,
        "left_out": left_out,
        "rates": asked_of(sys.executable, {"what": "rates", **how}),
        "nets": {},
    }
    for name, net in (TINY if quick else NETS).items():
        points = {
            f"{what} {who} {kind}": asked_of(python, {"what": what, "who": who, "net": name, "kind": kind, **how})
            for what in ("train", "walk")
            for kind in kinds
            for who, python in pythons.items()
            if not (kind not in PEER_KINDS and (who == "diffusers" or what == "walk"))
        }
        facts = {"title": net.title, "dims": net.dims, "batch": net.batch, "walked": net.walked, "steps": WALK}
        drawn = asked_of(sys.executable, {"what": "noise", "net": name, **how})
        found["nets"][name] = {**facts, **flops(net), "noise": drawn["seconds"], "points": points}
    return found


def named(device: str) -> str:
    """The device's name."""
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else device


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, store and write the page; or one point, as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__, allow_abbrev=False)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or, with --quick, cpu (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="tiny nets and two steps: no figures")
    parser.add_argument("--peers", choices=("diffusers", "none"), default="diffusers", help="beside whom (%(default)s)")
    parser.add_argument("--kinds", nargs="+", choices=tuple(KINDS), default=tuple(KINDS), help="of steps")
    parser.add_argument("--cache", type=Path, default=DEFAULT, help="environments (%(default)s)")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "gpu.json", help="the figures")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.point:
        print(json.dumps(point(json.loads(given.point))))
        return
    if torch.device(given.device).type == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no GPU here. `--quick --device cpu` shows that the benchmark works.")
    found = measured(given.device, given.quick, given.cache, given.peers != "none", given.kinds)
    write_text(given.json, json.dumps(found, indent=1) + "\n")
    write_text(given.json.with_suffix(".md"), page(found))
    print(page(found))


if __name__ == "__main__":
    main()
