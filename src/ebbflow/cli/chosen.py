"""What a training is made of where the user chose nothing, and the lines that say what was found and chosen."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ebbflow.cli.command import spelled
from ebbflow.documents import read_json
from ebbflow.errors import ConfigError
from ebbflow.requests.training import TrainRequest
from ebbflow.values import Wrong

if TYPE_CHECKING:
    from ebbflow.config import AnyConfig, DataConfig, Layer, RunConfig
    from ebbflow.data import Dataset, Found
    from ebbflow.runs.choice import Chosen

DEFAULT_PRESET = "digits"
COLOURS = {1: "grey", 3: "colour", 4: "colour with opacity"}
GOES_BY = {
    "label": "labels",
    "text": "captions",
    "pretrained_text": "captions",
    "vector": "vectors",
    "image": "pictures",
    "none": "nothing",
}


def read_layer(path: Path) -> Layer:
    """The sections of a TOML file, or of the config.json that a run keeps.

    Raises:
        ConfigError: missing or malformed.
    """
    from ebbflow.config import read_toml

    if path.suffix.lower() != ".json":
        return read_toml(path)
    try:
        found = read_json(path)["config"]
        return {name: {key: v for key, v in section.items() if v is not None} for name, section in found.items()}
    except FileNotFoundError as error:
        raise ConfigError(f"configuration file {path} does not exist.") from error
    except (Wrong, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"configuration file {path} is no config.json of a run.") from error


def below(preset: str | None, file: Path | None, above: Layer, folder: Path) -> Chosen:
    """What lies under everything that the user says: the preset, or what the folder's run was begun with, or nothing
    under a file that says all, or what suits the data."""
    from ebbflow.config import read_preset
    from ebbflow.runs.choice import Chosen, choose_for
    from ebbflow.runs.folder import CONFIG, description

    if preset is not None:
        return Chosen(preset=preset, layer=read_preset(preset))
    if (begun := description(folder)) and begun.get("kind", "model") == "model":
        return Chosen(layer=read_layer(folder / CONFIG), said=("as it was begun",))
    if file is not None and file.suffix.lower() == ".json":
        return Chosen(said=(f"as in {file}",))
    found = _found(above)
    if found is None:
        return Chosen(preset=DEFAULT_PRESET, layer=read_preset(DEFAULT_PRESET))
    return choose_for(*found, above.get("train", {}).get("minutes")).under(above)


def fitting(above: Layer) -> Chosen:
    """The size and channels alone that suit the data, for what has no presets."""
    from ebbflow.runs.choice import Chosen, choose_for

    if (found := _found(above)) is None or not found[0].is_image:
        return Chosen()
    chosen = choose_for(*found)
    suits = {key: chosen.layer["data"].get(key) for key in ("size", "channels")}
    return Chosen(layer={"data": {key: value for key, value in suits.items() if value}}, said=chosen.said[:-1])


def _found(above: Layer) -> tuple[Found, DataConfig] | None:
    """What the data that a user names holds, and what he says of it; None where he names none."""
    from ebbflow.config import parse

    if "name" not in above.get("data", {}):
        return None
    data = parse({"data": above["data"]}).data
    return looked(data), data


def looked(data: DataConfig) -> Found:
    """What the data holds, told in a moment."""
    from ebbflow.data import look

    return look(data.name, data_dir=data.dir, skip_bad=data.skip_bad, held_out=data.held_out, columns=data.columns)


def told(found: Found, config: AnyConfig, data: Dataset, chosen: Chosen) -> list[str]:
    """What was found, what it is conditioned on and what is not used, and what was chosen, in a line each."""
    from ebbflow.config import RunConfig, kind_of
    from ebbflow.runs.build import facts_of, resolved

    dims = data.dims
    what = f"pictures of {'x'.join(map(str, dims))} in {COLOURS.get(dims[0], 'colour')}" if found.is_image else "points"
    worded = () if found.num_captions else ("text", "pretrained_text")  # where captions are made of labels
    has = {
        "label": (len(found.label_names), ("label", *worded)),
        "caption": (found.num_captions, ("text", "pretrained_text")),
        "vector": (found.num_vectors, ("vector",)),
        "pair": (found.num_pairs, ("image",)),
    }
    brings = [_many(num, name) for name, (num, _) in has.items() if num]
    held = f"{found.num_held_out:,} held out" if found.num_held_out else "none held out"
    place = f" of {data.name}" if config.data.name.startswith("hf:") else ""  # with the revision that it is
    lines = [", ".join([f"{found.num:,} {what}{place} ({found.num_train:,} to train on, {held})", *brings])]
    if isinstance(config, RunConfig):
        kind = kind_of("conditioning", resolved(config, facts_of(data)).conditioning)
        unused = [
            f"{_many(num, name)} not used (--set conditioning.kind={kinds[0]})"
            for name, (num, kinds) in has.items()
            if num and kind not in kinds
        ]
        lines.append("; ".join([f"conditioned on {GOES_BY.get(kind, kind)}", *unused]))
        lines += _first(config, dims)
    named = [f"preset {chosen.preset} (others: ebbflow list presets)"] if chosen.preset else []
    said = "; ".join([*named, *chosen.said])
    return [*lines, *([re.sub(r"\((?=[a-z]+\.)", "(--set ", spelled(said, TrainRequest))] if said else [])]


def _first(config: RunConfig, dims: tuple[int, ...]) -> list[str]:
    """What is trained before the run itself."""
    from ebbflow.runs.choice import TRAIN, autoencoder_for

    if config.latent.autoencoder != TRAIN:
        return []
    made = autoencoder_for(config, dims)
    codes = "x".join(str(-(-side // made.autoencoder.factor)) for side in dims[1:])
    length = f"{made.train.num_steps:,} steps" if made.train.minutes is None else f"{made.train.minutes:g} min"
    return [
        f"an autoencoder to codes of {made.autoencoder.latent_channels}x{codes} is trained first, for {length} "
        "(--set latent.autoencoder=FOLDER takes one that is trained)"
    ]


def _many(num: int, what: str) -> str:
    return f"{num:,} {what}{'' if num == 1 else 's'}"
