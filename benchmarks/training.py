"""A training step of every library's own loop on the same net: data, forward, backward, optimiser and what else it
does."""

from __future__ import annotations

from contextlib import ExitStack
from statistics import median
from typing import Any

from benchmarks import machine
from benchmarks.arena import ContestantFailed, Handle, best, opened, ratios, say, turns
from benchmarks.options import Options
from benchmarks.peers import OURS, PEERS, VARIANTS
from benchmarks.shared import BATCH, NETS, shared_flops

QUICK_BATCH = 16  # the least that every library takes


def run(options: Options) -> dict[str, Any]:
    """Seconds a step of every contestant, all taking turns, and how they compare with the fastest peer."""
    batch, steps = (QUICK_BATCH, 2) if options.quick else (BATCH, 3)
    with ExitStack() as stack:
        handles, failed = entered(stack, options, (*OURS, *options.peers, *variants_of(options.peers)))
        facts = {name: handle.ask("facts", packages=packages_of(name)) for name, handle in handles.items()}
        nets = {net: _net(net, handles, failed, batch, steps, options) for net in NETS}
    return {"batch": batch, "steps": steps, "contestants": facts, "failed": failed, "nets": nets}


def variants_of(peers: tuple[str, ...]) -> tuple[str, ...]:
    """The variants of some peers that this processor can run in its lifetime: all of them are of bfloat16."""
    return tuple(name for name, peer in VARIANTS.items() if peer in peers and machine.multiplies_bf16())


def packages_of(name: str) -> list[str]:
    """The packages whose versions are told."""
    peer = PEERS.get(VARIANTS.get(name, name))
    return ["torch"] if peer is None else [peer.package]


def entered(stack: ExitStack, options: Options, names: tuple[str, ...]) -> tuple[dict[str, Handle], dict[str, str]]:
    """The contestants that start, and what the others died of."""
    handles, failed = {}, {}
    log = stack.enter_context((options.cache / "log.txt").open("a"))
    for name in names:
        say(f"  start {name}")
        try:
            handle = opened(name, cache=options.cache, threads=options.threads, data_dir=options.data_dir, log=log)
            handles[name] = stack.enter_context(handle)
        except ContestantFailed as error:
            failed[name] = str(error)
            say(f"  {name} is left out: {error}")
    return handles, failed


def _net(
    net: str, handles: dict[str, Handle], failed: dict[str, str], batch: int, steps: int, options: Options
) -> dict[str, Any]:
    """The step on one net."""
    losses: dict[str, list[float]] = {name: [] for name in handles}

    def seconds(name: str) -> float:
        answer = handles[name].ask("steps", num=steps)
        losses[name] += answer["losses"]
        return float(answer["seconds"]) / steps

    for name in list(handles):
        try:
            handles[name].ask("shared", net=net, batch=batch)
            handles[name].ask("steps", num=1)
        except ContestantFailed as error:
            failed[f"{name} on {net}"] = str(error)
    names = [name for name in handles if f"{name} on {net}" not in failed]
    say(f"  steps of {net}: {', '.join(names)}")
    found = turns(names, seconds, 1 if options.quick else options.repeat)
    peer = best(found, [name for name in names if name in PEERS])
    return {
        "flops": shared_flops(net, batch),
        "seconds": {name: median(values) for name, values in found.items()},
        "each": found,
        "best_peer": peer,
        "ratios": {} if peer is None else ratios(found, peer),
        "losses": losses,
    }
