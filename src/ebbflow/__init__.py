"""ebbflow: train, sample, edit, measure and compare diffusion and flow-matching models.

Everything public is here; what it names is loaded when it is first used, so `import ebbflow` costs little more than
torch.
"""

from __future__ import annotations

import importlib
from typing import Any

import ebbflow.plugins  # noqa: F401  a name that is unknown is looked for in installed plugins

__version__ = "0.1.0"

_ROOMS = {
    "core.paths": "PATHS Path",
    "core.predictions": "PREDICTIONS Estimate solve",
    "core.times": "TIME_GRIDS TIME_SAMPLERS",
    "core.weights": "WEIGHTS",
    "methods.couplings": "COUPLINGS",
    "core.noise": "Noise",
    "core.operators": "OPERATORS LinearOperator",
    "nets": "NETS",
    "data": "DATASETS load_dataset",
    "methods.samplers": "SAMPLERS Sampler Step",
    "methods.samplers.base": "sampler Level level_at must_be_ddim remix slope",
    "methods.denoise": "Denoiser NetDenoiser FlowMap NetFlowMap FunctionDenoiser Conditional",
    "methods.told": "CLOCKS SCALES raw_steps",
    "methods.objective": "Objective",
    "methods.maps": "MAPS MapObjective ODEMap",
    "methods.guidance": "GUIDANCE classifier_free RESTORATIONS Measurement",
    "latent": "LatentSpace",
    "methods.variance": "AnalyticVariance",
    "methods.likelihood": "log_likelihood variational_bound",
    "methods.adaptive": "ImportanceTimes Uncertainty",
    "training.optim": "OPTIMISERS",
    "training.ema": "EMA",
    "training.task": "Loss Draw Task",
    "training.loop": "fit",
    "training.batches": "Batch",
    "training.engine": "Engine",
    "runs.model": "Model",
    "runs.results": "SampleSet",
    "api": "open load sample edit restore evaluate evaluate_images compare export push",
    "interop": "load_diffusers",
}
_PUBLIC = {name: room for room, names in _ROOMS.items() for name in names.split()}
_MODULES = {"oracles": "methods.oracles"}

__all__ = ["__version__", *_PUBLIC, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"ebbflow.{_MODULES[name]}")
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"ebbflow.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'ebbflow' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
