"""Averages of the weights that a training leaves on its way, in the folder averages/ of its run."""

from __future__ import annotations

from pathlib import Path

from ebbflow.files import save_tensors
from ebbflow.training.dealt import gathered
from ebbflow.training.ema import EMA, snapshot_interval

FOLDER = "averages"


def snapshots(folder: Path) -> dict[int, Path]:
    """The files by their step, oldest first; tensor "name" of average i is "i.name" in them."""
    found = {
        int(path.stem[5:]): path for path in (folder / FOLDER).glob("step_*.safetensors") if path.stem[5:].isdecimal()
    }
    return {step: found[step] for step in sorted(found)}


def keep_snapshot(folder: Path, step: int, ema: EMA, most: int) -> None:
    """Keep the averages of a step where that is due, and let go those between the ones that stay; every process calls
    it."""
    if most == 0 or step % (interval := snapshot_interval(step, most)):
        return
    named = {f"{i}.{name}": t for i, module in enumerate(ema.modules) for name, t in module.state_dict().items()}
    tensors = gathered(named)
    if not tensors:
        return
    (folder / FOLDER).mkdir(exist_ok=True)
    save_tensors(tensors, folder / FOLDER / f"step_{step:06d}.safetensors")
    for at, path in snapshots(folder).items():
        if at % interval:
            path.unlink(missing_ok=True)


def forget_snapshots_after(folder: Path, step: int) -> None:
    """Remove those of steps that will be done again."""
    for at, path in snapshots(folder).items():
        if at > step:
            path.unlink(missing_ok=True)
