"""What data gets where nobody chose: a preset by the size of its pictures, and what their number and kind ask for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ebbflow.config import KINDS, AutoencoderConfig, DataConfig, Layer, RunConfig, merge, parse_as, read_preset
from ebbflow.data import Found, is_named
from ebbflow.data.convert import sides

SIZES = (16, 32, 64, 128, 256)  # a preset each; below these sides, rounded up by a quarter, its settings are taken
AFFORDED = {10_000: 64, 100_000: 128}  # large pictures are brought to this side while there are fewer than so many
MORE = ((1_000, 30, 4 / 3), (100_000, 180, 2))  # from so many pictures on: minutes, and channels beside the preset's
TRAIN, CODE_SIDE = "train", 32  # of latent.autoencoder: one is trained first, with codes of at most this side
PIXELS = 4 * 256 * 256  # of a batch of it: each place is a lesson, so a few large pictures are many


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What was chosen for some data.

    Args:
        preset: its name; "" for none.
        layer: the whole configuration below what the user says.
        said: what was chosen beside the preset, and how to choose otherwise.
        found: what it was chosen for, or None.
    """

    preset: str = ""
    layer: Layer = field(default_factory=dict)
    said: tuple[str, ...] = ()
    found: Found | None = None

    def under(self, above: Layer) -> Chosen:
        """The same without the sections whose kind does not know what `above` sets in them: a file that says ema.decay
        and no kind means the kind that has it."""
        kept = {name: section for name, section in self.layer.items() if _takes(name, section, above.get(name, {}))}
        return replace(self, layer=kept)


def _takes(name: str, section: dict[str, Any], above: dict[str, Any]) -> bool:
    if name not in KINDS or "kind" in above:
        return True
    registry, default = KINDS[name]
    return set(above) <= {f.name for f in fields(registry[section.get("kind", default)])}


def choose_for(found: Found, data: DataConfig, minutes: float | None = None) -> Chosen:
    """The preset for what was found, and what it is overlaid with.

    Pictures of one size up to 128 pixels stay as they are; larger and mixed ones are brought to a size that so many
    pictures can teach. Transparent ones are laid on white, and where one is coloured, all are read in colour.

    Args:
        data: what the user says of the data; a `size` and `channels` are kept.
        minutes: that the user gives it; fewer than the number of pictures asks for get no wider net.
    """
    if not found.is_image:
        layer = merge(read_preset("digits"), {"net": {"kind": "mlp"}})
        return Chosen(preset="digits", layer=layer, said=("net mlp",), found=found)
    if data.name == "digits" and data.size is None:
        return Chosen(preset="digits", layer=read_preset("digits"), found=found)
    size = None if data.buckets else data.size or _size_for(found)
    wanted = [*data.buckets, *([sides(size)] if size else [])]
    side = max((max(one) for one in wanted), default=found.side)
    preset = f"pictures_{next((one for one in SIZES if side <= 1.25 * one), SIZES[-1])}"
    below = read_preset(preset)
    flip = _is_safe_to_flip(found, data)
    keeps = is_named(data.name) or data.name.endswith(".npz")  # whose entries are all of one kind already
    channels = data.channels or (None if keeps else min(found.channels, 3))
    layers: list[Layer] = [
        {"data": {"size": size, "channels": channels, "flip": flip}},
        *_for_number(found.num, below, minutes),
    ]
    if found.num_pairs:
        layers.append({"conditioning": {"kind": "image"}})
    brought = [f"brought to {size}x{size} (`img_size`)"] if size and not data.size else []
    laid = ["laid on white (data.channels=4 keeps their opacity)"] if channels == 3 and found.channels == 4 else []
    mirrored = "mirrored at random (data.flip=false)" if flip else "not mirrored (data.flip=true)"
    return Chosen(preset=preset, layer=merge(below, *layers), said=(*brought, *laid, mirrored), found=found)


def _size_for(found: Found) -> int | None:
    """The side that pictures are brought to; None where they stay as they are."""
    if found.is_uniform and found.side <= 128:
        return None
    most = next((side for num, side in AFFORDED.items() if found.num < num), SIZES[-1])
    return max((one for one in SIZES if one <= min(most, found.side)), default=SIZES[0])


def _is_safe_to_flip(found: Found, data: DataConfig) -> bool:
    """Colour is of photographs and drawings, grey may be writing; what a label or caption says of left and right, and
    the pictures that pairs go by, would no longer fit."""
    colours = data.channels or found.channels
    return (
        colours >= 3
        and not found.tells_sides
        and not found.num_pairs
        and not (is_named(data.name) and data.name != "cifar10")
    )


def _for_number(num: int, preset: Layer, given: float | None) -> list[Layer]:
    """More minutes and wider nets for more pictures; the preset itself is made for hundreds and some minutes."""
    fitting = [more for least, *more in MORE if num >= least and (given is None or given >= more[0] / 2)]
    if not fitting:
        return []
    minutes, factor = fitting[-1]
    net: dict[str, Any] = {"channels": [16 * math.ceil(factor * width / 16) for width in preset["net"]["channels"]]}
    return [{"net": net, "train": {"minutes": minutes}}]


def autoencoder_for(config: RunConfig, dims: tuple[int, ...]) -> AutoencoderConfig:
    """The autoencoder that a run on images `dims` trains first: codes of at most 32x32, as long as the run itself, by a
    recipe for few steps (docs/experiments.md)."""
    halvings = max(1, math.ceil(math.log2(max(dims[1:]) / CODE_SIDE)))
    train, length = config.train, {"num_steps": config.train.num_steps, "minutes": config.train.minutes}
    return replace(
        parse_as(
            AutoencoderConfig,
            {
                "autoencoder": {
                    "channels": [16, 32, 64, *[64] * halvings][: halvings + 1],
                    "latent_channels": 8,
                    "shortcut": True,
                },
                "train": {
                    **{name: value for name, value in length.items() if value is not None},
                    "batch_size": min(train.batch_size, 16, max(4, PIXELS // math.prod(dims[1:]))),
                    "lr": 6e-3,
                    "warmup_steps": 20,
                    "seed": train.seed,
                    "sample_every": train.sample_every,
                },
                "optimiser": {"kind": "muon"},
            },
        ),
        data=config.data,
        engine=config.engine,
    )
