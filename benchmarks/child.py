"""A contestant in its own process and environment: JSON lines in, JSON lines out. `python -m benchmarks.child NAME`.

Requests, each with a field "do": "facts"; "shared" (net, batch), then "steps" (num) as often as wanted; "walk" (net,
method, steps, batch); "own", then "train" (seconds, most) and "draw" (num, file) as often as wanted. An answer has
"error" where something failed; whatever a library prints goes to standard error.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.modules.module import register_module_forward_hook

from benchmarks import machine
from benchmarks.contest import PIECE, Contestant, Training, Walk
from benchmarks.shared import DIMS, Free, Shared


class Child:
    """The requests, a method each."""

    def __init__(self, name: str, data_dir: str | None) -> None:
        module = importlib.import_module(f"benchmarks.peers.{name}")
        self.contestant: Contestant = module.Entry(data_dir)
        self.training: Training | None = None
        self.walks: dict[str, tuple[Walk, type, torch.Tensor]] = {}

    def facts(self, packages: list[str]) -> dict[str, Any]:
        """Versions, and where its loops come from."""
        found = {"loop": self.contestant.loop, "does": self.contestant.does, "example": self.contestant.example}
        return {**found, "versions": {name: _version(name) for name in packages}, "threads": torch.get_num_threads()}

    def shared(self, net: str, batch: int) -> dict[str, Any]:
        """Begin the loop on a shared net."""
        self.training = self.contestant.shared(Shared(net), batch)
        return {"batch": self.training.batch_size}

    def steps(self, num: int) -> dict[str, Any]:
        """Take optimiser steps; the seconds of all of them."""
        assert self.training is not None
        now = machine.clock()
        began = now()
        losses = [next(self.training.losses) for _ in range(num)]
        return {"seconds": now() - began, "losses": losses}

    def walk(self, net: str, method: str, steps: int, batch: int) -> dict[str, Any]:
        """One walk of a sampler; the seconds of it and the calls of the net; {} where the library has none such."""
        key = f"{net} {method} {steps} {batch}"
        if key not in self.walks:
            model = (Free(batch) if net == "free" else Shared(net)).eval()
            walk = self.contestant.walk(model, method, steps)
            if walk is None:
                return {}
            self.walks[key] = walk, type(model), torch.randn(batch, *DIMS)
        walk, kind, noise = self.walks[key]
        now = machine.clock()
        with torch.no_grad(), counted_calls(kind) as calls:
            began = now()
            out = walk(noise)
            seconds = now() - began
        return {"seconds": seconds, "evaluations": len(calls), "finite": bool(torch.isfinite(out).all())}

    def own(self) -> dict[str, Any]:
        """Begin the library's own example; {} where it has none."""
        self.training = self.contestant.own()
        if self.training is None:
            return {}
        return {
            "batch": self.training.batch_size,
            "parameters": sum(p.numel() for p in self.training.net.parameters()),
            "settings": self.training.settings,
            "conditional": self.training.conditional,
        }

    def train(self, seconds: float, most: int | None = None) -> dict[str, Any]:
        """Train for so many seconds of wall clock, or `most` steps."""
        assert self.training is not None
        began, losses = time.perf_counter(), []
        while time.perf_counter() - began < seconds and (most is None or len(losses) < most):
            losses.append(next(self.training.losses))
        return {"seconds": time.perf_counter() - began, "steps": len(losses), "losses": losses[:3] + losses[-100:]}

    def draw(self, num: int, file: str) -> dict[str, Any]:
        """Write samples as u8 and the classes that were asked for into an .npz."""
        assert self.training is not None and self.training.draw is not None
        labels, began = torch.arange(num) % 10, time.perf_counter()
        with torch.no_grad(), counted_calls(type(self.training.net)) as calls:
            x = self.training.draw(num, labels).float().nan_to_num().clamp(-1, 1)
        seconds = time.perf_counter() - began
        images = ((x + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, arr_0=images, **({"arr_1": labels.numpy()} if self.training.conditional else {}))
        return {"seconds": seconds, "evaluations": len(calls) / -(-num // PIECE), "std": float(x.std())}

    def peak(self) -> dict[str, Any]:
        """The most memory that this process has had, bytes."""
        return {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)}


@contextmanager
def counted_calls(kind: type) -> Iterator[list[None]]:
    """A list that grows with every call of a module of a class, whether it is the net itself or a copy of it."""
    calls: list[None] = []

    def count(module: Any, *_: Any) -> None:
        if type(module) is kind:
            calls.append(None)

    hook = register_module_forward_hook(count)
    try:
        yield calls
    finally:
        hook.remove()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def serve(child: Child, lines: Any, answer: Callable[[str], object]) -> None:
    """Answer every line until they end."""
    for line in lines:
        request = json.loads(line)
        try:
            found = getattr(child, request.pop("do"))(**request)
        except Exception as error:
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {error}"}
        answer(json.dumps(found))


def main(name: str, data_dir: str | None = None) -> None:
    """Serve standard input; whatever libraries print goes elsewhere."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    torch.manual_seed(0)
    try:
        child = Child(name, data_dir)
    except Exception as error:
        traceback.print_exc()
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=out)
        return
    print("{}", file=out)
    serve(child, sys.stdin, lambda text: print(text, file=out))


if __name__ == "__main__":
    main(*sys.argv[1:])
