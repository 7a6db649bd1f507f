"""The folder of whatever is trained: its configuration, its checkpoints, its lines of metrics, and who may write it."""

from __future__ import annotations

import json
import math
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch

from ebbflow import __version__
from ebbflow.conditioning import ConditionedNet, DataFacts
from ebbflow.config import (
    LENGTHS,
    AnyConfig,
    AutoencoderConfig,
    ClassifierConfig,
    RunConfig,
    parse_as,
    to_dict,
)
from ebbflow.documents import parsed, read_json
from ebbflow.errors import CheckpointError, ConfigError, DataError
from ebbflow.files import LOCK, PARTIAL, locked, remove_folder, sweep, write_text
from ebbflow.latent import LatentSpace
from ebbflow.methods.denoise import NetDenoiser
from ebbflow.plugins import loaded
from ebbflow.requests.sampling import Weights
from ebbflow.runs.build import build_denoiser
from ebbflow.runs.latent_files import FILE, space_of
from ebbflow.training import checkpoint
from ebbflow.training.checkpoint import Checkpoint
from ebbflow.training.task import Joined
from ebbflow.values import Endless, Wrong, convert, record

C = TypeVar("C", RunConfig, ClassifierConfig)
FREE_KEYS = (
    "train.num_steps",
    "train.minutes",
    "train.save_every",
    "train.keep",
    "train.sample_every",
    "train.held_out_every",
    "train.log_every",
    "train.accumulate",
    "train.trackers",
    "train.skip_nonfinite",
    "ema.num_snapshots",
)
FREE_SECTIONS = ("sample", "engine")
FORMAT = 2  # 1 had an objective's own tensors in files of their own; it is read for ever
METRICS = "metrics.jsonl"
Number = Annotated[float, Endless]
LEVELS = dict[str, Number | None]
CONFIG = "config.json"


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

    @property
    def averaged(self) -> str:
        """The part that holds the averaged weights, or the only ones."""
        return "ema" if self.checkpoint.path("ema").is_file() else "model"

    def denoiser(
        self, weights: Weights = "ema", *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> NetDenoiser:
        """The model with the averaged or the raw weights.

        Raises:
            CheckpointError: the weights are missing or do not fit the configuration.
        """
        part = "model" if "exported" in self.checkpoint.state else {"ema": "ema", "raw": "model"}[weights]
        denoiser = build_denoiser(self.config, self.facts)
        assert isinstance(denoiser.net, ConditionedNet)
        tensors = Joined.inner_of(self.checkpoint.tensors(part))
        checkpoint.load_weights(denoiser.net, tensors, self.checkpoint.path(part))
        denoiser.net.to(device=device, dtype=dtype).eval().requires_grad_(False)
        return denoiser

    def space(self, device: torch.device | str = "cpu") -> LatentSpace | None:
        """The latent space that the model works in, None where it works on the data itself.

        Raises:
            CheckpointError: its file is missing or damaged.
        """
        if self.facts.latent_dims is None:
            return None
        part = Path(FILE).stem
        tensors, metadata = self.checkpoint.tensors(part), self.checkpoint.metadata(part)
        return space_of(tensors, metadata, self.checkpoint.path(part)).to(device)


KINDS: dict[type, str] = {RunConfig: "model", ClassifierConfig: "classifier", AutoencoderConfig: "autoencoder"}
MADE_BY = {"model": "train", "classifier": "train-classifier", "autoencoder": "train-autoencoder"}
USES = {
    "model": "Sample it with `ebbflow sample`.",
    "classifier": "Give it to `ebbflow sample` as a classifier.",
    "autoencoder": "Train a run with it by setting latent.autoencoder.",
}


def describe(config: AnyConfig, facts: DataFacts) -> dict[str, Any]:
    """What a checkpoint and a run's config.json say of themselves."""
    return {
        "format": FORMAT,
        "kind": KINDS[type(config)],
        "config": to_dict(config),
        "facts": {key: value for key, value in asdict(facts).items() if value is not None},
        "versions": versions(),
        "plugins": [plugin.name for plugin in loaded()],
    }


def versions() -> dict[str, str]:
    """What made a result."""
    return {"ebbflow": __version__, "torch": torch.__version__, "python": platform.python_version()}


def read_facts(facts: Mapping[str, Any]) -> DataFacts:
    """The facts that `describe` wrote; what older versions did not write yet has its default.

    Raises:
        ConfigError: they are none.
    """
    try:
        return record(DataFacts, {f.name: facts[f.name] for f in fields(DataFacts) if f.name in facts})
    except (Wrong, ValueError) as wrong:
        raise ConfigError(str(wrong)) from None


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    found = {int(path.name[5:]): path for path in (folder / "checkpoints").glob("step_*") if path.name[5:].isdecimal()}
    return [found[step] for step in sorted(found)]


def checkpoint_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / "checkpoints" / f"step_{step:06d}"


def set_aside(damaged: Path) -> Path:
    """Give a checkpoint that cannot be read a name by which nothing looks for it."""
    aside = damaged.with_name(f"damaged_{damaged.name}")
    shutil.rmtree(aside, ignore_errors=True)
    return damaged.rename(aside)


def best_of(folder: Path, rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Step and held-out loss of the checkpoint with the least, by `rows` of metrics; None where none was measured."""
    saved = {int(path.name[5:]) for path in checkpoints(folder)}
    rows = [row for row in rows if math.isfinite(row.get("held_out", math.inf)) and row["step"] in saved]
    best = min(rows, key=lambda row: float(row["held_out"]), default=None)
    return None if best is None else {"step": best["step"], "held_out": best["held_out"]}


def prune(folder: Path, *, keep: int, rows: Sequence[dict[str, Any]]) -> None:
    """Remove all checkpoints but the newest `keep` and the best by `rows` of metrics."""
    best = best_of(folder, rows)
    for old in checkpoints(folder)[:-keep]:
        if best is None or old.name != checkpoint_of(folder, best["step"]).name:
            remove_folder(old)


def open_checkpoint(path: str | Path, cls: type[C]) -> tuple[Path, C, DataFacts, Checkpoint]:
    """What is trained in `path`, of configuration `cls`: its folder, configuration, facts and checkpoint.

    Args:
        path: its folder (the newest checkpoint), a checkpoint's folder, or a file inside one.

    Raises:
        CheckpointError: nothing there, nothing of ours, of another kind, or of a later version.
    """
    if str(path).startswith("hf:"):
        raise CheckpointError(f"{path} names a model on the hub, and the folder of a run is wanted here.")
    folder = Path(path).expanduser()
    if not folder.exists():
        raise CheckpointError(f"{folder} does not exist. Give the folder of a run, such as runs/demo.")
    if folder.is_file():
        folder = folder.parent
    found = [folder] if (folder / "state.json").is_file() else checkpoints(folder) or checkpoint.exported(folder)
    if not found:
        raise CheckpointError(f"{folder} is not a run of ebbflow: there is no checkpoint in it.")
    opened = _newest(folder, found)
    if int(opened.state.get("format", 1)) > FORMAT:
        raise CheckpointError(f"{opened.folder} was written by a later version of ebbflow. Bring this one up to date.")
    holds, kind = opened.state.get("kind", "model"), KINDS[cls]
    if holds not in MADE_BY:
        raise CheckpointError(f"{opened.folder} holds a trained {holds!r}, which this version does not know.")
    if holds != kind:
        raise CheckpointError(
            f"{path} holds a trained {holds}, and a {kind} is wanted here, which `ebbflow {MADE_BY[kind]}` makes. "
            f"{USES[holds]}"
        )
    try:
        config, facts = parse_as(cls, opened.state["config"]), read_facts(opened.state["facts"])
    except (KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(
            f"{opened.folder / 'state.json'} does not describe a {kind} of this version: {error}{_wanting(opened)}"
        ) from error
    home = opened.folder.parent.parent if opened.folder.parent.name == "checkpoints" else opened.folder
    return home, config, facts, opened


def _newest(folder: Path, found: Sequence[Path]) -> Checkpoint:
    """The newest of a run's checkpoints; where its training lets it go just then, the one that came after."""
    try:
        return checkpoint.read(found[-1])
    except CheckpointError:
        if not (later := checkpoints(folder)) or later[-1] == found[-1]:
            raise
        return checkpoint.read(later[-1])


def open_run(path: str | Path) -> Run:
    """The run in `path`; see `open_checkpoint`."""
    folder, config, facts, opened = open_checkpoint(path, RunConfig)
    return Run(folder=folder, config=config, facts=facts, checkpoint=opened)


def _wanting(opened: Checkpoint) -> str:
    """The plugins that a checkpoint was made with and that are not loaded; they are never imported by themselves."""
    wanting = [name for name in opened.state.get("plugins", ()) if name not in {plugin.name for plugin in loaded()}]
    return f" It was made with the plugin {', '.join(map(str, wanting))}: name it with `import`." if wanting else ""


@contextmanager
def take_folder(folder: Path, config: AnyConfig, facts: DataFacts) -> Iterator[tuple[list[str], Callable[[], bool]]]:
    """Make `folder` the home of a run, or find that it already is, and keep every other process out; gives remarks for
    the user, and a question whether the folder is still that one. What dead writers left unfinished in it goes.

    Raises:
        ConfigError: it holds a run of another configuration, or files of something else; another process has it.
    """
    _require_home(folder)
    with locked(folder) as still:
        _require_home(folder)
        sweep(folder.rglob(".*.part"))
        old, new = description(folder), json.loads(json.dumps(describe(config, facts)))
        remarks = _require_same(folder, old, new) if old else []
        write_text(folder / CONFIG, json.dumps({**old, **new}, indent=2))
        yield remarks, still


def description(folder: Path) -> dict[str, Any]:
    """What `describe` said of the run in a folder when it was begun; {} where there is none.

    Raises:
        CheckpointError: its file is damaged.
    """
    file = folder / CONFIG
    try:
        if not file.is_file():
            return {}
        found: dict[str, dict[str, Any]] = read_json(file, dict[str, Any])
        return {**found, "config": convert(dict[str, dict[str, Any]], found.get("config"))}
    except Wrong as wrong:
        raise CheckpointError(
            f"{file} does not describe a run: it {wrong} Mend it, or choose another `save_dir`."
        ) from wrong


def _require_home(folder: Path) -> None:
    if folder.is_dir() and ((folder / CONFIG).is_file() or all(map(_is_ours, folder.iterdir()))):
        return
    if folder.exists():
        raise ConfigError(f"{folder} is not empty and holds no run. Choose another `save_dir`.")


def _is_ours(path: Path) -> bool:
    """Whether a file is a lock, or what a killed process left unfinished before there was a run."""
    return path.name == LOCK or PARTIAL.search(path.name) is not None


def _require_same(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    if old.get("kind", "model") != new["kind"]:
        article = "an" if old.get("kind") == "autoencoder" else "a"
        raise ConfigError(
            f"{folder} holds {article} {old.get('kind', 'model')}, and this command makes another kind "
            f"({new['kind']}). Choose another `save_dir`."
        )
    kind = next(cls for cls, name in KINDS.items() if name == new["kind"])
    known = json.loads(json.dumps(to_dict(parse_as(kind, old["config"]))))  # an older version may have written less
    for section, values in new["config"].items():
        before = known[section]
        for key in sorted(values.keys() | before.keys(), key=lambda key: (key != "kind", key)):
            free = section in FREE_SECTIONS or f"{section}.{key}" in FREE_KEYS or (section, key) == ("data", "dir")
            if (section, key) == ("latent", "autoencoder"):  # its weights are compared, it may have been moved
                free = bool(values.get(key)) and bool(before.get(key))
            if not free and values.get(key) != before.get(key):
                raise ConfigError(
                    f"{folder} holds a run with another configuration: {section}.{key} is {before.get(key)!r} there, "
                    f"{values.get(key)!r} here. Choose another `save_dir`, or repeat the old settings to resume."
                )
    facts = old.get("facts", {})
    if not facts or any(facts.get(key, value) != value for key, value in new["facts"].items()):
        raise ConfigError(f"{folder} holds a run on other data ({old.get('facts')}). Choose another `save_dir`.")
    return _changed_length(known["train"], new["config"]["train"])


def _changed_length(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What is to be said where the length of a run changes under a schedule that depends on it."""
    (was, before), (now, after) = (next((k, v[k]) for k in LENGTHS if v[k] is not None) for v in (old, new))
    if old["schedule"] != "cosine" or (was, before) == (now, after):
        return []
    return [
        f"the learning rate falls along a cosine over train.{was}, which was {before} and is now "
        f"{after if was == now else f'train.{now}, {after}'}: it goes on along the new one. Use "
        "train.schedule=constant for a run to be made longer."
    ]


def log_metrics(folder: Path, row: dict[str, Any]) -> None:
    """Append a line to the metrics of a folder."""
    with (folder / METRICS).open("a") as file:
        file.write(json.dumps(row) + "\n")


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics in a folder that can be read: all, but one that a crash or a full disk cut short."""
    path = folder / METRICS
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    return [row for line in lines if (row := _row(line)) is not None]


def _row(line: str) -> dict[str, Any] | None:
    """The line, where it is a step and what was measured then: numbers, and tables of numbers."""
    try:
        row: dict[str, Any] = parsed(line, dict[str, Any])
        for name, value in {"step": None, **row}.items():
            convert(int if name == "step" else LEVELS if name.endswith("_by_log_snr") else Number, value)
    except Wrong:
        return None
    return row


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics in the folder of a run, to look at.

    Raises:
        DataError: no such file, nothing in it, or a line in its midst that is no metrics.
    """
    path = folder / METRICS
    if not path.is_file():
        raise DataError(f"{folder} holds no {METRICS}. Name the folder of a run of `ebbflow train`.")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines[:-1], start=1):
        if _row(line) is None:
            raise DataError(f"line {number} of {path} is not a line of metrics. Mend or remove it.")
    if not (rows := metrics(folder)):
        raise DataError(f"{path} holds no steps yet. Train the run for longer.")
    return rows


def forget_after(folder: Path, step: int) -> None:
    """Drop the metrics of steps that will be done again, and what cannot be read."""
    rows = [row for row in metrics(folder) if row["step"] <= step]
    write_text(folder / METRICS, "".join(json.dumps(row) + "\n" for row in rows))


def is_due(step: int, every: int) -> bool:
    """Whether something done every so many steps, 0 for never, is due."""
    return every > 0 and step % every == 0
