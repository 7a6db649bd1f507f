"""Exports: a run as a folder that other programs open, with a card, and such a folder on the Hugging Face hub."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ebbflow import hub
from ebbflow.config import to_dict
from ebbflow.errors import ConfigError, choose, missing
from ebbflow.files import save_tensors, whole_folder, write_text
from ebbflow.interop.card import ModelCard, sample_picture
from ebbflow.interop.programs import OUTPUTS, described, programs_of, traced
from ebbflow.methods.denoise import NetDenoiser
from ebbflow.requests.base import narrowed
from ebbflow.requests.tools import ExportRequest, PushRequest
from ebbflow.runs.folder import CONFIG, describe
from ebbflow.runs.latent_files import FILE, save_space
from ebbflow.runs.model import Model
from ebbflow.runs.opened import as_latent_space

SHIPPED = Path(__file__).with_name("shipped")
KEPT = ("step", "samples_seen", "minutes", "ema_length", "versions", "plugins")  # of a checkpoint's state
BESIDE = ("grids.json", "x0_variance_ema.json", "x0_variance_raw.json")  # what was measured of a checkpoint
PLACES = (("data", "name"), ("latent", "autoencoder"), ("init", "run"), ("teacher", "run"))  # may be paths


@dataclass(frozen=True, kw_only=True)
class Written:
    """What an exporter has to say of its folder: the library that opens it, and how, in Python that knows `folder`."""

    library: str
    use: str


Exporter = Callable[[Model, Path], Written]


def to_safetensors(model: Model, folder: Path) -> Written:
    """Weights as model.safetensors, everything else as config.json: what `ef.open` reads, from a hub too."""
    run = model.require_run("only those are exported")
    assert isinstance(model.denoiser, NetDenoiser) and isinstance(model.denoiser.net, torch.nn.Module)
    save_tensors(model.denoiser.net.state_dict(), folder / "model.safetensors", {"format": "pt"})
    if (space := as_latent_space(model.space)) is not None:
        save_space(space, folder / FILE)
    state = {name: run.checkpoint.state[name] for name in KEPT if name in run.checkpoint.state}
    said = {**describe(run.config, run.facts), **state, "exported": model.weights}
    said["config"] = _without_places(to_dict(run.config))
    write_text(folder / CONFIG, json.dumps(said, indent=2))
    for name in BESIDE:
        if (run.checkpoint.folder / name).is_file():
            shutil.copyfile(run.checkpoint.folder / name, folder / name)
    return Written(
        library="ebbflow",
        use='import ebbflow as ef\n\nmodel = ef.open(folder)\nmodel.sample().save("samples.png")',
    )


def to_torch_export(model: Model, folder: Path) -> Written:
    """Traced programs for PyTorch alone, any batch: step.pt2, and of a model of latents decoder.pt2 and encoder.pt2."""
    for name, (program, inputs) in programs_of(model).items():
        torch.export.save(traced(program, inputs), folder / f"{name}.pt2")
    facts = _facts(model, folder)
    begin = 'import torch\n\nstep = torch.export.load(f"{folder}/step.pt2").module()'
    return Written(library="pytorch", use=f"{begin}\n{_loop(facts, 'step({given})[0]')}")


def to_onnx(model: Model, folder: Path) -> Written:
    """ONNX graphs for any batch: step.onnx, and of a model of latents decoder.onnx and encoder.onnx; needs the extra
    `onnx`."""
    for name, (program, inputs) in programs_of(model).items():
        _onnx(traced(program, inputs), list(inputs), list(OUTPUTS[name]), folder / f"{name}.onnx")
    facts = _facts(model, folder)
    begin = 'import onnxruntime\nimport torch\n\nstep = onnxruntime.InferenceSession(f"{folder}/step.onnx")'
    call = 'torch.tensor(step.run(["x_s"], {{k: v.numpy() for k, v in dict({named}).items()}})[0])'
    return Written(library="onnx", use=f"{begin}\n{_loop(facts, call)}")


def to_diffusers(model: Model, folder: Path) -> Written:
    """A pipeline of diffusers with code of its own, which needs torch and diffusers but not ebbflow: the traced step,
    DDIM, Euler or Heun around it, guidance, the decoder of latents."""
    parts = programs_of(model)
    parts.pop("encoder", None)
    for name, (program, inputs) in parts.items():
        (folder / name).mkdir()
        torch.export.save(traced(program, inputs), folder / name / "program.pt2")
        _facts(model, folder / name)
        shutil.copyfile(SHIPPED / "program.py", folder / name / "program.py")
    shutil.copyfile(SHIPPED / "pipeline.py", folder / "pipeline.py")
    index: dict[str, Any] = {"_class_name": ["pipeline", "EbbflowPipeline"], "_diffusers_version": "0.35.0"}
    index |= {name: ["program", "Program"] if name in parts else [None, None] for name in ("step", "decoder")}
    write_text(folder / "model_index.json", json.dumps(index, indent=2))
    return Written(
        library="diffusers",
        use="from diffusers import DiffusionPipeline\n\n"
        "pipe = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)\n"
        f"images = pipe({_asked(model)}).images",
    )


EXPORTERS: dict[str, Exporter] = {
    "safetensors": to_safetensors,
    "diffusers": to_diffusers,
    "onnx": to_onnx,
    "torch-export": to_torch_export,
}


def export(model: Model, request: ExportRequest, *, command: str = "", repo: str = "") -> Path:
    """Write a run as a folder of another form; `ExportRequest` says which.

    Args:
        model: a run; its weights are written in float32, from the CPU.
        command: what made the export, for the card.
        repo: where on the hub it will lie, for the card; "" for nowhere.

    Raises:
        ConfigError: a model that is no run, a form that is not known, a folder that is not empty.
        ImportError: a package that the form needs is missing.
    """
    exporter, folder = choose(EXPORTERS, request.to, "form of export"), request.output
    run = model.require_run("only those are exported")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is there already and is not empty. Choose another `output`, or remove it.")
    model = Model.from_run(run.checkpoint.folder, weights=model.weights)
    with whole_folder(folder) as partial:
        made = exporter(model, partial)
        picture = sample_picture(run.folder, model)
        if picture is not None:
            (partial / "samples.png").write_bytes(picture)
        imports, _, body = made.use.partition("\n\n")
        use = f"{imports}\n{_found(request.to, repo or folder.name, bool(repo))}\n{body}"
        card = ModelCard(run=run, name=repo or folder.name, library=made.library, use=use, command=command)
        write_text(partial / "README.md", card.text(request.license, is_pictured=picture is not None))
    return folder


def files_of(folder: Path) -> dict[str, int]:
    """The files in a folder and their bytes, by their path in it."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in found}


def _facts(model: Model, folder: Path) -> dict[str, Any]:
    facts = described(model)
    write_text(folder / CONFIG, json.dumps(facts, indent=2))
    return facts


def _without_places(sections: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """A configuration that tells nothing of where things lay on the machine that trained it."""
    found = {name: dict(section) for name, section in sections.items()}
    found["data"]["dir"] = None
    for section, key in PLACES:
        value = found[section][key]
        if isinstance(value, str) and not value.startswith("hf:"):
            found[section][key] = Path(value).name
    return found


def _found(to: str, name: str, on_hub: bool) -> str:
    """The lines, below imports, that say where an export lies."""
    if on_hub and to != "safetensors":
        return f"from huggingface_hub import snapshot_download\n\nfolder = snapshot_download({name!r})"
    return f"\nfolder = {(f'hf:{name}' if on_hub else name)!r}"


def _asked(model: Model) -> str:
    """What a pipeline is asked for in an example."""
    examples = model.examples[:4]
    return repr([list(one) if isinstance(one, tuple) else one for one in examples]) if examples else "batch_size=4"


def _loop(facts: dict[str, Any], call: str) -> str:
    """The lines that sample with a program."""
    known, dims, steps = facts["condition"], facts["dims"], facts["sample"]["num_steps"]
    lines = []
    named = {"x": "x", "t": "t.expand(len(x))", "s": "s.expand(len(x))"}
    if known is not None:
        shape = ", ".join(map(str, [4, *known["shape"]])) + ("" if known["shape"] else ",")
        lines.append(f"condition = torch.full(({shape}), {known['null']}, dtype=torch.{known['dtype']})  # none")
        named["condition"] = "condition"
    asked = call.format(given=", ".join(named.values()), named=", ".join(f"{k}={v}" for k, v in named.items()))
    falling = f"torch.linspace(1, 0, {steps + 1}, dtype=torch.float64)"
    if facts["times"] is not None:
        lines.insert(0, 'import json\n\nfacts = json.load(open(f"{folder}/config.json"))')
        falling = f'torch.tensor(facts["times"]["{steps}"], dtype=torch.float64)'
    return "\n".join(
        [
            *lines,
            f"x = {facts['sigma']:.9g} * torch.randn({', '.join(map(str, [4, *dims]))})",
            f"times = {falling}",
            "for t, s in zip(times[:-1], times[1:]):  # a step of DDIM each, or a jump of a model that jumps",
            f"    x = {asked}",
        ]
    )


def _onnx(program: Any, inputs: list[str], outputs: list[str], path: Path) -> None:
    for package in ("onnx", "onnxscript"):
        try:
            __import__(package)
        except ImportError as error:
            raise missing("an export to ONNX", package, "onnx") from error
    with _in_silence("torch.onnx"):
        made = torch.onnx.export(
            program, (), input_names=inputs, output_names=outputs, dynamo=True, verbose=False, optimize=True
        )
    assert made is not None
    graph = made.model.graph
    for node in graph.all_nodes():
        node.metadata_props.clear()  # lines of the code that was traced, by their paths on this machine
    for value in (*graph.inputs, *graph.outputs):
        assert value.shape is not None
        value.shape[0] = "batch"
    made.save(path, external_data=False)


@contextmanager
def _in_silence(name: str) -> Iterator[None]:
    """Without warnings, those of a logger too, which speak of packages that nobody asked for."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What was sent, or would have been: files and their bytes, and of what was sent its page and revision."""

    files: dict[str, int]
    url: str = ""
    revision: str = ""


def push(model: Model, request: PushRequest, *, command: str = "") -> Sent:
    """Export a run and commit it to a repository of the hub, in one commit.

    Raises:
        ConfigError: as `export`; no such name, or the hub refuses or does not answer.
        ImportError: huggingface-hub is missing.
    """
    hub.check_name(request.repo)
    step = model.require_run("only those are pushed").checkpoint.step
    with tempfile.TemporaryDirectory() as place:
        form = narrowed(ExportRequest, request, output=Path(place) / request.repo.rpartition("/")[2])
        folder = export(model, form, command=command, repo=request.repo)
        if request.dry_run:
            return Sent(files=files_of(folder))
        url, revision = hub.send(
            folder,
            request.repo,
            private=request.private,
            message=request.message or f"{model.name} after {step} steps",
            revision=request.revision,
        )
        return Sent(files=files_of(folder), url=url, revision=revision)
