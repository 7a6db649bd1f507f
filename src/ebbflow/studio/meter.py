"""Counts of what a server does, in the text that Prometheus reads."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping

SAYS = {
    "requests_total": ("counter", "Requests answered, by route and status."),
    "request_seconds": ("summary", "Seconds from a request to its answer, by route."),
    "samples_total": ("counter", "Samples made, by model."),
    "batch_samples": ("summary", "Samples of a batch."),
    "batch_seconds": ("summary", "Seconds of a batch."),
    "abandoned_batches_total": ("counter", "Batches that nobody waited for any more."),
    "worker_restarts_total": ("counter", "Workers that died and were replaced."),
    "reloads_total": ("counter", "Checkpoints opened while serving, by model."),
    "reload_failures_total": ("counter", "Checkpoints that could not be opened, by model."),
    "waiting_samples": ("gauge", "Samples that wait for a batch."),
    "worker_up": ("gauge", "Whether the worker runs."),
    "model_step": ("gauge", "Optimiser steps of the checkpoint that is served, by model."),
}
Labels = tuple[tuple[str, str], ...]


class Meter:
    """Counters and sums by name and labels; the names are those of `SAYS`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: dict[str, dict[Labels, list[float]]] = defaultdict(dict)

    def add(self, name: str, value: float = 1, **labels: object) -> None:
        """Count `value` more."""
        self._change(name, [value], labels)

    def observe(self, name: str, value: float, **labels: object) -> None:
        """Count one more, and `value` to its sum."""
        self._change(name, [1, value], labels)

    def count(self, name: str) -> float:
        """What was counted so far, over all labels."""
        with self._lock:
            return sum(numbers[0] for numbers in self._numbers[name].values())

    def _change(self, name: str, numbers: list[float], labels: Mapping[str, object]) -> None:
        assert name in SAYS, name
        key = tuple((key, str(value)) for key, value in labels.items())
        with self._lock:
            known = self._numbers[name].setdefault(key, [0] * len(numbers))
            known[:] = [old + new for old, new in zip(known, numbers, strict=True)]

    def text(self, gauges: Mapping[str, Mapping[Labels, float]]) -> str:
        """Everything, with the gauges of this moment."""
        with self._lock:
            known = {name: {key: list(v) for key, v in rows.items()} for name, rows in self._numbers.items()}
        known |= {name: {key: [value] for key, value in rows.items()} for name, rows in gauges.items()}
        lines = []
        for name, (kind, says) in SAYS.items():
            lines += [f"# HELP ebbflow_{name} {says}", f"# TYPE ebbflow_{name} {kind}"]
            for labels, numbers in known.get(name, {}).items():
                endings = ["_count", "_sum"] if kind == "summary" else [""]
                lines += [f"ebbflow_{name}{e}{_braces(labels)} {n:.10g}" for e, n in zip(endings, numbers, strict=True)]
        return "\n".join(lines) + "\n"


def _braces(labels: Labels) -> str:
    escapes = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
    quoted = [f'{key}="{value.translate(escapes)}"' for key, value in labels]
    return f"{{{','.join(quoted)}}}" if quoted else ""
