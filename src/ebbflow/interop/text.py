"""Prompts as the text encoders of a pipeline hear them: one row of tensors a prompt, remembered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ebbflow.core.condition import Cond, Condition, cat_rows, expand_rows

Parts = Mapping[str, Any]
Encoded = dict[str, Tensor]
Encode = Callable[[Parts, str], Encoded]
REMEMBERED = 64  # prompts; one of SD3 or Flux takes about 5 MB in float32
T5_LENGTH_SD3, T5_LENGTH_FLUX = 256, 512  # tokens that those pipelines read of a prompt


def _ids(tokeniser: Any, prompt: str, length: int, device: torch.device) -> Any:
    found = tokeniser([prompt], padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return found.to(device)


def _clip(parts: Parts, number: str, prompt: str, length: int | None = None) -> Any:
    """What a CLIP text encoder, "", "_2" or "_3" of a pipeline, says of a prompt."""
    encoder, tokeniser = parts[f"text_encoder{number}"], parts[f"tokenizer{number}"]
    read = _ids(tokeniser, prompt, length or tokeniser.model_max_length, encoder.device)
    masked = bool(encoder.config.to_dict().get("use_attention_mask"))
    return encoder(read.input_ids, attention_mask=read.attention_mask if masked else None, output_hidden_states=True)


def _t5(parts: Parts, number: str, prompt: str, length: int) -> Tensor:
    encoder = parts[f"text_encoder{number}"]
    return encoder(_ids(parts[f"tokenizer{number}"], prompt, length, encoder.device).input_ids)[0]


def encode_sd(parts: Parts, prompt: str) -> Encoded:
    """Stable Diffusion 1 and 2: the last hidden states of CLIP."""
    return {"tokens": _clip(parts, "", prompt)[0]}


def encode_xl(parts: Parts, prompt: str) -> Encoded:
    """Stable Diffusion XL: the last hidden states but one of both CLIPs side by side, and what the second pools."""
    heard = [_clip(parts, number, prompt) for number in ("", "_2") if parts.get(f"text_encoder{number}") is not None]
    return {"tokens": torch.cat([one.hidden_states[-2] for one in heard], dim=-1), "pooled": heard[-1][0]}


def encode_sd3(parts: Parts, prompt: str) -> Encoded:
    """Stable Diffusion 3: both CLIPs side by side, filled with zeros to the width of T5, then its tokens."""
    length = parts["tokenizer"].model_max_length
    first, second = (_clip(parts, number, prompt, length) for number in ("", "_2"))
    clips = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
    if parts.get("text_encoder_3") is None:
        width = parts["transformer"].config.joint_attention_dim
        t5 = clips.new_zeros(1, T5_LENGTH_SD3, width)
    else:
        t5 = _t5(parts, "_3", prompt, T5_LENGTH_SD3)
    clips = torch.nn.functional.pad(clips, (0, t5.shape[-1] - clips.shape[-1]))
    return {"tokens": torch.cat([clips, t5], dim=1), "pooled": torch.cat([first[0], second[0]], dim=-1)}


def encode_flux(parts: Parts, prompt: str) -> Encoded:
    """Flux: the tokens of T5, and the pooled output of CLIP."""
    return {
        "tokens": _t5(parts, "_2", prompt, T5_LENGTH_FLUX),
        "pooled": _clip(parts, "", prompt).pooler_output,
    }


class Prompts:
    """Reads prompts into conditions; each distinct one is encoded once while it is among the last `REMEMBERED`.

    Args:
        parts: tokenisers and encoders.
        encode: (parts, prompt) -> a row of each tensor.
        fixed: tensors of one row that every condition has besides.
        zero_null: the null condition is zeros, and not the empty prompt.
    """

    null_trained = True

    def __init__(self, parts: Parts, encode: Encode, *, fixed: Encoded, zero_null: bool) -> None:
        self.zero_null = zero_null

        @lru_cache(maxsize=REMEMBERED)
        def remembered(prompt: str) -> Encoded:
            with torch.no_grad():
                return {**encode(parts, prompt), **fixed}

        self._row, self._fixed = remembered, fixed

    def read(self, wanted: Sequence[Condition]) -> Cond:
        """The conditions of prompts, a row each.

        Raises:
            ValueError: something else than a prompt.
        """
        prompts = [one for one in wanted if isinstance(one, str)]
        if len(prompts) != len(wanted):
            raise ValueError("this model takes prompts only: no class indices and no vectors. Give prompts.")
        return cat_rows([self._row(prompt) for prompt in prompts])

    def null(self, num: int) -> Cond:
        """The null condition of `num` samples, as guidance was trained with."""
        row = self._row("")
        if self.zero_null:
            row = {name: row[name] if name in self._fixed else torch.zeros_like(row[name]) for name in row}
        return expand_rows(row, num)
