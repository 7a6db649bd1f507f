"""Guidance: denoisers made of denoisers. Every rule changes x0 and eps together, so it means the same in every
prediction."""

from __future__ import annotations

from collections.abc import Callable

from ebbflow.methods.denoise import Denoiser
from ebbflow.methods.guidance.apg import APG, apg
from ebbflow.methods.guidance.autoguidance import Autoguidance, autoguidance
from ebbflow.methods.guidance.branches import BATCH_LIMITS, Branches, combine
from ebbflow.methods.guidance.cfg_zero_star import CFGZeroStar, cfg_zero_star
from ebbflow.methods.guidance.classifier import (
    ClassifierGuidance,
    ClassifierObjective,
    NetClassifier,
    NoisyClassifier,
    classifier_guidance,
)
from ebbflow.methods.guidance.classifier_free import ClassifierFree, classifier_free
from ebbflow.methods.guidance.loss import EMPHASES, LossGuidance, loss_guidance
from ebbflow.methods.guidance.losses import LOSSES, Loss, misfit

CONDITION_RULES: dict[str, Callable[..., Branches]] = {
    "classifier_free": classifier_free,
    "cfg_zero_star": cfg_zero_star,
    "apg": apg,
}
GUIDANCE: dict[str, Callable[..., Denoiser]] = {
    **CONDITION_RULES,
    "autoguidance": autoguidance,
    "classifier": classifier_guidance,
    "loss": loss_guidance,
}

__all__ = [
    "APG",
    "BATCH_LIMITS",
    "CONDITION_RULES",
    "EMPHASES",
    "GUIDANCE",
    "LOSSES",
    "Autoguidance",
    "Branches",
    "CFGZeroStar",
    "ClassifierFree",
    "ClassifierGuidance",
    "ClassifierObjective",
    "Loss",
    "LossGuidance",
    "NetClassifier",
    "NoisyClassifier",
    "apg",
    "autoguidance",
    "cfg_zero_star",
    "classifier_free",
    "classifier_guidance",
    "combine",
    "loss_guidance",
    "misfit",
]
