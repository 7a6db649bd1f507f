"""Pictures over the wire: uploads bounded before they are decoded, samples as files of bytes."""

from __future__ import annotations

import base64
import io
import re
import warnings
from pathlib import Path

from PIL import Image
from torch import Tensor

from ebbflow.errors import ConfigError, DataError
from ebbflow.show.canvas import to_picture

UPLOADS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")


def keep(upload: bytes, path: Path, most_pixels: int) -> None:
    """Write an uploaded picture to `path`, after a look at its head alone.

    Raises:
        DataError: no picture of a kind that is taken, or one of too many pixels.
    """
    _opened(upload, path.name, most_pixels).close()
    path.write_bytes(upload)


def keep_mask(upload: bytes, path: Path, most_pixels: int) -> None:
    """Write an uploaded mask as a picture that is white where something is to be made: as it is, or, where it has
    transparency, white where it is transparent, as OpenAI's clients send it.

    Raises:
        DataError: as `keep`.
    """
    with _opened(upload, path.name, most_pixels) as picture:
        try:
            opacity = picture.convert("RGBA").getchannel("A") if picture.has_transparency_data else None
        except Exception as error:  # on a damaged file Pillow's decoders raise nearly anything
            raise DataError(f"`{path.name}` cannot be read as an image: {error}.") from error
    if opacity is None or opacity.getextrema()[0] == 255:
        path.write_bytes(upload)
    else:
        opacity.point([255] + [0] * 255).save(path, format="PNG")


def _opened(upload: bytes, name: str, most_pixels: int) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(upload), formats=UPLOADS)
    except Exception as error:
        raise DataError(f"`{name}` is not a picture that is taken here: {', '.join(UPLOADS)}.") from error
    if picture.width * picture.height > most_pixels:
        raise DataError(
            f"`{name}` has {picture.width} x {picture.height} pixels, and {most_pixels:,} are taken at most. "
            "Make it smaller."
        )
    return picture


def scale_of(size: str, dims: tuple[int, ...], most_pixels: int) -> int:
    """By how much images of a model are enlarged for a `size` of WIDTHxHEIGHT; 1 for auto.

    Raises:
        ConfigError: no size, or none that the model's images can be enlarged to.
    """
    if size == "auto":
        return 1
    height, width = dims[1:]
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", size)
    scale = int(found[1]) // width if found else 0
    if scale == 0 or size != f"{width * scale}x{height * scale}":
        raise ConfigError(f"`size` must be auto, {width}x{height} or a whole multiple of it, got {size[:20]!r}.")
    if width * height * scale**2 > most_pixels:
        raise ConfigError(f"`size` is beyond {most_pixels:,} pixels, got {size}.")
    return scale


def encoded(image: Tensor, kind: str = "png", scale: int = 1) -> bytes:
    """A uint8 image (C, H, W) as a file: png, webp (lossless) or jpeg."""
    picture, file = to_picture(image), io.BytesIO()
    if scale > 1:
        picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    if kind == "jpeg":
        picture.convert("RGB").save(file, format="JPEG", quality=95)
    else:
        picture.save(file, format=kind.upper(), **({"lossless": True} if kind == "webp" else {}))
    return file.getvalue()


def base64_of(image: Tensor, kind: str = "png", scale: int = 1) -> str:
    """The same as text."""
    return base64.b64encode(encoded(image, kind, scale)).decode()
