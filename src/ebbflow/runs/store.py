"""A run on disk: its configuration, its checkpoints, its metrics."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ebbflow import __version__
from ebbflow.conditioning import ConditionedNet, DataFacts
from ebbflow.config import AnyConfig, AutoencoderConfig, ClassifierConfig, RunConfig, parse, parse_as, to_dict
from ebbflow.errors import CheckpointError, ConfigError
from ebbflow.files import write_text
from ebbflow.latent import LatentSpace
from ebbflow.methods.denoise import NetDenoiser
from ebbflow.plugins import loaded
from ebbflow.runs.build import build_denoiser
from ebbflow.runs.spaces import FILE, read_space
from ebbflow.training import checkpoint
from ebbflow.training.checkpoint import Checkpoint

Weights = Literal["ema", "raw"]
FREE_KEYS = (
    "train.num_steps",
    "train.save_every",
    "train.keep",
    "train.sample_every",
    "train.held_out_every",
    "train.log_every",
)
FREE_SECTIONS = ("sample", "engine")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A trained run, ready to sample.

    Args:
        folder: the run's folder, or the checkpoint's where only that was given.
        config: its configuration.
        facts: what it knows of its data.
        checkpoint: the checkpoint that was opened.
    """

    folder: Path
    config: RunConfig
    facts: DataFacts
    checkpoint: Checkpoint

    def denoiser(
        self, weights: Weights = "ema", *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> NetDenoiser:
        """The model with the averaged or the raw weights.

        Raises:
            CheckpointError: the weights are missing or do not fit the configuration.
        """
        part = {"ema": "ema", "raw": "model"}[weights]
        denoiser = build_denoiser(self.config, self.facts)
        assert isinstance(denoiser.net, ConditionedNet)
        checkpoint.load_weights(
            denoiser.net, self.checkpoint.tensors(part), self.checkpoint.folder / f"{part}.safetensors"
        )
        denoiser.net.to(device=device, dtype=dtype).eval().requires_grad_(False)
        return denoiser

    def space(self, device: torch.device | str = "cpu") -> LatentSpace | None:
        """The latent space that the model works in, None where it works on the data itself.

        Raises:
            CheckpointError: its file is missing or damaged.
        """
        if self.facts.latent_dims is None:
            return None
        return read_space(self.checkpoint.folder / FILE).to(device)


KINDS = {RunConfig: "model", ClassifierConfig: "classifier", AutoencoderConfig: "autoencoder"}
MADE_BY = {"model": "train", "classifier": "train-classifier", "autoencoder": "train-autoencoder"}
USES = {
    "model": "Sample it with `ebbflow sample --ckpt`.",
    "classifier": "Give it to `ebbflow sample --classifier`.",
    "autoencoder": "Train a run with it by `--set latent.autoencoder=`.",
}


def describe(config: AnyConfig, facts: DataFacts) -> dict[str, Any]:
    """What a checkpoint and a run's config.json say of themselves."""
    return {
        "format": 1,
        "kind": KINDS[type(config)],
        "config": to_dict(config),
        "facts": {key: value for key, value in asdict(facts).items() if (key, value) != ("latent_dims", None)},
        "versions": {"ebbflow": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "plugins": [plugin.name for plugin in loaded()],
    }


def read_facts(facts: Mapping[str, Any]) -> DataFacts:
    """The facts that `describe` wrote; what older versions did not write yet has its default."""
    return DataFacts(
        dims=tuple(facts["dims"]),
        is_image=facts["is_image"],
        label_names=tuple(facts["label_names"]),
        captions=tuple(facts.get("captions", ())),
        vectors=tuple(tuple(vector) for vector in facts.get("vectors", ())),
        latent_dims=None if facts.get("latent_dims") is None else tuple(facts["latent_dims"]),
    )


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint folder of the last step, if there is one."""
    found = sorted((folder / "checkpoints").glob("step_*"))
    return found[-1] if found else None


def open_checkpoint(path: str | Path, kind: str) -> tuple[Path, Checkpoint]:
    """The folder of the run in `path`, and its checkpoint; `kind` is "model" or "classifier".

    Raises:
        CheckpointError: nothing there, nothing of ours, or of the other kind.
    """
    folder = Path(path).expanduser()
    if not folder.exists():
        raise CheckpointError(f"{folder} does not exist. Give the folder of a run, such as runs/demo.")
    if folder.is_file():
        folder = folder.parent
    chosen = folder if (folder / "state.json").is_file() else newest_checkpoint(folder)
    if chosen is None:
        raise CheckpointError(f"{path} is not a run of ebbflow: there is no checkpoint in it.")
    opened = checkpoint.read(chosen)
    found = opened.state.get("kind", "model")
    if found != kind:
        raise CheckpointError(
            f"{path} holds a trained {found}, and a {kind} is wanted here, which `ebbflow {MADE_BY[kind]}` makes. "
            f"{USES[found]}"
        )
    return (chosen.parent.parent if chosen.parent.name == "checkpoints" else chosen), opened


def open_run(path: str | Path) -> Run:
    """The run in `path`: a run's folder (its newest checkpoint), a checkpoint's folder, or a file inside one.

    Raises:
        CheckpointError: nothing there, or nothing of ours.
    """
    folder, opened = open_checkpoint(path, "model")
    try:
        config = parse(opened.state["config"])
        known = read_facts(opened.state["facts"])
    except (KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(
            f"{opened.folder / 'state.json'} does not describe a model of this version: {error}{_wanting(opened)}"
        ) from error
    return Run(folder=folder, config=config, facts=known, checkpoint=opened)


def _wanting(opened: Checkpoint) -> str:
    """The plugins that a checkpoint was made with and that are not loaded; they are never imported by themselves."""
    wanting = [name for name in opened.state.get("plugins", ()) if name not in {plugin.name for plugin in loaded()}]
    return f" It was made with the plugin {', '.join(map(str, wanting))}: name it with `import`." if wanting else ""


def claim(folder: Path, config: AnyConfig, facts: DataFacts) -> None:
    """Make `folder` the home of a run, or find that it already is.

    Raises:
        ConfigError: it holds a run of another configuration, or files of something else.
    """
    description, old = describe(config, facts), {}
    file = folder / "config.json"
    if file.is_file():
        old = json.loads(file.read_text())
        _require_same(folder, old, json.loads(json.dumps(description)))
    elif folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty and holds no run. Choose another --save-dir.")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps({**old, **description}, indent=2))


def _require_same(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    if old.get("kind", "model") != new["kind"]:
        article = "an" if old.get("kind") == "autoencoder" else "a"
        raise ConfigError(
            f"{folder} holds {article} {old.get('kind', 'model')}, and this command makes another kind "
            f"({new['kind']}). Choose another --save-dir."
        )
    kind = next(cls for cls, name in KINDS.items() if name == new["kind"])
    known = json.loads(json.dumps(to_dict(parse_as(kind, old["config"]))))  # an older version may have written less
    for section, values in new["config"].items():
        before = known[section]
        for key in values.keys() | before.keys():
            free = section in FREE_SECTIONS or f"{section}.{key}" in FREE_KEYS or (section, key) == ("data", "dir")
            if (section, key) == ("latent", "autoencoder"):  # its weights are compared, it may have been moved
                free = bool(values.get(key)) and bool(before.get(key))
            if not free and values.get(key) != before.get(key):
                raise ConfigError(
                    f"{folder} holds a run with another configuration: {section}.{key} is {before.get(key)!r} there, "
                    f"{values.get(key)!r} here. Choose another --save-dir, or repeat the old settings to resume."
                )
    facts = old.get("facts", {})
    if not facts or any(facts.get(key, value) != value for key, value in new["facts"].items()):
        raise ConfigError(f"{folder} holds a run on other data ({old.get('facts')}). Choose another --save-dir.")
