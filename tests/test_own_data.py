"""Own data: what is found in it, what is chosen for it, how it is augmented and split, and how it is measured."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from PIL import Image

from ebbflow import api
from ebbflow.cli.app import app, run_app
from ebbflow.cli.command import RequestCommand
from ebbflow.conditioning import label_indices
from ebbflow.config import DataConfig, RunConfig, merge, parse
from ebbflow.data import Dataset, Found, Splits, load_dataset, look
from ebbflow.data import folder as reading
from ebbflow.data.augment import Augmentation, mirrored
from ebbflow.data.split import hashed
from ebbflow.errors import ConfigError, DataError
from ebbflow.files import save_tensors
from ebbflow.metrics import learning
from ebbflow.metrics.contrast import ContrastNet, ContrastSettings, agreement, tokens
from ebbflow.metrics.features import automatic, contrast, feature_map
from ebbflow.metrics.inception import Inception
from ebbflow.metrics.learning import LearnerSettings
from ebbflow.progress import Stage, Work, finish
from ebbflow.runs import Trainer, open_run, task_of
from ebbflow.runs.build import DatasetLoader
from ebbflow.runs.choice import autoencoder_for, choose_for
from ebbflow.runs.same_data import in_order_of, splits_of_run

ROOT = Path(__file__).parents[1]
QUICK = {"min_steps": 20, "max_steps": 20}
TINY: dict[str, Any] = {
    "net": {"channels": [8, 8], "clock_dim": 8},
    "conditioning": {"kind": "label", "dim": 8},
    "train": {"num_steps": 4, "batch_size": 4, "sample_every": 0, "held_out_every": 0, "save_every": 2},
    "engine": {"device": "cpu", "precision": "fp32"},
}
FLAGS = ["--max-steps", "2", "--batch-size", "4", "--set", "net.channels=[8,8]", "--set", "train.sample_every=0"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EBBFLOW_CACHE", str(tmp_path / "cache"))
    for settings in (LearnerSettings, ContrastSettings):
        monkeypatch.setattr(settings.__init__, "__kwdefaults__", {**settings.__init__.__kwdefaults__, **QUICK})


def picture(seed: int, side: int = 16, channels: int = 3) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, channels), dtype=np.uint8)
    return Image.fromarray(pixels.squeeze())


def flat(root: Path, num: int, **kind: Any) -> Path:
    root.mkdir(parents=True)
    for i in range(num):
        picture(i, **kind).save(root / f"{i:03d}.png")
    return root


def classes(root: Path, num: int, names: tuple[str, ...] = ("cat", "dog")) -> Path:
    for i, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for k in range(num):
            picture(100 * i + k).save(root / name / f"{k:03d}.png")
    return root


def captioned(root: Path, num: int) -> Path:
    rows = [
        {"file_name": f"{i:03d}.png", "label": "ab"[i % 2], "text": f"number {i % 5}"}
        for i in range(len(list(flat(root, num).iterdir())))
    ]
    (root / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def pairs(root: Path, num: int) -> Path:
    flat(root / "a", num, side=8, channels=1)
    flat(root / "b", num)
    return root


LAYOUTS: dict[str, Callable[[Path, int], Path]] = {
    "flat": flat,
    "classes": classes,
    "captions": captioned,
    "pairs": pairs,
}


# -- what is found ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [None, 0.0, 0.4])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_look_tells_what_reading_would(layout: str, share: float | None, tmp_path: Path) -> None:
    root = LAYOUTS[layout](tmp_path / "mine", 12)
    found = look(root, held_out=share)
    read = load_dataset(root, held_out=share, paired=layout == "pairs")
    assert (found.num_train, found.num_held_out) == (len(read.train), len(read.held_out))
    assert (found.channels, found.side, found.side) == read.train.dims and found.is_uniform
    assert found.label_names == read.train.label_names
    captions = [*(read.train.captions or ()), *(read.held_out.captions or ())]
    assert found.num_captions == len(captions) and found.num_pairs == (12 if layout == "pairs" else 0)


def test_a_look_reads_headers_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = flat(tmp_path / "mine", 30)
    picture(99, side=40).save(root / "large.png")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("a picture was decoded"))
    found = look(root)
    assert found.num == 31 and found.side == 16 and not found.is_uniform


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.9])
def test_the_share_that_is_held_out(share: float) -> None:
    names = [f"{i}.png" for i in range(2000)]
    mask = hashed(names, share)
    assert float(mask.double().mean()) == pytest.approx(share, abs=0.03)
    assert bool((hashed(names, share + 0.05) >= mask).all()), "a larger share holds out the same ones and more"


def test_named_data_keeps_its_own_split() -> None:
    with pytest.raises(DataError, match="comes with its own held-out part"):
        load_dataset("digits", held_out=0.5)


# -- what is chosen -----------------------------------------------------------------------------------------------


def found(num: int = 200, side: int = 64, **other: Any) -> Found:
    return Found(**{"num_train": num, "num_held_out": 0, "side": side, "channels": 3, **other})


@pytest.mark.parametrize(
    ("has", "preset", "size"),
    [
        (found(side=8), "pictures_16", None),
        (found(side=28), "pictures_32", None),
        (found(side=64), "pictures_64", None),
        (found(side=100), "pictures_128", None),
        (found(side=3000), "pictures_64", 64),
        (found(side=3000, num=20_000), "pictures_128", 128),
        (found(side=256, num=200_000), "pictures_256", 256),
        (found(side=40, is_uniform=False), "pictures_32", 32),
        (found(side=9, is_uniform=False), "pictures_16", 16),
    ],
)
def test_the_preset_follows_the_pictures(has: Found, preset: str, size: int | None) -> None:
    chosen = choose_for(has, DataConfig(name="mine"))
    assert chosen.preset == preset and chosen.layer["data"]["size"] == size
    config = parse(merge(chosen.layer, {"data": {"name": "mine"}}))
    assert (config.latent.autoencoder == "train") == (preset == "pictures_256")


def test_more_pictures_get_wider_nets_and_more_minutes() -> None:
    layers = [choose_for(found(num=num), DataConfig(name="mine")).layer for num in (200, 5_000, 1_000_000)]
    minutes = [layer["train"]["minutes"] for layer in layers]
    widths = [layer["net"]["channels"][-1] for layer in layers]
    assert minutes == sorted(set(minutes)) and widths == sorted(set(widths))
    assert all(width % 4 == 0 for width in widths), "attention has 4 heads"


def test_few_minutes_get_no_wider_net() -> None:
    def width(num: int, minutes: float | None) -> int:
        return int(choose_for(found(num=num), DataConfig(name="mine"), minutes).layer["net"]["channels"][-1])

    assert width(200, None) == width(5_000, 6) == width(1_000_000, 6) < width(5_000, 30) == width(5_000, None)
    assert width(5_000, None) == width(1_000_000, 30) < width(1_000_000, None)


def test_what_is_transparent_is_laid_on_white_and_said() -> None:
    chosen = choose_for(found(channels=4), DataConfig(name="mine"))
    assert chosen.layer["data"]["channels"] == 3 and "laid on white (data.channels=4" in chosen.said[0]
    kept = choose_for(found(channels=4), DataConfig(name="mine", channels=4))
    assert kept.layer["data"]["channels"] == 4 and len(kept.said) == 1


def test_one_coloured_picture_makes_all_coloured(tmp_path: Path) -> None:
    for name, mode in (("a", "L"), ("b", "RGB"), ("c", "1")):
        Image.new(mode, (8, 8)).save(tmp_path / f"{name}.png")
    chosen = choose_for(look(tmp_path), DataConfig(name=str(tmp_path)))
    data = chosen.layer["data"]
    assert load_dataset(tmp_path, size=data["size"], channels=data["channels"]).train.dims == (3, 8, 8)


def test_a_file_that_names_options_of_another_kind_gets_that_kind() -> None:
    chosen = choose_for(found(), DataConfig(name="mine"))
    above = {"ema": {"decay": 0.9}, "net": {"channels": [8]}, "optimiser": {"kind": "adamw"}}
    config = parse(merge(chosen.under(above).layer, above))
    assert config.ema.decay == 0.9 and config.net.patch_size == 4 and config.net.channels == (8,)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("has", "name", "flips"),
    [
        (found(), "mine", True),
        (found(), "cifar10", True),
        (found(channels=1), "mine", False),
        (found(num_pairs=200), "mine", False),
        (found(tells_sides=True), "mine", False),
    ],
)
def test_flips_where_they_are_safe(has: Found, name: str, flips: bool) -> None:
    chosen = choose_for(has, DataConfig(name=name))
    assert chosen.layer["data"]["flip"] == flips and "mirrored" in chosen.said[-1]


@pytest.mark.parametrize(
    ("text", "tells"), [("an arrow to the left", True), ("左边的猫", True), ("a bright leftover", False), ("", False)]
)
def test_captions_that_tell_sides(text: str, tells: bool, tmp_path: Path) -> None:
    root = flat(tmp_path / "mine", 2)
    (root / "metadata.jsonl").write_text(json.dumps({"file_name": "000.png", "text": text}) + "\n", encoding="utf-8")
    assert look(root).tells_sides == tells


# -- augmentation -------------------------------------------------------------------------------------------------


def some(num: int = 6, side: int = 8) -> Dataset:
    x = torch.randint(0, 256, (num, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Dataset(name="mine", x=x, labels=torch.arange(num) % 2, label_names=("a", "b"))


def test_a_flip_mirrors_about_half_and_changes_nothing_else() -> None:
    x0 = some(400).x0(torch.arange(400))
    flipped = Augmentation(flip=True)(x0, torch.Generator().manual_seed(1))
    same, turned = ((flipped == way).flatten(1).all(1) for way in (x0, x0.flip(-1)))
    assert bool((same ^ turned).all()) and 150 < int(turned.sum()) < 250
    assert torch.equal(Augmentation()(x0, torch.Generator()), x0)


def test_a_crop_is_a_square_of_the_picture() -> None:
    """Pictures that are their own coordinates: what comes back is linear, up to the ripple of bicubic interpolation."""
    place = (torch.arange(32) + 0.5) / 16 - 1
    x0 = torch.stack([place.expand(32, 32), place[:, None].expand(32, 32)]).expand(50, 2, 32, 32)
    cut = Augmentation(crop=0.5)(x0, torch.Generator().manual_seed(2))[:, :, 8:24, 8:24]  # away from the edges
    across, down = cut[:, 0, 0], cut[:, 1, :, 0]
    scale = 16 * (across[:, -1] - across[:, 0]) / 15
    line = across[:, :1] + scale[:, None] * torch.arange(16) / 16
    assert torch.allclose(across, line, atol=0.01)
    assert torch.allclose(down - down[:, :1], across - across[:, :1], atol=0.02), "a square stays a square"
    assert bool(((scale > 0.49) & (scale < 1.01)).all()) and scale.max() - scale.min() > 0.3
    middle, room = (cut[:, :, 7, 7] + cut[:, :, 8, 8]) / 2, 1 - scale
    assert bool((middle.abs() <= room[:, None] + 0.01).all()), "nothing from outside"


def test_batches_are_a_function_of_the_step_and_conditions_stay() -> None:
    plain, drawn = (
        DatasetLoader(dataset=some(), cond=some().labels, batch_size=16, seed=3, augment=augment)
        for augment in (None, Augmentation(flip=True, crop=0.3))
    )
    first, again = drawn.batch(5), replace(drawn).batch(5)
    assert torch.equal(first.x0, again.x0) and not torch.equal(first.x0, plain.batch(5).x0)
    assert isinstance(first.cond, torch.Tensor) and torch.equal(first.cond, plain.batch(5).cond)
    assert not torch.equal(first.x0, drawn.batch(6).x0)


def config_of(**data: Any) -> RunConfig:
    return parse(merge(TINY, {"data": {"name": "mine", **data}}))


def test_a_resumed_run_of_augmented_pictures_is_the_uninterrupted_one(tmp_path: Path) -> None:
    splits, config = Splits(train=some(), held_out=some(2)), config_of(flip=True, crop=0.2)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    list(Trainer(task_of(config, splits, whole)).events())
    events = Trainer(task_of(config, splits, parts)).events()
    for progress in events:
        if progress.step == 3:
            break
    events.close()
    list(Trainer(task_of(config, splits, parts)).events())
    one, other = (open_run(folder).checkpoint.tensors("model") for folder in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_latent_run_learns_mirror_images_too(tmp_path: Path) -> None:
    data = some()
    both = mirrored(data)
    assert torch.equal(both.x, torch.cat([data.x, data.x.flip(-1)])) and both.labels is not None
    assert torch.equal(both.labels, torch.cat([data.labels, data.labels]))  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"data": {"name": "moons"}, "net": {"kind": "mlp"}}, "data.flip and data.crop are of images"),
        ({"conditioning": {"kind": "image", "degrade": "grey"}}, "conditioning.kind=image goes by"),
        ({"objective": {"coupling": "minibatch_ot"}}, "objective.coupling pairs noise with"),
    ],
)
def test_what_cannot_be_mirrored_is_refused(layer: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = parse(merge({**TINY, "net": layer.get("net", TINY["net"])}, {"data": {"flip": True}}, layer))
    splits = load_dataset("moons") if config.data.name == "moons" else Splits(train=some(), held_out=some(2))
    with pytest.raises(ConfigError, match=re.escape(message)):
        task_of(config, splits, tmp_path / "run")


# -- classes named by numbers -------------------------------------------------------------------------------------


def test_numbers_are_sorted_by_value_and_are_names(tmp_path: Path) -> None:
    names = load_dataset(classes(tmp_path / "mine", 2, ("10", "2", "1"))).train.label_names
    assert names == ("1", "2", "10") and label_indices(["10", 2], names) == [2, 1]
    with pytest.raises(ValueError, match=r"label '0' is unknown to this run. Known: 1, 2, 10\."):
        label_indices([0], names)
    assert label_indices([1], ("cat", "dog")) == [1], "where names are no numbers an index will do"


def test_a_run_with_the_old_order_of_numbers_goes_on(tmp_path: Path) -> None:
    root = classes(tmp_path / "mine", 4, ("10", "2"))
    now = load_dataset(root)
    place = torch.tensor([1, 0])
    old = Splits(
        **{part: replace(data, labels=place[data.labels], label_names=("10", "2")) for part, data in vars(now).items()}  # type: ignore[index]
    )
    config = parse(merge(TINY, {"data": {"name": str(root)}}))
    list(Trainer(task_of(config, old, tmp_path / "run")).events())
    again = in_order_of(now, tmp_path / "run")
    assert again.train.labels is not None and torch.equal(again.train.labels, old.train.labels)  # type: ignore[arg-type]
    assert Trainer(task_of(config, again, tmp_path / "run")).start == 4
    assert splits_of_run(open_run(tmp_path / "run")).train.label_names == ("10", "2")


# -- the command --------------------------------------------------------------------------------------------------


def test_the_first_lines_say_what_was_found_and_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    captioned(tmp_path / "mine", 20)
    assert run_app(["train", "--data", "mine", *FLAGS]) == 0
    said = capsys.readouterr().out
    parts = "19 to train on, 1 held out"
    assert f"runs/mine: 20 pictures of 3x16x16 in colour ({parts}), 2 labels, 20 captions" in said
    assert "conditioned on labels; 20 captions not used (--set conditioning.kind=text)" in said
    assert "preset pictures_16" in said and "mirrored at random (--set data.flip=false)" in said
    shutil.rmtree("runs")
    assert run_app(["train", "--data", "mine", *FLAGS, "--set", "conditioning.kind=text", "--held-out", "0"]) == 0
    said = capsys.readouterr().out
    assert "(20 to train on, none held out)" in said
    assert "conditioned on captions; 2 labels not used (--set conditioning.kind=label)" in said


def test_a_dry_run_decodes_a_batch_at_most(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    classes(tmp_path / "mine", 40)
    decoded, real = [], reading._decode
    monkeypatch.setattr(reading, "_decode", lambda *given: decoded.append(1) or real(*given))
    assert run_app(["train", "--data", "mine", *FLAGS, "--dry-run", "--json"]) == 0
    dry = json.loads(capsys.readouterr().out)
    assert len(decoded) <= 4 + 1 and dry["num_samples"] == len(load_dataset("mine").train)
    assert dry["config"]["net"]["channels"] == [8, 8] and dry["config"]["data"]["flip"] is True


def test_a_run_goes_on_as_it_was_begun_when_its_data_has_grown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = flat(tmp_path / "mine", 10)
    flags = ["--batch-size", "4", "--set", "net.channels=[8,8]"]
    assert run_app(["train", "--data", "mine", "--preset", "digits", "--max-steps", "2", *flags]) == 0
    folder = next((tmp_path / "runs").iterdir())
    for i in range(10, 14):
        picture(i).save(root / f"{i:03d}.png")
    assert run_app(["train", "--data", "mine", "--max-steps", "3", "--save-dir", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "14 pictures" in said and "as it was begun" in said and open_run(folder).checkpoint.step == 3


def test_large_pictures_train_their_autoencoder_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flat(tmp_path / "mine", 6)
    command = ["train", "--data", "mine", *FLAGS, "--set", "latent.autoencoder=train"]
    assert run_app(command) == 0
    assert open_run("runs/mine").facts.latent_dims is not None
    assert Path("runs/mine_autoencoder/model.safetensors").is_file()
    assert open_run("runs/mine").config.latent.autoencoder == "runs/mine_autoencoder"
    shutil.rmtree("runs/mine_autoencoder")
    assert run_app(command) == 0 and "already trained" in capsys.readouterr().out, "the run has its own copy"
    assert run_app([*command, "--dry-run"]) == 0
    assert 'autoencoder = "train"' in capsys.readouterr().out


def test_an_autoencoder_that_was_begun_otherwise_stays_as_it_is(tmp_path: Path) -> None:
    flat(tmp_path / "mine", 6)
    own = ["--max-steps", "2", "--batch-size", "4", "--set", "autoencoder.channels=[8,8]"]
    assert run_app(["train-autoencoder", "--data", "mine", *own, "--save-dir", "runs/mine_autoencoder"]) == 0
    assert run_app(["train", "--data", "mine", *FLAGS, "--set", "latent.autoencoder=train"]) == 0
    begun = json.loads(Path("runs/mine_autoencoder/config.json").read_text(encoding="utf-8"))["config"]
    assert begun["autoencoder"]["channels"] == [8, 8] and open_run("runs/mine").facts.latent_dims == (4, 8, 8)


@pytest.mark.parametrize(("side", "factor"), [(64, 2), (128, 4), (256, 8), (512, 16)])
def test_codes_are_at_most_32_wide(side: int, factor: int) -> None:
    made = autoencoder_for(config_of(), (3, side, side))
    assert made.autoencoder.factor == factor and made.train.num_steps == 4
    many = autoencoder_for(replace(config_of(), train=replace(config_of().train, batch_size=64)), (3, side, side))
    assert many.train.batch_size == (16 if side < 256 else 4), "large pictures are many lessons each"


def test_pairs_are_told_from_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs(tmp_path / "mine", 6)
    assert run_app(["train", "--data", "mine", *FLAGS]) == 0
    said = capsys.readouterr().out
    assert "6 pictures of 3x16x16" in said and "conditioned on pictures" in said and "not mirrored" in said


def test_every_command_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "own_pictures.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    for verb, *arguments in (shlex.split(line) for line in lines):
        if verb == "python":
            monkeypatch.setattr(sys, "argv", [*arguments[:2], "8", "16"])
            runpy.run_path(str(ROOT / arguments[0]), run_name="__main__")
        elif arguments[0] in ("evaluate", "compare"):
            named = app.get_command(click.Context(app), arguments[0])
            assert isinstance(named, RequestCommand) and named.read(arguments[1:]) is not None
        else:
            few = FLAGS if arguments[0] == "train" else ["--steps", "1"]
            assert run_app([*arguments, *few]) == 0, arguments
    assert {path.name for path in tmp_path.glob("*.png")} == {"mine.png", "circle.png", "red.png"}


# -- measuring ----------------------------------------------------------------------------------------------------


def test_features_follow_what_there_is() -> None:
    def data(num: int, num_classes: int, dims: tuple[int, ...] = (1, 4, 4)) -> Dataset:
        x = torch.zeros(num, *dims, dtype=torch.uint8 if len(dims) == 3 else torch.float32)
        names = tuple(map(str, range(num_classes)))
        return Dataset(
            name="mine", x=x, labels=torch.zeros(num, dtype=torch.int64) if names else None, label_names=names
        )

    assert automatic(data(5000, 10), 1000, 500) == "classifier"
    assert automatic(data(5000, 1000), 1000, 500) == "views", "five of each class teach no classifier"
    assert automatic(data(1475, 8), 1000, 161) == "views", "161 rows tell nothing of 128 features"
    assert automatic(data(5000, 10), 5, 500) == "pca:1"
    assert automatic(data(5000, 0), 1000, 500) == "views"
    assert automatic(data(52, 3), 1000, 52) == "pca:13" and automatic(data(3, 0), 1000, 3) == "pca:1"
    assert automatic(data(5000, 2, (2,)), 1000, 500) == "coordinates"


@pytest.mark.parametrize("layout", ["flat", "captions"])
def test_sixty_pictures_are_measured_without_a_flag(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    LAYOUTS[layout](tmp_path / "mine", 60)
    by_text = ["--set", "conditioning.kind=text", "--set", "conditioning.dim=16"] if layout == "captions" else []
    assert run_app(["train", "--data", "mine", *FLAGS, *by_text]) == 0
    capsys.readouterr()
    few = ["--num", "64", "--steps", "1"]
    assert run_app(["evaluate", "--ckpt", "runs/mine", *few, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    splits = load_dataset("mine")
    assert result["features"].startswith(f"pca{len(splits.train) // 4}-") and result["split"] == "train"
    assert result["frechet"] > 0 and result["standard_errors"]["kid"] > 0 and len(result["notes"]) == 2
    assert (result["caption_agreement"] is None) == (layout == "flat")
    if layout == "captions":
        assert 0 <= result["caption_agreement"] <= 1 and result["scorer"]["name"].startswith("captions-mine-")
    assert run_app(["compare", "runs/mine", "--samplers", "heun", "--guidance", "1", *few]) == 0
    assert "entries are few" in capsys.readouterr().out


def test_who_waits_in_a_notebook_sees_a_bar_a_stage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> Work[int]:
        for name in ("train features", "measure"):
            yield from (Stage(name, i, 2) for i in range(3))
        return 7

    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert api._finished(work()) == 7 and not capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert api._finished(work()) == 7
    said = capsys.readouterr().err
    assert 0 < said.index("train features") < said.index("measure") and "2/2" in said


def test_agreement_is_that_of_brute_force() -> None:
    draw = torch.Generator().manual_seed(4)
    texts = [f"text {i % 10}" for i in range(40)]
    vectors = {text: torch.randn(8, generator=draw) for text in dict.fromkeys(texts)}
    own = torch.stack([vectors[text] for text in texts])
    pictures = own + 0.8 * torch.randn(40, 8, generator=draw)
    brute = [
        all(p @ vectors[text] > p @ v for t, v in vectors.items() if t != text)
        for p, text in zip(pictures, texts, strict=True)
    ]
    assert agreement(pictures, own, texts).tolist() == [float(right) for right in brute]
    assert 0 < sum(brute) < 40
    many = torch.nn.functional.normalize(torch.randn(1000, 8, generator=draw), dim=1)
    chance = agreement(many, many.roll(1, 0), [str(i) for i in range(1000)])
    assert float(chance.mean()) == pytest.approx(1 / 16, abs=0.03), "of pictures that have nothing to do with it"


def test_a_scorer_learns_which_caption_is_whose() -> None:
    data = some(64, 16)
    bright = torch.arange(64) % 2
    x = torch.where(bright.reshape(-1, 1, 1, 1).bool(), 255 - data.x // 4, data.x // 4)
    data = replace(data, x=x, captions=tuple(("dark", "bright")[i] for i in bright.tolist()))
    scorer = finish(contrast(Splits(train=data, held_out=data), torch.device("cpu"), reads=True))
    fits = agreement(scorer.of_pictures(data.x0(torch.arange(64))), scorer.of_texts(data.captions), data.captions)  # type: ignore[arg-type]
    assert float(fits.mean()) > 0.95
    net = ContrastNet((3, 16, 16), 8, reads=True)
    ids = tokens(["a", "", "x" * 500])
    assert net.of_texts(ids).norm(dim=1).allclose(torch.ones(3)) and ids.shape == (3, 128)


@pytest.mark.parametrize("reads", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_stopped_training_of_features_goes_on_to_the_same_net(
    reads: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning, "SAVE_SECONDS", 0.0)
    data = replace(some(12), captions=tuple(f"a picture of {i}" for i in range(12)))
    work = lambda: contrast(Splits(train=data, held_out=data), torch.device("cpu"), reads=reads)  # noqa: E731
    started = work()
    for _ in range(7):
        next(started)
    started.close()
    seen: list[Stage] = []
    stopped = finish(work(), seen.append)
    assert seen[0].done > 5, "it goes on from where it was"
    shutil.rmtree("cache")
    whole = finish(work())
    assert stopped.name == whole.name, "the name holds the hash of the weights"
    assert not list(Path("cache").rglob("*.partial")), "nothing is left behind"


# -- Inception ----------------------------------------------------------------------------------------------------


def test_inception_is_the_papers_net(tmp_path: Path) -> None:
    """Keras counts 21,802,784 numbers without the top: convolutions, and shift, mean and variance of each channel. The
    shapes are those of table 1 of Szegedy et al. (2015)."""
    net = Inception().eval()
    channels = sum(part.num_features for part in net.modules() if isinstance(part, torch.nn.BatchNorm2d))
    assert sum(p.numel() for p in net.parameters()) - channels + 2 * channels == 21_802_784
    shapes: dict[str, tuple[int, ...]] = {}
    for name, block in net.named_children():
        block.register_forward_hook(lambda _, given, out, name=name: shapes.__setitem__(name, tuple(out.shape[1:])))
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        features = net(x)
    assert shapes["Conv2d_4a_3x3"] == (192, 71, 71) and shapes["Mixed_5d"] == (288, 35, 35)
    assert shapes["Mixed_6e"] == (768, 17, 17) and shapes["Mixed_7c"] == (2048, 8, 8)
    file = tmp_path / "inception.safetensors"
    save_tensors({**net.state_dict(), "fc.weight": torch.zeros(1008, 2048)}, file)
    data = some(1)
    found = feature_map(f"inception:{file}", data, torch.device("cpu"))
    assert found.dim == 2048 and torch.equal(found(x), features)
    grey = x[:, :1]
    assert torch.equal(found(grey), found(grey.expand(-1, 3, -1, -1)))
    save_tensors({"fc.weight": torch.zeros(3)}, file)
    with pytest.raises(ConfigError, match=r"is not Inception-v3: Conv2d_1a_3x3.conv.weight is missing"):
        feature_map(f"inception:{tmp_path}", data, torch.device("cpu"))
