"""The files for clusters: read as their readers read them, built and run as far as that goes without a cluster."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ebbflow.cli.app import run_app

ROOT = Path(__file__).resolve().parent.parent
CLUSTER = ROOT / "examples" / "cluster"
INSTRUCTIONS = {"FROM", "RUN", "COPY", "WORKDIR", "ENTRYPOINT", "CMD", "ENV", "ARG", "USER", "LABEL"}
# Flags of sbatch that the script may use, with what their values look like.
SBATCH = {
    "job-name": r"\w+",
    "nodes": r"\d+",
    "ntasks-per-node": r"\d+",
    "gpus-per-node": r"\d+",
    "cpus-per-task": r"\d+",
    "time": r"\d+:\d\d:\d\d",
    "signal": r"(B:)?[A-Z]+@\d+",
    "requeue": "",
}


def instructions() -> list[tuple[str, str]]:
    """Each instruction of the Dockerfile and what it is given."""
    text = (CLUSTER / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def linted(tool: str, file: Path) -> None:
    """Where a linter is at hand, it finds nothing."""
    if shutil.which(tool) is not None:
        done = subprocess.run([tool, str(file)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_the_image_is_made_of_what_is_there() -> None:
    linted("hadolint", CLUSTER / "Dockerfile")
    found = instructions()
    assert found[0][0] == "FROM"
    assert {name for name, _ in found} <= INSTRUCTIONS
    for name, given in found:
        if name == "COPY":
            assert all((ROOT / source).exists() for source in given.split()[:-1]), given
        if name in ("ENTRYPOINT", "CMD"):
            assert all(isinstance(word, str) for word in json.loads(given))
    pinned = re.search(r"torch==(\S+)", (CLUSTER / "Dockerfile").read_text())
    said = (ROOT / "README.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text() + (ROOT / "Makefile").read_text()
    assert pinned is not None and f"torch=={pinned[1]}" in said


def test_the_image_copies_all_that_the_wheel_is_built_of() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", project["project"]["readme"], project["project"]["license-files"][0]}
    needed |= {*wheel["force-include"], *(package.partition("/")[0] for package in wheel["packages"])}
    needed |= {word.removeprefix("/src/") for name, given in instructions() for word in given.split() if ".txt" in word}
    copied = {source for name, given in instructions() if name == "COPY" for source in given.split()[:-1]}
    assert copied >= needed
    assert any(given.endswith("/src -c /src/constraints.txt") for name, given in instructions() if name == "RUN")


def trains(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """`torchrun ... -m ebbflow train ...`, with flags that both know."""
    from torch.distributed.run import get_args_parser

    at = command.index("-m")
    launcher = get_args_parser().parse_args(command[:at] + ["script.py"])
    assert launcher.rdzv_backend == "c10d" and launcher.rdzv_endpoint.endswith(":29500")
    assert command[at + 1 : at + 3] == ["ebbflow", "train"]
    assert run_app(["train", "--help"]) == 0
    known = capsys.readouterr().out
    for word in command[at + 3 :]:
        assert not word.startswith("--") or word.partition("=")[0] in known


def test_the_job_is_one_that_kubernetes_takes(capsys: pytest.CaptureFixture[str]) -> None:
    """By hand what batch/v1 asks for, and that its numbers and names agree with each other."""
    yaml = pytest.importorskip("yaml")
    service, job = yaml.safe_load_all((CLUSTER / "job.yaml").read_text())
    assert (service["apiVersion"], service["kind"], job["apiVersion"], job["kind"]) == (
        "v1",
        "Service",
        "batch/v1",
        "Job",
    )
    spec: dict[str, Any] = job["spec"]
    assert spec.keys() <= {"completions", "parallelism", "completionMode", "backoffLimit", "template"}
    assert spec["completionMode"] == "Indexed" and spec["completions"] == spec["parallelism"]
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] in ("Never", "OnFailure")
    (container,) = pod["containers"]
    assert container.keys() <= {"name", "image", "command", "args", "env", "resources", "volumeMounts"}
    assert all(isinstance(one["value"], str) for one in container["env"])
    assert {v["name"] for v in pod["volumes"]} == {m["name"] for m in container["volumeMounts"]}
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    arguments = container["args"]
    assert f"--nnodes={spec['completions']}" in arguments and f"--nproc-per-node={gpus}" in arguments
    name, meeting = job["metadata"]["name"], service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["selector"] == {"job-name": name}
    assert pod["subdomain"] == meeting and f"--rdzv-endpoint={name}-0.{meeting}:29500" in arguments
    assert container["command"] == ["torchrun"]
    trains(arguments, capsys)


def test_the_script_for_slurm_starts_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run with an `srun` that says what it would start."""
    script = CLUSTER / "train.slurm"
    linted("shellcheck", script)
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=?(\S*)$", script.read_text(), re.MULTILINE))
    assert len(asked) == script.read_text().count("#SBATCH")
    assert all(re.fullmatch(SBATCH[name], value) for name, value in asked.items())
    for name, said in {"srun": 'printf "%q " "$@"', "scontrol": "printf 'first\\nsecond\\n'"}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{said}\n")
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_NNODES": asked["nodes"], "SLURM_JOB_ID": "7"}
    env["SLURM_JOB_NODELIST"] = "node[1-2]"
    done = subprocess.run(["bash", str(script), "--seed", "3"], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    launcher, *arguments = shlex.split(done.stdout)
    assert launcher == "torchrun" and arguments[-2:] == ["--seed", "3"]
    assert f"--nproc-per-node={asked['gpus-per-node']}" in arguments and "--rdzv-endpoint=first:29500" in arguments
    trains(arguments, capsys)
