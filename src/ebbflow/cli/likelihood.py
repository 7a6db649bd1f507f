"""`ebbflow likelihood`."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer

from ebbflow.cli.common import print_json, print_rows
from ebbflow.errors import ConfigError


def likelihood(
    ckpt: Annotated[Path, typer.Option(help="The folder of a run or of one of its checkpoints.")],
    num: Annotated[int, typer.Option(min=1, help="Held-out samples to measure.")] = 64,
    method: Annotated[
        str, typer.Option(help="ode (change of variables along the ODE) or vlb (the bound of ancestral sampling).")
    ] = "ode",
    steps: Annotated[
        int | None, typer.Option(min=2, help="Steps. Default: 32 of the ODE; the path's table, or 1000, of the bound.")
    ] = None,
    sampler: Annotated[str, typer.Option(help="Integrator of the ODE: rk4 or heun.")] = "rk4",
    variance: Annotated[
        str | None,
        typer.Option(help="Of the bound's steps: small, large, learned or optimal. Default: learned, or else large."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of dequantisation, probes and noise.")] = 0,
    weights: Annotated[str, typer.Option(help="ema (averaged) or raw.")] = "ema",
    data_dir: Annotated[Path | None, typer.Option(help="Where the run's data lies. Default: as in training.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples a network evaluation.")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    output: Annotated[Path | None, typer.Option(help="Also write the report to this .json file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure the likelihood of held-out data, in bits a dimension: less is better."""
    from ebbflow.files import write_text
    from ebbflow.runs import open_run
    from ebbflow.studies.likelihood import Question, measure_likelihood
    from ebbflow.training.engine import pick_device

    _check(weights, variance, method, output)
    values: dict[str, Any] = {"method": method, "variance": variance, "weights": weights}
    question = Question(
        num=num,
        num_steps=steps,
        sampler=sampler,
        seed=seed,
        data_dir=None if data_dir is None else str(data_dir),
        batch_size=batch_size,
        **values,
    )
    report = measure_likelihood(open_run(ckpt), question, pick_device(device))
    if output is not None:
        write_text(output, json_module.dumps(report, indent=2))
    if json:
        print_json(report)
    else:
        print_rows([{"key": key, "value": value} for key, value in report.items() if value is not None])


def _check(weights: str, variance: str | None, method: str, output: Path | None) -> None:
    if weights not in ("ema", "raw"):
        raise ConfigError(f"--weights must be ema or raw, got {weights!r}.")
    if variance is not None and variance not in ("small", "large", "learned", "optimal"):
        raise ConfigError(f"--variance must be small, large, learned or optimal, got {variance!r}.")
    if variance is not None and method != "vlb":
        raise ConfigError("--variance belongs to ancestral sampling. Add --method vlb, or leave it out.")
    if output is not None and output.suffix.lower() != ".json":
        raise ConfigError(f"--output wants a .json file, got {output}.")
