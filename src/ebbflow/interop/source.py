"""Where a foreign model lies: its parts, read one by one, from safetensors only, with classes of the libraries only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ebbflow.errors import ConfigError, missing
from ebbflow.hub import must_be_local, unreachable

LIBRARIES = {"diffusers": "hf", "transformers": "text"}  # and the extra that brings each


@dataclass(frozen=True, kw_only=True)
class Source:
    """A saved pipeline or net.

    Args:
        name: a folder, or a name on the hub.
        index: model_index.json of a pipeline, config.json of a net.
        dtype, device: of the nets that are read.
        revision: of a name on the hub, None for the newest.
    """

    name: str
    index: Mapping[str, Any]
    dtype: torch.dtype
    device: torch.device
    revision: str | None = None

    @property
    def kind(self) -> str:
        """Name of the class that saved it."""
        return str(self.index.get("_class_name"))

    def part(self, name: str) -> Any | None:
        """One part of a pipeline; None where it was saved without.

        Raises:
            ConfigError: of a class that neither library has, or without the files that it needs.
        """
        origin, kind = self.index.get(name) or (None, None)
        return None if kind is None else self.read(_class(self.name, name, str(origin), kind), name)

    def read(self, cls: Any, subfolder: str = "") -> Any:
        """An object of a class from a subfolder; a net comes frozen, in evaluation and on the device.

        Raises:
            ConfigError: files that are missing, broken or no safetensors.
        """
        options: dict[str, Any] = {"subfolder": subfolder, "local_files_only": must_be_local(self.name)}
        options |= {} if self.revision is None else {"revision": self.revision}
        is_net, is_text = issubclass(cls, torch.nn.Module), cls.__module__.startswith("transformers.")
        dtype = torch.float32 if subfolder == "vae" else self.dtype
        if is_net:
            can_spare = find_spec("accelerate") is not None  # which loads without making random weights first
            sparing = {"dtype": dtype} if is_text else {"torch_dtype": dtype, "low_cpu_mem_usage": can_spare}
            options |= {"use_safetensors": True, **sparing}
        try:
            with torch.random.fork_rng(devices=[]):  # nets draw weights before they get theirs
                found = cls.from_pretrained(self.name, **options)
        except (OSError, ValueError, TypeError, KeyError) as error:
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            where = f"{subfolder} of {self.name}" if subfolder else self.name
            raise ConfigError(f"{where} cannot be loaded as {cls.__name__} from safetensors: {reason}") from error
        if not is_net:
            return found
        frozen = found.requires_grad_(False).eval().to(self.device)
        # Some nets of diffusers come in another dtype than asked for; T5 keeps layers in float32 on purpose.
        return frozen if is_text or frozen.dtype == dtype else frozen.to(dtype=dtype)


def open_source(
    folder_or_name: str | Path, *, device: torch.device | str, dtype: torch.dtype, revision: str | None = None
) -> Source:
    """A folder or a name on the hub, its index read.

    Raises:
        ConfigError: nothing of diffusers there.
        ImportError: diffusers is missing.
    """
    diffusers = library("diffusers")
    if str(folder_or_name) in ("", "."):
        raise ConfigError("hf: wants the folder of a diffusers model behind it, or its name on the hub.")
    folder = Path(folder_or_name).expanduser()
    if not folder.is_dir() and (folder.is_file() or folder.is_absolute() or str(folder_or_name).startswith((".", "~"))):
        raise ConfigError(f"{folder_or_name}: there is no such folder. Give one that diffusers saved a model in.")
    name = str(folder) if folder.is_dir() else str(folder_or_name)
    reason: Exception | None = None
    for cls in (diffusers.DiffusionPipeline, diffusers.UNet2DModel):
        try:
            index = cls.load_config(name, local_files_only=must_be_local(name), revision=revision)
        except (OSError, ValueError) as error:
            reason = reason or error
        else:
            if "_class_name" not in index:
                raise ConfigError(
                    f"{name} holds no model of diffusers: its config.json names no class. A run of ebbflow is opened "
                    "by its folder alone, without hf:."
                )
            return Source(name=name, index=index, dtype=dtype, device=torch.device(device), revision=revision)
    if said := unreachable(name):
        raise ConfigError(f"{name}: {said}") from reason
    line = str(reason).splitlines()[0]
    where = "in this folder" if folder.is_dir() else "on the hub"
    raise ConfigError(f"{name}: no pipeline and no net of diffusers {where}: {line}") from reason


def library(name: str) -> Any:
    """A package that models come from.

    Raises:
        ImportError: it is missing; the message says how to install it.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise missing("this model", name, LIBRARIES[name]) from error


def _class(source: str, part: str, origin: str, kind: str) -> Any:
    found = getattr(library(origin), kind, None) if origin in LIBRARIES else None
    if found is None:
        raise ConfigError(
            f"the {part} of {source} is a {origin}.{kind}, which the installed diffusers and transformers lack; "
            "code that comes with a model is never run."
        )
    return found
