"""Exports: what other programs make of a run is what it makes itself, and what comes back from a hub is the run."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import types
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from conftest import PATH_CASES, normal
from torch import Tensor

import ebbflow as ef
from ebbflow import hub
from ebbflow.cli.app import run_app
from ebbflow.conditioning import (
    DataFacts,
    ImageConditioning,
    LabelConditioning,
    NoConditioning,
    PretrainedEncoder,
    TextConditioning,
    VectorConditioning,
)
from ebbflow.config import RunConfig
from ebbflow.errors import ConfigError
from ebbflow.interop import programs
from ebbflow.interop.export import EXPORTERS, SHIPPED, push
from ebbflow.methods.denoise import NetDenoiser, NetFlowMap
from ebbflow.nets import NETS
from ebbflow.nets.dit import DiTOptions
from ebbflow.nets.mlp import MLPOptions
from ebbflow.nets.unet import UNetOptions
from ebbflow.requests.tools import ExportRequest, PushRequest
from ebbflow.runs.build import build_denoiser, conditioner_of
from ebbflow.runs.model import Model

F64 = torch.float64
SMALL = {
    "unet": UNetOptions(channels=(8, 8), num_heads=2, upsample="shuffle"),
    "dit": DiTOptions(dim=16, depth=1, num_heads=2, patch_size=4),
    "mlp": MLPOptions(dim=16, depth=1, num_heads=2),
}
CONDITIONS = {
    "none": NoConditioning(),
    "label": LabelConditioning(dim=16),
    "text": TextConditioning(dim=16, depth=1, max_length=12),
    "text_mean": TextConditioning(dim=16, depth=1, max_length=12, injection="add"),
    "vector": VectorConditioning(dim=16, injection="cross_attention"),
    "image": ImageConditioning(degrade={"kind": "downsample", "factor": 2}),
}
QUICK = [("mlp", "vector")]
CASES = [(net, cond) for net in NETS for cond in CONDITIONS if (net, cond) != ("mlp", "image")]


def some(cases: Iterable[Any], *quick: Any) -> list[Any]:
    """The cases, all but the quick ones marked as long."""
    args = {case: case if isinstance(case, tuple) else (case,) for case in cases}
    return [pytest.param(*args[case], marks=() if case in quick else pytest.mark.long) for case in args]


each_case = pytest.mark.parametrize(("net", "cond"), some(CASES, *QUICK))


def denoiser(net: str, cond: str, **more: Any) -> NetDenoiser:
    """A small model of 6 x 6 images, or of points, with weights that are nowhere zero."""
    options = replace(SMALL[net], gap=more.pop("gap", False))  # type: ignore[type-var]
    facts = DataFacts(dims=(2,) if net == "mlp" else (1, 6, 6), is_image=net != "mlp", label_names=("cat", "dog", "ox"))
    made = build_denoiser(RunConfig(net=options, conditioning=CONDITIONS[cond], **more), facts)
    assert isinstance(made.net, torch.nn.Module)
    for i, parameter in enumerate(made.net.requires_grad_(False).eval().parameters()):
        parameter += 0.1 * normal(*parameter.shape, seed=i).float()
    return made


def asked(model: NetDenoiser, num: int, seed: int = 0) -> dict[str, Tensor]:
    """States, times from 1 to 0 and conditions, some of them none."""
    conditioner = conditioner_of(model)
    x = normal(num, *((2,) if isinstance_of_mlp(model) else (1, 6, 6)), seed=seed).float()
    t = torch.linspace(1, 0.3, num, dtype=F64)
    found = {"x": x, "t": t, "s": torch.linspace(0.9, 0, num, dtype=F64) * t}
    if conditioner is None:
        return found
    words = {"class labels": 1, "texts": "a dog", "vectors": (0.0, 0.5, 0.5)}
    row = conditioner.read([words[conditioner.takes]]) if conditioner.takes in words else normal(1, 2, 3, 3).float()
    return {**found, "condition": torch.cat([row, conditioner.null(num)])[:num]}


def isinstance_of_mlp(model: NetDenoiser) -> bool:
    return type(model.net.net).__name__ == "MLP"  # type: ignore[union-attr]


def told(model: NetDenoiser, given: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """x_s, x0 and eps by the denoiser itself, sample by sample, at times that are numbers."""
    rows = []
    for i in range(len(given["x"])):
        one = model if "condition" not in given else model.given(given["condition"][i : i + 1])
        t, s = float(given["t"][i]), float(given["s"][i])
        x = given["x"][i : i + 1]
        e = one.jump(x, t, s) if isinstance(one, NetFlowMap) else one(x, t)
        rows.append((model.path.mix(e.x0, e.eps, s), e.x0, e.eps))
    x_s, x0, eps = (torch.cat(part) for part in zip(*rows, strict=True))
    return x_s, x0, eps


def close(found: Any, wanted: Any, tolerance: float = 2e-5) -> None:
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(torch.as_tensor(a), b, rtol=tolerance, atol=tolerance)


# -- programs ----------------------------------------------------------------------------------------------------------


@each_case
def test_a_program_is_the_denoiser_at_any_batch(net: str, cond: str, tmp_path: Path) -> None:
    """Saved and read back, by PyTorch and by onnxruntime, at two batch sizes."""
    model = denoiser(net, cond)
    program = programs.traced(programs.StepProgram(model), asked(model, 2))
    torch.export.save(program, tmp_path / "step.pt2")
    again = torch.export.load(tmp_path / "step.pt2").module()
    for num in (1, 5):
        given = asked(model, num, seed=num)
        close(again(*given.values())[:3], told(model, given))
    pytest.importorskip("onnxscript", reason="onnx is missing: pip install -e '.[onnx]'")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is missing: pip install -e '.[onnx]'")
    from ebbflow.interop.export import _onnx

    _onnx(program, list(asked(model, 2)), list(programs.OUTPUTS["step"]), tmp_path / "step.onnx")
    session = runtime.InferenceSession(tmp_path / "step.onnx")
    assert [one.name for one in session.get_outputs()] == ["x_s", "x0", "eps", "levels"]
    assert all(one.shape[0] == "batch" for one in session.get_inputs())
    for num in (1, 5):
        given = asked(model, num, seed=num)
        close(session.run(None, {name: value.numpy() for name, value in given.items()})[:3], told(model, given))


@pytest.mark.parametrize("name", PATH_CASES)
def test_a_program_knows_its_path(name: str) -> None:
    model = denoiser("mlp", "none", path=PATH_CASES[name], objective=RunConfig().objective.__class__(prediction="edm"))
    given = asked(model, 3)
    *found, levels = programs.StepProgram(model)(*given.values())
    close(found, told(model, given))
    for i, when in enumerate((given["t"], given["s"])):
        c = model.path.at(when)
        torch.testing.assert_close(levels[:, 4 * i], c.alpha)
        torch.testing.assert_close(levels[:, 4 * i + 3], c.sigma_dot)


@pytest.mark.parametrize("name", ["vp_discrete/50", "sub_vp", "linear_variance/shift2.5"])
def test_a_path_is_traced_with_its_numbers(name: str) -> None:
    model = denoiser("mlp", "none", path=PATH_CASES[name], objective=RunConfig().objective.__class__(prediction="edm"))
    given = asked(model, 5)
    close(
        programs.traced(programs.StepProgram(model), asked(model, 2)).module()(*given.values())[:3], told(model, given)
    )


def test_a_map_is_traced_as_its_jumps() -> None:
    model = denoiser("mlp", "label", gap=True)
    given = asked(model, 5)
    found = programs.traced(programs.StepProgram(model), asked(model, 2)).module()(*given.values())
    close(found[:3], told(model, given))
    plain = replace(model(given["x"], given["t"]), log_variance_fraction=None)
    assert not torch.allclose(found[1], plain.x0, atol=1e-3), "a jump is no estimate"


def test_a_learned_variance_is_left_out() -> None:
    model = denoiser("unet", "none", objective=RunConfig().objective.__class__(variance="learned"))
    given = asked(model, 3)
    close(programs.StepProgram(model)(*given.values())[:3], told(model, given))


def test_texts_that_others_read_are_refused() -> None:
    conditioner = types.SimpleNamespace(encoder=PretrainedEncoder.__new__(PretrainedEncoder))
    with pytest.raises(ConfigError, match="no part of it"):
        programs.traceable(conditioner)  # type: ignore[arg-type]


def test_what_a_pipeline_carries_needs_no_ebbflow() -> None:
    for file in SHIPPED.glob("[!_]*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = (
                [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", "") or ""]
            )
            assert not any(name.startswith("ebbflow") for name in names), file


# -- folders -----------------------------------------------------------------------------------------------------------

TINY = [
    "--max-steps", "4", "--batch-size", "8", "--lr", "1e-2", "--device", "cpu", "--set", "engine.precision=fp32",
    "--set", "train.sample_every=0", "--set", "train.held_out_every=0", "--set", "train.warmup_steps=0",
    "--set", "net.kind=dit", "--set", "net.patch_size=2", "--set", "net.dim=16", "--set", "net.depth=1",
    "--set", "net.num_heads=2", "--set", "sample.num_steps=3", "--set", "sample.guidance=2.5",
]  # fmt: skip
KINDS = {
    "label": [],
    "text": ["--set", "conditioning.kind=text", "--set", "conditioning.dim=16", "--set", "path.kind=cosine", "--set", "sample.grid=karras", "--set", "sample.sampler=ddim"],
    "latent": ["--set", "latent.autoencoder=AUTOENCODER", "--set", "sample.sampler=euler"],
    "map": ["--set", "objective.map=midpoint", "--set", "sample.sampler=flow_map", "--set", "sample.guidance=1"],
}  # fmt: skip
Folders = Callable[[str], Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """The folder of a run of a kind, barely trained, each made once."""
    root = tmp_path_factory.mktemp("exported")

    def get(kind: str) -> Path:
        made = root / kind
        if made.exists():
            return made
        if kind == "autoencoder":
            quick = ["--set", "autoencoder.channels=[8,8]", "--max-steps", "2", "--batch-size", "16", "--device", "cpu"]
            assert run_app(["train-autoencoder", *quick, "--save-dir", str(made)]) == 0
            return made
        own = [one.replace("AUTOENCODER", str(get("autoencoder"))) if "AUTO" in one else one for one in KINDS[kind]]
        assert run_app(["train", *TINY, *own, "--save-dir", str(made)]) == 0
        return made

    return get


def test_safetensors_open_as_the_run(folder: Folders, tmp_path: Path) -> None:
    for weights in ("ema", "raw"):
        into = tmp_path / weights
        assert run_app(["export", str(folder("latent")), "--weights", weights, "--output", str(into)]) == 0
        own, back = ef.open(folder("latent"), weights=weights, device="cpu"), ef.open(into, device="cpu")
        assert torch.equal(own.sample(num=2).x, back.sample(num=2).x)
        assert ef.open(f"hf:{into}", device="cpu").label_names == own.label_names
    assert str(folder("latent")) not in (into / "config.json").read_text(encoding="utf-8")


def test_a_grid_that_was_searched_comes_along(folder: Folders, tmp_path: Path) -> None:
    run = ef.open(folder("label"), device="cpu").require_run("")
    rows = [{"steps": 2, "sampler": "heun", "guidance": 1.0, "weights": "ema", "times": [1.0, 0.3, 0.0]}]
    (run.checkpoint.folder / "grids.json").write_text(json.dumps(rows))
    back = ef.open(ef.export(folder("label"), output=tmp_path / "out"), device="cpu")
    assert back.sample(num=1, steps=2, grid="learned", guidance=1).x.isfinite().all()


@pytest.mark.parametrize("to", some(EXPORTERS, "safetensors"))
def test_an_export_holds_nothing_pickled_and_no_place_of_this_machine(to: str, folder: Folders, tmp_path: Path) -> None:
    if to == "onnx":
        pytest.importorskip("onnxscript", reason="onnx is missing: pip install -e '.[onnx]'")
    assert run_app(["export", str(folder("map")), "--to", to, "--output", str(tmp_path / "out")]) == 0
    places = [str(Path(ef.__file__).parent).encode(), str(Path(torch.__file__).parent).encode()]
    for file in (tmp_path / "out").rglob("*"):
        parts = {file.name: file.read_bytes()} if file.is_file() else {}
        if file.suffix == ".pt2":
            with zipfile.ZipFile(file) as archive:
                parts = {name: archive.read(name) for name in archive.namelist()}
            assert all(
                '"use_pickle": true' not in text.decode() for name, text in parts.items() if name.endswith(".json")
            )
            assert not any(name.endswith(".pt") and data for name, data in parts.items())
        for name, data in parts.items():
            assert not any(place in data for place in places), f"{file}: {name}"


@pytest.mark.parametrize("traced", some((False, True), False))
def test_the_page_runs(
    traced: bool, folder: Folders, stub: StubHub, pipeline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands of docs/export.md on a tiny run, and its Python on what they made; those that trace are the long part."""
    pytest.importorskip("onnxscript", reason="onnx is missing: pip install -e '.[onnx]'")
    pytest.importorskip("tensorboard", reason="tensorboard is missing: pip install -e '.[trackers]'")
    page = (Path(__file__).parents[1] / "docs" / "export.md").read_text(encoding="utf-8")
    (tmp_path / "runs").mkdir()
    shutil.copytree(folder("label"), tmp_path / "runs" / "digits")
    monkeypatch.chdir(tmp_path)
    ef.push("runs/digits", "USER/digits")
    wandb = types.SimpleNamespace(init=lambda **started: MagicMock(), Image=str)
    monkeypatch.setitem(sys.modules, "wandb", wandb)  # type: ignore[arg-type]
    blocks = re.findall(r"```(\w*)\n(.*?)```", page, re.DOTALL)
    for line in (line for kind, block in blocks if kind == "sh" for line in block.splitlines()):
        words = shlex.split(line.replace("COMMIT", "c0"))[1:]
        if "--to" in words and not traced:
            continue
        few = [*TINY, "--set", "train.num_steps=8"] if words[0] == "train" else []
        assert run_app([*words, *[one for one in few if not one.startswith("--max") and one != "4"]]) == 0, line
    for kind, block in blocks:
        if kind == "py" and traced:
            known: dict[str, Any] = {}
            exec(block, known)
            assert known["images"][0].size == (8, 8)
    for to in ("onnx", "torch") if traced else ():
        facts = json.loads(Path(f"digits_{to}/config.json").read_text(encoding="utf-8"))
        assert facts["condition"]["null"] == -1 and facts["sigma"] == 1 and facts["times"] is None


CARDS = [(to, kind) for to in EXPORTERS for kind in ("label", "text") if (to, kind) != ("diffusers", "text")]


@pytest.mark.parametrize(("to", "kind"), some(CARDS, ("safetensors", "label")))
def test_the_card_says_how_it_is_used(
    to: str, kind: str, folder: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Python on the card runs; without ebbflow, where the library is another one."""
    if to == "onnx":
        pytest.importorskip("onnxscript", reason="onnx is missing: pip install -e '.[onnx]'")
        pytest.importorskip("onnxruntime", reason="onnxruntime is missing: pip install -e '.[onnx]'")
    if to == "diffusers":
        pytest.importorskip("diffusers")
    monkeypatch.chdir(tmp_path)
    assert run_app(["export", str(folder(kind)), "--to", to, "--output", "out", "--license", "mit"]) == 0
    card = Path("out/README.md").read_text(encoding="utf-8")
    code = card.partition("```python\n")[2].partition("\n```")[0]
    if to == "diffusers":
        blocked = "import sys; sys.modules['ebbflow'] = None\n"
        env = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", f"{blocked}{code}\nassert images[0].size == (8, 8)"],
            env=env,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    else:
        known: dict[str, Any] = {}
        exec(code, known)
        assert to == "safetensors" or (bool(known["x"].isfinite().all()) and known["x"].shape == (4, 1, 8, 8))
    front = pytest.importorskip("yaml").safe_load(card.split("---\n")[1])
    assert front["license"] == "mit" and "ebbflow" in front["tags"] and Path("out/samples.png").stat().st_size > 500


def test_the_card_shows_what_was_measured(folder: Folders, tmp_path: Path) -> None:
    source = shutil.copytree(folder("label"), tmp_path / "run")
    rows = {"a": (4, 3.5), "b": (4, 2.5), "stale": (3, 0.1)}
    (source / "eval").mkdir()
    for name, (step, frechet) in rows.items():
        row = {
            "step": step,
            "frechet": frechet,
            "kid": 0.01,
            "num": 500,
            "steps": 3,
            "sampler": "heun",
            "guidance": 2.5,
        }
        (source / "eval" / f"{name}.json").write_text(json.dumps(row))
    (source / "eval" / "broken.json").write_text("{")
    card = (ef.export(source, output=tmp_path / "out") / "README.md").read_text(encoding="utf-8")
    index = pytest.importorskip("yaml").safe_load(card.split("---\n")[1])["model-index"]
    assert index[0]["results"][0]["metrics"][0] == {"type": "frechet", "name": "frechet", "value": 2.5}
    assert card.index("| heun | 3 | 2.5 | 500 | 2.5 | 0.01 |") < card.index("| heun | 3 | 2.5 | 500 | 3.5 | 0.01 |")
    assert "0.1 |" not in card and "No licence was said" in card and "## Made by" in card


# -- the pipeline of diffusers -----------------------------------------------------------------------------------------


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Any]:
    diffusers = pytest.importorskip("diffusers")
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "modules")])

    def get(run: Path) -> Any:
        out = tmp_path / "out"
        assert run_app(["export", str(run), "--to", "diffusers", "--output", str(out)]) == 0
        found = diffusers.DiffusionPipeline.from_pretrained(out, custom_pipeline=str(out), trust_remote_code=True)
        found.set_progress_bar_config(disable=True)
        return found

    return get


ASKED: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {
    "label": [
        ({}, {}),
        ({"sampler": "ddim", "num_inference_steps": 5, "guidance_scale": 4.0, "negative": [1]}, {"sampler": "ddim", "steps": 5, "guidance": 4.0, "negative_label": 1}),
        ({"sampler": "euler", "guidance_scale": 0.0, "clip": True}, {"sampler": "euler", "guidance": 0.0, "clip": True}),
    ],
    "text": [({}, {}), ({"guidance_scale": 1.0}, {"guidance": 1.0})],
    "latent": [({}, {})],
    "map": [({"num_inference_steps": 1}, {"steps": 1}), ({"num_inference_steps": 3}, {"steps": 3})],
}  # fmt: skip


@pytest.mark.parametrize("kind", some(KINDS, "label"))
def test_a_pipeline_samples_as_the_run_does(kind: str, folder: Folders, pipeline: Callable[[Path], Any]) -> None:
    """From the same noise, with its defaults and with others, by class and by prompt, of data and of latents."""
    pipe, model = pipeline(folder(kind)), ef.open(folder(kind), device="cpu")
    noise = ef.Noise(range(2)).draw(model.facts.state_dims)
    words, own = (["a five", "a two"], "prompts") if kind == "text" else ([5, 2], "labels")
    for theirs, ours in ASKED[kind]:
        found = pipe(words, latents=noise, output_type="pt", **theirs).images
        wanted = torch.cat([model.sample(**{own: [w]}, seeds=[i], **ours).x for i, w in enumerate(words)])
        torch.testing.assert_close(found, wanted.clamp(-1, 1) / 2 + 0.5, rtol=0, atol=1e-4)
    if kind == "label":
        nobody = model.sample(labels=["none"], seeds=[0, 1], guidance=1).x
        torch.testing.assert_close(pipe(latents=noise, output_type="latent").images, nobody, rtol=0, atol=1e-4)
        assert pipe(class_labels="7").images[0].size == (8, 8)
        assert pipe(batch_size=2, output_type="np", return_dict=False)[0].shape == (2, 8, 8, 1)
        for wrong, said in (({"sampler": "dpm"}, "unknown sampler"), ({"condition": [11]}, "unknown"), ({"condition": [1, 2, 3], "latents": noise}, "as many")):  # fmt: skip
            with pytest.raises(ValueError, match=said):
                pipe(**wrong)
        with pytest.raises(ValueError, match="float32"):
            pipe.to(torch.float16)
    if kind == "text":
        with pytest.raises(ValueError, match="no grid of 77 steps"):
            pipe("a five", num_inference_steps=77)


# -- the hub -----------------------------------------------------------------------------------------------------------


class StubHub:
    """A hub in a folder, one folder a commit; notes what it was asked."""

    def __init__(self, root: Path) -> None:
        import huggingface_hub.errors

        self.root, self.errors, self.asked = root, huggingface_hub.errors, list[dict[str, Any]]()
        self.api, self.real = huggingface_hub.HfApi(), huggingface_hub

    def HfApi(self) -> StubHub:
        return self

    def create_repo(self, repo: str, **options: Any) -> None:
        inspect.signature(self.api.create_repo).bind(repo, **options)
        self.asked.append({"create": repo, **options})
        (self.root / repo).mkdir(parents=True, exist_ok=options["exist_ok"])

    def upload_folder(self, *, folder_path: Path, repo_id: str, **options: Any) -> Any:
        inspect.signature(self.api.upload_folder).bind(folder_path=folder_path, repo_id=repo_id, **options)
        self.asked.append({"upload": repo_id, **options})
        number = f"c{len(list((self.root / repo_id).iterdir()))}"
        shutil.copytree(folder_path, self.root / repo_id / number)
        return types.SimpleNamespace(oid=number)

    def _commit(self, repo: str, revision: str | None) -> Path:
        if not (self.root / repo).is_dir():
            raise OSError(f"no {repo}; you came with hf_AbCdEf0123\nsecond line")
        commits = sorted((self.root / repo).iterdir())
        return commits[-1] if revision is None else self.root / repo / revision

    def hf_hub_download(self, repo: str, file: str, *, revision: str | None, local_files_only: bool) -> str:
        found = self._commit(repo, revision) / file
        if not found.is_file():
            raise self.errors.EntryNotFoundError(file)
        return str(found)

    def snapshot_download(self, repo: str, *, allow_patterns: list[str], revision: str | None, local_files_only: bool) -> str:  # fmt: skip
        asked = {"allow_patterns": allow_patterns, "revision": revision, "local_files_only": local_files_only}
        inspect.signature(self.real.snapshot_download).bind(repo, **asked)
        self.asked.append({"snapshot": repo, "allow": allow_patterns})
        return str(self._commit(repo, revision))


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StubHub:
    pytest.importorskip("huggingface_hub", reason="huggingface-hub is missing: pip install -e '.[hub]'")
    found = StubHub(tmp_path / "hub")
    monkeypatch.setattr(hub, "_library", lambda: found)
    monkeypatch.setattr(hub, "must_be_local", lambda source: False)
    return found


def test_a_run_goes_to_the_hub_and_comes_back(
    folder: Folders, stub: StubHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(folder("label"))
    capsys.readouterr()
    assert run_app(["push", run, "me/digits", "--dry-run", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert set(shown["files"]) >= {"README.md", "config.json", "model.safetensors"} and stub.asked == []
    assert run_app(["push", run, "me/digits", "--private", "--message", "first"]) == 0
    assert stub.asked[0] == {"create": "me/digits", "private": True, "exist_ok": True}
    assert stub.asked[1]["commit_message"] == "first" and "hf:me/digits" in capsys.readouterr().out
    sent = ef.push(ef.open(run, weights="raw"), "me/digits")
    assert sent.revision == "c1" and sum(sent.files.values()) > 10_000
    own = {weights: ef.open(run, weights=weights, device="cpu").sample(num=1).x for weights in ("ema", "raw")}
    assert torch.equal(ef.open("hf:me/digits", device="cpu").sample(num=1).x, own["raw"])
    back = ef.open("hf:me/digits@c0", device="cpu")
    assert torch.equal(back.sample(num=1).x, own["ema"]) and back.name == "digits"
    allowed = [one["allow"] for one in stub.asked if "snapshot" in one]
    assert allowed and all(pattern.endswith(("json", "safetensors", "README.md")) for one in allowed for pattern in one)
    assert run_app(["sample", "--ckpt", "hf:me/digits@c0", "--num", "1", "--output", str(tmp_path / "a.png")]) == 0


def test_what_was_downloaded_before_opens_without_a_network(
    folder: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By huggingface-hub itself, in the places where it keeps its downloads."""
    constants = pytest.importorskip(
        "huggingface_hub", reason="huggingface-hub is missing: pip install -e '.[hub]'"
    ).constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    kept, commit = tmp_path / "models--me--digits", "0123456789abcdef0123456789abcdef01234567"
    ef.export(folder("label"), output=kept / "snapshots" / commit)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(commit)
    own = ef.open(folder("label"), device="cpu").sample(num=1).x
    for name in ("hf:me/digits", "hf:me/digits@main", f"hf:me/digits@{commit}"):
        assert torch.equal(ef.open(name, device="cpu").sample(num=1).x, own)


def test_the_hub_refuses_in_one_sentence_without_the_token(
    folder: Folders, stub: StubHub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(["sample", "--ckpt", "hf:me/nothing", "--output", "a.png"]) == 2
    said = capsys.readouterr().err
    assert "hf:me/nothing: no me/nothing" in said and "AbCdEf" not in said and "second line" not in said
    stub.root.mkdir()
    (stub.root / "me").write_text("")
    assert run_app(["push", str(folder("label")), "me/digits"]) == 2
    assert "hf auth login" in capsys.readouterr().err


def test_a_model_of_diffusers_is_left_to_diffusers(stub: StubHub, monkeypatch: pytest.MonkeyPatch) -> None:
    (stub.root / "me" / "unet" / "c0").mkdir(parents=True)
    assert hub.run_behind("hf:me/unet") is None
    (stub.root / "me" / "unet" / "c0" / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    assert hub.run_behind("hf:me/unet@c0") is None and not any("snapshot" in one for one in stub.asked)


@pytest.mark.parametrize(
    ("source", "name", "revision"),
    [("hf:me/digits", "me/digits", None), ("hf:me/digits@v1.0", "me/digits", "v1.0"), ("me@main", "me", "main")],
)
def test_names_may_be_pinned(source: str, name: str, revision: str | None) -> None:
    assert hub.split_name(source) == (name, revision)


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_exported_says_why(
    folder: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = str(folder("label"))
    assert run_app(["export", run, "--to", "onxx", "--output", str(tmp_path / "a")]) == 2
    assert "Did you mean 'onnx'" in capsys.readouterr().err and not (tmp_path / "a").exists()
    (tmp_path / "mine.txt").write_text("keep")
    assert run_app(["export", run, "--output", str(tmp_path)]) == 2
    assert "is not empty. Choose another --output" in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text() == "keep"
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert run_app(["export", run, "--to", "onnx", "--output", str(tmp_path / "a")]) == 2
    assert "pip install -e '.[onnx]'" in capsys.readouterr().err and not (tmp_path / "a").exists()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert run_app(["push", run, "me/digits"]) == 2
    assert "pip install -e '.[hub]'" in capsys.readouterr().err
    assert run_app(["push", run, "digits"]) == 2
    assert "is called USER/NAME" in capsys.readouterr().err


def test_only_runs_are_exported(folder: Folders, tmp_path: Path) -> None:
    foreign = replace(ef.open(folder("label"), device="cpu"), run=None)
    with pytest.raises(ConfigError, match="no run of ebbflow"):
        ef.export(foreign, output=tmp_path / "a")
    with pytest.raises(ConfigError, match="no run of ebbflow"):
        push(foreign, PushRequest(repo="me/digits"))
    assert isinstance(Model.from_run(ef.export(folder("label"), output=tmp_path / "b")), Model)
    assert ExportRequest(output=tmp_path).to == "safetensors"
