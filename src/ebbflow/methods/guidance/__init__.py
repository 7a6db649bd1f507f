"""Guidance: denoisers made of denoisers. Every rule changes x0 and eps together, so it means the same in every
prediction."""

from __future__ import annotations

from collections.abc import Callable

from ebbflow.methods.denoise import Denoiser
from ebbflow.methods.guidance.apg import APG
from ebbflow.methods.guidance.autoguidance import Autoguidance
from ebbflow.methods.guidance.branches import BATCH_LIMITS, Branches, combine
from ebbflow.methods.guidance.cfg_zero_star import CFGZeroStar
from ebbflow.methods.guidance.classifier import (
    ClassifierGuidance,
    ClassifierObjective,
    NetClassifier,
    NoisyClassifier,
)
from ebbflow.methods.guidance.classifier_free import ClassifierFree
from ebbflow.methods.guidance.loss import EMPHASES, LossGuidance
from ebbflow.methods.guidance.losses import LOSSES, Loss
from ebbflow.methods.guidance.restoring import DDNM, RESTORATIONS, Measurement, PiGDM

classifier_free = ClassifierFree
CONDITION_RULES: dict[str, Callable[..., Branches]] = {
    "classifier_free": ClassifierFree,
    "cfg_zero_star": CFGZeroStar,
    "apg": APG,
}
GUIDANCE: dict[str, Callable[..., Denoiser]] = {
    **CONDITION_RULES,
    "autoguidance": Autoguidance,
    "classifier": ClassifierGuidance,
    "loss": LossGuidance,
    **RESTORATIONS,
}

__all__ = [
    "BATCH_LIMITS",
    "CONDITION_RULES",
    "DDNM",
    "EMPHASES",
    "GUIDANCE",
    "LOSSES",
    "RESTORATIONS",
    "Autoguidance",
    "ClassifierFree",
    "ClassifierGuidance",
    "ClassifierObjective",
    "Loss",
    "LossGuidance",
    "Measurement",
    "NetClassifier",
    "NoisyClassifier",
    "PiGDM",
    "classifier_free",
    "combine",
]
