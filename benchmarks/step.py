"""What the training step gains over the loop that anybody would write, and how near it is to the machine's limit.

`OMP_NUM_THREADS=1 python -m benchmarks.step` takes a few minutes. Both train the same net on the same batches, in
processes of their own that take turns; one thread is timed on the processor's clock, more on the wall's. On a CPU with
AVX512 everything is measured again with AVX2 alone, as most laptops have it. `--only dit`, `--rounds 9`, `--json FILE`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import machine
from benchmarks.arena import Handle, ratios, say, turns
from benchmarks.environments import ROOT, environment
from benchmarks.shared import BATCH, LIMITS, NETS, TITLES, shared_flops
from ebbflow.files import write_text

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
CONTESTANTS = {"plain": "fp32", "ebbflow_fp32": "fp32", "ebbflow": "bf16"}  # and what each multiplies in


def kinds() -> dict[str, dict[str, str]]:
    """The processors that this one can be, and the variables that make it so."""
    found: dict[str, dict[str, str]] = {torch.backends.cpu.get_cpu_capability(): {}}
    return found | ({"AVX2 alone": AVX2} if "AVX512" in next(iter(found)) else {})


def measured(nets: Sequence[str], variables: Mapping[str, str], rounds: int, data_dir: Path | None) -> dict[str, Any]:
    """Rates of a kind of processor, and on it seconds a step, ratios to the plain loop and fractions of the rates."""
    env = {**environment(torch.get_num_threads(), data_dir), **variables}
    rates = _rates(env)
    names = [name for name, precision in CONTESTANTS.items() if precision == "fp32" or not variables]
    names = names if "gemm_bf16" in rates else [name for name in names if CONTESTANTS[name] == "fp32"]
    with ExitStack() as stack:
        place = [] if data_dir is None else [str(data_dir)]
        handles = {
            name: stack.enter_context(Handle([sys.executable, "-m", "benchmarks.child", name, *place], env))
            for name in names
        }
        return {"rates": rates, "nets": {net: _net(net, handles, rates, rounds) for net in nets}}


def _rates(env: Mapping[str, str]) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.machine"]
    said = subprocess.run(command, env=dict(env), cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found: dict[str, float] = json.loads(said)["rates"]
    return found


def _net(net: str, handles: Mapping[str, Handle], rates: Mapping[str, float], rounds: int) -> dict[str, Any]:
    losses: dict[str, list[float]] = {name: [] for name in handles}

    def seconds(name: str) -> float:
        answer = handles[name].ask("steps", num=1)
        losses[name] += answer["losses"]
        return float(answer["seconds"])

    for handle in handles.values():
        handle.ask("shared", net=net, batch=BATCH)
        handle.ask("steps", num=1)  # the first step is not counted
    found, flops = turns(handles, seconds, rounds), shared_flops(net, BATCH)["train"]
    return {
        "flops": flops,
        "seconds": found,
        "ratios": ratios(found, "plain"),
        "fractions": {name: fraction(flops, found[name], rates, net, CONTESTANTS[name]) for name in found},
        "losses": losses,
    }


def fraction(flops: float, seconds: Sequence[float], rates: Mapping[str, float], net: str, precision: str) -> float:
    """Operations a second of the median step over the rate that bounds them."""
    return flops / median(seconds) / rates[f"{LIMITS[net]}_{precision}"]


def table(found: Mapping[str, Any]) -> str:
    """The results as lines of text."""
    lines = []
    for kind, section in found["kinds"].items():
        rates = {name: f"{value / 1e9:.0f}" for name, value in section["rates"].items() if name != "bytes"}
        lines.append(f"{kind}: " + ", ".join(f"{name} {value} GFLOP/s" for name, value in rates.items()))
        for net, of in section["nets"].items():
            lines.append(f"  {TITLES[net]}, batch {BATCH}")
            for name, seconds in of["seconds"].items():
                ratio = of["ratios"][name]
                lines.append(
                    f"    {name:13}{1000 * median(seconds):7.0f} ms  x {ratio['median']:.2f} ({ratio['least']:.2f} to "
                    f"{ratio['greatest']:.2f})  {100 * of['fractions'][name]:3.0f} % of the rate"
                )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__, allow_abbrev=False)
    parser.add_argument("--only", choices=tuple(NETS), help="one of the nets")
    parser.add_argument("--kind", choices=tuple(kinds()), help="one kind of processor")
    parser.add_argument("--rounds", type=int, default=7, help="of each, after one that is not counted (%(default)s)")
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("EBBFLOW_DATA"), help="where MNIST lies")
    parser.add_argument("--json", type=Path, help="a file for everything that was measured")
    asked = parser.parse_args(arguments)
    found: dict[str, Any] = {"machine": machine.facts(), "batch": BATCH, "rounds": asked.rounds, "kinds": {}}
    for kind, variables in kinds().items():
        if asked.kind in (None, kind):
            say(f"{kind}, load {os.getloadavg()[0]:.1f}")
            nets = list(NETS) if asked.only is None else [asked.only]
            found["kinds"][kind] = measured(nets, variables, asked.rounds, asked.data_dir)
    if asked.json is not None:
        write_text(asked.json, json.dumps(found, indent=1) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
