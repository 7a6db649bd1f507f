"""ebbflow: train, sample, edit, measure and compare diffusion and flow-matching models.

Everything public is here; what it names is loaded when it is first used, so `import ebbflow` costs little more than
torch.
"""

from __future__ import annotations

import importlib
from typing import Any

import ebbflow.plugins  # noqa: F401  a name that is unknown is looked for in installed plugins

__version__ = "0.1.0"

_PUBLIC = {
    "PATHS": "core.paths",
    "Path": "core.paths",
    "PREDICTIONS": "core.predictions",
    "Estimate": "core.predictions",
    "solve": "core.predictions",
    "TIME_GRIDS": "core.times",
    "TIME_SAMPLERS": "core.times",
    "WEIGHTS": "core.weights",
    "COUPLINGS": "methods.couplings",
    "Noise": "core.noise",
    "OPERATORS": "core.operators",
    "LinearOperator": "core.operators",
    "NETS": "nets",
    "DATASETS": "data",
    "load_dataset": "data",
    "SAMPLERS": "methods.samplers",
    "Sampler": "methods.samplers",
    "Step": "methods.samplers",
    "sampler": "methods.samplers.base",
    "Level": "methods.samplers.base",
    "level_at": "methods.samplers.base",
    "must_be_ddim": "methods.samplers.base",
    "remix": "methods.samplers.base",
    "slope": "methods.samplers.base",
    "Denoiser": "methods.denoise",
    "NetDenoiser": "methods.denoise",
    "FlowMap": "methods.denoise",
    "NetFlowMap": "methods.denoise",
    "FunctionDenoiser": "methods.denoise",
    "Conditional": "methods.denoise",
    "CLOCKS": "methods.told",
    "SCALES": "methods.told",
    "raw_steps": "methods.told",
    "Objective": "methods.objective",
    "MAPS": "methods.maps",
    "MapObjective": "methods.maps",
    "ODEMap": "methods.maps",
    "GUIDANCE": "methods.guidance",
    "classifier_free": "methods.guidance",
    "RESTORATIONS": "methods.guidance",
    "Measurement": "methods.guidance",
    "LatentSpace": "latent",
    "AnalyticVariance": "methods.variance",
    "log_likelihood": "methods.likelihood",
    "variational_bound": "methods.likelihood",
    "ImportanceTimes": "methods.adaptive",
    "Uncertainty": "methods.adaptive",
    "OPTIMISERS": "training.optim",
    "EMA": "training.ema",
    "Loss": "training.task",
    "Draw": "training.task",
    "fit": "training.loop",
    "Batch": "training.batches",
    "Engine": "training.engine",
    "Task": "training.task",
    "Model": "runs.model",
    "SampleSet": "runs.results",
    "open": "api",
    "load": "api",
    "sample": "api",
    "edit": "api",
    "restore": "api",
    "evaluate": "api",
    "evaluate_images": "api",
    "compare": "api",
    "load_diffusers": "interop",
    "export": "api",
    "push": "api",
}
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
