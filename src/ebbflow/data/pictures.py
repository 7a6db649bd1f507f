"""The named image sets: digits and a part of MNIST (come with the package), MNIST, Fashion-MNIST and CIFAR-10
(downloaded once)."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ebbflow.data.dataset import Dataset, Splits
from ebbflow.data.download import data_home, is_published, locate, tell_of_others
from ebbflow.data.idx import LARGEST, idx_hash, read_idx, unpacked
from ebbflow.data.split import divide, drawn
from ebbflow.errors import DataError

DIGIT_NAMES = tuple("0123456789")
FASHION_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

MNIST_MIRRORS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "http://yann.lecun.com/exdb/mnist/",
)
MNIST_FILES = {
    "train-images-idx3-ubyte.gz": "sha256:440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "sha256:3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "sha256:8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "sha256:f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
MNIST_CONTENT = (  # md5 of each, unpacked
    "6bbc9ace898e44ae57da46a324031adb",
    "a25bea736e30d166cdddb491f175f624",
    "2646ac647ad5339dbf082846283269ea",
    "27ae3e4e09519cfbb04c329615203637",
)
SMALL_MNIST = Path(__file__).parent / "files" / "mnist_small"
FASHION_MIRRORS = (
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)
FASHION_FILES = {
    "train-images-idx3-ubyte.gz": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "md5:25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "md5:bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "md5:bb300cfdad3c16e7a12a480ee83cd310",
}
FASHION_CONTENT = (
    "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "9018921c3c673c538a1fc5bad174d6f9",
    "8181f5470baa50b63fa0f6fddb340f0a",
    "15d484375f8d13e6eb1aabb0c3f46965",
)
CIFAR10_MIRRORS = (
    "https://www.cs.toronto.edu/~kriz/",
    "https://cave.cs.toronto.edu/kriz/",
    "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/",
)
CIFAR10_ARCHIVE = "cifar-10-binary.tar.gz"
CIFAR10_CHECKSUM = "md5:c32a1d4ab5d03f1284b67883e8d87530"
CIFAR10_FOLDER = "cifar-10-batches-bin"
CIFAR10_BATCHES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
CIFAR10_RECORD = 1 + 3 * 32 * 32  # label, then the red, green and blue planes

Labelled = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # images (N, C, H, W) and labels (N,)


def digits(data_dir: str | Path | None = None) -> Splits:
    """1,797 real handwritten digits, uint8 (N, 1, 8, 8): 1,500 to train on and 297 held out; comes with the package.

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository,
    1998, https://doi.org/10.24432/C50P49 (CC BY 4.0), in the form that scikit-learn ships.
    """
    text = gzip.decompress((Path(__file__).parent / "files" / "digits.csv.gz").read_bytes()).decode()
    rows = np.array(text.replace("\n", ",").rstrip(",").split(","), dtype=np.uint8).reshape(-1, 65)
    grey = np.rint(rows[:, :64] * (255 / 16)).astype(np.uint8)
    data = _dataset("digits", (grey.reshape(-1, 1, 8, 8), rows[:, 64]), DIGIT_NAMES)
    return divide(data, drawn(len(data), 297))


def mnist(data_dir: str | Path | None = None) -> Splits:
    """Handwritten digits, uint8 (N, 1, 28, 28): 60,000 to train on and the official 10,000 test images held out.

    Source: Y. LeCun, C. Cortes and C. J. C. Burges, "The MNIST database of handwritten digits", 1998,
    http://yann.lecun.com/exdb/mnist/; from data_dir/mnist, else downloaded there (12 MB).
    """
    paths = _located(data_home(data_dir) / "mnist", MNIST_MIRRORS, MNIST_FILES)
    return _published(_splits("mnist", paths, DIGIT_NAMES), paths, MNIST_CONTENT)


def mnist_small(data_dir: str | Path | None = None) -> Splits:
    """A sixth of MNIST, uint8 (N, 1, 28, 28): 10,000 to train on and 2,000 of the test images held out, as many of each
    digit; comes with the package.

    Source: as `mnist`, every sixth or so picture of each digit; CC BY-SA 3.0, see data/files/mnist_small/LICENSE.md.
    """
    paths = [SMALL_MNIST / name for name in MNIST_FILES]
    return _splits("mnist_small", paths, DIGIT_NAMES)


def fashion_mnist(data_dir: str | Path | None = None) -> Splits:
    """Pictures of clothes, uint8 (N, 1, 28, 28): 60,000 to train on and the official 10,000 test images held out.

    Source: H. Xiao, K. Rasul and R. Vollgraf, "Fashion-MNIST", 2017, arXiv 1708.07747,
    https://github.com/zalandoresearch/fashion-mnist (MIT); from data_dir/fashion_mnist, else downloaded there (31 MB).
    """
    paths = _located(data_home(data_dir) / "fashion_mnist", FASHION_MIRRORS, FASHION_FILES)
    return _published(_splits("fashion_mnist", paths, FASHION_NAMES), paths, FASHION_CONTENT)


def cifar10(data_dir: str | Path | None = None) -> Splits:
    """Colour photographs, uint8 (N, 3, 32, 32): 50,000 to train on and the official 10,000 test images held out.

    Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009,
    https://www.cs.toronto.edu/~kriz/cifar.html; from data_dir/cifar10 (the archive of the binary version or its
    unpacked folder), else downloaded there (170 MB).
    """
    batches = _cifar10_batches(data_home(data_dir) / "cifar10")
    *train, held_out = (_cifar10_records(place, content) for place, content in batches.items())
    images, labels = zip(*train, strict=True)
    return Splits(
        train=_dataset("cifar10", (np.concatenate(images), np.concatenate(labels)), CIFAR10_NAMES),
        held_out=_dataset("cifar10", held_out, CIFAR10_NAMES),
    )


def _dataset(name: str, data: Labelled, label_names: tuple[str, ...]) -> Dataset:
    images, labels = data
    return Dataset(
        name=name,
        x=torch.from_numpy(images),
        labels=torch.from_numpy(labels.astype(np.int64)),
        label_names=label_names,
    )


def _located(folder: Path, mirrors: Sequence[str], files: Mapping[str, str]) -> list[Path]:
    """The four files of MNIST and its kin, in the order of MNIST_FILES."""
    return [locate(folder, file, mirrors, checksum) for file, checksum in files.items()]


def _published(splits: Splits, paths: Sequence[Path], content: Sequence[str]) -> Splits:
    """`splits`, with a word where they are not what is published under that name."""
    parts = [part for half in (splits.train, splits.held_out) for part in (half.x[:, 0], half.labels)]
    arrays = [part.numpy().astype(np.uint8) for part in parts if part is not None]
    tell_of_others([path for path, a, known in zip(paths, arrays, content, strict=True) if idx_hash(a) != known])
    return splits


def _splits(name: str, paths: Sequence[Path], label_names: tuple[str, ...]) -> Splits:
    return Splits(
        train=_dataset(name, _idx_pair(paths[0], paths[1]), label_names),
        held_out=_dataset(name, _idx_pair(paths[2], paths[3]), label_names),
    )


def _idx_pair(image_file: Path, label_file: Path) -> Labelled:
    images, labels = read_idx(image_file, ndim=3), read_idx(label_file, ndim=1)
    if len(images) != len(labels):
        raise DataError(f"{image_file} has {len(images)} images, but {label_file} has {len(labels)} labels.")
    return images[:, None], labels


def _cifar10_batches(folder: Path) -> dict[Path, bytes]:
    """The six files of the binary version in the order of CIFAR10_BATCHES, from a folder or from the archive."""
    for place in (folder / CIFAR10_FOLDER, folder):
        if all((place / name).is_file() for name in CIFAR10_BATCHES):
            return {place / name: unpacked(place / name) for name in CIFAR10_BATCHES}
    archive = locate(folder, CIFAR10_ARCHIVE, CIFAR10_MIRRORS, CIFAR10_CHECKSUM)
    members = _members(archive)
    tell_of_others([] if is_published(archive, CIFAR10_CHECKSUM) else [archive])
    return {archive / name: members[name] for name in CIFAR10_BATCHES}


def _members(archive: Path) -> dict[str, bytes]:
    """The six files in the archive by name, read in one pass and never unpacked to disk."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r|*") as members:
            for member in members:
                name, file = Path(member.name).name, members.extractfile(member)
                if name in CIFAR10_BATCHES and file is not None:
                    found[name] = file.read(LARGEST)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{archive} is damaged: {error}. Delete it and it is downloaded again.") from error
    missing = [name for name in CIFAR10_BATCHES if name not in found]
    if missing:
        raise DataError(f"{archive} lacks {', '.join(missing)}. Delete it and it is downloaded again.")
    return found


def _cifar10_records(place: Path, content: bytes) -> Labelled:
    if not content or len(content) % CIFAR10_RECORD:
        raise DataError(
            f"{place} is damaged: expected a multiple of {CIFAR10_RECORD} bytes, got {len(content)}. "
            "Delete it and it is downloaded again."
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, CIFAR10_RECORD)
    return records[:, 1:].copy().reshape(-1, 3, 32, 32), records[:, 0]
