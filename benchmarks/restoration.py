"""Restoration of held-out images without training for it: `python benchmarks/restoration.py RUN`.

Each operator with and without noise, by each method: the mean over images of the PSNR of single restorations, of their
mean, and of what was given.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch

import ebbflow as ef
from ebbflow.methods.guidance import RESTORATIONS
from ebbflow.requests.sampling import RestoreRequest
from ebbflow.runs.model import restored
from ebbflow.runs.opened import held_out_of
from ebbflow.runs.restore import degrade, distances, measurement_of, restore_plan

CASES: dict[str, dict[str, Any]] = {
    "downsample": {"factor": 2},
    "blur": {"sigma": 1.0},
    "mask": {"region": "left"},
}


def main() -> None:
    """Print a line of JSON for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--num", type=int, default=4, help="restorations an image")
    parser.add_argument("--steps", type=int, default=20)
    asked = parser.parse_args()
    model = ef.open(asked.run, device="cpu")
    x = held_out_of(model, None, asked.images).x0(torch.arange(asked.images))
    for operator, options in CASES.items():
        for noise in (0.0, 0.1):
            for method in RESTORATIONS:
                request = RestoreRequest(
                    operator=operator, operator_options=options, noise=noise, method=method,
                    num=asked.num, steps=asked.steps,
                )  # fmt: skip
                plan, found = restore_plan(model, request), []
                for truth in x.split(1):
                    y = degrade(plan, truth)
                    given = measurement_of(plan).operator.shown(y, model.dims).clamp(-1, 1)
                    found.append(distances(restored(model, plan, y).x, truth, given))
                means = {name: round(sum(one[name] for one in found) / len(found), 2) for name in found[0]}
                print(json.dumps({"operator": operator, "noise": noise, "method": method, **means}), flush=True)


if __name__ == "__main__":
    main()
