"""Feature maps: from samples to the vectors that metrics compare; trained or fitted on demand, and cached."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ebbflow.canvas import whole_file
from ebbflow.data import Dataset, Splits
from ebbflow.errors import ConfigError
from ebbflow.evaluation.classifier import (
    ClassifierNet,
    ClassifierSettings,
    new_net,
    train_classifier,
    trained_facts,
)
from ebbflow.training.engine import pick_precision

PCA_FEATURES = 64


class FeatureMap(Protocol):
    """A map from x0 float32 (B, *dims) to features float32 (B, dim) on the CPU, with a name that tells its weights."""

    name: str
    dim: int
    facts: dict[str, Any]

    def __call__(self, x: Tensor) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """The penultimate layer of a classifier of the data set.

    Args:
        net: trained.
        name: such as "classifier-mnist-1a2b3c4d", by the sha256 of the weights.
        dim: features.
        facts: settings, held-out accuracy and sha256, for the results.
        device: where `net` is.
    """

    net: ClassifierNet
    name: str
    dim: int
    facts: dict[str, Any]
    device: torch.device

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        return self.net(x.to(self.device)).float().cpu()

    @torch.no_grad()
    def classes(self, features: Tensor) -> Tensor:
        """The class of each row of features, int64 (B,)."""
        return self.net.head(features.to(self.device)).argmax(1).cpu()


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Principal components (or the coordinates themselves) of the flattened data, scaled to a mean variance of 1.

    Args:
        centre: float32 (D,).
        matrix: float32 (D, dim).
        name, dim, facts: as in `Classifier`.
    """

    centre: Tensor
    matrix: Tensor
    name: str
    dim: int
    facts: dict[str, Any]

    def __call__(self, x: Tensor) -> Tensor:
        return (x.flatten(1).cpu() - self.centre) @ self.matrix


def cache_folder() -> Path:
    """Where trained features and reference features are kept: EBBFLOW_CACHE/features, or ~/.cache/ebbflow/features."""
    root = os.environ.get("EBBFLOW_CACHE")
    return (Path(root).expanduser() if root else Path.home() / ".cache" / "ebbflow") / "features"


def data_hash(data: Dataset) -> str:
    """The sha256 of a data set's content: shape, entries, labels and names of the classes."""
    digest = hashlib.sha256(repr((data.dims, len(data), data.label_names)).encode())
    digest.update(data.x.contiguous().numpy().tobytes())
    if data.labels is not None:
        digest.update(data.labels.contiguous().numpy().tobytes())
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def key_of(*parts: Any) -> str:
    """Twelve hexadecimal digits that stand for JSON-able `parts`."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def classifier(
    splits: Splits, device: torch.device, settings: ClassifierSettings | None = None
) -> Generator[tuple[int, int], None, Classifier]:
    """The classifier of a data set from the cache, or trained now; yields (steps done, steps in all) while it trains.

    A cached file counts only where its sha256 is the one written down beside it.

    Raises:
        ConfigError: the training data has no labels, or a single class.
    """
    train = splits.train
    if train.labels is None or train.num_classes < 2:
        raise ConfigError(f"data set {train.name!r} has no labels to train a classifier on. Use --features pca.")
    if settings is None:
        dtype = str(pick_precision("auto", device)).removeprefix("torch.")
        settings = ClassifierSettings(dtype=dtype)
    key = key_of("classifier", data_hash(train), data_hash(splits.held_out), asdict(settings))
    path = cache_folder() / f"classifier-{_plain(train.name)}-{key}.safetensors"
    net = new_net(train, settings)
    facts = _cached(net, path)
    if facts is None:
        began = time.perf_counter()
        yield from train_classifier(net, train, settings, device)
        facts = trained_facts(net, splits, settings, device) | {"seconds": round(time.perf_counter() - began, 1)}
        facts = _keep(net, facts, path)
    net.to(device).eval().requires_grad_(False)
    name = f"classifier-{_plain(train.name)}-{facts['sha256'][:8]}"
    return Classifier(net=net, name=name, dim=settings.num_features, facts=facts, device=device)


def _cached(net: ClassifierNet, path: Path) -> dict[str, Any] | None:
    """Load `net` from the cache and return what was written beside it; None where that is absent or damaged."""
    from safetensors.torch import load_file

    try:
        facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if facts["sha256"] != file_hash(path):
            return None
        net.load_state_dict(load_file(path))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(facts)


def _keep(net: ClassifierNet, facts: dict[str, Any], path: Path) -> dict[str, Any]:
    from safetensors.torch import save_file

    with whole_file(path) as partial:
        save_file({name: value.cpu().contiguous() for name, value in net.state_dict().items()}, partial)
    facts = facts | {"sha256": file_hash(path), "file": str(path)}
    with whole_file(path.with_suffix(".json")) as partial:
        partial.write_text(json.dumps(facts, indent=2), encoding="utf-8")
    return facts


def pca(data: Dataset, num_features: int = PCA_FEATURES) -> Linear:
    """The first principal components of up to 10,000 entries of `data`, scaled to a mean variance of 1.

    Args:
        data: at least 2 entries.
        num_features: at most; fewer where the data has fewer dimensions.
    """
    rows = torch.arange(len(data))[:: -(-len(data) // 10_000)]
    flat = data.x0(rows).flatten(1).double()
    centre = flat.mean(0)
    spread, axes = torch.linalg.svd(flat - centre, full_matrices=False)[1:]
    dim = min(num_features, len(spread), flat.shape[1])
    signs = axes[:dim].gather(1, axes[:dim].abs().argmax(1, keepdim=True)).sign()
    variance = spread[:dim].square().mean() / (len(rows) - 1)
    matrix = ((axes[:dim] * signs).T / variance.sqrt()).float().contiguous()
    return _linear(f"pca{dim}", centre.float(), matrix)


def coordinates(data: Dataset) -> Linear:
    """The entries themselves, flattened."""
    dim = data.x[0].numel()
    return _linear("coordinates", torch.zeros(dim), torch.eye(dim))


def _linear(kind: str, centre: Tensor, matrix: Tensor) -> Linear:
    digest = hashlib.sha256(centre.numpy().tobytes() + matrix.numpy().tobytes()).hexdigest()
    name = f"{kind}-{digest[:8]}" if kind != "coordinates" else f"coordinates{matrix.shape[1]}"
    return Linear(centre=centre, matrix=matrix, name=name, dim=matrix.shape[1], facts={"sha256": digest})


def _plain(name: str) -> str:
    """A data set's name as part of a file name."""
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in Path(name).name) or "data"
