"""Runs commands, each in a child of its own with limits on memory and time: imports are paid for once.

It reads a case a line, as JSON, and answers with what became of it. Started by `harness.Server`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MORE = 2 << 30  # bytes of address space that a command may take on top of what the imports took
CPU, WALL = 60, 240  # seconds


def load_everything() -> None:
    import torch

    torch.set_num_threads(1)
    import ebbflow

    for module in pkgutil.walk_packages(ebbflow.__path__, "ebbflow."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError):
                importlib.import_module(module.name)
    import matplotlib.pyplot  # noqa: F401


def size_now() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def work(case: dict[str, Any]) -> int:
    from ebbflow.cli.app import run_app

    if "load" not in case:
        sys.argv = ["ebbflow", *case["argv"]]
        return run_app(case["argv"])
    from ebbflow.cli.errors import explained
    from ebbflow.data import load_dataset

    try:
        load_dataset(case["load"], **case["options"])
    except Exception as error:
        message, code = explained(error)
        print(f"ebbflow: {message}", file=sys.stderr)
        return code
    return 0


def child(case: dict[str, Any], said: Path) -> None:
    code = 99
    try:
        os.chdir(case["cwd"])
        for number, name in ((0, os.devnull), (1, said / "out"), (2, said / "err")):
            os.dup2(os.open(name, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        resource.setrlimit(resource.RLIMIT_AS, (size_now() + MORE,) * 2)
        resource.setrlimit(resource.RLIMIT_CPU, (CPU, CPU + 5))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        code = work(case)
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def served(case: dict[str, Any], said: Path) -> dict[str, Any]:
    began = time.monotonic()
    number = os.fork()
    if number == 0:
        child(case, said)
    while True:
        gone, status, usage = os.wait4(number, os.WNOHANG)
        if gone:
            break
        if time.monotonic() - began > WALL:
            os.kill(number, 9)
            _, status, usage = os.wait4(number, 0)
            break
        time.sleep(0.002)
    texts = {name: (said / name).read_bytes()[-20_000:].decode(errors="replace") for name in ("out", "err")}
    cpu, rss = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
    return {"code": os.waitstatus_to_exitcode(status), "cpu": cpu, "rss_mb": rss, **texts}


def main() -> None:
    load_everything()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what is printed by accident is no answer
    print(json.dumps({"ready": size_now()}), file=answers, flush=True)
    with tempfile.TemporaryDirectory() as said:
        for line in sys.stdin:
            print(json.dumps(served(json.loads(line), Path(said))), file=answers, flush=True)


if __name__ == "__main__":
    main()
