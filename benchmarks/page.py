"""The page that a run's JSON comes to: tables and pictures, no figure typed by hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import growth, machine
from benchmarks.aims import aims
from benchmarks.contest import METHODS
from benchmarks.figures import growth_figure, minutes_figure
from benchmarks.peers import PEERS, VARIANTS, Peer
from benchmarks.shared import LIMITS, NETS, TITLES
from ebbflow.files import write_text

SHOWN = {
    "ebbflow": "**ebbflow**",
    "ebbflow_fp32": "ebbflow in float32",
    "plain": "a plain PyTorch loop",
    **{name: peer.package for name, peer in PEERS.items()},
    **{name: f"{PEERS[peer].package} in bfloat16" for name, peer in VARIANTS.items()},
}
LABELS = {"ddim": "DDIM", "heun": "Heun", "dpmpp_2m": "DPM-Solver++(2M)"}
INTRODUCTION = """# How fast, beside the peers and beside the machine

Written by `python -m benchmarks` from `{results}`: no figure here is typed by hand, and one command makes them all
anew (`make bench`, or `--only step` and so on; `--help` says the rest). Ratios are taken within a round in which all
contestants have their turn, so a slow minute is everybody's; what stands in brackets is their least and greatest.
Peers are pinned releases from PyPI, each in its own environment and process, on the same PyTorch and the same number
of threads.
"""


def write_page(found: Mapping[str, Any], path: Path, results: str = "benchmarks/results/latest.json") -> None:
    """Write the page and its pictures, in images/ beside it, from a run's sections."""
    images = path.parent / "images"
    parts = [INTRODUCTION.format(results=results), *_aims(found)]
    for name, write in WRITERS.items():
        if name in found:
            parts += [_heading(name, found[name]["machine"]), *write(found, images)]
    write_text(path, "\n".join(parts) + _peers(found))


def _heading(name: str, facts: Mapping[str, Any]) -> str:
    kind = "processor time" if facts["clock"] == "processor" and name != "wall" else "wall clock"
    quiet = "" if facts["quiet"] else f" **Not quiet: load {facts['load']} at the start, so read the ratios only.**"
    quick = " **A quick run: no figure of it means anything.**" if facts["quick"] else ""
    bf16 = "with" if facts["avx512_bf16"] else "without"
    processor = f"{facts['processor']}, {facts['cores']} cores, CPU capability {facts['capability']}"
    threads = f"{facts['threads']} thread" + ("" if facts["threads"] == 1 else "s")
    versions = f"torch {facts['torch']}, Python {facts['python']}, ebbflow {facts['ebbflow']}"
    return (
        f"\n## {TITLE[name]}\n\n{processor} {bf16} bfloat16 products; {threads} ({kind}), {versions}, "
        f"{facts['date']}, {facts['minutes']} minutes.{quiet}{quick}\n"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _limit(found: Mapping[str, Any], images: Path) -> list[str]:
    rates = found["limit"]["rates"]
    kinds = [kind for kind in ("fp32", "bf16") if f"gemm_{kind}" in rates]
    titles = {"gemm": "matrix products", "conv": "3x3 convolutions", "conv_train": "the same, forward and backward"}
    rows = [[title, *(_giga(rates[f"{what}_{kind}"]) for kind in kinds)] for what, title in titles.items()]
    said = f"A copy in memory reads and writes {rates['bytes'] / 1e9:.1f} GB/s.\n"
    return [table(["best of a few shapes, GFLOP/s", *kinds], rows), said, *_fractions(found)]


def _fractions(found: Mapping[str, Any]) -> list[str]:
    """What training and sampling reach of the limit."""
    rows = []
    for section, what in (("step", "a training step"), ("sampling", "sampling by DDIM")):
        for (name, net), rate in _rates(found, section):
            rows.append([f"{what}, {TITLES[net]}", SHOWN[name], *_share(found, name, rate)])
    if not rows:
        return []
    head = ["", "", "GFLOP/s", "of the limit", "of convolutions in training"]
    return ["What is reached of it, counting the products and convolutions alone as work:\n", table(head, rows)]


def _rates(found: Mapping[str, Any], section: str) -> Iterator[tuple[tuple[str, str], float]]:
    """FLOP/s by contestant and net, where the section ran on as many threads as the limit was measured on."""
    threads = [found[one]["machine"]["threads"] for one in (section, "limit") if one in found]
    if len(threads) < 2 or threads[0] != threads[1]:
        return
    for net in NETS:
        for name in ("ebbflow", "ebbflow_fp32", "plain"):
            if (rate := _rate(found[section], section, net, name)) is not None:
                yield (name, net), rate


def _aims(found: Mapping[str, Any]) -> list[str]:
    """What is met of what was aimed at, and what is missed."""
    measured = found.get("limit", {}).get("rates", {})
    shares = {
        (name, net): rate / measured[f"{LIMITS[net]}_{_kind(found, name)}"]
        for (name, net), rate in _rates(found, "step")
        if name.startswith("ebbflow")
    }
    rows = [[one.what, one.aim, one.reached, "met" if one.met else "**missed**"] for one in aims(found, shares)]
    said = "What was tried for those that are missed is in [experiments](experiments.md).\n"
    return ["\n## What was aimed at\n", table(["", "aim", "reached", ""], rows), said] if rows else []


def _rate(section: Mapping[str, Any], kind: str, net: str, name: str) -> float | None:
    """FLOP/s of a training step or of a walk."""
    if kind == "step":
        seconds = section["nets"][net]["seconds"].get(name)
        return None if seconds is None else section["nets"][net]["flops"]["train"] / seconds
    walk = section["walks"][f"{net} ddim"]
    seconds = walk["seconds"].get(name)
    return None if seconds is None else section["flops"][net] * walk["evaluations"][name] / seconds


def _share(found: Mapping[str, Any], name: str, rate: float) -> list[str]:
    kind, rates = _kind(found, name), found["limit"]["rates"]
    limit, train = machine.limit(rates, kind), rates[f"conv_train_{kind}"]
    return [_giga(rate), f"{100 * rate / limit:.0f} % of {kind}", f"{100 * rate / train:.0f} %"]


def _kind(found: Mapping[str, Any], name: str) -> str:
    return "bf16" if name == "ebbflow" and "gemm_bf16" in found["limit"]["rates"] else "fp32"


def _step(found: Mapping[str, Any], images: Path) -> list[str]:
    section = found["step"]
    parts = [
        "Each library's own loop (data from memory, noise, forward, backward, optimiser, and what else its example "
        f"does) on one and the same net, batch {section['batch']} of 1x28x28. The best peer is the fastest as its "
        "example runs it, which is in float32.\n"
    ]
    for net, one in section["nets"].items():
        flops = one["flops"]
        rows = [
            [SHOWN[name], f"{1000 * s:.0f}", f"{section['batch'] / s:.0f}", _ratio(one, name), *_loop(section, name)]
            for name, s in sorted(one["seconds"].items(), key=lambda item: item[1])
        ]
        work = f"{flops['train'] / section['batch'] / 1e9:.2f} GFLOP a picture and step"
        title = f"**{TITLES[net]}**, {flops['parameters'] / 1e6:.1f} M parameters, {work}:\n"
        parts += [title, table(["", "ms a step", "pictures/s", f"x {_best(one)}", "its loop does", "loop"], rows)]
    return [*parts, _failed(section["failed"])]


def _loop(section: Mapping[str, Any], name: str) -> list[str]:
    facts = section["contestants"][name]
    return [facts["does"], facts["loop"]]


def _best(one: Mapping[str, Any]) -> str:
    return SHOWN[one["best_peer"]] if one["best_peer"] else "the best peer"


def _ratio(one: Mapping[str, Any], name: str) -> str:
    ratio = one["ratios"].get(name)
    return "" if ratio is None else f"{ratio['median']:.2f} ({ratio['least']:.2f}-{ratio['greatest']:.2f})"


def _sampling(found: Mapping[str, Any], images: Path) -> list[str]:
    section = found["sampling"]
    steps, batch = section["steps"], section["batch"]
    parts = [
        f"{steps} steps on the linear schedule of 1000, {batch} pictures of 1x28x28, every library on the same net.\n"
    ]
    for net in NETS:
        rows = []
        for method in METHODS:
            walk = section["walks"][f"{net} {method}"]
            for name, seconds in sorted(walk["seconds"].items(), key=lambda item: item[1]):
                calls = str(walk["evaluations"][name])
                rows.append([LABELS[method], SHOWN[name], f"{seconds:.2f}", calls, _ratio(walk, name), _best(walk)])
        parts += [f"**{TITLES[net]}**:\n", table(["", "", "s", "calls", "times as fast as", ""], rows)]
    return [*parts, *_free(section), *_overhead(section), *_start_up(section), _failed(section["failed"])]


def _free(section: Mapping[str, Any]) -> list[str]:
    sizes = sorted({int(key.split()[0]) for key in section["free"]})
    names = sorted({name for one in section["free"].values() for name in one["seconds"]}, key=list(SHOWN).index)
    rows = []
    for name in names:
        row = [SHOWN[name]]
        for method in METHODS:
            for size in sizes:
                seconds = section["free"][f"{size} {method}"]["seconds"].get(name)
                row.append("" if seconds is None else f"{1e6 * seconds / 50:.0f}")
        rows.append(row)
    head = ["", *(f"{LABELS[method]}, {size}" for method in METHODS for size in sizes)]
    said = (
        "What a step costs besides the net, microseconds, by method and number of pictures (Heun calls twice a step):\n"
    )
    return [said, table(head, rows)]


def _overhead(section: Mapping[str, Any]) -> list[str]:
    columns = list(next(iter(section["overhead"].values())))
    rows = [[name, *(f"{costs[column]:.0f}" for column in columns)] for name, costs in section["overhead"].items()]
    said = (
        "The same for every sampler of ours, 64 pictures, on the paths flow and vp_discrete, plain and with guidance, "
        "both of whose branches are counted:\n"
    )
    return [said, table(["us a step", *columns], rows)]


def _start_up(section: Mapping[str, Any]) -> list[str]:
    rows = [[what, f"{seconds:.2f}"] for what, seconds in section["start_up"].items()]
    return [table(["a fresh process, wall clock", "s"], rows)]


def _wall(found: Mapping[str, Any], images: Path) -> list[str]:
    section, rows = found["wall"], []
    for name, entry in section["entries"].items():
        for mark in entry["marks"]:
            num, calls, steps = (mark["scores"] or {}).get("num"), mark["evaluations"], mark["steps"]
            rows.append([SHOWN[name], f"{mark['minutes']:g}", *_scores(mark), _number(num), _number(calls), str(steps)])
    scored = ["Frechet distance", "label accuracy", "precision", "recall"]
    head = ["", "minutes", *scored, "samples", "evaluations", "steps"]
    said = (
        "Everybody trains what the example of the library trains on MNIST, one after the other; the samples at each "
        "mark cost no time of it and are drawn by the library's own sampler. The distance is between the features of "
        "our classifier, against the 10,000 test pictures; label accuracy is known of those that obey a class. "
        "Whom an earlier run on this machine measured is kept: minutes and load above are the last run's.\n"
    )
    settings = [
        [SHOWN[name], entry["settings"], entry["example"], str(entry.get("batch", ""))]
        for name, entry in section["entries"].items()
    ]
    minutes_figure(section["entries"], SHOWN, images / "performance_minutes.svg")
    return [
        said,
        table(head, rows),
        "![Frechet distance by minutes of training](images/performance_minutes.svg)\n",
        table(["", "what it trains", "from", "batch"], settings),
        _failed(section["failed"]),
    ]


def _scores(mark: Mapping[str, Any]) -> list[str]:
    scores = mark["scores"] or {}
    error = scores.get("frechet_error")
    spread = "" if error is None else f" +- {error:.2g}"
    rest = [_number(scores.get(key), 2) for key in ("label_accuracy", "precision", "recall")]
    return [_number(scores.get("frechet"), 2) + spread, *rest]


def _growth(found: Mapping[str, Any], images: Path) -> list[str]:
    section = {title: one for title, one in found["growth"].items() if title != "machine"}
    rows = [
        [
            title,
            f"{one['points'][0][one['axis']]} to {one['points'][-1][one['axis']]}",
            *(f"{one['points'][end]['seconds']:.3g}" for end in (0, -1)),
            *(f"{one['points'][end]['bytes'] / 2**20:.0f}" for end in (0, -1)),
            f"{one['seconds_slope']:.2f}",
            f"{one['bytes_slope']:.2f}",
            growth.reason(title, one["seconds_slope"]),
        ]
        for title, one in section.items()
    ]
    growth_figure(section, images / "performance_growth.svg")
    head = ["", "", "s, first", "s, last", "MiB, first", "MiB, last", "slope of time", "of memory", ""]
    said = (
        "A process a point; its memory is the most that it ever had, PyTorch included. Slopes are d log(cost) / "
        "d log(work) between the last two points: 1 is linear. Of an image's side the work is its pixels.\n"
    )
    return [said, table(head, rows), "![Time and memory as work grows](images/performance_growth.svg)\n"]


def _peers(found: Mapping[str, Any]) -> str:
    known = found.get("step", {}).get("contestants", {})
    rows = []
    for name, peer in PEERS.items():
        versions = known.get(name, {}).get("versions", {})
        installed = versions.get(peer.package) or peer.requirement.partition("==")[2]
        rows.append([peer.package, installed, f"`benchmarks/peers/{name}.py`", _stood_in(peer)])
    said = (
        "\n## The peers\n\nEach environment sees the PyTorch of this one; torchvision is in none of them, since its "
        "wheel does not load beside a CPU build of PyTorch, and the pictures come from memory for everybody. Where a "
        "library imports a package at its top that nothing here uses, an empty module stands in for it.\n\n"
    )
    return said + table(["", "release", "adapter", "stood in for"], rows)


def _stood_in(peer: Peer) -> str:
    return ", ".join(dict.fromkeys(name.partition(".")[0] for name in peer.without)) or "nothing"


def _failed(failed: Mapping[str, str]) -> str:
    lines = [f"- {name}: {why}" for name, why in failed.items()]
    return "Left out:\n\n" + "\n".join(lines) + "\n" if lines else ""


def _giga(rate: float) -> str:
    return f"{rate / 1e9:.0f}"


def _number(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:.{digits}f}"


TITLE = {
    "limit": "The machine's limit",
    "step": "A training step on the same net",
    "sampling": "Sampling from the same net",
    "wall": "The same wall clock, own choice",
    "growth": "Cost as work grows",
}
WRITERS = {"step": _step, "wall": _wall, "sampling": _sampling, "limit": _limit, "growth": _growth}
