"""Conditioners, nets with one, and the facts of data: how a condition travels, how it is dropped, and how a user's
words become one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Protocol

import torch
from annotated_types import Interval
from torch import Tensor, nn

from ebbflow.core.condition import Cond, Condition, GivenImage
from ebbflow.data import Dataset
from ebbflow.nets import Context, ContextSpec, Injection
from ebbflow.values import Below1, Checked, Depth, Width

Side = Annotated[int, Interval(ge=1, le=1 << 24)]


class Conditioner(nn.Module):
    """Encodes a condition tensor with a row a sample; see `LabelConditioner`."""

    spec: ContextSpec | None
    takes: ClassVar[str]
    extra_channels: int = 0  # of the net's input, for images

    @abstractmethod
    def null(self, num: int) -> Tensor:
        """The null condition of `num` samples."""

    @abstractmethod
    def encode(self, cond: Tensor) -> Context:
        """The context of a condition tensor."""

    @abstractmethod
    def conditions(self, dataset: Dataset) -> Tensor | None:
        """The condition of every entry of a data set."""

    def forward(self, cond: Tensor) -> Context:
        return self.encode(cond)

    def context_of(self, rows: Tensor) -> Context:
        """A vector a sample, (B, K dim), as it is, or as K tokens for cross-attention."""
        assert self.spec is not None
        if self.spec.injection == "cross_attention":
            return Context(tokens=rows.unflatten(1, (-1, self.spec.dim)))
        return Context(vector=rows)

    def drop(self, cond: Tensor, probability: float, generator: torch.Generator) -> Tensor:
        """`cond` with each row on its own replaced by the null with `probability`."""
        gone = torch.rand(len(cond), generator=generator) < probability
        return torch.where(gone.reshape(-1, *[1] * (cond.ndim - 1)), self.null(len(cond)), cond)

    def read(self, conditions: Sequence[Condition]) -> Tensor:
        """The conditions that class indices, prompts and vectors stand for, a row each.

        Raises:
            ValueError: this conditioner does not take such a thing, or not this one.
        """
        return torch.stack([self._row(one) for one in conditions])

    def of_label(self, label: int) -> Tensor:
        """The condition of a class index, without the batch axis."""
        raise ValueError(f"this run was trained on {self.takes}: it takes no labels.")

    def of_prompt(self, prompt: str) -> Tensor:
        """The condition of a text, without the batch axis."""
        raise ValueError(
            f"this run was trained on {self.takes}: it takes no prompts. Train with conditioning.kind=text for those."
        )

    def of_vector(self, vector: tuple[float, ...]) -> Tensor:
        """The condition of a vector, without the batch axis."""
        raise ValueError(
            f"this run was trained on {self.takes}: it takes no vectors. Train with conditioning.kind=vector for those."
        )

    def of_image(self, image: GivenImage) -> Tensor:
        """The condition of a picture, without the batch axis."""
        raise ValueError(
            f"this run was trained on {self.takes}: it takes no images. Train with conditioning.kind=image for those."
        )

    def _row(self, condition: Condition) -> Tensor:
        if isinstance(condition, GivenImage):
            return self.of_image(condition)
        if isinstance(condition, str):
            return self.of_prompt(condition)
        return self.of_label(condition) if isinstance(condition, int) else self.of_vector(tuple(condition))


class ConditionedNet(nn.Module):
    """A net and its conditioner as one module: (x, clock, cond) -> output, cond a condition or what `read` made of it.
    What training, EMA and checkpoints hold."""

    def __init__(self, net: nn.Module, conditioner: Conditioner | None) -> None:
        super().__init__()
        self.net, self.conditioner = net, conditioner

    def forward(self, x: Tensor, clock: Tensor, cond: Cond | Context | None) -> Tensor:
        context = cond if cond is None or isinstance(cond, Context) else self.read(cond)
        if context is not None and context.image is not None:
            x, context = torch.cat([x, context.image.to(x)], dim=1), None
        return self.net(x, clock, context)

    def read(self, cond: Cond) -> Context:
        """The context of a condition, on the device of the weights; once serves for as many evaluations as one likes.

        Raises:
            ValueError: there is no conditioner.
        """
        if self.conditioner is None:
            raise ValueError("this net was built without a condition; it cannot take one.")
        return self.conditioner(cond)

    def reading_weights(self) -> Iterator[Tensor]:
        """The weights that `read` depends on."""
        return iter(()) if self.conditioner is None else self.conditioner.parameters()


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """What a model has to know of its data, kept in its checkpoint so that sampling needs no data.

    Args:
        dims: shape of one sample.
        is_image: whether samples are images scaled to [-1, 1].
        label_names: names of the classes, () without labels.
        captions: the first few distinct captions, () without captions.
        vectors: the first few vectors, () without vectors.
        latent_dims: shape of one latent where the model works on latents of the samples, else None.
        picture_dims: shape of the picture that the data brings for each sample, else None.
    """

    dims: tuple[Side, ...]
    is_image: bool
    label_names: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    vectors: tuple[tuple[float, ...], ...] = ()
    latent_dims: tuple[Side, ...] | None = None
    picture_dims: tuple[Side, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.dims) != (3 if self.is_image else 1):
            raise ValueError(f"images have three `dims` and points one, got {self.dims}.")

    @property
    def state_dims(self) -> tuple[int, ...]:
        """Shape of what the model works on."""
        return self.dims if self.latent_dims is None else self.latent_dims


class Conditioning(Protocol):
    """A kind of conditioning as a frozen dataclass that can build its conditioner."""

    def build(self, facts: DataFacts) -> Conditioner | None:
        """The conditioner for data of these facts."""
        ...

    def examples(self, facts: DataFacts) -> tuple[Condition, ...]:
        """What to sample when nothing is said: one of each class, or a few captions or vectors of the data."""
        ...


@dataclass(frozen=True, kw_only=True)
class Conditioned(Checked):
    """The settings that every kind of conditioning has.

    Args:
        injection: "add" (where the time goes in), "scale" (scale and shift of features) or "cross_attention".
        dim: width of the embedding.
        drop: probability with which training drops a sample's condition, in [0, 1).
    """

    injection: Injection = "scale"
    dim: Width = 128
    drop: Below1 = 0.1


@dataclass(frozen=True, kw_only=True)
class ByTokens(Conditioned):
    """Conditioning that cross-attention sees as a few tokens.

    Args:
        num_tokens: tokens a condition, for cross-attention.
    """

    num_tokens: Depth = 4
