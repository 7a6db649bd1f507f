"""Nets that learn from pictures alone, or from pictures and their captions, which of a batch belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ebbflow.conditioning import ByteEncoder
from ebbflow.core.noise import generator_for
from ebbflow.data.augment import Augmentation
from ebbflow.metrics.classifier import ClassifierNet, shrunk
from ebbflow.metrics.learning import LearnerSettings, LearnerTask
from ebbflow.training.batches import Batch
from ebbflow.training.task import Draw, Loss

EMBEDDING, MAX_BYTES = 64, 128
VIEW = Augmentation(crop=0.4)
RIVALS = 15  # captions of other pictures that a picture's own one has to fit better than


@dataclass(frozen=True, kw_only=True)
class ContrastSettings(LearnerSettings):
    """Those of such a net; see `LearnerSettings`."""

    num_features: int = 32
    epochs: float = 8.0
    min_steps: int = 300
    max_steps: int = 2000
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.05


class ContrastNet(nn.Module):
    """Pictures, and texts where it reads them, as unit vectors of one space, with a learned sharpness.

    Args:
        dims: (C, H, W) of pictures.
        num_features: of the layer that gives features.
        reads: whether it learns from captions too.
    """

    def __init__(self, dims: tuple[int, ...], num_features: int, *, reads: bool) -> None:
        super().__init__()
        self.image = ClassifierNet(dims, EMBEDDING, num_features)
        self.text = ByteEncoder(dim=EMBEDDING, depth=2, num_heads=4, max_length=MAX_BYTES) if reads else None
        self.sharpness = nn.Parameter(torch.tensor(2.3))

    def forward(self, x0: Tensor) -> Tensor:
        """Features (B, num_features) of x0 (B, *dims)."""
        return self.image(x0)

    def of_pictures(self, x0: Tensor) -> Tensor:
        """Unit vectors (B, 64) of x0 (B, *dims)."""
        return functional.normalize(self.image.head(self.image(x0)).float(), dim=1)

    def of_texts(self, ids: Tensor) -> Tensor:
        """Unit vectors (B, 64) of what `tokens` made."""
        assert self.text is not None
        mask = ids >= 0
        words = self.text(ids, mask).float() * mask[..., None]
        return functional.normalize(words.sum(1) / mask.sum(1, keepdim=True), dim=1)


def tokens(texts: Sequence[str]) -> Tensor:
    """The bytes of texts, int32 (B, 128), -1 behind their ends; the empty text is a space."""
    ids = torch.full((len(texts), MAX_BYTES), -1, dtype=torch.int32)
    for row, text in zip(ids, texts, strict=True):
        read = list((text.strip() or " ").encode()[:MAX_BYTES])
        row[: len(read)] = torch.tensor(read, dtype=torch.int32)
    return ids


@dataclass(frozen=True, kw_only=True)
class ContrastTask(LearnerTask):
    """Cross-entropy, both ways, of which vectors of a batch belong together: two views of a picture (Chen et al., 2020,
    2002.05709), or a view and its caption (Radford et al., 2021, 2103.00020), equal captions being one.

    A view is a crop with its brightness and contrast changed; nothing is mirrored.
    """

    net: ContrastNet

    def loss(self, net: nn.Module, batch: Batch, draw: Draw) -> Loss:
        assert isinstance(net, ContrastNet)
        first = net.of_pictures(_view(batch.x0, draw, 0))
        if isinstance(batch.cond, Tensor):
            second, same = net.of_texts(batch.cond), (batch.cond[:, None] == batch.cond).all(2).float()
        else:
            second, same = net.of_pictures(_view(batch.x0, draw, 1)), torch.eye(len(first), device=first.device)
        logits = net.sharpness.exp().clamp(max=50) * first @ second.T
        target = same / same.sum(1, keepdim=True)
        ways = [functional.cross_entropy(one, target, reduction="none") for one in (logits, logits.T)]
        return Loss(each=(ways[0] + ways[1]) / 2)


def _view(x0: Tensor, draw: Draw, which: int) -> Tensor:
    generator = generator_for(draw.seed, "view", draw.step, which)
    cut = VIEW(shrunk(x0), generator)
    contrast, brightness = (torch.rand(2, len(x0), 1, 1, 1, generator=generator) - 0.5).to(x0)
    return (cut * (1 + contrast) + 0.4 * brightness).clamp(-1, 1)


def agreement(pictures: Tensor, own: Tensor, texts: Sequence[str], seed: int = 0) -> Tensor:
    """Whether each picture's own caption fits it better than 15 others of the texts do, float (N,); chance is 1/16.

    Args:
        pictures, own: unit vectors (N, E) of pictures and of their captions.
        texts: those captions; a rival is never the same text. With fewer other texts, all of them are rivals.
        seed: of the rivals.
    """
    row_of = dict(zip(texts, range(len(texts)), strict=True))
    index = {text: i for i, text in enumerate(row_of)}
    place = torch.tensor([index[text] for text in texts])[:, None]
    scores = pictures @ own[torch.tensor(list(row_of.values()))].T
    mine = scores.gather(1, place)
    order = torch.rand(len(texts), len(index), generator=generator_for(seed, "rivals")).scatter_(1, place, 2.0)
    rivals = order.topk(min(RIVALS, len(index) - 1), largest=False).indices
    return (scores.gather(1, rivals) < mine).all(1).float()
