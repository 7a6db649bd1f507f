"""The claims of the study notes, each measured on a pair of trained models."""

from __future__ import annotations

from ebbflow.studies.claims.base import Claim, Finding, Recipe, Side, Trial
from ebbflow.studies.claims.comparison import FLOW_OR_DIFFUSION
from ebbflow.studies.claims.determinism import DETERMINISTIC, DIVERSITY, RECONSTRUCTION
from ebbflow.studies.claims.identities import ONE_GO, SIMPLER
from ebbflow.studies.claims.quality import GUIDANCE, STEPS, STRAIGHT, TOY

CLAIMS: dict[str, Claim] = {
    "steps": STEPS,
    "deterministic": DETERMINISTIC,
    "diversity": DIVERSITY,
    "reconstruction": RECONSTRUCTION,
    "straight": STRAIGHT,
    "simpler": SIMPLER,
    "guidance": GUIDANCE,
    "one_go": ONE_GO,
    "toy": TOY,
    "flow_or_diffusion": FLOW_OR_DIFFUSION,
}

__all__ = ["CLAIMS", "Claim", "Finding", "Recipe", "Side", "Trial"]
