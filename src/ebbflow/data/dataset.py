"""A data set in memory: uint8 images or float32 points, their labels and captions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ebbflow.errors import DataError


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Dataset:
    """N images or points, with a label or a caption each where the source has them.

    Args:
        name: what messages and run cards call it.
        x: images uint8 (N, C, H, W) with values 0..255, or points float32 (N, D); or `OnDemand`, which reads them.
        labels: int64 (N,) in [0, len(label_names)), or None.
        label_names: one name per class; empty when there are no labels.
        captions: one text per entry of `x`, or None.
        vectors: float32 (N, K), what each entry may be conditioned on, or None.
        pictures: uint8 (N, C', H', W'), another image of each, or None.

    Raises:
        DataError: shapes, dtypes, counts or label range do not fit together.
    """

    name: str
    x: Tensor
    labels: Tensor | None
    label_names: tuple[str, ...]
    captions: tuple[str, ...] | None = None
    vectors: Tensor | None = None
    pictures: Tensor | None = None

    def __post_init__(self) -> None:
        kind = (self.x.dtype, self.x.ndim)
        if kind not in {(torch.uint8, 4), (torch.float32, 2)}:
            raise DataError(
                f"data set {self.name!r}: `x` must be uint8 (N, C, H, W) or float32 (N, D), "
                f"got {self.x.dtype} {tuple(self.x.shape)}."
            )
        self._check_labels()
        if self.captions is not None and len(self.captions) != len(self.x):
            raise DataError(f"data set {self.name!r}: {len(self.captions)} captions for {len(self.x)} entries.")
        if self.vectors is not None and (self.vectors.ndim != 2 or len(self.vectors) != len(self.x)):
            raise DataError(
                f"data set {self.name!r}: `vectors` must be float32 ({len(self.x)}, K), "
                f"got {tuple(self.vectors.shape)}."
            )

    def _check_labels(self) -> None:
        if self.labels is None:
            if self.label_names:
                raise DataError(f"data set {self.name!r}: `label_names` without `labels`.")
            return
        if self.labels.dtype != torch.int64 or self.labels.shape != self.x.shape[:1]:
            raise DataError(
                f"data set {self.name!r}: `labels` must be int64 ({len(self.x)},), "
                f"got {self.labels.dtype} {tuple(self.labels.shape)}."
            )
        outside = self.labels[(self.labels < 0) | (self.labels >= self.num_classes)]
        if len(outside):
            raise DataError(
                f"data set {self.name!r}: labels must be in [0, {self.num_classes}), got {int(outside[0])}."
            )

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        return f"Dataset({self.name!r}: {len(self)} x {self.dims}, {self.num_classes} classes)"

    @property
    def dims(self) -> tuple[int, ...]:
        """Shape of one entry: (C, H, W) for images, (D,) for points."""
        return tuple(self.x.shape[1:])

    @property
    def on_demand(self) -> bool:
        """Whether entries are read from the disk when they are asked for."""
        return not isinstance(self.x, Tensor)

    @property
    def is_image(self) -> bool:
        """True for images, False for points."""
        return self.x.ndim == 4

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 when there are no labels."""
        return len(self.label_names)

    def x0(self, indices: Tensor) -> Tensor:
        """The entries at `indices` as the nets see them: images x / 127.5 - 1 in [-1, 1], points as they are.

        Args:
            indices: int64 (B,) in [0, N), or bool (N,).

        Returns:
            float32 (B, *dims), a copy.
        """
        chosen = self.x[indices]
        return chosen.float().div_(127.5).sub_(1) if self.is_image else chosen

    def select(self, indices: Tensor) -> Dataset:
        """The data set made of the entries at `indices`, in that order; the classes stay the same.

        Args:
            indices: int64 (M,) in [0, N), or bool (N,).
        """
        rows = indices.nonzero().flatten() if indices.dtype == torch.bool else indices
        return Dataset(
            name=self.name,
            x=self.x[rows] if isinstance(self.x, Tensor) else self.x.take(rows),
            labels=None if self.labels is None else self.labels[rows],
            label_names=self.label_names,
            captions=None if self.captions is None else tuple(self.captions[i] for i in rows.tolist()),
            vectors=None if self.vectors is None else self.vectors[rows],
            pictures=None if self.pictures is None else self.pictures[rows],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Splits:
    """The part to train on and the part that no training step may see.

    Args:
        train: at least one entry.
        held_out: same dims and classes; empty only when the source has a single entry.
    """

    train: Dataset
    held_out: Dataset


def to_uint8(x: Tensor) -> Tensor:
    """Images in [-1, 1] as bytes, round((x + 1) 127.5) clamped to 0..255: the exact inverse of `Dataset.x0`.

    Args:
        x: floating, any shape; values outside [-1, 1] are clamped.

    Returns:
        uint8, the shape of `x`.
    """
    return x.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
