"""`load_diffusers`: a pipeline or a net of diffusers, put together as a Model of ours."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import Tensor, nn

from ebbflow.conditioning import DataFacts
from ebbflow.conditioning.pretrained import quiet
from ebbflow.config import SampleConfig
from ebbflow.core.condition import Cond
from ebbflow.core.paths import PATHS, DiscretePath, Path
from ebbflow.core.times import TIME_GRIDS
from ebbflow.errors import ConfigError, choose
from ebbflow.interop.pipelines import PIPELINES, Call, Pipeline, call_unet
from ebbflow.interop.readers import Classes, Prompts
from ebbflow.interop.schedule import Schedule, read_schedule
from ebbflow.interop.source import Source, library, open_source
from ebbflow.latent import DiffusersAutoencoder, LatentSpace
from ebbflow.methods.denoise import NetDenoiser
from ebbflow.methods.told import RawSteps
from ebbflow.runs.model import Model
from ebbflow.training.engine import pick_device

BARE = "UNet2DModel"
FLUX_SIDE = 128  # of its latents; its settings do not tell
NUM_EXAMPLES = 8  # classes that are shown when nothing is asked for
Size = int | tuple[int, int] | None
Dims = tuple[int, int, int]


class RawNet(nn.Module):
    """A net of diffusers as (x, clock, cond) -> output."""

    def __init__(self, net: nn.Module, call: Call) -> None:
        super().__init__()
        self.net, self.call = net, call

    def forward(self, x: Tensor, clock: Tensor, cond: Cond | None) -> Tensor:
        """Its output; the condition is brought to the dtype of `x`, which is the net's."""
        if isinstance(cond, Mapping):
            cond = {name: value.to(x.dtype) for name, value in cond.items()}
        return self.call(self.net, x, clock, cond)


def load_diffusers(
    folder_or_name: str | FilePath,
    *,
    revision: str | None = None,
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
        revision: of a name on the hub: a branch, a tag or a commit.
        device, dtype: where the net and the text encoders work, and in what; the autoencoder works in float32.
        size: of the images in pixels, a side or (height, width); None for what the model was made for.
        path, prediction: for a net alone, which tells neither: a path or its name, and a name of `PREDICTIONS`. On a
            discrete path of T entries the net is told the entry, counted from 0, and on another 1000 t.
        distilled_guidance: what a guidance-distilled Flux is told.

    Raises:
        ConfigError: nothing there, a kind that is not known, weights that are no safetensors, a size that does not fit.
        ImportError: diffusers is missing, or transformers where there is text.
        ValueError: the device is not available.
    """
    source = open_source(folder_or_name, revision=revision, device=pick_device(str(device)), dtype=dtype)
    if source.kind == BARE:
        return _net_alone(source, path, prediction, size)
    kind = choose(PIPELINES, source.kind, "kind of pipeline")
    if path is not None or prediction is not None:
        raise ConfigError("`path` and `prediction` are for a net alone: a pipeline's scheduler tells them.")
    return _pipeline(source, kind, _parts(source, kind), size, distilled_guidance)


def _net_alone(source: Source, path: Path | str | None, prediction: str | None, size: Size) -> Model:
    if path is None or prediction is None:
        raise ConfigError(
            f"{source.name} is a {source.kind} without a scheduler, which does not tell how it was trained. "
            "Give `path` and `prediction`, such as path='vp_discrete', prediction='eps'."
        )
    chosen = choose(PATHS, path, "path")() if isinstance(path, str) else path
    schedule = Schedule(
        path=chosen,
        prediction=prediction,
        clock=RawSteps(num_steps=chosen.num_steps) if isinstance(chosen, DiscretePath) else "time",
        grid=TIME_GRIDS["trailing" if isinstance(chosen, DiscretePath) else "uniform"],
        most_steps=chosen.num_steps if isinstance(chosen, DiscretePath) else 1000,
    )
    net = source.read(library("diffusers").UNet2DModel)
    kind = Pipeline(net="", call=call_unet, has_space=False)
    return _model(source, kind, net, schedule, _classes(source, net), _state_dims(net, kind, 1, size), None)


def _pipeline(source: Source, kind: Pipeline, parts: Mapping[str, Any], size: Size, distilled: float) -> Model:
    net = parts[kind.net]
    codec = DiffusersAutoencoder(parts["vae"]) if kind.has_space else None
    state = _state_dims(net, kind, 1 if codec is None else codec.factor, size)
    space = None if codec is None else _space(codec, state)
    schedule = read_schedule(
        _scheduler(source, parts["scheduler"]),
        num_tokens=state[1] * state[2] // kind.multiple**2,
        plain=source.kind == "FluxPipeline",
    )
    if kind.encode is None:
        return _model(source, kind, net, schedule, _classes(source, net), state, space)
    fixed: dict[str, Tensor] = {}
    if net.config.get("addition_embed_type") == "text_time":
        height, width = (state if space is None else space.dims)[1:]
        fixed["time_ids"] = torch.tensor([[height, width, 0, 0, height, width]], dtype=source.dtype)
    if net.config.get("guidance_embeds"):
        fixed["guidance"] = torch.tensor([distilled])
    zeros = source.kind == "StableDiffusionXLPipeline" and bool(source.index.get("force_zeros_for_empty_prompt", True))
    fixed = {name: value.to(source.device) for name, value in fixed.items()}
    prompts = Prompts(parts, kind.encode, fixed=fixed, zero_null=zeros)
    return _model(source, kind, net, schedule, prompts, state, space)


def _model(
    source: Source,
    kind: Pipeline,
    net: Any,
    schedule: Schedule,
    reader: Classes | Prompts | None,
    state: Dims,
    space: LatentSpace | None,
) -> Model:
    names = reader.names if isinstance(reader, Classes) else ()
    denoiser = NetDenoiser(
        net=RawNet(net, kind.call),
        path=schedule.path,
        prediction=schedule.prediction,
        scale="none",
        clock=schedule.clock,
        make_null=None if reader is None else reader.null,
        null_trained=reader is None or reader.null_trained,
    )
    facts = DataFacts(
        dims=state if space is None else space.dims,
        is_image=True,
        label_names=names,
        latent_dims=None if space is None else state,
    )
    defaults = SampleConfig(
        sampler=kind.sampler,
        num_steps=min(kind.num_steps, schedule.most_steps),
        guidance=kind.guidance,
        clip=schedule.clip and space is None,
        options={"variance": schedule.variance} if kind.sampler == "ddpm" else {},
    )
    return Model(
        denoiser=denoiser,
        facts=facts,
        name=FilePath(source.name).name,
        reader=reader,
        examples=tuple(range(len(names)))[:NUM_EXAMPLES],
        space=space,
        defaults=defaults,
        grid=schedule.grid,
        is_guidable=denoiser.null_trained,
        device=source.device,
    )


def _parts(source: Source, kind: Pipeline) -> dict[str, Any]:
    names = (kind.net, "scheduler", *kind.texts, *(("vae",) if kind.has_space else ()))
    with quiet(library("transformers")) if kind.texts else nullcontext():
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
    if kind.has_space and _channels(config, kind) != parts["vae"].config.latent_channels:
        raise ConfigError(
            f"the net of {source.name} takes {_channels(config, kind)} channels and its autoencoder makes "
            f"{parts['vae'].config.latent_channels}: it wants an image besides, which this does not give."
        )


def _channels(config: Mapping[str, Any], kind: Pipeline) -> int:
    """Channels of what a net works on; Flux counts those of a patch."""
    return int(config["in_channels"]) // (kind.multiple**2 if "guidance_embeds" in config else 1)


def _state_dims(net: Any, kind: Pipeline, factor: int, size: Size) -> Dims:
    """What the net works on: latents or images, (C, H, W)."""
    config, channels = net.config, _channels(net.config, kind)
    if size is None:
        side = config.get("sample_size", FLUX_SIDE)
        if side is None:
            raise ConfigError("this net does not tell its image size. Give `size`, in pixels.")
        height, width = (side, side) if isinstance(side, int) else side
        return channels, int(height), int(width)
    pixels = (size, size) if isinstance(size, int) else size
    if any(side < 1 or side % (factor * kind.multiple) for side in pixels):
        raise ConfigError(f"`size` must be a multiple of {factor * kind.multiple} pixels, got {size}.")
    return channels, pixels[0] // factor, pixels[1] // factor


def _space(codec: DiffusersAutoencoder, state: Dims) -> LatentSpace:
    """The latents z = (code - shift) * scale of a diffusers autoencoder, one image decoded at a time."""
    config: Any = codec.model.config
    # A space looks at an image to learn its shapes, and a pass at full size would cost seconds: they are set here.
    space = LatentSpace(codec, (int(config.in_channels), codec.factor, codec.factor))
    space.latent_dims = state
    space.dims = (int(config.in_channels), state[1] * codec.factor, state[2] * codec.factor)
    codec.model.enable_slicing()  # type: ignore[operator]
    spread = config.get("latents_std") or [1.0]
    space.mean.copy_(torch.tensor(config.get("latents_mean") or [config.get("shift_factor") or 0.0])[:, None, None])
    space.std.copy_(torch.tensor(spread)[:, None, None] / config.scaling_factor)
    return space


def _scheduler(source: Source, scheduler: Any) -> Any:
    """The scheduler as its pipeline uses it: Stable Diffusion 1 and 2 never clip, and count from entry 1."""
    fixed = {"steps_offset": 1, "clip_sample": False} if source.kind == "StableDiffusionPipeline" else {}
    config = scheduler.config
    return type(scheduler).from_config({**config, **{name: value for name, value in fixed.items() if name in config}})


def _classes(source: Source, net: Any) -> Classes | None:
    """The classes of a net that has some; only a transformer's training knew a null one."""
    is_dit = net.config.get("num_embeds_ada_norm") is not None
    num = net.config.num_embeds_ada_norm if is_dit else net.config.get("num_class_embeds")
    if num is None:
        return None
    known = source.index.get("id2label") or {}
    names = tuple(str(known.get(str(i), i)).split(",")[0] for i in range(num))
    return Classes(names=names, device=source.device, null_trained=is_dit)
