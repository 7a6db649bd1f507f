"""ebbflow with bfloat16 turned off, which is what it is on a processor without it."""

from __future__ import annotations

from benchmarks.peers import ebbflow


class Entry(ebbflow.Entry):
    """The same in float32."""

    precision = "fp32"
