"""Features of pretrained vision transformers, read from a folder or a hub name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ebbflow.data import Dataset
from ebbflow.documents import read_json
from ebbflow.errors import ConfigError, missing
from ebbflow.hub import must_be_local, unreachable
from ebbflow.metrics.cache import tensor_hash
from ebbflow.metrics.feature_map import NetFeatures, in_colour
from ebbflow.values import Wrong

Kind = Literal["dinov2", "clip"]
LARGEST_SIDE = 224
STATISTICS: dict[str, tuple[list[float], list[float]]] = {  # mean and standard deviation of the inputs in [0, 1]
    "dinov2": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "clip": ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
}


class Embedding(nn.Module):
    """A vision transformer's embedding of images (B, C, H, W) in [-1, 1]: DINOv2's normalised class token (Oquab et
    al., 2023, 2304.07193) or CLIP's projected image embedding (Radford et al., 2021, 2103.00020).

    Images become three channels and are resized bicubically with antialiasing to the side the model takes, at most 224.

    Args:
        model, kind: the transformer, and what it is.
        mean, std: of the inputs in [0, 1], a number a channel.
        side: of the inputs in pixels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, kind: Kind, mean: list[float], std: list[float], side: int) -> None:
        super().__init__()
        self.model, self.kind, self.side = model, kind, side
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        size = (self.side, self.side)
        unit = functional.interpolate(
            in_colour(x) / 2 + 0.5, size=size, mode="bicubic", align_corners=False, antialias=True
        )
        out = self.model(pixel_values=(unit.clamp(0, 1) - self.mean) / self.std)
        return out.image_embeds if self.kind == "clip" else out.last_hidden_state[:, 0]


def pretrained(kind: Kind, source: str, data: Dataset, device: torch.device) -> NetFeatures[Embedding]:
    """The pretrained model in the folder or of the hub name `source`.

    Args:
        kind: what it is.
        source: such as "facebook/dinov2-small", or a folder with config.json and model.safetensors.
        data: images.
        device: where it runs.

    Raises:
        ImportError: transformers is not installed.
        ConfigError: the data has no images, or there is no such model.
    """
    if not data.is_image:
        raise ConfigError(f"features {kind!r} are of images, and data set {data.name!r} holds points.")
    try:
        from transformers import AutoModel, CLIPVisionModelWithProjection
    except ImportError as error:
        raise missing(f"the map {kind!r} of features", "transformers", "text") from error
    loader: Any = CLIPVisionModelWithProjection if kind == "clip" else AutoModel
    try:
        own = {"local_files_only": must_be_local(source), "trust_remote_code": False}
        model = loader.from_pretrained(source, use_safetensors=True, **own)
    except (OSError, ValueError, RuntimeError) as error:
        reason = unreachable(source) or str(error).splitlines()[0]
        raise ConfigError(f"no {kind} model could be read from {source!r}: {reason}") from error
    mean, std = _statistics(kind, Path(source))
    digest = tensor_hash(*(value for _, value in sorted(model.state_dict().items())))
    side = min(int(model.config.image_size), LARGEST_SIDE)
    return NetFeatures(
        net=Embedding(model, kind, mean, std, side).to(device).eval().requires_grad_(False),
        name=f"{kind}-{digest[:8]}",
        dim=int(model.config.projection_dim if kind == "clip" else model.config.hidden_size),
        facts={"source": source, "sha256": digest, "side": side, "mean": mean, "std": std},
        device=device,
    )


def _statistics(kind: Kind, folder: Path) -> tuple[list[float], list[float]]:
    """Mean and standard deviation as the model's own preprocessor_config.json has them, else the kind's."""
    try:
        said = read_json(folder / "preprocessor_config.json")
        return [float(m) for m in said["image_mean"]], [float(s) for s in said["image_std"]]
    except (OSError, ValueError, KeyError, TypeError, Wrong):
        return STATISTICS[kind]
