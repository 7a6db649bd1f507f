"""Noisy classifiers: built from a configuration, measured, opened to guide a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ebbflow.conditioning import DataFacts
from ebbflow.config import ClassifierConfig
from ebbflow.core.device import weighed
from ebbflow.core.noise import fresh_weights
from ebbflow.methods.guidance import NetClassifier
from ebbflow.nets.classifier import Classifier
from ebbflow.runs.folder import open_checkpoint
from ebbflow.training import checkpoint
from ebbflow.training.held_out import HeldOut, bins_by_log_snr


def build_classifier(config: ClassifierConfig, facts: DataFacts) -> NetClassifier:
    """A freshly initialised classifier, the same for the same `train.seed`."""
    cure = "Make it smaller: see section `classifier`."
    with fresh_weights(config.train.seed):
        net = weighed(
            lambda: config.classifier.build(facts.dims, len(facts.label_names)), "a classifier like this", cure
        )
        return NetClassifier(net=net)


@torch.no_grad()
def accuracy(classifier: NetClassifier, held_out: HeldOut, device: torch.device) -> dict[str, Any]:
    """The loss of `held_out` in nats, and how often the likeliest class is the right one on the same x_t, in all and by
    log-SNR."""
    loss, _ = held_out(classifier, device)
    assert held_out.cond is not None
    path, (t, eps) = held_out.objective.path, held_out.draws()
    x_t = path.mix(held_out.x0, eps, t)
    right = []
    for rows in torch.arange(len(t)).split(held_out.batch_size):
        guessed = classifier.logits(x_t[rows].to(device), t[rows], path).argmax(dim=1).cpu()
        right.append((guessed == held_out.cond[rows]).float())
    every = torch.cat(right)
    by_log_snr = bins_by_log_snr(path.log_snr(t), every)
    return {"held_out": loss, "accuracy": float(every.mean()), "accuracy_by_log_snr": by_log_snr}


@dataclass(frozen=True, kw_only=True)
class OpenClassifier:
    """A trained classifier, its configuration, and what it knows of its data."""

    classifier: NetClassifier
    config: ClassifierConfig
    facts: DataFacts


def open_classifier(path: str | Path, *, device: torch.device | str = "cpu") -> OpenClassifier:
    """The classifier in `path`; see `open_checkpoint`."""
    _, config, facts, opened = open_checkpoint(path, ClassifierConfig)
    classifier = build_classifier(config, facts)
    assert isinstance(classifier.net, Classifier)
    checkpoint.load_weights(classifier.net, opened.tensors("model"), opened.path("model"))
    classifier.net.to(device).eval().requires_grad_(False)
    return OpenClassifier(classifier=classifier, config=config, facts=facts)
