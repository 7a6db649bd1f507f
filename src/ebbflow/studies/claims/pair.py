"""The claims of the notes on a pair of runs: what is measured is kept, so that a second call goes on, and a page is
written."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path as FilePath
from typing import Any

import torch

from ebbflow.conditioning import LabelConditioning
from ebbflow.core.paths import VE, Flow
from ebbflow.documents import in_markdown, read_json
from ebbflow.errors import ConfigError, choose
from ebbflow.files import file_hash, write_text
from ebbflow.metrics.cache import key_of
from ebbflow.metrics.measure import check_num
from ebbflow.metrics.yardstick import yardstick_of
from ebbflow.progress import Work, retold
from ebbflow.requests.studies import ClaimsRequest
from ebbflow.runs.build import plain_objective
from ebbflow.runs.folder import Run, versions
from ebbflow.runs.opened import Opened
from ebbflow.runs.same_data import require_same_data, splits_of_run
from ebbflow.runs.sample import in_net_precision
from ebbflow.show.canvas import save_picture
from ebbflow.show.page import render
from ebbflow.studies.claims import CLAIMS, Claim, Finding, Side, Trial
from ebbflow.studies.evaluate import features_for, sides_of
from ebbflow.training.engine import pick_precision
from ebbflow.values import Wrong

NUM_ENTRIES = 256  # held-out entries that are kept at hand


def _check(request: ClaimsRequest) -> None:
    for name in request.only:
        choose(CLAIMS, name, "claim")
    if request.output.suffix != ".md":
        raise ConfigError(f"`output` wants a file ending in .md, got {request.output.name!r}.")


def _kept(request: ClaimsRequest) -> FilePath:
    """Where findings are kept: beside the page."""
    return request.output.with_suffix(".json")


def examine(diffusion: Opened, flow: Opened, how: ClaimsRequest, *, command: str = "") -> Work[dict[str, Any]]:
    """Measure the claims on two open runs; returns {"settings", "claims"}, which it has written as a page.

    Raises:
        ConfigError: models that are no runs or do not make a pair, or too few samples.
        DataError: the data is not what the runs were trained on.
    """
    _check(how)
    runs = run_of(diffusion), run_of(flow)
    check_pair_of_runs(*runs)
    settings = _settings(*runs, how)
    key = key_of(settings)
    settings |= {"notes": remarks(*runs), "command": command, "machine": machine()}
    found = read_kept(_kept(how), key)
    missing = [name for name in CLAIMS if (not how.only or name in how.only) and name not in found]
    trial = (yield from trial_of(diffusion, flow, how)) if missing else None
    for name in missing:
        assert trial is not None
        found[name] = yield from _measured(name, trial, how, command)
        _write(how, key, settings, found)
    return _write(how, key, settings, found)


def run_of(model: Opened) -> Run:
    """The run of a model, whose training the claims speak of.

    Raises:
        ConfigError: it has none.
    """
    if model.run is None:
        raise ConfigError(f"{model.name} is no run of ebbflow: its training, which the claims speak of, is not known.")
    return model.run


def _measured(name: str, trial: Trial, how: ClaimsRequest, command: str) -> Work[dict[str, Any]]:
    began = time.perf_counter()
    work = CLAIMS[name].measure(trial)
    finding = yield from retold(work, lambda stage: replace(stage, name=f"{name}: {stage.name}"))
    return _record(finding, how, command, time.perf_counter() - began)


def _record(finding: Finding, how: ClaimsRequest, command: str, seconds: float) -> dict[str, Any]:
    """A finding as JSON has it, its pictures written."""
    for title, picture in finding.pictures.items():
        save_picture(picture, how.output.parent / "images" / how.output.stem / f"{title}.png", command)
    return {
        "verdict": finding.verdict,
        "because": list(finding.because),
        "tables": [asdict(table) for table in finding.tables],
        "pictures": [f"{title}.png" for title in finding.pictures],
        "seconds": round(seconds, 1),
    }


def read_kept(path: FilePath, key: str) -> dict[str, Any]:
    """The findings of an earlier call with the same key; none where there are none."""
    try:
        kept = read_json(path)
        return {name: kept["claims"][name] for name in CLAIMS if name in kept["claims"]} if kept["key"] == key else {}
    except (OSError, Wrong, KeyError, TypeError):
        return {}


def _write(how: ClaimsRequest, key: str, settings: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    kept = {"key": key, "settings": settings, "claims": {name: found[name] for name in CLAIMS if name in found}}
    write_text(_kept(how), json.dumps(kept, indent=2) + "\n")
    every = {name: _said(claim) | found.get(name, {}) for name, claim in CLAIMS.items()}
    write_text(how.output, page(settings, every, f"images/{how.output.stem}"))
    chosen = {name: one for name, one in every.items() if "verdict" in one and (not how.only or name in how.only)}
    return {"settings": settings, "claims": chosen, "page": str(how.output)}


def _said(claim: Claim) -> dict[str, Any]:
    return {"statement": claim.statement, "place": claim.place, "asked": claim.asked}


# -- the pair ----------------------------------------------------------------------------------------------------------


def check_pair_of_runs(diffusion: Run, flow: Run) -> None:
    """Refuse runs that cannot be compared.

    Raises:
        ConfigError: the wrong kind of path, other data, another conditioning, or a latent space.
    """
    if isinstance(diffusion.config.path, Flow | VE):
        raise ConfigError(
            f"`diffusion`: {diffusion.folder} is a run on path {_kind(diffusion)!r}, and a variance-preserving one is "
            "wanted, such as the preset mnist_ddpm_unet trains."
        )
    if not isinstance(flow.config.path, Flow):
        raise ConfigError(
            f"`flow`: {flow.folder} is a run on path {_kind(flow)!r}, and one on path 'flow' is wanted, such as "
            "the preset mnist_flow_unet trains."
        )
    for run in (diffusion, flow):
        if run.facts.latent_dims is not None:
            raise ConfigError(f"{run.folder} works in a latent space; the claims are measured on runs without one.")
    require_same_data(diffusion, flow)
    if _labelled(diffusion) != _labelled(flow):
        raise ConfigError("one run takes a label and the other does not. Give two runs that do, or two that do not.")


def _kind(run: Run) -> str:
    return str(run.checkpoint.state["config"]["path"]["kind"])


def _labelled(run: Run) -> bool:
    return isinstance(run.config.conditioning, LabelConditioning)


def remarks(diffusion: Run, flow: Run) -> list[str]:
    """What a reader must know of the pair: where they differ in more than path and loss."""
    one, other = (budget(run) for run in (diffusion, flow))
    apart = [name for name in one if one[name] != other[name]]
    size = " x ".join(str(side) for side in diffusion.facts.dims)
    data = (
        f"Measured on the data set {diffusion.config.data.name!r} ({size}), models of {one['examples seen']} examples."
    )
    if not apart:
        return [f"{data} The two share their net, their conditioning and their training budget."]
    said = "; ".join(f"{name}: {one[name]} (diffusion), {other[name]} (flow)" for name in apart)
    return [f"{data} The two models differ in more than path and loss: {said}."]


def budget(run: Run) -> dict[str, str]:
    """What two comparable runs share."""
    state = run.checkpoint.state["config"]
    conditioning = state["conditioning"]
    return {
        "net": _flat(state["net"]),
        "conditioning": conditioning.get("injection", conditioning["kind"]),
        "examples seen": str(run.checkpoint.step * run.config.train.batch_size),
        "learning rate": str(run.config.train.lr),
    }


def _flat(section: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in section.items())


def _settings(diffusion: Run, flow: Run, how: ClaimsRequest) -> dict[str, Any]:
    """Everything that decides the numbers, and nothing of the machine."""
    found: dict[str, Any] = {"data": diffusion.config.data.name}
    for name, run in (("diffusion", diffusion), ("flow", flow)):
        state = run.checkpoint.state["config"]
        found |= {
            f"{name} run": f"{run.folder.name}, {run.checkpoint.step} steps of {run.config.train.batch_size}, averaged "
            "weights",
            f"{name} path": _flat(state["path"]),
            f"{name} objective": _flat(state["objective"]),
            f"{name} net": _flat(state["net"]),
            f"{name} conditioning": _flat(state["conditioning"]),
            f"{name} weights": file_hash(run.checkpoint.folder / "ema.safetensors"),
        }
    return found | {
        "samples a setting": how.num,
        "entries where each is looked at": how.few,
        "numbers of steps": ", ".join(str(num) for num in how.steps),
        "first seed": how.seed,
        "samples a network evaluation": how.batch_size,
        "features": how.features,
        "precision of many samples": how.precision,
        "versions": ", ".join(f"{k} {v}" for k, v in versions().items()),
    }


def machine() -> str:
    """The machine, as far as it matters for seconds."""
    return (
        f"{platform.machine()}, {os.cpu_count()} CPU cores, {torch.get_num_threads()} of them used; other work may "
        "have run beside it"
    )


# -- the trial ---------------------------------------------------------------------------------------------------------


def trial_of(diffusion: Opened, flow: Opened, how: ClaimsRequest) -> Work[Trial]:
    """Both models, the data and the features, ready to be measured."""
    device = diffusion.device
    splits, _ = (splits_of_run(run_of(model), how.data_dir) for model in (diffusion, flow))
    reference, other = sides_of(splits, "held_out", how.num)
    features = yield from features_for(splits, how.features, how.num, len(reference), device)
    check_num(how.num, features.map.dim, len(reference))
    yardstick = yield from yardstick_of(features, reference, other, splits.held_out)
    some = reference.select(torch.arange(min(NUM_ENTRIES, len(reference))))
    return Trial(
        diffusion=side_of("diffusion", diffusion, how),
        flow=side_of("flow", flow, how),
        x0=some.x0(torch.arange(len(some))).to(device),
        device=device,
        labels=some.labels if _labelled(run_of(diffusion)) else None,
        num_classes=some.num_classes,
        features_of=features.of,
        real=yardstick.real,
        other_real=yardstick.other,
        num=how.num,
        few=min(how.few, len(some)),
        steps=tuple(sorted(set(how.steps))),
        seed=how.seed,
        batch_size=how.batch_size,
    )


def side_of(name: str, model: Opened, how: ClaimsRequest) -> Side:
    """One of the two models, twice: in float32 and in the precision that many samples are made in."""
    return Side(
        name=name,
        denoiser=model.denoiser,
        quick=in_net_precision(model.denoiser, pick_precision(how.precision, model.device)),
        read=torch.tensor if model.reader is None else model.read,
        objective=plain_objective(run_of(model).config),
        grid="uniform" if name == "flow" else "trailing",
        ode="ddim",
        sde="sde" if name == "flow" else "ddpm",
    )


def page(settings: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]], pictures: str) -> str:
    """The page.

    Args:
        settings: what was measured on what; shown as a table but for "command" and "notes".
        found: a claim's record by name, in order; one with no "verdict" is still to be measured.
        pictures: the folder of the pictures, seen from the page.
    """
    shown = {name: value for name, value in settings.items() if name not in ("command", "notes")}
    said = {"notes": settings["notes"], "command": settings["command"], "settings": shown}
    return render("claims.md", found=found, pictures=pictures, entry=entry, **said)


def entry(value: Any) -> str:
    """A value, or a value +- its standard error with as many digits as the error allows."""
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(v, (int, float)) for v in value):
        return f"{value[0]:.3g} +- {value[1]:.2g}"
    if isinstance(value, (tuple, list)):
        return in_markdown(", ".join(map(str, value)))
    if isinstance(value, float):
        return f"{value:.3g}"
    return in_markdown(str(value))
