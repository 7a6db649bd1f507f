"""Pictures that are not square, and pictures of several sizes: what is read, in what order, and what nets make of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ebbflow.cli.app import run_app
from ebbflow.data import Dataset, load_dataset
from ebbflow.data.augment import Augmentation
from ebbflow.data.buckets import bucket_of, in_buckets
from ebbflow.data.convert import centred, convert
from ebbflow.files import load_tensors
from ebbflow.runs.buckets import BucketLoader
from ebbflow.runs.build import DatasetLoader
from ebbflow.runs.folder import checkpoints, metrics

SIZES = ((8, 8), (6, 10), (10, 6))
SHAPES = ((24, 24), (18, 30), (31, 20), (12, 40), (25, 24))  # height and width of files, and their buckets:
BUCKETS = (0, 1, 2, 1, 0)


def wave(height: int, width: int, seed: int) -> np.ndarray:
    """A smooth picture."""
    y, x = np.mgrid[0:height, 0:width] / 12
    return np.uint8([[127 + 120 * np.sin(c + seed + x * (1 + c) / 2 + y) for c in range(3)]])[0].transpose(1, 2, 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """25 pictures of five shapes."""
    root = tmp_path_factory.mktemp("shapes")
    for i in range(25):
        Image.fromarray(wave(*SHAPES[i % 5], i)).save(root / f"{i:02d}.png")
    return root


@pytest.mark.parametrize("height", [1, 7, 24, 100])
@pytest.mark.parametrize("width", [1, 9, 40])
@pytest.mark.parametrize("to", [(8, 8), (6, 10), (1, 50), (33, 4)])
def test_the_centre_is_the_largest_part_of_the_proportions(height: int, width: int, to: tuple[int, int]) -> None:
    top, left, high, wide = centred(height, width, to)
    assert high == height or wide == width
    assert abs(high * to[1] - wide * to[0]) <= max(to), "as near as whole pixels come"
    assert abs((height - high) - 2 * top) <= 1 and abs((width - wide) - 2 * left) <= 1
    if to[0] == to[1]:
        assert (high, wide) == (min(height, width),) * 2


@pytest.mark.parametrize("size", [(6, 10), (12, 5), (8, 8), 8])
def test_pictures_are_brought_to_a_height_and_a_width_as_pillow_does(folder: Path, size: tuple[int, int] | int) -> None:
    found = load_dataset(folder, size=size, held_out=0.0).train
    lazy = load_dataset(folder, size=size, held_out=0.0, on_demand=True).train
    height, width = (size, size) if isinstance(size, int) else size
    assert found.dims == lazy.dims == (3, height, width) and torch.equal(found.x, lazy.x[:])
    for i in range(5):
        with Image.open(folder / f"{i:02d}.png") as image:
            top, left, high, wide = centred(image.height, image.width, (height, width))
            box = (left, top, left + wide, top + high)
            own = np.asarray(image.crop(box).resize((width, height), Image.Resampling.BICUBIC))
        apart = np.abs(own.transpose(2, 0, 1).astype(int) - found.x[i].numpy().astype(int))
        assert apart.max() <= 1
        pixels = torch.from_numpy(wave(*SHAPES[i], i)).permute(2, 0, 1)[None]
        in_memory = convert(Dataset(name="one", x=pixels, labels=None, label_names=()), size=size).x[0]
        assert (in_memory.int() - found.x[i].int()).abs().max() <= 1


def test_a_random_crop_is_what_pillow_cuts_and_depends_on_its_row_alone() -> None:
    """Both kernels are cubic, of other slopes at their ends, so that a smooth picture tells them hardly apart."""
    x0 = torch.from_numpy(np.stack([wave(24, 40, i) for i in range(6)])).permute(0, 3, 1, 2) / 127.5 - 1
    cut = Augmentation(crop=0.5)(x0, torch.Generator().manual_seed(3))
    draws = torch.rand(6, 4, generator=torch.Generator().manual_seed(3))
    for i, (_, lost, x, y) in enumerate(draws.tolist()):
        scale = 1 - 0.5 * lost
        left, top = 40 * (1 - scale) * x, 24 * (1 - scale) * y
        box = (left, top, left + 40 * scale, top + 24 * scale)
        image = Image.fromarray(((x0[i].permute(1, 2, 0) + 1) * 127.5).round().byte().numpy())
        own = np.asarray(image.resize((40, 24), Image.Resampling.BICUBIC, box=box)).astype(float)
        got = ((cut[i].permute(1, 2, 0) + 1) * 127.5).numpy()
        assert np.abs(own - got)[2:-2, 2:-2].mean() < 0.6, "of 255"
    share = Augmentation(crop=0.5)(x0[2:4], torch.Generator().manual_seed(3), whole=6, first=2)
    assert torch.equal(share, cut[2:4])


# -- buckets -----------------------------------------------------------------------------------------------------------


def loaders_of(folder: Path, batch_size: int) -> BucketLoader:
    data = in_buckets(load_dataset(folder, size=SIZES[0], held_out=0.0, on_demand=True), SIZES).train
    loaders = [
        DatasetLoader(dataset=own, cond=rows, batch_size=batch_size, seed=number)
        for number, (rows, own) in enumerate(bucket_of(data, n, size) for n, size in enumerate(SIZES))
    ]
    return BucketLoader(loaders=tuple(loaders), batch_size=batch_size, seed=1)


def test_each_picture_is_in_the_bucket_of_its_proportions(folder: Path) -> None:
    data = in_buckets(load_dataset(folder, size=SIZES[0], held_out=0.0, on_demand=True), SIZES).train
    for number, size in enumerate(SIZES):
        rows, own = bucket_of(data, number, size)
        assert rows.tolist() == [i for i in range(25) if BUCKETS[i % 5] == number]
        assert torch.equal(own.x[:], load_dataset(folder, size=size, held_out=0.0).train.x[rows])
    assert torch.equal(data.x[:], load_dataset(folder, size=8, held_out=0.0).train.x), "all of one size where wanted"


@pytest.mark.parametrize("batch_size", [1, 3, 4, 30])
def test_batches_are_of_one_bucket_and_each_has_as_many_as_it_has_pictures_for(folder: Path, batch_size: int) -> None:
    loader = loaders_of(folder, batch_size)
    nums = [len(one.dataset) for one in loader.loaders]
    assert nums == [10, 10, 5]
    step = 0
    for epoch in range(1, 8):
        end = sum(epoch * num // batch_size for num in nums)
        turns = [loader.turn(i) for i in range(end)]
        assert sorted(turns) == [(b, m) for b, num in enumerate(nums) for m in range(epoch * num // batch_size)]
        step = end
    assert len({loader.turn(i)[0] for i in range(step)}) == 3
    seen: Counter[int] = Counter()
    for i in range(step if batch_size < 30 else 3):
        batch = loader.batch(i)
        assert tuple(batch.x0.shape[2:]) == SIZES[loader.turn(i)[0]] and len(batch) == batch_size
        assert isinstance(batch.cond, Tensor)
        seen.update(batch.cond.tolist())
    if batch_size == 1:
        assert set(seen.values()) == {7} and len(seen) == 25
    order = [loader.turn(i)[0] for i in range(sum(4 * num // batch_size for num in nums))]
    assert batch_size > 4 or order != sorted(order), "buckets are mixed"


TRAIN = ["train", "--batch-size", "4", "--set", "train.schedule=constant", "--set", "train.log_every=1"]
TRAIN += ["--set", "train.sample_every=0", "--set", "engine.precision=fp32", "--set", "engine.workers=1"]
NETS = {
    "unet": ["--set", "net.channels=[8,16]", "--set", "net.num_heads=2"],
    "dit": ["--set", "net.kind=dit", "--set", "net.dim=16", "--set", "net.depth=1", "--set", "net.num_heads=2"],
}


@pytest.mark.parametrize("net", NETS)
def test_a_run_in_buckets_goes_on_exactly_and_is_sampled_at_any_size(net: str, folder: Path, tmp_path: Path) -> None:
    own = [*TRAIN, *NETS[net], "--data", str(folder), "--set", "data.buckets=[[8,8],[6,10],[10,6]]"]
    for length in ("3", "6"):
        assert run_app([*own, "--max-steps", length, "--save-dir", str(tmp_path / "parts")]) == 0
    assert run_app([*own, "--max-steps", "6", "--save-dir", str(tmp_path / "whole"), "--set", "engine.workers=0"]) == 0
    runs = [tmp_path / name for name in ("whole", "parts")]
    losses = [[row["loss"] for row in metrics(run) if "loss" in row] for run in runs]
    assert losses[0] == losses[1] and len(losses[0]) == 6
    weights = [load_tensors(checkpoints(run)[-1] / "ema.safetensors") for run in runs]
    assert all(value.equal(weights[1][name]) for name, value in weights[0].items())
    sample = ["sample", "--ckpt", str(runs[0]), "--num", "2", "--steps", "1", "--output", str(tmp_path / "s.npz")]
    for size, shape in ((None, (8, 8)), ("6x10", (6, 10)), ("10,6", (10, 6)), ("7", (7, 7))):
        assert run_app([*sample, *(["--img-size", size] if size else [])]) == 0
        assert np.load(tmp_path / "s.npz")["arr_0"].shape == (2, *shape, 3)


def test_what_takes_one_size_says_so(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, buckets = ["train", "--data", str(folder), "--dry-run"], "data.buckets=[[8,8],[6,10]]"
    for more, said in (
        (
            ["--set", buckets, "--set", "net.kind=mlp"],
            "net.kind=mlp takes pictures of one size. Leave data.buckets out.",
        ),
        (["--set", buckets, "--img-size", "8"], "both say to what size images are brought"),
        (["--set", "data.buckets=[[8,0]]"], "`data.buckets` must be at least 1, got 0"),
        (["--set", buckets, "--data", "digits"], "data.buckets are of folders, shards and parquet"),
        (["--img-size", "8x0"], "numbers with commas between them, got '8x0'"),
    ):
        assert run_app([*run, *more]) == 2
        assert said in capsys.readouterr().err
    assert run_app(["train-classifier", *run[1:], "--set", buckets]) == 2
    assert "take pictures of one size" in capsys.readouterr().err
    small = [*TRAIN, "--data", str(folder), "--img-size", "4", "--set", "net.kind=mlp", "--set", "net.dim=8"]
    assert run_app([*small, "--max-steps", "1", "--save-dir", str(tmp_path / "run")]) == 0
    sample = ["sample", "--ckpt", str(tmp_path / "run"), "--output", str(tmp_path / "s.png"), "--img-size"]
    capsys.readouterr()
    assert run_app([*sample, "8"]) == 2
    assert "run has a net of one size. Leave --img-size out." in capsys.readouterr().err
    assert run_app([*sample, "4", "--num", "2"]) == 0
