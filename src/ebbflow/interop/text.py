"""What the text encoders of a pipeline say of a prompt: one row of each tensor that its net takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Parts = Mapping[str, Any]
Encoded = dict[str, Tensor]
Encode = Callable[[Parts, str], Encoded]
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
