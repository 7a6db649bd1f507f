"""Pictures of samples: labelled grids, animations, files of many kinds."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ebbflow.errors import ConfigError
from ebbflow.files import whole_file

if TYPE_CHECKING:
    from PIL import Image, ImageFont

TILE = 56  # tiny images are enlarged, by a whole factor, to at least about this side
GAP = 2
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
ANIMATION_SUFFIXES = (".webp", ".gif")


def to_picture(tile: Tensor) -> Image.Image:
    """A uint8 (C, H, W) image with 1, 3 or 4 channels as a PIL image."""
    from PIL import Image

    array = tile.permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)


def font_for(names: Sequence[str], size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font; where it lacks letters, that of matplotlib, which knows Latin, Greek and Cyrillic."""
    from PIL import ImageFont

    if not all(map(str.isascii, names)) and (found := find_spec("matplotlib")) and found.origin:
        wide = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if wide.is_file():
            return ImageFont.truetype(wide, size)
    return ImageFont.load_default(size=size)


def grid(
    images: Tensor, *, columns: int, row_names: Sequence[str] = (), column_names: Sequence[str] = ()
) -> Image.Image:
    """Images uint8 (N, C, H, W) in rows of `columns`, enlarged by nearest neighbour, with a name before each row and
    over each column where given."""
    from PIL import Image, ImageDraw

    factor = max(1, round(TILE / max(images.shape[2:])))
    height, width = (side * factor + GAP for side in images.shape[2:])
    rows = -(-len(images) // columns)
    size = max(12, min(20, height // 3))
    font = font_for((*row_names, *column_names), size)
    margin = max((int(font.getlength(name)) for name in row_names), default=-3 * GAP) + 3 * GAP
    widest = max((font.getlength(name) for name in column_names), default=0)
    small = font if widest <= width else font_for(column_names, max(8, int(size * width / widest)))
    top = size + 4 * GAP if column_names else 0
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[images.shape[1]]
    sheet = Image.new(mode, (margin + columns * width + GAP, top + rows * height + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for row, name in enumerate(row_names[:rows]):
        middle = top + GAP + row * height + height // 2
        draw.text((margin - 2 * GAP, middle), name, fill="black", font=font, anchor="rm")
    for column, name in enumerate(column_names[:columns]):
        middle = margin + GAP + column * width + width // 2
        draw.text((middle, top - GAP), name, fill="black", font=small, anchor="mb")
    for i, tile in enumerate(images):
        picture = to_picture(tile)
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
        sheet.paste(picture, (margin + (i % columns) * width + GAP, top + (i // columns) * height + GAP))
    return sheet


def save_picture(picture: Image.Image, path: Path, command: str = "") -> None:
    """Write a picture; a PNG carries the command that remakes it in its "ebbflow" text.

    Raises:
        ConfigError: a suffix that is no picture's.
    """
    from PIL.PngImagePlugin import PngInfo

    check_suffix(path, PICTURE_SUFFIXES)
    suffix = path.suffix.lower()
    with whole_file(path) as partial:
        if suffix == ".png":
            info = PngInfo()
            info.add_text("ebbflow", command)
            picture.save(partial, format="PNG", pnginfo=info)
        elif suffix == ".webp":
            picture.save(partial, format="WEBP", lossless=True)
        else:
            picture.convert("RGB").save(partial, format="JPEG", quality=95)


def save_animation(frames: Sequence[Image.Image], path: Path, *, seconds: float = 3.0) -> None:
    """Write frames as a looping WebP or GIF, the last one held for a second.

    Raises:
        ConfigError: another suffix.
    """
    check_suffix(path, ANIMATION_SUFFIXES)
    durations = [max(20, round(1000 * seconds / len(frames)))] * (len(frames) - 1) + [1000]
    with whole_file(path) as partial:
        frames[0].save(
            partial,
            format=path.suffix[1:].upper(),
            save_all=True,
            append_images=list(frames[1:]),
            duration=durations,
            loop=0,
            lossless=True,
        )


def check_suffix(path: Path, known: Sequence[str]) -> None:
    """Raise a ConfigError unless the suffix of `path` is one of `known`."""
    if path.suffix.lower() not in known:
        raise ConfigError(f"{path}: cannot write {path.suffix or 'a file without a suffix'!r}. Use {', '.join(known)}.")
