"""The page of what was measured on a GPU."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

AIMS = {"of the GEMM rate": 0.5, "of diffusers' loop": 1.5, "seconds to the first sample": 3.0}


def utilisation(net: dict[str, Any], point: dict[str, Any], rate: float) -> float:
    """Operations a second of training over the rate of products: of the model alone, none counted twice."""
    return float(net["train"] * net["batch"] / point["seconds"] / rate)


def page(found: dict[str, Any]) -> str:
    """What was measured, in words."""
    facts, rate = found["machine"], found["rates"].get("bf16", math.nan)
    lines = [
        f"# {facts['device']}",
        "",
        f"Measured on {facts['date']} with PyTorch {facts['torch']}, by `python -m benchmarks.gpu`; products of "
        + ", ".join(f"{value / 1e12:.3g} TFLOP/s in {name}" for name, value in found["rates"].items())
        + ".",
        *(["", "**A quick run: no figure of it means anything.**"] if found["quick"] else []),
        *(["", f"diffusers is left out: {found['left_out']}."] if found["left_out"] else []),
    ]
    for net in found["nets"].values():
        lines += ["", f"## {net['title']}, {net['parameters'] / 1e6:.0f} million parameters", "", *_table(net, rate)]
    return "\n".join([*lines, "", "## What was aimed at", "", *aims(found), ""])


def _table(net: dict[str, Any], rate: float) -> Iterator[str]:
    yield (
        f"Training with batches of {net['batch']}, {net['steps']} steps of DDIM for {net['walked']} samples. The noise "
        f"of a batch takes one thread of the host {1000 * net['noise']:.1f} ms, while the device works on the step "
        "before."
    )
    yield ""
    yield "| | | images or samples a second | of the bf16 GEMM rate | against diffusers | first | memory |"
    yield "|---|---|---|---|---|---|---|"
    for name, got in net["points"].items():
        what, who, kind = name.split(" ", 2)
        if "error" in got:
            yield f"| {what}, {kind} | {who} | failed: {got['error']} | | | | |"
            continue
        num = net["batch"] if what == "train" else net["walked"]
        share = f"{utilisation(net, got, rate):.0%}" if what == "train" else ""
        ratio = against(net, what, kind) if who == "ebbflow" else None
        yield (
            f"| {what}, {kind} | {who} | {num / got['seconds']:.4g} | {share} | "
            f"{'' if ratio is None else f'x {ratio:.2f}'} | {got['first']:.2f} s | {got['bytes'] / 1e9:.2f} GB |"
        )


def against(net: dict[str, Any], what: str, kind: str) -> float | None:
    """How many times as fast as diffusers in the same precision; its uncompiled loop where it has no other."""
    plain = kind.removesuffix(", compiled")
    ours, theirs = (net["points"].get(f"{what} {who} {k}", {}) for who, k in (("ebbflow", kind), ("diffusers", plain)))
    return theirs["seconds"] / ours["seconds"] if "seconds" in ours and "seconds" in theirs else None


def aims(found: dict[str, Any]) -> Iterator[str]:
    """Each aim and whether it was reached."""
    net, rate = found["nets"]["dit"], found["rates"].get("bf16", math.nan)
    points = {name: got for name, got in net["points"].items() if "error" not in got}
    training = [name for name in points if name.startswith("train ebbflow bf16")]
    shares = [utilisation(net, points[name], rate) for name in training]
    ratios = [against(net, "train", name.removeprefix("train ebbflow ")) for name in training]
    firsts = [points[name]["first"] for name in points if name.startswith("walk ebbflow")]
    best = {
        "of the GEMM rate": max(shares, default=None),
        "of diffusers' loop": max((ratio for ratio in ratios if ratio is not None), default=None),
        "seconds to the first sample": max(firsts, default=None),
    }
    for name, aim in AIMS.items():
        got, least = best[name], name.startswith("of")
        verdict = "not measured" if got is None else "reached" if (got >= aim if least else got <= aim) else "missed"
        number = "" if got is None else f": {got:.2f}"
        yield f"- {'at least' if least else 'at most'} {aim} {name}{number}, {verdict}"
