"""How the server keeps up: latency and requests a second by clients, with and without batching, against a bare loop of
full batches; and a long mix of good, broken and cancelled requests during which workers are killed.

    python benchmarks/serve.py RUN                       the table (a server of its own process, over loopback)
    python benchmarks/serve.py RUN --write docs/serving.md       the same, into its place on that page
    python benchmarks/serve.py RUN --requests 10000      the mix: no answer lost or mixed up, memory flat
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import ctypes
import io
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ebbflow.requests.sampling import SampleRequest
from ebbflow.requests.serving import Limits
from ebbflow.runs.model import Model
from ebbflow.runs.plan import plan_of
from ebbflow.runs.sample import generate

CLIENTS = (1, 8, 32)
KNOWN = 40  # different questions of the mix, whose answers are known
KILL_EVERY = 500  # requests
BEGIN, END = "<!-- table: python benchmarks/serve.py RUN --write docs/serving.md -->", "<!-- end of table -->"


@dataclass
class Connection:
    """A bare HTTP/1.1 client of one connection: a load that costs little beside the server."""

    host: str
    port: int
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, body: bytes, path: str = "/v1/images/generations") -> tuple[int, bytes]:
        """Status and body of the answer."""
        reader, writer = self.streams = self.streams or await asyncio.open_connection(self.host, self.port)
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        known = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}
        if "content-length" in known:
            return int(lines[0].split()[1]), await reader.readexactly(int(known["content-length"]))
        return int(lines[0].split()[1]), await _chunks(reader)

    def close(self) -> None:
        """Leave, whatever is under way."""
        if self.streams:
            self.streams[1].close()
        self.streams = None


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    found = b""
    while size := int(await reader.readline(), 16):
        found += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)
    return found


def question(number: int, args: argparse.Namespace, labels: int, low: float = 1.0) -> dict[str, Any]:
    """A question of one image; they differ in seed, label and guidance, which is `low` at least: above 1 all cost the
    same."""
    label = {"label": number % labels} if labels else {}
    guidance = {"guidance": low + number % 3} if labels else {}
    return {"seed": number, "n": 1, "steps": args.steps, **label, **guidance}


# -- the table ---------------------------------------------------------------------------------------------------------


@contextmanager
def served(args: argparse.Namespace, batching: bool) -> Iterator[tuple[str, int]]:
    """The address of a server in a process of its own."""
    words = ["serve", args.run, "--port", "0", "--device", "cpu", "--batch-size", str(args.batch_size)]
    command = [sys.executable, "-m", "ebbflow", *words, "--batching" if batching else "--no-batching"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = next(line for line in process.stdout if line.startswith("http"))
            host, port = line.split("/")[2].split(":")
            yield host, int(port)
        finally:
            process.terminate()


async def load(address: tuple[str, int], num_clients: int, args: argparse.Namespace, labels: int) -> dict[str, float]:
    """Each client asks, waits and asks again until the time is over; milliseconds and requests a second."""
    numbers, taken = iter(range(10**9)), list[float]()

    async def client(until: float, seconds: list[float]) -> None:
        connection = Connection(*address)
        while time.perf_counter() < until:
            body = json.dumps(question(next(numbers), args, labels, 2.0)).encode()
            began = time.perf_counter()
            status, _ = await connection.post(body)
            assert status == 200, status
            seconds.append(time.perf_counter() - began)
        connection.close()

    async def all_of(duration: float, seconds: list[float]) -> float:
        began = time.perf_counter()
        await asyncio.gather(*(client(began + duration, seconds) for _ in range(num_clients)))
        return time.perf_counter() - began

    await all_of(args.seconds / 5, [])
    elapsed = await all_of(args.seconds, taken)
    p50, p95, p99 = np.percentile(np.array(taken) * 1e3, [50, 95, 99])
    return {"p50": p50, "p95": p95, "p99": p99, "rate": len(taken) / elapsed}


def bare(model: Model, args: argparse.Namespace, labels: int, batch_size: int) -> float:
    """Samples a second of a loop of batches of this size that only samples."""
    given: dict[str, Any] = {"steps": args.steps, "num": batch_size, "batch_size": batch_size}
    classes = tuple(i % labels for i in range(min(batch_size, labels))) if labels else None
    request = SampleRequest(**given, **({"labels": classes, "guidance": 2.0} if labels else {}))
    plan, made, began = plan_of(model, request), 0, 0.0
    for turn in range(10**9):
        if turn == 1:
            began = time.perf_counter()
        for step in generate(model, plan):
            made += len(step.x) if step.done and turn else 0
        if turn and time.perf_counter() - began > args.seconds:
            return made / (time.perf_counter() - began)
    raise AssertionError


def table(args: argparse.Namespace) -> None:
    """Print the table, and write it where `--write` says."""
    model = Model.from_run(args.run)
    labels = len(model.label_names)
    full = bare(model, args, labels, args.batch_size)
    machine = f"torch {torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    lines = [
        f"{model}, {args.steps} steps, one image a request, {args.seconds:g} s a row; {machine}. Bare is a loop that "
        f"only samples, {full:.1f} images/s in full batches of {args.batch_size}; the last column is beside one of as "
        "many at once as there are clients.",
        "",
        "| batching | clients | p50 ms | p95 ms | p99 ms | requests/s | of bare, full | of bare, as many |",
        "|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    for batching in (True, False):
        with served(args, batching) as address:
            for num in CLIENTS:
                size = min(num, args.batch_size) if batching else 1
                like = full if size == args.batch_size else bare(model, args, labels, size)
                row = asyncio.run(load(address, num, args, labels))
                cells = [*(f"{row[key]:.1f}" for key in ("p50", "p95", "p99", "rate"))]
                cells += [f"{row['rate'] / full:.2f}", f"{row['rate'] / like:.2f}"]
                lines.append(f"| {'on' if batching else 'off'} | {num} | {' | '.join(cells)} |")
                print(lines[-1], flush=True)
    if args.write:
        text = args.write.read_text(encoding="utf-8")
        head, _, rest = text.partition(BEGIN)
        _, _, tail = rest.partition(END)
        args.write.write_text("\n".join([f"{head}{BEGIN}", *lines, f"{END}{tail}"]), encoding="utf-8")


# -- the mix -----------------------------------------------------------------------------------------------------------


@dataclass
class Mix:
    """What became of the requests of the mix."""

    known: dict[int, np.ndarray[Any, Any]]
    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def check(self, number: int, body: bytes) -> None:
        """Note an answer that is not the one to this question, up to one level of rounding."""
        data = json.loads(body)["data"]
        if "b64_json" not in data[0]:
            self.wrong.append(f"question {number}: {data[0]}")
            return
        got = np.asarray(Image.open(io.BytesIO(base64.b64decode(data[0]["b64_json"]))), dtype=int)
        if len(data) != 1 or np.abs(got.reshape(-1) - self.known[number].reshape(-1)).max() > 1:
            self.wrong.append(f"question {number}: another picture")


def memory() -> float:
    """MiB that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def known_answers(model: Model, args: argparse.Namespace) -> dict[int, np.ndarray[Any, Any]]:
    """The pictures of the questions, each made alone."""
    found = {}
    for number in range(KNOWN):
        asked = question(number, args, len(model.label_names))
        label = {"labels": (asked["label"],), "guidance": asked["guidance"]} if "label" in asked else {}
        images = model.sample(num=1, seed=asked["seed"], steps=args.steps, **label).images
        assert images is not None
        found[number] = images[0].permute(1, 2, 0).numpy().astype(int)
    return found


def kill(thread: threading.Thread) -> None:
    """Raise SystemExit in a thread."""
    number = ctypes.c_ulong(thread.ident or 0)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(number, ctypes.py_object(SystemExit))


async def one_of(connection: Connection, mix: Mix, dice: random.Random, args: argparse.Namespace, labels: int) -> None:
    """One request of the mix, of a kind that the dice choose."""
    number, kind = dice.randrange(KNOWN), dice.random()
    asked = question(number, args, labels)
    if kind < 0.06:
        status, _ = await connection.post(dice.choice([b"{", b'{"steps": 0}', b'{"setps": 1}', b'{"model": "none"}']))
        mix.answers["broken, refused"] += 1
        if status not in (400, 404):
            mix.wrong.append(f"a broken request: {status}")
    elif kind < 0.12:
        with suppress(TimeoutError):
            await asyncio.wait_for(connection.post(json.dumps(asked).encode()), dice.random() * 0.05)
        connection.close()
        mix.answers["cancelled"] += 1
    elif kind < 0.16:
        _, body = await connection.post(json.dumps({**asked, "stream": True, "partial_images": 2}).encode())
        mix.answers["streamed"] += 1
        last = body.decode().strip().rpartition("data: ")[2]
        mix.check(number, json.dumps({"data": [json.loads(last)]}).encode())
    else:
        status, body = await connection.post(json.dumps(asked).encode())
        mix.answers[f"answered with {status}"] += 1
        if status == 200:
            mix.check(number, body)


def mixed(args: argparse.Namespace) -> None:
    """Run the mix and say what came of it; exits with 1 where an answer was lost or mixed up."""
    import uvicorn

    from ebbflow.studio.application import application, desk_of
    from ebbflow.studio.meter import Meter
    from ebbflow.studio.server import bind
    from ebbflow.studio.shelf import Shelf

    meter = Meter()
    shelf = Shelf({"run": args.run}, device="cpu", meter=meter)
    model = shelf.model("run")
    mix, labels = Mix(known_answers(model, args)), len(model.label_names)
    desk = desk_of(shelf, Limits(batch_size=args.batch_size), meter, lambda line: None)
    bound = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(application(desk), log_level="critical", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    address, sent, held = bound.getsockname()[:2], iter(range(args.requests)), list[float]()

    async def client(seed: int) -> None:
        connection, dice = Connection(*address), random.Random(seed)
        for number in sent:
            if number % KILL_EVERY == KILL_EVERY - 1:
                kill(desk.worker.thread)
            if number % max(1, args.requests // 10) == 0:
                held.append(memory())
            await one_of(connection, mix, dice, args, labels)
        connection.close()

    async def everybody() -> None:
        await asyncio.gather(*(client(seed) for seed in range(CLIENTS[-1])))

    began = time.perf_counter()
    asyncio.run(everybody())
    seconds = time.perf_counter() - began
    server.should_exit = True
    thread.join(60)
    told = ", ".join(f"{num:,} {what}" for what, num in mix.answers.items())
    print(f"{args.requests:,} requests in {seconds:.0f} s: {told}")
    print(f"workers killed and replaced: {meter.count('worker_restarts_total'):.0f}; answers wrong: {len(mix.wrong)}")
    print(f"memory, MiB, at each tenth: {' '.join(f'{one:.0f}' for one in held)}")
    lost = args.requests - sum(mix.answers.values())
    if lost or mix.wrong:
        sys.exit(f"{lost} lost; {mix.wrong[:5]}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each row of the table")
    parser.add_argument("--write", type=Path, help="a page with a place for the table")
    parser.add_argument("--requests", type=int, default=0, help="of the mix; the table when 0")
    args = parser.parse_args()
    mixed(args) if args.requests else table(args)


if __name__ == "__main__":
    main()
