"""What was aimed at, and how far it is reached: read from a run's figures, as everything on the page is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from benchmarks.shared import TITLES

STEP = {"ebbflow": {"dit": 2.4, "unet": 1.9}, "ebbflow_fp32": {"dit": 1.25, "unet": 1.25}}  # times the best peer's rate
OF_THE_MACHINE = 0.7  # of what matrix products (DiT) or convolutions in training (U-Net) reach alone
FRECHET, ACCURACY = {1.0: 10.0, 6.0: 1.5, 30.0: 0.9}, {6.0: 0.98}  # by minutes
NAMES = {"frechet": "Frechet distance", "label_accuracy": "label accuracy"}
COLD, SECONDS = "16 samples of 8x8 digits, 10 steps", 3.0
SAMPLES, MEMORY = "`ebbflow sample` by number of samples", 1.2  # the memory of one batch, with what a process varies


class Aim(NamedTuple):
    """A row: what, the aim and what was reached in words, and whether it is met."""

    what: str
    aim: str
    reached: str
    met: bool


def aims(found: Mapping[str, Any], shares: Mapping[tuple[str, str], float]) -> Iterator[Aim]:
    """The rows that a run's sections allow.

    Args:
        found: the sections.
        shares: by contestant and net, what a training step reaches of the rate of its kind of products.
    """
    for name, wanted in STEP.items() if "step" in found else ():
        for net, least in wanted.items():
            ratio = found["step"]["nets"][net]["ratios"].get(name)
            if ratio is not None:
                reached = f"x {ratio['median']:.2f}"
                what = f"{_step(name, net)}, beside the fastest peer's loop"
                yield Aim(what, f"x {least:g}", reached, ratio["median"] >= least)
    for (name, net), share in shares.items():
        what = f"{_step(name, net)}, of the rate of {'matrix products' if net == 'dit' else 'convolutions'}"
        yield Aim(what, f"{OF_THE_MACHINE:.0%}", f"{share:.0%}", round(share, 2) >= OF_THE_MACHINE)
    yield from _pictures(found)
    seconds = found.get("sampling", {"start_up": {}})["start_up"].get(COLD)
    if seconds is not None:
        yield Aim(f"a cold process: {COLD}", f"{SECONDS:g} s", f"{seconds:.1f} s", seconds <= SECONDS)
    if SAMPLES in found.get("growth", {}):
        first, *_, last = found["growth"][SAMPLES]["points"]
        much = f"{last['bytes'] / 2**20:.0f} MiB for {last['num']:,}, {first['bytes'] / 2**20:.0f} for {first['num']}"
        yield Aim("samples need the memory of one batch", "one batch", much, last["bytes"] <= MEMORY * first["bytes"])


def _step(name: str, net: str) -> str:
    return f"a training step, {TITLES[net]}, {'float32' if name.endswith('fp32') else 'bfloat16'}"


def _pictures(found: Mapping[str, Any]) -> Iterator[Aim]:
    """What ebbflow's own presets score: each mark is held to the aim for its minutes, or else for the next more."""
    section = found.get("wall", {"entries": {}})
    for mark in section["entries"].get("ebbflow", {"marks": []})["marks"]:
        took, scores = mark["minutes"] * section["machine"]["threads"] / 2, mark["scores"] or {}
        for key, limits, words in (("frechet", FRECHET, "at most"), ("label_accuracy", ACCURACY, "at least")):
            minutes, reached = min((m for m in limits if m >= took), default=None), scores.get(key)
            if minutes is None or reached is None:
                continue
            unit, what = "minute" if minutes == 1 else "minutes", NAMES[key]
            what = f"MNIST within {minutes:g} {unit} of two cores (here {took:g}): {what}"
            met = reached <= limits[minutes] if words == "at most" else reached >= limits[minutes]
            error = scores.get(f"{key}_error") or 0.0
            yield Aim(what, f"{words} {limits[minutes]:g}", f"{reached:.3g} +- {error:.1g}", met)
