"""diffusers with the flag of its example that nobody's README turns on: `--mixed_precision=bf16`."""

from __future__ import annotations

from benchmarks.peers import diffusers


class Entry(diffusers.Entry):
    """The same loop under accelerate's autocast."""

    loop = f"{diffusers.Entry.loop} --mixed_precision=bf16"
    precision = "bf16"
