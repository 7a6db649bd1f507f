"""What is tried: values made of the requests, the sections of configurations and the registries, so that an option is
tried from the day it exists, and files that are damaged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from fuzz.harness import FORMAT1, TRAINING, Case
from hypothesis import strategies as st

from ebbflow.cli.app import VERBS, Verb, Verbs
from ebbflow.cli.command import RequestCommand
from ebbflow.cli.inspect import _catalogue
from ebbflow.config.sections import KINDS, AutoencoderConfig, ClassifierConfig, RunConfig
from ebbflow.methods.samplers import SAMPLERS
from ebbflow.requests.base import Entry, entries
from ebbflow.values import hints_of, members

SERVERS = ("studio", "serve")  # would wait for callers; tests/test_server.py asks them
SLOW = ("claims",)  # measures for minutes; its values are those of the other studies
NUMBERS = (
    "0", "-1", "1", "2", "3", "0.5", "1.0", "-0.0", "1e-320", "1e-5", "1e6", "1e22", "1e308", "-1e308", "1e400", "nan",
    "inf", "-inf", "2147483648", "9223372036854775807", "9223372036854775808", "99999999999999999999999", "0x10",
    "1_000", "07", "²", "1,2", "3,1", "0-5", "5-0", "0-999999999999",
)  # fmt: skip
TEXTS = (
    "", " ", "true", "false", "none", "null", "[]", "{}", "[1, 2]", "[[1], [2]]", '["a", 1]', "{a = 1}", '"x"', "'",
    "[" * 3000, "1979-05-27", "07:32:00", "x", "noise", "meta", "kind", "cuda", "cuda:99", "mps", "hf:nobody/nothing",
    "<img src=x onerror=alert(1)>", "\x1b[31m", "\U0001f600", "\u202e", "%s%n", "{}", "${HOME}", "a" * 5000, "--",
    "-x", "\udcff", "a\nb", "0-9,cat", "é/è", "auto", "small", "late",
)  # fmt: skip
FILES = (
    "picture.png", "mask.png", "pictures", "images.npz", "points.npz", "noise.npz", "config.toml", "request.toml",
    "model", "classifier", "autoencoder", "model/config.json", "model/checkpoints/step_000020", "pipe", "/dev/null",
    "/dev/zero", "/proc/self/mem", "/", ".", "..", "nowhere", "nowhere/deep.png", "../outside", "model/metrics.jsonl",
)  # fmt: skip
OUTPUTS = (
    "o.png",
    "o.npz",
    "o.webp",
    "o.html",
    "o.json",
    "o.md",
    "out",
    "model",
    "pipe",
    "/dev/null",
    "/proc/x.png",
    "picture.png",
)
REQUIRED = {"output": "o.png", "input": "picture.png", "images": "pictures"}
CALM = {
    "max_steps": "1", "batch_size": "4", "num": "4", "steps": "2", "num_steps": "10", "features": "pca", "repeats": "1",
    "samplers": "heun", "paths": "flow", "predictions": "velocity", "grids": "uniform", "candidates": "4", "few": "2",
    "columns": "2", "few_steps": "2",
}  # fmt: skip
LISTS: Mapping[str, Mapping[str, Any]] = _catalogue()


def commands(verbs: Mapping[str, Any] = VERBS, path: str = "ebbflow") -> dict[tuple[str, ...], RequestCommand]:
    """Every command by its words."""
    found: dict[tuple[str, ...], RequestCommand] = {}
    for name, one in verbs.items():
        if isinstance(one, Verbs):
            found |= {(name, *words): command for words, command in commands(one.verbs).items()}
        elif isinstance(one, Verb) and name not in (*SERVERS, *SLOW):
            command = one.command(name, path)
            assert isinstance(command, RequestCommand)
            found[(name,)] = command
    return found


COMMANDS = commands()
names = st.sampled_from(sorted({name for registry in LISTS.values() for name in registry}))
anything = st.one_of(st.sampled_from(NUMBERS), st.sampled_from(TEXTS), st.sampled_from(FILES), names)


def fitting(kind: Any) -> st.SearchStrategy[str]:
    """Texts that may be a value of a type, as a user would write them."""
    origin, of = get_origin(kind), get_args(kind)
    if origin is Literal:
        return st.sampled_from([str(choice) for choice in of])
    if kind is bool:
        return st.sampled_from(["true", "false"])
    if kind is int:
        return st.integers(-1, 12).map(str)
    if kind is float:
        return st.floats(-2, 5, width=16).map(str)
    if kind is Path:
        return st.sampled_from(FILES)
    if origin is tuple:
        return st.lists(fitting(of[0]), min_size=1, max_size=3).map(",".join)
    if hasattr(kind, "__metadata__"):
        return fitting(of[0])
    if len(members(kind)) > 1:
        return st.one_of(*(fitting(one) for one in members(kind)))
    return names


def options() -> st.SearchStrategy[str]:
    """Settings such as eta=0.5: options of samplers, rules, losses and operators, and others."""
    known = {option for sampler in SAMPLERS.values() for option in sampler.options}
    for registry in LISTS.values():
        for one in registry.values():
            known |= {f.name for f in fields(one)} if is_dataclass(one) else set()
    named = st.sampled_from(sorted(known | {"x", "noise", "levels", "denoise", "grid.rho", "a.b", "", "grid."}))
    return st.builds(lambda name, value: f"{name}={value}", named, anything)


def values(entry: Entry) -> st.SearchStrategy[list[str]]:
    """The words that give a field on a command line."""
    flag = entry.flags[0] if entry.flags else ""
    if entry.kind is bool:
        return st.just([flag])
    if get_origin(entry.kind) is dict:
        several = st.lists(options(), min_size=1, max_size=2)
        return several.map(lambda all: [word for one in all for word in (flag, one)])
    own = (
        st.sampled_from(OUTPUTS) if entry.name in ("output", "into", "save_dir", "trajectory") else fitting(entry.kind)
    )
    text = st.one_of(own, own, anything)
    return text.map(lambda value: [value] if not flag else [f"{flag}={value}"])


@st.composite
def flags(draw: st.DrawFn) -> Case:
    """A command with some of its flags."""
    words = draw(st.sampled_from(sorted(COMMANDS)))
    known = entries(COMMANDS[words].cls)
    chosen = draw(st.lists(st.sampled_from(sorted(known)), max_size=4, unique=True))
    argv: list[str] = []
    for name, entry in known.items():
        flag = f"{entry.flags[0]}=" if entry.flags else ""
        if name in chosen:
            argv += draw(values(entry))
        elif entry.required:
            argv += [flag + ("o.npz" if (words, name) == (("invert",), "output") else REQUIRED.get(name, "model"))]
        elif name in CALM:
            argv += [flag + CALM[name]]
    argv += tiny(words[0]) if words[0] in TRAINING else []
    argv += ["--quick"] if words == ("verify",) else []
    return Case(argv=(*words, *argv))


def tiny(verb: str) -> list[str]:
    """Settings that make a training short."""
    net = {"train": "net", "distill": "net", "train-classifier": "classifier", "train-autoencoder": "autoencoder"}[verb]
    channels = [] if verb == "distill" else [f"{net}.channels=[8]"]
    drawn = ["sample.num_steps=1"] if net == "net" else []
    given = [*channels, *drawn, "train.held_out_size=8", "train.sample_every=0", "train.save_every=0"]
    return [word for setting in given for word in ("--set", setting)]


CONFIGS = {"train": RunConfig, "train-classifier": ClassifierConfig, "train-autoencoder": AutoencoderConfig}


def sections_of(config: type[Any]) -> dict[str, list[Any]]:
    """The classes that a section may be of."""
    hints = hints_of(config)
    return {f.name: list(KINDS[f.name][0].values()) if f.name in KINDS else [hints[f.name]] for f in fields(config)}


@st.composite
def settings_of(draw: st.DrawFn) -> Case:
    """A training with settings of its configuration, which stops before it trains or is tiny."""
    verb = draw(st.sampled_from(sorted(CONFIGS)))
    sections = sections_of(CONFIGS[verb])
    given: list[str] = []
    for _ in range(draw(st.integers(1, 3))):
        section = draw(st.sampled_from(sorted(sections)))
        cls = draw(st.sampled_from(sections[section]))
        if section in KINDS:
            kind = next(name for name, one in KINDS[section][0].items() if one is cls)
            given.append(f"{section}.kind={kind}")
        keys = list(fields(cls)) if is_dataclass(cls) else []
        if not keys:
            continue
        key = draw(st.sampled_from([f.name for f in keys]))
        own = fitting(hints_of(cls).get(key, str))
        deeper = draw(st.sampled_from(["", "", "", ".kind", ".gamma", ".x.y"]))
        given.append(f"{section}.{key}{deeper}={draw(st.one_of(own, anything))}")
    argv = [verb, "--max-steps", "1", "--batch-size", "4", "--save-dir", "run", *tiny(verb)]
    if any(one.startswith("net.kind=") for one in given):
        argv = [word for i, word in enumerate(argv) if "net.channels" not in " ".join(argv[i : i + 2])]
    return Case(argv=(*argv, *(word for one in given for word in ("--set", one))))


# -- files ---------------------------------------------------------------------------------------------------------

HOSTILE: list[Any] = [
    None, True, 0, -1, 1, 2.5, 1e308, float("nan"), float("inf"), 2**63, 2**70, "", "x", "1", [], {}, [1], ["a"],
    {"a": 1}, [[1, 2]], [None], "<script>", [1e308], [0, -1], [2**40], "../..", "\x1b[2J",
]  # fmt: skip
RAW = (
    b"", b"{", b"[" * 100_000, b"null", b"{}", b"[]", b"\xff\xfe", b"\x00" * 100, b"%!PS-Adobe-3.0 EPSF-3.0\n",
    b"PK\x03\x04", b"\x80\x04K\x01.", b"GIF89a", b"\x89PNG\r\n\x1a\n", (2**62).to_bytes(8, "little") + b"{}",
    b'{"a": ' * 5000, b"\n" * 1000, b"1e999", b"a = " + b"[" * 5000,
)  # fmt: skip
STEP = "model/checkpoints/step_000020"
TEXT_FILES = {
    f"{STEP}/state.json": FORMAT1 / "model/checkpoints/step_000020/state.json",
    "model/config.json": FORMAT1 / "model/config.json",
    "model/metrics.jsonl": FORMAT1 / "model/metrics.jsonl",
    "classifier/checkpoints/step_000004/state.json": FORMAT1 / "classifier/checkpoints/step_000004/state.json",
}
TENSORS = {
    f"{STEP}/{name}.safetensors": FORMAT1 / f"model/checkpoints/step_000020/{name}.safetensors"
    for name in ("model", "ema", "optimiser", "times", "uncertainty")
}
RESUME = ("train", "--config", "model/config.json", "--max-steps", "21", "--save-dir", "model")
READERS: tuple[tuple[str, ...], ...] = (
    ("info", "model"), ("info", "model", "--json"), ("plot", "run", "model"), RESUME,
    ("sample", "--ckpt", "model", "--num", "2", "--steps", "1", "--output", "o.png"),
    ("sample", "--ckpt", "model", "--num", "2", "--grid", "learned", "--steps", "2", "--output", "o.npz"),
    ("sample", "--ckpt", "model", "--num", "2", "--sampler", "ddpm", "--set", "variance=optimal", "--steps", "2", "--output", "o.npz"),
    ("sample", "--ckpt", "model", "--label", "1", "--num", "2", "--steps", "1", "--classifier", "classifier", "--output", "o.npz"),
    ("edit", "--ckpt", "model", "--noise", "noise.npz", "--output", "o.png"),
    ("compare", "model", "--samplers", "heun", "--steps", "1", "--guidance", "1", "--num", "4", "--features", "pca", "--output", "c.html"),
)  # fmt: skip
KEPT = {
    f"{STEP}/grids.json": [
        {"steps": 2, "sampler": "heun", "guidance": 1.0, "weights": "ema", "times": [1.0, 0.5, 0.0]}
    ],
    f"{STEP}/x0_variance_ema.json": {"log_snr": [-1.0, 0.0, 1.0], "variance": [0.3, 0.2, 0.1]},
}


def places(found: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where the values of a JSON document lie."""
    inner = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    return [at, *(place for key, one in inner for place in places(one, (*at, key)))]


def changed(found: Any, place: tuple[Any, ...], value: Any, drop: bool) -> Any:
    """A document with another value at a place, or without it."""
    if not place:
        return value
    copy = dict(found) if isinstance(found, dict) else list(found)
    if drop and len(place) == 1:
        copy.pop(place[0])
    else:
        copy[place[0]] = changed(found[place[0]], place[1:], value, drop)
    return copy


@st.composite
def bytes_of(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file cut short, with other bytes in it, or something else."""
    how = draw(st.sampled_from(["cut", "flip", "insert", "raw", "double"]))
    at = draw(st.integers(0, max(len(whole) - 1, 0)))
    if how == "cut":
        return whole[:at]
    if how == "flip":
        at = min(at, 400) if draw(st.booleans()) else at
        return whole[:at] + bytes([draw(st.integers(0, 255))]) + whole[at + 1 :]
    if how == "insert":
        return whole[:at] + draw(st.sampled_from(RAW))[:2000] + whole[at:]
    return whole + whole if how == "double" else draw(st.sampled_from(RAW))


@st.composite
def damaged(draw: st.DrawFn) -> Case:
    """A command that reads a run of which a file is not what it was."""
    argv, files = draw(st.sampled_from(READERS)), {}
    kept = {name: json.dumps(what).encode() for name, what in KEPT.items()}
    if "learned" in argv or "variance=optimal" in argv:
        files |= kept
    of_text = {**{n: p.read_bytes() for n, p in TEXT_FILES.items()}, **{n: w for n, w in kept.items() if n in files}}
    if "noise.npz" in argv:
        return Case(argv=argv, files={"noise.npz": draw(noises())})
    if argv[0] == "compare":
        return Case(argv=argv, files={"c.cells.jsonl": draw(cells())})
    if draw(st.integers(0, 3)):
        name = draw(st.sampled_from(sorted(of_text)))
        first, *_ = of_text[name].splitlines() if name.endswith("l") else [of_text[name]]
        found = json.loads(first)
        place = draw(st.sampled_from(places(found)))
        text = json.dumps(
            changed(found, place, draw(st.sampled_from(HOSTILE)), draw(st.integers(0, 4)) == 0 and bool(place))
        )
        content = text.encode() if draw(st.integers(0, 4)) else draw(bytes_of(of_text[name]))
        return Case(argv=argv, files={**files, name: content})
    name = draw(st.sampled_from(sorted(TENSORS)))
    return Case(argv=argv, files={**files, name: draw(bytes_of(TENSORS[name].read_bytes()))})


@st.composite
def cells(draw: st.DrawFn) -> bytes:
    """Cells of a comparison that were changed."""
    whole = {
        "key": "a",
        "run": "model",
        "sampler": "heun",
        "grid": "uniform",
        "steps": 1,
        "guidance": 1.0,
        "evaluations": 1.0,
        "seconds": 1.0,
        "num": 4,
        "values": {"frechet": 1.0},
        "errors": {},
        "strip": "",
        "failed": None,
        "times": None,
        "setting": "s",
    }
    place = draw(st.sampled_from(places(whole)))
    return json.dumps(changed(whole, place, draw(st.sampled_from(HOSTILE)), False)).encode() + b"\n"


ARRAYS: list[Any] = [
    "np.zeros((1, 1, 8, 8), np.float32)", "np.zeros((1, 1, 8, 8))", "np.full((1, 1, 8, 8), np.nan)", "np.zeros((0, 1, 8, 8))",
    "np.zeros((2, 3))", "np.array('heun')", "np.array('')", "np.array(2)", "np.array(2.5)", "np.array(1e9)", "np.array(-1)",
    "np.array([1, 2])", "np.array(None, object)", "np.zeros((3, 8, 8), np.uint8)", "np.zeros((3, 8, 8, 5), np.uint8)",
    "np.zeros((3, 8, 8, 2), np.uint8)", "np.arange(3)", "np.array(['a', 'b', 'c'])", "np.array([1e300] * 6).reshape(3, 2)",
    "np.zeros((3, 2), complex)", "np.zeros(3, 'datetime64[s]')", "np.zeros(3, [('a', int)])", "np.array(True)", "np.array('[]')",
    "np.array('{\"kind\": \"karras\", \"rho\": -1}')", "np.array('learned')", "np.array([99999, 0, 1])", "np.zeros((1, 10**6), np.float16)",
]  # fmt: skip


def npz(**arrays: str) -> bytes:
    """An .npz file of arrays that are written as code."""
    import io

    import numpy as np

    file = io.BytesIO()
    np.savez_compressed(file, **{name: eval(code, {"np": np}) for name, code in arrays.items()})
    return file.getvalue()


@st.composite
def noises(draw: st.DrawFn) -> bytes:
    """Files of noise, some of whose arrays are others."""
    whole = {
        "noise": ARRAYS[0],
        "sampler": "np.array('heun')",
        "grid": "np.array('\"uniform\"')",
        "num_steps": "np.array(2)",
        "guidance": "np.array(1.0)",
    }
    whole[draw(st.sampled_from(sorted(whole)))] = draw(st.sampled_from(ARRAYS))
    made = npz(**whole)
    return made if draw(st.integers(0, 3)) else draw(bytes_of(made))


@st.composite
def data(draw: st.DrawFn) -> Case:
    """A data set of anybody's: an .npz file, a folder, files of a named set."""
    how = draw(st.sampled_from(["npz", "npz", "raw", "picture", "metadata", "idx"]))
    options = {
        "size": draw(st.sampled_from([None, None, 1, 8, 100])),
        "channels": draw(st.sampled_from([None, None, 1, 3, 4])),
        "skip_bad": draw(st.booleans()),
    }
    if how == "npz":
        named = draw(
            st.dictionaries(
                st.sampled_from(["arr_0", "x", "arr_1", "labels", "vectors"]), st.sampled_from(ARRAYS), min_size=1
            )
        )
        return Case(load="d.npz", options=options, files={"d.npz": npz(**named)})
    if how == "raw":
        made = npz(arr_0="np.zeros((3, 8, 8), np.uint8)", arr_1="np.arange(3)")
        return Case(load="d.npz", options=options, files={"d.npz": draw(bytes_of(made))})
    if how == "idx":
        import gzip

        header = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (2, 4, 4))
        images, labels = header + bytes(32), bytes([0, 0, 8, 1]) + (2).to_bytes(4, "big") + bytes([0, 1])
        files = {
            f"mnist/{p}-{k}-ubyte.gz": gzip.compress(images if "images" in k else labels, mtime=0)
            for p in ("train", "t10k")
            for k in ("images-idx3", "labels-idx1")
        }
        name = draw(st.sampled_from(sorted(files)))
        files[name] = (
            gzip.compress(draw(bytes_of(gzip.decompress(files[name]))), mtime=0)
            if draw(st.booleans())
            else draw(bytes_of(files[name]))
        )
        return Case(load="mnist", options={**options, "data_dir": "."}, files=files)
    picture = b"" if how == "metadata" else draw(bytes_of(PNG))
    if how == "picture":
        suffix = draw(st.sampled_from([".png", ".jpg", ".gif", ".webp", ".bmp"]))
        return Case(load="d", options=options, files={f"d/a{suffix}": picture, "d/b.png": PNG})
    row = {"file_name": "a.png", "text": "a", "label": 1}
    rows = [changed(row, draw(st.sampled_from(places(row))), draw(st.sampled_from(HOSTILE)), False) for _ in range(2)]
    text = "\n".join(map(json.dumps, rows)).encode()
    return Case(
        load="d",
        options=options,
        files={"d/a.png": PNG, "d/metadata.jsonl": text if draw(st.integers(0, 3)) else draw(bytes_of(text))},
    )


def _png() -> bytes:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, format="PNG")
    return file.getvalue()


PNG = _png()


@st.composite
def documents(draw: st.DrawFn) -> Case:
    """Files of configurations and requests that anybody wrote."""
    toml = draw(
        st.one_of(
            st.sampled_from(RAW), bytes_of(b"[train]\nnum_steps = 1\n[net]\nchannels = [8]\n"), table().map(str.encode)
        )
    )
    if draw(st.booleans()):
        return Case(
            argv=(
                "train",
                "--config",
                "c.toml",
                "--max-steps",
                "1",
                "--batch-size",
                "4",
                "--save-dir",
                "run",
                *tiny("train"),
            ),
            files={"c.toml": toml},
        )
    words = draw(st.sampled_from(sorted(COMMANDS)))
    argv = (
        [*words, "--request", "r.toml", "--output=o.png"]
        if "output" in entries(COMMANDS[words].cls)
        else [*words, "--request", "r.toml"]
    )
    argv += ["--max-steps=1", "--batch-size=4", "--save-dir=run", *tiny(words[0])] if words[0] in TRAINING else []
    return Case(argv=tuple(argv), files={"r.toml": toml})


@st.composite
def table(draw: st.DrawFn) -> str:
    """TOML of known and unknown keys with values of any kind."""
    keys = sorted({name for command in COMMANDS.values() for name in entries(command.cls)} | {"x", "train", "net.kind"})
    values = st.sampled_from(
        ["1", "-1", "0.5", "nan", "inf", '"x"', "true", "[]", "[1, 2]", "{a = 1}", "1979-05-27", '"model"', "9" * 30]
    )
    rows = draw(st.dictionaries(st.sampled_from(keys), values, max_size=4))
    return "\n".join(f"{key} = {value}" for key, value in rows.items())
