"""The convolutional autoencoder with a Gaussian code: images to a few small feature maps and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ebbflow.nets.blocks import group_norm, padded, zeroed
from ebbflow.values import Depth, Width, check_fields

LOG_VAR_LIMITS = (-30.0, 20.0)  # keeps exp(log_var) finite while the encoder is still wild
QUIET = -6.0  # log_var that a shortcut begins with: noise as loud as the code would hide it for some hundred steps


@dataclass(frozen=True, kw_only=True)
class AutoencoderOptions:
    """A KL autoencoder (Kingma & Welling, 2013, 1312.6114; as used by Rombach et al., 2021, section 3.1, 2112.10752).

    Args:
        channels: width at each resolution, finest first; each further entry halves the image.
        latent_channels: channels of the code.
        num_blocks: residual blocks a resolution.
        shortcut: add a linear map of the code's squares of pixels, there and back, beside which the convolutions begin
            at zero: colours are right after some ten steps instead of some thousand.
    """

    channels: tuple[Width, ...] = (32, 64, 64)
    latent_channels: Width = 4
    num_blocks: Depth = 1
    shortcut: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.channels:
            raise ValueError("`channels` must be one width or more, got none.")

    @property
    def factor(self) -> int:
        """How many pixels of a side make one place of the code: 2^(resolutions - 1)."""
        return 2 ** (len(self.channels) - 1)

    def build(self, dims: tuple[int, ...]) -> Autoencoder:
        """The autoencoder of images `dims` (C, H, W); only C is built in.

        Raises:
            ValueError: not images.
        """
        if len(dims) != 3:
            raise ValueError(f"an autoencoder works on images (C, H, W); these samples have shape {dims}.")
        return Autoencoder(self, dims[0])


class PlainBlock(nn.Module):
    """norm-SiLU-conv twice (the second one starting at zero), and the input added."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = group_norm(channels_in, 2), nn.Conv2d(channels_in, channels, 3, padding=1)
        self.norm2, self.conv2 = group_norm(channels, 2), zeroed(nn.Conv2d(channels, channels, 3, padding=1))
        self.skip = nn.Identity() if channels_in == channels else nn.Conv2d(channels_in, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(nn.functional.silu(self.norm1(x)))
        return self.skip(x) + self.conv2(nn.functional.silu(self.norm2(h)))


def _head(channels_in: int, channels: int) -> list[nn.Module]:
    return [group_norm(channels_in, 2), nn.SiLU(), nn.Conv2d(channels_in, channels, 3, padding=1)]


def _encoder(options: AutoencoderOptions, in_channels: int) -> nn.Sequential:
    now = options.channels[0]
    modules: list[nn.Module] = [nn.Conv2d(in_channels, now, 3, padding=1)]
    for level, width in enumerate(options.channels):
        if level > 0:
            modules.append(nn.Conv2d(now, now, 3, stride=2, padding=1))
        for _ in range(options.num_blocks):
            modules.append(PlainBlock(now, width))
            now = width
    return nn.Sequential(*modules, *_head(now, 2 * options.latent_channels))


def _decoder(options: AutoencoderOptions, out_channels: int) -> nn.Sequential:
    now = options.channels[-1]
    modules: list[nn.Module] = [nn.Conv2d(options.latent_channels, now, 3, padding=1)]
    for level, width in reversed(list(enumerate(options.channels))):
        modules += [PlainBlock(width, width) for _ in range(options.num_blocks)]
        if level > 0:
            now = options.channels[level - 1]
            modules += [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(width, now, 3, padding=1)]
    return nn.Sequential(*modules, *_head(now, out_channels))


def _shortcut(net: Autoencoder, channels: int) -> nn.ModuleList:
    """The linear maps from squares of pixels to a code and back, to squares twice as large that overlap and so show no
    edges; what they are added to is set to zero."""
    num, side = net.options.latent_channels, net.options.factor
    there = nn.Conv2d(channels, 2 * num, side, stride=side)
    wide = 2 * side if side > 1 else 1
    back = nn.ConvTranspose2d(num, channels, wide, stride=side, padding=(wide - side) // 2)
    for head in (net.encoder[-1], net.decoder[-1]):
        assert isinstance(head, nn.Conv2d)
        zeroed(head)
    with torch.no_grad():
        there.weight[num:].zero_()
        assert there.bias is not None
        there.bias[num:] = QUIET
    return nn.ModuleList([there, back])


class Autoencoder(nn.Module):
    """A KL autoencoder, q(z | x) = N(mean(x), exp(log_var(x))), of images of any height and width; see
    `AutoencoderOptions`."""

    def __init__(self, options: AutoencoderOptions, channels: int) -> None:
        super().__init__()
        self.options = options
        self.encoder, self.decoder = _encoder(options, channels), _decoder(options, channels)
        self.linear = _shortcut(self, channels) if options.shortcut else None

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the code of `x` (B, C, H, W), each (B, latent_channels, ceil(H/f), ceil(W/f)) with
        f = `options.factor`; the image is padded by its edge where f does not divide it."""
        whole = padded(x.to(self._dtype), self.options.factor)
        code = self.encoder(whole)
        if self.linear is not None:
            code = code + self.linear[0](whole)
        mean, log_var = code.chunk(2, dim=1)
        return mean, log_var.clamp(*LOG_VAR_LIMITS)

    def decode(self, z: Tensor) -> Tensor:
        """Images (B, C, f h, f w) of codes `z` (B, latent_channels, h, w)."""
        z = z.to(self._dtype)
        return self.decoder(z) if self.linear is None else self.decoder(z) + self.linear[1](z)

    def forward(self, x: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction, cut to the size of `x`, of mean + exp(log_var / 2) noise, with that mean and log_var; of the
        mean alone when `noise` is None."""
        mean, log_var = self.encode(x)
        z = mean if noise is None else torch.addcmul(mean, (log_var / 2).exp(), noise.to(mean))
        return self.decode(z)[..., : x.shape[-2], : x.shape[-1]], mean, log_var

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype


def kl_divergence(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mean, exp(log_var)) || N(0, I)) = 1/2 sum(mean^2 + exp(log_var) - 1 - log_var) of each sample, in nats.

    Args:
        mean, log_var: shape (B, ...).

    Returns:
        float32 (or wider) of shape (B,).
    """
    mean, log_var = (v if v.dtype == torch.float64 else v.float() for v in (mean, log_var))
    return (mean.square() + log_var.exp() - 1 - log_var).flatten(1).sum(1) / 2
