"""Runs conditioned on pictures: what the net sees, what is dropped, what is refused, and what comes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ebbflow as ef
from ebbflow.cli.app import run_app
from ebbflow.conditioning import DataFacts, ImageConditioner, ImageConditioning
from ebbflow.config import parse
from ebbflow.core.condition import GivenImage
from ebbflow.core.operators import OPERATORS
from ebbflow.data import load_dataset
from ebbflow.errors import DataError
from ebbflow.runs.build import build_denoiser, conditioner_of, facts_of, load_splits

DIGITS = load_dataset("digits").train
HALF = {"kind": "downsample", "factor": 2}


def conditioner(degrade: object = HALF) -> ImageConditioner:
    return ImageConditioning(degrade=degrade).build(facts_of(DIGITS))  # type: ignore[arg-type]


def test_the_net_sees_the_picture_in_its_place_and_the_null_as_nothing() -> None:
    own = conditioner()
    cond = own.conditions(DIGITS)
    assert cond is not None and cond.shape == (1500, 2, 4, 4) and bool((cond[:, 1] == 1).all())
    torch.testing.assert_close(cond[:5, :1], torch.nn.functional.avg_pool2d(DIGITS.x0(torch.arange(5)), 2))
    image = own.encode(cond[:2]).image
    assert image is not None and torch.equal(image[:, :, ::2, 1::2], cond[:2]), "pixels are repeated"
    assert not own.null(3).any()
    dropped = own.drop(cond[:400], 0.5, torch.Generator().manual_seed(0))
    gone = (dropped == 0).flatten(1).all(1)
    assert 140 < int(gone.sum()) < 260 and torch.equal(dropped[~gone], cond[:400][~gone])


def test_a_mask_tells_where_it_is_known_and_its_region_what_is_missing() -> None:
    cond = conditioner({"kind": "mask", "region": "left"}).conditions(DIGITS)
    assert cond is not None and bool((cond[:, 1, :, 4:] == 1).all()) and not cond[:, :, :, :4].any()


@pytest.mark.parametrize("net", ["unet", "dit"])
def test_every_net_of_images_takes_it_and_answers_the_samples_own_channels(net: str) -> None:
    config = parse({"net": {"kind": net}, "conditioning": {"kind": "image", "degrade": HALF}})
    denoiser = build_denoiser(config, facts_of(DIGITS))
    own = conditioner_of(denoiser)
    assert own is not None
    for parameter in denoiser.net.parameters():  # type: ignore[union-attr]
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    x, cond = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), own.conditions(DIGITS)
    assert cond is not None
    with torch.no_grad():
        first, other, none = (denoiser.given(c)(x, 0.5).x0 for c in (cond[:2], cond[2:4], None))
        single = denoiser.given(cond[:1])(x, 0.5).x0
    assert first.shape == x.shape and not torch.allclose(first, other) and not torch.allclose(first, none)
    torch.testing.assert_close(single[:1], first[:1], rtol=1e-4, atol=1e-5)


# -- refusals --------------------------------------------------------------------------------------

FACTS = {
    "points": (DataFacts(dims=(2,), is_image=False), "works on images, and these samples are points"),
    "latents": (DataFacts(dims=(3, 8, 8), is_image=True, latent_dims=(4, 4, 4)), "these samples are latents"),
    "no pictures": (DataFacts(dims=(1, 8, 8), is_image=True), "say how they are made of the data by `degrade`"),
    "sizes": (
        DataFacts(dims=(1, 8, 8), is_image=True, picture_dims=(1, 3, 3)),
        "the sides of samples, 8x8, must be multiples of those of their pictures, 3x3",
    ),
}


@pytest.mark.parametrize("case", FACTS)
def test_data_that_cannot_have_it_is_refused(case: str) -> None:
    facts, words = FACTS[case]
    with pytest.raises(ValueError, match=words):
        ImageConditioning(degrade="downsample" if case in ("points", "latents") else None).build(facts)


def test_other_refusals() -> None:
    with pytest.raises(ValueError, match=r"pictures of 1x4x4 as its condition, and big is 1x8x8"):
        conditioner().read([GivenImage(name="big", x=torch.zeros(1, 8, 8))])
    with pytest.raises(ValueError, match="trained on images: it takes no labels"):
        conditioner().read([3])
    with pytest.raises(ValueError, match="operator 'grey' wants images of several channels"):
        conditioner("grey")
    assert set(OPERATORS) == {"downsample", "grey", "mask", "blur"}


# -- pairs -----------------------------------------------------------------------------------------


def pairs(root: Path, num: int = 24) -> Path:
    for side, size in (("a", 4), ("b", 8)):
        (root / side).mkdir(parents=True)
        for i in range(num):
            Image.fromarray(np.full((size, size), 10 * i, dtype=np.uint8)).save(root / side / f"{i}.png")
    return root


def test_pairs_are_read_by_their_names(tmp_path: Path) -> None:
    config = parse({"data": {"name": str(pairs(tmp_path))}, "conditioning": {"kind": "image"}})
    splits = load_splits(config)
    for part in (splits.train, splits.held_out):
        assert part.pictures is not None and part.dims == (1, 8, 8) and part.pictures.shape[1:] == (1, 4, 4)
        assert torch.equal(part.pictures[:, 0, 0, 0], part.x[:, 0, 0, 0]), "a picture met another one's partner"
    assert facts_of(splits.train).picture_dims == (1, 4, 4)


def test_pairs_that_do_not_match_are_refused(tmp_path: Path) -> None:
    root = pairs(tmp_path)
    (root / "a" / "3.png").unlink()
    with pytest.raises(DataError, match=r"b/3.png has no partner .*a/3.png"):
        load_dataset(root, paired=True)
    with pytest.raises(DataError, match=r"holds no pairs: .*a is no folder"):
        load_dataset(root / "b", paired=True)
    with pytest.raises(DataError, match="digits is no folder of pairs"):
        load_dataset("digits", paired=True)


# -- from the command line -------------------------------------------------------------------------

TINY = ["--set", "net.channels=[8]", "--set", "train.held_out_every=0", "--device", "cpu", "--batch-size", "32"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("runs") / "small"
    settings = ["--set", "conditioning.kind=image", "--set", "conditioning.degrade.kind=downsample"]
    settings += ["--set", "conditioning.degrade.factor=2", "--set", "sample.guidance=1"]
    assert run_app(["train", *TINY, *settings, "--max-steps", "60", "--save-dir", str(folder)]) == 0
    return str(folder)


def test_it_is_sampled_by_files_folders_and_arrays(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = (DIGITS.x[:3].float().reshape(3, 4, 2, 4, 2).mean((2, 4))).round().to(torch.uint8).numpy()
    (tmp_path / "some").mkdir()
    for i, one in enumerate(small):
        Image.fromarray(one).save(tmp_path / "some" / f"{i}.png")
    np.savez(tmp_path / "some.npz", arr_0=small[..., None])
    output = tmp_path / "out.png"
    ask = ["sample", "--ckpt", run, "--device", "cpu", "--steps", "3", "--num", "6", "--output", str(output)]
    made = []
    for given in ("some", "some.npz"):
        assert run_app([*ask[:-1], str(tmp_path / f"{given}.out.npz"), "--condition", str(tmp_path / given)]) == 0
        made.append(np.load(tmp_path / f"{given}.out.npz")["arr_0"])
    assert made[0].shape == (6, 8, 8, 1) and np.array_equal(*made)
    assert run_app([*ask, "--condition", str(tmp_path / "some" / "0.png")]) == 0
    assert run_app(ask[:5] + ["--steps", "3", "--num", "8", "--output", str(output)]) == 0, "held-out pictures"
    for rest, words in (
        (["--labels", "3"], "this run was trained on images: it takes no labels"),
        (["--condition", str(tmp_path / "none.png")], "none.png cannot be read as an image"),
        (["--condition", str(output)], "pixels. Give a square picture"),
    ):
        capsys.readouterr()
        code, said = run_app([*ask, *rest]), capsys.readouterr().err
        assert code == 2 and words in said and said.count("\n") == 1, said


def test_it_is_measured_beside_what_was_given(run: str) -> None:
    table = ef.evaluate(run, num=70, steps=2, features="pca")
    assert 0 < table["psnr"] < 60 and 0 < table["psnr_of_given"] < 60 and table["frechet_of_given"] > 0


def test_other_runs_take_no_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "plain"
    assert (
        run_app(["train", *TINY, "--max-steps", "1", "--set", "train.sample_every=0", "--save-dir", str(folder)]) == 0
    )
    capsys.readouterr()
    assert run_app(["sample", "--ckpt", str(folder), "--condition", "a.png", "--output", str(tmp_path / "x.png")]) == 2
    assert "was not trained on pictures as its condition. Leave --condition out" in capsys.readouterr().err
