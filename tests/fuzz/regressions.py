"""What once hung, took all memory, was a traceback or was believed, by what it was, with words of the refusal."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import zlib

import numpy as np
from fuzz.harness import Case
from fuzz.strategies import HOSTILE, PNG, RESUME, STEP, TEXT_FILES, npz, tiny


def train(*more: str) -> Case:
    return Case(argv=("train", "--max-steps", "1", "--batch-size", "4", "--save-dir", "run", *tiny("train"), *more))


def setting(*given: str, verb: str = "train") -> Case:
    """A training with these settings over a tiny one."""
    return Case(
        argv=(
            verb,
            "--max-steps",
            "1",
            "--batch-size",
            "4",
            "--save-dir",
            "run",
            *(w for g in given for w in ("--set", g)),
        )
    )


def sample(*more: str) -> Case:
    return Case(argv=("sample", "--ckpt", "model", "--output", "o.png", *more))


def large_png(side: int) -> bytes:
    """A picture of side^2 pixels in a few kilobytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = zlib.compressobj(9)
    row = bytes(1 + side // 8)
    body = b"".join(rows.compress(row) for _ in range(side)) + rows.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def claimed_npz() -> bytes:
    """An .npz file whose array says that it has 10^12 entries."""
    made = io.BytesIO()
    np.lib.format.write_array_header_1_0(made, {"descr": "|u1", "fortran_order": False, "shape": (10**12,)})
    import zipfile

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("arr_0.npy", made.getvalue() + bytes(10))
    return file.getvalue()


def bad_zip(name: str, content: bytes) -> bytes:
    import zipfile

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, content)
    return file.getvalue()


def tarred(name: str, content: bytes, **facts: object) -> bytes:
    """A member of a tar file as it lies there."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in facts.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


def state(**changed: object) -> dict[str, bytes]:
    """The state of the model's checkpoint with other facts."""
    known = json.loads(TEXT_FILES[f"{STEP}/state.json"].read_text())
    return {f"{STEP}/state.json": json.dumps({**known, **changed}).encode()}


ZEROS = gzip.compress(bytes(400_000_000), 1)
INFO, RUN = ("info", "model"), ("plot", "run", "model", "--output", "o.png")
LEARNED = ("sample", "--ckpt", "model", "--num", "1", "--grid", "learned", "--steps", "2", "--output", "o.npz")
OPTIMAL = (
    "sample",
    "--ckpt",
    "model",
    "--num",
    "1",
    "--sampler",
    "ddpm",
    "--set",
    "variance=optimal",
    "--output",
    "o.npz",
)
EDIT = ("edit", "--ckpt", "model", "--noise", "noise.npz", "--output", "o.png")
FACTS = json.loads(TEXT_FILES[f"{STEP}/state.json"].read_text())["facts"]

REFUSED: dict[str, tuple[Case, str]] = {
    # enormous
    "a wide layer": (setting("net.kind=dit", "net.mlp_ratio=1000"), "must be in (0, 64]"),
    "a deep net": (setting("net.num_blocks=9223372036854775807"), "must be in [1, 1024]"),
    "a net that is too large": (setting("net.kind=dit", "net.dim=60000", "net.depth=1000"), "of memory"),
    "a patch that is too large": (setting("net.kind=dit", "net.patch_size=60000"), "of memory"),
    "a classifier that is too large": (setting("classifier.channels=[60000, 60000, 60000]", verb="train-classifier"), "of memory"),
    "a batch of 2^31": (train("--batch-size=2147483648"), "--batch-size"),
    "a batch of 10^22": (train("--batch-size=9999999999999999999999"), "--batch-size must be below 2^63"),
    "2^31 samples": (sample("--num", "2147483648"), "--num must be in [1, 10000000]"),
    "samples that do not fit": (sample("--num", "10000000"), "of memory"),
    "2^31 steps": (sample("--steps", "2147483648"), "--steps must be in [1, 100000]"),
    "2^31 steps of a likelihood": (Case(argv=("likelihood", "--ckpt", "model", "--steps", "2147483648")), "--steps must be in"),
    "seeds without end": (sample("--seeds", "0-999999999999"), "too long"),
    "repeats without end": (Case(argv=("evaluate", "--ckpt", "model", "--repeats", "1e22")), "--repeats must be a whole number"),
    "pictures of 10^10 pixels": (train("--img-size", "100000"), "of memory"),
    "a table without end": (setting("path.kind=vp_discrete", "path.num_steps=2147483648"), "must be in [4, 100000]"),
    "steps of a picture": (Case(argv=("plot", "denoising", "--ckpt", "model", "--num", "2147483648")), "--num must be in"),
    # values
    "an option called x": (sample("--sampler", "euler", "--set", "x=meta"), "has no option 'x'"),
    "an option called noise": (sample("--sampler", "sde", "--set", "noise=3"), "has no option 'noise'"),
    "a text for eta": (sample("--sampler", "ddim", "--set", "eta=unipc"), "`eta` of sampler 'ddim' must be a number"),
    "a date for s_max": (sample("--sampler", "edm", "--set", "s_max=1979-05-27"), "must be a number"),
    "no whole number of corrections": (sample("--sampler", "pc", "--set", "corrector_steps=nan"), "must be a whole number"),
    "a variance of nobody": (sample("--sampler", "ddpm", "--set", "variance=nan", "--steps", "1"), "must be small, large"),
    "guidance that is no number": (sample("--guidance", "nan"), "--guidance must be finite"),
    "a nearly vanishing shift": (setting("path.shift=1e-30"), "`path.shift` must be in"),
    "an enormous shift": (setting("path.shift=1e30"), "`path.shift` must be in"),
    "a nearly vanishing sigma": (setting("path.kind=ve", "path.sigma_min=1e-308"), "`path.sigma_min` must be in"),
    "endless decay": (setting("train.weight_decay=inf"), "`train.weight_decay` must be finite"),
    "endless weight of a bound": (setting("objective.vlb_weight=inf"), "must be finite"),
    "an endless rate": (setting("train.lr=1e308"), "must be in (0, 1000000.0]"),
    "true for a size": (setting("data.size=true"), "must be a whole number or 2 numbers"),
    "false for a seed": (setting("train.seed=false"), "must be a whole number, got False"),
    "no heads": (setting("net.num_heads=0"), "must be in [1, 65536]"),
    "a kind that is a list": (setting("conditioning.kind=[1]"), "unknown conditioning.kind"),
    "brackets without end": (setting("path.shift=" + "[" * 3000), "must be a number"),
    "a seed beyond 2^64": (train("--seed", "99999999999999999999"), "--seed must be below 2^63"),
    "digits of another kind": (sample("--seeds", "²"), "must be a whole number, got '²'"),
    # files that are none
    "a pipe for a configuration": (train("--config", "pipe"), "is a pipe"),
    "a pipe for a request": (train("--request", "pipe"), "is a pipe"),
    "a pipe for a picture": (Case(argv=("edit", "--ckpt", "model", "--input", "pipe", "--output", "o.png")), "is a pipe"),
    "a pipe for noise": (Case(argv=("edit", "--ckpt", "model", "--noise", "pipe", "--output", "o.png")), "is a pipe"),
    "a device for a configuration": (train("--config", "/dev/zero"), "is a device"),
    "a folder for a configuration": (train("--config", "pictures"), "is a folder"),
    "a configuration without end": (Case(argv=("train", "--config", "c.toml"), files={"c.toml": b"\n" * (17 << 20)}), "at most 16,777,216"),
    "a configuration of brackets": (Case(argv=("train", "--config", "c.toml"), files={"c.toml": b"a = " + b"[" * 5000}), "nested too deeply"),
    # data
    "a program as a picture": (Case(load="d", files={"d/x.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"}), "none of PNG"),
    "a picture of a billion pixels": (Case(load="d", options={"size": 8}, files={"d/x.png": large_png(12_000)}), "144,000,000 pixels"),
    "a picture outside": (Case(load="d", files={"d/metadata.jsonl": b'{"file_name": "../picture.png"}'}), "outside of the folder"),
    "a picture at a root": (Case(load="d", files={"d/metadata.jsonl": b'{"file_name": "/etc/passwd"}'}), "outside of the folder"),
    "metadata of brackets": (Case(load="d", files={"d/a.png": PNG, "d/metadata.jsonl": b"[" * 100_000}), "nested too deeply"),
    "an array that is none": (Case(load="d.npz", files={"d.npz": bad_zip("arr_0", b"abc")}), "no array `arr_0`"),
    "an array of 10^12 entries": (Case(load="d.npz", files={"d.npz": claimed_npz()}), "is shorter"),
    "a header that does not end": (Case(load="d.npz", files={"d.npz": bad_zip("x.npy", b"\x93NUMPY\x01\x00\x04\x00(((\n")}), "cannot be read"),
    "an array of objects": (Case(load="d.npz", files={"d.npz": npz(arr_0="np.array([None, {}], object)")}), "objects of Python"),
    "bytes without end in few": (Case(load="mnist", options={"data_dir": "."}, files={f"mnist/{p}-{k}-ubyte.gz": ZEROS for p in ("train", "t10k") for k in ("images-idx3", "labels-idx1")}), "more than"),
    # runs
    "a state of brackets": (Case(argv=INFO, files={f"{STEP}/state.json": b"[" * 100_000}), "state.json"),
    "a state without a step": (Case(argv=INFO, files=state(step="x")), "state.json"),
    "dims that are a text": (Case(argv=INFO, files=state(facts={**FACTS, "dims": "8"})), "state.json"),
    "dims beyond reason": (Case(argv=(*sample("--num", "1").argv,), files=state(facts={**FACTS, "dims": [2**40, 8, 8]})), "state.json"),
    "names that are numbers": (Case(argv=INFO, files=state(facts={**FACTS, "label_names": [1, 2.5]})), "state.json"),
    "a configuration that is none": (Case(argv=INFO, files=state(config=None)), "state.json"),
    "a kind of nobody": (Case(argv=INFO, files=state(kind="x")), "does not know"),
    "a config.json of brackets": (Case(argv=RESUME, files={"model/config.json": b"[" * 100_000}), "config.json"),
    "a config.json of nothing": (Case(argv=RESUME, files={"model/config.json": b"{}"}), "config.json"),
    "metrics of brackets": (Case(argv=RUN, files={"model/metrics.jsonl": b"[" * 100_000 + b"\n" + b'{"step": 1}\n'}), "metrics"),
    "grids without times": (Case(argv=LEARNED, files={f"{STEP}/grids.json": b'[{"steps": 2, "sampler": "heun", "guidance": 1, "weights": "ema", "times": null}]'}), "grids"),
    "guidance of a grid": (Case(argv=LEARNED, files={f"{STEP}/grids.json": b'[{"steps": 2, "sampler": "heun", "guidance": "x", "weights": "ema", "times": [1, 0.5, 0]}]'}), "grids"),
    "a table of nothing": (Case(argv=OPTIMAL, files={f"{STEP}/x0_variance_ema.json": b"{}"}), "no table of variances"),
    "noise of a text": (Case(argv=EDIT, files={"noise.npz": npz(noise="np.array('x')", sampler="np.array('heun')", grid="np.array('\"uniform\"')", num_steps="np.array(2)", guidance="np.array(1.0)")}), "noise.npz"),
    "noise of 10^9 steps": (Case(argv=EDIT, files={"noise.npz": npz(noise="np.zeros((1, 1, 8, 8), np.float32)", sampler="np.array('heun')", grid="np.array('\"uniform\"')", num_steps="np.array(1000000000)", guidance="np.array(1.0)")}), "must be in [1, 100000]"),
    "a pipe for an export": (Case(argv=("export", "model", "--output", "pipe")), "is there already"),
    "the root of all files for an export": (Case(argv=("export", "model", "--output", "/")), "is where all files are"),
    "the root of all files for shards": (Case(argv=("pack", "pictures", "/")), "is where all files are"),
    "a vanishing average": (Case(argv=("ema", "model", "--lengths", "1e-300")), "--lengths must be in [0.0001, 0.28]"),
    "a picture of no name": (Case(argv=("pack", "in", "out"), files={"in/a.png": PNG, "in/metadata.jsonl": b'{"file_name": "."}'}), "names no picture"),
    "a tar file of other bytes": (Case(load="t.tar", files={"t.tar": tarred("x", b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n26 GNU.sparse.realsize=99\n", type=tarfile.XHDTYPE) + tarred("a.png", PNG)}), "cannot be read as a tar file"),
    "a plan for processes that are not planned": (train("--world-size", "8"), "--world-size and --device-memory are of a dry run"),
    "noise of objects": (Case(argv=EDIT, files={"noise.npz": npz(noise="np.array([None], object)")}), "noise.npz"),
    "noise of no rows": (Case(argv=EDIT, files={"noise.npz": npz(noise="np.zeros((0, 1, 8, 8), np.float32)", sampler="np.array('heun')", grid="np.array('\"uniform\"')", num_steps="np.array(2)", guidance="np.array(1.0)")}), "holds no noise"),
}  # fmt: skip

# What was wrong once, and is served now.
SERVED: dict[str, Case] = {
    "a licence that is no text": Case(argv=("export", "model", "--output", "out", "--license", "\udcff")),
    "a folder whose name is no text": Case(argv=("export", "model", "--output", "\udcff")),
    "a measurement of brackets": Case(argv=("export", "model", "--output", "out"), files={"model/eval/a.json": b"[" * 100_000}),
    "a card of other bytes": Case(argv=("export", "model", "--output", "out"), files={"model/README.md": b"\xff\xfe"}),
    "a caption of half a character": Case(argv=("pack", "in", "out"), files={"in/a.png": PNG, "in/metadata.jsonl": b'{"file_name": "a.png", "text": "\\ud800"}'}),
    "a picture whose name is no text": Case(load="t.tar", files={"t.tar": tarred("\udcff.png", PNG) + tarred("b.png", PNG)}),
}  # fmt: skip

CELL = {
    "key": "a", "run": "model", "sampler": "heun", "grid": "uniform", "steps": 1, "guidance": 1.0, "evaluations": 1.0,
    "seconds": 1.0, "num": 4, "values": {"frechet": 1.0}, "errors": {}, "strip": "", "failed": None, "times": None, "setting": "s",
}  # fmt: skip
CELLS = [json.dumps({**CELL, name: value}) for name in CELL for value in HOSTILE]
