"""The worker: a batched answer is the answer alone, none is lost or mixed up, whatever is cancelled, late or dies."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ebbflow.core.paths import PATHS
from ebbflow.core.predictions import Estimate
from ebbflow.errors import ConfigError
from ebbflow.methods.denoise import FunctionDenoiser, Wrapped
from ebbflow.methods.guidance import classifier_free
from ebbflow.methods.samplers import SAMPLERS
from ebbflow.requests.base import from_keywords
from ebbflow.requests.sampling import EditRequest, SampleRequest
from ebbflow.runs.edit import Edit, edit_plan
from ebbflow.runs.model import Model
from ebbflow.runs.plan import plan_of
from ebbflow.studio.together import Asked, RowGuided, walk_together
from ebbflow.studio.worker import BusyError, Job, Preview, StoppedError, Worker

RUN = Path(__file__).parent / "data" / "format1" / "model"  # 8x8 digits by class, guidance 2 when nothing is said


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.from_run(RUN)


def asked(model: Model, **request: Any) -> Asked:
    return Asked(model=model, plan=plan_of(model, from_keywords(SampleRequest, steps=3, **request)))


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker(linger=0.02)
    yield made
    made.close(5.0)


class Gate:
    """Holds a model's first evaluation until it is opened, so that what is submitted meanwhile waits."""

    def __init__(self, model: Model) -> None:
        self.is_open, self.entered = threading.Event(), threading.Event()
        self.calls = 0
        self.model = model.with_denoiser(Gated(inner=model.denoiser, gate=self))


@dataclass(frozen=True, kw_only=True)
class Gated(Wrapped):
    gate: Gate

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        self.gate.calls += 1
        self.gate.entered.set()
        assert self.gate.is_open.wait(20)
        return self.inner(x_t, t)


# -- walking together --------------------------------------------------------------------------------------------------


def test_a_guidance_for_each_sample_is_what_classifier_free_guidance_makes_of_each() -> None:
    net = FunctionDenoiser(
        function=lambda x, t, cond: x * 0.3 + cond[:, None], path=PATHS["flow"](), make_null=torch.zeros
    )
    x, cond = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), torch.arange(1.0, 5.0)
    weights = [3.0, 1.0, 0.0, 1.5]
    guided = [0, 2, 3]
    rows = RowGuided(
        net.given(torch.cat([cond, torch.zeros(3)])),
        guided=torch.tensor(guided),
        guidance=torch.tensor([float(weights[i]) for i in guided]),
    )
    for t in (0.7, torch.full((4,), 0.7)):
        got = rows(x, t)
        for i, w in enumerate(weights):
            want = classifier_free(net, guidance=float(w)).given(cond[i : i + 1])(x[i : i + 1], 0.7)
            assert torch.allclose(got.x0[i], want.x0[0], atol=1e-6) and torch.allclose(
                got.eps[i], want.eps[0], atol=1e-6
            )


@pytest.mark.parametrize("sampler", sorted(name for name, one in SAMPLERS.items() if not one.jumps))
def test_a_batched_answer_is_the_answer_alone(model: Model, sampler: str) -> None:
    """Whatever its companions ask; the noise is the same bit for bit, the net rounds otherwise in another batch."""
    requests = [
        {"labels": "3", "num": 2, "seed": 5, "guidance": 2.5},
        {"labels": "none", "num": 1, "seed": 7},
        {"labels": "8,1", "num": 2, "seed": 100, "guidance": 0.0},
        {"labels": "4", "num": 1, "guidance": 3.0, "negative_label": "9"},
        {"labels": "2", "num": 1},
    ]
    several = [asked(model, sampler=sampler, **one) for one in requests]
    assert len({one.company for one in several}) == 1
    *_, last = walk_together(several)
    alone = torch.cat([model.sample(steps=3, sampler=sampler, **one).x for one in requests])
    assert torch.allclose(last.x, alone, atol=2e-4)


def test_the_noise_of_a_batch_is_that_of_each_alone_bit_for_bit(model: Model) -> None:
    seen: list[Tensor] = []

    @dataclass(frozen=True, kw_only=True)
    class Looking(Wrapped):
        def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
            seen.append(x_t)
            return self.inner(x_t, t)

    looked = model.with_denoiser(Looking(inner=model.denoiser))
    several = [asked(looked, labels="3", num=2, seed=s, guidance=1) for s in (0, 9, 4)]
    for batch in (several, *([one] for one in several)):
        next(walk_together(batch))
    (together, _), *alone = [seen[i : i + 2] for i in range(0, len(seen), 2)]
    assert torch.equal(together, torch.cat([first for first, _ in alone]))


def test_what_walks_otherwise_does_not_walk_together(model: Model) -> None:
    base = asked(model, labels="3", num=1)
    for other in ({"sampler": "ddim"}, {"clip": True}, {"grid": "karras"}, {"interval": (-1.0, 1.0), "guidance": 2.0}):
        assert asked(model, labels="3", num=1, **other).company != base.company
    rule = {"labels": "3", "num": 1, "guidance": 2.0, "guidance_rule": "apg"}
    one, two = asked(model, **rule), asked(model, **rule)
    assert one.company != two.company and one.company == one.rows(0, 1).company


def test_edits_walk_together_with_an_image_each(model: Model) -> None:
    images = [model.sample(labels="3", num=1, seed=s, steps=2).x.clamp(-1, 1) for s in (1, 2)]
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[..., :4] = True
    plans = [edit_plan(model, EditRequest(steps=4, num=2, seed=s, labels=("3",))) for s in (0, 10)]
    for how in (Edit(strength=0.5), Edit(strength=1.0, mask=mask, resample=2)):
        asked = [Asked(model=model, plan=p, image=x, edit=how) for p, x in zip(plans, images, strict=True)]
        assert asked[0].company == asked[1].company
        *_, last = walk_together(asked)
        alone = []
        for one in asked:
            *_, own = walk_together([one])
            alone.append(own.x)
        assert torch.allclose(last.x, torch.cat(alone), atol=2e-4)


# -- the worker --------------------------------------------------------------------------------------------------------


def test_many_answers_come_whole_and_unmixed(model: Model) -> None:
    worker = Worker(batch_size=5, linger=0.0)
    wanted = [{"labels": str(i % 10), "num": 1 + i % 7, "seed": 10 * i, "guidance": 1 + i % 3} for i in range(12)]
    jobs = [worker.submit(Job(asked(model, **one))) for one in wanted]
    for one, job in zip(wanted, jobs, strict=True):
        assert torch.allclose(job.result(20), model.sample(steps=3, **one).x, atol=2e-4)
    worker.close(5.0)
    assert worker.meter.count("batch_samples") >= sum(len(job.asked) for job in jobs) / 5


def test_glimpses_come_on_the_way_in_order(model: Model, worker: Worker) -> None:
    seen: list[Preview] = []
    job = worker.submit(Job(asked(model, labels="1", num=2), previews=2, watch=seen.append))
    job.result(20)
    assert [one.step for one in seen] == [1, 2] and {one.num_steps for one in seen} == {3}
    assert all(one.x0.shape == (2, 1, 8, 8) for one in seen)


def test_what_waits_beyond_the_queue_is_refused_with_a_time(model: Model) -> None:
    gate = Gate(model)
    worker = Worker(queue=4, linger=0.0)
    first = worker.submit(Job(asked(gate.model, labels="1", num=1)))
    assert gate.entered.wait(10)
    second = worker.submit(Job(asked(gate.model, labels="1", num=3)))
    with pytest.raises(BusyError) as busy:
        worker.submit(Job(asked(gate.model, labels="1", num=2)))
    assert busy.value.seconds >= 1
    gate.is_open.set()
    assert len(first.result(10)) == 1 and len(second.result(10)) == 3
    worker.close(5.0)


def test_a_cancelled_job_stops_at_the_next_step_and_hurts_nobody(model: Model) -> None:
    gate = Gate(model)
    worker = Worker(linger=0.0)
    job = worker.submit(Job(asked(gate.model, labels="1", num=1)))
    waiting = worker.submit(Job(asked(gate.model, labels="1", num=1, sampler="euler")))
    other = worker.submit(Job(asked(gate.model, labels="2", num=1, sampler="ddim")))
    assert gate.entered.wait(10)
    job.cancel()
    waiting.cancel()
    gate.is_open.set()
    with pytest.raises(StoppedError, match="cancelled"):
        job.result(10)
    assert len(other.result(10)) == 1
    assert worker.meter.count("abandoned_batches_total") == 1
    worker.close(5.0)
    assert gate.calls < 3 * 2 + 3, "a cancelled walk went on"


def test_a_late_job_is_given_up_while_another_walks(model: Model) -> None:
    gate = Gate(model)
    worker = Worker(linger=0.0)
    slow = worker.submit(Job(asked(gate.model, labels="1", num=1)))
    late = worker.submit(Job(asked(gate.model, labels="1", num=1, sampler="ddim"), timeout=0.01))
    assert gate.entered.wait(10)
    time.sleep(0.02)
    gate.is_open.set()
    with pytest.raises(StoppedError, match=r"0\.01 s"):
        late.result(10)
    assert len(slow.result(10)) == 1
    worker.close(5.0)


def test_an_error_hits_the_guilty_alone(model: Model) -> None:
    """Three jobs share a batch in which the second one's condition makes the net fail."""

    @dataclass(frozen=True, kw_only=True)
    class Picky(Wrapped):
        label: Tensor | None = None

        def given(self, cond: Any) -> Picky:
            return replace(self, inner=self.inner.given(cond), label=cond)  # type: ignore[attr-defined]

        def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
            if self.label is not None and bool((self.label == 7).any()):
                raise ValueError("seven is not drawn here.")
            return self.inner(x_t, t)

    picky = model.with_denoiser(Picky(inner=model.denoiser))
    worker = Worker(linger=0.1)
    jobs = [worker.submit(Job(asked(picky, labels=label, num=1))) for label in ("3", "7", "4")]
    with pytest.raises(ValueError, match="seven"):
        jobs[1].result(10)
    for job, label in ((jobs[0], "3"), (jobs[2], "4")):
        assert torch.allclose(job.result(10), model.sample(labels=label, num=1, steps=3).x, atol=2e-4)
    worker.close(5.0)


def test_samples_that_are_not_finite_are_said_to_be(model: Model, worker: Worker) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Broken(Wrapped):
        def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
            return self.inner(x_t, t).each(lambda x: x * torch.nan)

    job = worker.submit(Job(asked(model.with_denoiser(Broken(inner=model.denoiser)), labels="1", num=1)))
    with pytest.raises(ConfigError, match="not finite"):
        job.result(10)


def kill(worker: Worker) -> None:
    """Raise SystemExit in the worker's thread, as close to its death as Python comes."""
    number = worker.thread.ident
    assert number is not None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(number), ctypes.py_object(SystemExit))


def test_a_worker_that_dies_is_replaced_and_no_answer_is_lost_or_mixed_up(model: Model) -> None:
    said: list[str] = []
    gate = Gate(model)
    worker = Worker(batch_size=3, linger=0.0, say=said.append)
    wanted = [{"labels": str(i), "num": 2, "seed": i} for i in range(6)]
    jobs = [worker.submit(Job(asked(gate.model, **one))) for one in wanted]
    assert gate.entered.wait(10)
    kill(worker)
    gate.is_open.set()
    for one, job in zip(wanted, jobs, strict=True):
        assert torch.allclose(job.result(20), model.sample(steps=3, **one).x, atol=2e-4)
    assert worker.meter.count("worker_restarts_total") == 1 and "SystemExit" in said[0]
    assert worker.is_alive
    worker.close(5.0)


def test_an_answer_that_nobody_told_of_is_given_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that died between giving it and telling of it left a client waiting for ever, one in 10,000."""
    pytest.importorskip("fastapi")
    import asyncio

    from ebbflow.studio import desk

    class Mute(Future[Tensor]):
        def add_done_callback(self, fn: Callable[[Future[Tensor]], object]) -> None:
            pass

    job = SimpleNamespace(answer=Mute(), is_open=False, cancel=lambda why: None)
    job.answer.set_result(torch.ones(1))
    monkeypatch.setattr(desk, "UNTOLD", 0.01)

    async def given() -> list[Any]:
        forever = asyncio.Queue[Any]()
        told = [one async for one in desk.Desk.follow(SimpleNamespace(), job, forever)]  # type: ignore[arg-type]
        asked = desk.Desk.answer(
            SimpleNamespace(submit=lambda question: job), None, SimpleNamespace(receive=forever.get)
        )  # type: ignore[arg-type]
        return [*told, await asked]

    assert asyncio.run(asyncio.wait_for(given(), 30)) == [torch.ones(1)] * 2


def test_what_kills_every_worker_is_held_guilty(model: Model) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Deadly(Wrapped):
        def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
            raise SystemExit

    worker = Worker(linger=0.0)
    job = worker.submit(Job(asked(model.with_denoiser(Deadly(inner=model.denoiser)), labels="1", num=1)))
    with pytest.raises(RuntimeError, match="died"):
        job.result(10)
    good = worker.submit(Job(asked(model, labels="1", num=1)))
    assert len(good.result(10)) == 1
    assert worker.meter.count("worker_restarts_total") == 3
    worker.close(5.0)


def test_closing_finishes_what_was_taken_and_takes_no_more(model: Model) -> None:
    worker = Worker(batch_size=2, linger=0.0)
    jobs = [worker.submit(Job(asked(model, labels="1", num=2, seed=i))) for i in range(4)]
    worker.close(20.0)
    assert all(len(job.result(0)) == 2 for job in jobs) and not worker.is_alive
    with pytest.raises(StoppedError, match="shutting down"):
        worker.submit(Job(asked(model, labels="1", num=1)))


def test_closing_gives_up_what_is_not_done_in_time(model: Model) -> None:
    gate = Gate(model)
    worker = Worker(linger=0.0)
    jobs = [worker.submit(Job(asked(gate.model, labels="1", num=1, sampler=s))) for s in ("ddim", "euler")]
    assert gate.entered.wait(10)
    threading.Timer(0.2, gate.is_open.set).start()
    worker.close(0.05)
    for job in jobs:
        with pytest.raises(StoppedError, match="shut down"):
            job.result(5)
