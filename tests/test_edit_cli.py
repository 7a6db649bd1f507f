"""`ebbflow edit`, `invert`, `reconstruct` and the pictures of the process, from the command line on tiny runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ebbflow as ef
from ebbflow.cli.app import run_app
from ebbflow.conditioning import DataFacts
from ebbflow.data import load_dataset

TINY = ["--set", "net.channels=[8]", "--set", "train.held_out_every=0", "--set", "train.sample_every=0"]
TRAIN = ["--max-steps", "40", "--batch-size", "32", "--device", "cpu"]


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    assert run_app(["train", *TINY, *TRAIN, "--save-dir", str(folder)]) == 0
    return str(folder)


@pytest.fixture(scope="session")
def points_run(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("runs") / "moons"
    arguments = ["--data", "moons", "--set", "net.kind=mlp", *TRAIN]
    assert run_app(["train", *arguments, *TINY[2:], "--save-dir", str(folder)]) == 0
    return str(folder)


@pytest.fixture
def digit(tmp_path: Path) -> Path:
    """A held-out digit as an 8x8 picture file."""
    path = tmp_path / "digit.png"
    Image.fromarray(load_dataset("digits").held_out.x[0, 0].numpy()).save(path)
    return path


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    """White, that is to be generated, in the lower half."""
    pixels = np.zeros((8, 8), dtype=np.uint8)
    pixels[4:] = 255
    path = tmp_path / "mask.png"
    Image.fromarray(pixels).save(path)
    return path


def pixels(path: Path) -> np.ndarray:
    return np.load(path)["arr_0"]


def ask(command: str, run: str, *arguments: object) -> int:
    return run_app([*command.split(), "--ckpt", run, "--device", "cpu", *map(str, arguments)])


def refused(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> None:
    """Exit code 2 and one sentence with these words, no traceback."""
    said = capsys.readouterr().err
    assert code == 2
    assert all(word in said for word in words), said
    assert said.startswith("ebbflow: ")
    assert len(said.strip().splitlines()) == 1


# -- edit --------------------------------------------------------------------------------------------------------------


def test_strength_1_is_what_sample_makes_with_the_same_seeds(digits_run: str, digit: Path, tmp_path: Path) -> None:
    a, b = tmp_path / "a.npz", tmp_path / "b.npz"
    how = ["--label", 3, "--num", 4, "--seed", 5, "--sampler", "ddpm", "--steps", 6]
    assert ask("sample", digits_run, *how, "--output", a) == 0
    assert ask("edit", digits_run, "--input", digit, "--strength", 1, *how, "--output", b) == 0
    assert np.array_equal(pixels(a), pixels(b))


def test_an_edit_says_where_it_started_and_shows_the_input_first(
    digits_run: str, digit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.png"
    assert ask("edit", digits_run, "--input", digit, "--labels", "3,5", "--num", 4, "--output", out, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["num"], said["strength"], said["num_steps"]) == (4, 0.6, 10)
    assert said["start"] == pytest.approx(0.6)
    picture = Image.open(out)
    assert "ebbflow" in picture.text  # type: ignore[attr-defined]
    tile = np.asarray(Image.open(digit).resize((128, 128), Image.Resampling.NEAREST))  # two rows of at least 256 pixels
    shown = np.asarray(picture)
    windows = np.lib.stride_tricks.sliding_window_view(shown[:, :180], (128, 128))
    assert int((windows == tile).all(axis=(2, 3)).sum()) == 2  # once a row


def test_a_little_strength_leaves_the_image_almost_alone(digits_run: str, digit: Path, tmp_path: Path) -> None:
    out, original, error = tmp_path / "x.npz", np.asarray(Image.open(digit)).astype(float), []
    for strength in (0.05, 0.5, 1.0):
        arguments = ["--input", digit, "--strength", strength, "--steps", 20, "--output", out]
        assert ask("edit", digits_run, *arguments) == 0
        error.append(np.abs(pixels(out)[..., 0] - original).mean())
    assert error == sorted(error)
    assert error[0] < 16


@pytest.mark.parametrize("extra", [[], ["--resample", "2"], ["--sampler", "ddpm"], ["--guidance", "3", "--label", "4"]])
def test_inpainting_keeps_the_black_of_the_mask_to_the_byte(
    digits_run: str, digit: Path, mask: Path, tmp_path: Path, extra: list[str]
) -> None:
    out = tmp_path / "x.npz"
    assert ask("edit", digits_run, "--input", digit, "--mask", mask, "--num", 3, "--output", out, *extra) == 0
    x, original = pixels(out)[..., 0], np.asarray(Image.open(digit))
    assert x.shape == (3, 8, 8)
    assert np.array_equal(x[:, :4], np.broadcast_to(original[:4], (3, 4, 8)))
    assert (x[:, 4:] != original[4:]).any()


def test_an_image_of_another_size_and_colour_is_converted_and_said_so(
    digits_run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (40, 30), "red").save(path)
    assert ask("edit", digits_run, "--input", path, "--num", 2, "--output", tmp_path / "edits") == 0
    assert "40x30 pixels, cut to its centre square and resized to 8x8" in capsys.readouterr().err
    assert [Image.open(p).size for p in sorted((tmp_path / "edits").iterdir())] == [(8, 8)] * 2


def test_interpolation_goes_from_one_image_to_the_other(digits_run: str, digit: Path, tmp_path: Path) -> None:
    other, out = tmp_path / "other.png", tmp_path / "x.npz"
    Image.fromarray(load_dataset("digits").held_out.x[1, 0].numpy()).save(other)
    arguments = ["--input", digit, "--interpolate-with", other, "--num", 5, "--steps", 40, "--output", out]
    assert ask("edit", digits_run, *arguments) == 0
    x = pixels(out)[..., 0].astype(float)
    first, second = (np.asarray(Image.open(p)).astype(float) for p in (digit, other))
    to_first = [np.abs(image - first).mean() for image in x]
    assert len(x) == 5
    assert to_first[0] < 12
    assert np.abs(x[-1] - second).mean() < 12
    assert to_first == sorted(to_first)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--strength", "0"], ["--strength", "(0, 1]", "got 0"]),
        (["--strength", "1.5"], ["--strength", "(0, 1]", "got 1.5"]),
        (["--label", "11"], ["label '11' is unknown", "Known: 0, 1, 2"]),
        (["--sampler", "huen"], ["unknown sampler 'huen'", "'heun'"]),
        (["--grid", "uniforn"], ["unknown time grid", "'uniform'"]),
        (["--set", "eta=0.5", "--sampler", "heun"], ["no option 'eta'"]),
        (["--label", "1", "--labels", "2,3"], ["--labels and --label say the same"]),
        (["--resample", "3"], ["--resample", "--mask"]),
        (["--noise", "x.npz"], ["--input", "--noise"]),
        (["--weights", "best"], ["--weights must be ema or raw"]),
    ],
)
def test_bad_edits_are_one_sentence(
    digits_run: str,
    digit: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: list[str],
) -> None:
    code = ask("edit", digits_run, "--input", digit, "--output", tmp_path / "x.png", *arguments)
    refused(capsys, code, *words)
    assert not (tmp_path / "x.png").exists()


def test_bad_files_are_one_sentence(
    digits_run: str, points_run: str, digit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, bad, small, black = (tmp_path / name for name in ("x.png", "bad.png", "small.png", "black.png"))
    bad.write_bytes(b"no picture")
    Image.new("L", (5, 5), "white").save(small)
    Image.new("L", (8, 8), "black").save(black)
    before = ["--input", digit, "--output", out]
    refused(
        capsys, ask("edit", digits_run, "--input", tmp_path / "none.png", "--output", out), "none.png", "no such file"
    )
    refused(capsys, ask("edit", digits_run, "--input", bad, "--output", out), "bad.png", "cannot be read")
    refused(capsys, ask("edit", digits_run, *before, "--mask", small), "5x5", "8x8", "same size")
    refused(capsys, ask("edit", digits_run, *before, "--mask", black), "no white pixel")
    refused(capsys, ask("edit", digits_run, *before, "--mask", tmp_path / "none.png"), "none.png")
    refused(capsys, ask("edit", points_run, *before), "2-D points")
    refused(capsys, ask("edit", str(tmp_path / "nowhere"), *before), "does not exist")
    refused(capsys, ask("edit", digits_run, "--input", digit, "--output", tmp_path / "x.bmp"), ".bmp")
    refused(capsys, ask("edit", digits_run, "--output", out), "--input")
    refused(capsys, ask("edit", digits_run, "--noise", bad, "--output", out), "ebbflow invert")
    assert not out.exists()


# -- invert and reconstruct --------------------------------------------------------------------------------------------


def test_from_an_image_to_its_noise_and_back(
    digits_run: str, digit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In so few steps that sampling in any other way than the inversion's would not end at the same distance."""
    noise, out = tmp_path / "noise.npz", tmp_path / "x.npz"
    how = ["--label", 4, "--sampler", "ddim", "--steps", 3]
    assert ask("invert", digits_run, "--input", digit, "--output", noise, *how, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert ask("edit", digits_run, "--noise", noise, "--label", 4, "--output", out) == 0
    again, original = pixels(out)[0, ..., 0].astype(float), np.asarray(Image.open(digit)).astype(float)
    assert 10 * math.log10(255**2 / ((again - original) ** 2).mean()) == pytest.approx(said["psnr"], abs=0.3)
    assert 5 < said["psnr"] < 40


def test_edits_show_what_they_were_made_of_in_python_too(
    digits_run: str, digit: Path, mask: Path, tmp_path: Path
) -> None:
    model = ef.open(digits_run)
    made = model.edit(digit, mask=mask, num=2, steps=2)
    assert list(made.before) == ["input", "kept"] and not made.after
    assert (
        ask(
            "edit",
            digits_run,
            "--input",
            digit,
            "--mask",
            mask,
            "--num",
            2,
            "--steps",
            2,
            "--output",
            tmp_path / "a.png",
        )
        == 0
    )
    assert np.array_equal(np.asarray(made.grid()), np.asarray(Image.open(tmp_path / "a.png")))
    ways = model.interpolate(digit, digit, num=3, steps=2)
    assert len(ways) == 3 and list(ways.before) == ["first"] and list(ways.after) == ["second"]


def test_a_file_of_noise_keeps_the_options_of_its_grid(tmp_path: Path) -> None:
    from ebbflow.runs.edit import read_noise, write_noise
    from ebbflow.runs.model import Model
    from ebbflow.runs.plan import Plan

    model = Model(
        denoiser=ef.oracles.Gaussian(0.0, 0.5, ef.PATHS["flow"]()), facts=DataFacts(dims=(1, 4, 4), is_image=True)
    )
    for grid in ("uniform", {"kind": "karras", "rho": 5.0}):
        write_noise(tmp_path / "n.npz", torch.zeros(1, 1, 4, 4), Plan(seeds=(0,), grid=grid))
        assert read_noise(tmp_path / "n.npz", model)[1]["grid"] == grid
    write_noise(tmp_path / "n.npz", torch.zeros(1, 1, 4, 4), Plan(seeds=(0,), grid=lambda path, num_steps: None))
    assert read_noise(tmp_path / "n.npz", model)[1]["grid"] is None, "the model's own"


def test_bad_inversions_are_one_sentence(
    digits_run: str, points_run: str, digit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, out = ["--input", digit], ["--output", tmp_path / "n.npz"]
    refused(capsys, ask("invert", digits_run, *before, *out, "--sampler", "ddpm"), "draws noise", "ddim")
    refused(capsys, ask("invert", digits_run, *before, "--output", tmp_path / "n.png"), ".npz")
    refused(capsys, ask("invert", points_run, *before, *out), "2-D points")
    np.savez(
        tmp_path / "n.npz", noise=np.zeros((1, 3, 4, 4)), sampler="ddim", grid="uniform", num_steps=5, guidance=1.0
    )
    code = ask("edit", digits_run, "--noise", tmp_path / "n.npz", "--output", tmp_path / "x.png")
    refused(capsys, code, "3x4x4", "1x8x8")
    refused(capsys, ask("reconstruct", digits_run, "--steps", "1,5"), "in [2, 100000]")
    refused(capsys, ask("reconstruct", digits_run, "--steps", "many"), "a whole number")
    refused(capsys, ask("reconstruct", digits_run, "--sampler", "sde"), "draws noise")
    refused(capsys, ask("reconstruct", points_run), "2-D points")


def test_more_steps_reconstruct_better(digits_run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "strip.png"
    assert ask("reconstruct", digits_run, "--steps", "4,16,64", "--num", 12, "--output", out, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["num_steps"], row["num"]) for row in rows] == [(4, 12), (16, 12), (64, 12)]
    assert rows[0]["psnr"] < rows[1]["psnr"] < rows[2]["psnr"]
    assert all(row["standard_error"] > 0 for row in rows)
    assert Image.open(out).width > 10 * 56
    assert ask("reconstruct", digits_run, "--steps", "4", "--num", 3) == 0
    assert "dB" in capsys.readouterr().out


# -- pictures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["vp_discrete", "flow", "ve"])
def test_both_ways_of_noising_agree(path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "noising.png"
    arguments = ["--path", path, "--columns", "4", "--num-steps", "60", "--num", "100", "--json"]
    assert run_app(["plot", "noising", "--output", str(out), *arguments]) == 0
    rows, num = json.loads(capsys.readouterr().out), 100 * 64
    assert [row["t"] for row in rows] == [0.25, 0.5, 0.75, 1.0]
    for row in rows:
        for way in ("closed", "chain"):
            assert abs(row[f"{way}_mean"]) < 4.5 / math.sqrt(num)
            assert abs(row[f"{way}_std"] - 1) < 4.5 / math.sqrt(2 * num) + 1e-3
    assert Image.open(out).width > 5 * 56


def test_the_pictures_of_a_run(digits_run: str, points_run: str, tmp_path: Path) -> None:
    how = ["--num", 2, "--label", 3, "--steps", 5]
    assert ask("plot denoising", digits_run, *how, "--output", tmp_path / "strip.png") == 0
    assert ask("plot denoising", digits_run, *how, "--output", tmp_path / "film.webp") == 0
    assert ask("plot toy-sampler", digits_run, *how, "--output", tmp_path / "toy.png") == 0
    assert ask("plot trajectories", points_run, "--num", 6, "--steps", 9, "--output", tmp_path / "ways.png") == 0
    strip, toy = Image.open(tmp_path / "strip.png"), Image.open(tmp_path / "toy.png")
    assert strip.height > 4 * 56
    assert toy.height > 4 * 56
    assert Image.open(tmp_path / "film.webp").n_frames == 6  # type: ignore[attr-defined]
    assert len(np.unique(np.asarray(Image.open(tmp_path / "ways.png")).reshape(-1, 3), axis=0)) > 50


def test_the_last_column_of_the_denoising_strip_is_the_sample(digits_run: str, tmp_path: Path) -> None:
    strip, out = tmp_path / "strip.png", tmp_path / "x.npz"
    how = ["--num", 1, "--label", 3, "--steps", 5, "--seed", 2]
    assert ask("plot denoising", digits_run, *how, "--output", strip) == 0
    assert ask("sample", digits_run, *how, "--output", out) == 0
    shown = np.asarray(Image.open(strip))[-10 - 128 : -10, -10 - 128 : -10]
    sample = np.asarray(Image.fromarray(pixels(out)[0, ..., 0]).resize((128, 128), Image.Resampling.NEAREST))
    assert np.array_equal(shown, sample)


def test_bad_pictures_are_one_sentence(
    digits_run: str, points_run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--output", tmp_path / "x.png"]
    refused(capsys, ask("plot denoising", points_run, *out), "points")
    refused(capsys, ask("plot toy-sampler", points_run, *out), "points")
    refused(capsys, ask("plot trajectories", digits_run, *out), "2-D points", "--data moons")
    refused(capsys, ask("plot denoising", digits_run, "--output", tmp_path / "x.mp4"), ".mp4")
    noising = ["plot", "noising", "--output", str(tmp_path / "x.png")]
    refused(capsys, run_app([*noising, "--path", "vq"]), "unknown path", "'vp'")
    refused(capsys, run_app([*noising, "--data", "moons"]), "points")
    refused(capsys, run_app([*noising, "--index", "99999"]), "--index")
    refused(capsys, run_app([*noising, "--num-steps", "4", "--columns", "9"]), "4 steps")
    assert not (tmp_path / "x.png").exists()


def test_the_toy_sampler_ends_far_from_where_the_real_one_ends() -> None:
    """On exact Gaussian data every real step keeps the variance; taking all of the noise at every step does not."""
    from ebbflow.core.paths import PATHS
    from ebbflow.core.times import TIME_GRIDS
    from ebbflow.methods.oracles import Gaussian
    from ebbflow.show.strips import toy_trace, trace

    path = PATHS["vp_discrete"]()
    data, times = Gaussian(0.0, 0.5, path), TIME_GRIDS["uniform"](path, 100)
    real = trace(data, (64,), range(50), times, sampler="ddim")
    toy = toy_trace(data, (64,), range(50), times)
    assert torch.equal(real.states[0], toy.states[0])
    assert float(real.states[-1].std()) == pytest.approx(0.5, abs=0.03)
    assert float(toy.states[-1].std()) < 0.05


# -- runs in a latent space and on text --------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def latent_run(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("latent")
    small = ["--set", "autoencoder.channels=[8,16]", "--max-steps", "60", "--batch-size", "64"]
    assert run_app(["train-autoencoder", *small, "--save-dir", str(root / "space")]) == 0
    where = ["--set", f"latent.autoencoder={root / 'space'}", "--save-dir", str(root / "run")]
    assert run_app(["train", *TINY, *TRAIN, *where]) == 0
    return str(root / "run")


def test_a_latent_run_is_edited_in_its_latent_space(
    latent_run: str, digit: Path, mask: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, noise, before = tmp_path / "x.npz", tmp_path / "n.npz", ["--input", digit]
    original = np.asarray(Image.open(digit))
    assert ask("edit", latent_run, *before, "--mask", mask, "--num", 2, "--output", out) == 0
    assert np.array_equal(pixels(out)[:, :4, :, 0], np.broadcast_to(original[:4], (2, 4, 8)))
    assert ask("invert", latent_run, *before, "--output", noise) == 0
    assert np.load(noise)["noise"].shape[1:] != (1, 8, 8)
    assert ask("edit", latent_run, "--noise", noise, "--output", out) == 0
    assert pixels(out).shape == (1, 8, 8, 1)
    capsys.readouterr()
    assert ask("reconstruct", latent_run, "--steps", "5,20", "--num", 8, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[1]["psnr"] > 5
    assert ask("plot denoising", latent_run, "--num", 1, "--output", tmp_path / "strip.png") == 0


def test_a_latent_mask_never_generates_less_than_was_asked() -> None:
    from ebbflow.runs.edit import coarse

    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[0, 0, 3, 5] = True
    coarse = coarse(mask, torch.zeros(1, 4, 2, 2))
    assert coarse.squeeze().tolist() == [[False, True], [False, False]]


def test_a_text_run_is_edited_by_prompts(digit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = str(tmp_path / "text"), tmp_path / "x.npz"
    text = ["--set", "conditioning.kind=text", "--set", "conditioning.dim=16", "--set", "conditioning.depth=1"]
    assert run_app(["train", *TINY, *text, *TRAIN, "--save-dir", run]) == 0
    before = ["--input", digit, "--output", out]
    prompts = ["--prompt", "a handwritten 4", "--prompt", "a handwritten 7"]
    assert ask("edit", run, *before, *prompts, "--num", 4, "--guidance", 2) == 0
    assert pixels(out).shape == (4, 8, 8, 1)
    assert ask("reconstruct", run, "--steps", "4", "--num", 4, "--json") == 0
    capsys.readouterr()
    refused(capsys, ask("edit", run, *before, *prompts, "--label", 3), "--labels and --prompt")
