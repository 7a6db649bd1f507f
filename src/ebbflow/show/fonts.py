"""Fonts that have the letters of a text: text in pictures is never boxes."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import ImageFont

# parts of the names of files that hold many scripts, on Linux, Windows and macOS; they are looked into first
WIDE = ("notosanscjk", "sourcehansans", "wqy", "msyh", "pingfang", "hiragino", "simhei", "malgun", "arialuni", "droid")
BOXES = ("emoji", "lastresort", "adobeblank")  # pictures, or boxes by purpose


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, or where it lacks letters of `text` one of this machine that has them all."""
    from PIL import ImageFont

    if text.isascii() or (file := _file_for(frozenset(text))) is None:
        return ImageFont.load_default(size=size)
    return ImageFont.truetype(file, size)


def writable(texts: Sequence[str]) -> list[str]:
    """`texts` as the fonts of this machine can write them: without their accents, or else as their numbers, where no
    font has their letters; what a number stands for is a warning."""
    found = [_plain(text) or (f"[{i}]" if text else "") for i, text in enumerate(texts, start=1)]
    numbered = [f"{said} is {text}" for said, text in zip(found, texts, strict=True) if text and not _plain(text)]
    if numbered:
        warnings.warn(
            f"no font here has the letters of some names, so they are numbers in the picture: {', '.join(numbered)}. "
            "Install one, such as Noto Sans CJK.",
            stacklevel=2,
        )
    return found


def _plain(text: str) -> str:
    """The text, or it without accents; "" where neither can be written."""
    if text.isascii() or _file_for(frozenset(text)) is not None:
        return text
    bare = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return bare if bare.isascii() or _file_for(frozenset(bare)) is not None else ""


def let_be_read(figure: Figure) -> None:
    """Have texts of a matplotlib figure in letters that can be written, with a second family where the first lacks
    them."""
    from matplotlib.font_manager import FontProperties, fontManager
    from matplotlib.text import Text

    texts = [one for one in figure.findobj(Text) if isinstance(one, Text) and not one.get_text().isascii()]
    for one, said in zip(texts, writable([one.get_text() for one in texts]), strict=True):
        one.set_text(said)
        if (file := None if said.isascii() else _file_for(frozenset(said))) is not None:
            fontManager.addfont(file)
            one.set_fontfamily([*one.get_fontfamily(), FontProperties(fname=file).get_name()])


@cache
def _file_for(letters: frozenset[str]) -> str | None:
    """The first font that has all letters."""
    wanted = {ord(letter) for letter in letters if not letter.isspace()}
    return next((file for file in _files() if wanted <= _letters_of(file)), None)


@cache
def _files() -> tuple[str, ...]:
    """The fonts of matplotlib and of this machine, those of many scripts first."""
    import matplotlib
    from matplotlib.font_manager import findSystemFonts

    def place(file: str) -> tuple[bool, str]:
        return not any(part in _name(file) for part in WIDE), file

    own = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    system: Iterable[str] = (file for file in findSystemFonts() if not any(part in _name(file) for part in BOXES))
    return (str(own), *sorted(system, key=place))


def _name(file: str) -> str:
    return Path(file).name.lower().replace("-", "").replace(" ", "")


@cache
def _letters_of(file: str) -> frozenset[int]:
    """The code points that a font has; none where it cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(file).get_charmap())
    except (RuntimeError, OSError):
        return frozenset()
