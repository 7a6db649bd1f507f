"""Laws of the open door: what `ef.open` gives is what the command line has, for every kind of run."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import ebbflow as ef
from ebbflow.cli.app import run_app
from ebbflow.data import to_uint8
from ebbflow.errors import CheckpointError, ConfigError, DataError
from ebbflow.requests.base import entries
from ebbflow.requests.sampling import EditRequest, SampleRequest

TINY = [
    "--set", "train.sample_every=0", "--set", "train.held_out_every=0", "--set", "train.warmup_steps=0", "--lr", "1e-2",
    "--batch-size", "16", "--device", "cpu", "--set", "engine.precision=fp32", "--set", "sample.num_steps=3",
]  # fmt: skip
SMALL = ["--set", "net.channels=[8,8]", "--set", "net.num_heads=2"]
KINDS: dict[str, list[str]] = {
    "label": SMALL,
    "text": [*SMALL, "--set", "conditioning.kind=text", "--set", "conditioning.dim=16"],
    "vector": [*SMALL, "--set", "conditioning.kind=vector", "--set", "conditioning.dim=16"],
    "unconditional": [*SMALL, "--set", "conditioning.kind=none"],
    "points": ["--data", "moons", "--set", "net.kind=mlp", "--set", "net.dim=16"],
    "latent": ["--set", "net.channels=[8]", "--set", "net.num_heads=2", "--set", "latent.autoencoder=AUTOENCODER"],
}
ASKED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "label": ({"labels": [4, 9], "guidance": 3, "negative_label": 1}, ["--labels", "4,9", "--guidance", "3", "--negative-label", "1"]),
    "text": ({"prompts": ["a four"], "sampler": "dpmpp_2m"}, ["--prompt", "a four", "--sampler", "dpmpp_2m"]),
    "vector": ({"vectors": [[0.5, 0.5, *[0] * 8]]}, ["--vector", "0.5,0.5,0,0,0,0,0,0,0,0"]),
    "unconditional": ({"sampler": "ddim", "options": {"eta": 0.5}, "clip": True}, ["--sampler", "ddim", "--set", "eta=0.5", "--clip"]),
    "points": ({"grid": "karras", "options": {"grid.rho": 3}}, ["--grid", "karras", "--set", "grid.rho=3"]),
    "latent": ({"labels": "3", "steps": 4}, ["--label", "3", "--steps", "4"]),
}  # fmt: skip
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a run of a kind, barely trained, each made once."""
    root = tmp_path_factory.mktemp("opened")

    def get(kind: str) -> Path:
        made = root / kind
        if made.exists():
            return made
        if kind == "autoencoder":
            quick = [
                "--set",
                "autoencoder.channels=[16,32]",
                "--max-steps",
                "120",
                "--batch-size",
                "64",
                "--device",
                "cpu",
            ]
            assert run_app(["train-autoencoder", *quick, "--save-dir", str(made)]) == 0
            return made
        settings = [
            one.replace("AUTOENCODER", str(get("autoencoder"))) if "AUTO" in one else one for one in KINDS[kind]
        ]
        assert run_app(["train", "--max-steps", "6", *TINY, *settings, "--save-dir", str(made)]) == 0
        return made

    return get


@pytest.fixture(scope="module")
def opened(folder: Callable[[str], Path]) -> Callable[[str], ef.Model]:
    models: dict[str, ef.Model] = {}
    return lambda kind: models.setdefault(kind, ef.open(folder(kind), device="cpu"))


Folder, Opened = Callable[[str], Path], Callable[[str], ef.Model]


def shown(samples: ef.SampleSet) -> Tensor:
    return samples.x if samples.images is None else samples.images.permute(0, 2, 3, 1)


# -- one thing by every door ------------------------------------------------------------------------------------------


@each_kind
def test_python_and_the_command_line_make_the_same_pixels(
    kind: str, folder: Folder, opened: Opened, tmp_path: Path
) -> None:
    asked, flags = ASKED[kind]
    samples = opened(kind).sample(num=4, seed=7, **asked)
    before = ["sample", "--ckpt", str(folder(kind)), "--device", "cpu", "--num", "4", "--seed", "7"]
    assert run_app([*before, *flags, "--output", str(tmp_path / "x.npz")]) == 0
    assert np.array_equal(np.load(tmp_path / "x.npz")["arr_0"], shown(samples).numpy())
    assert shown(samples).float().std() > 0, "nothing was compared"


@each_kind
def test_a_folder_an_open_model_and_its_method_are_one(kind: str, folder: Folder, opened: Opened) -> None:
    model = opened(kind)
    by_method = model.sample(num=3, steps=2)
    assert torch.equal(by_method.x, ef.sample(model, num=3, steps=2).x)
    assert torch.equal(by_method.x, ef.sample(folder(kind), num=3, steps=2, device="cpu").x)
    *_, last = model.steps(num=3, steps=2)
    assert last.done and torch.equal(by_method.x, last.x)
    assert ef.open(model) is model
    weights = ef.load(folder(kind), device="cpu").net.state_dict()  # type: ignore[attr-defined]
    assert all(torch.equal(weights[name], k) for name, k in model.denoiser.net.state_dict().items())  # type: ignore[attr-defined]


@each_kind
def test_a_sample_depends_on_its_seed_alone(kind: str, opened: Opened) -> None:
    model, law = opened(kind), {"sampler": "sde", "steps": 4}
    rows = {"labels": [0]} if model.label_names and model.is_conditional else {}
    whole = model.sample(seeds=range(5, 12), **law, **rows)
    in_parts = model.sample(seeds=range(5, 12), batch_size=3, **law, **rows)
    torch.testing.assert_close(in_parts.x, whole.x, rtol=1e-4, atol=1e-4)
    alone = model.sample(seeds=[9], **law, **rows)
    torch.testing.assert_close(alone.x, whole.x[4:5], rtol=1e-4, atol=1e-4)
    assert (whole.x[4] - whole.x[3]).abs().max() > 1e-2 and whole.seeds == tuple(range(5, 12))


# -- conditions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [[3, 4, 5], ["3", "4", "5"], "3-5", "3,4,5", (3, "4", 5)], ids=str)
def test_labels_come_by_index_by_name_and_as_text(labels: Any, opened: Opened) -> None:
    found = opened("label").sample(labels=labels, num=6)
    assert found.labels == (3, 3, 4, 4, 5, 5)
    assert torch.equal(found.x, opened("label").sample(labels=[3, 4, 5], num=6).x)


def test_no_condition_is_guidance_zero_and_nothing_said_is_every_class(opened: Opened) -> None:
    model = opened("label")
    nothing = model.sample(labels="none", num=4)
    assert nothing.conditions is None and nothing.labels is None
    torch.testing.assert_close(nothing.x, model.sample(labels=[4], guidance=0, num=4).x, rtol=1e-5, atol=1e-5)
    assert model.sample(steps=1).labels == tuple(c for c in range(10) for _ in range(8))
    assert len(model.sample(labels=[4], steps=1)) == 1, "one label is one sample"


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "a near keyword": ("label", {"step": 3}, r"unknown argument 'step' of sample\. Did you mean 'steps'"),
    "a name of before": ("label", {"num_steps": 3}, "unknown argument 'num_steps'"),
    "a near sampler": ("label", {"sampler": "huen"}, "Did you mean 'heun'"),
    "a near label": ("label", {"labels": ["eleven"]}, "label 'eleven' is unknown"),
    "a type": ("label", {"steps": "many"}, "`steps` must be a whole number, got 'many'"),
    "a range": ("label", {"num": 0}, r"`num` must be in \[1, 10000000\], got 0"),
    "labels of an unconditional model": ("unconditional", {"labels": [1]}, "unconditional: it cannot take labels"),
    "prompts of labels": ("label", {"prompts": ["four"]}, "it takes no prompts"),
    "two conditions": ("text", {"labels": [1], "prompts": ["four"]}, "`labels` and `prompts` all choose"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_the_words_of_python(name: str, opened: Opened) -> None:
    kind, asked, message = WRONG[name]
    with pytest.raises((ConfigError, ValueError), match=message) as caught:
        opened(kind).sample(**asked)
    assert "--" not in str(caught.value), "flags are the command line's"


def test_every_call_names_what_is_near(opened: Opened) -> None:
    model, x0 = opened("label"), torch.zeros(1, 8, 8)
    calls: dict[str, Callable[[], object]] = {
        "steps": lambda: ef.sample(model, step=3),
        "strength": lambda: model.edit(x0, strenght=0.5),
        "resample": lambda: ef.edit(model, x0, resamples=2),
        "guidance": lambda: ef.evaluate(model, guidence=2),
        "samplers": lambda: ef.compare([model], sampler="heun"),
        "features": lambda: ef.evaluate_images("pictures", feature="pca"),
    }
    for name, call in calls.items():
        with pytest.raises(ConfigError, match=f"unknown argument .* Did you mean '{name}'"):
            call()


@pytest.mark.parametrize(
    ("function", "request_class"),
    [
        (ef.sample, SampleRequest),
        (ef.edit, EditRequest),
        (ef.evaluate, None),
        (ef.evaluate_images, None),
        (ef.compare, None),
        (ef.Model.sample, SampleRequest),
        (ef.Model.edit, EditRequest),
    ],
    ids=lambda one: getattr(one, "__qualname__", ""),
)
def test_signatures_show_every_keyword_and_its_type(function: Any, request_class: Any) -> None:
    parameters = inspect.signature(function).parameters
    assert not any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    keywords = [p for p in parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert keywords and all(p.annotation is not p.empty for p in keywords)
    assert all(f"{p.name}: " in (function.__doc__ or "") for p in keywords)
    assert request_class is None or set(entries(request_class)) <= set(parameters)


def test_objects_stand_wherever_names_do(opened: Opened) -> None:
    model = opened("label")
    named = model.sample(num=2, sampler="ddim", grid="karras", options={"grid.rho": 3}, steps=4)
    karras = dataclasses.replace(ef.TIME_GRIDS["karras"], rho=3.0)
    assert torch.equal(named.x, model.sample(num=2, sampler=ef.SAMPLERS["ddim"], grid=karras, steps=4).x)
    with pytest.raises(ConfigError, match="decorated with ef"):
        model.sample(num=2, sampler=len)


def test_a_single_number_stands_for_a_list_of_one(opened: Opened) -> None:
    model = opened("label")
    assert torch.equal(model.sample(labels=4, num=2).x, model.sample(labels=[4], num=2).x)


# -- results ----------------------------------------------------------------------------------------------------------


def test_samples_show_and_save_themselves(opened: Opened, tmp_path: Path) -> None:
    samples = opened("label").sample(labels=[1, 2], num=4)
    assert len(samples) == 4 and repr(samples) == "SampleSet(4 x (1, 8, 8))"
    assert samples.images is not None and samples.images.dtype == torch.uint8
    assert torch.equal(samples.images, to_uint8(samples.x))
    assert samples.grid().height > samples.grid().width / 2 and samples._repr_png_().startswith(b"\x89PNG")
    for name in ("grid.png", "grid.webp", "all.npz", "folder"):
        assert samples.save(tmp_path / name) == tmp_path / name and (tmp_path / name).exists()
    assert np.load(tmp_path / "all.npz")["arr_1"].tolist() == [1, 1, 2, 2]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "folder" / "seed_000002.png")), samples.images[2, 0])
    with pytest.raises(ConfigError, match=r"\.npz"):
        samples.save(tmp_path / "grid.bmp")


def test_points_are_a_scatter_and_no_folder_of_pictures(opened: Opened, tmp_path: Path) -> None:
    samples = opened("points").sample(num=5)
    assert samples.images is None and samples.grid().width > 100
    assert np.array_equal(np.load(samples.save(tmp_path / "x.npz"))["arr_0"], samples.x)
    with pytest.raises(ConfigError, match="points go into a picture"):
        samples.save(tmp_path / "folder")


# -- the model itself -------------------------------------------------------------------------------------------------


@each_kind
def test_a_model_knows_itself(kind: str, folder: Folder, opened: Opened) -> None:
    model = opened(kind)
    assert model.dims == ((2,) if kind == "points" else (1, 8, 8))
    assert repr(model).startswith(f"Model({kind}: {'2' if kind == 'points' else '1x8x8'}")
    assert model.is_conditional == (kind != "unconditional")
    x = torch.rand(3, *model.dims) * 2 - 1
    if kind != "latent":
        assert torch.equal(model.decode(model.encode(x)), x), "a model of the data itself has it as it is"


def test_a_latent_model_encodes_and_decodes(opened: Opened) -> None:
    model, data = opened("latent"), ef.load_dataset("digits").held_out
    x = data.x0(torch.arange(64))
    z = model.encode(x)
    assert tuple(z.shape[1:]) == model.facts.latent_dims and model.decode(z).shape == x.shape
    lost, spread = (model.decode(z) - x).square().mean(), (x - x.mean(0)).square().mean()
    assert lost < spread / 2
    again = model.encode(model.decode(z))
    assert (again - z).square().mean() < 0.5, "latents of deviation 1 come back near themselves"


def test_steps_are_decoded_when_they_are_looked_at(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step was copied and decoded although only the last was read."""
    model, decoded = ef.open(folder("latent"), device="cpu"), []
    decode = model.space.decode  # type: ignore[union-attr]
    monkeypatch.setattr(model.space, "decode", lambda z: decoded.append(len(z)) or decode(z))
    steps = list(model.steps(labels=[1], num=2, steps=5))
    assert len(steps) == 5 and decoded == []
    assert steps[-1].x.shape == steps[-1].x.shape == (2, 1, 8, 8) and decoded == [2], "and once"
    model.sample(labels=[1], num=2, steps=5)
    assert decoded == [2, 2]


def test_a_model_moves_to_another_precision(folder: Folder) -> None:
    plain, moved = (ef.open(folder("label"), device="cpu") for _ in range(2))
    moved = moved.to(dtype=torch.bfloat16)
    assert {p.dtype for p in moved.denoiser.net.parameters()} == {torch.bfloat16}  # type: ignore[attr-defined]
    a, b = (model.sample(labels=[3], num=4).x for model in (plain, moved))
    assert a.dtype == b.dtype == torch.float32 and 0 < (a - b).abs().max() < 0.3
    half = ef.open(folder("label"), device="cpu", dtype=torch.bfloat16)
    assert torch.equal(half.sample(labels=[3], num=4).x, b)


def test_what_cannot_be_opened_is_said(folder: Folder, opened: Opened, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        ef.open(tmp_path / "nowhere")
    with pytest.raises(CheckpointError):
        ef.open(tmp_path)
    for setting in ({"weights": "raw"}, {"device": "cpu"}):
        with pytest.raises(ConfigError, match="when a model is opened, and this one is open"):
            ef.sample(opened("label"), num=1, **setting)
    raw = ef.open(folder("label"), device="cpu", weights="raw")
    assert not torch.equal(raw.sample(labels=[3]).x, opened("label").sample(labels=[3]).x)


# -- edits ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def digit(tmp_path: Path) -> Path:
    path = tmp_path / "digit.png"
    Image.fromarray(ef.load_dataset("digits").held_out.x[0, 0].numpy()).save(path)
    return path


@pytest.mark.parametrize("kind", ["label", "unconditional", "latent"])
def test_an_edit_takes_a_file_or_its_pixels(kind: str, digit: Path, folder: Folder, opened: Opened) -> None:
    model, x0 = opened(kind), ef.load_dataset("digits").held_out.x0(torch.tensor([0]))
    by_file = model.edit(digit, num=3, strength=0.5, steps=4)
    assert len(by_file) == 3 and by_file.x.shape == (3, 1, 8, 8)
    for image in (x0, x0[0]):
        assert torch.equal(model.edit(image, num=3, strength=0.5, steps=4).x, by_file.x)
    assert torch.equal(ef.edit(folder(kind), digit, num=3, strength=0.5, steps=4, device="cpu").x, by_file.x)
    by_bytes = model.edit(to_uint8(x0), num=3, strength=0.5, steps=4)
    assert torch.equal(by_bytes.x, by_file.x), "bytes were taken for numbers in [-1, 1]"
    with pytest.raises(ConfigError, match=r"one image of shape \(1, 8, 8\) in \[-1, 1\] is wanted"):
        model.edit(torch.zeros(2, 1, 8, 8))
    with Image.open(digit) as picture:
        for image in (picture, np.asarray(picture), np.asarray(picture)[..., None], x0[0].numpy()):
            assert torch.equal(model.image(image), model.image(digit)), type(image)
    with pytest.raises(ConfigError, match="a picture, an array or a tensor, got list"):
        model.edit([[0.0]])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="data must be floating numbers, or bytes"):
        model.edit(torch.zeros(1, 8, 8, dtype=torch.int64))


def test_an_edit_with_a_mask_keeps_the_rest_to_the_pixel(digit: Path, opened: Opened, tmp_path: Path) -> None:
    white = np.zeros((8, 8), dtype=np.uint8)
    white[4:] = 255
    Image.fromarray(white).save(tmp_path / "mask.png")
    kept = np.asarray(Image.open(digit))[:4]
    for kind in ("label", "latent"):
        edited = opened(kind).edit(digit, mask=tmp_path / "mask.png", labels=[3], num=2, resample=2).images
        assert edited is not None and all(np.array_equal(one[0, :4], kept) for one in edited)
        assert not torch.equal(edited[0], edited[1]), "the rest is made anew from each seed"


def test_a_mask_may_be_in_memory(digit: Path, opened: Opened, tmp_path: Path) -> None:
    white = np.zeros((8, 8), dtype=np.uint8)
    white[4:] = 255
    Image.fromarray(white).save(tmp_path / "mask.png")
    model = opened("label")
    by_file = model.edit(digit, mask=tmp_path / "mask.png", labels=[3], num=2).x
    here = torch.from_numpy(white)
    shapes = (
        Image.fromarray(white),
        white,
        white > 0,
        white / 255,
        here,
        here[None],
        here[None, None] > 0,
        here.bool().long(),
    )
    for mask in shapes:
        assert torch.equal(model.edit(digit, mask=mask, labels=[3], num=2).x, by_file), mask
    for mask, got in ((np.ones((4, 4)), "4x4"), (Image.new("L", (5, 8)), "8x5"), (3.0, "float"), (object(), "object")):
        with pytest.raises(ConfigError, match=f"`mask` must be a picture file, .* 8x8; got {got}"):
            model.edit(digit, mask=mask)
    with pytest.raises(DataError, match="the mask has no white pixel"):
        model.edit(digit, mask=np.zeros((8, 8), dtype=bool))


def test_points_are_not_edited(opened: Opened) -> None:
    with pytest.raises(ConfigError, match="points: editing wants images"):
        opened("points").edit(torch.zeros(2))


def test_a_picture_is_read_as_training_reads_it(opened: Opened, tmp_path: Path) -> None:
    """Pictures to edit were not turned, were clipped where they had 16 bits, and were resized by other rules."""
    grey = (np.add.outer(np.arange(20), 3 * np.arange(14)) * 900).astype(np.uint16)
    turned = Image.Exif()
    turned[0x0112] = 6
    (tmp_path / "data").mkdir()
    Image.fromarray(grey).save(tmp_path / "data" / "a.png")
    Image.fromarray((grey // 256).astype(np.uint8)).save(tmp_path / "data" / "b.png", exif=turned)
    for file in sorted((tmp_path / "data").iterdir()):
        (tmp_path / file.stem).mkdir()
        (tmp_path / file.stem / file.name).write_bytes(file.read_bytes())
        trained_on = ef.load_dataset(tmp_path / file.stem, size=8, channels=1).train.x0(torch.tensor([0]))
        assert torch.equal(opened("label").image(file), trained_on), file.name
        assert trained_on.std() > 0.1


def test_one_model_is_compared_without_a_list(folder: Folder, opened: Opened, tmp_path: Path) -> None:
    """The letters of a path were taken for folders."""
    cells = {"samplers": ["euler"], "steps": [1], "guidance": [1], "num": 20, "features": "coordinates"}
    for one in (folder("points"), str(folder("points")), [opened("points")]):
        report = ef.compare(one, output=tmp_path / "page.html", **cells)
        assert [cell.sampler for cell in report.cells] == ["euler"]


def test_a_worse_model_has_to_hear_the_same_conditions(opened: Opened, folder: Folder) -> None:
    """Classes were handed to a model of texts, which was an IndexError."""
    with pytest.raises(ConfigError, match="hears another kind of condition"):
        opened("label").sample(num=1, autoguide=folder("text"), guidance=2)


def test_nothing_to_compare_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to compare"):
        ef.compare([], output=tmp_path / "page.html")


def test_an_image_that_is_not_finite_is_refused(opened: Opened) -> None:
    with pytest.raises(ConfigError, match="not finite"):
        opened("label").edit(torch.full((1, 8, 8), float("nan")), labels=[1], num=1)
