"""Pictures over the wire: uploads bounded before they are decoded, samples as files of bytes."""

from __future__ import annotations

import base64
import io
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from torch import Tensor

from ebbflow.errors import ConfigError, DataError
from ebbflow.show.canvas import to_picture

UPLOADS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")


@contextmanager
def uploaded(files: Mapping[str, bytes], most_pixels: int) -> Iterator[dict[str, Path]]:
    """Uploaded pictures by their names, as files that lie there for as long as this lasts; errors are told without
    where that was. One called `mask` is white where something is to be made: as it is, or, where it has transparency,
    white where it is transparent, as OpenAI's clients send it.

    Raises:
        DataError: no picture of a kind that is taken, or one of too many pixels.
    """
    with tempfile.TemporaryDirectory(prefix="ebbflow-") as place:
        kept = {name: Path(place) / f"{name}.png" for name in files}
        try:
            for name, path in kept.items():
                with _opened(files[name], name, most_pixels) as picture:
                    opacity = _opacity(picture) if name == "mask" else None
                if opacity is None:
                    path.write_bytes(files[name])
                else:
                    opacity.point([255] + [0] * 255).save(path, format="PNG")
            yield kept
        except ValueError as error:
            raise type(error)(str(error).replace(f"{place}/", "")) from error


def _opacity(mask: Image.Image) -> Image.Image | None:
    """How opaque a mask is; None where it is so everywhere."""
    try:
        found = mask.convert("RGBA").getchannel("A") if mask.has_transparency_data else None
    except Exception as error:  # on a damaged file Pillow's decoders raise nearly anything
        raise DataError(f"`mask` cannot be read as an image: {error}.") from error
    return None if found is None or found.getextrema()[0] == 255 else found


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
