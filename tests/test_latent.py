"""Laws of latent spaces: standardised codes, a frozen autoencoder, runs that carry what they need."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import normal
from torch import Tensor, nn
from torch.distributions import Normal
from torch.distributions import kl_divergence as reference_kl

import ebbflow
from ebbflow.cli.app import run_app
from ebbflow.config import AutoencoderConfig, parse, parse_as
from ebbflow.core.predictions import prediction_of
from ebbflow.data import Splits, load_dataset, to_uint8
from ebbflow.errors import CheckpointError, ConfigError
from ebbflow.latent import DiffusersAutoencoder, LatentSpace, batches_of, encoded, from_description
from ebbflow.nets.autoencoder import Autoencoder, AutoencoderOptions, kl_divergence
from ebbflow.progress import finish
from ebbflow.requests.sampling import SampleRequest
from ebbflow.runs import Model, Trainer, facts_of, generate, load_splits, open_run, task_of
from ebbflow.runs.guides import open_guides
from ebbflow.runs.latent_files import fingerprint, read_space, save_space
from ebbflow.runs.plan import default_plan
from ebbflow.runs.tasks import AutoencoderTask
from ebbflow.show import canvas
from ebbflow.studies.evaluate import _denoising
from ebbflow.training.batches import Batch
from ebbflow.training.task import Draw

SMALL = AutoencoderOptions(channels=(8, 16), latent_channels=3)
SIZES = [(1, 8, 8), (3, 8, 8), (1, 7, 7), (3, 5, 9), (1, 28, 28), (4, 6, 3)]
TINY = ("--set", "autoencoder.channels=[16,32]", "--set", "engine.precision=fp32")


def untrained(dims: tuple[int, ...], options: AutoencoderOptions = SMALL, seed: int = 0) -> LatentSpace:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LatentSpace(options.build(dims), dims)


def images(num: int, dims: tuple[int, ...], seed: int = 0) -> Tensor:
    return normal(num, *dims, seed=seed, dtype=torch.float32).tanh()


class Pixels(nn.Module):
    """An exact codec: the code is 3 x + 1, so whatever is lost is lost by the latent space."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(3.0))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.factor * x + 1, torch.zeros_like(x)

    def decode(self, z: Tensor) -> Tensor:
        return (z - 1) / self.factor


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder of the digits, 8x8 to 3x4x4, trained for a moment from the command line."""
    folder = tmp_path_factory.mktemp("autoencoder") / "digits"
    assert autoencode(folder, "--max-steps", "120") == 0
    return folder


def autoencode(folder: Path, *more: str) -> int:
    return run_app(["train-autoencoder", "--batch-size", "64", *TINY, "--save-dir", str(folder), *more])


def train(folder: Path, autoencoder: Path | str, *more: str, steps: int = 4) -> int:
    flags = ["--batch-size", "32", "--max-steps", str(steps), "--save-dir", str(folder)]
    sets = ["net.channels=[16]", "net.num_heads=2", f"latent.autoencoder={autoencoder}", "sample.num_steps=2"]
    return run_app(["train", *flags, *(part for value in sets for part in ("--set", value)), *more])


# -- the autoencoder -----------------------------------------------------------------------------------------------


def test_the_kl_divergence_is_that_of_torch() -> None:
    mean, log_var = normal(5, 3, 4, 4), normal(5, 3, 4, 4, seed=1)
    reference = reference_kl(Normal(mean, (log_var / 2).exp()), Normal(0.0, 1.0)).flatten(1).sum(1)
    torch.testing.assert_close(kl_divergence(mean, log_var), reference)
    assert float(kl_divergence(torch.zeros(1, 4), torch.zeros(1, 4))) == 0


@pytest.mark.parametrize("dims", SIZES, ids=str)
@pytest.mark.parametrize("channels", [(8,), (8, 16), (8, 8, 16)], ids=str)
def test_shapes_at_any_size_and_channels(dims: tuple[int, ...], channels: tuple[int, ...]) -> None:
    options = AutoencoderOptions(channels=channels, latent_channels=5)
    space, x = untrained(dims, options), images(3, dims)
    places = tuple(math.ceil(side / options.factor) for side in dims[1:])
    z = space.encode(x)
    assert space.latent_dims == (5, *places) and z.shape == (3, 5, *places) and z.dtype == torch.float32
    assert space.decode(z).shape == x.shape


@pytest.mark.parametrize("dims", SIZES, ids=str)
def test_a_shortcut_begins_as_an_affine_map_with_little_noise(dims: tuple[int, ...]) -> None:
    x, y = images(2, dims, seed=1), images(2, dims, seed=2)
    net = replace(SMALL, shortcut=True).build(dims)
    (between, mean, log_var), (first, *_), (second, *_) = (net(one) for one in (0.25 * x + 0.75 * y, x, y))
    assert torch.allclose(between, 0.25 * first + 0.75 * second, atol=1e-5) and between.shape == x.shape
    assert mean.shape == SMALL.build(dims)(x)[1].shape and float(log_var.detach().max()) < -5
    assert not torch.allclose(first, second)


def test_a_code_does_not_know_its_batch() -> None:
    space, x = untrained((1, 7, 7)), images(300, (1, 7, 7))
    alone = torch.cat([space.encode(x[i : i + 1]) for i in (0, 150, 299)])
    torch.testing.assert_close(space.encode(x)[[0, 150, 299]], alone)


def test_the_loss_is_its_formula_and_samples_the_code() -> None:
    x = images(4, (1, 8, 8))
    net = untrained((1, 8, 8)).autoencoder
    assert isinstance(net, Autoencoder)
    draw = Draw(seed=0, step=0, rows=range(4), num=4)
    mean, log_var = net.encode(x)
    back = net.decode(mean + (log_var / 2).exp() * draw.normal((3, 4, 4), "code"))
    for loss, error in (("l1", (back - x).abs()), ("mse", (back - x) ** 2)):
        config = parse_as(AutoencoderConfig, {"train": {"loss": loss, "kl_weight": 0.1}})
        found = AutoencoderTask(config, load_dataset("digits"), Path()).loss(net, Batch(x0=x), draw)
        torch.testing.assert_close(found.report["reconstruction"], error.mean((1, 2, 3)))
        torch.testing.assert_close(found.report["kl"], kl_divergence(mean, log_var))
        torch.testing.assert_close(found.each, error.mean((1, 2, 3)) + 0.1 * kl_divergence(mean, log_var) / 64)


@pytest.mark.parametrize("wrong", [{"channels": ()}, {"channels": (0,)}, {"latent_channels": 0}, {"num_blocks": 0}])
def test_impossible_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"`(channels|latent_channels|num_blocks)` must be"):
        AutoencoderOptions(**wrong)  # type: ignore[arg-type]


# -- the latent space ----------------------------------------------------------------------------------------------


def test_statistics_make_latents_standard_by_channel() -> None:
    x = images(400, (3, 8, 8)) * torch.tensor([0.2, 1.0, 0.5])[:, None, None] + 0.3
    for space in (untrained((3, 8, 8)), LatentSpace(Pixels(), (3, 8, 8))):
        space.measure(x.split(37))
        z = space.encode(x).double()
        torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(3, dtype=torch.float64), atol=1e-5, rtol=0)
        torch.testing.assert_close(
            z.std((0, 2, 3), correction=0), torch.ones(3, dtype=torch.float64), atol=1e-4, rtol=0
        )


def test_decoding_undoes_the_standardisation() -> None:
    space, x = LatentSpace(Pixels(), (1, 8, 8)), 0.1 * images(50, (1, 8, 8)) - 0.7
    space.measure([x])
    assert float(space.encode(x).std()) == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(space.decode(space.encode(x)), x)


def test_a_channel_that_never_varies_stays_finite() -> None:
    space, x = LatentSpace(Pixels(), (1, 4, 4)), torch.full((8, 1, 4, 4), 0.5)
    space.measure([x])
    assert float(space.encode(x).abs().max()) < 1e-5
    torch.testing.assert_close(space.decode(space.encode(x)), x)


def test_the_autoencoder_is_frozen_but_lets_gradients_through() -> None:
    space = untrained((1, 8, 8)).train()
    assert not any(module.training for module in space.modules())
    x = images(2, (1, 8, 8)).requires_grad_()
    z = space.encode(x)
    z.retain_grad()
    space.decode(z).square().sum().backward()
    assert x.grad is not None and z.grad is not None and float(z.grad.abs().sum()) > 0
    assert all(p.grad is None and not p.requires_grad for p in space.parameters())


def test_wrong_shapes_are_named() -> None:
    space = untrained((1, 8, 8))
    with pytest.raises(ValueError, match=r"images of \(1, 8, 8\), got \(3, 8, 8\)"):
        space.encode(images(1, (3, 8, 8)))
    with pytest.raises(ValueError, match=r"\(3, 4, 4\), got \(1, 8, 8\)"):
        space.decode(images(1, (1, 8, 8)))
    with pytest.raises(ValueError, match="at least one batch"):
        space.measure([])
    with pytest.raises(ValueError, match="does not take images"):
        LatentSpace(SMALL.build((1, 8, 8)), (3, 8, 8))


def test_a_file_holds_the_whole_space(tmp_path: Path) -> None:
    space, x = untrained((3, 5, 9)), images(20, (3, 5, 9))
    space.measure([x])
    save_space(space, tmp_path / "a.safetensors")
    again = read_space(tmp_path / "a.safetensors")
    assert torch.equal(again.encode(x), space.encode(x)) and fingerprint(again) == fingerprint(space)
    assert fingerprint(untrained((3, 5, 9), seed=1)) != fingerprint(space)
    with pytest.raises(CheckpointError, match="is missing"):
        read_space(tmp_path / "b.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        read_space(tmp_path / "b.safetensors")


def test_a_data_set_is_encoded_once_with_its_labels() -> None:
    digits, space = load_dataset("digits").held_out, untrained((1, 8, 8))
    data, rows = encoded(digits, space), torch.tensor([5, 0, 5])
    torch.testing.assert_close(data.x0(rows), space.encode(digits.x0(rows)))
    assert data.labels is not None and torch.equal(data.labels, digits.labels)  # type: ignore[arg-type]
    torch.testing.assert_close(data.select(rows).x0(torch.tensor([1])), data.x0(torch.tensor([0])))
    facts = facts_of(data)
    assert (facts.dims, facts.latent_dims, facts.state_dims) == ((1, 8, 8), (3, 4, 4), (3, 4, 4))
    assert facts_of(digits).state_dims == (1, 8, 8)


# -- training an autoencoder ---------------------------------------------------------------------------------------


def test_a_short_training_beats_any_constant_and_says_so(trained: Path) -> None:
    splits, space = load_dataset("digits"), read_space(trained / "model.safetensors")
    x = splits.held_out.x0(torch.arange(len(splits.held_out)))
    mse = float((space.decode(space.encode(x)).clamp(-1, 1) - x).square().mean())
    constant = float((x - splits.train.x0(torch.arange(len(splits.train))).mean(0)).square().mean())
    assert mse < constant / 4
    facts = json.loads((trained / "config.json").read_text())
    assert facts["held_out"]["mse"] == pytest.approx(mse, rel=1e-4)
    assert facts["held_out"]["psnr"] == pytest.approx(10 * math.log10(4 / mse), abs=1e-3)
    assert facts["latent"]["std"] == pytest.approx(space.std.flatten().tolist())
    z = torch.cat([space.encode(x0) for x0 in batches_of(splits.train)])
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)


def test_its_folder_is_complete_and_a_second_run_changes_nothing(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = {"README.md", "config.json", "metrics.jsonl", "model.safetensors", "samples/step_000120.png"}
    found = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    assert {name for name in found if not name.startswith("checkpoints")} == {".lock", *written}
    before = {name: (trained / name).read_bytes() for name in written}
    assert autoencode(trained, "--max-steps", "120") == 0
    assert "already trained for 120 steps" in capsys.readouterr().out
    assert {name: (trained / name).read_bytes() for name in before} == before


class After:
    """Asks to stop after so many questions."""

    def __init__(self, num: int) -> None:
        self.left = num

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


def never() -> bool:
    return False


def train_autoencoder(folder: Path, should_stop: Callable[[], bool], precision: str = "fp32") -> Trainer:
    config = parse_as(
        AutoencoderConfig,
        {
            "autoencoder": {"channels": (8, 8)},
            "train": {"num_steps": 8, "batch_size": 16, "warmup_steps": 2},
            "engine": {"precision": precision, "device": "cpu"},
        },
    )
    trainer = Trainer(task_of(config, load_splits(config), folder), should_stop=should_stop)
    for _ in trainer.events():
        pass
    return trainer


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_stopped_and_resumed_is_uninterrupted(tmp_path: Path, precision: str) -> None:
    train_autoencoder(tmp_path / "whole", never, precision)
    train_autoencoder(tmp_path / "parts", After(3), precision)
    assert not (tmp_path / "parts" / "model.safetensors").exists(), "an unfinished autoencoder is not offered"
    assert train_autoencoder(tmp_path / "parts", never, precision).start == 3
    whole, parts = (read_space(tmp_path / name / "model.safetensors").state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    steps = [json.loads(line)["step"] for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps[-1] == 8


def test_a_loss_that_is_not_finite_stops_with_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert autoencode(tmp_path / "ae", "--lr", "1e6", "--max-steps", "20", "--set", "train.warmup_steps=0") == 2
    error = capsys.readouterr().err
    assert "not finite at step" in error and "Traceback" not in error
    assert not (tmp_path / "ae" / "model.safetensors").exists()


# -- runs in a latent space ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run in the latent space of a copy of the autoencoder; (run, that copy)."""
    folder = tmp_path_factory.mktemp("latent")
    shutil.copytree(trained, folder / "ae")
    assert train(folder / "run", folder / "ae") == 0
    return folder / "run", folder / "ae"


def test_a_run_trains_and_samples_decoded_images(run: tuple[Path, Path], tmp_path: Path) -> None:
    folder, _ = run
    for name in ("a.png", "a.npz", "way.webp"):
        assert (folder / "samples" / "step_000004.png").is_file()
        way = ["--trajectory", str(tmp_path / name)] if name.endswith("webp") else []
        output = tmp_path / ("b.png" if way else name)
        arguments = ["sample", "--ckpt", str(folder), "--output", str(output), "--labels", "3,5", "--num", "6", *way]
        assert run_app(arguments) == 0
    found = np.load(tmp_path / "a.npz")
    assert found["arr_0"].shape == (6, 8, 8, 1) and found["arr_0"].dtype == np.uint8
    opened = open_run(folder)
    assert (opened.facts.dims, opened.facts.latent_dims) == ((1, 8, 8), (4, 4, 4))
    model, space = Model.from_run(folder), opened.space()
    assert space is not None
    last = list(generate(model, default_plan(model, seeds=range(6), conditions=(3, 3, 3, 5, 5, 5))))[-1]
    assert last.state.shape == (6, 4, 4, 4)
    wanted = to_uint8(space.decode(last.state).clamp(-1, 1)).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(found["arr_0"], wanted)
    by_api = ebbflow.sample(folder, num=6, labels=[3, 5])
    assert by_api.images is not None and np.array_equal(by_api.images.permute(0, 2, 3, 1).numpy(), wanted)


def test_the_edm_target_of_latents_knows_their_deviation(trained: Path, tmp_path: Path) -> None:
    """sigma_data was 0.5, which suits images, and gave targets of variance up to 3.9; a run that was begun so goes on
    so."""

    def prediction(folder: str, **said: float) -> object:
        values: dict[str, dict[str, object]] = {
            "data": {"name": "digits"},
            "net": {"channels": [16], "num_heads": 2},
            "objective": {"prediction": {"kind": "edm", **said}},
            "latent": {"autoencoder": str(trained) if folder != "images" else None},
            "train": {"num_steps": 2, "batch_size": 32, "held_out_size": 8},
            "sample": {"num_steps": 2},
        }
        config = parse(json.loads(json.dumps(values)))
        trainer = Trainer(task_of(config, load_splits(config), tmp_path / folder))
        for _ in trainer.events():
            pass
        opened = open_run(tmp_path / folder)
        assert prediction_of(opened.config.objective.prediction) == prediction_of(opened.denoiser().prediction)
        return opened.config.objective.prediction

    ours = {"kind": "edm", "sigma_data": 1.0}
    assert prediction("fresh") == prediction("fresh") == prediction("fresh", sigma_data=1) == ours
    assert prediction("said", sigma_data=0.5) == prediction("said", sigma_data=0.5) == {**ours, "sigma_data": 0.5}
    assert prediction("images") == prediction("images", sigma_data=0.5) == "edm"
    with pytest.raises(ConfigError, match=r"objective\.prediction is .*0\.5.* there"):
        prediction("said")
    file = tmp_path / "said" / "config.json"
    old = json.loads(file.read_text())
    old["config"]["objective"]["prediction"] = "edm"  # as it was written before latents had a default of their own
    file.write_text(json.dumps(old))
    config = parse(old["config"])
    for said in ({}, {"sigma_data": 0.5}):
        again = replace(config, objective=replace(config.objective, prediction={"kind": "edm", **said}))
        trainer = Trainer(task_of(again, load_splits(again), tmp_path / "said"))
        assert trainer.start == 2 and trainer.task.config.objective.prediction == "edm"
        list(trainer.events())


def test_a_model_of_latents_is_opened_with_its_space(run: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match="with its latent space"):
        replace(Model.from_run(run[0]), space=None)


def npz_of(folder: Path, output: Path) -> bytes:
    assert run_app(["sample", "--ckpt", str(folder), "--output", str(output), "--num", "10"]) == 0
    return np.load(output)["arr_0"].tobytes()


def test_a_checkpoint_needs_nothing_but_itself(run: tuple[Path, Path], tmp_path: Path) -> None:
    folder, autoencoder = (shutil.copytree(path, tmp_path / path.name) for path in run)
    assert train(folder, autoencoder, steps=4) == 0
    before = npz_of(folder, tmp_path / "before.npz")
    shutil.rmtree(autoencoder)
    assert npz_of(folder, tmp_path / "after.npz") == before
    alone = shutil.copytree(folder / "checkpoints" / "step_000004", tmp_path / "elsewhere")
    assert npz_of(alone, tmp_path / "alone.npz") == before
    assert train(folder, autoencoder, steps=6) == 0, "resumes from its own copy"
    assert open_run(folder).checkpoint.step == 6


def test_resuming_is_uninterrupted_and_wants_the_same_autoencoder(
    run: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"net": {"channels": (16,), "num_heads": 2}, "engine": {"precision": "fp32"}}
    layer = {**settings, "train": {"num_steps": 6, "batch_size": 16}, "latent": {"autoencoder": str(run[1])}}
    config = parse(layer)
    for name, stop in (("whole", never), ("parts", After(2)), ("parts", never)):
        for _ in Trainer(task_of(config, load_splits(config), tmp_path / name), should_stop=stop).events():
            pass
    whole, parts = (open_run(tmp_path / name).checkpoint.tensors("ema") for name in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)

    other = shutil.copytree(run[1], tmp_path / "moved")
    moved = parse({**layer, "latent": {"autoencoder": str(other)}})
    assert Trainer(task_of(moved, load_splits(moved), tmp_path / "parts")).start == 6, "the same one in another place"
    save_space(untrained((1, 8, 8)), other / "model.safetensors")
    with pytest.raises(ConfigError, match=r"is not the autoencoder that .* was trained with"):
        Trainer(task_of(moved, load_splits(moved), tmp_path / "parts"))
    without = parse({**layer, "latent": {}})
    with pytest.raises(ConfigError, match=r"latent\.autoencoder is .* there, None here"):
        Trainer(task_of(without, load_splits(without), tmp_path / "parts"))


def test_the_data_is_encoded_once_for_all_runs(
    run: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EBBFLOW_CACHE", str(tmp_path / "cache"))
    config = parse({"net": {"channels": (16,), "num_heads": 2}, "latent": {"autoencoder": str(run[1])}})
    splits, folder = load_splits(config), tmp_path / "run"
    first = Trainer(task_of(config, splits, folder)).task.splits
    encode, batches = LatentSpace.encode, []

    def counted(space: LatentSpace, x: Tensor) -> Tensor:
        batches.append(x)
        return encode(space, x)

    monkeypatch.setattr(LatentSpace, "encode", counted)
    again = task_of(config, splits, tmp_path / "another").splits
    rows = torch.arange(len(splits.held_out))
    assert not batches and torch.equal(first.held_out.x0(rows), again.held_out.x0(rows))
    other = Splits(train=splits.train, held_out=splits.held_out.select(rows[:-1]))
    assert len(task_of(config, other, folder).splits.held_out) == len(rows) - 1 and batches, "other images"
    for file in (tmp_path / "cache" / "latents").iterdir():
        file.unlink()  # a run that reads it keeps it
        file.write_bytes(b"cut")
    batches.clear()
    anew = task_of(config, splits, folder).splits
    assert batches and torch.equal(first.held_out.x0(rows), anew.held_out.x0(rows))
    batches.clear()
    assert len(task_of(config, splits, folder).splits.held_out) == len(rows) and not batches, "written anew"


def test_latents_that_find_no_room_are_refused(
    run: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("EBBFLOW_CACHE", str(tmp_path / "file"))
    config = parse({"net": {"channels": (16,), "num_heads": 2}, "latent": {"autoencoder": str(run[1])}})
    with pytest.raises(
        ConfigError, match=r"latents cannot hold .*: .*Name another folder for the cache in EBBFLOW_CACHE"
    ):
        task_of(config, load_splits(config), tmp_path / "run")


def test_guides_respect_the_latent_space(
    run: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, target = Model.from_run(run[0]), load_dataset("digits").train.x0(torch.tensor([0]))
    asked = SampleRequest(loss=lambda x0: (x0 - target).square().flatten(1).sum(1), loss_weight=0.5)
    guides = open_guides(model, asked)
    assert guides.loss is not None
    z = normal(2, 4, 4, 4, dtype=torch.float32).requires_grad_()
    value = guides.loss(z)
    space = model.space
    assert space is not None
    torch.testing.assert_close(value, (space.decode(z) - target).square().flatten(1).sum(1))
    assert float(torch.autograd.grad(value.sum(), z)[0].abs().sum()) > 0, "images guide latents"
    canvas.save_picture(canvas.to_picture(to_uint8(target[0])), tmp_path / "target.png")
    sample = ["sample", "--ckpt", str(run[0]), "--output", str(tmp_path / "a.png"), "--num", "4"]
    loss = ["--loss", "inpaint", "--mask", "left", "--target", str(tmp_path / "target.png")]
    assert run_app([*sample, *loss]) == 0
    assert run_app([*sample, "--sampler", "ddpm", "--set", "variance=optimal", "--steps", "2"]) == 0
    capsys.readouterr()
    likelihood = ["likelihood", "--ckpt", str(run[0])]
    refused(capsys, run_app(likelihood), "works in a latent space")
    pixels = ["--max-steps", "2", "--batch-size", "8"]
    net = ["--set", "net.channels=[16]", "--set", "net.num_heads=2", "--set", "sample.num_steps=1"]
    assert run_app(["train", *pixels, *net, "--save-dir", str(tmp_path / "pixels")]) == 0
    code = run_app([*sample, "--autoguide", str(tmp_path / "pixels"), "--guidance", "2"])
    refused(capsys, code, "the same latent space")
    assert run_app(["train-classifier", *pixels, "--save-dir", str(tmp_path / "classifier")]) == 0
    capsys.readouterr()
    refused(capsys, run_app([*sample, "--classifier", str(tmp_path / "classifier")]), "noisy latents")


def test_the_denoising_error_is_measured_on_latents(run: tuple[Path, Path]) -> None:
    work = _denoising(Model.from_run(run[0]), load_dataset("digits").held_out)
    assert len(finish(work)) > 0


def test_the_dry_run_and_info_know_the_latents(run: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["train", "--dry-run", "--json", "--set", f"latent.autoencoder={run[1]}"]) == 0
    cost = json.loads(capsys.readouterr().out)
    assert cost["config"]["latent"] == {"autoencoder": str(run[1])}
    assert cost["seconds_per_epoch"] == pytest.approx(cost["seconds_per_step"] * 1500 / 128)
    assert run_app(["info", "--json", str(run[0])]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["dims"], facts["latent_dims"]) == ([1, 8, 8], [4, 4, 4])


def test_a_run_of_before_latents_still_resumes(tmp_path: Path) -> None:
    config = parse({"net": {"channels": (16,), "num_heads": 2}, "train": {"num_steps": 2, "batch_size": 8}})
    for _ in Trainer(task_of(config, load_splits(config), tmp_path / "run")).events():
        pass
    file = tmp_path / "run" / "config.json"
    description = json.loads(file.read_text())
    assert "latent_dims" not in description["facts"]
    del description["config"]["latent"]
    file.write_text(json.dumps(description))
    assert Trainer(task_of(config, load_splits(config), tmp_path / "run")).start == 2


# -- autoencoders of diffusers -------------------------------------------------------------------------------------


def tiny_diffusers(channels: int, folder: Path) -> nn.Module:
    diffusers = pytest.importorskip("diffusers")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = diffusers.AutoencoderKL(
            in_channels=channels,
            out_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            latent_channels=4,
            layers_per_block=1,
            sample_size=8,
        )
    model.save_pretrained(folder)
    return model.eval()


def test_a_diffusers_autoencoder_encodes_as_diffusers_does(tmp_path: Path) -> None:
    model, x = tiny_diffusers(3, tmp_path), images(4, (3, 8, 12))
    space = LatentSpace(DiffusersAutoencoder(model), (3, 8, 12))
    with torch.no_grad():
        found = model.encode(x).latent_dist  # type: ignore[operator]
        torch.testing.assert_close(space.encode(x), found.mean)
        torch.testing.assert_close(space.decode(found.mean), model.decode(found.mean).sample)  # type: ignore[operator]
    odd = LatentSpace(DiffusersAutoencoder(model), (3, 7, 9))
    assert odd.latent_dims == (4, 4, 5) and odd.decode(odd.encode(images(2, (3, 7, 9)))).shape == (2, 3, 7, 9)
    again = from_description(json.loads(json.dumps(space.description())))
    again.load_state_dict(space.state_dict())
    assert torch.equal(again.encode(x), space.encode(x))


def test_a_run_on_a_diffusers_autoencoder_carries_it(tmp_path: Path) -> None:
    tiny_diffusers(1, tmp_path / "vae")
    assert train(tmp_path / "run", f"hf:{tmp_path / 'vae'}", steps=2) == 0
    space = open_run(tmp_path / "run").space()
    assert space is not None
    z = torch.cat([space.encode(x0) for x0 in batches_of(load_dataset("digits").train)])
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(4), atol=1e-2, rtol=0)
    before = npz_of(tmp_path / "run", tmp_path / "before.npz")
    assert train(tmp_path / "run", f"hf:{tmp_path / 'vae'}", steps=3) == 0
    shutil.rmtree(tmp_path / "vae")
    assert npz_of(tmp_path / "run" / "checkpoints" / "step_000002", tmp_path / "after.npz") == before


def test_a_missing_diffusers_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert train(tmp_path / "run", "hf:anything") == 2
    assert "pip install -e '.[hf]'" in capsys.readouterr().err


# -- what cannot work ----------------------------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> None:
    error = capsys.readouterr().err
    assert code == 2 and "Traceback" not in error and error.count("\n") == 1, error
    for word in words:
        assert word in error, error


def test_an_autoencoder_for_other_images_is_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = train(tmp_path / "run", trained, "--img-size", "16")
    refused(capsys, code, "is made for images of 1x8x8", "'digits' has 1x16x16", "--img-size")
    refused(capsys, train(tmp_path / "run", trained, "--data", "moons"), "'moons' holds points")
    tiny_diffusers(3, tmp_path / "vae")
    code = train(tmp_path / "run", f"hf:{tmp_path / 'vae'}")
    refused(capsys, code, "takes images of 3 channels", "--channels 3")
    assert not (tmp_path / "run").exists()


def test_what_is_no_autoencoder_is_refused(
    trained: Path, run: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new"
    refused(capsys, train(new, tmp_path / "no"), "does not exist", "ebbflow train-autoencoder")
    (tmp_path / "empty").mkdir()
    refused(capsys, train(new, tmp_path / "empty"), "there is no autoencoder in")
    part = shutil.copytree(trained, tmp_path / "part")
    (part / "model.safetensors").unlink()
    refused(capsys, train(new, part), "is not finished")
    (run[0] / "latent.safetensors").rename(tmp_path / "away")
    refused(capsys, train(new, run[0]), "holds a model, and an autoencoder is wanted")
    (tmp_path / "away").rename(run[0] / "latent.safetensors")
    (part / "model.safetensors").write_bytes((run[0] / "checkpoints" / "step_000004" / "ema.safetensors").read_bytes())
    refused(capsys, train(new, part), "does not describe an autoencoder")
    refused(capsys, train(new, f"hf:{tmp_path / 'empty'}"), "cannot be loaded as a diffusers AutoencoderKL")
    refused(capsys, run_app(["sample", "--ckpt", str(trained), "--output", "a.png"]), "holds a trained autoencoder")
    refused(capsys, train(trained, trained), "holds an autoencoder", "another --save-dir")
    refused(capsys, autoencode(run[0]), "holds a model", "another --save-dir")
    refused(capsys, run_app(["train", "--set", "latent.autoencoder=3"]), "latent.autoencoder")


def test_bad_settings_of_the_autoencoder_are_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new"
    refused(capsys, autoencode(new, "--set", "net.kind=dit"), "unknown section 'net'", "autoencoder")
    refused(capsys, autoencode(new, "--set", "autoencoder.chanels=[8]"), "Did you mean 'channels'")
    refused(capsys, autoencode(new, "--set", "autoencoder.latent_channels=0"), "in [1, 65536]")
    refused(capsys, autoencode(new, "--set", "train.loss=l2"), "train.loss")
    refused(capsys, autoencode(new, "--data", "rings"), "'rings' holds points")
    refused(capsys, autoencode(trained, "--set", "train.kl_weight=1.0"), "train.kl_weight is 0.001 there, 1.0 here")
    assert not new.exists()
