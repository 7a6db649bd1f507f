"""`ebbflow sample`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ebbflow.cli.common import (
    check_weights,
    class_indices,
    print_json,
    read_integers,
    read_items,
    read_options,
    this_command,
    watched,
)
from ebbflow.cli.guides import (
    Autoguide,
    ClassifierFolder,
    ClassifierScale,
    GuidanceRule,
    GuidanceSet,
    LossEmphasis,
    LossName,
    LossSet,
    LossWeight,
    Mask,
    Target,
    read_guides,
)
from ebbflow.errors import ConfigError

if TYPE_CHECKING:
    from ebbflow.core.condition import Condition
    from ebbflow.runs import Request, Run, Samples
    from ebbflow.runs.folder import Weights


def sample(
    ckpt: Annotated[Path, typer.Option(help="The folder of a run or of one of its checkpoints.")],
    output: Annotated[
        Path, typer.Option(help="A grid (.png .jpg .webp), all samples (.npz), or a folder of single pictures.")
    ],
    num: Annotated[
        int | None, typer.Option(min=1, help="How many samples in all. Default: 1 a --label, 8 a class, or 64.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="One class, by index or name.")] = None,
    labels: Annotated[
        str | None, typer.Option(help="Several classes, such as 0-9 or cat,dog; the rows of the grid.")
    ] = None,
    negative_label: Annotated[str | None, typer.Option(help="The class that guidance moves away from.")] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="What to make, for runs trained on text; repeat it for more rows.")
    ] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="The text that guidance moves away from.")] = None,
    vector: Annotated[
        list[str] | None,
        typer.Option(help="Numbers such as 0,0.5,0.5, for runs trained on vectors; repeat it for more rows."),
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="w of u + w (c - u): 1 is conditional, 0 unconditional.")
    ] = None,
    rescale: Annotated[
        float, typer.Option(min=0, max=1, help="How far guided samples are brought back to their contrast.")
    ] = 0.0,
    interval: Annotated[str | None, typer.Option(help="LOW,HIGH in log-SNR: guide only there.")] = None,
    guidance_rule: GuidanceRule = None,
    guidance_set: GuidanceSet = None,
    autoguide: Autoguide = None,
    classifier: ClassifierFolder = None,
    classifier_scale: ClassifierScale = None,
    loss: LossName = None,
    loss_weight: LossWeight = None,
    loss_emphasis: LossEmphasis = None,
    loss_set: LossSet = None,
    target: Target = None,
    mask: Mask = None,
    sampler: Annotated[str | None, typer.Option(help="See `ebbflow list samplers`.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Number of steps.")] = None,
    grid: Annotated[str | None, typer.Option(help="Where the steps lie: `ebbflow list grids`, or learned.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Option of the sampler, such as eta=0.5; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first sample; the next ones count up.")] = 0,
    seeds: Annotated[
        str | None, typer.Option(help="Seeds one by one, such as 0-63; sample i depends on its seed alone.")
    ] = None,
    clip: Annotated[
        bool | None,
        typer.Option("--clip/--no-clip", help="Keep every x0 on the way inside [-1, 1].", show_default=False),
    ] = None,
    weights: Annotated[str, typer.Option(help="ema (averaged) or raw.")] = "ema",
    trajectory: Annotated[
        Path | None, typer.Option(help="Also write the way there as an animation (.webp or .gif).")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples a network evaluation.")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Sample a trained run with any sampler, grid, number of steps and guidance."""
    from ebbflow.runs import open_run
    from ebbflow.runs.guiding import labelled, named
    from ebbflow.training.engine import pick_device

    check_weights(weights)
    _check_outputs(output, trajectory)
    run = open_run(ckpt)
    guides = read_guides(
        run,
        guidance_rule=guidance_rule,
        guidance_set=guidance_set,
        autoguide=autoguide,
        classifier=classifier,
        classifier_scale=classifier_scale,
        loss=loss,
        loss_weight=loss_weight,
        loss_emphasis=loss_emphasis,
        loss_set=loss_set,
        target=target,
        mask=mask,
        weights=weights,
        device=pick_device(device),
    )
    run = named(run, guides)
    chooser = labelled(run, guides)
    wanted = _wanted(chooser, label=label, labels=labels, prompts=prompt, vectors=vector)
    request = _request(chooser, wanted, num=num, seed=seed, seeds=seeds)
    changes: dict[str, Any] = {
        "guidance": run.config.sample.guidance if guidance is None and autoguide is not None else guidance,
        "guides": guides,
        "rescale": rescale,
        "clip": clip,
        "sampler": sampler,
        "num_steps": steps,
        "grid": grid,
        "batch_size": batch_size,
        "interval": None if interval is None else _interval(interval),
        "options": read_options(set_) if set_ is not None else {} if sampler is not None else None,
        "negative": _negative(run, negative_label, negative_prompt),
    }
    request = replace(request, **{key: value for key, value in changes.items() if value is not None})
    began = time.perf_counter()
    written = _write(run, request, weights, pick_device(device), output, trajectory)
    seconds = time.perf_counter() - began
    if json:
        print_json(
            {
                "output": str(output),
                "num": len(request.seeds),
                "seconds": round(seconds, 3),
                "sampler": request.sampler,
                "num_steps": request.num_steps,
                "grid": request.grid,
                "guidance": request.guidance,
                "written": written,
            }
        )
    else:
        print(f"{len(request.seeds)} samples in {seconds:.1f} s: {', '.join(written)}")


def _wanted(
    run: Run, *, label: str | None, labels: str | None, prompts: list[str] | None, vectors: list[str] | None
) -> tuple[Condition, ...] | None:
    """What is to be made, row by row; None where nothing was said."""
    given = {"--label": label, "--labels": labels, "--prompt": prompts, "--vector": vectors}
    flags = [flag for flag, value in given.items() if value is not None]
    if len(flags) > 1:
        raise ConfigError(f"{' and '.join(flags)} all choose what to make. Give one.")
    if flags and not run.config.conditioning.examples(run.facts):
        what = flags[0][2:].rstrip("s")
        raise ConfigError(f"this run is unconditional: it cannot take {what}s. Leave {flags[0]} out.")
    if label is not None or labels is not None:
        return tuple(class_indices(run, [label] if label is not None else read_items(labels or "")))
    return tuple(prompts) if prompts is not None else None if vectors is None else tuple(map(_numbers, vectors))


def _request(
    run: Run, wanted: tuple[Condition, ...] | None, *, num: int | None, seed: int, seeds: str | None
) -> Request:
    """Seeds and what they are to become: by blocks of the same, in the order given."""
    from ebbflow.runs.generate import deal, default_request

    rows = wanted if wanted is not None else run.config.conditioning.examples(run.facts)
    listed = None if seeds is None else read_integers(seeds, "--seeds")
    if listed is not None and seed:
        raise ConfigError("--seed and --seeds both choose seeds. Give one.")
    if listed is not None and num is not None and num != len(listed):
        raise ConfigError(f"--num {num} and the {len(listed)} seeds of --seeds disagree. Leave --num out.")
    default = 1 if wanted is not None and len(wanted) == 1 else 8 * len(rows) or (64 if run.facts.is_image else 1000)
    count = num or default if listed is None else len(listed)
    chosen = tuple(listed if listed is not None else range(seed, seed + count))
    dealt = deal(rows, count) if rows else None
    labels = tuple(row for row in dealt or () if isinstance(row, int)) or None
    return default_request(run, seeds=chosen, labels=labels, wanted=None if labels else dealt)


def _negative(run: Run, label: str | None, prompt: str | None) -> Condition | None:
    if label is not None and prompt is not None:
        raise ConfigError("--negative-label and --negative-prompt both say what to avoid. Give one.")
    return prompt if label is None else class_indices(run, [label])[0]


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(
            f"--vector wants numbers with commas between them, such as 0,0.5,0.5; got {text!r}."
        ) from error


def _interval(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--interval wants LOW,HIGH in log-SNR, such as -3,4; got {text!r}.") from error
    return low, high


def _check_outputs(output: Path, trajectory: Path | None) -> None:
    from ebbflow.show import canvas

    if output.suffix:
        canvas.check_suffix(output, (*canvas.PICTURE_SUFFIXES, ".npz"))
    elif output.is_file():
        raise ConfigError(f"{output} is a file. Give a folder, or a file ending in .png, .jpg, .webp or .npz.")
    if trajectory is not None:
        canvas.check_suffix(trajectory, canvas.ANIMATION_SUFFIXES)


def _write(run: Run, request: Request, weights: str, device: Any, output: Path, trajectory: Path | None) -> list[str]:
    """Generate and write; returns what was written."""
    import torch

    from ebbflow.runs import generate
    from ebbflow.runs.grids import with_times
    from ebbflow.runs.variance import knowing_variance
    from ebbflow.show import canvas

    kind: Weights = "ema" if weights == "ema" else "raw"
    model = run.denoiser(kind, device=device)
    request = with_times(run, request, kind)
    request.check(run.facts, model.make_null is not None)
    denoiser = knowing_variance(run, model, request, kind, device)
    singly, kept, frames = not output.suffix, [], []
    if singly and not run.facts.is_image:
        raise ConfigError("samples of this run are points: give a .png or .npz output instead of a folder.")
    for batch in _shown(generate(denoiser, run.facts, request, device, space=run.space(device)), request):
        if trajectory is not None and batch.seeds[0] == request.seeds[0]:
            frames.append(_picture(run, batch.images if run.facts.is_image else batch.x, batch.asked))
        if batch.done and singly:
            for seed, image in zip(batch.seeds, batch.images, strict=True):
                canvas.save_picture(canvas.to_picture(image), output / f"seed_{seed:06d}.png", this_command())
        elif batch.done:
            kept.append(batch.images if run.facts.is_image else batch.x)
    if not singly and output.suffix.lower() == ".npz":
        labels = None if request.labels is None else torch.tensor(request.labels)
        canvas.save_npz(torch.cat(kept), labels, output)
    elif not singly:
        canvas.save_picture(_picture(run, torch.cat(kept), request.asked), output, this_command())
    if trajectory is not None:
        canvas.save_animation(frames, trajectory)
    return [str(output), *([str(trajectory)] if trajectory else [])]


def _picture(run: Run, samples: Any, asked: tuple[Condition, ...] | None) -> Any:
    """A grid whose rows are what was asked for, or a scatter of points."""
    from ebbflow.runs.generate import row_name
    from ebbflow.show import canvas
    from ebbflow.show.plots import scatter

    rows = list(dict.fromkeys(asked or ()))
    if not run.facts.is_image:
        return scatter(samples, tuple(rows.index(one) for one in asked) if asked else None)
    if rows and len(samples) % len(rows) == 0 and len(samples) // len(rows) <= 32:
        names = [row_name(row, run.facts.label_names) for row in rows]
        return canvas.grid(samples, columns=len(samples) // len(rows), row_names=names)
    return canvas.grid(samples, columns=max(1, min(len(samples), round(len(samples) ** 0.5))))


def _shown(batches: Iterator[Samples], request: Request) -> Iterator[Samples]:
    """The same, with a progress bar over all network steps when someone watches."""
    return watched(batches, -(-len(request.seeds) // request.batch_size) * request.num_steps)
