"""The checks of `ebbflow doctor`."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

EXTRAS = {
    "diffusers": "hf",
    "transformers": "text",
    "fastapi": "studio",
    "huggingface_hub": "hub",
    "pyarrow": "data",
    "onnxscript": "onnx",
    "onnxruntime": "onnx",
    "tensorboard": "trackers",
    "wandb": "trackers",
}
Row = dict[str, Any]


def checkup() -> list[Row]:
    """One row a check: name, ok, detail (with the cure where it is not ok)."""
    return [_python(), *_torch(), _torchvision(), *_extras(), _data_folder(), _disk()]


def _row(name: str, detail: str, ok: bool = True) -> Row:
    return {"name": name, "ok": ok, "detail": detail}


def _python() -> Row:
    ok = sys.version_info >= (3, 11)
    return _row("python", platform.python_version() + ("" if ok else ": 3.11 or newer is needed"), ok)


def _torch() -> list[Row]:
    import torch

    from ebbflow.training.engine import pick_device, pick_precision

    device = pick_device("auto")
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    fast = pick_precision("auto", device) == torch.bfloat16
    return [
        _row("torch", torch.__version__ + ("" if version >= (2, 9) else ": 2.9 or newer is needed"), version >= (2, 9)),
        _row("device", f"{device.type}, {torch.get_num_threads()} threads"),
        _row(
            "bfloat16",
            "multiplied by the hardware: training uses it"
            if fast
            else "not in the hardware: training stays in float32",
        ),
    ]


def _torchvision() -> Row:
    """A torchvision that does not fit torch breaks whatever imports it, so it is tried in a process of its own."""
    if importlib.util.find_spec("torchvision") is None:
        return _row("torchvision", "absent; ebbflow does not use it")
    tried = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True, timeout=120)
    if tried.returncode == 0:
        return _row("torchvision", "imports; ebbflow does not use it")
    reason = (tried.stderr.strip().splitlines() or ["it does not import"])[-1]
    return _row("torchvision", f"broken ({reason}). It does not fit this torch; cure: pip uninstall torchvision", False)


def _extras() -> list[Row]:
    return [
        _row(
            name,
            "present" if importlib.util.find_spec(name) else f"absent; pip install -e '.[{extra}]' where it is wanted",
        )
        for name, extra in EXTRAS.items()
    ]


def _data_folder() -> Row:
    folder = Path(os.environ.get("EBBFLOW_DATA", "~/.cache/ebbflow/data")).expanduser()
    known = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    return _row("data folder", f"{folder} ({', '.join(known) or 'empty'})")


def _disk() -> Row:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return _row(
        "disk", f"{free:.1f} GiB free here" + ("" if free > 1 else ": runs need room for checkpoints"), free > 1
    )
