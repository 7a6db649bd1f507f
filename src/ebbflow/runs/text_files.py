"""What a pretrained encoder says of the captions of some data, computed once for all runs and read from the disk."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ebbflow.conditioning import Conditioner
from ebbflow.conditioning.pretrained import CachedTextModel, Embedded, PretrainedEncoder
from ebbflow.conditioning.text import TextConditioner
from ebbflow.data import Dataset
from ebbflow.metrics.cache import cache_folder, key_of, mapped, tensor_hash
from ebbflow.progress import Stage, Work

BATCH = 64


def shelve(conditioner: Conditioner | None, parts: Sequence[Dataset], device: torch.device) -> Work[None]:
    """Let the encoder of a run look up what it said of the captions of these data, which it says now where no run had
    it say so before; nothing for other kinds of conditions.

    Raises:
        ConfigError: there is no room for it.
    """
    if not isinstance(conditioner, TextConditioner) or not isinstance(conditioner.encoder, PretrainedEncoder):
        return
    found = [ids for part in parts if len(part) and (ids := conditioner.conditions(part)) is not None]
    rows = torch.unique(torch.cat(found), dim=0)
    rows = rows[rows[:, 0] >= 0]
    lengths = (rows >= 0).sum(dim=1)
    order = lengths.argsort(stable=True)  # so that little is padded
    rows, lengths = rows[order], lengths[order]
    model, width = conditioner.encoder.frozen, conditioner.encoder.norm.normalized_shape[0]
    yield Stage("texts", 0, len(rows), note="what the encoder says of the captions, kept for all runs")
    path = cache_folder("texts") / f"{_key(model, rows)}.f32"
    values = mapped(path, (int(lengths.sum()), width), _said(model, rows, lengths, device))
    starts = (lengths.cumsum(0) - lengths).tolist()
    keys = (row[:length].numpy().tobytes() for row, length in zip(rows, lengths.tolist(), strict=True))
    model.embedded = Embedded(
        values=values, places=dict(zip(keys, zip(starts, lengths.tolist(), strict=True), strict=True))
    )


def _said(model: CachedTextModel, rows: Tensor, lengths: Tensor, device: torch.device) -> Iterator[Tensor]:
    for some, long in zip(rows.split(BATCH), lengths.split(BATCH), strict=True):
        ids = some[:, : int(long.max())].to(device)
        yield torch.cat(model.read(ids, ids >= 0))


def _key(model: CachedTextModel, rows: Tensor) -> str:
    """A hash of the encoder's weights, of what it is, and of the captions."""
    weights = dict(sorted(model.model.state_dict().items()))
    config = json.dumps(model.model.config.to_dict(), sort_keys=True, default=str)  # type: ignore[union-attr, operator]
    return key_of(list(weights), config, tensor_hash(*weights.values()), tensor_hash(rows))
