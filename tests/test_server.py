"""The server: OpenAI's client makes a picture, every refusal is one sentence, and nobody else gets in."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import shlex
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ebbflow.cli.app import VERBS, Verb, run_app
from ebbflow.cli.command import RequestCommand
from ebbflow.errors import ConfigError
from ebbflow.requests.base import entries
from ebbflow.requests.sampling import SampleCommand
from ebbflow.requests.serving import GenerationRequest, ImageEditRequest, Limits, ServeRequest
from ebbflow.runs.model import Model

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")
from starlette.testclient import TestClient  # noqa: E402

from ebbflow.studio.application import application, desk_of  # noqa: E402
from ebbflow.studio.guard import Guard, read_token  # noqa: E402
from ebbflow.studio.meter import Meter  # noqa: E402
from ebbflow.studio.server import bind, serve  # noqa: E402
from ebbflow.studio.shelf import Shelf, named  # noqa: E402

RUN = Path(__file__).parent / "data" / "format1" / "model"  # 8x8 digits by class
TOKEN = "correct-horse-battery-staple"
LOGS: list[str] = []


def app_of(token: str | None = None, paths: dict[str, str] | None = None, **limits: Any) -> Guard:
    meter = Meter()
    shelf = Shelf(paths or {"digits": str(RUN)}, meter=meter, say=LOGS.append)
    return application(desk_of(shelf, Limits(**limits), meter, LOGS.append), token=token)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(app_of(most=8, most_steps=50, most_pixels=4096), base_url="http://localhost:8000") as made:
        yield made


def generate(client: TestClient, **body: Any) -> Any:
    return client.post("/v1/images/generations", json=body)


def pixels(b64: str) -> torch.Tensor:
    from numpy import asarray

    return torch.from_numpy(asarray(Image.open(io.BytesIO(base64.b64decode(b64)))).copy())


def png(width: int = 8, height: int = 8, mode: str = "L", colour: Any = 200) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height), colour).save(file, format="PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server on a free port, with a token."""
    ready, stop = threading.Event(), []
    found: list[str] = []

    def serving() -> None:
        import uvicorn

        bound = bind("127.0.0.1", 0)
        server = uvicorn.Server(uvicorn.Config(app_of(TOKEN), log_level="warning"))
        server.install_signal_handlers = lambda: None  # type: ignore[method-assign]
        stop.append(server)
        found.append(f"http://127.0.0.1:{bound.getsockname()[1]}")
        ready.set()
        server.run(sockets=[bound])

    thread = threading.Thread(target=serving, daemon=True)
    thread.start()
    assert ready.wait(10)
    for _ in range(200):
        try:
            httpx.get(f"{found[0]}/healthz")
            break
        except httpx.HTTPError:
            time.sleep(0.05)
    yield found[0]
    stop[0].should_exit = True
    thread.join(20)
    assert not thread.is_alive()


# -- the official client -----------------------------------------------------------------------------------------------


def test_the_client_of_openai_makes_edits_and_streams_pictures(address: str) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{address}/v1", api_key=TOKEN, max_retries=0)
    assert [one.id for one in client.models.list()] == ["digits"]
    made = client.images.generate(
        model="digits", prompt="3", n=2, size="16x16", response_format="b64_json", extra_body={"seed": 5, "steps": 3}
    )
    want = Model.from_run(RUN).sample(labels="3", num=2, seed=5, steps=3).images
    for one, image in zip(made.data, want, strict=True):
        assert torch.equal(pixels(one.b64_json)[::2, ::2], image[0])
    assert [one.seed for one in made.data] == [5, 6] and made.size == "16x16"
    events = list(
        client.images.generate(
            model="digits", prompt="3", stream=True, partial_images=2, extra_body={"seed": 5, "steps": 3}
        )
    )
    assert [one.type for one in events] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert torch.equal(pixels(events[-1].b64_json), want[0, 0])
    edit = client.images.edit(
        model="digits", prompt="3", image=("a.png", png()), mask=("m.png", mask()), extra_body={"seed": 1, "steps": 3}
    )
    assert (pixels(edit.data[0].b64_json)[:, 4:] == 200).all(), "what is kept was changed"
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0).models.list()
    with pytest.raises(openai.NotFoundError):
        client.images.generate(model="cats", prompt="")
    with pytest.raises(openai.BadRequestError, match="steps"):
        client.images.generate(model="digits", prompt="3", extra_body={"steps": 0})


def test_the_examples_of_the_page_on_serving_make_pictures(address: str) -> None:
    pytest.importorskip("openai")
    page = (Path(__file__).parents[1] / "docs" / "serving.md").read_text(encoding="utf-8")
    (python,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(python.replace("http://127.0.0.1:8000", address).replace('"TOKEN"', repr(TOKEN)), names)
    want = Model.from_run(RUN).sample(labels="3", num=2, seed=5, steps=8).images
    assert torch.equal(pixels(base64.b64encode(names["picture"]).decode()), want[0, 0])
    (curl,) = (shlex.split(line) for line in page.splitlines() if line.startswith("curl "))
    url, body = curl[1].replace("http://127.0.0.1:8000", address), curl[curl.index("-d") + 1]
    head = {"content-type": "application/json", "authorization": f"Bearer {TOKEN}"}
    assert httpx.post(url, content=body, headers=head).json()["data"][0]["seed"] == 5


def test_the_page_on_serving_knows_every_field_and_every_limit() -> None:
    page = (Path(__file__).parents[1] / "docs" / "serving.md").read_text(encoding="utf-8")
    for name in set(entries(GenerationRequest)) - {"user"} | set(entries(ImageEditRequest)) - {"user"}:
        assert f"`{name}`" in page, name
    for name, entry in entries(Limits).items():
        assert name == "batching" or entry.flags[0] in page, name


def mask(mode: str = "RGBA") -> bytes:
    """The left half is to be made: transparent, or white without transparency."""
    image = Image.new(mode, (8, 8), (0, 0, 0, 255) if mode == "RGBA" else 0)
    image.paste((0, 0, 0, 0) if mode == "RGBA" else 255, (0, 0, 4, 8))
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


# -- generations -------------------------------------------------------------------------------------------------------


def test_the_answer_says_what_remakes_it_and_that_remakes_it(client: TestClient, tmp_path: Path) -> None:
    answer = generate(client, label=7, n=2, seed=11, steps=2, sampler="ddim", options={"eta": 0.5}, guidance=-1).json()
    words = shlex.split(answer["command"])
    assert words[:2] == ["ebbflow", "sample"]
    out = tmp_path / "made.npz"
    assert run_app([*words[1:-1], str(out)]) == 0
    import numpy as np

    remade = np.load(out)["arr_0"]
    for one, image in zip(answer["data"], remade, strict=True):
        assert torch.equal(pixels(one["b64_json"]), torch.from_numpy(image[..., 0]))
    assert [one["label"] for one in answer["data"]] == ["7", "7"]
    import ebbflow

    assert len(eval(answer["python"], {"ebbflow": ebbflow})) == 2


def test_the_same_question_has_the_same_answer_and_another_without_a_seed(client: TestClient) -> None:
    first, again = (generate(client, prompt="3", seed=4).json() for _ in range(2))
    assert first["data"] == again["data"]
    free = [generate(client, prompt="3").json()["data"][0]["seed"] for _ in range(3)]
    assert len(set(free)) == 3


def test_many_at_once_get_their_own_answers(client: TestClient) -> None:
    bodies = [{"label": i % 10, "seed": i, "n": 1 + i % 3, "guidance": 1 + i % 2} for i in range(12)]
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda body: generate(client, **body).json(), bodies))
    model = Model.from_run(RUN)
    for body, answer in zip(bodies, answers, strict=True):
        want = model.sample(labels=str(body["label"]), seed=body["seed"], num=body["n"], guidance=body["guidance"])
        assert want.images is not None
        for one, image in zip(answer["data"], want.images, strict=True):
            assert (pixels(one["b64_json"]).int() - image[0].int()).abs().max() <= 1


def test_a_stream_shows_each_image_on_its_way(client: TestClient) -> None:
    body = {"label": 3, "n": 2, "seed": 5, "steps": 4, "stream": True, "partial_images": 2}
    answer = generate(client, **body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    assert [(one["type"].partition(".")[2], one["image_index"]) for one in events] == [
        ("partial_image", 0), ("partial_image", 1), ("partial_image", 0), ("partial_image", 1), ("completed", 0), ("completed", 1),
    ]  # fmt: skip
    whole = generate(client, label=3, n=2, seed=5, steps=4).json()
    assert [one["b64_json"] for one in events[-2:]] == [one["b64_json"] for one in whole["data"]]


def test_an_edit_varies_or_fills_in(client: TestClient) -> None:
    for given, kept in ((mask(), True), (mask("L"), True), (None, False)):
        files = {"image": ("a.png", png(), "image/png"), **({"mask": ("m.png", given, "image/png")} if given else {})}
        data = {"label": "3", "seed": "1", "steps": "4", "n": "2"}
        answer = client.post("/v1/images/edits", data=data, files=files)
        assert answer.status_code == 200, answer.text
        right = pixels(answer.json()["data"][1]["b64_json"])[:, 4:]
        assert bool((right == 200).all()) == kept
        assert shlex.split(answer.json()["command"])[:2] == ["ebbflow", "edit"]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"steps": 0}, 400, "`steps` must be at least 1, got 0."),
        ({"steps": 51}, 400, "`steps` is at most 50 here"),
        ({"n": 9}, 400, "`n` is at most 8 here"),
        ({"n": "two"}, 400, "`n` must be a whole number"),
        ({"setps": 3}, 400, "Did you mean 'steps'"),
        ({"size": "9x9"}, 400, "`size` must be auto, 8x8 or a whole multiple"),
        ({"size": "80x80"}, 400, "beyond 4,096 pixels"),
        ({"prompt": "cat"}, 400, "cat"),
        ({"prompt": "3", "label": 4}, 400, "`prompt` and `label` all choose"),
        ({"sampler": "heum"}, 400, "heun"),
        ({"model": "../../etc"}, 404, "unknown `model`"),
        ({"partial_images": 2}, 400, "belongs to `stream`"),
        ({"response_format": "url"}, 400, "b64_json"),
        ({"guidance": 1e39}, 400, "not finite"),
        ({"negative_label": 3, "guidance": 1}, 400, "negative label"),
    ],
)
def test_a_wrong_question_is_answered_in_one_sentence(
    client: TestClient, body: dict[str, Any], status: int, says: str
) -> None:
    answer = generate(client, **body)
    error = answer.json()["error"]
    assert answer.status_code == status and says in error["message"], answer.text
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"[]", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b'{"prompt": "3"}', "text/plain", 415),
        (b"x" * (17 * 2**20), "application/json", 413),
    ],
)
def test_a_broken_body_is_refused(client: TestClient, content: bytes, kind: str, status: int) -> None:
    answer = client.post("/v1/images/generations", content=content, headers={"content-type": kind})
    assert answer.status_code == status and answer.json()["error"]["message"]


def test_a_body_that_grows_beyond_the_limit_is_stopped_whatever_its_head_says() -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(10):
            yield b" " * 1024

    with TestClient(app_of(most_bytes=4096), base_url="http://localhost") as client:
        answer = client.post("/v1/images/generations", content=chunks(), headers={"content-type": "application/json"})
    assert answer.status_code == 413


def bomb() -> bytes:
    """A PNG whose head promises 60,000 x 60,000 pixels."""
    data = bytearray(png())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"image": bomb()}, "picture"),
        ({"image": png(80, 80)}, "4,096 are taken at most"),
        ({"image": b"GIF89a"}, "not a picture"),
        ({"image": png()[:-20]}, "cannot be read"),
        ({"image": png(), "mask": png(4, 4)}, "pixels"),
        ({"image": png(), "mask": png(colour=0)}, "no white pixel"),
        ({}, "`image` is missing"),
        ({"image": png(), "other": png()}, "unknown file `other`"),
    ],
)
def test_a_wrong_upload_is_refused(client: TestClient, files: dict[str, bytes], says: str) -> None:
    parts = {name: ("x.png", one, "image/png") for name, one in files.items()}
    answer = client.post("/v1/images/edits", data={"label": "3"}, files=parts or {"nothing": (None, b"")})
    message = answer.json()["error"]["message"]
    assert answer.status_code == 400 and says in message and "/tmp" not in message, answer.text


# -- who gets in -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:8000", "origin": "http://localhost:8000"}, 200),
        ({"host": "[::1]:8000"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "localhost.evil.example:8000"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://localhost:9999"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
)
def test_only_this_machine_and_no_other_site_is_answered(
    client: TestClient, headers: dict[str, str], status: int
) -> None:
    for path in ("/v1/models", "/metrics", "/healthz"):
        assert client.get(path, headers=headers).status_code == status


@pytest.mark.parametrize("given", [None, "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer ", "Bearer ä"])
def test_without_the_token_nothing_is_told(given: str | None) -> None:
    with TestClient(app_of(TOKEN), base_url="http://localhost") as client:
        headers = [] if given is None else [(b"authorization", given.encode("latin-1"))]
        for path in ("/v1/models", "/metrics", "/openapi.json", "/nothing"):
            answer = client.get(path, headers=headers)  # type: ignore[arg-type]
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert client.get("/healthz").status_code == 200
        assert client.get("/v1/models", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_no_token_stands_in_a_log_or_an_answer(capfd: pytest.CaptureFixture[str]) -> None:
    LOGS.clear()
    with TestClient(app_of(TOKEN), base_url="http://localhost", raise_server_exceptions=False) as client:
        head = {"authorization": f"Bearer {TOKEN}"}
        answers = [client.get(path, headers=head).text for path in ("/v1/models", "/metrics", "/healthz", "/nothing")]
        answers.append(client.post("/v1/images/generations", json={"steps": -1}, headers=head).text)
    out = capfd.readouterr()
    assert not any(TOKEN in text for text in (*answers, *LOGS, out.out, out.err))


def test_a_server_for_others_needs_a_good_token(tmp_path: Path) -> None:
    file = tmp_path / "token"
    assert read_token(None, "127.0.0.1") is None and read_token(None, "::1") is None
    with pytest.raises(ConfigError, match="token_file"):
        read_token(None, "0.0.0.0")
    for content, says in (("short", "16"), ("two words of some length", "spaces"), ("é" * 20, "ASCII")):
        file.write_text(content, encoding="utf-8")
        with pytest.raises(ConfigError, match=says):
            read_token(file, "0.0.0.0")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(tmp_path / "none", "127.0.0.1")
    file.write_text(f"{TOKEN}\n", encoding="utf-8")
    assert read_token(file, "0.0.0.0") == TOKEN


def test_every_answer_forbids_a_browser_what_it_need_not_do(client: TestClient) -> None:
    for path in ("/v1/models", "/nothing", "/openapi.json"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and headers["x-request-id"]


# -- the rest ----------------------------------------------------------------------------------------------------------


def test_what_is_beyond_the_queue_is_told_when_to_come_again() -> None:
    guard = app_of(queue=1, batch_size=1)
    with TestClient(guard, base_url="http://localhost") as client, ThreadPoolExecutor(6) as pool:
        slow = [pool.submit(generate, client, label=1, steps=40, seed=i) for i in range(6)]
        answers = [one.result() for one in slow]
    refused = [one for one in answers if one.status_code == 429]
    assert refused and all(int(one.headers["retry-after"]) >= 1 for one in refused)
    assert all(one.status_code in (200, 429) for one in answers) and any(one.status_code == 200 for one in answers)


def test_a_late_answer_is_said_to_be() -> None:
    with TestClient(app_of(timeout=0.05), base_url="http://localhost") as client:
        answer = generate(client, label=1, steps=900)
    assert answer.status_code == 504 and answer.json()["error"]["code"] == "timeout"


def test_a_client_that_leaves_stops_its_walk(address: str) -> None:
    async def leave() -> None:
        async with httpx.AsyncClient(headers={"authorization": f"Bearer {TOKEN}"}) as client:
            body = {"label": 1, "steps": 1000}
            asked = asyncio.create_task(client.post(f"{address}/v1/images/generations", json=body))
            await asyncio.sleep(0.5)
            asked.cancel()

    asyncio.run(leave())
    for _ in range(100):
        text = httpx.get(f"{address}/metrics", headers={"authorization": f"Bearer {TOKEN}"}).text
        if "ebbflow_abandoned_batches_total 1" in text:
            return
        time.sleep(0.1)
    raise AssertionError("the walk went on")


def test_a_newer_checkpoint_is_taken_up_and_a_damaged_one_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(RUN, folder)
    said: list[str] = []
    shelf = Shelf({"run": str(folder)}, say=said.append)
    first = shelf.model("run")
    shelf.refresh()
    assert shelf.model("run") is first and not said
    newer(folder, 30)
    shelf.refresh()
    assert shelf.model("run") is not first and "opened" in said[-1]
    kept = shelf.model("run")
    (newer(folder, 40) / "ema.safetensors").write_bytes(b"damaged")
    shelf.refresh()
    shelf.refresh()
    assert shelf.model("run") is kept and "the old one is kept" in said[-1] and len(said) == 2


def newer(run: Path, step: int) -> Path:
    """A copy of a run's checkpoint that calls itself one of another step."""
    made = shutil.copytree(run / "checkpoints" / "step_000020", run / "checkpoints" / f"step_{step:06d}")
    state = json.loads((made / "state.json").read_text())
    (made / "state.json").write_text(json.dumps({**state, "step": step}))
    return made


def test_models_of_one_name_are_told_apart() -> None:
    assert named(("a/x", "b/x", "hf:org/x")) == {"x": "a/x", "x-2": "b/x", "x-3": "hf:org/x"}


def test_what_is_measured_is_what_prometheus_reads(client: TestClient) -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    generate(client, label=1)
    families = {one.name: one for one in parser.text_string_to_metric_families(client.get("/metrics").text)}
    assert {"ebbflow_requests", "ebbflow_samples", "ebbflow_batch_samples", "ebbflow_worker_up"} <= set(families)
    assert families["ebbflow_worker_up"].samples[0].value == 1
    routes = {one.labels["route"] for one in families["ebbflow_requests"].samples}
    assert "/v1/images/generations" in routes and not any("etc" in one for one in routes)


def test_openapi_says_what_the_request_classes_say(client: TestClient) -> None:
    page = client.get("/openapi.json").json()
    schema = page["paths"]["/v1/images/generations"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    known = entries(GenerationRequest)
    assert set(schema["properties"]) == set(known)
    assert schema["properties"]["n"] == {"type": "integer", "minimum": 1, "description": known["n"].doc, "default": 1}
    assert {"type": "null"} in schema["properties"]["steps"]["anyOf"]
    form = page["paths"]["/v1/images/edits"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert {"image", "mask", "strength"} <= set(form["properties"])


def test_a_request_written_down_is_read_as_itself() -> None:
    from ebbflow.requests.written import command_of

    given: dict[str, Any] = {
        "ckpt": "runs/a b", "output": Path("x.png"), "prompts": ("a 'cat'", "-dog"), "guidance": -1.5, "clip": False,
        "options": {"eta": 0.5, "variance": "large"}, "interval": (-3.0, 2.0), "seeds": (1, 5), "json": True,
    }  # fmt: skip
    verb = VERBS["sample"]
    assert isinstance(verb, Verb)
    command = verb.command("sample", "ebbflow")
    assert isinstance(command, RequestCommand)
    assert command.read(shlex.split(command_of("sample", SampleCommand, given))[2:]) == SampleCommand(**given)


def test_an_address_that_is_taken_is_said_to_be() -> None:
    with bind("127.0.0.1", 0) as taken, pytest.raises(ConfigError, match="cannot listen"):
        bind("127.0.0.1", taken.getsockname()[1])


def test_serving_needs_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[studio\]'"):
        serve(ServeRequest(runs=(str(RUN),)), lambda line: None)


def test_a_run_that_is_not_there_is_said_before_anything_listens(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["serve", "nowhere", "--port", "0"]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err
    assert run_app(["serve", str(RUN), "--host", "0.0.0.0"]) == 2
    assert "--token-file" in capsys.readouterr().err
