"""Latent spaces: an autoencoder, frozen, with its codes brought to mean 0 and standard deviation 1."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ebbflow.core.device import weighed
from ebbflow.core.shape import in_float64
from ebbflow.data import Dataset
from ebbflow.errors import missing
from ebbflow.nets.autoencoder import Autoencoder, AutoencoderOptions
from ebbflow.nets.blocks import padded
from ebbflow.values import Width, convert, record

BATCH = 64
SMALLEST_STD = 1e-6  # a channel that never varies is only shifted


class Codec(Protocol):
    """What a latent space needs of an autoencoder, wherever it comes from; it is a torch module too."""

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the code of images in [-1, 1]."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """Images of codes, possibly larger than what was encoded, below and to the right."""
        ...


class LatentSpace(nn.Module):
    """z = (E[code | x] - mean) / std by channel, with the autoencoder frozen; about N(0, 1) over the data.

    The code is the posterior's mean, so that a data set is encoded once and the same image has one latent. Gradients
    pass through to x and to z, never to the autoencoder.

    Args:
        autoencoder: a `Codec`; set to float32, evaluation and no gradients.
        dims: shape (C, H, W) of the images.

    Raises:
        ValueError: the autoencoder does not take images of `dims`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, autoencoder: nn.Module, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.autoencoder, self.dims = autoencoder.float().requires_grad_(False).eval(), dims
        device = next(autoencoder.parameters()).device
        try:
            with torch.no_grad():
                code = self._codec.encode(torch.zeros(1, *dims, device=device))[0]
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"the autoencoder does not take images of {dims}: {reason}") from error
        self.latent_dims: tuple[int, ...] = tuple(code.shape[1:])
        for name, fill in (("mean", 0.0), ("std", 1.0)):
            self.register_buffer(name, torch.full((code.shape[1], 1, 1), fill, device=device))

    def train(self, mode: bool = True) -> LatentSpace:
        """Stays in evaluation, whatever `mode`."""
        return super().train(False)

    def encode(self, x: Tensor) -> Tensor:
        """Latents of images, float32 (B, *latent_dims) on this space's device.

        Args:
            x: shape (B, *dims), values in [-1, 1]; worked on in batches.

        Raises:
            ValueError: another shape.
        """
        if tuple(x.shape[1:]) != self.dims:
            raise ValueError(f"this latent space holds images of {self.dims}, got {tuple(x.shape[1:])}.")
        return self._each(self.latents, x)

    def latents(self, x: Tensor) -> Tensor:
        """`encode` of a single batch, float32 on this space's device."""
        return (self._codec.encode(x)[0] - self.mean) / self.std

    def decode(self, z: Tensor) -> Tensor:
        """Images of latents, float32 (B, *dims) on this space's device; about [-1, 1], not clamped.

        Args:
            z: shape (B, *latent_dims); worked on in batches.

        Raises:
            ValueError: another shape.
        """
        if tuple(z.shape[1:]) != self.latent_dims:
            raise ValueError(f"latents of this space have shape {self.latent_dims}, got {tuple(z.shape[1:])}.")
        return self._each(self.images, z)

    def images(self, z: Tensor) -> Tensor:
        """`decode` of a single batch, float32 on this space's device."""
        height, width = self.dims[1:]
        return self._codec.decode(z * self.std + self.mean)[..., :height, :width]

    @torch.no_grad()
    def measure(self, batches: Iterable[Tensor]) -> None:
        """Set mean and std, by channel and over all places, from images (B, *dims) that come in batches.

        Raises:
            ValueError: no batch.
        """
        total: Tensor | None = None
        count = 0
        for x in batches:
            code = in_float64(self._codec.encode(x.float().to(self.mean.device))[0]).transpose(0, 1).flatten(1)
            moments = torch.stack([code.sum(1), code.square().sum(1)])
            total = moments if total is None else total + moments
            count += code.shape[1]
        if total is None:
            raise ValueError("the latent statistics need at least one batch of images.")
        mean, square = total / count
        self.mean.copy_(mean[:, None, None])
        std = (square - mean.square()).clamp_min(0).sqrt()
        self.std.copy_(torch.where(std < SMALLEST_STD, 1.0, std)[:, None, None])

    def _each(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        device = self.mean.device
        return torch.cat([function(part.to(device=device, dtype=torch.float32)).float() for part in x.split(BATCH)])

    @property
    def _codec(self) -> Codec:
        return self.autoencoder  # type: ignore[return-value]

    def description(self) -> dict[str, Any]:
        """What `from_description` needs besides the tensors, ready for JSON."""
        kind = next(name for name, cls in AUTOENCODERS.items() if isinstance(self.autoencoder, cls))
        return {"kind": kind, "options": _options(self.autoencoder), "dims": list(self.dims)}


class DiffusersAutoencoder(nn.Module):
    """diffusers' AutoencoderKL as a `Codec`; images are padded by their edge where it needs even sides.

    Args:
        model: the AutoencoderKL.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        config: Mapping[str, Any] = model.config  # type: ignore[assignment]
        self.options = {key: value for key, value in config.items() if not key.startswith("_")}
        self.factor = 2 ** (len(self.options["block_out_channels"]) - 1)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, without diffusers' own scaling factor."""
        found = self.model.encode(padded(x, self.factor)).latent_dist  # type: ignore[operator]
        return found.mean, found.logvar

    def decode(self, z: Tensor) -> Tensor:
        """Images of codes."""
        return self.model.decode(z).sample  # type: ignore[operator]


AUTOENCODERS: dict[str, type[Autoencoder] | type[DiffusersAutoencoder]] = {
    "conv": Autoencoder,
    "hf": DiffusersAutoencoder,
}


def diffusers_class() -> Any:
    """diffusers' AutoencoderKL.

    Raises:
        ImportError: diffusers is missing.
    """
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        raise missing("an hf: autoencoder", "diffusers", "hf") from error
    return AutoencoderKL


def _options(autoencoder: nn.Module) -> dict[str, Any]:
    assert isinstance(autoencoder, (Autoencoder, DiffusersAutoencoder))
    options = autoencoder.options
    return asdict(options) if isinstance(options, AutoencoderOptions) else options


def from_description(description: Mapping[str, Any]) -> LatentSpace:
    """A latent space as `LatentSpace.description` told of it, its tensors still to be loaded.

    Raises:
        ImportError: it needs diffusers, which is missing.
        KeyError, TypeError, ValueError, Wrong: not such a description.
    """
    dims, options = convert(tuple[Width, ...], description["dims"]), dict(description["options"])
    if description["kind"] == "hf":
        return LatentSpace(DiffusersAutoencoder(diffusers_class().from_config(options)), dims)
    own = record(AutoencoderOptions, options)
    return LatentSpace(weighed(lambda: own.build(dims), "this autoencoder", "Its file is not to be trusted."), dims)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Encoded(Dataset):
    """A data set of images whose `x0` are their latents.

    Args:
        latents: float32 (N, *latent_dims).
    """

    latents: Tensor

    @property
    def latent_dims(self) -> tuple[int, ...]:
        """Shape of one latent."""
        return tuple(self.latents.shape[1:])

    def x0(self, indices: Tensor) -> Tensor:
        """The latents at `indices`, a copy."""
        return self.latents[indices]

    def select(self, indices: Tensor) -> Encoded:
        """The data set made of the entries at `indices`, in that order."""
        return Encoded(**vars(super().select(indices)), latents=self.latents[indices])


@torch.no_grad()
def encoded(dataset: Dataset, space: LatentSpace) -> Encoded:
    """`dataset` with the latents of its images, all in memory; 4 bytes a number."""
    latents = [space.encode(x0).cpu() for x0 in batches_of(dataset)]
    empty = torch.empty(0, *space.latent_dims)
    return Encoded(**vars(dataset), latents=torch.cat(latents) if latents else empty)


def batches_of(dataset: Dataset) -> Iterable[Tensor]:
    """The images of a data set in [-1, 1], some at a time."""
    return (dataset.x0(rows) for rows in torch.arange(len(dataset)).split(BATCH) if len(rows))
