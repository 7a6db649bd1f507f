"""Data that no memory holds: an order without a permutation, tar shards, folders that are read on demand."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ebbflow.cli.app import run_app
from ebbflow.data import load_dataset
from ebbflow.data.augment import mirrored
from ebbflow.data.shards import index_of, pack, read_index
from ebbflow.errors import ConfigError, DataError
from ebbflow.files import load_tensors
from ebbflow.progress import finish
from ebbflow.runs.ahead import Ahead, ahead
from ebbflow.runs.build import DatasetLoader
from ebbflow.runs.folder import checkpoints, metrics
from ebbflow.training.batches import shuffled

CLASSES = ("cat", "dog", "owl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 pictures of 8 x 8 in three classes."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name in CLASSES:
        (root / name).mkdir()
        for i in range(10):
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def shards(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in several shards: a megabyte is the least, so that they are cut by hand."""
    out = tmp_path_factory.mktemp("shards")
    for name in CLASSES:
        with tarfile.open(out / f"{name}.tar", "w") as tar:
            for i in range(10):
                for suffix, content in (
                    ("png", (folder / name / f"{i}.png").read_bytes()),
                    ("json", json.dumps({"label": name, "text": f"{name} {i}"}).encode()),
                ):
                    member = tarfile.TarInfo(f"{name}/{i}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return out


# -- the order ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [*range(1, 70), 255, 256, 257, 1000, 4097])
def test_an_epoch_has_every_entry_once(size: int) -> None:
    order = shuffled(torch.arange(size), size, 3, "epoch", 1)
    assert order.sort().values.equal(torch.arange(size))


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_else() -> None:
    whole = shuffled(torch.arange(1000), 1000, 0, "epoch", 0)
    assert torch.cat([shuffled(part, 1000, 0, "epoch", 0) for part in torch.arange(1000).split(7)]).equal(whole)
    for seed, epoch in ((1, 0), (0, 1)):
        assert (shuffled(torch.arange(1000), 1000, seed, "epoch", epoch) == whole).sum() < 10


def test_every_entry_comes_equally_often_at_every_place() -> None:
    """Chi squared over 20 entries at 20 places in 1000 epochs: mean 361, deviation 27."""
    orders = torch.stack([shuffled(torch.arange(20), 20, 0, "epoch", epoch) for epoch in range(1000)])
    counts = torch.stack([(orders == entry).sum(0) for entry in range(20)]).double()
    assert float(((counts - 50).square() / 50).sum()) < 361 + 5 * 27
    after = torch.zeros(20, 20).double()  # and which entry follows which
    after.index_put_((orders[:, :-1].flatten(), orders[:, 1:].flatten()), torch.ones(()).double(), accumulate=True)
    off = ~torch.eye(20, dtype=torch.bool)
    assert float(((after[off] - 50).square() / 50).sum()) < 361 + 5 * 27


def test_the_order_of_a_billion_entries_takes_no_memory_and_no_time() -> None:
    found = shuffled(torch.arange(64) + 999_999_000, 10**9, 0, "epoch", 0)
    assert len(found.unique()) == 64
    assert bool((found < 10**9).all())


# -- reading -----------------------------------------------------------------------------------------------------------


def test_pictures_on_demand_are_those_in_memory(folder: Path) -> None:
    whole, few = (load_dataset(folder, on_demand=on_demand) for on_demand in (False, True))
    for part in ("train", "held_out"):
        one, other = getattr(whole, part), getattr(few, part)
        assert (other.dims, other.label_names, len(other)) == (one.dims, one.label_names, len(one))
        rows = torch.arange(len(one)).flip(0)
        assert other.x0(rows).equal(one.x0(rows))
        assert other.select(rows[:3]).x0(torch.tensor([0, 2])).equal(one.x0(rows[[0, 2]]))
        assert torch.cat(list(other.x.split(4))).equal(one.x)
        assert other.labels.equal(one.labels)


def test_shards_of_others_hold_pictures_labels_and_captions(folder: Path, shards: Path) -> None:
    found = load_dataset(str(shards / "*.tar"))
    whole = load_dataset(folder)
    assert found.train.label_names == CLASSES
    assert found.train.x0(torch.arange(len(found.train))).equal(whole.train.x0(torch.arange(len(whole.train))))
    assert found.train.captions is not None
    assert all(
        CLASSES[label] == text.split()[0] for label, text in zip(found.train.labels, found.train.captions, strict=True)
    )
    index = read_index(shards / "cat.tar")
    assert (len(index.samples), index.bytes) == (10, (shards / "cat.tar").stat().st_size)


def test_what_is_packed_is_what_was_there(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["pack", str(folder), str(tmp_path / "out"), "--shard-mb", "1", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["num"], len(said["shards"]), said["left_out"]) == (30, 1, {})
    whole, packed = load_dataset(folder), load_dataset(str(tmp_path / "out" / "*.tar"))
    for part in ("train", "held_out"):
        one, other = getattr(whole, part), getattr(packed, part)
        assert other.x0(torch.arange(len(other))).equal(one.x0(torch.arange(len(one))))
        assert (other.label_names, other.labels.tolist()) == (one.label_names, one.labels.tolist())
    assert run_app(["pack", str(folder), str(tmp_path / "out")]) == 2
    assert "holds shards already" in capsys.readouterr().err


def test_webdataset_reads_what_is_packed(folder: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    finish(pack(folder, tmp_path / "out"))
    found = list(webdataset.WebDataset(str(tmp_path / "out" / "shard-000000.tar"), shardshuffle=False))
    assert len(found) == 30
    assert {"png", "cls"} <= found[0].keys()


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_mirror_images_on_demand_are_those_in_memory(folder: Path) -> None:
    whole, few = (mirrored(load_dataset(folder, on_demand=on_demand).train) for on_demand in (False, True))
    rows = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
    assert len(few) == len(whole) == 2 * len(load_dataset(folder).train)
    assert few.x0(rows).equal(whole.x0(rows)) and few.labels is not None and few.labels.equal(whole.labels)
    assert few.x.digest != load_dataset(folder, on_demand=True).train.x.digest  # type: ignore[attr-defined]


def copied(shards: Path, to: Path) -> Path:
    to.mkdir()
    for shard in shards.glob("*.tar"):
        (to / shard.name).write_bytes(shard.read_bytes())
        read_index(to / shard.name)
    return to


def test_a_shard_that_is_missing_or_not_whole_is_named(shards: Path, tmp_path: Path) -> None:
    here = copied(shards, tmp_path / "here")
    whole = (here / "dog.tar").read_bytes()
    (here / "dog.tar").write_bytes(whole[:3000])
    with pytest.raises(DataError, match=r"dog\.tar has 3,000 bytes, and its index says .* not whole"):
        load_dataset(str(here / "*.tar"))
    (here / "dog.tar").unlink()
    with pytest.raises(DataError, match=r"dog\.tar is missing, and its index is there"):
        load_dataset(str(here / "*.tar"))
    index_of(here / "dog.tar").unlink()
    assert load_dataset(str(here / "*.tar")).train.label_names == ("cat", "owl")
    (here / "dog.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(DataError, match=r"dog\.tar cannot be read as a tar file"):
        load_dataset(str(here / "*.tar"))
    index_of(here / "cat.tar").write_text('{"format": 1}')
    with pytest.raises(DataError, match=r"cat\.index\.json is no index of a shard"):
        load_dataset(str(here / "cat.tar"))
    with pytest.raises(DataError, match=r"there is no shard .*ebbflow pack"):
        load_dataset(str(here / "none-*.tar"))


def damaged(shards: Path, to: Path) -> Path:
    """Shards with a member in whose midst there are other bytes."""
    here = copied(shards, to)
    name, offset, size, *_ = read_index(here / "owl.tar").samples[4]
    content = bytearray((here / "owl.tar").read_bytes())
    content[offset : offset + size] = b"x" * size
    (here / "owl.tar").write_bytes(content)
    assert name == "owl/4.png"
    return here


def test_a_corrupt_member_is_named_or_left_out_and_counted(shards: Path, tmp_path: Path) -> None:
    here = damaged(shards, tmp_path / "here")
    found = load_dataset(str(here / "*.tar"))
    with pytest.raises(DataError, match=r"owl\.tar/owl/4\.png cannot be read as an image"):
        _ = [part.x[:] for part in (found.train, found.held_out)]
    with pytest.warns(UserWarning, match=r"skipped 1 of 30 images: owl/4\.png"):
        rest = load_dataset(str(here / "*.tar"), skip_bad=True)
    assert len(rest.train) + len(rest.held_out) == 29
    assert sum(len(part.x[:]) for part in (rest.train, rest.held_out)) == 29


def test_a_corrupt_picture_is_not_packed(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(3):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{i}.png").write_bytes((folder / "cat" / f"{i}.png").read_bytes())
    (tmp_path / "in" / "1.png").write_bytes(b"nothing")
    assert run_app(["pack", str(tmp_path / "in"), str(tmp_path / "out")]) == 2
    assert "1.png cannot be read as an image" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.tar"))
    assert run_app(["pack", str(tmp_path / "in"), str(tmp_path / "out"), "--skip-bad"]) == 0
    said = capsys.readouterr().out
    assert "left out: 1.png" in said
    assert "2 images, 1 left out in 1 shards" in said


def test_pictures_of_two_sizes_are_named_when_they_are_met(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes((folder / "cat" / "0.png").read_bytes())
    Image.new("RGB", (9, 9)).save(tmp_path / "1.png")
    found = load_dataset(tmp_path, on_demand=True, held_out=0.0)
    with pytest.raises(DataError, match=r"1\.png has 9 x 9 pixels, the first one 8 x 8"):
        found.train.x0(torch.arange(2))
    assert load_dataset(tmp_path, on_demand=True, size=4, held_out=0.0).train.x0(torch.arange(2)).shape == (2, 3, 4, 4)


# -- training ----------------------------------------------------------------------------------------------------------


def loader_of(shards: Path) -> DatasetLoader:
    data = load_dataset(str(shards / "*.tar")).train
    return DatasetLoader(dataset=data, cond=data.labels, batch_size=8, seed=0)


def test_what_is_read_ahead_is_what_would_be_read(shards: Path) -> None:
    plain = loader_of(shards)
    early = ahead(plain, 2)
    assert isinstance(early, Ahead)
    for step in (0, 1, 2, 7, 8, 3):
        one, other = plain.batch(step), early.batch(step)
        assert other.x0.equal(one.x0)
        assert other.cond is not None
        assert other.cond.equal(one.cond)
    assert ahead(plain, 0) is plain


def test_what_goes_wrong_in_a_process_that_reads_is_said_in_a_sentence(shards: Path, tmp_path: Path) -> None:
    early = ahead(loader_of(damaged(shards, tmp_path / "here")), 1)
    with pytest.raises(DataError, match=r"owl/4\.png cannot be read as an image") as raised:
        list(map(early.batch, range(20)))
    assert "Traceback" not in str(raised.value)


def test_shared_memory_that_is_too_small_is_said_before_anything_waits(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=2, f_frsize=4096))
    with pytest.raises(ConfigError, match=r"has 8\.2 kB free, and 2 processes .* 37\.2 kB.* engine\.workers=0"):
        ahead(loader_of(shards), 2).batch(0)


TRAIN = ["train", "--batch-size", "8", "--set", "net.kind=mlp", "--set", "net.dim=16", "--set", "engine.precision=fp32"]
TRAIN += [
    "--set",
    "engine.workers=1",
    "--set",
    "train.schedule=constant",
    "--set",
    "train.log_every=1",
    "--set",
    "train.sample_every=0",
]


def test_a_run_on_shards_is_that_on_the_folder_and_goes_on_exactly(folder: Path, tmp_path: Path) -> None:
    finish(pack(folder, tmp_path / "shards"))
    own = {"folder": str(folder), "shards": str(tmp_path / "shards" / "*.tar")}
    for name, data in own.items():
        demand = ["--data", data, "--set", "data.on_demand=true", "--save-dir", str(tmp_path / "runs" / name)]
        assert run_app([*TRAIN, *demand, "--max-steps", "4"]) == 0
        assert run_app([*TRAIN, *demand, "--max-steps", "6"]) == 0
    alone = ["--data", own["shards"], "--set", "data.on_demand=true", "--save-dir", str(tmp_path / "runs" / "alone")]
    assert run_app([*TRAIN, *alone, "--max-steps", "6", "--set", "engine.workers=0"]) == 0
    runs = [tmp_path / "runs" / name for name in ("alone", "shards", "folder")]
    losses = [[row["loss"] for row in metrics(run) if "loss" in row] for run in runs]
    assert losses[0] == losses[1] == losses[2]
    weights = [load_tensors(checkpoints(run)[-1] / "ema.safetensors") for run in runs]
    assert all(value.equal(other[name]) for other in weights[1:] for name, value in weights[0].items())


# -- shards of anybody -------------------------------------------------------------------------------------------------


def test_pictures_whose_names_differ_by_their_ending_are_packed_apart(folder: Path, tmp_path: Path) -> None:
    """a.png and a.bmp were one sample, and one of them was lost without a word; so were a.b.png and a_b.png."""
    (tmp_path / "in").mkdir()
    for i, name in enumerate(("a.png", "a.bmp", "a.b.png", "a_b.png", "a_.png")):
        Image.open(folder / "cat" / f"{i}.png").save(tmp_path / "in" / name)
    assert finish(pack(tmp_path / "in", tmp_path / "out")).num == 5
    found = load_dataset(str(tmp_path / "out" / "*.tar"), held_out=0.0).train
    whole = load_dataset(tmp_path / "in", held_out=0.0).train
    assert {x.numpy().tobytes() for x in found.x[:]} == {x.numpy().tobytes() for x in whole.x}
    assert len(found) == 5


def member(name: str, content: bytes = b"", **facts: object) -> bytes:
    """A member of a tar file as it lies there, with other facts in its header."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in facts.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


HOSTILE_TARS: dict[str, tuple[list[bytes], str]] = {
    "a size below 0": ([member("a.png", size=-1024), member("b.png", b"x")], "cannot be read as a tar file"),
    "a size beyond the file": ([member("a.png", b"x", size=1 << 40)], "cannot be read as a tar file|is too large"),
    "a label of a thousand digits": ([member("a.png", b"x"), member("a.cls", b"9" * 5000)], "cannot be read as an image"),
    "a label that is a list": ([member("a.png", b"x"), member("a.json", b'{"label": [1]}')], "a label or a caption of a.png"),
    "a caption that is a number": ([member("a.png", b"x"), member("a.json", b'{"text": 1}')], "a label or a caption of a.png"),
    "metadata nested too deeply": ([member("a.png", b"x"), member("a.json", b"[" * 100_000)], "nested too deeply"),
    "a label below 0": ([member("a.png", b"x"), member("a.json", b'{"label": -1}')], "integer labels must be in"),
    "no members": ([], "there are no pictures"),
    "links": ([member("a.png", type=tarfile.SYMTYPE, linkname="/etc/passwd")], "there are no pictures"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_TARS)
def test_a_tar_file_of_anybody_is_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    members, says = HOSTILE_TARS[name]
    (tmp_path / "x.tar").write_bytes(b"".join(members) + bytes(1024))
    with pytest.raises(DataError, match=says):
        load_dataset(str(tmp_path / "x.tar"), held_out=0.0).train.x0(torch.arange(1))


SAMPLE: list[Any] = ["a.png", 512, 100, None, None]
INDICES: dict[str, dict[str, Any]] = {
    "no samples": {"samples": None},
    "samples of nothing": {"samples": [[]]},
    "a name that is a number": {"samples": [[1, *SAMPLE[1:]]]},
    "an offset below 0": {"samples": [["a.png", -1, 5, None, None]]},
    "an offset beyond the shard": {"samples": [["a.png", 2**70, 5, None, None]]},
    "a size of 2^40": {"samples": [["a.png", 0, 2**40, None, None]]},
    "a label that is a list": {"samples": [[*SAMPLE[:3], [1], None]]},
    "names that are numbers": {"label_names": [1, 2]},
    "bytes that are a text": {"bytes": "many"},
    "a key of nobody": {"more": 1},
    "a hash that is none": {"sha256": 5},
}


@pytest.mark.parametrize("name", INDICES)
def test_an_index_of_anybody_is_looked_at(name: str, shards: Path, tmp_path: Path) -> None:
    here = copied(shards, tmp_path / "here")
    index = index_of(here / "cat.tar")
    index.write_text(json.dumps({**json.loads(index.read_text()), **INDICES[name]}))
    with pytest.raises(DataError, match=r"cat\.index\.json is no index of a shard"):
        load_dataset(str(here / "cat.tar"))


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_a_shard_that_is_no_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "x.tar"
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "device":
        place.symlink_to("/dev/zero")
    else:
        place.mkdir()
    with pytest.raises(DataError, match=rf"is a {kind}, and a file is wanted"):
        load_dataset(str(place))
