"""What a user may ask: how requests are read, checked and made from keywords, files and text."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Interval

from ebbflow.errors import ConfigError
from ebbflow.requests.base import Doc, Flag, Place, check, complete, entries, from_keywords, read_request, takes


@dataclass(frozen=True, kw_only=True)
class How:
    """How it is made."""

    num_steps: Annotated[int | None, Ge(1), Flag("--steps", "--num-steps"), Doc("Number of steps.")] = None
    eta: Annotated[float, Interval(ge=0, le=1)] = 0.0
    interval: tuple[float, float] | None = None
    options: Annotated[dict[str, Any], Flag("--set")] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Thing(How):
    """Make a thing."""

    ckpt: Annotated[Path, Place(), Doc("The folder of a run.")]
    labels: Annotated[tuple[int | str, ...] | None, Doc("Classes.")] = None
    seeds: Annotated[tuple[Annotated[int, Ge(0)], ...] | None, Doc("Seeds.")] = None
    vector: Annotated[tuple[tuple[float, ...], ...] | None, Flag(each=True)] = None
    scale: Annotated[float, Gt(0)] = 1.0
    weights: Literal["ema", "raw"] = "ema"
    clip: bool | None = None
    sides: Literal[1, 3] | None = None


TEXTS: dict[str, tuple[str, str, object]] = {
    "range and names": ("labels", "0-2,cat", ("0", "1", "2", "cat")),
    "range of numbers": ("seeds", "0-2,7", (0, 1, 2, 7)),
    "pair": ("interval", "-2,3.5", (-2.0, 3.5)),
}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"label": 3}, "unknown argument 'label' of this call. Did you mean 'labels'"),
    "a word": ({"num_steps": "two"}, "`num_steps` must be a whole number, got 'two'"),
    "a number in quotes": ({"num_steps": "3"}, "`num_steps` must be a whole number, got '3'"),
    "half a step": ({"num_steps": 2.5}, "`num_steps` must be a whole number, got 2.5"),
    "true is no number": ({"num_steps": True}, "`num_steps` must be a whole number, got True"),
    "below": ({"num_steps": 0}, "`num_steps` must be at least 1, got 0."),
    "not above": ({"scale": 0}, "`scale` must be above 0, got 0.0."),
    "outside": ({"eta": 1.5}, "`eta` must be in [0, 1], got 1.5."),
    "not a number": ({"eta": float("nan")}, "`eta` must be finite, got nan."),
    "choice of another type": ({"sides": "1"}, "`sides` must be 1 or 3, got '1'."),
    "true is no choice": ({"sides": True}, "`sides` must be 1 or 3, got True."),
    "choice": ({"weights": "best"}, "`weights` must be ema or raw, got 'best'."),
    "pair of one": ({"interval": "3"}, "LOW,HIGH"),
    "backwards": ({"labels": "5-2"}, "`labels` holds the range '5-2', which runs backwards."),
    "no end": ({"seeds": "0-999999999999"}, "too long"),
    "other digits": ({"seeds": "²"}, "each entry must be a whole number, got '²'"),
    "no seeds": ({"seeds": []}, "`seeds` is an empty list"),
    "negative seed": ({"seeds": [-1]}, "each entry must be at least 0, got -1"),
    "a table for a list": ({"labels": {"a": 4}}, "`labels` must be a list, got "),
    "text for a switch": ({"clip": "yes"}, "`clip` must be true or false, got 'yes'"),
    "too large": ({"num_steps": 2**63}, "must be below 2^63"),
    "no table": ({"options": "eta"}, "`options` must be a table"),
}


def thing(**given: Any) -> Thing:
    return from_keywords(Thing, ckpt="runs/x", **given)


@pytest.mark.parametrize("name", TEXTS)
def test_the_text_of_a_flag_is_taken_everywhere(name: str, tmp_path: Path) -> None:
    key, text, expected = TEXTS[name]
    assert getattr(thing(**{key: text}), key) == expected
    (tmp_path / "r.toml").write_text(f'ckpt = "runs/x"\n{key} = "{text}"\n')
    assert read_request(Thing, tmp_path / "r.toml")[key] == expected


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_with_the_name_of_the_field(name: str) -> None:
    given, expected = WRONG[name]
    with pytest.raises(ConfigError) as caught:
        thing(**given)
    assert expected in str(caught.value)


def test_what_python_has_is_taken() -> None:
    made = thing(labels=[3, "cat"], eta=1, seeds=range(3), vector=[[0, 1]], options={"rho": 7})
    assert made == Thing(
        ckpt=Path("runs/x"), labels=(3, "cat"), eta=1.0, seeds=(0, 1, 2), vector=((0.0, 1.0),), options={"rho": 7}
    )
    assert isinstance(made.eta, float)
    assert check(Thing(ckpt=Path("x"), seeds=[1, 2])).seeds == (1, 2)  # type: ignore[arg-type]


def test_what_is_missing_is_said() -> None:
    with pytest.raises(ConfigError, match=r"`ckpt` is missing\. The folder of a run\."):
        from_keywords(Thing)


def test_a_file_is_named_by_its_errors_and_other_fields_lie_on_top(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text('ckpt = "runs/x"\nnum-steps = 3\nlabels = [1, "cat"]\n[options]\neta = 0.5\n')
    made = complete(Thing, {**read_request(Thing, file), "num_steps": 4})
    assert (made.num_steps, made.labels, made.options) == (4, (1, "cat"), {"eta": 0.5})
    for text, expected in {
        "num_steps = 0": "num_steps must be at least 1",
        "x =": "cannot be read",
        "y = 1": "'y'",
    }.items():
        file.write_text(text)
        with pytest.raises(ConfigError, match=expected) as caught:
            read_request(Thing, file)
        assert str(file) in str(caught.value)
    with pytest.raises(ConfigError, match="does not exist"):
        read_request(Thing, tmp_path / "none.toml")


def test_fields_know_their_flags_and_groups() -> None:
    known = entries(Thing)
    assert list(known)[:4] == ["num_steps", "eta", "interval", "options"]
    assert known["num_steps"].flags == ("--steps", "--num-steps")
    assert known["num_steps"].group == "How it is made"
    assert known["ckpt"].flags == () and known["ckpt"].place and known["ckpt"].required
    assert known["labels"].flags == ("--labels",) and known["labels"].group == "" and known["labels"].optional
    assert known["options"].many and known["vector"].many and not known["seeds"].many


@takes(Thing, without=("clip",))
def make(ckpt: str, request: Thing) -> tuple[str, Thing]:
    """Make a thing.

    Raises:
        ConfigError: it cannot be made.
    """
    return ckpt, request


def test_a_function_has_the_keywords_of_its_request() -> None:
    shown = inspect.signature(make)
    assert [*shown.parameters][:3] == ["ckpt", "num_steps", "eta"]
    assert "clip" not in shown.parameters
    assert shown.parameters["num_steps"].annotation == int | None
    assert shown.parameters["weights"].default == "ema"
    assert "num_steps: Number of steps." in (make.__doc__ or "")
    assert (make.__doc__ or "").index("Args:") < (make.__doc__ or "").index("Raises:")
    assert make("runs/x", num_steps=3) == ("runs/x", thing(num_steps=3))
    for given in ({"num_step": 3}, {"clip": True}):
        with pytest.raises(ConfigError, match="unknown argument"):
            make("runs/x", **given)


def test_requests_load_no_torch() -> None:
    code = (
        "import sys, pkgutil, importlib, ebbflow.requests as r\n"
        "[importlib.import_module(f'ebbflow.requests.{m.name}') for m in pkgutil.iter_modules(r.__path__)]\n"
        "print([m for m in ('torch', 'numpy', 'pydantic', 'click', 'PIL') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
