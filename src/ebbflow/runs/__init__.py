"""Runs: a folder, what is built of its configuration, its training, and the open model that is sampled and edited
with."""

from ebbflow.runs.build import facts_of, load_splits
from ebbflow.runs.folder import open_run
from ebbflow.runs.model import Model
from ebbflow.runs.plan import Plan
from ebbflow.runs.sample import generate
from ebbflow.runs.tasks import task_of
from ebbflow.runs.told import Progress
from ebbflow.runs.trainer import Trainer

__all__ = [
    "Model",
    "Plan",
    "Progress",
    "Trainer",
    "facts_of",
    "generate",
    "load_splits",
    "open_run",
    "task_of",
]
