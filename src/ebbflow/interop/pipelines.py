"""The pipelines of diffusers that are known: how each calls its net, hears its prompts, and is sampled by default."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ebbflow.interop.text import Encode, encode_flux, encode_sd, encode_sd3, encode_xl

Call = Callable[[Any, Tensor, Tensor, Any], Tensor]
PATCH = 2  # side of the patches that Flux packs into tokens


def call_unet(net: Any, x: Tensor, clock: Tensor, cond: Tensor | None) -> Tensor:
    """UNet2DModel, with or without classes."""
    return net(x, clock, class_labels=cond, return_dict=False)[0]


def call_text_unet(net: Any, x: Tensor, clock: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
    """UNet2DConditionModel of Stable Diffusion 1, 2 and XL."""
    added = {"text_embeds": cond["pooled"], "time_ids": cond["time_ids"]} if "pooled" in cond else None
    return net(x, clock, encoder_hidden_states=cond["tokens"], added_cond_kwargs=added, return_dict=False)[0]


def call_dit(net: Any, x: Tensor, clock: Tensor, cond: Tensor) -> Tensor:
    """DiTTransformer2DModel."""
    return net(x, timestep=clock, class_labels=cond, return_dict=False)[0]


def call_sd3(net: Any, x: Tensor, clock: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
    """SD3Transformer2DModel."""
    return net(
        hidden_states=x,
        timestep=clock,
        encoder_hidden_states=cond["tokens"],
        pooled_projections=cond["pooled"],
        return_dict=False,
    )[0]


def call_flux(net: Any, x: Tensor, clock: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
    """FluxTransformer2DModel, which wants patches as tokens, their places, and time in [0, 1]."""
    rows, columns = x.shape[-2] // PATCH, x.shape[-1] // PATCH
    out = net(
        hidden_states=pack(x),
        timestep=clock / 1000,
        guidance=cond["guidance"] if net.config.guidance_embeds else None,
        pooled_projections=cond["pooled"],
        encoder_hidden_states=cond["tokens"],
        txt_ids=x.new_zeros(cond["tokens"].shape[1], 3),
        img_ids=_places(rows, columns).to(x),
        return_dict=False,
    )[0]
    return unpack(out, rows, columns)


def pack(x: Tensor) -> Tensor:
    """(B, C, H, W) as tokens (B, H W / 4, 4 C), one a patch of 2 x 2, channels first."""
    return torch.nn.functional.pixel_unshuffle(x, PATCH).flatten(2).transpose(1, 2)


def unpack(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """The inverse of `pack`."""
    return torch.nn.functional.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (rows, columns)), PATCH)


def _places(rows: int, columns: int) -> Tensor:
    """(0, row, column) of each token, shape (rows * columns, 3)."""
    return torch.cartesian_prod(torch.zeros(1), torch.arange(rows).float(), torch.arange(columns).float())


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A kind of pipeline.

    Args:
        net: name of the part that predicts.
        call: (net, x, raw clock, condition) -> its output.
        encode: how it hears a prompt; None for one without text.
        texts: its tokenisers and text encoders.
        optional: those of them that it can do without.
        has_space: whether it works on latents of an autoencoder.
        sampler, num_steps, guidance: how it is sampled when nothing else is said, the numbers being its own.
        multiple: what the sides of its latents must be a multiple of.
    """

    net: str
    call: Call
    encode: Encode | None = None
    texts: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    has_space: bool = True
    sampler: str = "ddim"
    num_steps: int = 50
    guidance: float = 1.0
    multiple: int = 1


def _text_parts(*numbers: str) -> tuple[str, ...]:
    return tuple(f"{kind}{number}" for number in numbers for kind in ("tokenizer", "text_encoder"))


PIPELINES: dict[str, Pipeline] = {
    "DDPMPipeline": Pipeline(net="unet", call=call_unet, has_space=False, sampler="ddpm", num_steps=1000),
    "DDIMPipeline": Pipeline(net="unet", call=call_unet, has_space=False),
    "DiTPipeline": Pipeline(net="transformer", call=call_dit, guidance=4.0),
    "StableDiffusionPipeline": Pipeline(
        net="unet", call=call_text_unet, encode=encode_sd, texts=_text_parts(""), guidance=7.5
    ),
    "StableDiffusionXLPipeline": Pipeline(
        net="unet",
        call=call_text_unet,
        encode=encode_xl,
        texts=_text_parts("", "_2"),
        optional=_text_parts(""),
        guidance=5.0,
    ),
    "StableDiffusion3Pipeline": Pipeline(
        net="transformer",
        call=call_sd3,
        encode=encode_sd3,
        texts=_text_parts("", "_2", "_3"),
        optional=_text_parts("_3"),
        sampler="euler",
        num_steps=28,
        guidance=7.0,
        multiple=2,
    ),
    "FluxPipeline": Pipeline(
        net="transformer",
        call=call_flux,
        encode=encode_flux,
        texts=_text_parts("", "_2"),
        sampler="euler",
        num_steps=28,
        multiple=PATCH,
    ),
}
