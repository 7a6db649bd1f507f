"""A studio of its own with a tiny run, and a Chromium that looks at it; without either the tests skip and say why."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ebbflow.metrics.frontier import Cell
from ebbflow.studies.compare import append_cell

RUN = Path(__file__).parents[1] / "data" / "format1" / "model"  # 8x8 digits by class
PATIENCE = 180_000  # milliseconds: the machine may be busy


def chromium() -> str:
    """Where a Chromium lies."""
    found = os.environ.get("CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    return found or pytest.skip("there is no Chromium here; install the system's package, or set CHROMIUM to one.")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install -e '.[browser]'")
    path = chromium()
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


class Studio:
    """A server in a process of its own, on a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.start("0")

    def start(self, port: str) -> None:
        command = [sys.executable, "-m", "ebbflow", "studio", str(self.folder), "--port", port, "--device", "cpu"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = next(line for line in self.process.stdout if "http" in line).split()[-1]
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{self.url}/healthz").close()
                return
            except OSError:
                time.sleep(0.1)

    def stop(self) -> None:
        """End the server, and the trainings that a failed test left, which outlive it as they should."""
        for lock in self.folder.glob("*/.lock"):
            with suppress(ProcessLookupError):
                os.kill(int(lock.read_text().split()[-1]), signal.SIGKILL)
        self.process.terminate()
        self.process.wait(60)


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    pytest.importorskip("fastapi", reason="the server's packages are missing: pip install -e '.[studio]'")
    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(RUN, folder / "digits")
    (folder / "compare.html").write_text("<h1>A comparison</h1>", encoding="utf-8")
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text("{", encoding="utf-8")
    cell = Cell(
        key="k", run="digits", sampler="heun", grid="uniform", steps=8, guidance=2.0, evaluations=30.0, seconds=2.0,
        num=100, values={"frechet": 12.5}, errors={"frechet": 0.5},
    )  # fmt: skip
    append_cell(folder / "compare.cells.jsonl", cell)
    few = ("train.sample_every=0", "train.held_out_every=0", "conditioning.kind=vector", "net.channels=[4, 4]")
    words = ["train", "--preset", "digits", "--max-steps", "2", "--save-dir", str(folder / "vectors")]
    settings = [word for one in few for word in ("--set", one)]
    subprocess.run([sys.executable, "-m", "ebbflow", *words, *settings], check=True, capture_output=True)
    made = Studio(folder)
    yield made
    made.stop()


@pytest.fixture
def page(browser: Any, studio: Studio) -> Iterator[Any]:
    """An open page; whatever it says to the console as an error fails the test, unless the test empties `page.said`."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, locale="en")
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE)
    opened.said = []
    opened.on("console", lambda message: opened.said.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: opened.said.append(str(error)))
    yield opened
    context.close()
    assert opened.said == []
