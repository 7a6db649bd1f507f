"""`ebbflow restore`."""

from __future__ import annotations

import time
from dataclasses import replace

from ebbflow.cli.common import print_json, this_command
from ebbflow.cli.progress import watched
from ebbflow.cli.sampling import _read, _said, opened
from ebbflow.errors import ConfigError
from ebbflow.requests.sampling import RestoreCommand


def restore(request: RestoreCommand) -> None:
    """Restore an image that was blurred, shrunk, masked or robbed of its colour, with a model trained on whole ones.

    The model is not trained for it: what is known of the image corrects what the model sees at every step.
    """
    from ebbflow.runs.model import restored
    from ebbflow.runs.restore import degrade, distances, measurement_of, read_degraded, restore_plan
    from ebbflow.runs.results import check_output

    check_output(request.output)
    if (request.input is None) == (request.truth is None):
        raise ConfigError("give the degraded image as `input`, or a whole one as `truth`, which is degraded first.")
    model = opened(request)
    plan = restore_plan(model, request)
    truth = None if request.truth is None else _read(model, request.truth)
    if truth is not None:
        y = degrade(plan, truth)
    else:
        assert request.input is not None
        y = read_degraded(request.input, model, plan)
    began = time.perf_counter()
    made = restored(model, plan, y, truth, watched)
    seconds = time.perf_counter() - began
    replace(made, command=this_command()).save(request.output)
    found = {}
    if truth is not None:
        given = measurement_of(plan).operator.shown(y, model.dims).clamp(-1, 1)
        found = {name: round(value, 2) for name, value in distances(made.x, truth, given).items()}
    if request.json:
        print_json({**_said(plan, request.output, seconds), "method": request.method, "num": len(made), **found})
        return
    said = (
        f"; {found['psnr']} dB from the truth, their mean {found['psnr_of_mean']} dB, given {found['psnr_of_given']} dB"
        if found
        else ""
    )
    print(f"{len(made):,} restorations in {seconds:.1f} s{said}: {request.output}")
