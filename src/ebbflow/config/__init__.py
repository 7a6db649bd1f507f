"""The configuration of a run: frozen dataclasses, read from TOML, settings a.b=c and JSON, with errors that name the
key and the cure."""

from __future__ import annotations

from ebbflow.config.reading import (
    merge,
    one_length,
    parse,
    parse_as,
    preset_folder,
    presets,
    read_preset,
    read_settings,
    read_toml,
)
from ebbflow.config.sections import (
    KINDS,
    LENGTHS,
    AnyConfig,
    AutoencoderConfig,
    ClassifierConfig,
    DataConfig,
    LatentConfig,
    Layer,
    ObjectiveConfig,
    RunConfig,
    SampleConfig,
    kind_of,
    to_dict,
)

__all__ = [
    "KINDS",
    "LENGTHS",
    "AnyConfig",
    "AutoencoderConfig",
    "ClassifierConfig",
    "DataConfig",
    "LatentConfig",
    "Layer",
    "ObjectiveConfig",
    "RunConfig",
    "SampleConfig",
    "kind_of",
    "merge",
    "one_length",
    "parse",
    "parse_as",
    "preset_folder",
    "presets",
    "read_preset",
    "read_settings",
    "read_toml",
    "to_dict",
]
