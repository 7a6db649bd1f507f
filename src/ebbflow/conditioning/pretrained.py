"""Text encoders that were trained elsewhere, through the `transformers` package, frozen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ebbflow.conditioning.text import CaptionConditioning, TextEncoder
from ebbflow.errors import ConfigError, missing
from ebbflow.hub import must_be_local, unreachable

TEXT_HALVES = {
    "clip": "CLIPTextModel",
    "clip_text_model": "CLIPTextModel",
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
}
HOW = "Give conditioning.model the folder of an encoder with its tokeniser and safetensors, or its name on the hub."


CACHE_BYTES = 256 * 2**20  # of captions remembered, about 1700 of CLIP's longest; the least recently used give way


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedded:
    """What a text model said of many captions, kept where it takes no memory.

    Args:
        values: of all tokens of all captions, one after the other, float32 (T, width).
        places: of each caption, by its token ids as bytes, its first token and their number.
    """

    values: Tensor
    places: Mapping[bytes, tuple[int, int]]

    def get(self, caption: bytes) -> Tensor | None:
        """float32 (L, width), or None."""
        found = self.places.get(caption)
        return None if found is None else self.values[found[0] : found[0] + found[1]]


class CachedTextModel:
    """A pretrained model and what it said of the captions that it read last.

    No module, and shared by all copies, so that it is neither trained nor averaged nor stored with the net.

    Args:
        model: (input_ids, attention_mask) -> last_hidden_state.
        limit: bytes that are remembered at most.
    """

    def __init__(self, model: nn.Module, limit: int = CACHE_BYTES) -> None:
        self.model, self.limit = model.requires_grad_(False).eval(), limit
        self.cache: dict[bytes, Tensor] = {}
        self.embedded = Embedded(values=torch.empty(0), places={})

    def __deepcopy__(self, memo: dict[int, Any]) -> CachedTextModel:
        return self

    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        """float32 (B, L, dim) on the device of `ids`; one evaluation for the captions that are not remembered."""
        lengths, host = mask.sum(dim=1).tolist(), ids.cpu()
        keys = [host[i, :length].contiguous().numpy().tobytes() for i, length in enumerate(lengths)]
        places = {key: i for i, key in enumerate(keys)}
        shelved = {key: row for key in places if (row := self.embedded.get(key)) is not None}
        found = {key: self.cache.pop(key) for key in places if key in self.cache and key not in shelved}
        if new := [i for key, i in places.items() if key not in found and key not in shelved]:
            found.update(zip((keys[i] for i in new), self.read(ids[new], mask[new]), strict=True))
        self.cache.update(found)  # behind all others: the first entries are the oldest
        self._forget()
        rows = found | shelved
        return torch.stack([self._padded(rows[key], ids.shape[1]) for key in keys]).to(ids.device)

    @torch.no_grad()
    def read(self, ids: Tensor, mask: Tensor) -> list[Tensor]:
        """What the model says, float32 (L, dim) a caption on the CPU; nothing is looked up or remembered."""
        found = self.model.to(ids.device)(input_ids=ids.clamp(min=0).long(), attention_mask=mask.long())
        rows = zip(found.last_hidden_state.float().cpu(), mask.sum(dim=1).tolist(), strict=True)
        return [row[:length].clone() for row, length in rows]

    def _forget(self) -> None:
        size = sum(row.nbytes for row in self.cache.values())
        for key in list(self.cache):
            if size <= self.limit:
                return
            size -= self.cache.pop(key).nbytes

    @staticmethod
    def _padded(row: Tensor, length: int) -> Tensor:
        return nn.functional.pad(row, (0, 0, 0, length - len(row)))


class PretrainedEncoder(TextEncoder):
    """A frozen encoder of `transformers`, and a trained projection of its last hidden states.

    Args:
        tokeniser: its tokeniser.
        model: the encoder.
        width: of its hidden states.
        dim: width of a projected token.
        max_length: tokens that are read of a text.
    """

    def __init__(self, tokeniser: Any, model: nn.Module, *, width: int, dim: int, max_length: int) -> None:
        super().__init__()
        self.dim, self.max_length = dim, max_length
        self.tokeniser, self.frozen = tokeniser, CachedTextModel(model)
        self.norm, self.project = nn.LayerNorm(width), nn.Linear(width, dim)

    def tokenise(self, text: str) -> Sequence[int]:
        return self.tokeniser(text, truncation=True, max_length=self.max_length)["input_ids"]

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.project(self.norm(self.frozen(ids, mask).to(self.project.weight.dtype)))


@dataclass(frozen=True, kw_only=True)
class PretrainedTextConditioning(CaptionConditioning):
    """By the data's captions, or by captions made of the labels, read by a frozen CLIP, T5 or other text encoder
    (Saharia et al., 2022, 2205.11487); needs the extra `text`.

    The encoder is no part of the checkpoint: sampling loads it again from `model`.

    Args:
        model: a folder with the encoder and its tokeniser, or their name on the Hugging Face hub.
        injection: "cross_attention" to the tokens; "add" (where the time goes in) or "scale" (scale and shift of
            features) of the mean of those.
        dim: width that the tokens are projected to.
        max_length: tokens that are read of a text; fewer where the encoder reads fewer.
        templates: make captions of label names where the data has no captions; {} is the name, digits are spelt out.
        drop: probability with which training drops a sample's caption.
    """

    model: str = "openai/clip-vit-base-patch32"

    def make_encoder(self) -> PretrainedEncoder:
        # Making a model draws from the global generator, and the net's weights must not depend on it.
        with torch.random.fork_rng(devices=[]):
            tokeniser, model = load_text_model(self.model)
        longest = min(self.max_length, model.config.to_dict().get("max_position_embeddings", self.max_length))
        return PretrainedEncoder(tokeniser, model, width=model.config.hidden_size, dim=self.dim, max_length=longest)


def load_text_model(name: str) -> tuple[Any, Any]:
    """Tokeniser and text encoder from a folder or the hub, weights from safetensors only.

    Raises:
        ImportError: `transformers` is not installed.
        ConfigError: nothing of that name, or no text encoder.
    """
    try:
        import transformers
    except ImportError as error:
        raise missing("conditioning 'pretrained_text'", "transformers", "text") from error
    folder = Path(name).expanduser()
    if name.startswith(("/", ".", "~")) and not folder.is_dir():
        raise ConfigError(f"text encoder {name!r}: there is no such folder. {HOW}")
    source, local = str(folder) if folder.is_dir() else name, must_be_local(name)
    try:
        with quiet(transformers) if folder.is_dir() else nullcontext():
            own: dict[str, Any] = {"local_files_only": local, "trust_remote_code": False}  # it never brings code
            kind = transformers.AutoConfig.from_pretrained(source, **own).model_type
            cls = getattr(transformers, TEXT_HALVES.get(kind, "AutoModel"))
            model = cls.from_pretrained(source, use_safetensors=True, **own)
            tokeniser = transformers.AutoTokenizer.from_pretrained(source, **own)
    except (OSError, ValueError, KeyError) as error:
        reason = (unreachable(name) or str(error).strip().splitlines()[0]).rstrip(".")
        raise ConfigError(f"text encoder {name!r} cannot be loaded: {reason}. {HOW}") from error
    if model.config.is_encoder_decoder and kind not in TEXT_HALVES:
        raise ConfigError(f"{name!r} is a {kind}, not a text encoder. Known to work: CLIP, T5, BERT and their kin.")
    return tokeniser, model


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Without the package's progress bars, which say nothing of use where nothing is downloaded."""
    bars = transformers.utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()
