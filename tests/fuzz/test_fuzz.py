"""Whatever is asked, and whatever lies in a file: an answer, or one sentence, with little memory and nothing lost."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields
from math import ceil

import pytest
from fuzz import strategies
from fuzz.harness import Case, Log, Server, Tally
from fuzz.regressions import CELLS, REFUSED, SERVED
from hypothesis import HealthCheck, Phase, given, seed, settings

from ebbflow.documents import fenced, in_markdown, parsed
from ebbflow.metrics.frontier import Cell
from ebbflow.values import Wrong

KINDS = {
    "flags": strategies.flags(),
    "settings": strategies.settings_of(),
    "damaged": strategies.damaged(),
    "data": strategies.data(),
    "documents": strategies.documents(),
}
FEW = {"flags": 15, "settings": 25, "damaged": 8, "data": 40, "documents": 22}
MANY = {"flags": 2500, "settings": 2500, "damaged": 1500, "data": 2500, "documents": 1500}
ROUND = 100
MOST_CPU, MOST_MB = 8.0, 900  # of a refusal: seconds, and memory with all that is imported


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("fuzz"))
    yield made
    made.close()


def tally(server: Server, kind: str, num: int, start: int = 0) -> Tally:
    found = Tally()

    @seed(start)
    @settings(
        max_examples=num,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(KINDS[kind])
    def each(case: Case) -> None:
        found.add(case, server.tried(case))

    each()
    return found


def test_a_few_hundred_hostile_inputs(server: Server) -> None:
    wrong = [one for kind, num in FEW.items() for one in tally(server, kind, num).wrong]
    assert not wrong, "\n".join(wrong[:10])


def test_what_was_wrong_once_is_refused_in_one_sentence_with_little_time_and_memory(server: Server) -> None:
    wrong = []
    for name, (case, words) in REFUSED.items():
        found = server.tried(case)
        if found.problem or found.code != 2 or words not in found.err or found.cpu > MOST_CPU or found.rss_mb > MOST_MB:
            said = (
                found.problem or f"{found.code}, {found.cpu:.1f} s, {found.rss_mb:.0f} MB: {found.err.strip()[-200:]}"
            )
            wrong.append(f"{name}: {said}")
    assert not wrong, "\n".join(wrong)


def test_what_was_wrong_once_and_may_be_asked_is_served(server: Server) -> None:
    found = {name: server.tried(case) for name, case in SERVED.items()}
    assert not {name: one.problem or one.err for name, one in found.items() if one.problem or one.code}


def test_cells_of_anybody_are_of_their_kinds_or_passed_over() -> None:
    kept = []
    for line in CELLS:
        with suppress(Wrong):
            kept.append(parsed(line, Cell))
    assert 0 < len(kept) < len(CELLS)
    for cell in kept:
        assert isinstance(cell.steps, int) and isinstance(cell.guidance, float) and isinstance(cell.values, dict)
    assert {f.name for f in fields(Cell)} >= {"steps", "guidance", "values"}


def test_words_of_anybody_are_words_in_markdown() -> None:
    hostile = "<img src=x onerror=alert(1)> [a](javascript:b) `c` | d ``` e"
    assert not set("<>[]`|") & set(in_markdown(hostile))
    first, *inner, last = fenced(hostile).strip().split("\n")
    assert first == last == "````" and inner == [hostile]


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_hostile_inputs(kind: str, server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    """In rounds of 100, each with a seed of its own and counted as soon as it is done.

    FUZZ_SHARE is the part of them that is tried, FUZZ_SEED makes them others, and FUZZ_LOG names a file that keeps the
    counts of each round: what stands there is not tried again, so that an interruption costs one round.
    """
    share, start = float(os.environ.get("FUZZ_SHARE", "1")), int(os.environ.get("FUZZ_SEED", "0"))
    log, total = Log(os.environ.get("FUZZ_LOG")), Tally()
    for number in range(ceil(MANY[kind] * share / ROUND)):
        name = f"{kind} {start * 1000 + number}"
        found = log.known.get(name) or tally(server, kind, ROUND, start * 1000 + number)
        log.keep(name, found)
        total += found
        with capfd.disabled():
            print(f"\n{name}: {total}", *found.wrong, sep="\n    ", file=sys.stderr, flush=True)
    assert not total.wrong, "\n".join(total.wrong)
