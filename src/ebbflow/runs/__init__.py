"""Runs: the one place that knows all. From a configuration it builds, trains, stores, loads and samples."""

from ebbflow.runs.build import build_denoiser, build_objective, facts_of, load_splits
from ebbflow.runs.folder import Run, open_run
from ebbflow.runs.generate import Request, Samples, generate
from ebbflow.runs.tasks import task_of
from ebbflow.runs.trainer import Progress, Trainer

__all__ = [
    "Progress",
    "Request",
    "Run",
    "Samples",
    "Trainer",
    "build_denoiser",
    "build_objective",
    "facts_of",
    "generate",
    "load_splits",
    "open_run",
    "task_of",
]
