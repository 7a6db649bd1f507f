"""`ebbflow plot weights`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ebbflow.cli.common import print_json, print_rows, this_command
from ebbflow.errors import ConfigError

DEFAULT = (
    "eps:uniform:uniform@vp,x0:uniform:snr@vp,velocity:uniform:uniform,v:uniform:uniform@cosine,"
    "velocity:logit_normal:uniform"
)


def weights(
    output: Annotated[Path, typer.Option(help="A picture (.png .jpg .webp).")] = Path("weights.png"),
    objectives: Annotated[
        str, typer.Option(help="prediction:times:weight, or that with @path, separated by commas.")
    ] = DEFAULT,
    path: Annotated[str, typer.Option(help="The path of objectives that name none.")] = "flow",
    json: Annotated[bool, typer.Option("--json", help="Print every pair as JSON.")] = False,
) -> None:
    """Draw how objectives weigh noise levels, and say which are the same up to a constant."""
    from dataclasses import asdict

    from ebbflow.show import canvas
    from ebbflow.show.loss_weights import compare, draw, read_term

    canvas.check_suffix(output, canvas.PICTURE_SUFFIXES)
    terms = [read_term(text, path) for text in objectives.split(",")]
    if len({term.name for term in terms}) < len(terms):
        raise ConfigError("an objective is named twice. Name each once.")
    pairs = compare(terms)
    canvas.save_picture(draw(terms), output, this_command())
    if json:
        print_json({"output": str(output), "pairs": [asdict(pair) for pair in pairs]})
        return
    print_rows(
        [
            {
                "objective": pair.first,
                "": f"= {pair.factor:.6g} x" if pair.same else "is not",
                "other": pair.second if pair.same else f"{pair.second} (their ratio varies by {pair.spread + 1:.3g})",
            }
            for pair in sorted(pairs, key=lambda pair: not pair.same)
        ]
    )
    print(output)
