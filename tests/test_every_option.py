"""Every option has an effect: set to another value, each option of every command and each key of a configuration changes
what is printed or written, or is refused."""

from __future__ import annotations

import gzip
import os
import shutil
import types
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import numpy as np
import pytest
from effects import outcome
from fuzz.harness import furnish
from fuzz.strategies import COMMANDS, sections_of
from PIL import Image

from ebbflow.cli.app import run_app
from ebbflow.config.sections import KINDS, AutoencoderConfig, ClassifierConfig, RunConfig
from ebbflow.requests.base import Entry, entries
from ebbflow.values import hints_of, members

TINY = {
    "net.channels": "[4]", "net.clock_dim": "8", "net.num_heads": "1", "train.batch_size": "4",
    "train.held_out_size": "4", "train.sample_every": "0", "train.save_every": "0", "train.log_every": "1",
    "train.held_out_every": "0", "train.warmup_steps": "0", "engine.device": "cpu", "sample.num_steps": "1",
}  # fmt: skip


LEARNED = ["--set=train.num_steps=6", "--set=train.lr=0.05"]  # till the condition is heard: its first output is 0


def tiny(*left: str) -> list[str]:
    return [f"{key}={value}" for key, value in TINY.items() if key.partition(".")[0] not in left]


Given = dict[str, Any]
Case = Callable[[list[str]], dict[str, Any]]
OF_A_RUN = {"ckpt": "model"}
TRAINED: Given = {"data": "images.npz", "save_dir": "run", "max_steps": "2", "settings": tiny()}
BASE: dict[str, Given] = {
    "train": TRAINED,
    "distill": {"run": "model", "save_dir": "run", "max_steps": "2", "settings": tiny("net")},
    "train-classifier": {**TRAINED, "settings": [*tiny("net", "sample"), "classifier.channels=[4]", "classifier.clock_dim=8"]},
    "train-autoencoder": {**TRAINED, "settings": [*tiny("net", "sample"), "autoencoder.channels=[4,4]"]},
    "sample": {**OF_A_RUN, "num": "2", "output": "o.npz"},
    "edit": {**OF_A_RUN, "input": "picture.png", "steps": "4", "num": "2", "output": "o.npz"},
    "restore": {**OF_A_RUN, "truth": "picture.png", "operator": "blur", "steps": "2", "num": "2", "output": "o.npz"},
    "invert": {**OF_A_RUN, "input": "picture.png", "steps": "2", "output": "o.npz"},
    "reconstruct": {**OF_A_RUN, "steps": "2", "num": "2"},
    "evaluate": {**OF_A_RUN, "num": "80", "steps": "1", "features": "pca"},
    "evaluate-images": {"images": "images.npz", "data": "images.npz", "features": "pca:2"},
    "compare": {"runs": "model", "samplers": "euler", "steps": "1", "guidance": "1", "num": "80", "features": "pca"},
    "search-grid": {**OF_A_RUN, "steps": "2", "candidates": "4", "num": "2"},
    "likelihood": {**OF_A_RUN, "num": "2", "steps": "2"},
    "verify": {"quick": True, "samplers": "euler", "paths": "flow", "predictions": "v", "grids": "uniform", "maps": "midpoint"},
    "plot schedules": {"num_steps": "10"},
    "plot weights": {"objectives": "eps:uniform:uniform"},
    "plot run": {"runs": "model"},
    "plot noising": {"num_steps": "10", "num": "4"},
    "plot denoising": {**OF_A_RUN, "num": "1", "steps": "2"},
    "plot toy-sampler": {**OF_A_RUN, "num": "1", "steps": "2"},
    "plot trajectories": {"ckpt": "points", "num": "2", "steps": "2"},
    "ema": {"ckpt": "power", "lengths": "0.1"},
    "export": {**OF_A_RUN, "output": "out"},
    "push": {"ckpt": "model", "repo": "a/b", "dry_run": True},
    "pack": {"folder": "pictures", "into": "out"},
    "info": OF_A_RUN,
    "list": {},
    "doctor": {},
}  # fmt: skip

# What another value is where the type does not say it: of a field of any command, or of one of them.
OTHER: dict[str, Any] = {
    "ckpt": "power", "run": "power", "runs": "power", "data": "digits", "data_dir": "elsewhere", "save_dir": "away",
    "config": "config.toml", "settings": ["train.clip=0.001"], "preset": "digits_ddpm",
    "init_from": "power", "device": "cuda:99", "epochs": "1", "minutes": "0.00001", "max_steps": "1", "held_out": "0.5",
    "batch_size": "3", "save_freq": "1", "lr_decay_step": "1", "lr_decay_rate": "0.1", "world_size": "2", "device_memory": "8",
    "img_size": "4", "map": "midpoint", "pairs": "4", "path": "vp", "seeds": "5-6", "labels": "3", "prompts": "a five",
    "vectors": "0.5,1", "images": "tiny.png", "output": "p.png", "sample output": "p.npz", "edit output": "p.npz", "restore output": "p.npz", "sampler": "ddim", "grid": "quadratic", "options": ["eta=0.5"],
    "negative_label": "2", "negative_prompt": "a two", "rescale": "0.5", "interval": "-1,1", "guidance_rule": "apg",
    "guidance_options": ["eta=0.5"], "autoguide": "power", "classifier": "judge", "classifier_scale": "20",
    "loss": "blur", "loss_weight": "0.2", "loss_emphasis": "early", "loss_options": ["width=3"], "target": "mask.png",
    "mask": "mask.png", "precision": "bf16", "trajectory": "t.gif", "steps": "3", "guidance": "3", "strength": "0.3",
    "noise": "noise.npz", "interpolate_with": "mask.png", "operator": "downsample", "operator_options": ["sigma=1"],
    "method": "ddnm", "input": "mask.png", "truth": "mask.png", "num": "3", "evaluate num": "90", "compare num": "90", "samplers": "heun", "grids": "quadratic",
    "features": "views", "lengths": "0.2", "into": "elsewhere_too", "candidate_grid": "uniform", "candidates": "5",
    "objectives": "x0:uniform:uniform", "paths": "vp", "predictions": "eps", "maps": "consistency", "num_steps": "20",
    "ode": "euler", "sde": "ddpm", "to": "diffusers", "license": "mit", "repo": "a/c", "message": "words", "kind": "nets",
    "revision": "next", "folder": "broken", "name": "heun", "variance": "small", "index": "1", "columns": "3", "within": "90",
    "reference": "train", "repeats": "2", "shard_mb": "1",
    "restore noise": "0.3", "likelihood method": "vlb", "likelihood output": "o.json", "export output": "out2",
    "invert output": "p.npz", "ema output": "o.png", "compare output": "p.html", "verify output": "p.html",
    "evaluate-images images": "captions", "evaluate-images features": "pca:3", "evaluate-images reference": "held_out", "evaluate data": "images.npz",
    "plot noising data": "images.npz", "pack folder": "captions", "train-classifier config": "short.toml", "train-autoencoder config": "short.toml", "ema ckpt": "model",
    "plot trajectories labels": "1", "plot trajectories images": "mask.png", "list kind": "nets", "likelihood sampler": "heun", "restore sampler": "euler",
    "plot trajectories ckpt": "more_points", "pack into": "out3", "train-autoencoder data": "images.npz",
    "search-grid sampler": "euler",
}  # fmt: skip
# What a field needs beside it to do anything, of any command or of one; None takes away what the base gives.
BESIDE: dict[str, Given] = {
    "data_dir": {"data": "mnist"}, "skip_bad": {"data": "broken"}, "lr_decay_step": {"settings": ["train.schedule=step"]},
    "lr_decay_rate": {"settings": ["train.schedule=step", "train.lr_decay_step=1"]}, "world_size": {"dry_run": True},
    "device_memory": {"dry_run": True}, "init_partial": {"init_from": "model"},
    "options": {"sampler": "ddim"}, "prompts": {"ckpt": "texts"}, "vectors": {"ckpt": "vectors"}, "images": {"ckpt": "degraded"},
    "negative_label": {"labels": "3"}, "negative_prompt": {"ckpt": "texts", "prompts": "a five"}, "rescale": {"labels": "3"},
    "interval": {"labels": "3", "guidance": "3"}, "guidance_rule": {"labels": "3"}, "guidance_options": {"labels": "3", "guidance_rule": "apg"},
    "guidance": {"labels": "3"}, "autoguide": {"labels": "3"}, "classifier": {"labels": "3"},
    "classifier_scale": {"labels": "3", "classifier": "judge"}, "loss": {"target": "picture.png"},
    "loss_weight": {"loss": "blur", "target": "picture.png"}, "loss_emphasis": {"loss": "blur", "target": "picture.png"},
    "loss_options": {"loss": "blur", "target": "picture.png"}, "target": {"loss": "blur"},
    "sample mask": {"loss": "inpaint", "target": "picture.png"}, "resample": {"mask": "mask.png"}, "jump": {"mask": "mask.png", "resample": "2"},
    "edit noise": {"input": None}, "edit labels": {}, "restore mask": {"operator": "mask"}, "restore input": {"truth": None},
    "restore options": {"sampler": "ddim"}, "variance": {"method": "vlb"}, "name": {"kind": "samplers"},
    "shard_mb": {"folder": "large"}, "pack skip_bad": {"folder": "broken"}, "invert guidance": {"labels": "3"},
    "distill data_dir": {"run": "idx"}, "distill held_out": {"run": "vectors"}, "distill skip_bad": {"run": "skipped"}, "to": {}, "ema data_dir": {"ckpt": "idx"}, "reconstruct data_dir": {"ckpt": "idx"},
    "evaluate data_dir": {"ckpt": "idx"}, "likelihood data_dir": {"ckpt": "idx"}, "compare data_dir": {"runs": "idx"},
    "search-grid guidance": {}, "plot trajectories guidance": {"labels": "1"}, **{f"plot trajectories {name}": {} for name in ("prompts", "vectors", "images")},
    "compare guidance": {}, "distill guidance": {}, "compare within": {"steps": "1,2,4", "samplers": "euler,heun"},
    "epochs": {"max_steps": None, "dry_run": True}, "minutes": {"max_steps": None, "dry_run": True}, "init_from": {"data": "digits"}, "private": {"dry_run": None}, "message": {"dry_run": None}, "revision": {"dry_run": None},
    "plot weights path": {},
}  # fmt: skip
# What has no effect by promise, and why; what may be refused, and rightly.
NONE: dict[str, str] = {
    f"{verb} batch_size": "samples are the same in batches of any size: tests/test_invariance.py"
    for verb in BASE
    if not verb.startswith(("train", "distill")) and "batch_size" in entries(COMMANDS[tuple(verb.split())].cls)
} | {"plot trajectories data_dir": "no shipped set of points lies in a folder; a stranger's may"}
REFUSED: dict[str, str] = {
    "device": "there is none of this name",
    "distill img_size": "the teacher knows another size",
    "evaluate-images reference": "what is held out is one picture",
    "evaluate-images images": "four pictures may be too few",
    "ema ckpt": "it keeps no averages of a power",
    **{f"plot trajectories {name}": "the points have labels" for name in ("prompts", "vectors", "images")},
}


def of(table: dict[str, Any], verb: str, name: str, default: Any) -> Any:
    return table.get(f"{verb} {name}", table.get(name, default))


def another(verb: str, entry: Entry, now: Any) -> Any:
    """Another value of a field than `now`, as words of a command line."""
    found = of(OTHER, verb, entry.name, None)
    if found is not None:
        return found
    if entry.kind is bool:
        return not (entry.default if now is None else now)
    if get_origin(entry.kind) is Literal:
        return next(str(choice) for choice in get_args(entry.kind) if choice not in (entry.default, now))
    assert entry.kind in (int, float), f"say in OTHER what another value of {verb} {entry.name} is"
    known = 0 if entry.default in (None, MISSING) else entry.default
    return str(known + 1 if entry.kind is int else known / 2 or 0.5)


def words(verb: str, given: Given) -> list[str]:
    """The command line."""
    found: list[str] = []
    for name, entry in entries(COMMANDS[tuple(verb.split())].cls).items():
        value = given.get(name)
        if value is None or (value is False and not entry.default):
            continue
        flag = entry.flags[0] if entry.flags else ""
        if isinstance(value, bool):
            found.append(flag if value else f"--no-{flag[2:]}")
        else:
            each = value if isinstance(value, list) else [value]
            found += [f"{flag}={one}" if flag else str(one) for one in each]
    return [*verb.split(), *found]


RUNS: dict[str, list[str]] = {
    "judge": [],
    "power": ["--data=digits", "--set=ema.kind=power", "--set=ema.lengths=[0.1, 0.2]", "--set=ema.num_snapshots=4", "--set=train.num_steps=4"],
    "texts": ["--data=captions", "--set=conditioning.kind=text", "--set=conditioning.dim=8", "--set=conditioning.depth=1", "--set=conditioning.num_heads=1", *LEARNED],
    "vectors": ["--data=vectors.npz", "--set=conditioning.kind=vector", "--set=conditioning.source=data", *LEARNED],
    "degraded": ["--data=images.npz", "--set=conditioning.kind=image", "--set=conditioning.degrade=downsample", *LEARNED],
    "skipped": ["--data=broken", "--skip-bad"],
    "idx": ["--data=mnist", "--data-dir=here"],
    "points": ["--data=points.npz", "--set=net.kind=mlp", "--set=net.dim=8", "--set=net.depth=1", *LEARNED],
    "more_points": ["--data=others.npz", "--set=net.kind=mlp", "--set=net.dim=8", "--set=net.depth=1"],
}  # fmt: skip


def points(seed: int) -> dict[str, Any]:
    return {"x": np.random.RandomState(seed).normal(size=(30, 2)).astype(np.float32), "labels": np.arange(30) % 2}


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the fuzzer, with data of every kind besides."""
    place = tmp_path_factory.mktemp("every") / "template"
    furnish(place)
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 3
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (12, 8, 8), dtype=np.uint8), np.arange(12) % 3
    np.savez(place / "images.npz", arr_0=x, arr_1=y)
    np.savez(place / "vectors.npz", arr_0=x, arr_1=y, vectors=rng.normal(size=(12, 2)).astype(np.float32))
    for name in ("here", "elsewhere"):
        (place / name / "mnist").mkdir(parents=True)
        for part in ("train", "t10k"):
            images, labels = rng.integers(0, 255, (12, 8, 8), dtype=np.uint8), rng.integers(0, 3, 12).astype(np.uint8)
            for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
                head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
                (place / name / "mnist" / f"{part}-{kind}-ubyte.gz").write_bytes(
                    gzip.compress(head + array.tobytes(), 1)
                )
    (place / "broken").mkdir()
    (place / "large").mkdir()
    for i in range(3):
        (place / "broken" / "aab"[i]).mkdir(exist_ok=True)
        Image.fromarray(grey + i).save(place / "broken" / "aab"[i] / f"{i}.png")
        Image.fromarray(rng.integers(0, 255, (800, 800), dtype=np.uint8)).save(place / "large" / f"{i}.png")
    (place / "broken" / "a" / "1.png").write_bytes(b"nothing")
    (place / "captions").mkdir()
    for i in range(4):
        Image.fromarray(x[i]).save(place / "captions" / f"{i}.png")
        (place / "classes" / "abab"[i]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(x[i]).save(place / "classes" / "abab"[i] / f"{i}.png")
    (place / "captions" / "metadata.jsonl").write_text(
        "\n".join(f'{{"file_name": "{i}.png", "text": "a {i}"}}' for i in range(4))
    )
    np.savez(place / "others.npz", **points(1))
    np.savez(place / "points.npz", **points(0))
    (place / "short.toml").write_text("[train]\nclip = 0.001\n")
    Image.fromarray(grey[:2, :2]).save(place / "tiny.png")
    return place


@pytest.fixture(scope="module")
def runs(furnished: Path) -> Path:
    """The same with runs of every condition."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(furnished)
        patch.setenv("EBBFLOW_DATA", str(furnished / "here"))
        judge = [f"--set={one}" for one in BASE["train-classifier"]["settings"]]
        assert run_app(["train-classifier", "--data=digits", "--save-dir=judge", *judge, *LEARNED]) == 0
        for name, more in RUNS.items():
            settings = [f"--set={one}" for one in tiny(*(["net"] if "--set=net.kind=mlp" in more else []))]
            if name != "judge":
                assert run_app(["train", "--save-dir", name, "--set=train.num_steps=2", *settings, *more]) == 0, name
    return furnished


@pytest.fixture
def case(furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Case:
    """What a command does in a fresh copy of the folder."""
    monkeypatch.setenv("EBBFLOW_DATA", str(furnished / "here"))
    monkeypatch.setenv("EBBFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("ebbflow.hub._library", Hub)

    def get(argv: list[str]) -> dict[str, Any]:
        here = tmp_path / "case"
        shutil.rmtree(here, ignore_errors=True)
        shutil.copytree(furnished, here, copy_function=os.link)  # what is written replaces, and never changes, a file
        monkeypatch.chdir(here)
        return outcome(argv, here, capsys)

    return get


class Hub:
    """Says what it is told."""

    errors = types.SimpleNamespace()

    def HfApi(self) -> Hub:
        return self

    def create_repo(self, repo: str, **options: Any) -> None:
        print("create", options)

    def upload_folder(self, *, folder_path: Path, repo_id: str, commit_message: str, **options: Any) -> Any:
        print("upload", commit_message, options)
        return type("Commit", (), {"oid": "c0"})


QUICK = ("sample", "pack", "list")


def needs_a_run(given: Given) -> bool:
    """Whether a command names a run that has to be trained first."""
    return any(str(value) in RUNS for value in given.values())


@pytest.mark.parametrize("verb", QUICK)
def test_options_that_need_no_training_have_an_effect(verb: str, case: Case) -> None:
    assert not dead(verb, case, lambda given: not needs_a_run(given))


@pytest.mark.long
@pytest.mark.parametrize("verb", BASE)
def test_every_option_of_a_command_has_an_effect(verb: str, case: Case, runs: Path) -> None:
    found = dead(verb, case, lambda given: verb not in QUICK or needs_a_run(given))
    assert not found, "\n".join(found)


def dead(verb: str, case: Case, chosen: Callable[[Given], bool]) -> list[str]:
    """The options of a command which change nothing, or whose other value is refused though it should not be."""
    bases: dict[str, Any] = {}
    found = []
    for name, entry in entries(COMMANDS[tuple(verb.split())].cls).items():
        if of(NONE, verb, name, None) is not None:
            continue
        beside = of(BESIDE, verb, name, {})
        base = {**BASE[verb], **beside}
        more = [*BASE[verb].get("settings", []), *beside.get("settings", [])]
        given = {**base, **({"settings": more} if more else {})}
        other = another(verb, entry, given.get(name))
        changed = {**given, name: [*more, *other] if name == "settings" else other}
        if not chosen(changed):
            continue
        lines = words(verb, given), words(verb, changed)
        one, two = bases.setdefault(" ".join(lines[0]), None) or case(lines[0]), case(lines[1])
        bases[" ".join(lines[0])] = one
        if one == two or two["code"] not in ((0, 2) if of(REFUSED, verb, name, "") else (0,)):
            found.append(f"{name}: {' '.join(lines[1])} ends with {two['code']}: {two['err'][-1:]}")
    return found


def test_every_command_is_tried() -> None:
    assert {" ".join(words) for words in COMMANDS} == set(BASE)
    known = {f"{verb} {name}" for verb in BASE for name in entries(COMMANDS[tuple(verb.split())].cls)}
    names = {one.rpartition(" ")[2] for one in known}
    assert {*OTHER, *BESIDE, *NONE, *REFUSED} <= known | names, "what is no option any more"


# -- keys of a configuration -------------------------------------------------------------------------------------------

SHORT = {
    "data.name": "images.npz", "train.num_steps": "3", "train.batch_size": "4", "train.held_out_size": "4", "train.log_every": "1",
    "train.sample_every": "3", "train.held_out_every": "3", "train.warmup_steps": "0", "train.lr": "0.02", "engine.device": "cpu",
}  # fmt: skip
SMALL: dict[str, Given] = {
    "net.unet": {"net.channels": "[8, 8]", "net.clock_dim": "8", "net.num_heads": "1"},
    "net.dit": {"net.dim": "12", "net.depth": "1", "net.num_heads": "1"},
    "net.mlp": {"net.dim": "12", "net.depth": "1", "net.num_heads": "1", "data.name": "points.npz"},
    "conditioning.label": {"conditioning.dim": "8"}, "conditioning.vector": {"conditioning.dim": "8"},
    "conditioning.text": {"conditioning.dim": "8", "conditioning.num_heads": "1", "conditioning.depth": "1"},
    "conditioning.image": {"conditioning.degrade": "downsample"}, "ema.power": {"train.num_steps": "4"}, "path.linear_variance": {"objective.prediction": "x0"},
}  # fmt: skip
KEYS: dict[str, str] = {
    "data.name": "digits", "data.dir": "elsewhere", "data.size": "4", "data.held_out": "0.5", "data.crop": "0.5",
    "net.channels": "[4, 8]", "net.num_heads": "2", "net.dim": "16", "net.patch_size": "2", "net.depth": "2", "net.clock_dim": "12",
    "net.num_blocks": "2", "path.shift": "2.0", "path.num_steps": "50", "path.beta_limit": "0.1", "path.beta_max": "10.0",
    "objective.prediction": "v", "objective.times": "uniform", "objective.weight": "snr", "objective.coupling": "minibatch_ot",
    "objective.map": "midpoint", "objective.pairs": "logit_normal", "objective.time_bins": "2", "objective.guidance": "2.0",
    "conditioning.dim": "12", "conditioning.num_heads": "2", "conditioning.depth": "2", "conditioning.max_length": "3",
    "conditioning.degrade": "blur", "conditioning.templates": "[\"one {}\"]", "conditioning.num_tokens": "2",
    "conditioning.drop": "0.9", "conditioning.model": "nobody", "latent.autoencoder": "autoencoder", "init.run": "power",
    "teacher.run": "power", "teacher.guidance": "3.0", "teacher.pairs": "8", "teacher.num_steps": "3", "train.num_steps": "2",
    "train.minutes": "0.00001", "train.clip": "0.001", "train.accumulate": "2", "train.warmup_steps": "3", "train.save_every": "1",
    "train.keep": "1", "train.trackers": "[\"tensorboard\"]", "train.lr_decay_step": "1", "train.lr": "0.01",
    "train.weight_decay": "100.0", "train.kl_weight": "10.0", "ema.decay": "0.01", "ema.lengths": "[0.2]", "ema.num_snapshots": "1", "engine.device": "cuda:99",
    "sample.sampler": "euler", "sample.grid": "quadratic", "sample.guidance": "1.0", "sample.options": "{eta = 0.5}",
    "sample.num_steps": "3", "train.batch_size": "3", "classifier.channels": "[8]", "classifier.clock_dim": "12",
    "autoencoder.channels": "[4, 8]", "autoencoder.latent_channels": "2", "net.mlp_ratio": "2.0", "train.held_out_size": "2",
}  # fmt: skip
TOGETHER: dict[str, Given] = {
    "data.dir": {"data.name": "mnist"}, "data.skip_bad": {"data.name": "broken"}, "data.on_demand": {"data.name": "classes"},
    "net.num_heads": {}, "objective.vlb_weight": {"objective.variance": "learned"}, "objective.time_bins": {"objective.times": "importance"},
    "objective.diagonal": {"objective.map": "midpoint"}, "objective.pairs": {"objective.map": "midpoint"},
    "objective.adaptive": {"objective.map": "midpoint"}, "objective.guidance_below": {"objective.guidance": "3.0"},
    "conditioning.num_tokens": {"conditioning.injection": "cross_attention"}, "init.run": {"data.name": "digits", "net.channels": "[4]"},
    "init.partial": {"init.run": "model"}, "teacher.run": {"objective.map": "midpoint", "data.name": "digits"},
    "teacher.guidance": {"objective.map": "midpoint", "teacher.run": "power", "data.name": "digits"},
    "teacher.pairs": {"teacher.run": "power", "data.name": "digits", "teacher.num_steps": "2", "objective.map": "midpoint"},
    "teacher.num_steps": {"teacher.run": "power", "data.name": "digits", "teacher.pairs": "8"},
    "train.lr_decay_step": {"train.schedule": "step"}, "train.lr_decay_rate": {"train.schedule": "step", "train.lr_decay_step": "1"},
    "train.keep": {"train.save_every": "1"}, "sample.options": {"sample.sampler": "ddim"}, "data.channels": {},
    "path.zero_terminal_snr": {"objective.prediction": "x0"}, "conditioning.source": {"data.name": "vectors.npz"},
}  # fmt: skip
UNSEEN: dict[str, str] = {
    "engine.workers": "reads ahead; the run is the same: tests/test_shards.py",
    "engine.compile": "the same numbers, faster",
    "train.skip_nonfinite": "acts where a loss is no number: tests/test_faults.py",
    "pretrained_text": "wants a net that is downloaded",
}
VERBS = {"train": RunConfig, "train-classifier": ClassifierConfig, "train-autoencoder": AutoencoderConfig}


def all_keys() -> dict[str, tuple[str, str, str, Any]]:
    """Verb, kind, key and the class that declares it, of every key of every kind of configuration."""
    found = {}
    for verb, config in VERBS.items():
        for section, classes in sections_of(config).items():
            for cls in classes:
                kind = (
                    next((name for name, one in KINDS[section][0].items() if one is cls), "")
                    if section in KINDS
                    else ""
                )
                for f in fields(cls) if is_dataclass(cls) else ():
                    if not {f"{section}.{f.name}", kind} & UNSEEN.keys() and (
                        verb == "train" or section not in ("path", "optimiser")
                    ):
                        found[f"{verb} {section}.{kind}.{f.name}"] = (verb, kind, f"{section}.{f.name}", cls)
    return found


ALL_KEYS = all_keys()
KNOWN: dict[str, dict[str, Any]] = {}  # what commands did that several keys begin from


def another_value(key: str, cls: type[Any], base: Given) -> str:
    name = key.partition(".")[2]
    default = next(f.default for f in fields(cls) if f.name == name)
    if key in KEYS:
        return KEYS[key]
    kind = next(one for one in members(bare(hints_of(cls)[name])) if one is not type(None))
    kind = bare(kind)
    if kind is bool:
        return str(not default).lower()
    if get_origin(kind) is Literal:
        return next(str(choice) for choice in get_args(kind) if str(choice) not in (str(default), base.get(key)))
    assert kind in (int, float), f"say in KEYS what another value of {key} is"
    return str(default + 1 if kind is int else default / 2 or 0.5)


def bare(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if i % 40 == 5 else pytest.mark.long) for i, n in enumerate(ALL_KEYS)]
)
def test_every_key_of_a_configuration_changes_the_run(name: str, case: Case, request: pytest.FixtureRequest) -> None:
    """What is trained, measured, drawn or kept, apart from the configuration that is written down."""
    verb, kind, key, cls = ALL_KEYS[name]
    section = key.partition(".")[0]
    base = {**SHORT, **(SMALL["net.unet"] if verb == "train" and kind not in ("dit", "mlp") else {})}
    base |= {"classifier.channels": "[4]", "classifier.clock_dim": "8"} if verb == "train-classifier" else {}
    base |= (
        {"autoencoder.channels": "[4, 4]"}
        if verb == "train-autoencoder"
        else {"sample.num_steps": "2"}
        if verb == "train"
        else {}
    )
    base |= {
        **({f"{section}.kind": kind} if kind else {}),
        **SMALL.get(f"{section}.{kind}", {}),
        **TOGETHER.get(key, {}),
    }
    other = {**base, key: another_value(key, cls, base)}
    if key == "train.minutes":
        del other["train.num_steps"]
    if any(value in RUNS for value in other.values()):
        request.getfixturevalue("runs")
    found = []
    for given in (base, other):
        argv = [verb, "--save-dir", "run", *(word for k, v in given.items() for word in ("--set", f"{k}={v}"))]
        done = KNOWN.get(" ".join(argv)) or case(argv)
        KNOWN[" ".join(argv)] = done
        found.append((done["code"], done["files"] if done["code"] == 0 else done["err"]))
    assert found[0] != found[1], (other, found[0][0])
    assert found[1][0] == 0 or key in ("engine.device",), found[1][1]
