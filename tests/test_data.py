"""Laws of the data room: every data set of the registry, folders, .npz files, conversion, downloads. No network."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import json
import os
import struct
import tarfile
import threading
import urllib.parse
import urllib.request
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ebbflow.data import DATASETS, Dataset, Splits, load_dataset, pictures, to_uint8
from ebbflow.data.convert import convert
from ebbflow.data.download import _Web, data_home, fetch
from ebbflow.data.split import hashed, part_of
from ebbflow.errors import ConfigError, DataError
from ebbflow.files import HOST

MNIST_FILES = tuple(pictures.MNIST_FILES)


# ---------------------------------------------------------------- material


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing but the loopback interface be asked."""
    original = urllib.request.urlopen

    def guarded(request: Any, *args: Any, **kwargs: Any) -> Any:
        url = request if isinstance(request, str) else request.full_url
        assert urllib.parse.urlsplit(url).hostname == "127.0.0.1", f"a test asked the network for {url}"
        return original(request, *args, **kwargs)

    monkeypatch.setattr(urllib.request, "urlopen", guarded)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def random_bytes(seed: int, *shape: int) -> np.ndarray:
    return np.random.RandomState(seed).randint(256, size=shape, dtype=np.uint8)


def write_idx_files(folder: Path) -> None:
    """30 training and 20 test images in the format of MNIST; the test files are not gzipped."""
    folder.mkdir(parents=True)
    for seed, (part, count) in enumerate((("train", 30), ("t10k", 20))):
        images = idx_bytes(random_bytes(seed, count, 28, 28))
        labels = idx_bytes(np.arange(count, dtype=np.uint8) % 10)
        pack, suffix = (gzip.compress, ".gz") if part == "train" else (bytes, "")
        (folder / f"{part}-images-idx3-ubyte{suffix}").write_bytes(pack(images))
        (folder / f"{part}-labels-idx1-ubyte{suffix}").write_bytes(pack(labels))


def cifar_batches() -> dict[str, bytes]:
    return {
        name: np.concatenate([np.arange(10, dtype=np.uint8)[:, None], random_bytes(i, 10, 3072)], axis=1).tobytes()
        for i, name in enumerate(pictures.CIFAR10_BATCHES)
    }


def write_cifar_archive(folder: Path) -> None:
    folder.mkdir(parents=True)
    with tarfile.open(folder / pictures.CIFAR10_ARCHIVE, "w:gz") as archive:
        for name, content in cifar_batches().items():
            member = tarfile.TarInfo(f"{pictures.CIFAR10_FOLDER}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


STAND_INS = {"fashion_mnist": write_idx_files, "cifar10": write_cifar_archive}


def real_mnist() -> Path | None:
    shared = Path(__file__).parents[2] / "shared" / "data"
    homes = [Path(os.environ["EBBFLOW_DATA"])] if os.environ.get("EBBFLOW_DATA") else []
    return next((home for home in [*homes, shared] if (home / "mnist" / MNIST_FILES[0]).is_file()), None)


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("data")
    for name, write in STAND_INS.items():
        write(home / name)
    return home


def home_of(name: str, stand_ins: Path) -> Path:
    home = real_mnist() if name == "mnist" else stand_ins
    if home is None:
        pytest.skip("the files of MNIST are not here: set EBBFLOW_DATA")
    return home


@pytest.fixture(scope="session", params=DATASETS)
def twice(request: pytest.FixtureRequest, stand_ins: Path) -> tuple[Splits, Splits]:
    """One data set of the registry, loaded two times."""
    home = home_of(request.param, stand_ins)
    return load_dataset(request.param, data_dir=home), load_dataset(request.param, data_dir=home)


@pytest.fixture
def splits(twice: tuple[Splits, Splits]) -> Splits:
    return twice[0]


def picture(path: Path, *, size: tuple[int, int] = (8, 8), mode: str = "RGB", seed: int = 0, **save: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    Image.fromarray(random_bytes(seed, size[1], size[0], *bands)).save(path, **save)
    return path


def pixels(path: Path) -> Tensor:
    """An image file as Pillow reads it, uint8 (C, H, W)."""
    array = np.array(Image.open(path))
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())


def both(splits: Splits) -> Tensor:
    return torch.cat([splits.train.x, splits.held_out.x])


def rows(x: Tensor) -> set[bytes]:
    return {row.numpy().tobytes() for row in x}


# ---------------------------------------------------------------- every data set of the registry


def test_shape_and_dtype(splits: Splits) -> None:
    assert splits.train.dims == splits.held_out.dims and len(splits.train) > len(splits.held_out) > 0
    for part in (splits.train, splits.held_out):
        assert part.x.dtype == (torch.uint8 if part.is_image else torch.float32)
        assert part.x.shape == (len(part), *part.dims) and part.x.is_contiguous()
        assert len(part.dims) == (3 if part.is_image else 1)
        assert part.name in repr(part) and part.name in DATASETS


def test_range(splits: Splits) -> None:
    x0 = splits.train.x0(torch.arange(min(len(splits.train), 5000)))
    assert x0.dtype == torch.float32 and x0.isfinite().all()
    if splits.train.is_image:
        assert x0.min() == -1 and x0.max() == 1
    else:
        assert 1 < both(splits).abs().max() < 1.5 and x0.mean().abs() < 0.2


def test_labels(splits: Splits) -> None:
    for part in (splits.train, splits.held_out):
        assert part.label_names == splits.train.label_names and len(set(part.label_names)) == part.num_classes
        assert (part.labels is None) == (part.num_classes == 0)
        if part.labels is not None:
            assert part.labels.dtype == torch.int64
            assert part.labels.unique().tolist() == list(range(part.num_classes))


def test_two_loads_are_equal(twice: tuple[Splits, Splits]) -> None:
    for one, other in ((twice[0].train, twice[1].train), (twice[0].held_out, twice[1].held_out)):
        assert torch.equal(one.x, other.x) and one.label_names == other.label_names
        assert one.labels is other.labels or torch.equal(one.labels, other.labels)


def test_nothing_is_in_both_splits(splits: Splits) -> None:
    assert not rows(splits.train.x) & rows(splits.held_out.x)


def test_bytes_survive_scaling(splits: Splits) -> None:
    few = torch.arange(20)
    x0 = splits.train.x0(few)
    assert torch.equal(to_uint8(x0) if splits.train.is_image else x0, splits.train.x[few])


@pytest.mark.parametrize("name", DATASETS)
def test_loader_names_its_source(name: str) -> None:
    assert "Source:" in (DATASETS[name].__doc__ or "")


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize(("size", "channels"), [(12, None), (None, 3), (16, 1)])
def test_conversion_of_the_registry(name: str, size: int | None, channels: int | None, stand_ins: Path) -> None:
    original = load_dataset(name, data_dir=home_of(name, stand_ins))
    few = original.held_out.select(torch.arange(10))
    if not few.is_image:
        with pytest.raises(DataError, match=f"{name}.*2-D points.*`size`"):
            load_dataset(name, size=size, channels=channels)
        return
    got = convert(few, size=size, channels=channels)
    assert got.dims == (channels or few.dims[0], size or few.dims[1], size or few.dims[2])
    assert got.x.dtype == torch.uint8 and torch.equal(got.labels, few.labels)


# ---------------------------------------------------------------- data sets one by one


def test_all_256_values_survive_scaling() -> None:
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    data = Dataset(name="bytes", x=every, labels=None, label_names=())
    x0 = data.x0(torch.tensor([0]))
    assert x0.min() == -1 and x0.max() == 1 and torch.equal(to_uint8(x0), every)
    assert torch.equal(to_uint8(x0.double() + 0.003), every)
    assert to_uint8(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


def test_digits_are_those_of_scikit_learn() -> None:
    splits = load_dataset("digits")
    assert (len(splits.train), len(splits.held_out)) == (1500, 297)
    assert splits.train.dims == (1, 8, 8) and both(splits).unique().tolist() == [round(v * 255 / 16) for v in range(17)]
    assert torch.cat([splits.train.labels, splits.held_out.labels]).bincount().tolist() == [
        178, 182, 177, 183, 181, 182, 181, 179, 174, 180,
    ]  # fmt: skip
    digest = hashlib.sha256(splits.held_out.x.numpy().tobytes()).hexdigest()
    assert digest.startswith("cf6d1d6d"), "the split of `digits` has moved: results are no longer comparable"


def test_mnist_is_mnist(stand_ins: Path) -> None:
    splits = load_dataset("mnist", data_dir=home_of("mnist", stand_ins))
    assert (len(splits.train), len(splits.held_out)) == (60_000, 10_000) and splits.train.dims == (1, 28, 28)
    assert splits.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert abs(splits.train.x.double().mean().item() / 255 - 0.1307) < 1e-4


def test_idx_and_cifar_values(stand_ins: Path, tmp_path: Path) -> None:
    fashion = load_dataset("fashion_mnist", data_dir=stand_ins)
    assert np.array_equal(fashion.train.x.numpy()[:, 0], random_bytes(0, 30, 28, 28))
    assert np.array_equal(fashion.held_out.x.numpy()[:, 0], random_bytes(1, 20, 28, 28))
    archive = load_dataset("cifar10", data_dir=stand_ins)
    assert archive.train.dims == (3, 32, 32) and (len(archive.train), len(archive.held_out)) == (50, 10)
    assert np.array_equal(archive.train.x.numpy()[10:20], random_bytes(1, 10, 3072).reshape(10, 3, 32, 32))
    for place in ("cifar10", f"cifar10/{pictures.CIFAR10_FOLDER}"):
        home = tmp_path / place.replace("/", "-")
        (home / place).mkdir(parents=True)
        for name, content in cifar_batches().items():
            (home / place / name).write_bytes(content)
        assert torch.equal(both(load_dataset("cifar10", data_dir=home)), both(archive))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda good: gzip.compress(good)[:-20], "not a whole gzip file"),
        (lambda good: b"<html>not found</html>", "not a whole gzip file"),
        (lambda good: gzip.compress(good[:-1]), r"header says \(30, 28, 28\), so 23536 bytes, but it has 23535"),
        (lambda good: gzip.compress(good + b"x"), "but it has 23537"),
        (lambda good: gzip.compress(b"\0\0\x0d\x03" + good[4:]), "magic number 00000803 .* got 00000d03"),
        (lambda good: gzip.compress(good[:9]), "header of 16 bytes, got 00000803 in a file of 9 bytes"),
        (lambda good: gzip.compress(b""), "got nothing"),
        (lambda good: gzip.compress(idx_bytes(random_bytes(0, 29, 28, 28))), "29 images, but .* has 30 labels"),
    ],
)
def test_damaged_idx(damage: Any, message: str, tmp_path: Path) -> None:
    write_idx_files(tmp_path / "fashion_mnist")
    file = tmp_path / "fashion_mnist" / "train-images-idx3-ubyte.gz"
    file.write_bytes(damage(gzip.decompress(file.read_bytes())))
    with pytest.raises(DataError, match=message) as caught:
        load_dataset("fashion_mnist", data_dir=tmp_path)
    assert str(file) in str(caught.value)


def test_damaged_cifar(tmp_path: Path) -> None:
    write_cifar_archive(tmp_path / "cifar10")
    archive = tmp_path / "cifar10" / pictures.CIFAR10_ARCHIVE
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=f"{archive} is damaged"):
        load_dataset("cifar10", data_dir=tmp_path)
    with tarfile.open(archive, "w:gz"):
        pass
    with pytest.raises(DataError, match=r"lacks data_batch_1.bin"):
        load_dataset("cifar10", data_dir=tmp_path)
    for name, content in cifar_batches().items():
        (tmp_path / "cifar10" / name).write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"data_batch_1.bin is damaged: expected a multiple of 3073 bytes, got 30729"):
        load_dataset("cifar10", data_dir=tmp_path)


def test_points_lie_where_their_labels_say() -> None:
    rings, gaussians = load_dataset("rings").train, load_dataset("gaussians").train
    radius = rings.x.norm(dim=1)
    assert (radius - 0.4 * (rings.labels + 1)).abs().max() < 0.2
    angle = torch.atan2(gaussians.x[:, 1], gaussians.x[:, 0])
    assert ((angle / (torch.pi / 4)).round() % 8 == gaussians.labels).double().mean() > 0.999
    moons = load_dataset("moons").train
    assert moons.x[moons.labels == 0, 1].mean() > 0.2 > -0.2 > moons.x[moons.labels == 1, 1].mean()
    cell = ((load_dataset("checkerboard").train.x + 1.2) / 0.6).floor().long()
    assert (cell.sum(dim=1) % 2 == 0).double().mean() > 0.999 and len(cell.unique(dim=0)) == 8


# ---------------------------------------------------------------- the Dataset itself


def test_select_keeps_labels_and_captions_together() -> None:
    data = Dataset(
        name="few",
        x=torch.arange(4.0)[:, None],
        labels=torch.tensor([0, 1, 0, 1]),
        label_names=("even", "odd"),
        captions=("a", "b", "c", "d"),
    )
    for indices in (torch.tensor([3, 0]), torch.tensor([True, False, False, True])):
        chosen = data.select(indices)
        assert list(zip(chosen.x[:, 0].tolist(), chosen.labels.tolist(), chosen.captions, strict=True)) in (
            [(3.0, 1, "d"), (0.0, 0, "a")],
            [(0.0, 0, "a"), (3.0, 1, "d")],
        )
    data.x0(torch.tensor([0])).fill_(9)
    assert data.x[0] == 0 and len(data) == 4 and not data.is_image


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(3, 1, 2, 2)}, r"`x` must be uint8 \(N, C, H, W\) or float32 \(N, D\), got torch.float32"),
        ({"labels": torch.zeros(2, dtype=torch.int64)}, r"`labels` must be int64 \(3,\)"),
        ({"labels": torch.tensor([0, 2, 1])}, r"labels must be in \[0, 2\), got 2"),
        ({"labels": torch.tensor([0, -1, 1])}, "got -1"),
        ({"labels": None}, "`label_names` without `labels`"),
        ({"captions": ("a",)}, "1 captions for 3 entries"),
    ],
)
def test_dataset_refuses_what_does_not_fit(change: dict[str, Any], message: str) -> None:
    fields: dict[str, Any] = {"x": torch.zeros(3, 2), "labels": torch.zeros(3, dtype=torch.int64)}
    with pytest.raises(DataError, match=message):
        Dataset(**({"name": "bad", "label_names": ("a", "b")} | fields | change))


# ---------------------------------------------------------------- sources


def test_unknown_name_helps() -> None:
    with pytest.raises(ConfigError, match=r"unknown data set 'mnits'. Did you mean 'mnist'") as caught:
        load_dataset("mnits")
    assert all(name in str(caught.value) for name in DATASETS) and "a folder or .npz file" in str(caught.value)


def test_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no data")
    with pytest.raises(DataError, match=r"neither a folder of images nor an .npz file"):
        load_dataset(str(tmp_path / "notes.txt"))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"size": 0}, "`size` .* at least 1, got 0"), ({"channels": 2}, "`channels` must be 1, 3 or 4, got 2")],
)
def test_impossible_request(options: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset("digits", **options)


def test_data_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stand_ins: Path) -> None:
    monkeypatch.delenv("EBBFLOW_DATA", raising=False)
    assert data_home() == Path.home() / ".cache/ebbflow/data"
    monkeypatch.setenv("EBBFLOW_DATA", str(stand_ins))
    assert data_home() == stand_ins and data_home(tmp_path) == tmp_path
    assert len(load_dataset("fashion_mnist").train) == 30


# ---------------------------------------------------------------- conversion


def image_set(*shape: int, seed: int = 0) -> Dataset:
    return Dataset(name="set", x=torch.from_numpy(random_bytes(seed, *shape)), labels=None, label_names=())


def test_nothing_asked_nothing_changed() -> None:
    data = image_set(3, 1, 8, 8)
    assert convert(data) is data and convert(data, size=8, channels=1) is data


def test_grey_and_colour() -> None:
    grey, colour = image_set(3, 1, 8, 8), image_set(3, 3, 8, 8)
    repeated = convert(grey, channels=3)
    assert torch.equal(repeated.x, grey.x.expand(-1, 3, -1, -1))
    assert torch.equal(convert(repeated, channels=1).x, grey.x), "grey -> colour -> grey must change nothing"
    luma = convert(colour, channels=1).x[:, 0].double()
    red, green, blue = colour.x.double().unbind(1)
    assert (luma - (0.299 * red + 0.587 * green + 0.114 * blue)).abs().max() <= 0.501
    for got, image in zip(luma, colour.x, strict=True):
        assert np.array_equal(got.numpy(), np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L")))


def test_opacity() -> None:
    colour = image_set(2, 3, 4, 4)
    opaque = convert(colour, channels=4)
    assert (opaque.x[:, 3] == 255).all() and torch.equal(convert(opaque, channels=3).x, colour.x)
    clear = Dataset(name="clear", x=torch.zeros(1, 4, 2, 2, dtype=torch.uint8), labels=None, label_names=())
    assert (convert(clear, channels=1).x == 255).all(), "what is transparent lies on white"


def test_resize_is_antialiased_and_never_flips() -> None:
    stripes = torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
    stripes[..., ::2] = 255
    small = convert(Dataset(name="stripes", x=stripes, labels=None, label_names=()), size=8).x.int()
    assert (small - 128).abs().max() < 20, "without antialiasing the stripes alias to black or white"
    corner = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    corner[..., :4, :4] = 255
    for size in (4, 16, 28):
        got = convert(Dataset(name="corner", x=corner, labels=None, label_names=()), size=size).x[0, 0]
        assert got[0, 0] == 255 and got[0, -1] == got[-1, 0] == got[-1, -1] == 0


def test_resize_agrees_with_pillow_and_crops_the_centre() -> None:
    data = image_set(2, 3, 31, 20)
    got = convert(data, size=9).x
    for image, original in zip(got, data.x, strict=True):
        square = Image.fromarray(original.permute(1, 2, 0).numpy()).crop((0, 5, 20, 25))
        pillow = np.asarray(square.resize((9, 9), Image.Resampling.BICUBIC)).astype(int)
        assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - pillow).max() <= 1


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = image_set(7, 1, 8, 8)
    whole = convert(data, size=12, channels=3).x
    monkeypatch.setattr("ebbflow.data.convert.CHUNK_VALUES", 1000)
    assert torch.equal(convert(data, size=12, channels=3).x, whole)


def test_two_channels_cannot_become_three() -> None:
    with pytest.raises(DataError, match="has 2 channels"):
        convert(image_set(1, 2, 4, 4), channels=3)


def test_load_converts_both_splits() -> None:
    splits = load_dataset("digits", size=16, channels=3)
    assert splits.train.dims == splits.held_out.dims == (3, 16, 16)


# ---------------------------------------------------------------- folders


def test_flat_folder(tmp_path: Path) -> None:
    for i, suffix in enumerate(("png", "PNG", "bmp", "webp", "gif", "jpg", "jpeg")):
        picture(tmp_path / f"{i}.{suffix}", seed=i)
    picture(tmp_path / ".hidden.png", size=(3, 3))
    picture(tmp_path / ".cache" / "a.png", size=(3, 3))
    (tmp_path / "notes.txt").write_text("not an image")
    splits = load_dataset(str(tmp_path))
    assert len(splits.train) + len(splits.held_out) == 7 and splits.train.dims == (3, 8, 8)
    assert splits.train.labels is None and splits.train.captions is None and splits.train.name == tmp_path.name
    assert {pixels(tmp_path / f"{i}.{s}").numpy().tobytes() for i, s in ((0, "png"), (1, "PNG"), (2, "bmp"))} <= rows(
        both(splits)
    )


def test_class_folders(tmp_path: Path) -> None:
    for i in range(30):
        picture(tmp_path / ("dog", "cat", "eel")[i % 3] / f"{i}.png", mode="L", seed=i)
    splits = load_dataset(str(tmp_path))
    assert splits.train.label_names == splits.held_out.label_names == ("cat", "dog", "eel")
    assert splits.train.dims == (1, 8, 8) and len(splits.train) + len(splits.held_out) == 30
    for part in (splits.train, splits.held_out):
        for x, label in zip(part.x, part.labels.tolist(), strict=True):
            folder = tmp_path / part.label_names[label]
            assert x.numpy().tobytes() in {pixels(path).numpy().tobytes() for path in folder.iterdir()}


@pytest.mark.parametrize("labels", [["b", "a", "b"], [0, 2, 1], None])
@pytest.mark.parametrize("texts", [["a red hat", "eine Mütze", "line\u2028break"], None])
def test_metadata(labels: list[Any] | None, texts: list[str] | None, tmp_path: Path) -> None:
    lines = []
    for i in range(3):
        picture(tmp_path / "sub" / f"{i}.png", seed=i)
        row = {"file_name": f"sub/{i}.png"} | ({"label": labels[i]} if labels else {})
        lines.append(json.dumps(row | ({"text": texts[i]} if texts else {}), ensure_ascii=False) + "\n")
    picture(tmp_path / "unnamed.png", size=(3, 3))
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    splits = load_dataset(str(tmp_path))
    seen = set()
    for part in (splits.train, splits.held_out):
        assert part.label_names == ((("a", "b") if labels[0] == "b" else ("0", "1", "2")) if labels else ())
        for i in range(len(part)):
            number = next(n for n in range(3) if torch.equal(pixels(tmp_path / "sub" / f"{n}.png"), part.x[i]))
            seen.add(number)
            assert part.captions is None if texts is None else part.captions[i] == texts[number]
            assert part.labels is None if labels is None else part.label_names[part.labels[i]] == str(labels[number])
    assert seen == {0, 1, 2}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"file_name": "a.png"}\n{oops', "metadata.jsonl: line 2 is no JSON"),
        ('["a.png"]', "line 1 must be a table of names and values"),
        ('{"name": "a.png"}', "no line has a 'file_name'"),
        ("\n\n", "names no images"),
        ('{"file_name": "a.png", "label": 1}\n\n{"file_name": "a.png"}', "line 3 has no 'label', but other lines do"),
        ('{"file_name": "a.png", "label": 1}\n{"file_name": "a.png", "label": "x"}', "all strings or all integers"),
        ('{"file_name": "a.png", "label": -1}', r"must be in \[0, 100000\), got -1"),
        ('{"file_name": "a.png", "text": 7}', "'text' must be str, got 7"),
        ('{"file_name": "a.png", "label": 1.5}', "'label' must be str or int, got 1.5"),
    ],
)
def test_wrong_metadata(lines: str, message: str, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(lines)
    with pytest.raises(DataError, match=message):
        load_dataset(str(tmp_path))


def test_folder_layouts_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no images"):
        load_dataset(str(tmp_path))
    picture(tmp_path / "train" / "cat" / "a.png")
    with pytest.raises(DataError, match=r"train/cat/a.png lies deeper .* as .*train"):
        load_dataset(str(tmp_path))
    assert len(load_dataset(str(tmp_path / "train")).train) == 1
    picture(tmp_path / "train" / "b.png")
    with pytest.raises(DataError, match=r"both directly \(b.png\) and in sub-folders \(cat/a.png\)"):
        load_dataset(str(tmp_path / "train"))


def test_sizes(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", size=(12, 8))
    assert load_dataset(str(tmp_path)).train.dims == (3, 8, 8)
    assert torch.equal(load_dataset(str(tmp_path)).train.x[0], pixels(tmp_path / "a.png")[:, :, 2:10])
    picture(tmp_path / "b.png", size=(9, 9))
    with pytest.raises(DataError, match=r"differ in size: .*b.png has 9 x 9 pixels, the first one 12 x 8.*`size`"):
        load_dataset(str(tmp_path))
    small = load_dataset(str(tmp_path), size=6)
    assert small.train.dims == small.held_out.dims == (3, 6, 6) and len(small.held_out) == 1


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 4)])
def test_channels_follow_the_first_image(mode: str, channels: int, tmp_path: Path) -> None:
    picture(tmp_path / "a.png", mode=mode)
    picture(tmp_path / "b.png", mode="RGB")
    assert load_dataset(str(tmp_path)).train.dims[0] == channels
    for wanted in (1, 3, 4):
        assert load_dataset(str(tmp_path), channels=wanted).train.dims[0] == wanted


def test_transparent_pictures_lie_on_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (200, 0, 0, 0)).save(tmp_path / "a.png")
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    palette.save(tmp_path / "b.png", transparency=1)
    assert (both(load_dataset(str(tmp_path), channels=3)) == 255).all()
    assert load_dataset(str(tmp_path)).train.dims[0] == 4


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    Image.fromarray((np.arange(64, dtype=np.uint16) * 1040).reshape(8, 8)).save(tmp_path / "a.png")
    got = load_dataset(str(tmp_path)).train.x[0]
    assert torch.equal(got.flatten().double(), (torch.arange(64) * 1040 / 257).round().double())


def test_exif_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    path = picture(tmp_path / "a.png", mode="L", exif=exif)
    turned = torch.from_numpy(np.array(Image.open(path).transpose(Image.Transpose.ROTATE_270)))
    assert torch.equal(load_dataset(str(tmp_path)).train.x[0, 0], turned)


def broken_folder(root: Path) -> None:
    for i in range(12):
        picture(root / f"{i:02}.png", seed=i)
    (root / "00.png").write_bytes((root / "00.png").read_bytes()[:100])
    for i in (3, 5, 7):
        (root / f"{i:02}.png").write_bytes(b"not a picture")


def test_bad_image_is_named(tmp_path: Path) -> None:
    broken_folder(tmp_path)
    with pytest.raises(DataError, match=r"00.png cannot be read as an image: .*`skip_bad`"):
        load_dataset(str(tmp_path))
    (tmp_path / "00.png").unlink()
    with pytest.raises(DataError, match=r"03.png cannot be read"):
        load_dataset(str(tmp_path))


def test_bad_images_are_skipped_with_one_warning(tmp_path: Path) -> None:
    broken_folder(tmp_path)
    with pytest.warns(UserWarning, match=r"skipped 4 of 12 images: 00.png .* 05.png .* and 1 more") as caught:
        splits = load_dataset(str(tmp_path), skip_bad=True)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert rows(both(splits)) == {
        pixels(tmp_path / f"{i:02}.png").numpy().tobytes() for i in (1, 2, 4, 6, 8, 9, 10, 11)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_dataset("digits", skip_bad=True)


def test_only_bad_images(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"none of the 2 images can be read; the first is .*a.png"):
        load_dataset(str(tmp_path), skip_bad=True)


def test_missing_image_of_the_metadata(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "c.png")
    lines = [{"file_name": f"{name}.png", "label": name, "text": name.upper()} for name in "abc"]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(DataError, match=r"b.png cannot be read as an image: no such file"):
        load_dataset(str(tmp_path))
    with pytest.warns(UserWarning, match=r"skipped 1 of 3 images: b.png \(no such file\)"):
        splits = load_dataset(str(tmp_path), skip_bad=True)
    assert {*splits.train.captions, *splits.held_out.captions} == {"A", "C"}
    assert splits.train.label_names == ("a", "b", "c")


# ---------------------------------------------------------------- held-out splits


def test_adding_files_moves_no_file() -> None:
    names = [f"class/{i}.png" for i in range(1000)]
    few, many = hashed(names[:500]), hashed(names)
    assert torch.equal(few, many[:500]) and 0.07 < many.double().mean() < 0.13
    assert torch.equal(hashed(names[::-1]), many.flip(0))


@pytest.mark.parametrize("count", range(1, 40))
def test_small_sets_have_both_parts(count: int) -> None:
    held_out = int(hashed([f"{i}.png" for i in range(count)]).sum())
    assert held_out == 0 if count == 1 else 1 <= held_out < count
    assert part_of(count) == 0 if count == 1 else 1 <= part_of(count) < count


# ---------------------------------------------------------------- .npz


@pytest.mark.parametrize(
    ("x", "dims"),
    [
        (random_bytes(0, 20, 6, 5), (1, 6, 5)),
        (random_bytes(0, 20, 6, 5, 3), (3, 6, 5)),
        (np.random.RandomState(0).normal(size=(20, 3)), (3,)),
    ],
)
@pytest.mark.parametrize("keys", [("arr_0", "arr_1"), ("x", "labels")])
@pytest.mark.parametrize("labels", [np.arange(20) % 4, np.array(["b", "a"] * 10), None])
def test_npz(x: np.ndarray, dims: tuple[int, ...], keys: tuple[str, str], labels: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", **({keys[0]: x} | ({} if labels is None else {keys[1]: labels})))
    splits = load_dataset(str(tmp_path / "set.npz"))
    assert (len(splits.train), len(splits.held_out)) == (18, 2) and splits.train.dims == dims
    source = x.astype(np.float32) if x.ndim == 2 else x.reshape(20, 6, 5, -1).transpose(0, 3, 1, 2)
    place = {row.tobytes(): i for i, row in enumerate(source)}
    for part in (splits.train, splits.held_out):
        for i, row in enumerate(part.x):
            want = place[row.numpy().tobytes()]
            assert part.labels is None if labels is None else part.label_names[part.labels[i]] == str(labels[want])
    assert torch.equal(load_dataset(str(tmp_path / "set.npz")).train.x, splits.train.x)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros(3)}, "no array `arr_0` or `x`; it has: images"),
        ({"x": np.zeros((0, 2))}, "is empty"),
        ({"x": np.zeros((3, 8, 8, 3))}, r"expected images uint8 .* got float64 \(3, 8, 8, 3\)"),
        ({"x": np.zeros((3, 3, 8, 8), np.uint8)}, r"channels last.* got uint8 \(3, 3, 8, 8\)"),
        ({"x": np.full((3, 2), np.nan)}, "must be finite"),
        ({"x": np.array(1.0)}, r"got float64 \(\)"),
        ({"x": np.zeros((3, 2)), "labels": np.zeros(2, int)}, r"expected labels \(3,\).* got \(2,\)"),
        ({"x": np.zeros((3, 2)), "labels": np.zeros(3)}, "all strings or all integers"),
        ({"x": np.array([{}, {}], dtype=object)}, "cannot be read as an .npz file of plain arrays"),
    ],
)
def test_wrong_npz(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(str(tmp_path / "set.npz"))
    assert "set.npz" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 broken"])
def test_broken_npz(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"set.npz cannot be read as an .npz file"):
        load_dataset(str(tmp_path / "set.npz"))


def test_damaged_member_and_bare_array(tmp_path: Path) -> None:
    file = tmp_path / "set.npz"
    np.savez(file, x=random_bytes(0, 20, 8, 8))
    content = bytearray(file.read_bytes())
    content[500] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        load_dataset(str(file))
    with open(file, "wb") as out:
        np.save(out, np.zeros((3, 2)))
    with pytest.raises(DataError, match="cannot be read"):
        load_dataset(str(file))


# ---------------------------------------------------------------- downloads


CONTENT = random_bytes(0, 700_000).tobytes()
CHECKSUM = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """A loopback server: what each path answers, and what was asked."""

    root: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    cut_at: int | None = None  # close the connection after so many bytes
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        self.asked.append((handler.path, wanted))
        if handler.path not in self.files:
            return handler.send_error(404)
        body = self.files[handler.path]
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.ranges else 0
        if start >= len(body):
            return handler.send_error(416)
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(body) - start))
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        handler.end_headers()
        handler.wfile.write(body[start : self.cut_at])


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.answer(self)

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        state.root = f"http://127.0.0.1:{http.server_port}"
        yield state
        http.shutdown()


def test_download(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.files["/a.bin"] = CONTENT
    target = tmp_path / "new" / "a.bin"
    assert fetch(target, [f"{server.root}/a.bin"], CHECKSUM) == target and target.read_bytes() == CONTENT
    assert {path.name for path in target.parent.iterdir()} == {"a.bin", ".lock"}
    assert "a.bin" in capsys.readouterr().err, "a progress bar"
    fetch(target, [f"{server.root}/a.bin"], CHECKSUM)
    assert server.asked == [("/a.bin", None)], "what is there is not asked for again"


DEAD = 2**22 + 1  # a process that no Linux can have


def left_by_the_dead(target: Path, number: int = 0) -> Path:
    """Where a writer that is gone has left its piece of a file."""
    folder = target.with_name(f".{target.name}.{DEAD}-{number:08x}@{HOST}.part")
    folder.mkdir()
    return folder / target.name


@pytest.mark.parametrize("ranges", [True, False])
def test_download_resumes(ranges: bool, server: Server, tmp_path: Path) -> None:
    server.files["/a.bin"], server.ranges = CONTENT, ranges
    left_by_the_dead(tmp_path / "a.bin").write_bytes(CONTENT[:300_000])
    fetch(tmp_path / "a.bin", [f"{server.root}/a.bin"], CHECKSUM)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT and server.asked == [("/a.bin", "bytes=300000-")]


@pytest.mark.parametrize("stale", [b"x" * 300_000, b"x" * 900_000])
def test_wrong_piece_is_thrown_away(stale: bytes, server: Server, tmp_path: Path) -> None:
    server.files["/a.bin"] = CONTENT
    left_by_the_dead(tmp_path / "a.bin").write_bytes(stale)
    fetch(tmp_path / "a.bin", [f"{server.root}/a.bin"], CHECKSUM)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT and server.asked[-1] == ("/a.bin", None)


def test_complete_piece_needs_no_server(tmp_path: Path) -> None:
    for size in (900, 700_000, 40):
        left_by_the_dead(tmp_path / "a.bin", size).write_bytes(CONTENT[:size])
    fetch(tmp_path / "a.bin", ["http://127.0.0.1:9/a.bin"], CHECKSUM)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert {path.name for path in tmp_path.iterdir()} == {"a.bin", ".lock"}, "of three pieces the largest was taken"


def test_a_planted_link_leads_no_download_elsewhere(server: Server, tmp_path: Path) -> None:
    """The names of unfinished downloads could be foreseen, and what lay there was written to."""
    server.files["/a.bin"] = CONTENT
    mine, other = tmp_path / "mine", tmp_path / "other"
    other.mkdir()
    for name in ("soft", "hard", "a.bin", "lock"):
        (other / name).write_bytes(CONTENT[:100])
    mine.mkdir()
    left_by_the_dead(mine / "a.bin", 1).symlink_to(other / "soft")
    left_by_the_dead(mine / "a.bin", 2).hardlink_to(other / "hard")
    (mine / f".a.bin.{DEAD}-00000003@{HOST}.part").symlink_to(other)
    (mine / ".lock").symlink_to(other / "lock")
    (mine / "a.bin.part").symlink_to(other / "soft")
    fetch(mine / "a.bin", [f"{server.root}/a.bin"], CHECKSUM)
    assert (mine / "a.bin").read_bytes() == CONTENT and not (mine / "a.bin").is_symlink()
    assert {path.name: path.read_bytes() for path in other.iterdir()} == dict.fromkeys(
        ("soft", "hard", "a.bin", "lock"), CONTENT[:100]
    )


def test_wrong_checksum_falls_to_the_next_mirror(server: Server, tmp_path: Path) -> None:
    server.files = {"/bad/a.bin": CONTENT[:-1] + b"?", "/good/a.bin": CONTENT}
    urls = [f"{server.root}/{mirror}/a.bin" for mirror in ("none", "bad", "good")]
    fetch(tmp_path / "a.bin", urls, "md5:" + hashlib.md5(CONTENT).hexdigest())
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.asked == [("/none/a.bin", None), ("/bad/a.bin", None), ("/good/a.bin", None)]


def test_broken_connection_is_continued(server: Server, tmp_path: Path) -> None:
    server.files["/a.bin"], server.cut_at = CONTENT, 400_000
    url = f"{server.root}/a.bin"
    with pytest.raises(DataError, match="closed after 400000 of 700000 bytes"):
        fetch(tmp_path / "a.bin", [url], CHECKSUM)
    (left,) = tmp_path.glob(".a.bin.*.part/a.bin")
    assert not (tmp_path / "a.bin").exists() and left.stat().st_size == 400_000
    server.cut_at = None
    fetch(tmp_path / "a.bin", [url], CHECKSUM)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT and server.asked[-1] == ("/a.bin", "bytes=400000-")


def test_all_mirrors_fail(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = MNIST_FILES[0]
    server.files[f"/bad/{name}"] = b"<html>"
    mirrors = (f"{server.root}/none/", f"{server.root}/bad/", "http://127.0.0.1:9/")
    monkeypatch.setattr(pictures, "MNIST_MIRRORS", mirrors)
    with pytest.raises(DataError) as caught:
        load_dataset("mnist", data_dir=tmp_path)
    message = str(caught.value)
    for part in (
        f"cannot download {name}",
        *mirrors,
        "HTTP 404",
        "wrong checksum",
        "refused",
        "`data_dir`",
        "EBBFLOW_DATA",
    ):
        assert part in message
    assert f"Put the file at {tmp_path / 'mnist' / name}" in message


def test_download_of_a_whole_data_set(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {name: gzip.compress(idx_bytes(random_bytes(0, *shape)), 0) for name, shape in (
        (MNIST_FILES[0], (4, 28, 28)), (MNIST_FILES[2], (2, 28, 28)),
    )}  # fmt: skip
    content |= {MNIST_FILES[i]: gzip.compress(idx_bytes(np.zeros(n, np.uint8))) for i, n in ((1, 4), (3, 2))}
    server.files = {f"/{name}": body for name, body in content.items()}
    monkeypatch.setattr(pictures, "MNIST_MIRRORS", (f"{server.root}/",))
    checksums = {name: "md5:" + hashlib.md5(content[name]).hexdigest() for name in MNIST_FILES}
    monkeypatch.setattr(pictures, "MNIST_FILES", checksums)
    plain = [hashlib.md5(gzip.decompress(content[name])).hexdigest() for name in MNIST_FILES]
    monkeypatch.setattr(pictures, "MNIST_CONTENT", plain)
    splits = load_dataset("mnist", data_dir=tmp_path)
    assert (len(splits.train), len(splits.held_out)) == (4, 2) and len(server.asked) == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_dataset("mnist", data_dir=tmp_path)
    assert len(server.asked) == 4


def test_files_of_others_under_these_names_are_used_and_said(stand_ins: Path, tmp_path: Path) -> None:
    """Once, with every file by name; sets made to take MNIST's place come under its names, so it is no error."""
    with pytest.warns(UserWarning, match="not what is published under this name") as said:
        load_dataset("fashion_mnist", data_dir=stand_ins)
    assert len(said) == 1
    names = [name.removesuffix(".gz") if name.startswith("t10k") else name for name in MNIST_FILES]
    assert all(f"{stand_ins / 'fashion_mnist' / name}" in str(said[0].message) for name in names)
    with pytest.warns(UserWarning, match="cifar-10-binary.tar.gz"):
        load_dataset("cifar10", data_dir=stand_ins)
    if (real := real_mnist()) is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            load_dataset("mnist", data_dir=real)


def test_processes_wait_for_one_download(server: Server, tmp_path: Path) -> None:
    server.files["/a.bin"] = CONTENT
    urls = [f"{server.root}/a.bin"]
    threads = [threading.Thread(target=fetch, args=(tmp_path / "a.bin", urls, CHECKSUM)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a.bin").read_bytes() == CONTENT and len(server.asked) == 1


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "mnist").write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"cannot write .*mnist.* `data_dir`"):
        load_dataset("mnist", data_dir=tmp_path)


def test_the_small_mnist_has_as_many_of_each_digit_and_no_picture_twice() -> None:
    splits = load_dataset("mnist_small")
    for part, each in ((splits.train, 1000), (splits.held_out, 200)):
        assert part.dims == (1, 28, 28) and torch.bincount(part.labels).tolist() == [each] * 10
    every = {bytes(x.numpy().tobytes()) for part in (splits.train, splits.held_out) for x in part.x}
    assert len(every) == 12_000
    digest = hashlib.sha256(splits.train.x.numpy().tobytes() + splits.held_out.x.numpy().tobytes()).hexdigest()
    assert digest.startswith("62f90ce1"), "the pictures have changed: results are no longer comparable"


def test_its_script_takes_evenly_spaced_pictures_of_each_digit(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("make", Path(__file__).parents[1] / "docs" / "make_mnist_small.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    labels = (np.arange(10_000) % 10).astype(np.uint8)
    images = np.arange(10_000, dtype=np.uint16)[:, None, None].view(np.uint8).reshape(-1, 1, 2)
    (tmp_path / "mnist").mkdir()
    for name in script.MNIST_FILES:
        script.write_idx(images if "images" in name else labels, tmp_path / "mnist" / name)
    script.make(tmp_path / "mnist", tmp_path / "small")
    x, y = (
        pictures.read_idx(tmp_path / "small" / f"t10k-{kind}-ubyte.gz", n)
        for kind, n in (("images-idx3", 3), ("labels-idx1", 1))
    )
    assert np.bincount(y).tolist() == [200] * 10
    assert x.reshape(-1, 2).copy().view(np.uint16)[:, 0].tolist() == sorted(
        10 * 5 * k + digit for k in range(200) for digit in range(10)
    )


@pytest.mark.parametrize(
    ("start", "leads", "followed"),
    [
        ("https://a/f.gz", "https://b/f.gz", True),
        ("http://a/f.gz", "https://b/f.gz", True),
        ("https://a/f.gz", "http://b/f.gz", False),
        ("http://a/f.gz", "ftp://b/f.gz", False),
        ("http://a/f.gz", "file:///etc/passwd", False),
    ],
)
def test_a_download_is_led_nowhere_but_over_the_web(start: str, leads: str, followed: bool) -> None:
    """A redirect to ftp was followed; one from an encrypted connection to a plain one too."""
    asked = urllib.request.Request(start)
    if followed:
        assert _Web().redirect_request(asked, None, 302, "", {}, leads).full_url == leads
    else:
        with pytest.raises(ValueError, match="which is not followed"):
            _Web().redirect_request(asked, None, 302, "", {}, leads)
