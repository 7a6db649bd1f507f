"""An open model: everything that sampling, editing and measuring need, wherever it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

import torch
from torch import Tensor

from ebbflow.conditioning import DataFacts, ImageConditioner
from ebbflow.config import RunConfig, SampleConfig
from ebbflow.core.condition import Cond, Condition
from ebbflow.core.device import keep_large_blocks
from ebbflow.core.entries import Choice
from ebbflow.core.times import TimeGrid
from ebbflow.data import Dataset
from ebbflow.data.convert import sides
from ebbflow.errors import ConfigError, DataError
from ebbflow.latent import LatentSpace
from ebbflow.methods.denoise import Denoiser, NetDenoiser
from ebbflow.nets.mlp import MLPOptions
from ebbflow.requests.sampling import Weights
from ebbflow.runs.build import built_in, conditioner_of, drop_of
from ebbflow.runs.folder import Run, open_run
from ebbflow.runs.same_data import splits_of_run
from ebbflow.training.engine import pick_device


def require_finite(model: Opened, x: Tensor, what: str) -> None:
    """Raise where numbers that a model made are not finite, of which a picture would show nothing.

    Raises:
        FloatingPointError: they are not; says what they are and why.
    """
    if bool(x.isfinite().all()):
        return
    net = model.denoiser.net if isinstance(model.denoiser, NetDenoiser) else None
    if isinstance(net, torch.nn.Module) and not all(bool(p.isfinite().all()) for p in net.parameters()):
        where = "" if model.run is None else f" of {model.run.checkpoint.folder}"
        raise FloatingPointError(f"{what} are not finite, because the weights{where} are not. Open another checkpoint.")
    raise FloatingPointError(
        f"{what} are not finite. Lower `guidance`, or choose another `sampler`, `grid` or number of `steps`."
    )


class Reader(Protocol):
    """What turns a user's words into what a net takes."""

    def read(self, conditions: Sequence[Condition]) -> Cond:
        """The conditions that class indices, prompts or vectors stand for, a row each."""
        ...

    def conditions(self, dataset: Dataset) -> Cond | None:
        """The condition of every entry of a data set."""
        ...


class Space(Protocol):
    """Where a model works that does not work on the data itself; see `LatentSpace`."""

    def encode(self, x: Tensor) -> Tensor:
        """Latents float32 (B, *latent_dims) of images (B, *dims) in [-1, 1]."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """Images (B, *dims) of latents; about [-1, 1], not clamped."""
        ...


@dataclass(frozen=True, kw_only=True, repr=False)
class Opened:
    """A denoiser with what is known of its data, its conditions and its latent space.

    Args:
        denoiser: the model, with no condition bound.
        facts: shape and names of the data.
        name: what it is called in tables.
        reader: reads conditions; None for an unconditional model.
        examples: what is sampled when nothing is said.
        space: None where the model works on the data itself.
        defaults: how it is sampled when nothing is said.
        grid: where its steps lie when nothing is said, in the place of that of `defaults`.
        is_guidable: whether its null condition was trained, and no guidance is built in.
        device: where it lives.
        run: the run and checkpoint on disk, None for a model from elsewhere.
        weights: which of the run's weights these are.
    """

    denoiser: Denoiser
    facts: DataFacts
    name: str = "model"
    reader: Reader | None = None
    examples: tuple[Condition, ...] = ()
    space: Space | None = None
    defaults: SampleConfig = SampleConfig()
    grid: Choice | TimeGrid | None = None
    is_guidable: bool = True
    device: torch.device = torch.device("cpu")
    run: Run | None = None
    weights: Weights = "ema"

    def __post_init__(self) -> None:
        if (self.space is None) != (self.facts.latent_dims is None):
            raise ValueError("a model of latents is opened with its latent space, and only such a model.")
        keep_large_blocks()  # who opens a model is about to run it

    @classmethod
    def from_run(
        cls,
        path: str | Path,
        *,
        weights: Weights = "ema",
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """The model in a run's folder (its newest checkpoint), a checkpoint's folder, or a file inside one.

        Raises:
            CheckpointError: nothing there, or nothing of ours.
            ValueError: the device is not available.
        """
        run, place = open_run(path), pick_device(str(device))
        denoiser = run.denoiser(weights, device=place, dtype=dtype)
        model = cls.described(denoiser, run.config, run.facts, run.space(place), device=place)
        return replace(model, name=run.folder.name, run=run, weights=weights)

    @classmethod
    def described(
        cls, denoiser: NetDenoiser, config: RunConfig, facts: DataFacts, space: Space | None, *, device: torch.device
    ) -> Self:
        """The model that a run's configuration describes, around a denoiser that `build_denoiser` made."""
        return cls(
            denoiser=denoiser,
            facts=facts,
            reader=conditioner_of(denoiser),
            examples=config.conditioning.examples(facts),
            space=space,
            defaults=config.sample,
            is_guidable=drop_of(config) > 0 and built_in(config) == 1,
            device=device,
        )

    @property
    def dims(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.facts.dims

    def of_size(self, size: int | tuple[int, int]) -> Self:
        """The same, whose samples are of another side, or height and width: convolutions and tokens go by no size.

        Raises:
            ConfigError: a model that makes one size only.
        """
        dims = (self.dims[0], *sides(size))
        one_size = {
            "makes points": not self.facts.is_image,
            "works in a latent space of one size": self.space is not None,
            "goes by pictures of one size": isinstance(self.reader, ImageConditioner),
            "has a net of one size": self.run is None or isinstance(self.run.config.net, MLPOptions),
        }
        why = next((what for what, is_so in one_size.items() if is_so), None)
        if why is not None and dims != self.dims:
            raise ConfigError(f"{self.name} {why}. Leave `img_size` out.")
        return replace(self, facts=replace(self.facts, dims=dims))

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes; () without labels."""
        return self.facts.label_names

    @property
    def is_conditional(self) -> bool:
        """Whether it takes conditions."""
        return self.reader is not None

    def read(self, conditions: Sequence[Condition]) -> Cond:
        """Class indices, prompts or vectors in the form that the denoiser takes, a row each.

        Raises:
            ValueError: an unconditional model, or one that takes other conditions.
        """
        if self.reader is None:
            raise ValueError("this model is unconditional: it cannot take labels, prompts or vectors.")
        return self.reader.read(conditions)

    def conditions_of(self, data: Dataset) -> Cond | None:
        """The condition of every entry of `data`; None for an unconditional model."""
        return None if self.reader is None else self.reader.conditions(data)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Data as the model has it: latents float32 (B, *latent_dims) of images in [-1, 1], or `x` itself."""
        x = x.to(self.device)
        return x if self.space is None else self.space.encode(x)

    @torch.no_grad()
    def decode(self, state: Tensor) -> Tensor:
        """What a state of the model looks like as data, float32 (B, *dims) on the CPU; the inverse of `encode`."""
        return (state if self.space is None else self.space.decode(state)).float().cpu()

    def with_denoiser(self, denoiser: Denoiser) -> Self:
        """The same with another denoiser of the same data."""
        return replace(self, denoiser=denoiser)

    def __repr__(self) -> str:
        size = "x".join(map(str, self.dims))
        latent = f" as latents of {'x'.join(map(str, self.facts.latent_dims))}" if self.facts.latent_dims else ""
        classes = f", {len(self.label_names)} classes" if self.label_names else ""
        return f"{type(self).__name__}({self.name}: {size}{latent}{classes})"

    def require_run(self, why: str) -> Run:
        """The run on disk, which only models of ours have.

        Raises:
            ConfigError: a model from elsewhere; says `why` a run is wanted.
        """
        if self.run is None:
            raise ConfigError(f"{self.name} is no run of ebbflow: {why}.")
        return self.run


def require_images(model: Opened, what: str) -> None:
    """Refuse a model of points with a ConfigError."""
    if not model.facts.is_image:
        raise ConfigError(f"this model is of {model.dims[0]}-D points: {what} wants images.")


def held_out_of(model: Opened, data_dir: Path | None, num: int) -> Dataset:
    """The first `num` entries that a run was not trained on.

    Args:
        data_dir: where the data lies, if not where the run was trained from.

    Raises:
        ConfigError: a model that is no run of ours, whose data is not known.
        ConfigError, DataError: the data is not where it was, or another one.
    """
    data = splits_of_run(model.require_run("its data is not known"), data_dir).held_out
    if len(data) == 0:
        raise DataError(f"data set {data.name!r} has no held-out samples.")
    return data.select(torch.arange(min(num, len(data))))


def as_latent_space(space: Space | None) -> LatentSpace | None:
    """The space where it is one of ours, whose weights can be compared."""
    return space if isinstance(space, LatentSpace) else None
