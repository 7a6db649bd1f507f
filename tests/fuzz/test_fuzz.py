"""Whatever is asked, and whatever lies in a file: an answer, or one sentence, with little memory and nothing lost."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from fuzz import strategies
from fuzz.harness import Case, Server, Tally
from hypothesis import HealthCheck, Phase, given, settings

KINDS = {
    "flags": strategies.flags(),
    "settings": strategies.settings_of(),
    "damaged": strategies.damaged(),
    "data": strategies.data(),
    "documents": strategies.documents(),
}
FEW = {"flags": 40, "settings": 80, "damaged": 50, "data": 80, "documents": 50}
MANY = {"flags": 2500, "settings": 3000, "damaged": 1800, "data": 1800, "documents": 1500}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("fuzz"))
    yield made
    made.close()


def tally(server: Server, kind: str, num: int, *, derandomize: bool) -> Tally:
    found = Tally()

    @settings(
        max_examples=num,
        derandomize=derandomize,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(KINDS[kind])
    def each(case: Case) -> None:
        found.add(case, server.tried(case))

    each()
    print(f"\n{kind}: {found}", flush=True)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_hundred_hostile_inputs(kind: str, server: Server) -> None:
    found = tally(server, kind, FEW[kind], derandomize=True)
    assert not found.wrong, "\n".join(found.wrong[:10])


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_hostile_inputs(kind: str, server: Server) -> None:
    share = float(os.environ.get("FUZZ_SHARE", "1"))
    found = tally(server, kind, int(MANY[kind] * share), derandomize=True)
    assert not found.wrong, "\n".join(found.wrong)
