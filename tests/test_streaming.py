"""Laws of many samples: written as they come they are what they are in memory, and they take the memory of a batch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ebbflow.conditioning import DataFacts
from ebbflow.core.paths import Flow
from ebbflow.methods.oracles import Gaussian
from ebbflow.requests.sampling import SampleRequest
from ebbflow.runs.model import Model
from ebbflow.runs.plan import plan_of
from ebbflow.runs.results import write
from ebbflow.runs.sample import Samples, generate
from ebbflow.show.canvas import npz_file

IMAGES = Model(denoiser=Gaussian(0.2, 0.4, Flow()), facts=DataFacts(dims=(3, 4, 4), is_image=True))
POINTS = Model(denoiser=Gaussian(0.2, 0.4, Flow()), facts=DataFacts(dims=(2,), is_image=False))
each_model = pytest.mark.parametrize("model", [IMAGES, POINTS], ids=["images", "points"])


def written(model: Model, output: Path, num: int, batch_size: int) -> Path:
    plan = plan_of(model, SampleRequest(num=num, batch_size=batch_size, steps=3, seed=5))
    write(model, plan, generate(model, plan), output)
    return output


@each_model
def test_a_streamed_npz_is_the_one_of_memory_byte_for_byte(model: Model, tmp_path: Path) -> None:
    whole = model.sample(num=11, batch_size=4, steps=3, seed=5).save(tmp_path / "whole.npz")
    assert written(model, tmp_path / "streamed.npz", 11, 4).read_bytes() == whole.read_bytes()
    with np.load(whole) as arrays:
        x = arrays["arr_0"]
    made = model.sample(num=11, batch_size=11, steps=3, seed=5)
    if made.images is None:
        assert x.dtype == np.float32
        np.testing.assert_allclose(x, made.x.numpy(), rtol=0, atol=1e-6)
    else:
        assert x.dtype == np.uint8 and (x == made.images.permute(0, 2, 3, 1).numpy()).all()


@each_model
def test_batches_are_the_samples_in_order(model: Model) -> None:
    parts = list(model.batches(num=11, batch_size=4, steps=3))
    assert [len(part) for part in parts] == [4, 4, 3]
    whole = model.sample(num=11, batch_size=4, steps=3)
    assert torch.equal(torch.cat([part.x for part in parts]), whole.x)
    assert tuple(seed for part in parts for seed in part.seeds) == whole.seeds


def test_a_folder_and_a_grid_hold_the_same_images(tmp_path: Path) -> None:
    folder, made = written(IMAGES, tmp_path / "single", 5, 2), IMAGES.sample(num=5, batch_size=2, steps=3, seed=5)
    assert made.images is not None
    for seed, image in zip(made.seeds, made.images, strict=True):
        shown = np.asarray(Image.open(folder / f"seed_{seed:06d}.png"))
        assert (shown == image.permute(1, 2, 0).numpy()).all()
    grid = written(IMAGES, tmp_path / "grid.png", 5, 2)
    assert (np.asarray(Image.open(grid)) == np.asarray(made.grid())).all()


def test_labels_are_written_beside_the_images(tmp_path: Path) -> None:
    labels = torch.tensor([3, 1, 2])
    with npz_file(tmp_path / "x.npz", 3, (1, 2, 2), labels) as add:
        for row in torch.arange(12, dtype=torch.uint8).reshape(3, 1, 2, 2).split(1):
            add(row)
    with np.load(tmp_path / "x.npz") as arrays:
        assert arrays["arr_0"].shape == (3, 2, 2, 1) and arrays["arr_0"].ravel().tolist() == list(range(12))
        assert arrays["arr_1"].dtype == np.int64 and arrays["arr_1"].tolist() == [3, 1, 2]


@pytest.mark.parametrize("error", [KeyboardInterrupt, FloatingPointError])
@pytest.mark.parametrize("name", ["x.npz", "x.png"])
def test_what_was_interrupted_leaves_nothing(name: str, error: type[BaseException], tmp_path: Path) -> None:
    plan = plan_of(IMAGES, SampleRequest(num=6, batch_size=2, steps=2))

    def stopped() -> Iterator[Samples]:
        for i, step in enumerate(generate(IMAGES, plan)):
            if i == 3:
                raise error
            yield step

    with pytest.raises(error):
        write(IMAGES, plan, stopped(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def two_of_three(file: Path, error: type[BaseException] | None = None) -> None:
    with npz_file(file, 3, (2,), None) as add:
        add(torch.zeros(2, 2))
        if error is not None:
            raise error


def test_too_few_rows_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"was to hold 3 samples, and 2 were made"):
        two_of_three(tmp_path / "x.npz")
    assert list(tmp_path.iterdir()) == []


def test_an_old_file_stays_when_a_new_one_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.npz"
    file.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        two_of_three(file, KeyboardInterrupt)
    assert file.read_bytes() == b"old" and list(tmp_path.iterdir()) == [file]


PEAK = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_streaming import IMAGES, written
written(IMAGES, Path({output!r}), 64, 64)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
written(IMAGES, Path({output!r}), 8192, 64)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no getrusage")
def test_many_samples_take_the_memory_of_one_batch(tmp_path: Path) -> None:
    """8,192 images of 3x4x4 are 1.5 MB as floats, states and estimates thrice that: kept, they would show. Of a
    megabyte of growth a half is the seeds."""
    code = PEAK.format(tests=str(Path(__file__).parent), output=str(tmp_path / "x.npz"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout) * unit < 2_500_000
