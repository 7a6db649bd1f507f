"""Names on the hub where it cannot be reached: one look, one sentence, and what was downloaded before still opens."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ebbflow import hub
from ebbflow.cli.app import run_app
from ebbflow.errors import CheckpointError, ConfigError
from ebbflow.runs.model import Model

NAME = "somebody/something-that-is-not-there"


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[Any]]:
    """The places that were looked at, none of which answers."""
    found: list[Any] = []

    def refuse(place: Any, *more: Any, **options: Any) -> None:
        found.append(place)
        raise OSError("network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(hub, "getproxies", dict)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    hub.is_reachable.cache_clear()
    yield found
    hub.is_reachable.cache_clear()


def test_the_hub_is_looked_at_once(looks: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub.must_be_local(tmp_path) and hub.unreachable(tmp_path) == "" and looks == []
    assert hub.must_be_local(NAME) and "cannot be reached" in hub.unreachable(NAME)
    assert looks == [("huggingface.co", 443)]
    hub.is_reachable.cache_clear()
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.example:8080")
    assert hub.must_be_local(NAME) and looks[1:] == [("mirror.example", 8080)]


def test_a_proxy_is_left_to_answer(looks: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "getproxies", lambda: {"https": "http://proxy:3128"})
    assert not hub.must_be_local(NAME) and looks == []
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub.must_be_local(NAME) and looks == []


def test_an_unknown_model_fails_in_one_sentence(looks: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("diffusers")
    assert run_app(["sample", "--ckpt", f"hf:{NAME}", "--output", "a.png"]) == 2
    assert f"{NAME}: the hub cannot be reached, and this machine holds no copy of it" in capsys.readouterr().err


def test_an_unknown_text_encoder_fails_in_one_sentence(looks: list[Any]) -> None:
    pytest.importorskip("transformers")
    from ebbflow.conditioning.pretrained import load_text_model

    with pytest.raises(ConfigError, match="the hub cannot be reached"):
        load_text_model(NAME)


@pytest.mark.parametrize("verb", ["reconstruct", "likelihood", "search-grid"])
def test_verbs_that_want_a_run_say_so(verb: str, looks: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app([verb, "--ckpt", f"hf:{NAME}"]) == 2
    assert "names a model on the hub, and the folder of a run is wanted here" in capsys.readouterr().err
    assert run_app([verb, "--help"]) == 0
    assert "hf:" not in capsys.readouterr().out and looks == []


def test_a_run_is_no_name_of_the_hub() -> None:
    with pytest.raises(CheckpointError, match="names a model on the hub"):
        Model.from_run(f"hf:{NAME}")
