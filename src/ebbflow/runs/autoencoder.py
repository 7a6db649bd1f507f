"""Training an autoencoder in a folder: metrics, checkpoints, a picture of reconstructions, and the finished latent
space."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from ebbflow.config import AutoencoderConfig
from ebbflow.data import Dataset, Splits, load_dataset, to_uint8
from ebbflow.errors import ConfigError
from ebbflow.files import write_text
from ebbflow.latent import LatentSpace, batches_of
from ebbflow.runs.build import DatasetLoader, build_autoencoder, facts_of
from ebbflow.runs.spaces import MODEL, save_space
from ebbflow.runs.store import claim, describe, newest_checkpoint
from ebbflow.runs.train import Progress
from ebbflow.runs.upkeep import forget_after, is_due, learning_rate, log_metrics, prune
from ebbflow.show import canvas
from ebbflow.training import checkpoint, engine
from ebbflow.training.autoencoder import AutoencoderStep, Fidelity, fit_autoencoder, measure_fidelity
from ebbflow.training.optim import adamw

COLUMNS = 12
MEASURED = 10_000  # training images behind the latent statistics: means to about a thousandth


def load_images(config: AutoencoderConfig) -> Splits:
    """The data of an autoencoder.

    Raises:
        ConfigError: points.
    """
    data = config.data
    splits = load_dataset(data.name, data_dir=data.dir, size=data.size, channels=data.channels, skip_bad=data.skip_bad)
    if not splits.train.is_image:
        raise ConfigError(f"an autoencoder works on images; {data.name!r} holds points. Give another --data.")
    return splits


class AutoencoderTrainer:
    """One autoencoder in one folder. Building it claims the folder and restores the newest checkpoint; `events` trains.

    Args:
        config: the configuration.
        splits: images.
        folder: its home, new or with the same autoencoder in it.
        command: the command that made it, for the picture and the card.
        should_stop: asked after each step; True saves and ends.

    Raises:
        ConfigError: a folder that holds something else.
    """

    def __init__(
        self,
        config: AutoencoderConfig,
        splits: Splits,
        folder: Path,
        *,
        command: str = "",
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.config, self.splits, self.folder = config, splits, folder
        self.command, self.should_stop = command, should_stop
        self.facts = facts_of(splits.train)
        engine.keep_large_blocks()
        self.device = engine.pick_device(config.engine.device)
        self.dtype = engine.pick_precision(config.engine.precision, self.device)
        self.net = build_autoencoder(config, self.facts.dims).to(self.device)
        claim(folder, config, self.facts)
        self.optimiser = adamw(self.net.parameters(), lr=config.train.lr, weight_decay=config.train.weight_decay)
        self.fidelity: Fidelity | None = None
        self.start = self._restore()

    @property
    def num_parameters(self) -> int:
        """Trained parameters."""
        return sum(p.numel() for p in self.net.parameters())

    @property
    def latent_dims(self) -> tuple[int, ...]:
        """Shape of one code."""
        options = self.config.autoencoder
        return (options.latent_channels, *(-(-side // options.factor) for side in self.facts.dims[1:]))

    @property
    def is_finished(self) -> bool:
        """Whether the folder already holds the autoencoder, trained to the end."""
        return self.start >= self.config.train.num_steps and (self.folder / MODEL).is_file()

    def events(self) -> Iterator[Progress]:
        """Train from where the folder stands to the end, or until `should_stop`; the end writes the latent space."""
        train, done = self.config.train, self.start
        began, window = time.perf_counter(), 0
        (self.folder / MODEL).unlink(missing_ok=True)
        for step in self._fit():
            done, window = step.step, window + 1
            stop = done == train.num_steps or self.should_stop()
            if done % train.log_every == 0 or stop:
                rate = window * train.batch_size / (time.perf_counter() - began)
                log_metrics(self.folder, {**vars(step), "samples_per_second": round(rate, 1)})
                began, window = time.perf_counter(), 0
            yield from self._between(step, stop)
            if stop:
                break
        if done >= train.num_steps:
            self._publish()
            here = Progress(step=done, num_steps=train.num_steps, loss=0.0, lr=0.0)
            yield replace(here, note=f"latent space: {self.folder / MODEL}")

    def _fit(self) -> Iterator[AutoencoderStep]:
        train = self.config.train
        loader = DatasetLoader(
            dataset=self.splits.train,
            cond=None,
            conditioner=None,
            drop=0.0,
            batch_size=train.batch_size,
            seed=train.seed,
        )
        return fit_autoencoder(
            self.net,
            loader,
            self.optimiser,
            num_steps=train.num_steps,
            start=self.start,
            lr=learning_rate(train),
            loss=train.loss,
            kl_weight=train.kl_weight,
            seed=train.seed,
            clip=train.clip,
            dtype=self.dtype,
        )

    def _between(self, step: AutoencoderStep, stop: bool) -> Iterator[Progress]:
        """What is due after a step: held-out error, a picture, a checkpoint."""
        train, done = self.config.train, step.step
        finished = done == train.num_steps
        here = Progress(step=done, num_steps=train.num_steps, loss=step.loss, lr=step.lr)
        yield here
        if is_due(done, train.held_out_every) or finished:
            self.fidelity = self.measure()
            mse, psnr = self.fidelity.mse, self.fidelity.psnr
            log_metrics(self.folder, {"step": done, "held_out_mse": mse, "held_out_psnr": psnr})
            yield replace(here, note=f"held-out reconstruction: mse {mse:.5f}, PSNR {psnr:.2f} dB")
        if is_due(done, train.sample_every) or finished:
            yield replace(here, note=f"reconstructions: {self.draw()}")
        if is_due(done, train.save_every) or stop:
            yield replace(here, note=f"checkpoint: {self._save(done)}")

    @property
    def judged_on(self) -> Dataset:
        """Up to `train.held_out_size` held-out images, or training images where nothing is held out."""
        data = self.splits.held_out if len(self.splits.held_out) else self.splits.train
        return data.select(torch.arange(min(len(data), self.config.train.held_out_size)))

    def measure(self) -> Fidelity:
        """The reconstruction error on `judged_on`, in float32."""
        return measure_fidelity(self.net.eval(), batches_of(self.judged_on), self.device)

    @torch.no_grad()
    def draw(self) -> Path:
        """A picture of held-out images above what comes back of them."""
        x = self.judged_on.x0(torch.arange(min(COLUMNS, len(self.judged_on))))
        back = self.net.eval()(x.to(self.device))[0].float().cpu()
        path = self.folder / "reconstructions.png"
        both = to_uint8(torch.cat([x, back]).clamp(-1, 1))
        canvas.save_picture(canvas.grid(both, columns=len(x), row_names=("original", "decoded")), path, self.command)
        return path

    def _restore(self) -> int:
        folder = newest_checkpoint(self.folder)
        if folder is None:
            (self.folder / "metrics.jsonl").unlink(missing_ok=True)
            return 0
        found = checkpoint.read(folder)
        checkpoint.restore(found, self.net, None, self.optimiser)
        forget_after(self.folder, found.step)
        return found.step

    def _save(self, step: int) -> Path:
        folder = self.folder / "checkpoints" / f"step_{step:06d}"
        state = {"step": step, **describe(self.config, self.facts)}
        checkpoint.save(folder, model=self.net, ema=None, optimiser=self.optimiser, state=state)
        prune(self.folder, keep=self.config.train.keep)
        return folder

    def _publish(self) -> None:
        """Measure the latent statistics, over evenly spaced training images where there are many, and write what a run
        takes."""
        space, data = LatentSpace(self.net, self.facts.dims), self.splits.train
        space.measure(batches_of(data.select(torch.arange(0, len(data), -(-len(data) // MEASURED)))))
        fidelity = self.fidelity or self.measure()
        facts = {
            **describe(self.config, self.facts),
            "latent": {
                "dims": list(space.latent_dims),
                "mean": space.mean.flatten().tolist(),
                "std": space.std.flatten().tolist(),
            },
            "held_out": {"mse": fidelity.mse, "psnr": fidelity.psnr},
        }
        write_text(self.folder / "README.md", self._card(space, fidelity))
        write_text(self.folder / "config.json", json.dumps(facts, indent=2))
        save_space(space, self.folder / MODEL)

    def _card(self, space: LatentSpace, fidelity: Fidelity) -> str:
        shapes = " to latents of ".join("x".join(map(str, dims)) for dims in (space.dims, space.latent_dims))
        return (
            f"# {self.folder.name}\n\nA KL autoencoder of {self.num_parameters:,} parameters, from images of {shapes}, "
            f"trained for {self.config.train.num_steps} steps on {self.config.data.name}. Held-out reconstruction: mse "
            f"{fidelity.mse:.5f}, PSNR {fidelity.psnr:.2f} dB.\n\nMade by\n\n```\n{self.command}\n```\n\n"
            f"Train a model in its latent space with\n\n```\nebbflow train --data {self.config.data.name} "
            f"--set latent.autoencoder={self.folder}\n```\n"
        )
