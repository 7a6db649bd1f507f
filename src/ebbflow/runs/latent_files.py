"""Latent spaces on disk: where a run's comes from, its copy in the run's folder, and the data brought into it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebbflow.config import RunConfig
from ebbflow.data import Dataset, Splits
from ebbflow.documents import parsed, read_json
from ebbflow.errors import CheckpointError, ConfigError
from ebbflow.files import load_described, save_tensors
from ebbflow.hub import must_be_local, unreachable
from ebbflow.latent import (
    BATCH,
    DiffusersAutoencoder,
    Encoded,
    LatentSpace,
    batches_of,
    diffusers_class,
    encoded,
    from_description,
)
from ebbflow.metrics.cache import cache_folder, data_hash, key_of, mapped, slug
from ebbflow.training import checkpoint, engine
from ebbflow.values import Wrong

FILE = "latent.safetensors"  # in a run's folder and in each of its checkpoints
MODEL = "model.safetensors"  # in an autoencoder's folder
HF = "hf:"


def save_space(space: LatentSpace, path: Path) -> None:
    """Write a latent space as one safetensors file that describes itself."""
    save_tensors(space.state_dict(), path, {"ebbflow": json.dumps(space.description())})


def read_space(path: Path) -> LatentSpace:
    """The latent space in a file that `save_space` wrote.

    Raises:
        CheckpointError: missing, unreadable, or something else.
        ImportError: it needs diffusers, which is missing.
    """
    tensors, metadata = load_described(path)
    return space_of(tensors, metadata, path)


def space_of(tensors: dict[str, Tensor], metadata: Mapping[str, str], path: Path) -> LatentSpace:
    """The latent space of the tensors and metadata that a file held; see `read_space`.

    Args:
        path: the file, for messages.

    Raises:
        CheckpointError: they describe no autoencoder of this version, or do not fit what they describe.
        ImportError: it needs diffusers, which is missing.
    """
    try:
        space = from_description(parsed(metadata["ebbflow"], dict[str, Any]))
    except (KeyError, TypeError, ValueError, Wrong) as error:
        raise CheckpointError(f"{path} does not describe an autoencoder of this version: {error}.") from error
    checkpoint.load_weights(space, tensors, path)
    return space


def fingerprint(space: LatentSpace) -> str:
    """A hash of the autoencoder's weights and of what it is, its statistics left out."""
    digest = hashlib.sha256(json.dumps(space.description(), sort_keys=True).encode())
    for name, value in sorted(space.autoencoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def open_latent_space(config: RunConfig, data: Dataset, folder: Path) -> LatentSpace | None:
    """The latent space that a run works in; None for a run without one.

    A folder that already holds the run gives its own copy of the autoencoder, which the configured one has to equal
    where it still exists.

    Raises:
        ConfigError: no such autoencoder, one for other images, or another one than the folder's.
        ImportError: it needs diffusers, which is missing.
    """
    source = config.latent.autoencoder
    if source is None:
        return None
    if not data.is_image:
        raise ConfigError(f"latent.autoencoder needs images; {config.data.name!r} holds points. Leave it out.")
    return _own_or_source(source, folder, data).to(engine.pick_device(config.engine.device))


def encode(splits: Splits, space: LatentSpace | None) -> Splits:
    """The data in the latent space, each image encoded as the mean of its code, once for all runs; as it is without a
    space.

    Raises:
        ConfigError: there is no room for the latents.
    """
    if space is None:
        return splits
    return Splits(**{name: _encoded(data, space) for name, data in vars(splits).items()})


def _encoded(data: Dataset, space: LatentSpace) -> Encoded:
    """`data` with its latents, which lie in a file of the cache that memory is mapped to."""
    if len(data) <= BATCH:  # of a dry run
        return encoded(data, space)
    path = cache_folder("latents") / f"{slug(data.name)}-{_key(space, data)}.f32"
    coded = (space.encode(x0) for x0 in batches_of(data))
    return Encoded(**vars(data), latents=mapped(path, (len(data), *space.latent_dims), coded))


def _key(space: LatentSpace, data: Dataset) -> str:
    """A hash of all that latents depend on."""
    statistics = [space.mean.flatten().tolist(), space.std.flatten().tolist()]
    return key_of(fingerprint(space), statistics, data_hash(data))


def store_copy(space: LatentSpace | None, folder: Path) -> Path | None:
    """The run's own copy of its latent space, written where it does not hold it."""
    if space is None:
        return None
    if not (folder / FILE).is_file():
        save_space(space, folder / FILE)
    return folder / FILE


def _own_or_source(source: str, folder: Path, data: Dataset) -> LatentSpace:
    if not (folder / FILE).is_file():
        return load_space(source, data)
    own = read_space(folder / FILE)
    _require_dims(own, data, str(folder / FILE))
    if _is_local(source) and fingerprint(load_space(source, data, measure=False)) != fingerprint(own):
        raise ConfigError(
            f"{source} is not the autoencoder that {folder} was trained with. Choose another `save_dir`, or go on with "
            f"the old one by the setting latent.autoencoder={folder / FILE}."
        )
    return own


def load_space(source: str, data: Dataset, *, measure: bool = True) -> LatentSpace:
    """The latent space of `source` for images like those of `data`.

    Args:
        source: a folder of `ebbflow train-autoencoder`, a latent space's file or a run that has one, or "hf:" and the
            folder or hub name of a diffusers AutoencoderKL, whose statistics are then taken over `data`.
        measure: take them.

    Raises:
        ConfigError: not there, unfinished, or for other images.
        ImportError: it needs diffusers, which is missing.
    """
    if source.startswith(HF):
        space = _space_of(load_diffusers(source.removeprefix(HF)), data, source)
        if measure:
            space.measure(batches_of(data))
        return space
    try:
        space = read_space(_file_of(Path(source).expanduser(), data))
    except CheckpointError as error:
        raise ConfigError(f"latent.autoencoder: {error}") from error
    _require_dims(space, data, source)
    return space


def _space_of(autoencoder: DiffusersAutoencoder, data: Dataset, source: str) -> LatentSpace:
    wanted = autoencoder.options["in_channels"]
    if data.dims[0] != wanted:
        raise ConfigError(
            f"the autoencoder {source} takes images of {wanted} channels, {data.name!r} has {_shape(data.dims)}. "
            f"Use `channels` {wanted}."
        )
    return LatentSpace(autoencoder, data.dims)


def _require_dims(space: LatentSpace, data: Dataset, source: str) -> None:
    if space.dims != data.dims:
        raise ConfigError(
            f"the autoencoder {source} is made for images of {_shape(space.dims)}, {data.name!r} has "
            f"{_shape(data.dims)}. Use `size` and `channels`, or train one with ebbflow train-autoencoder."
        )


def _shape(dims: tuple[int, ...]) -> str:
    return "x".join(map(str, dims))


def _is_local(source: str) -> bool:
    return Path(source.removeprefix(HF)).expanduser().exists()


def _file_of(path: Path, data: Dataset) -> Path:
    """The file of the latent space in a folder, or the path itself."""
    if not path.exists():
        raise ConfigError(
            f"latent.autoencoder: {path} does not exist. Make it of {data.name} with `ebbflow train-autoencoder`."
        )
    if path.is_file():
        return path
    found = next((path / name for name in (FILE, MODEL) if (path / name).is_file()), None)
    if found is None and (kind := _kind(path / "config.json")) not in (None, "autoencoder"):
        raise ConfigError(
            f"latent.autoencoder: {path} holds a {kind}, and an autoencoder is wanted, which "
            "`ebbflow train-autoencoder` makes."
        )
    if found is None and (path / "checkpoints").is_dir():
        raise ConfigError(f"latent.autoencoder: the training of {path} is not finished. Run its command again.")
    if found is None:
        raise ConfigError(f"latent.autoencoder: there is no autoencoder in {path}.")
    return found


def _kind(config: Path) -> Any:
    """What a run's config.json says was trained; None where it says nothing."""
    try:
        return read_json(config, dict[str, Any]).get("kind")
    except (OSError, Wrong):
        return None


def load_diffusers(name: str) -> DiffusersAutoencoder:
    """diffusers' AutoencoderKL in a folder or on the hub, from safetensors only.

    Raises:
        ConfigError: it cannot be loaded.
        ImportError: diffusers is missing.
    """
    cls: Any = diffusers_class()
    path = Path(name).expanduser()
    try:
        return DiffusersAutoencoder(
            cls.from_pretrained(
                str(path) if path.exists() else name,
                use_safetensors=True,
                low_cpu_mem_usage=False,
                local_files_only=must_be_local(name),
            )
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        reason = unreachable(name) or reason
        raise ConfigError(f"{HF}{name} cannot be loaded as a diffusers AutoencoderKL: {reason}") from error
