"""A run's coupling: the classes that pairs are made in, and the potentials that the run's folder keeps."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from ebbflow.conditioning import Conditioner, LabelConditioner
from ebbflow.config import RunConfig
from ebbflow.core.entries import entry, spelt
from ebbflow.data import Dataset
from ebbflow.errors import ConfigError
from ebbflow.files import remember, remembered
from ebbflow.methods.couplings import COUPLINGS, Coupling, Pairing, Pool
from ebbflow.progress import Work

FILE = "coupling.safetensors"  # in a run's folder; can be made again


def coupling_of(config: RunConfig) -> Coupling:
    """The coupling that a configuration names."""
    found: Coupling = entry(COUPLINGS, config.objective.coupling, "coupling")
    return found


def pool_of(config: RunConfig, data: Dataset, conditioner: Conditioner | None) -> Pool:
    """The data that a run's coupling pairs, by class where the model is conditioned on classes.

    Raises:
        ConfigError: pairs by cost, and a condition of another kind, which they would leak into the noise.
    """
    if coupling_of(config).by_cost and not (conditioner is None or isinstance(conditioner, LabelConditioner)):
        raise ConfigError(
            f"objective.coupling {spelt(config.objective.coupling)!r} pairs inside classes, and this run is "
            f"conditioned on {conditioner.takes}: its noise would tell the condition. Use objective.coupling="
            "independent, or conditioning.kind=label or none."
        )
    labels = None if conditioner is None else data.labels
    return Pool(x0=data.x0, classes=torch.zeros(len(data), dtype=torch.long) if labels is None else labels)


def learned_pairing(config: RunConfig, pool: Pool, folder: Path) -> Work[Pairing | None]:
    """The pairing of a run, None where it is independent; what has to be learned of the data first is read from the
    folder, or learned and stored there."""
    coupling = coupling_of(config)
    if not coupling.by_cost:
        return None
    key, path = _key(config, coupling, pool), folder / FILE
    learned = (remembered(path, key) or {}).get("learned")
    if learned is None:
        learned = yield from coupling.learn(pool, config.train.seed)
        if learned is not None and folder.is_dir():  # a cost is measured without one
            remember({"learned": learned}, path, key)
    return coupling.pairing(pool, learned)


def _key(config: RunConfig, coupling: Coupling, pool: Pool) -> str:
    """A hash of all that the potentials depend on."""
    digest = hashlib.sha256(repr((coupling, config.train.seed)).encode())
    for rows in torch.arange(len(pool.classes)).split(4096):
        digest.update(pool.x0(rows).contiguous().numpy().data)
    digest.update(pool.classes.contiguous().numpy().data)
    return digest.hexdigest()
