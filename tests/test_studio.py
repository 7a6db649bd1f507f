"""The page's server: runs as they are, nothing outside the folder, trainings that are ordinary, lessons that are exact."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import shutil
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
from starlette.testclient import TestClient

import ebbflow
from ebbflow.config import RunConfig
from ebbflow.config.sections import KINDS
from ebbflow.core.noise import Noise
from ebbflow.core.paths import PATHS
from ebbflow.errors import ConfigError
from ebbflow.methods.editing import FIXED_POINT
from ebbflow.methods.oracles import FiniteData
from ebbflow.methods.samplers import SAMPLERS
from ebbflow.methods.sampling import walk
from ebbflow.metrics.frontier import Cell
from ebbflow.requests.base import from_keywords
from ebbflow.requests.sampling import EditRequest
from ebbflow.requests.serving import Limits, NewRunRequest
from ebbflow.runs.edit import Inverter, edit_plan
from ebbflow.runs.folder import metrics
from ebbflow.runs.model import Model
from ebbflow.studies.compare import append_cell
from ebbflow.studio import gallery, lessons
from ebbflow.studio.application import application, desk_of
from ebbflow.studio.lessons import Lesson
from ebbflow.studio.meter import Meter
from ebbflow.studio.page import FREE, STATIC, Page
from ebbflow.studio.pixels import base64_of
from ebbflow.studio.shelf import Shelf
from ebbflow.studio.trainings import PLACES, Trainings
from ebbflow.studio.worker import as_images

RUN = Path(__file__).parent / "data" / "format1" / "model"  # 8x8 digits by class
FEW = {
    "max_steps": 2,
    "batch_size": 8,
    "settings": {"net.channels": [4, 4], "train.sample_every": 0, "train.held_out_size": 8},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(RUN, tmp_path / "runs" / "digits")
    (tmp_path / "runs" / "digits" / "samples").mkdir()
    (tmp_path / "runs" / "digits" / "samples" / "step_000020.png").write_bytes(b"\x89PNG picture")
    (tmp_path / "secret.html").write_text("secret", encoding="utf-8")
    shutil.copytree(RUN, tmp_path / "elsewhere")
    return tmp_path / "runs"


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    meter = Meter()
    desk = desk_of(Shelf({}, meter=meter), Limits(most=40, most_steps=60), meter, lambda line: None)
    page = Page(desk=desk, folder=folder, trainings=Trainings(folder, folder.parent / "data"))
    app = application(desk, free=FREE, add=page.add_to)
    with TestClient(app, base_url="http://localhost:8000") as made:
        yield made


def events(text: str) -> list[tuple[str, Any]]:
    return [(b.split("\n")[0][7:], json.loads(b.split("\n")[1][6:])) for b in text.strip().split("\n\n")]


# -- runs --------------------------------------------------------------------------------------------------------------


def test_a_run_is_shown_as_its_files_say(client: TestClient, folder: Path) -> None:
    (card,) = client.get("/studio/runs").json()["runs"]
    assert (card["name"], card["kind"], card["state"], card["picture"]) == ("digits", "model", "finished", 20)
    assert card["what"]["data"] == "digits" and card["classes"] == 10
    curves = client.get("/studio/curves", params={"name": "digits"}).json()
    losses = [(row["step"], row["loss"]) for row in metrics(folder / "digits") if "loss" in row]
    assert [tuple(one) for one in curves["loss"]] == losses
    assert client.get("/studio/picture", params={"name": "digits", "step": 20}).content == b"\x89PNG picture"
    assert client.get("/studio/picture", params={"name": "digits", "step": 5}).status_code == 404


def test_states_are_what_the_folder_says(folder: Path) -> None:
    for name in ("stopped", "new", "damaged", "half"):
        shutil.copytree(RUN, folder / name)
    known = json.loads((folder / "stopped" / "config.json").read_text())
    known["config"]["train"]["num_steps"] = 10_000
    (folder / "stopped" / "config.json").write_text(json.dumps(known))
    shutil.rmtree(folder / "new" / "checkpoints")
    (folder / "damaged" / "config.json").write_text("{")
    (folder / "half" / "checkpoints" / "step_000020" / "state.json").unlink()
    (folder / "half" / "metrics.jsonl").write_text('{"step": 5, "loss": NaN}\n{"st')
    states = {card.name: card.state for card in gallery.cards(folder)}
    assert states == {"digits": "finished", "stopped": "stopped", "new": "new", "damaged": "damaged", "half": "damaged"}


def test_a_curve_is_thinned_to_the_means_of_neighbours() -> None:
    points = [(i, float(i)) for i in range(1000)]
    thin = gallery.thinned(points)
    assert len(thin) <= gallery.POINTS and thin[-1][0] == 999
    assert gallery.thinned(points[:7]) == points[:7]
    assert thin[0] == (4, 2.0)


@pytest.mark.parametrize(
    "name", ["../elsewhere", "..", "/etc", "linked", "digits/../../elsewhere", "", "digits/checkpoints"]
)
def test_nothing_outside_the_folder_can_be_named(client: TestClient, folder: Path, name: str) -> None:
    os.symlink(folder.parent / "elsewhere", folder / "linked")
    os.symlink(folder.parent / "secret.html", folder / "linked.html")
    assert client.get("/studio/curves", params={"name": name}).status_code == 404
    assert client.get("/studio/model", params={"name": name}).status_code == 404
    assert client.post("/studio/sample", json={"model": name}).status_code == 404
    assert client.post("/studio/resume", json={"name": name}).status_code == 404
    for report in ("../secret.html", "linked.html", name):
        assert client.post("/studio/ticket", json={"name": report}).status_code == 404
    assert client.get("/studio/report", params={"ticket": "guessed"}).status_code == 404
    for file in ("../page.py", "%2e%2e%2fpage.py", "..%2f..%2fapi.py"):
        assert client.get(f"/static/{file}").status_code in (404, 403)


def test_reports_are_listed_and_may_do_nothing(client: TestClient, folder: Path) -> None:
    (folder / "compare.html").write_text("<p>fine</p><script>alert(1)</script>", encoding="utf-8")
    assert [one["name"] for one in client.get("/studio/reports").json()["reports"]] == ["compare.html"]
    ticket = client.post("/studio/ticket", json={"name": "compare.html"}).json()
    answer = client.get("/studio/report", params=ticket)
    assert answer.text.startswith("<p>fine") and client.get("/studio/report", params=ticket).status_code == 404
    assert (
        "sandbox" in answer.headers["content-security-policy"]
        and "script-src" not in answer.headers["content-security-policy"]
    )


# -- trainings ---------------------------------------------------------------------------------------------------------


def test_a_training_is_started_watched_stopped_and_gone_on_with(client: TestClient, folder: Path) -> None:
    long = {**FEW, "name": "mine", "max_steps": 100_000}
    answer = client.post("/studio/train", json=long)
    assert answer.status_code == 200, answer.text
    assert answer.json()["command"].startswith("ebbflow train --")
    assert wait_for(client, "mine", "training") > 0
    assert "being trained" in client.post("/studio/resume", json={"name": "mine"}).json()["error"]["message"]
    assert "is taken" in client.post("/studio/train", json=long).json()["error"]["message"]
    assert client.post("/studio/stop", json={"name": "mine"}).status_code == 200
    step = wait_for(client, "mine", "stopped")
    assert client.post("/studio/resume", json={"name": "mine"}).status_code == 200
    wait_for(client, "mine", "training", above=step)
    assert client.post("/studio/stop", json={"name": "mine"}).status_code == 200
    assert wait_for(client, "mine", "stopped") > step
    assert "not being trained" in client.post("/studio/stop", json={"name": "mine"}).json()["error"]["message"]


def wait_for(client: TestClient, name: str, state: str, above: int = 0) -> int:
    """The step of a run when it is in a state, above a step."""
    for _ in range(1200):
        card = next(one for one in client.get("/studio/runs").json()["runs"] if one["name"] == name)
        if card["state"] == state and card.get("step", 0) > above:
            return int(card["step"])
        assert card["state"] != "failed", card["error"]
        time.sleep(0.1)
    raise AssertionError(f"{name} is not {state}: {card}")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"name": "../x"}, "`name` must be"),
        ({"name": "digits"}, "is taken"),
        ({"name": "a", "preset": "digts"}, "Did you mean 'digits'"),
        ({"name": "a", "lr": -1}, "`lr` must be above 0"),
        ({"name": "a", "settings": {"train.clip": "much"}}, "train.clip"),
        ({"name": "a", "settings": {"train.clp": 1}}, "clip"),
        ({"name": "a", "data": "dgits"}, "unknown data set"),
        ({"name": "a", "data": "/etc"}, "outside of"),
        ({"name": "a", "data": "../elsewhere"}, "outside of"),
        ({"name": "a", "settings": {"data.dir": "/etc"}}, "outside of"),
        ({"name": "a", "settings": {"init.run": "~/runs/mine"}}, "outside of"),
        ({"name": "a", "settings": {"latent.autoencoder": "hf:somebody/vae"}}, "outside of"),
        (
            {
                "name": "a",
                "preset": "digits_text",
                "settings": {"conditioning.kind": "pretrained_text", "conditioning.model": "/etc"},
            },
            "outside of",
        ),
        ({"preset": "digits"}, "`name` is missing"),
    ],
)
def test_a_training_that_cannot_be_is_refused_at_once(
    client: TestClient, folder: Path, body: dict[str, Any], says: str
) -> None:
    answer = client.post("/studio/train", json=body)
    assert answer.status_code == 400 and says in answer.json()["error"]["message"], answer.text
    assert not (folder / "a").exists()


def test_a_training_finds_data_below_the_root_and_through_no_link_out_of_it(client: TestClient, folder: Path) -> None:
    (folder.parent / "data").mkdir()
    os.symlink(folder.parent / "elsewhere", folder.parent / "data" / "link")
    trainings = Trainings(folder, folder.parent / "data")
    for outside in ("link", "../elsewhere"):
        with pytest.raises(ConfigError, match="outside of"):
            trainings.start(NewRunRequest(name="a", data=str(folder.parent / "data" / outside)))
    (folder.parent / "data" / "mine").mkdir()
    own = str(folder.parent / "data" / "mine")
    assert own in client.post("/studio/train", json={**FEW, "name": "own", "data": own}).json()["command"]


def test_every_setting_that_names_a_file_is_looked_at() -> None:
    """Texts of a configuration are names of registries, or stand in the list of places."""
    registered = {"engine.device", "sample.sampler", "ema.state", "data.name"}
    kinds = {name: known.values() for name, (known, _) in KINDS.items()}
    found = set()
    for section in fields(RunConfig):
        for cls in kinds.get(section.name, [type(section.default)]):
            hints = get_type_hints(cls)
            found |= {f"{section.name}.{name}" for name, hint in hints.items() if hint in (str, str | None)}
    assert found - registered <= set(PLACES), found
    assert set(PLACES) - {"data.name"} <= found


def test_a_run_is_distilled_from_its_card(client: TestClient, folder: Path) -> None:
    (folder / "digits" / "config.json").write_text(json.dumps(tiny(folder / "digits")))
    body = {"name": "quick", "run": "digits", "max_steps": 2, "batch_size": 8, "settings": {"train.sample_every": 0}}
    answer = client.post("/studio/distill", json=body)
    assert answer.status_code == 200, answer.text
    words = shlex.split(answer.json()["command"])
    assert words[:2] == ["ebbflow", "distill"] and str(folder / "digits") in words
    wait_for(client, "quick", "finished")
    model = client.get("/studio/model", params={"name": "quick"}).json()
    assert model["defaults"]["sampler"] == "flow_map" and not model["guidable"]
    assert client.post("/studio/distill", json={**body, "run": "../elsewhere"}).status_code == 404
    assert "is taken" in client.post("/studio/distill", json=body).json()["error"]["message"]


def tiny(run: Path) -> dict[str, Any]:
    """The configuration of a run, with nothing measured on the way."""
    known = json.loads((run / "config.json").read_text())
    known["config"]["train"] |= {"held_out_size": 8, "held_out_every": 0}
    return known  # type: ignore[no-any-return]


def test_what_a_failed_training_said_last_is_shown(folder: Path) -> None:
    trainings = Trainings(folder)
    trainings.start(
        NewRunRequest(
            name="bad",
            preset="mnist_flow_unet",
            settings={"data.dir": str(folder / "nothing"), "engine.device": "cuda:99"},
        )
    )
    trainings._processes["bad"].wait(120)
    assert trainings.failed("bad") and not trainings.is_starting("bad")


# -- play --------------------------------------------------------------------------------------------------------------


def test_samples_come_with_their_way_and_what_remakes_them(client: TestClient) -> None:
    body = {"model": "digits", "labels": ["3", "8"], "num": 4, "steps": 4, "previews": 3, "seed": 2}
    answer = events(client.post("/studio/sample", json=body).text)
    assert [name for name, _ in answer] == ["begin", "preview", "preview", "preview", "done"]
    begin, done = answer[0][1], answer[-1][1]
    assert begin["names"] == ["3", "3", "8", "8"] and begin["seeds"] == [2, 3, 4, 5] and begin["num_steps"] == 4
    assert begin["command"].startswith("ebbflow sample --ckpt") and len(done["shown"]) == 4
    model = client.get("/studio/model", params={"name": "digits"}).json()
    assert model["asked_by"] == "label" and model["defaults"]["sampler"] == "heun"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"classifier": "/etc"}, "not taken from a page"),
        ({"images": ["/etc"]}, "not taken from a page"),
        ({"target": "/etc/passwd", "loss": "blur"}, "not taken from a page"),
        ({"num": 41}, "at most 40"),
        ({"steps": 61}, "at most 60"),
        ({"smapler": "heun"}, "Did you mean 'sampler'"),
        ({"previews": -1}, "`previews`"),
        ({"labels": ["11"]}, "11"),
    ],
)
def test_a_wrong_knob_is_answered_in_one_sentence(client: TestClient, body: dict[str, Any], says: str) -> None:
    answer = client.post("/studio/sample", json={"model": "digits", "num": 2, **body})
    assert answer.status_code == 400 and says in answer.json()["error"]["message"]


def test_a_picture_is_varied_filled_in_and_compared_with_the_data(client: TestClient) -> None:
    from test_server import mask, png

    image = {"image": ("image.png", png(), "image/png")}
    request = {"request": json.dumps({"model": "digits", "labels": ["3"], "num": 2, "steps": 4, "strength": 0.5})}
    answer = events(client.post("/studio/edit", data=request, files=image).text)
    assert answer[-1][0] == "done" and len(answer[-1][1]["shown"]) == 2
    both = {**image, "mask": ("mask.png", mask("L"), "image/png")}
    answer = events(
        client.post("/studio/edit", data={"request": '{"model": "digits", "num": 2, "steps": 4}'}, files=both).text
    )
    assert answer[-1][0] == "done", answer
    found = client.post("/studio/nearest", data={"request": '{"model": "digits"}'}, files=image).json()["nearest"]
    assert [one["distance"] for one in found] == sorted(one["distance"] for one in found) and len(found) == 6


def test_a_picture_goes_to_its_noise_and_back_and_to_another(client: TestClient, tmp_path: Path) -> None:
    from test_server import pixels

    model = Model.from_run(RUN)
    made = model.sample(labels=("3", "8"), num=2, steps=4)
    pictures = [base64.b64decode(base64_of(one)) for one in made.images]
    files = {"image": ("a.png", pictures[0], "image/png")}
    request = {"model": "digits", "labels": ["3"], "steps": 12, "previews": 40, "sampler": "heun"}
    there = events(client.post("/studio/through", data={"request": json.dumps(request)}, files=files).text)
    begin, *glimpses, done = there
    assert len(glimpses) == begin[1]["num_steps"] - 1 and done[1]["psnr"] > 25
    assert (pixels(done[1]["shown"][0]).int() - made.images[0, 0].int()).abs().float().mean() < 12
    plan = edit_plan(model, from_keywords(EditRequest, labels=("3",), num=1, steps=12, guidance=1.0), as_one=True)
    noise = Inverter(model=model, plan=plan).noise_of(model.image(made.images[0]))
    halfway = pixels(glimpses[FIXED_POINT + 12 - 2][1]["shown"][0])
    assert (halfway.int() - as_images(noise)[0, 0].int()).abs().max() <= 1
    both = {**files, "other": ("b.png", pictures[1], "image/png")}
    request = {"model": "digits", "num": 5, "steps": 6}
    between = events(client.post("/studio/through", data={"request": json.dumps(request)}, files=both).text)
    assert len(between[-1][1]["shown"]) == 5 and "--interpolate-with other.png" in between[0][1]["command"]
    want = model.interpolate(made.images[0], made.images[1], num=5, steps=6).images
    for one, image in zip(between[-1][1]["shown"], want, strict=True):
        assert (pixels(one).int() - image[0].int()).abs().max() <= 1
    namespace = {"ebbflow": ebbflow, "image": None}
    for name, content in zip(("image.png", "other.png"), pictures, strict=True):
        (tmp_path / name).write_bytes(content)
    python = between[0][1]["python"].replace(
        "'image.png', 'other.png'", f"{str(tmp_path / 'image.png')!r}, {str(tmp_path / 'other.png')!r}"
    )
    assert torch.equal(eval(python, namespace).images, want)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"sampler": "ddpm"}, "cannot be walked backwards"),
        ({"steps": 1}, "2 `steps` or more"),
        ({"steps": 61}, "at most 60"),
        ({"labels": ["3", "4"]}, "one condition"),
    ],
)
def test_a_way_to_noise_that_cannot_be_is_refused(client: TestClient, body: dict[str, Any], says: str) -> None:
    from test_server import png

    request = {"request": json.dumps({"model": "digits", **body})}
    answer = client.post("/studio/through", data=request, files={"image": ("a.png", png(), "image/png")})
    assert answer.status_code == 400 and says in answer.json()["error"]["message"], answer.text


def test_a_run_of_vectors_is_asked_by_numbers(client: TestClient, folder: Path) -> None:
    settings = {**FEW["settings"], "conditioning.kind": "vector"}
    client.post("/studio/train", json={**FEW, "name": "vectors", "settings": settings})
    wait_for(client, "vectors", "finished")
    model = client.get("/studio/model", params={"name": "vectors"}).json()
    assert model["asked_by"] == "vector" and model["numbers"] == 10
    vectors = [[0.5, 0.5] + 8 * [0]]
    body = {"model": "vectors", "vectors": vectors, "num": 2, "steps": 2}
    answer = events(client.post("/studio/sample", json=body).text)
    assert len(answer[-1][1]["shown"]) == 2 and "--vector 0.5,0.5,0" in answer[0][1]["command"]


def test_what_comparisons_measured_stands_beside_the_strips(client: TestClient, folder: Path) -> None:
    cell = Cell(
        key="k", run="digits", sampler="heun", grid="uniform", steps=4, guidance=2.0, evaluations=14.0, seconds=2.0,
        num=100, values={"frechet": 12.5}, errors={"frechet": 0.5},
    )  # fmt: skip
    for one in (cell, replace(cell, key="other", run="else"), replace(cell, key="bad", values={}, failed="no")):
        append_cell(folder / "compare.cells.jsonl", one)
    (found,) = client.get("/studio/measured", params={"name": "digits"}).json()["cells"]
    assert (found["milliseconds"], found["frechet"], found["error"], found["report"]) == (20.0, 12.5, 0.5, None)
    (folder / "compare.html").write_text("<p>it</p>", encoding="utf-8")
    assert client.get("/studio/measured", params={"name": "digits"}).json()["cells"][0]["report"] == "compare.html"
    assert client.get("/studio/measured", params={"name": "../digits"}).status_code == 404


def test_choices_are_the_registries(client: TestClient) -> None:
    answer = client.get("/studio/choices").json()
    assert set(answer["samplers"]) == set(SAMPLERS) and set(answer["paths"]) == set(PATHS)
    assert set(answer["forms"]["train"]["properties"]) >= {"preset", "max_steps", "settings"}


# -- lessons -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", list(PATHS))
def test_curves_are_those_of_the_path(path: str) -> None:
    found = lessons.curves(path)
    c = PATHS[path]().at(torch.tensor(found["t"], dtype=torch.float64))
    assert torch.allclose(torch.tensor(found["alpha"]).double(), c.alpha, atol=2e-4, rtol=2e-3)
    assert all(a >= b for a, b in zip(found["log_snr"], found["log_snr"][1:], strict=False))
    assert lessons.noised(path, 3).shape == (lessons.MANY, 1, 8, 8)


def test_ways_end_where_the_field_leads_with_steps_enough() -> None:
    errors = [lessons.ways(Lesson(sampler="euler", steps=n, num=40))["error"] for n in (4, 16, 64)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    found = lessons.ways(Lesson(sampler="heun", steps=7, num=5, seed=3))
    steps = walk(lessons.field("gaussians", PATHS["flow"]()), (2,), range(3, 8), sampler="heun", num_steps=7)
    *_, last = steps
    assert torch.allclose(torch.tensor(found["ways"][-1]), last.x.float(), atol=2e-3)
    assert len(found["ways"]) == 8
    assert torch.allclose(torch.tensor(found["ways"][0]), Noise(range(3, 8)).draw((2,)), atol=1e-3)


def test_ways_to_one_normal_distribution_at_a_point_are_straight() -> None:
    point = lessons._walked(
        FiniteData(torch.tensor([[0.5, -1.0]]).double(), PATHS["flow"]()),
        torch.randn(9, 2).double(),
        "euler",
        8,
        "uniform",
        range(9),
    )
    assert float(lessons._bend(point)) < 1e-6
    bends = [lessons.ways(Lesson(label=label, num=40, steps=1)) for label in (2, None)]
    assert bends[0]["bend"] < 0.3 < 1 < bends[1]["bend"] and bends[0]["error"] < 0.2 < bends[1]["error"]


def test_guidance_leads_to_the_class(client: TestClient) -> None:
    found = client.get(
        "/studio/ways", params={"label": 2, "guidance": 2, "steps": 30, "sampler": "heun", "num": 30}
    ).json()
    ends = torch.tensor(found["ways"][-1])
    assert (ends - torch.tensor([0.0, 1.1])).norm(dim=1).mean() < 0.4
    noisy = client.get("/studio/ways", params={"sampler": "ddpm", "num": 3}).json()
    assert noisy["error"] is None


def test_the_three_views_are_one_prediction(client: TestClient) -> None:
    for path in ("flow", "vp", "cosine"):
        found = client.get(
            "/studio/views", params={"data": "moons", "path": path, "t": 0.4, "x": 0.5, "y": -0.2}
        ).json()
        again = [found["alpha"] * a + found["sigma"] * b for a, b in zip(found["x0"], found["eps"], strict=True)]
        assert again == pytest.approx([0.5, -0.2], abs=1e-3)


@pytest.mark.parametrize(
    ("path", "query", "says"),
    [
        ("ways", {"steps": 0}, "`steps` must be in [1, 200]"),
        ("ways", {"steps": "many"}, "`steps`"),
        ("ways", {"data": "mnist"}, "`data` must be one of"),
        ("ways", {"label": 9}, "`label`"),
        ("path", {"path": "flwo"}, "Did you mean 'flow'"),
        ("views", {"data": "moons", "path": "flow", "t": 1, "x": 0, "y": 0}, "`t` must be in (0, 1)"),
        ("noised", {"index": 10**6}, "`index`"),
    ],
)
def test_a_lesson_out_of_range_is_refused(client: TestClient, path: str, query: dict[str, Any], says: str) -> None:
    answer = client.get(f"/studio/{path}", params=query)
    assert answer.status_code == 400 and says in answer.json()["error"]["message"], answer.text
    with pytest.raises(ConfigError):
        Lesson(steps=0)


# -- the page itself ---------------------------------------------------------------------------------------------------


def test_the_page_is_whole_and_needs_nobody_else(client: TestClient) -> None:
    """Every file that one names is there, nothing comes from another place, no style or script stands in the page."""
    assert client.get("/").text.startswith("<!doctype html>")
    for file in STATIC.iterdir():
        text = file.read_text(encoding="utf-8")
        assert client.get(f"/static/{file.name}").status_code == 200
        for named in re.findall(r"""from "\./([\w.]+)"|import\("\./([\w.]+)"\)|"/static/([\w.]+)\"""", text):
            assert (STATIC / "".join(named)).is_file(), f"{file.name} names {named}"
        assert not re.findall(r"https?://(?!www\.w3\.org)", text), file.name
        assert len(text.splitlines()) < 300 and "innerHTML" not in text and "style=" not in text, file.name


def test_both_languages_say_everything_that_is_asked_for() -> None:
    text = (STATIC / "words.js").read_text(encoding="utf-8")
    english, chinese = (set(re.findall(r"(?:^|[,{\s])(\w+): \"", part)) for part in text.split("const ZH")[:2])
    assert english == chinese
    for file in STATIC.glob("*.js"):
        for key in re.findall(r"\bt\(\"(\w+)\"", file.read_text(encoding="utf-8")):
            assert key in english, f"{file.name}: {key}"


def test_the_page_lets_a_browser_do_only_what_it_needs(client: TestClient) -> None:
    policy = client.get("/").headers["content-security-policy"]
    assert "script-src 'self';" in policy and "unsafe" not in policy
    assert Model.from_run(RUN).dims == (1, 8, 8)
