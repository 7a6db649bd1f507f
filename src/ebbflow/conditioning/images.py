"""Conditioning on images: a picture of the same place, beside the state in the net's input channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ebbflow.conditioning.base import Conditioner, DataFacts
from ebbflow.core.condition import Condition, GivenImage
from ebbflow.core.entries import Choice, as_choice, entry
from ebbflow.core.operators import OPERATORS, Mask, Operator
from ebbflow.data import Dataset
from ebbflow.nets import Context
from ebbflow.values import Below1, check_fields

CHUNK = 4096  # images degraded at a time


class ImageConditioner(Conditioner):
    """A picture in [-1, 1] and a channel that says where it is known, float32 (B, C' + 1, H', W'); zeros for the null.

    It is brought to the size of the samples by repeating pixels and joins their channels; it has no weights of its own.

    Args:
        dims: of one picture, (C', H', W').
        size: sides of a sample, whole multiples of H' and W'.
        operator: how pictures are made of the data; None where the data brings them.
    """

    takes = "images"
    spec = None

    def __init__(self, dims: tuple[int, ...], size: tuple[int, ...], operator: Operator | None = None) -> None:
        super().__init__()
        self.dims, self.size, self.operator = dims, size, operator
        self.extra_channels = dims[0] + 1

    def null(self, num: int) -> Tensor:
        return torch.zeros(num, self.extra_channels, *self.dims[1:])

    def pictures(self, dataset: Dataset, rows: Tensor) -> Tensor:
        """The pictures of some entries, float32 (B, *dims)."""
        if self.operator is not None:
            return self.operator.measure(dataset.x0(rows))
        if dataset.pictures is None:
            raise ValueError(f"data set {dataset.name!r} brings no pictures. Give the folder of pairs.")
        return dataset.pictures[rows].float() / 127.5 - 1

    def conditions(self, dataset: Dataset) -> Tensor | None:
        parts = torch.arange(len(dataset)).split(CHUNK)
        return torch.cat([self._known(self.pictures(dataset, rows)) for rows in parts])

    def of_image(self, image: GivenImage) -> Tensor:
        if tuple(image.x.shape) != self.dims:
            got, want = ("x".join(map(str, dims)) for dims in (image.x.shape, self.dims))
            raise ValueError(
                f"this run was trained on pictures of {want} as its condition, and {image.name} is {got}. "
                "Bring it to that size and number of channels first."
            )
        return self._known(image.x[None])[0]

    def _known(self, x: Tensor) -> Tensor:
        known = self.operator.mask(*self.dims[1:]) if isinstance(self.operator, Mask) else torch.ones(self.dims[1:])
        return torch.cat([x, known.expand(len(x), 1, *self.dims[1:])], dim=1)

    def encode(self, cond: Tensor) -> Context:
        return Context(image=cond if tuple(cond.shape[2:]) == self.size else interpolate(cond, size=self.size))


@dataclass(frozen=True, kw_only=True)
class ImageConditioning:
    """By an image: super-resolution, colouring, filling in, or any pairs of pictures, by concatenation to the input.

    Args:
        degrade: how the condition is made of the data, a name of `ebbflow list operators` or {kind = name, option =
            value}; None for a data folder of pairs, a/NAME (the condition) and b/NAME (the data).
        drop: probability with which training drops a sample's image, which guidance needs.
    """

    degrade: Choice | None = None
    drop: Below1 = 0.1

    def __post_init__(self) -> None:
        check_fields(self, "drop")
        if isinstance(self.degrade, Mapping) and "known" in self.degrade:
            raise ValueError("`degrade` holds names and numbers: give operator 'mask' a `region`.")
        if self.degrade is not None:
            object.__setattr__(self, "degrade", as_choice(OPERATORS, self.degrade, "operator"))

    def build(self, facts: DataFacts) -> ImageConditioner:
        """An `ImageConditioner`.

        Raises:
            ValueError: points, latents, images that the degradation cannot take, or data that brings no pictures.
        """
        if not facts.is_image or facts.latent_dims is not None:
            what = "points" if not facts.is_image else "latents"
            raise ValueError(f"conditioning 'image' works on images, and these samples are {what}. Use another kind.")
        operator: Operator | None = None if self.degrade is None else entry(OPERATORS, self.degrade, "operator")
        dims = facts.picture_dims if operator is None else operator.dims(facts.dims)
        if dims is None:
            raise ValueError(
                "conditioning 'image' needs pictures to go by: say how they are made of the data by `degrade`, such as "
                "conditioning.degrade=downsample, or give a data folder of pairs with a and b in it."
            )
        if any(side % own for side, own in zip(facts.dims[1:], dims[1:], strict=True)):
            sizes = ["x".join(map(str, one[1:])) for one in (facts.dims, dims)]
            raise ValueError(
                f"the sides of samples, {sizes[0]}, must be multiples of those of their pictures, {sizes[1]}. Resize "
                "one of them."
            )
        return ImageConditioner(dims, facts.dims[1:], operator)

    def examples(self, facts: DataFacts) -> tuple[Condition, ...]:
        """None: pictures are not kept with a run."""
        return ()
