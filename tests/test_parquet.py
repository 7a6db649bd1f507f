"""Data sets of the Hugging Face hub: parquet in folders, in files and downloaded, read a row group at a time."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ebbflow import hub
from ebbflow.cli.app import run_app
from ebbflow.data import Columns, load_dataset, look
from ebbflow.data.shards import pack
from ebbflow.errors import ConfigError, DataError
from ebbflow.files import load_tensors
from ebbflow.progress import finish
from ebbflow.runs.folder import checkpoints, metrics

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
CLASSES = ("cat", "dog", "owl")
PIXELS = np.random.default_rng(0).integers(0, 255, (30, 8, 8, 3), dtype=np.uint8)


def png(pixels: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "png")
    return out.getvalue()


def written(path: Path, rows: range, *, group: int = 4, **changed: Any) -> Path:
    """Some of the pictures as the hub has them; `changed` replaces columns, None takes them away."""
    columns: dict[str, Any] = {
        "id": [f"no {i}" for i in rows],
        "image": [{"bytes": png(PIXELS[i]), "path": f"{i}.png"} for i in rows],
        "label": pa.array([i % 3 for i in rows], pa.int64()),
        "coarse": pa.array([i % 2 for i in rows], pa.int64()),
        "text": [f"picture {i}" for i in rows],
    }
    table = pa.table({name: column for name, column in (columns | changed).items() if column is not None})
    features = {"label": {"_type": "ClassLabel", "names": CLASSES}, "image": {"_type": "Image"}}
    told = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(told), path, row_group_size=group)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """24 pictures to train on in two files, 6 to test."""
    written(tmp_path / "set" / "data" / "train-00000-of-00002.parquet", range(11))
    written(tmp_path / "set" / "data" / "train-00001-of-00002.parquet", range(11, 24), group=5)
    written(tmp_path / "set" / "data" / "test-00000-of-00001.parquet", range(24, 30), group=100)
    return tmp_path / "set"


def as_images(rows: Any) -> torch.Tensor:
    return torch.from_numpy(PIXELS[np.asarray(rows)]).permute(0, 3, 1, 2)


def test_pictures_labels_captions_and_parts_are_those_that_were_written(root: Path) -> None:
    found = load_dataset(root)
    assert (len(found.train), len(found.held_out), found.train.label_names) == (24, 6, CLASSES)
    rows = torch.tensor([23, 0, 10, 11, 11, 4, 3, 22])
    assert torch.equal(found.train.x[rows], as_images(rows))
    assert torch.equal(found.held_out.x[:], as_images(range(24, 30)))
    assert found.train.labels is not None and found.train.labels.tolist() == [i % 3 for i in range(24)]
    assert found.held_out.captions == tuple(f"picture {i}" for i in range(24, 30))
    assert torch.equal(found.train.select(rows).x0(torch.tensor([0, 2])), as_images([23, 10]).float() / 127.5 - 1)


def test_a_share_is_held_out_of_the_part_to_train_on(root: Path) -> None:
    for source, num in (
        (str(root), 24),
        (str(root / "data" / "*.parquet"), 24),
        (str(root / "data" / "te*.parquet"), 6),
    ):
        found = load_dataset(source, held_out=0.3)
        assert len(found.train) + len(found.held_out) == num and 0 < len(found.held_out) < num
    kept = set(load_dataset(root, held_out=0.3).train.captions or ())
    written(root / "data" / "train-00002.parquet", range(24, 30))
    assert kept <= set(load_dataset(root, held_out=0.3).train.captions or ())  # more files move none of the others


def test_what_is_there_is_told_from_headers(root: Path) -> None:
    found = look(root)
    assert (found.num_train, found.num_held_out, found.side, found.channels, found.is_uniform) == (24, 6, 8, 3, True)
    assert found.label_names == CLASSES and found.num_captions == 30
    mixed = [{"bytes": png(PIXELS[0][:4])}, {"bytes": png(PIXELS[1])}]
    plain = written(root / "x.parquet", range(2), image=mixed)
    told = look(plain, held_out=0.0)
    assert (told.is_uniform, told.side) == (False, 6)
    with pytest.raises(DataError, match=r"x\.parquet/1 has 8 x 8 pixels, the first one 8 x 4"):
        load_dataset(plain, held_out=0.0).train.x0(torch.arange(2))


def test_columns_go_by_their_names_or_are_named(tmp_path: Path) -> None:
    renamed = {"image": None, "photo": [png(PIXELS[i]) for i in range(6)], "label": None, "fine_label": list("abcabc")}
    path = written(tmp_path / "a.parquet", range(6), **renamed)
    found = load_dataset(path, held_out=0.0).train
    assert found.label_names == ("a", "b", "c") and torch.equal(found.x[:], as_images(range(6)))
    named = load_dataset(path, held_out=0.0, columns=Columns(image="photo", label="coarse", text="none")).train
    assert (named.label_names, named.captions) == (("0", "1"), None)
    assert load_dataset(path, columns=Columns(label="none")).train.labels is None
    for columns, said in (
        (
            Columns(label="colour"),
            r"has no column 'colour' \(data\.columns\.label\)\. It has: id, coarse, text, photo, fine",
        ),
        (Columns(image="text"), "column 'text' holds string, which is no image"),
    ):
        with pytest.raises(DataError, match=said):
            load_dataset(path, columns=columns)
    with pytest.raises(DataError, match=r"data\.columns are of parquet"):
        load_dataset("digits", columns=Columns(text="caption"))


def test_damage_is_named_or_left_out_and_counted(root: Path) -> None:
    bad = [{"bytes": content} for content in (png(PIXELS[0]), b"nothing", None, png(PIXELS[1])[:60], png(PIXELS[2]))]
    path = written(root / "bad.parquet", range(5), image=bad)
    with pytest.raises(DataError, match=r"bad\.parquet/1 cannot be read as an image: it is none of PNG"):
        load_dataset(path, held_out=0.0).train.x0(torch.tensor([1]))
    with pytest.raises(DataError, match=r"bad\.parquet/2 cannot be read as an image: it is empty"):
        load_dataset(path, held_out=0.0).train.x0(torch.tensor([2]))
    with pytest.warns(UserWarning, match=r"skipped 3 of 5 images: bad\.parquet/1"):
        assert len(load_dataset(path, held_out=0.0, skip_bad=True).train) == 2
    whole = (root / "data" / "train-00001-of-00002.parquet").read_bytes()
    (root / "data" / "train-00001-of-00002.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"train-00001-of-00002\.parquet cannot be read as parquet"):
        load_dataset(root / "data")


def test_files_that_do_not_fit_are_refused(root: Path, tmp_path: Path) -> None:
    written(root / "data" / "train-00002.parquet", range(3), label=["a", "b", "c"])
    with pytest.raises(DataError, match=r"train-00002\.parquet: column 'label' is string, in .* int64"):
        load_dataset(root / "data")
    (root / "data" / "train-00000-of-00002.parquet").rename(tmp_path / "away")
    with pytest.raises(DataError, match=r"train-00000-of-00002\.parquet is missing, and .*train-00001-of-00002"):
        load_dataset(root / "data")
    written(root / "other" / "train.parquet", range(3))
    with pytest.raises(DataError, match=r"holds the data sets data, other\. Name one, such as .*/data"):
        load_dataset(root)
    with pytest.raises(DataError, match="row 1 has no label in column 'label'"):
        load_dataset(written(tmp_path / "gap.parquet", range(3), label=[0, None, 1]))
    with pytest.raises(DataError, match="which column holds pictures"):
        load_dataset(written(tmp_path / "none.parquet", range(3), image=None))
    with pytest.raises(DataError, match=r"labels must be in \[0, 3\), got -1"):
        load_dataset(written(tmp_path / "hidden.parquet", range(3), label=pa.array([-1] * 3, pa.int64())))
    with pytest.raises(DataError, match="there is no file"):
        load_dataset(tmp_path / "absent-*.parquet")


def test_what_changes_the_data_changes_its_hash(root: Path) -> None:
    digests = {load_dataset(root).train.x.digest for _ in range(2)}  # type: ignore[attr-defined]
    written(root / "data" / "train-00000-of-00002.parquet", range(1, 12))
    digests.add(load_dataset(root).train.x.digest)  # type: ignore[attr-defined]
    assert len(digests) == 2


def test_the_package_that_reads_it_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match=r"needs the package pyarrow: pip install -e '\.\[data\]'"):
        load_dataset(root)


def test_packed_parquet_is_the_part_to_train_on(root: Path, tmp_path: Path) -> None:
    done = finish(pack(str(root), tmp_path / "out"))
    assert (done.num, done.left_out) == (24, {})
    found = load_dataset(str(tmp_path / "out" / "*.tar"), held_out=0.0).train
    order = [int(text.split()[1]) for text in found.captions or ()]
    assert sorted(order) == list(range(24)) and torch.equal(found.x[:], as_images(order))
    assert found.label_names == CLASSES


# -- the hub -----------------------------------------------------------------------------------------------------------


class FakeHub:
    """A hub that holds one repository, kept as its own cache is: files under their hashes, links to them."""

    def __init__(self, root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.cache, self.asked, self.spoil = root, cache, [], False
        fake = SimpleNamespace(HfApi=lambda: self, snapshot_download=self.snapshot, errors=SimpleNamespace())
        monkeypatch.setattr(hub, "_library", lambda: fake)
        monkeypatch.setattr(hub, "must_be_local", lambda _: False)

    def list_repo_files(self, repo: str, *, repo_type: str, revision: str | None) -> list[str]:
        self.asked.append((repo, repo_type, revision))
        if repo != "somebody/set":
            raise OSError("404: no such repository")
        return [f.relative_to(self.root).as_posix() for f in sorted(self.root.rglob("*")) if f.is_file()]

    def snapshot(self, repo: str, *, allow_patterns: list[str], **more: Any) -> str:
        self.asked.append(tuple(allow_patterns))
        for name in allow_patterns:
            content = (self.root / name).read_bytes()
            blob = self.cache / "blobs" / hashlib.sha256(content).hexdigest()
            blob.parent.mkdir(exist_ok=True, parents=True)
            blob.write_bytes(content[:-1] if self.spoil else content)
            os.utime(blob, (time.time() + 5, time.time() + 5))
            link = self.cache / "abc123" / name
            link.parent.mkdir(exist_ok=True, parents=True)
            link.unlink(missing_ok=True)
            link.symlink_to(blob)
        return str(self.cache / "abc123")


def test_a_name_of_the_hub_is_downloaded_and_compared(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(root / "other" / "train.parquet", range(3))
    (root / "README.md").write_text("a card")
    fake = FakeHub(root, tmp_path / "cache", monkeypatch)
    with pytest.raises(
        DataError, match=r"holds the data sets data, other\. Name one, such as hf:somebody/set/data@v1\."
    ):
        load_dataset("hf:somebody/set@v1")
    found = load_dataset("hf:somebody/set/data@v1")
    assert (len(found.train), len(found.held_out), found.train.name) == (24, 6, "somebody/set@abc123")
    assert fake.asked[-2] == ("somebody/set", "dataset", "v1")
    assert all(name.startswith("data/") and name.endswith(".parquet") for name in fake.asked[-1])
    fake.spoil = True
    with pytest.raises(ConfigError, match=r"hf:somebody/set: other/train\.parquet arrived damaged, and was removed"):
        load_dataset("hf:somebody/set/other")
    with pytest.raises(ConfigError, match="hf:somebody/else: 404: no such repository"):
        load_dataset("hf:somebody/else")
    with pytest.raises(ConfigError, match="a repository of the hub is called USER/NAME"):
        load_dataset("hf:mnist")
    for file in root.rglob("*.parquet"):
        file.unlink()
    with pytest.raises(DataError, match=r"no parquet files.* hf:somebody/set@refs/convert/parquet"):
        load_dataset("hf:somebody/set")


# -- training ----------------------------------------------------------------------------------------------------------

TRAIN = ["train", "--batch-size", "8", "--set", "net.kind=mlp", "--set", "net.dim=16", "--set", "engine.precision=fp32"]
TRAIN += ["--set", "train.schedule=constant", "--set", "train.log_every=1", "--set", "train.sample_every=0"]


def test_a_run_on_parquet_goes_on_exactly(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = {name: tmp_path / "runs" / name for name in ("whole", "parts")}
    own = ["--data", str(root), "--set", "data.columns.label=coarse"]
    for length in ("4", "6"):
        assert run_app([*TRAIN, *own, "--max-steps", length, "--save-dir", str(runs["parts"])]) == 0
    alone = ["--set", "engine.workers=0", "--save-dir", str(runs["whole"])]
    assert run_app([*TRAIN, *own, "--max-steps", "6", *alone]) == 0
    assert "24 to train on, 6 held out), 2 labels" in capsys.readouterr().out
    losses = [[row["loss"] for row in metrics(run) if "loss" in row] for run in runs.values()]
    assert losses[0] == losses[1] and len(losses[0]) == 6
    weights = [load_tensors(checkpoints(run)[-1] / "ema.safetensors") for run in runs.values()]
    assert all(value.equal(weights[1][name]) for name, value in weights[0].items())


def test_settings_of_columns_are_checked(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["train", "--data", str(root), "--set", "data.columns.imag=a", "--dry-run"]) == 2
    assert "`data.columns` has a `imag`, which is unknown" in capsys.readouterr().err
