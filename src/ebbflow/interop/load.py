"""`load_diffusers`: a pipeline or a net of diffusers, put together as a Model of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, Protocol

import torch
from torch import Tensor

from ebbflow.conditioning import DataFacts
from ebbflow.conditioning.pretrained import _quiet
from ebbflow.core.condition import Cond, Condition
from ebbflow.core.paths import PATHS, DiscretePath, Path
from ebbflow.errors import ConfigError, choose
from ebbflow.interop.denoiser import RawDenoiser, raw_steps
from ebbflow.interop.model import Defaults, Model
from ebbflow.interop.pipelines import PIPELINES, Call, Pipeline, call_unet
from ebbflow.interop.schedule import read_schedule
from ebbflow.interop.source import Source, library, open_source
from ebbflow.interop.text import Prompts
from ebbflow.latent import DiffusersAutoencoder, LatentSpace

BARE = "UNet2DModel"
FLUX_SIDE = 128  # of its latents; its settings do not tell
Size = int | tuple[int, int] | None


class Reader(Protocol):
    """What becomes of a user's words."""

    @property
    def null_trained(self) -> bool:
        """Whether training knew the null condition."""
        ...

    def read(self, wanted: Sequence[Condition]) -> Cond:
        """The conditions, a row each."""
        ...

    def null(self, num: int) -> Cond:
        """The null condition of `num` samples."""
        ...


@dataclass(frozen=True, kw_only=True)
class Classes:
    """Class indices as a net takes them, the null one being the one behind the last."""

    names: tuple[str, ...]
    device: torch.device
    null_trained: bool = True

    def read(self, wanted: Sequence[Condition]) -> Tensor:
        """The indices, int64 (B,).

        Raises:
            ValueError: something else than an index, or one that the net does not have.
        """
        if not all(isinstance(one, int) and 0 <= one < len(self.names) for one in wanted):
            raise ValueError(f"this model takes class indices 0 to {len(self.names) - 1}, got {list(wanted)}.")
        return torch.tensor(wanted, device=self.device)

    def null(self, num: int) -> Tensor:
        """The index that stands for no class, int64 (num,)."""
        return torch.full((num,), len(self.names), device=self.device)


@dataclass(frozen=True, kw_only=True)
class RawNet:
    """A net of diffusers as (x, clock, cond) -> output, worked in its own dtype."""

    net: Any
    call: Call
    dtype: torch.dtype

    def __call__(self, x: Tensor, clock: Tensor, cond: Any) -> Tensor:
        return self.call(self.net, x.to(self.dtype), clock, cond)


def load_diffusers(
    folder_or_name: str | FilePath,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    size: Size = None,
    path: Path | str | None = None,
    prediction: str | None = None,
    distilled_guidance: float = 3.5,
) -> Model:
    """A pipeline or a net that diffusers saved, as a Model: sampled by our samplers, on our grids, with our guidance.

    Weights come from safetensors alone, no code that comes with a model is run, and a folder is read without a network.

    Args:
        folder_or_name: a folder of `save_pretrained`, or a name on the Hugging Face hub.
        device, dtype: where the net and the text encoders work, and in what; the autoencoder works in float32.
        size: of the images in pixels, a side or (height, width); None for what the model was made for.
        path, prediction: for a net alone, which tells neither: a path or its name, and a name of `PREDICTIONS`. On a
            discrete path of T entries the net is told the entry, counted from 0, and on another 1000 t.
        distilled_guidance: what a guidance-distilled Flux is told.

    Raises:
        ConfigError: nothing there, a kind that is not known, weights that are no safetensors, a size that does not fit.
        ImportError: diffusers is missing, or transformers where there is text.
    """
    source = open_source(folder_or_name, device=device, dtype=dtype)
    if source.kind == BARE:
        return _net_alone(source, path, prediction, size)
    kind = choose(PIPELINES, source.kind, "kind of pipeline")
    if path is not None or prediction is not None:
        raise ConfigError("`path` and `prediction` are for a net alone: a pipeline's scheduler tells them.")
    return _pipeline(source, kind, _parts(source, kind), size, distilled_guidance)


def _parts(source: Source, kind: Pipeline) -> dict[str, Any]:
    names = (kind.net, "scheduler", *kind.texts, *(("vae",) if kind.has_space else ()))
    with _quiet(library("transformers"), True) if kind.texts else nullcontext():
        parts: dict[str, Any] = {name: source.part(name) for name in names}
    for name, found in parts.items():
        if found is None and name not in kind.optional:
            raise ConfigError(f"{source.name} has no {name}, without which a {source.kind} does not work.")
    _check_net(source, kind, parts)
    return parts


def _check_net(source: Source, kind: Pipeline, parts: Mapping[str, Any]) -> None:
    """Refuse a net that wants to be told what no condition here says."""
    config = parts[kind.net].config
    if config.get("time_cond_proj_dim") is not None:
        raise ConfigError(f"{source.name} is a latent consistency model, whose jumps no sampler here makes.")
    if kind.has_space and _channels(config, kind.multiple) != parts["vae"].config.latent_channels:
        raise ConfigError(
            f"the net of {source.name} takes {_channels(config, kind.multiple)} channels and its autoencoder makes "
            f"{parts['vae'].config.latent_channels}: it wants an image besides, which this does not give."
        )


def _channels(config: Mapping[str, Any], multiple: int) -> int:
    """Channels of what a net works on; Flux counts those of a patch."""
    return int(config["in_channels"]) // (multiple**2 if "guidance_embeds" in config else 1)


def _pipeline(source: Source, kind: Pipeline, parts: Mapping[str, Any], size: Size, distilled: float) -> Model:
    net = parts[kind.net]
    factor = DiffusersAutoencoder(parts["vae"]).factor if kind.has_space else 1
    state = _state_dims(net, kind.multiple, factor, size)
    space = _space(parts["vae"], state) if kind.has_space else None
    dims = state if space is None else space.dims
    schedule = read_schedule(
        _scheduler(source, parts["scheduler"]),
        num_tokens=state[1] * state[2] // kind.multiple**2,
        plain=source.kind == "FluxPipeline",
    )
    reader = _reader(source, kind, parts, dims, distilled)
    defaults = Defaults(
        sampler=kind.sampler,
        num_steps=min(kind.num_steps, schedule.num_steps),
        grid=schedule.grid,
        guidance=kind.guidance,
        clip=schedule.clip and space is None,
        options={"variance": schedule.variance} if kind.sampler == "ddpm" else {},
    )
    return Model(
        denoiser=_denoiser(net, kind.call, schedule.path, schedule.prediction, schedule.num_steps, reader),
        facts=_facts(dims, reader, None if space is None else state),
        read=None if reader is None else reader.read,
        space=space,
        defaults=defaults,
        name=source.name,
    )


def _net_alone(source: Source, path: Path | str | None, prediction: str | None, size: Size) -> Model:
    if path is None or prediction is None:
        raise ConfigError(
            f"{source.name} is a {source.kind} without a scheduler, which does not tell how it was trained. "
            "Give `path` and `prediction`, such as path='vp_discrete', prediction='eps'."
        )
    chosen = choose(PATHS, path, "path")() if isinstance(path, str) else path
    net = source.read(library("diffusers").UNet2DModel)
    reader = _classes(source, net)
    dims = _state_dims(net, 1, 1, size)
    num_steps = chosen.num_steps if isinstance(chosen, DiscretePath) else 1000
    grid = "trailing" if isinstance(chosen, DiscretePath) else "uniform"
    return Model(
        denoiser=_denoiser(net, call_unet, chosen, prediction, num_steps, reader),
        facts=_facts(dims, reader, None),
        read=None if reader is None else reader.read,
        space=None,
        defaults=Defaults(sampler="ddim", num_steps=min(50, num_steps), grid=grid),
        name=source.name,
    )


def _denoiser(net: Any, call: Call, path: Path, prediction: str, num_steps: int, reader: Reader | None) -> RawDenoiser:
    return RawDenoiser(
        net=RawNet(net=net, call=call, dtype=net.dtype),
        path=path,
        prediction=prediction,
        clock=raw_steps(num_steps) if isinstance(path, DiscretePath) else lambda path, t: t * num_steps,
        make_null=None if reader is None else reader.null,
        null_trained=reader is None or reader.null_trained,
    )


def _facts(dims: tuple[int, ...], reader: Reader | None, latent_dims: tuple[int, ...] | None) -> DataFacts:
    names = reader.names if isinstance(reader, Classes) else ()
    return DataFacts(dims=dims, is_image=True, label_names=names, latent_dims=latent_dims)


def _state_dims(net: Any, multiple: int, factor: int, size: Size) -> tuple[int, int, int]:
    """What the net works on: latents or images, (C, H, W)."""
    config, channels = net.config, _channels(net.config, multiple)
    if size is None:
        side = config.get("sample_size", FLUX_SIDE)
        if side is None:
            raise ConfigError("this net does not tell its image size. Give `size`, in pixels.")
        height, width = (side, side) if isinstance(side, int) else side
        return channels, int(height), int(width)
    pixels = (size, size) if isinstance(size, int) else size
    if any(side < 1 or side % (factor * multiple) for side in pixels):
        raise ConfigError(f"`size` must be a multiple of {factor * multiple} pixels, got {size}.")
    return channels, pixels[0] // factor, pixels[1] // factor


def _space(vae: Any, state: tuple[int, int, int]) -> LatentSpace:
    """The latents z = (code - shift) * scale of a diffusers autoencoder, one image decoded at a time."""
    codec, config = DiffusersAutoencoder(vae), vae.config
    # A space looks at an image to learn its shapes, and a pass at full size would cost seconds: they are set here.
    space = LatentSpace(codec, (int(config.in_channels), codec.factor, codec.factor))
    space.latent_dims = state
    space.dims = (int(config.in_channels), state[1] * codec.factor, state[2] * codec.factor)
    vae.enable_slicing()
    spread = config.get("latents_std") or [1.0]
    space.mean.copy_(torch.tensor(config.get("latents_mean") or [config.get("shift_factor") or 0.0])[:, None, None])
    space.std.copy_(torch.tensor(spread)[:, None, None] / config.scaling_factor)
    return space


def _scheduler(source: Source, scheduler: Any) -> Any:
    """The scheduler as its pipeline uses it: Stable Diffusion 1 and 2 never clip, and count from entry 1."""
    fixed = {"steps_offset": 1, "clip_sample": False} if source.kind == "StableDiffusionPipeline" else {}
    config = scheduler.config
    return type(scheduler).from_config({**config, **{name: value for name, value in fixed.items() if name in config}})


def _reader(
    source: Source, kind: Pipeline, parts: Mapping[str, Any], dims: tuple[int, ...], distilled: float
) -> Reader | None:
    net = parts[kind.net]
    if kind.encode is None:
        return _classes(source, net)
    fixed: dict[str, Tensor] = {}
    if net.config.get("addition_embed_type") == "text_time":
        fixed["time_ids"] = torch.tensor([[*dims[1:], 0, 0, *dims[1:]]], dtype=source.dtype, device=source.device)
    if net.config.get("guidance_embeds"):
        fixed["guidance"] = torch.tensor([distilled], dtype=torch.float32, device=source.device)
    zeros = source.kind == "StableDiffusionXLPipeline" and bool(source.index.get("force_zeros_for_empty_prompt", True))
    return Prompts(parts, kind.encode, fixed=fixed, zero_null=zeros)


def _classes(source: Source, net: Any) -> Classes | None:
    """The classes of a net that has some; only a transformer's training knew a null one."""
    is_dit = net.config.get("num_embeds_ada_norm") is not None
    num = net.config.num_embeds_ada_norm if is_dit else net.config.get("num_class_embeds")
    if num is None:
        return None
    known = source.index.get("id2label") or {}
    names = tuple(str(known.get(str(i), i)).split(",")[0] for i in range(num))
    return Classes(names=names, device=source.device, null_trained=is_dit)
