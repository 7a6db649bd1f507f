"""`ebbflow plot schedules`, `weights`, `run` and `noising`: plots that need no sampling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ebbflow.cli.common import print_json, print_lines, print_rows, this_command
from ebbflow.errors import ConfigError, DataError, choose
from ebbflow.requests.plots import NoisingRequest, RunRequest, SchedulesRequest, WeightsRequest


def schedules(request: SchedulesRequest) -> None:
    """Draw beta, alpha, alpha-bar, their square roots and log-SNR of any paths."""
    from ebbflow.core.paths import PATHS
    from ebbflow.show import canvas
    from ebbflow.show.plots import draw_schedules

    chosen = {name: choose(PATHS, name, "path")() for name in request.paths}
    canvas.save_picture(draw_schedules(chosen, request.num_steps), request.output, this_command())
    print(request.output)


def weights(request: WeightsRequest) -> None:
    """Draw how objectives weigh noise levels, and say which are the same up to a constant."""
    from dataclasses import asdict

    from ebbflow.show import canvas
    from ebbflow.show.loss_weights import compare, draw, read_term

    terms = [read_term(text, request.path) for text in request.objectives]
    if len({term.name for term in terms}) < len(terms):
        raise ConfigError("an objective is named twice. Name each once.")
    pairs = compare(terms)
    canvas.save_picture(draw(terms), request.output, this_command())
    if request.json:
        print_json({"output": str(request.output), "pairs": [asdict(pair) for pair in pairs]})
        return
    same, others = ([pair for pair in pairs if pair.same is wanted] for wanted in (True, False))
    print_lines(
        [
            *((pair.first, f"= {pair.factor:.6g} x", pair.second) for pair in same),
            *(
                (pair.first, "is not", f"{pair.second} (their ratio varies by {pair.spread + 1:.3g})")
                for pair in others
            ),
        ]
    )
    print(request.output)


def run(request: RunRequest) -> None:
    """Draw what runs wrote down: training and held-out loss (averaged and raw weights), their gap, gradient norm,
    learning rate, throughput, and loss by log-SNR over the steps."""
    from ebbflow.runs.folder import read_metrics
    from ebbflow.show import canvas
    from ebbflow.show.run_plots import draw_runs, summary

    rows: dict[str, Any] = {name: read_metrics(folder) for name, folder in _named(request.runs).items()}
    canvas.save_picture(draw_runs(rows), request.output, this_command())
    if request.json:
        print_json([summary(name, lines) for name, lines in rows.items()])
    else:
        print(request.output)


def _named(runs: tuple[Path, ...]) -> dict[str, Path]:
    """Runs by folder name where that tells them apart, else by path; each once."""
    folders = list(dict.fromkeys(runs))
    names = [folder.resolve().name for folder in folders]
    return {name if names.count(name) == 1 else str(path): path for name, path in zip(names, folders, strict=True)}


def noising(request: NoisingRequest) -> None:
    """Noise one image in closed form and step by step, and compare the two: (x_t - alpha x0) / sigma has mean 0 and
    standard deviation 1 both ways."""
    import torch

    from ebbflow.core.paths import PATHS
    from ebbflow.data import load_dataset
    from ebbflow.show import canvas
    from ebbflow.show.strips import noise_both_ways

    path = choose(PATHS, request.path, "path")()
    source = load_dataset(request.data, data_dir=request.data_dir).held_out
    if not source.is_image:
        raise DataError(f"data set {source.name!r} holds points; `plot noising` shows images.")
    if request.index >= len(source):
        raise DataError(
            f"`index` must be below the {len(source)} held-out images of {source.name!r}, got {request.index}."
        )
    x0 = source.x0(torch.tensor([request.index]))
    both = noise_both_ways(
        path, x0, num_steps=request.num_steps, columns=request.columns, num=request.num, seed=request.seed
    )
    canvas.save_picture(both.draw(), request.output, this_command())
    rows: list[dict[str, Any]] = both.rows()
    if request.json:
        print_json(rows)
        return
    print_rows(rows, headed=True)
    print(f"over {request.num} noisings of {x0.numel()} values each: {request.output}")
