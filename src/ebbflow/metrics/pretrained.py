"""Features of pretrained vision transformers, read from a folder or a hub name."""

from __future__ import annotations

from dataclasses import dataclass
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
from ebbflow.values import Wrong

Kind = Literal["dinov2", "clip"]
LARGEST_SIDE = 224
STATISTICS: dict[str, tuple[list[float], list[float]]] = {  # mean and standard deviation of the inputs in [0, 1]
    "dinov2": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "clip": ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
}


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A vision transformer's embedding of an image: DINOv2's normalised class token (Oquab et al., 2023, 2304.07193) or
    CLIP's projected image embedding (Radford et al., 2021, 2103.00020).

    Images become three channels and are resized bicubically with antialiasing to the side the model takes, at most 224.

    Args:
        model: in evaluation mode.
        mean, std: of the inputs in [0, 1], float32 (1, 3, 1, 1).
        side: of the inputs in pixels.
        name, dim, facts: as in `FeatureMap`.
        device: where `model` is.
    """

    model: nn.Module
    kind: Kind
    mean: Tensor
    std: Tensor
    side: int
    name: str
    dim: int
    facts: dict[str, Any]
    device: torch.device

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        unit = x[:, :3].float().to(self.device) / 2 + 0.5
        unit = unit if unit.shape[1] == 3 else unit[:, :1].expand(-1, 3, -1, -1)
        sized = functional.interpolate(
            unit, size=(self.side, self.side), mode="bicubic", align_corners=False, antialias=True
        )
        return self._embed((sized.clamp(0, 1) - self.mean.to(self.device)) / self.std.to(self.device)).float().cpu()

    def _embed(self, pixels: Tensor) -> Tensor:
        out = self.model(pixel_values=pixels)
        return out.image_embeds if self.kind == "clip" else out.last_hidden_state[:, 0]


def pretrained(kind: Kind, source: str, data: Dataset, device: torch.device) -> Pretrained:
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
    model = model.to(device).eval().requires_grad_(False)
    mean, std = _statistics(kind, Path(source))
    digest = tensor_hash(*(value for _, value in sorted(model.state_dict().items())))
    side = min(int(model.config.image_size), LARGEST_SIDE)
    dim = int(model.config.projection_dim if kind == "clip" else model.config.hidden_size)
    return Pretrained(
        model=model,
        kind=kind,
        mean=torch.tensor(mean).view(1, 3, 1, 1),
        std=torch.tensor(std).view(1, 3, 1, 1),
        side=side,
        name=f"{kind}-{digest[:8]}",
        dim=dim,
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
