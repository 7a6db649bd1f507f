"""Conditioning on text, read by an encoder that is trained with the net or by a pretrained one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ebbflow.conditioning.base import Conditioned, Conditioner, DataFacts
from ebbflow.conditioning.labels import in_range
from ebbflow.core.condition import Condition
from ebbflow.core.device import sent
from ebbflow.core.noise import generator_for
from ebbflow.data import Dataset
from ebbflow.nets import Context, ContextSpec, Injection
from ebbflow.nets.blocks import Attention, frequencies
from ebbflow.values import Depth, Width

TEMPLATES = ("a picture of a {}", "a {}", "{}")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class TextEncoder(nn.Module):
    """From texts to token ids, and from those to a vector a token."""

    dim: int
    max_length: int

    @abstractmethod
    def tokenise(self, text: str) -> Sequence[int]:
        """At most `max_length` token ids."""

    @abstractmethod
    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Vectors (B, L, dim) of int32 `ids` (B, L), of which bool `mask` (B, L) says what to read."""


class ByteEncoder(TextEncoder):
    """A small transformer over the bytes of the text, trained with the net; it reads any language and needs no
    vocabulary.

    Args:
        dim: width; a multiple of `num_heads`.
        depth: number of layers, each self-attention and an MLP.
        num_heads: attention heads.
        max_length: bytes that are read of a text.
    """

    def __init__(self, *, dim: int, depth: int, num_heads: int, max_length: int) -> None:
        super().__init__()
        self.dim, self.max_length = dim, max_length
        self.embed = nn.Embedding(256, dim)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2 * depth))
        self.attentions = nn.ModuleList(Attention(dim, num_heads) for _ in range(depth))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)

    def tokenise(self, text: str) -> Sequence[int]:
        return text.encode()[: self.max_length]

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        places = frequencies(torch.arange(ids.shape[1], device=ids.device), self.dim)
        h = self.embed(ids.clamp(min=0)) + places.to(self.embed.weight.dtype)
        for i, (attention, mlp) in enumerate(zip(self.attentions, self.mlps, strict=True)):
            h = h + attention(self.norms[2 * i](h), mask=mask)
            h = h + mlp(self.norms[2 * i + 1](h))
        return self.norm(h)


class TextConditioner(Conditioner):
    """A text as token ids, int32 of shape (B, max_length) with -1 behind its end, as a vector a token for
    cross-attention, or as the mean of those.

    The empty text is the null: one learned token that no encoder has seen.

    Args:
        encoder: reads the token ids.
        injection: how the net takes it.
        templates: make captions of label names where the data has no captions; the first one also stands for a label.
        label_names: names of the classes that templates speak of; () where the data brings its captions.
    """

    takes = "texts"

    def __init__(
        self, encoder: TextEncoder, *, injection: Injection, templates: Sequence[str], label_names: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.encoder, self.templates, self.label_names = encoder, tuple(templates), tuple(label_names)
        self.spec = ContextSpec(dim=encoder.dim, injection=injection)
        self.nothing = nn.Parameter(0.5 * torch.randn(encoder.dim))

    def null(self, num: int) -> Tensor:
        return torch.full((num, self.encoder.max_length), -1, dtype=torch.int32)

    def conditions(self, dataset: Dataset) -> Tensor | None:
        texts = captions_of(dataset, self.templates)
        if texts is None:
            return None
        place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        return torch.stack([self.of_prompt(text) for text in place])[torch.tensor([place[text] for text in texts])]

    def of_prompt(self, prompt: str) -> Tensor:
        row = self.null(1)[0]
        if prompt.strip():
            ids = torch.tensor(list(self.encoder.tokenise(prompt.strip())), dtype=torch.int32)
            row[: len(ids)] = ids
        return row

    def of_label(self, label: int) -> Tensor:
        if not self.label_names:
            raise ValueError("this run was trained on captions: it takes no labels. Give a prompt.")
        return self.of_prompt(worded(self.templates[0], self.label_names[in_range(label, len(self.label_names))]))

    def encode(self, cond: Tensor) -> Context:
        rows, which = _distinct(cond)
        rows = sent(rows, self.nothing.device)
        mask = rows >= 0
        is_null = ~mask[:, 0]
        mask[:, 0] = True
        tokens = torch.where(is_null[:, None, None], self.nothing, self.encoder(rows, mask))
        assert self.spec is not None
        if self.spec.injection == "cross_attention":
            return Context(tokens=tokens[which], mask=mask[which])
        shown = mask[..., None].to(tokens.dtype)
        return Context(vector=((tokens * shown).sum(dim=1) / shown.sum(dim=1))[which])


def _distinct(cond: Tensor) -> tuple[Tensor, Tensor | slice]:
    """Each text once, cut behind the longest, and where it belongs; all of `cond` as it is where finding out would make
    an accelerator wait, or where it is traced for all texts."""
    if cond.device.type != "cpu" or torch.compiler.is_exporting():
        return cond, slice(None)
    rows, which = torch.unique(cond, dim=0, return_inverse=True)
    return rows[:, : max(1, int((rows >= 0).sum(dim=1).max()))], which


@dataclass(frozen=True, kw_only=True)
class CaptionConditioning(Conditioned):
    """What both kinds of text conditioning share; see `TextConditioning` for the arguments."""

    injection: Injection = "cross_attention"
    max_length: Width = 128
    templates: tuple[str, ...] = TEMPLATES

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.templates or any("{}" not in template for template in self.templates):
            raise ValueError(f"`templates` must be texts with {{}} for the label's name, got {list(self.templates)}.")

    def build(self, facts: DataFacts) -> TextConditioner:
        """A `TextConditioner`.

        Raises:
            ValueError: the data has neither captions nor labels.
            ImportError: a package that the encoder needs is missing.
        """
        if not facts.captions and not facts.label_names:
            raise ValueError(
                'conditioning on text needs captions (an image folder whose metadata.jsonl has "text") or labels to '
                "make them of, and this data has neither. Use conditioning.kind=none."
            )
        names = () if facts.captions else facts.label_names
        encoder = self.make_encoder()
        return TextConditioner(encoder, injection=self.injection, templates=self.templates, label_names=names)

    def examples(self, facts: DataFacts) -> tuple[Condition, ...]:
        """The first few captions of the data, or every class in the words of the first template."""
        return facts.captions or tuple(worded(self.templates[0], name) for name in facts.label_names)

    @abstractmethod
    def make_encoder(self) -> TextEncoder:
        """The encoder of the texts."""


@dataclass(frozen=True, kw_only=True)
class TextConditioning(CaptionConditioning):
    """By the data's captions, or by captions made of the labels; a byte-level transformer reads them and is trained
    with the net, and the empty text is a learned null.

    Args:
        injection: "cross_attention" to a token a byte; "add" (where the time goes in) or "scale" (scale and shift of
            features) of the mean of those.
        dim: width of a token; a multiple of `num_heads`, even.
        depth: layers of the text encoder.
        num_heads: its attention heads.
        max_length: bytes that are read of a text.
        templates: make captions of label names where the data has no captions; {} is the name, digits are spelt out.
        drop: probability with which training drops a sample's caption.
    """

    depth: Depth = 2
    num_heads: Width = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim % self.num_heads or self.dim % 2:
            raise ValueError(f"`dim` must be even and a multiple of `num_heads`, got {self.dim} and {self.num_heads}.")

    def make_encoder(self) -> ByteEncoder:
        return ByteEncoder(dim=self.dim, depth=self.depth, num_heads=self.num_heads, max_length=self.max_length)


def worded(template: str, name: str) -> str:
    """`template` with a class's name in it; a single digit is spelt out."""
    return template.replace("{}", DIGITS[int(name)] if name in "0123456789" and len(name) == 1 else name)


def captions_of(dataset: Dataset, templates: Sequence[str]) -> tuple[str, ...] | None:
    """The captions of a data set, or its labels in the words of one template a sample, drawn once and for all."""
    if dataset.captions is not None or dataset.labels is None:
        return dataset.captions
    drawn = torch.randint(len(templates), (len(dataset),), generator=generator_for(0, "templates"))
    labels = dataset.labels.tolist()
    return tuple(worded(templates[i], dataset.label_names[k]) for i, k in zip(drawn.tolist(), labels, strict=True))
