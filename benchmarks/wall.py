"""The same wall clock, own choice: every library trains what its own example trains on MNIST, and is scored on what it
samples at each mark."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.arena import ContestantFailed, Handle, say
from benchmarks.environments import ROOT, environment
from benchmarks.options import Options
from benchmarks.training import entered, packages_of
from ebbflow.data import load_dataset
from ebbflow.methods.samplers import SAMPLERS

MACHINE = ("processor", "capability", "avx512_bf16", "threads", "torch")  # what has to agree
SCORES = ("frechet", "label_accuracy", "precision", "recall")


def run(options: Options, kept: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What each has at each mark; one contestant at a time, alone on the machine. Yields after each, since all of them
    take hours: on the same machine an earlier run's stay, of those that were not asked for or need no second one."""
    num = 4 if options.quick else options.samples
    load_dataset("mnist", data_dir=options.data_dir)  # downloaded where it is missing, before anybody's clock runs
    asked = ("ebbflow", *options.peers)
    found = {n: one for n, one in _earlier(kept, "entries", options).items() if n not in asked or _has(one, options)}
    failed = {n: why for n, why in _earlier(kept, "failed", options).items() if n not in asked}
    for name in asked:
        if name in found:
            say(f"  {name} is kept")
            continue
        say(f"  {name}")
        try:
            entry = _ours(options, num) if name == "ebbflow" else _theirs(name, options, num, failed)
            found |= {} if entry is None else {name: entry}
        except (ContestantFailed, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            failed[name] = said.strip().splitlines()[-1]
            say(f"  {name} is left out: {failed[name]}")
        yield {"entries": found, "failed": failed}
    yield {"entries": found, "failed": failed}


def _earlier(kept: Mapping[str, Any], what: str, options: Options) -> dict[str, Any]:
    """What an earlier run on this machine found of each contestant."""
    here, there = machine.facts(), kept.get("machine", {})
    same = not options.quick and all(there.get(key) == here[key] for key in MACHINE)
    return dict(kept[what]) if same else {}


def _has(entry: Mapping[str, Any], options: Options) -> bool:
    """Whether a contestant has every mark that is asked for, with as many samples."""
    scored = {mark["minutes"]: mark["scores"]["num"] for mark in entry["marks"]}
    return all(scored.get(minutes, 0) >= options.samples for minutes in options.minutes)


def _theirs(name: str, options: Options, num: int, failed: dict[str, str]) -> dict[str, Any] | None:
    """A peer: one run, which is sampled at each mark; sampling does not count."""
    with ExitStack() as stack:
        handles, died = entered(stack, options, (name,))
        failed |= died
        if name not in handles:
            return None
        handle = handles[name]
        facts, own = handle.ask("facts", packages=packages_of(name)), handle.ask("own")
        if not own:
            failed[name] = "it ships no net and no example on pictures like these"
            return None
        handle.ask("steps", num=1)  # not counted: some compile in it
        marks, before = [], {"seconds": 0.0, "steps": 1}
        for minutes in options.minutes:
            marks.append(_mark(handle, name, minutes, before, num, options))
            before = {"seconds": 60 * minutes, "steps": marks[-1]["steps"]}
    for mark in marks:
        mark["scores"] = None if options.quick else score(options.cache / mark["file"], options)
    return {**facts, **own, "marks": marks}


def _mark(
    handle: Handle, name: str, minutes: float, before: dict[str, Any], num: int, options: Options
) -> dict[str, Any]:
    """Train to a mark and sample there."""
    trained = handle.ask("train", seconds=60 * minutes - before["seconds"], most=2 if options.quick else None)
    file = options.cache / "samples" / f"{name}-{minutes:g}min.npz"
    drawn = handle.ask("draw", num=num, file=str(file))
    say(f"    {minutes:g} min: {before['steps'] + trained['steps']} steps, loss {trained['losses'][-1]:.3g}")
    return {
        "minutes": minutes,
        "steps": before["steps"] + trained["steps"],
        "loss": [trained["losses"][0], sum(trained["losses"][3:]) / max(1, len(trained["losses"][3:]))],
        "evaluations": drawn["evaluations"],
        "sampling_seconds": drawn["seconds"],
        "file": str(file.relative_to(options.cache)),
    }


def recipe(minutes: float) -> str:
    """The preset for a budget: the longest that is made for no more minutes, else the shortest."""
    known = {int(found[1]): path.stem for path in (ROOT / "configs").glob("*.toml") if (found := _minutes(path.stem))}
    if not known:
        raise ContestantFailed("there is no preset mnist_*min")
    return known[max((m for m in known if m <= minutes), default=min(known))]


def _minutes(name: str) -> re.Match[str] | None:
    return re.fullmatch(r"mnist_(\d+)min", name)


def _ours(options: Options, num: int) -> dict[str, Any]:
    """ebbflow by its own commands, a run for each mark, since its presets shape the learning rate by the budget."""
    marks = [_run(minutes, num, options) for minutes in options.minutes]
    for mark in marks:
        mark["scores"] = None if options.quick else score(options.cache / mark["file"], options)
    card = "presets by budget, sampled as the presets say"
    return {"example": "configs/mnist_*min.toml", "settings": card, "conditional": True, "marks": marks}


def _run(minutes: float, num: int, options: Options) -> dict[str, Any]:
    """One budget."""
    preset, folder = recipe(minutes), options.cache / "runs" / f"{minutes:g}min{'-quick' if options.quick else ''}"
    file = options.cache / "samples" / f"ebbflow-{minutes:g}min.npz"
    file.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["rm", "-rf", str(folder)], check=True)
    budget = "train.num_steps=2" if options.quick else f"train.minutes={minutes:g}"
    began = time.perf_counter()
    _ebbflow(["train", "--preset", preset, "--save-dir", str(folder), "--set", budget], options)
    trained = time.perf_counter()
    sample = ["sample", "--ckpt", str(folder), "--num", str(num), "--output", str(file), "--json"]
    said = json.loads(_ebbflow(sample, options))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = max((row.get("step", 0) for row in rows), default=0)
    say(f"    {minutes:g} min: {preset}, {steps} steps")
    return {
        "minutes": minutes,
        "preset": preset,
        "steps": steps,
        "process_seconds": trained - began,
        "sampling_seconds": time.perf_counter() - trained,
        "evaluations": evaluations(said),
        "sampled": {key: said.get(key) for key in ("sampler", "num_steps", "guidance")},
        "file": str(file.relative_to(options.cache)),
    }


def evaluations(said: dict[str, Any]) -> float | None:
    """Network evaluations a sample, of what `ebbflow sample --json` says of itself; both branches of guidance count."""
    calls = SAMPLERS[str(said["sampler"])].evaluations(said["num_steps"])
    return None if calls is None else calls * (1 if said.get("guidance") in (None, 0, 1) else 2)


def score(file: Path, options: Options) -> dict[str, Any]:
    """Frechet distance to the held-out pictures of MNIST in the features of its classifier, and what else is known of
    samples, from the command that anybody may run."""
    told = ["evaluate-images", "--images", str(file), "--data", "mnist", "--json"]
    where = [] if options.data_dir is None else ["--data-dir", str(options.data_dir)]
    said = json.loads(_ebbflow([*told, *where], options))
    errors = {f"{key}_error": said["standard_errors"].get(key) for key in SCORES}
    return {"num": said["num"], **{key: said.get(key) for key in SCORES}, **errors}


def _ebbflow(arguments: list[str], options: Options) -> str:
    env = environment(options.threads, options.data_dir)
    done = subprocess.run(
        [sys.executable, "-m", "ebbflow", *arguments], check=True, env=env, capture_output=True, text=True
    )
    return done.stdout
