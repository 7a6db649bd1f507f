"""The teacher of a run: opened and checked against it, kept in its folder, and the pairs that it makes of noise.

What teaches is a copy of the averaged weights, made when the run is begun: a resume is exact whatever has become of the
run that they are of, and sampling needs neither.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ebbflow.conditioning import Conditioner, DataFacts
from ebbflow.config import Layer, RunConfig, to_dict
from ebbflow.core.noise import Noise, derive_seed
from ebbflow.core.predictions import path_name
from ebbflow.data import Dataset
from ebbflow.errors import CheckpointError, ConfigError
from ebbflow.files import link_or_copy, remember, remembered, whole_folder
from ebbflow.latent import LatentSpace
from ebbflow.methods.denoise import Denoiser, conditional
from ebbflow.methods.guidance import classifier_free
from ebbflow.methods.maps import MapObjective
from ebbflow.methods.objective import Objective
from ebbflow.methods.sampling import grid_times, pure_noise, walk_from
from ebbflow.metrics.cache import tensor_hash
from ebbflow.progress import Stage, Work
from ebbflow.runs.build import build_objective, built_in, clock_of, drop_of
from ebbflow.runs.folder import Run, open_run
from ebbflow.runs.latent_files import fingerprint
from ebbflow.training.engine import pick_device

FOLDER = "teacher"  # in the folder of the run that it teaches
PAIRS = "pairs.safetensors"  # there too; can be made again
BATCH = 256  # pairs made at a time
FEW_JUMPS = {"sampler": "flow_map", "num_steps": 4, "grid": "uniform", "options": {}, "guidance": 1.0, "clip": False}


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A run that teaches, and its averaged weights as a denoiser, guided."""

    run: Run
    denoiser: Denoiser


def student_of(path: str, *, jumps: bool) -> Layer:
    """The configuration of a run that learns from the one in `path`, to which settings may be added.

    Raises:
        CheckpointError: no run there.
    """
    config = open_run(path).config
    within = built_in(config)
    if isinstance(time_law := config.objective.times, str) and time_law == "importance":
        config = replace(config, objective=replace(config.objective, times="logit_normal"))
    layer = {
        name: {key: value for key, value in section.items() if value is not None}
        for name, section in to_dict(config).items()
    }
    layer["init"] = {"run": path, "partial": jumps}
    layer["teacher"] = {"run": path, "guidance": within}
    layer["objective"] |= {
        "clock": clock_of(config),
        "coupling": "independent",
        "guidance": 1.0,
        "variance": "fixed",
        "uncertainty": False,
    }
    if jumps:
        layer["objective"]["map"] = layer["objective"].get("map", "midpoint")
        layer["sample"] = dict(FEW_JUMPS)
    return layer


# -- the teacher -------------------------------------------------------------------------------------------------------


def open_teacher(config: RunConfig, facts: DataFacts, space: LatentSpace | None, folder: Path) -> Teacher | None:
    """The teacher of a run in `folder`, None where it has none: the copy that the folder keeps, or the run that is
    named.

    Args:
        config: of the run that learns, resolved.
        facts, space: its data and its latent space.

    Raises:
        ConfigError: no such run, or one that cannot teach this.
    """
    if config.teacher.run is None:
        return None
    kept = folder / FOLDER
    try:
        run = open_run(kept if kept.is_dir() else config.teacher.run)
    except CheckpointError as error:
        raise ConfigError(f"teacher.run: {error}") from error
    _require_use(config)
    _require_same(config, facts, run)
    if space is not None and not kept.is_dir():
        own = run.space()
        if own is None or fingerprint(own) != fingerprint(space):
            raise ConfigError(
                f"teacher.run: {config.teacher.run} works in another latent space. Use its latent.autoencoder."
            )
    denoiser = run.denoiser("ema" if run.averaged == "ema" else "raw", device=pick_device(config.engine.device))
    return Teacher(run=run, denoiser=_guided(config, run, denoiser))


def _require_use(config: RunConfig) -> None:
    """Refuse what a teacher has no part in, or what would be learned from two sides."""
    if config.objective.map is None and not config.teacher.pairs:
        raise ConfigError(
            "a teacher is learned from by jumps or on its pairs, and this run has neither. Use objective.map=midpoint, "
            "or teacher.pairs=10000."
        )
    if config.objective.guidance != 1:
        raise ConfigError(
            "guide the teacher, or build guidance in from the data: not both. Use objective.guidance=1 and "
            "teacher.guidance."
        )
    if config.teacher.pairs and config.objective.coupling != "independent":
        raise ConfigError(
            "the teacher's pairs say which noise meets which data, and objective.coupling says it too. Use "
            "objective.coupling=independent."
        )


def _require_same(config: RunConfig, facts: DataFacts, run: Run) -> None:
    """Refuse a teacher of other data, of another path or with other conditions."""
    name, own = config.teacher.run, run.config
    if (run.facts.dims, run.facts.label_names, own.data.name) != (facts.dims, facts.label_names, config.data.name):
        said = [
            f"{data!r} of {'x'.join(map(str, one.dims))} with {len(one.label_names)} classes"
            for data, one in ((own.data.name, run.facts), (config.data.name, facts))
        ]
        raise ConfigError(
            f"teacher.run: {name} was trained on {said[0]}, and this run is of {said[1]}. Use data.name={own.data.name}"
            " and its size."
        )
    if own.path != config.path:
        raise ConfigError(
            f"teacher.run: {name} is on path {path_name(own.path)!r}, and this run on {path_name(config.path)!r}, "
            "with other options where the names agree. Use the teacher's path."
        )
    mine, its = ({**to_dict(one)["conditioning"], "drop": None} for one in (config, own))
    if mine != its:
        raise ConfigError(
            f"teacher.run: {name} is conditioned by kind {its['kind']!r}, and this run by {mine['kind']!r} or with "
            "other options. Use the teacher's conditioning."
        )


def _guided(config: RunConfig, run: Run, denoiser: Denoiser) -> Denoiser:
    """The teacher as it teaches.

    Raises:
        ConfigError: guidance where it is built in already, or where there is nothing to guide.
    """
    wanted, within, name = config.teacher.guidance, built_in(run.config), config.teacher.run
    if within != 1:
        if wanted != within:
            raise ConfigError(
                f"teacher.guidance: {name} has guidance {within:g} built in, and would be guided twice by {wanted:g}. "
                f"Use {within:g}."
            )
        return denoiser
    if wanted == 1:
        return denoiser
    if drop_of(run.config) == 0:
        raise ConfigError(
            f"teacher.guidance: {name} has no condition that its training dropped, so there is nothing to guide. Use 1."
        )
    return classifier_free(denoiser, guidance=wanted)  # type: ignore[arg-type]


def objective_of(config: RunConfig, teacher: Teacher | None) -> Objective | MapObjective:
    """The objective of a run; a teacher that has made pairs has no other part in it."""
    return build_objective(config, None if teacher is None or config.teacher.pairs else teacher.denoiser)


def store_teacher(teacher: Teacher | None, folder: Path) -> None:
    """The run's own copy of its teacher, written where it does not hold one."""
    if teacher is None or (folder / FOLDER).is_dir():
        return
    run = teacher.run
    with whole_folder(folder / FOLDER) as partial:
        link_or_copy(run.checkpoint.path(run.averaged), partial / run.checkpoint.path(run.averaged).name)
        link_or_copy(run.checkpoint.folder / "state.json", partial / "state.json")


def taught_by(config: RunConfig) -> str:
    """A sentence on a run's teacher."""
    it = config.teacher
    how = f"on {it.pairs:,} pairs of noise and its ODE's end" if it.pairs else "from its velocity"
    return f"It learned {how} from {it.run}{f' at guidance {it.guidance:g}' if it.guidance != 1 else ''}."


# -- pairs -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Pairs(Dataset):
    """A data set whose entries are what a teacher made of noise: pair i of the noise of its own seed, under the
    condition of the entry of the data that it stands beside.

    Args:
        ends: float32 (N, *dims), where the ODE ends.
        seed: of the run.
    """

    ends: Tensor
    seed: int

    def x0(self, indices: Tensor) -> Tensor:
        """The ends at `indices`, a copy."""
        return self.ends[indices]

    def noise(self, indices: Tensor) -> Tensor:
        """What they were made of, float32 (B, *dims)."""
        return noise_of(indices, self.seed, tuple(self.ends.shape[1:]))


def noise_of(indices: Tensor, seed: int, dims: tuple[int, ...]) -> Tensor:
    """The noise of pairs, which no sample of a small seed shares."""
    return Noise([derive_seed(seed, "pairs", i) for i in indices.tolist()]).draw(dims)


def paired(
    config: RunConfig, teacher: Teacher, data: Dataset, conditioner: Conditioner | None, folder: Path
) -> Work[Pairs]:
    """The pairs of a run: those that its folder keeps, where they are of this teacher and these conditions, or new
    ones."""
    num, seed = config.teacher.pairs, config.train.seed
    rows = data.select(torch.arange(num) % len(data))
    cond = None if conditioner is None else conditioner.conditions(rows)
    key, path = _key(config, teacher, cond), folder / PAIRS
    ends = (remembered(path, key) or {}).get("ends")
    if ends is None:
        ends = yield from _made(config, teacher.denoiser, cond, tuple(data.x0(torch.zeros(1, dtype=torch.long)).shape))
        if folder.is_dir():  # a cost is measured without one
            remember({"ends": ends}, path, key)
    known = {name: value for name, value in vars(rows).items() if name in Dataset.__dataclass_fields__}
    return Pairs(**known, ends=ends, seed=seed)


@torch.no_grad()
def _made(config: RunConfig, denoiser: Denoiser, cond: Tensor | None, shape: tuple[int, ...]) -> Work[Tensor]:
    it, device, parts = config.teacher, pick_device(config.engine.device), []
    times = grid_times(denoiser, "uniform", it.num_steps)
    for rows in torch.arange(it.pairs).split(BATCH):
        yield Stage("pairs", int(rows[0]), it.pairs, note="noise, and where the teacher takes it")
        bound = denoiser if cond is None else conditional(denoiser).given(cond[rows].to(device))
        x = pure_noise(bound, noise_of(rows, config.train.seed, shape[1:]).to(device), times)
        for step in walk_from(bound, x, times, Noise([0]), sampler="heun"):
            x = step.x
        parts.append(x.float().cpu())
    return torch.cat(parts)


def _key(config: RunConfig, teacher: Teacher, cond: Tensor | None) -> str:
    """A hash of all that the pairs depend on."""
    it, checkpoint = config.teacher, teacher.run.checkpoint
    weights = dict(sorted(checkpoint.tensors(teacher.run.averaged).items()))
    content = tensor_hash(*weights.values(), *(() if cond is None else (cond,)))
    settings = it.guidance, it.pairs, it.num_steps, config.train.seed
    return hashlib.sha256(repr((settings, list(weights), content)).encode()).hexdigest()
