"""`ebbflow search-grid`."""

from __future__ import annotations

from typing import Annotated, Any, cast

import typer

from ebbflow.cli.common import check_weights, print_json, print_rows, read_integers, shown
from ebbflow.cli.options import AsJson, Ckpt, Device, WeightsName


def search_grid(
    ckpt: Ckpt,
    steps: Annotated[str, typer.Option(help="Numbers of steps to find grids for, such as 5,10.")] = "5,10,20",
    sampler: Annotated[str, typer.Option(help="A deterministic sampler, whose single steps are measured.")] = "ddim",
    guidance: Annotated[float, typer.Option(help="w of u + w (c - u).")] = 1.0,
    candidates: Annotated[int, typer.Option(min=2, max=256, help="Times to choose from: the teacher's steps.")] = 48,
    candidate_grid: Annotated[str, typer.Option(help="Where these lie; see `ebbflow list grids`.")] = "cosine",
    num: Annotated[int, typer.Option(min=1, help="How many trajectories of the teacher.")] = 32,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first of them.")] = 0,
    weights: WeightsName = "ema",
    device: Device = "auto",
    json: AsJson = False,
) -> None:
    """Search the time grid on which few steps stay nearest to many; use it as `ebbflow sample --grid learned`."""
    check_weights(weights)
    from ebbflow.runs import open_run
    from ebbflow.runs.grids import FILE, GridSearch, search_grids
    from ebbflow.training.engine import pick_device

    run = open_run(ckpt)
    wanted = GridSearch(
        steps=tuple(read_integers(steps, "--steps")),
        sampler=sampler,
        guidance=guidance,
        candidates=candidates,
        candidate_grid=candidate_grid,
        num=num,
        seed=seed,
        weights=cast(Any, weights),
    )
    found = shown(search_grids(run, wanted, pick_device(device)), "stopped; no grid was kept.")
    if json:
        print_json(found)
        return
    rows = [{"steps": str(one["steps"]), "off the teacher": f"{one['error']:.3g}"} for one in found]
    for row, one in zip(rows, found, strict=True):
        row |= {"on the uniform grid": f"{one['error_uniform']:.3g}"}
        row |= {"times": " ".join(f"{t:.3f}" for t in one["times"])}
    print_rows([dict(zip(rows[0], rows[0], strict=True)), *rows])
    worse = [str(one["steps"]) for one in found if one["error"] >= one["error_uniform"]]
    if worse:
        print(f"\nWith {' and '.join(worse)} steps the uniform grid stays nearer to the teacher: no need to learn one.")
    print(
        f"\n{run.checkpoint.folder / FILE}\nUse it: ebbflow sample --ckpt {run.folder} --grid learned --steps "
        f"{found[0]['steps']} --output samples.png"
    )
