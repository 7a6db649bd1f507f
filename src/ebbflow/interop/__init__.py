"""Other people's models: pipelines and nets that diffusers saved, opened as a Model of ours."""

from ebbflow.interop.diffusers import load_diffusers
from ebbflow.interop.pipelines import PIPELINES

__all__ = ["PIPELINES", "load_diffusers"]
