"""Feature maps: from samples to the vectors that metrics compare; trained, fitted or read on demand."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ebbflow.core.noise import derive_seed, fresh_weights
from ebbflow.data import Dataset, Splits
from ebbflow.errors import ConfigError, nearest
from ebbflow.metrics.cache import cache_folder, cached, data_hash, key_of, slug, store, tensor_hash
from ebbflow.metrics.classifier import LARGE, SEEN, ClassifierNet, LabelTask, accuracy, scale_features
from ebbflow.metrics.contrast import ContrastNet, ContrastSettings, ContrastTask, tokens
from ebbflow.metrics.feature_map import FeatureMap, NetFeatures
from ebbflow.metrics.inception import inception
from ebbflow.metrics.learning import LearnerSettings, LearnerTask, learn
from ebbflow.metrics.pretrained import pretrained
from ebbflow.progress import Stage, Work
from ebbflow.training.engine import pick_precision

PCA_FEATURES = 64
MANY_LABELS, MANY_A_CLASS, MANY_PICTURES = 1000, 20, 128  # pictures from which a classifier, or a net of views, is made
ROWS_A_FEATURE = 4
PCA_ROWS, PCA_VALUES = 10_000, 40_000_000  # entries that components are of, and numbers in them
BATCH = 500


class ClassifierFeatures(NetFeatures[ClassifierNet]):
    """The penultimate layer of a classifier of the data set, called such as "classifier-mnist-1a2b3c4d"; its facts
    are settings, held-out accuracy and error, seconds of training, sha256 and file."""

    @torch.no_grad()
    def classes(self, features: Tensor) -> Tensor:
        """The class of each row of features, int64 (B,)."""
        return self.net.head(features.to(self.device)).argmax(1).cpu()


class ContrastFeatures(NetFeatures[ContrastNet]):
    """The penultimate layer of a net that learned from pictures which views are of one, or which caption is whose,
    called such as "views-mine-1a2b3c4d"."""

    @torch.no_grad()
    def of_pictures(self, x: Tensor) -> Tensor:
        """Unit vectors (B, 64) on the CPU of x0, to be compared with those of texts."""
        return self.net.of_pictures(x.to(self.device)).cpu()

    @torch.no_grad()
    def of_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (N, 64) on the CPU of texts; each different one is read once."""
        known = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        parts = [self.net.of_texts(part.to(self.device)).cpu() for part in tokens(list(known)).split(BATCH)]
        return torch.cat(parts)[torch.tensor([known[text] for text in texts])]


@dataclass(frozen=True, kw_only=True)
class LinearFeatures(FeatureMap):
    """Flattened samples, centred and multiplied by a matrix.

    Args:
        centre: float32 (D,).
        matrix: float32 (D, dim), or None for the identity.
    """

    centre: Tensor
    matrix: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        centred = x.flatten(1).cpu() - self.centre
        return centred if self.matrix is None else centred @ self.matrix


def classifier(
    splits: Splits, device: torch.device, settings: LearnerSettings | None = None
) -> Work[ClassifierFeatures]:
    """The classifier of a data set, from the cache or trained now.

    It is trained on `splits.train` alone; `splits.held_out` only measures its error.

    Raises:
        ConfigError: the training data has no labels, or a single class.
    """
    train = splits.train
    if train.labels is None or train.num_classes < 2:
        raise ConfigError(f"data set {train.name!r} has no labels to train a classifier on. Use the features 'pca'.")
    settings = settings or LearnerSettings(dtype=_dtype(device))
    key = key_of("classifier", data_hash(train), data_hash(splits.held_out), asdict(settings))
    task = LabelTask(net=new_net(train, settings), data=train, settings=settings, known=train.labels)

    def held_out() -> dict[str, Any]:
        right = accuracy(task.net, splits.held_out, device)
        error = None if right is None else 1 - right
        return {"held_out_size": len(splits.held_out), "held_out_accuracy": right, "held_out_error": error}

    name, facts = yield from _learned(task, task.net, "classifier", key, "train classifier", device, held_out)
    return ClassifierFeatures(net=task.net, name=name, dim=settings.num_features, facts=facts, device=device)


def contrast(splits: Splits, device: torch.device, *, reads: bool) -> Work[ContrastFeatures]:
    """The net that learns without labels from the pictures of `splits.train`, and with `reads` from their captions,
    from the cache or trained now."""
    train, settings = splits.train, ContrastSettings(dtype=_dtype(device))
    kind, captions = ("captions", train.captions) if reads else ("views", None)
    assert captions is not None or not reads
    key = key_of(kind, data_hash(train), captions, asdict(settings))
    with fresh_weights(derive_seed(settings.seed, kind)):
        net = ContrastNet(train.dims, settings.num_features, reads=reads)
    task = ContrastTask(net=net, data=train, settings=settings, known=None if captions is None else tokens(captions))
    stage = "train scorer of captions" if reads else "train features"
    name, facts = yield from _learned(task, net.image, kind, key, stage, device)
    return ContrastFeatures(net=net, name=name, dim=settings.num_features, facts=facts, device=device)


def _dtype(device: torch.device) -> str:
    return str(pick_precision("auto", device)).removeprefix("torch.")


def _learned(
    task: LearnerTask,
    featured: ClassifierNet,
    kind: str,
    key: str,
    stage: str,
    device: torch.device,
    more: Callable[[], dict[str, Any]] = dict,
) -> Work[tuple[str, dict[str, Any]]]:
    """Put into the net of a task what it learns, from the cache or now; its name and facts, with what `more` finds.

    `featured` is the part of the net that gives features, which are scaled to a mean variance of 1 over the data.
    """
    data = slug(task.data.name)
    if task.data.is_image and max(task.data.dims[1:]) > LARGE:
        key = key_of(key, SEEN)  # older nets of large images had another first layer
    path, net = cache_folder() / f"{kind}-{data}-{key}.safetensors", task.net
    found = cached(path)
    if found is None:
        began = time.perf_counter()
        for done, total in learn(task, device, path.with_suffix(".partial")):
            yield Stage(stage, done, total)
        scale_features(featured, task.data, task.settings.seed, device)
        made = {"settings": asdict(task.settings), "num_steps": task.settings.num_steps(len(task.data)), **more()}
        facts = store(path, net.state_dict(), made | {"seconds": round(time.perf_counter() - began, 1)})
    else:
        tensors, facts = found
        net.load_state_dict(tensors)
    net.to(device).eval().requires_grad_(False)
    return f"{kind}-{data}-{facts['sha256'][:8]}", facts


def new_net(data: Dataset, settings: LearnerSettings) -> ClassifierNet:
    """An untrained classifier of `data`, the same for the same seed."""
    with fresh_weights(derive_seed(settings.seed, "classifier")):
        return ClassifierNet(data.dims, data.num_classes, settings.num_features)


def pca(data: Dataset, num_features: int = PCA_FEATURES) -> LinearFeatures:
    """The first principal components of up to `PCA_ROWS` entries of `data`, fewer of large ones, scaled to a mean
    variance of 1.

    Args:
        data: at least 2 entries.
        num_features: at most; fewer where the data has fewer dimensions.

    Raises:
        ConfigError: the entries are all the same.
    """
    most = min(PCA_ROWS, max(PCA_VALUES // data.x[0].numel(), 2 * num_features))
    rows = torch.arange(len(data))[:: -(-len(data) // most)]
    flat = data.x0(rows).flatten(1).double()
    centre = flat.mean(0)
    spread, axes = torch.linalg.svd(flat - centre, full_matrices=False)[1:]
    dim = min(num_features, int((spread > 1e-6 * spread.max()).sum()))
    if dim == 0 or len(rows) < 2:
        raise ConfigError(f"data set {data.name!r} does not vary: it has no principal components.")
    axes = axes[:dim] * axes[:dim].gather(1, axes[:dim].abs().argmax(1, keepdim=True)).sign()
    variance = spread[:dim].square().mean() / (len(rows) - 1)
    matrix = (axes.T / variance.sqrt()).float().contiguous()
    digest = tensor_hash(centre.float(), matrix)
    return LinearFeatures(
        centre=centre.float(), matrix=matrix, name=f"pca{dim}-{digest[:8]}", dim=dim, facts={"sha256": digest}
    )


def coordinates(data: Dataset) -> LinearFeatures:
    """The entries themselves, flattened."""
    dim = data.x[0].numel()
    zero = torch.zeros(dim)
    return LinearFeatures(
        centre=zero, matrix=None, name=f"coordinates{dim}", dim=dim, facts={"sha256": tensor_hash(zero)}
    )


def automatic(train: Dataset, num: int, reference_size: int) -> str:
    """The kind of features that suits so many samples of some data, and a reference of that size: "classifier" where
    labels and rows are many, "views" where pictures are, else a few principal components, as "pca:7".

    A Frechet distance wants several rows a feature; a classifier's has 2, principal components are as few as leave 4.
    """
    if not train.is_image:
        return "coordinates"
    rows, labelled = min(num, reference_size), len(train) >= max(MANY_LABELS, MANY_A_CLASS * train.num_classes)
    if train.num_classes > 1 and labelled and rows >= 2 * LearnerSettings().num_features:
        return "classifier"
    if len(train) >= MANY_PICTURES and rows >= ROWS_A_FEATURE * ContrastSettings().num_features:
        return "views"
    return f"pca:{max(1, min(PCA_FEATURES, rows // ROWS_A_FEATURE))}"


FITTED: dict[str, Callable[[Dataset], FeatureMap]] = {"pca": pca, "coordinates": coordinates}
PRETRAINED: dict[str, Callable[[str, Dataset, torch.device], FeatureMap]] = {
    "dinov2": partial(pretrained, "dinov2"),
    "clip": partial(pretrained, "clip"),
    "inception": inception,
}
KINDS = ("auto", "classifier", "views", *FITTED, *(f"{kind}:FOLDER" for kind in PRETRAINED))


def check_kind(kind: str) -> None:
    """Refuse a feature map that does not exist.

    Raises:
        ConfigError: `kind` is none of `KINDS`; a pretrained one wants a folder or a hub name after a colon, and "pca"
            takes a number of components.
    """
    name, colon, source = kind.partition(":")
    if name not in {known.partition(":")[0] for known in KINDS}:
        raise ConfigError(f"unknown features {kind!r}. {nearest(name, list(KINDS))}")
    if name == "pca" and source.isdecimal() and int(source):
        return
    if (name in PRETRAINED) != bool(colon and source):
        named = f"{name}:FILE" if name == "inception" else f"{name}:FOLDER, or {name}: and a hub name"
        wanted = named if name in PRETRAINED else name
        raise ConfigError(f"features {kind!r} are written {wanted}.")


def feature_map(kind: str, data: Dataset, device: torch.device) -> FeatureMap:
    """The feature map called `kind` that needs no labels.

    Args:
        kind: "pca", "pca:12", "coordinates", or a pretrained one as NAME:SOURCE; see `pretrained`.
        data: to fit it to.
        device: where it runs.

    Raises:
        ConfigError: unknown, or not for this data.
    """
    name, _, source = kind.partition(":")
    if name in PRETRAINED:
        return PRETRAINED[name](source, data, device)
    return pca(data, int(source)) if source else FITTED[name](data)


def features_of(feature_map: FeatureMap, data: Dataset) -> Work[Tensor]:
    """The features of a whole data set, float32 (N, dim), from the cache or computed now."""
    if len(data) == 0:
        return torch.zeros(0, feature_map.dim)
    key = key_of(feature_map.name, feature_map.facts["sha256"], data_hash(data))
    path = cache_folder() / f"real-{slug(data.name)}-{key}.safetensors"
    found = cached(path)
    if found is not None:
        return found[0]["features"]
    parts = []
    for rows in torch.arange(len(data)).split(BATCH):
        parts.append(feature_map(data.x0(rows)))
        yield Stage("real features", int(rows[-1]) + 1, len(data))
    features = torch.cat(parts)
    store(path, {"features": features}, {"features": feature_map.name, "data": data.name, "num": len(data)})
    return features
