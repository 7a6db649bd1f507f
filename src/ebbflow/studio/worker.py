"""The worker: one thread for a device, which walks what waits in batches of whatever may walk together."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from ebbflow.data import to_uint8
from ebbflow.errors import ConfigError
from ebbflow.methods.samplers import Step
from ebbflow.studio.meter import Meter
from ebbflow.studio.together import Asked, finished, walk_together

LIVES = 3  # batches of a job that may take a worker down before the job is held guilty
NUMBERS = itertools.count(1)


class BusyError(Exception):
    """So much waits already that no more is taken; `seconds` is when to ask again."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"the server is busy. Ask again in {seconds} s.")
        self.seconds = seconds


class StoppedError(Exception):
    """It was cancelled, took too long, or the worker was shut down."""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What some samples of a job look like on their way: E[x0 | x] after `step` of `num_steps`, (N, *dims) decoded;
    the first of them is sample `first` of the job."""

    first: int
    step: int
    num_steps: int
    x0: Tensor


class Job:
    """Something asked, on its way to be answered.

    Args:
        asked: what.
        previews: how many glimpses of the way are wanted, spread evenly over it.
        watch: is given them, on the worker's thread; must return at once.
        timeout: seconds until it is given up.
    """

    def __init__(
        self,
        asked: Asked,
        *,
        previews: int = 0,
        watch: Callable[[Preview], None] = lambda preview: None,
        timeout: float = 300.0,
    ) -> None:
        self.asked, self.watch, self.timeout = asked, watch, timeout
        self.answer: Future[Tensor] = Future()
        self.began = time.monotonic()
        self.lives, self.is_alone = LIVES, False
        self.number = next(NUMBERS)
        self._parts: dict[int, Tensor] = {}
        steps = asked.num_steps
        self._shown = {round((i + 1) * steps / (previews + 1)) for i in range(previews)} - {0, steps}

    def result(self, timeout: float | None = None) -> Tensor:
        """The samples, float32 (N, *dims), when they are there.

        Raises:
            StoppedError: cancelled, too late, or shut down.
            Exception: whatever went wrong.
        """
        return self.answer.result(timeout)

    def cancel(self, why: str = "cancelled") -> None:
        """Give it up: what waits is dropped, what walks with nobody else stops at the next step."""
        self.fail(StoppedError(why))

    def fail(self, error: BaseException) -> None:
        """Answer with an error, unless it is answered."""
        with suppress(InvalidStateError):  # answered in the meantime
            self.answer.set_exception(error)

    @property
    def is_open(self) -> bool:
        """Whether an answer is still wanted; gives it up where its time is over."""
        if not self.answer.done() and time.monotonic() - self.began > self.timeout:
            self.cancel(f"not done within {self.timeout:g} s")
        return not self.answer.done()

    @property
    def company(self) -> tuple[object, ...]:
        """Equal where parts of jobs may walk together."""
        return (*self.asked.company, self.number if self.is_alone else None)

    def wants(self, step: int) -> bool:
        """Whether a glimpse is wanted after so many steps."""
        return step in self._shown

    def add(self, first: int, x: Tensor) -> bool:
        """Take in finished samples, the first of which is number `first`; True where they were the last."""
        self._parts[first] = x
        if sum(map(len, self._parts.values())) < len(self.asked):
            return False
        with suppress(InvalidStateError):
            self.answer.set_result(torch.cat([self._parts[key] for key in sorted(self._parts)]))
        return True


@dataclass(frozen=True, kw_only=True)
class Part:
    """Samples `start` to `stop` of a job."""

    job: Job
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def asked(self) -> Asked:
        """What is asked of them."""
        return self.job.asked.rows(self.start, self.stop)

    def is_in(self, other: Part) -> bool:
        """Whether all its samples are among those of another part."""
        return self.job is other.job and other.start <= self.start and self.stop <= other.stop

    def split(self, num: int) -> tuple[Part, Part]:
        """Its first `num` samples, and the others."""
        middle = self.start + num
        return Part(job=self.job, start=self.start, stop=middle), Part(job=self.job, start=middle, stop=self.stop)


class Worker:
    """Answers jobs in batches, oldest first.

    A batch is the oldest part that waits and every other one of its company, as far as there is room. An error in a
    batch of several is tried again job by job, so that it hits the guilty one alone. A thread that dies is counted,
    its batch goes back to the front, and another thread takes over.

    Args:
        batch_size: samples that walk together at most.
        queue: samples that may wait; beyond it `submit` refuses.
        linger: seconds that a batch which is not full waits for company.
        together: whether jobs share batches; False walks each alone.
        meter: counts what happens.
        say: is told what an operator should know.
    """

    def __init__(
        self,
        *,
        batch_size: int = 64,
        queue: int = 512,
        linger: float = 0.004,
        together: bool = True,
        meter: Meter | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.batch_size, self.queue, self.linger, self.together = batch_size, queue, linger, together
        self.meter, self.say = meter or Meter(), say
        self._waiting: deque[Part] = deque()
        self._walking: list[Part] = []
        self._change = threading.Condition()
        self._is_open, self._is_idle = True, threading.Event()
        self._rate = 0.0  # samples a second, lately
        self._start()

    def submit(self, job: Job) -> Job:
        """Put a job into the queue.

        Raises:
            BusyError: too many samples wait.
            StoppedError: the worker was closed.
        """
        with self._change:
            if not self._is_open:
                raise StoppedError("shutting down")
            if self._waiting and self.num_waiting + len(job.asked) > self.queue:
                raise BusyError(self._seconds())
            if not self.thread.is_alive():
                self._start()
            job.is_alone = not self.together
            self._waiting.append(Part(job=job, start=0, stop=len(job.asked)))
            self._change.notify_all()
        return job

    @property
    def num_waiting(self) -> int:
        """Samples that wait."""
        return sum(map(len, self._waiting))

    @property
    def is_alive(self) -> bool:
        """Whether its thread runs."""
        return self.thread.is_alive()

    def close(self, grace: float = 30.0) -> None:
        """Take nothing more, finish what was taken within `grace` seconds, and give up what is left."""
        with self._change:
            self._is_open = False
            self._change.notify_all()
        self._is_idle.wait(grace)
        with self._change:
            for part in (*self._waiting, *self._walking):
                part.job.cancel("shut down")
            self._waiting.clear()
            self._change.notify_all()
        self.thread.join(grace)

    def _seconds(self) -> int:
        """When there may be room again."""
        return 1 if self._rate == 0 else max(1, min(60, round(self.num_waiting / self._rate)))

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self.thread = threading.Thread(target=self._live, name="ebbflow-worker", daemon=True)
        self.thread.start()

    def _live(self) -> None:
        try:
            while batch := self._next():
                self._walk(batch)
            self._is_idle.set()
        except BaseException as error:  # the thread dies of it
            self._died(error)

    def _died(self, error: BaseException) -> None:
        """Report it, put back what it held, and let another thread take over."""
        self.meter.add("worker_restarts_total")
        self.say(f"the worker died of {type(error).__name__}: {error}; another one takes over")
        with self._change:
            for job in {id(part.job): part.job for part in self._walking}.values():
                job.lives -= 1
                if job.lives == 0:
                    job.fail(error if isinstance(error, Exception) else RuntimeError("the worker died of it"))
            self._put_back()
        self._start()

    def _put_back(self) -> None:
        """To the front with what walked and is still wanted, unless it stands there: death may come between any two
        lines."""
        back = [part for part in self._walking if part.job.is_open and not any(map(part.is_in, self._waiting))]
        self._waiting.extendleft(reversed(back))
        self._walking = []

    def _next(self) -> list[Part]:
        """The next batch, when there is one; none when the worker is closed and nothing waits."""
        with self._change:
            while self._is_open or self._waiting:
                if not self._drop_closed():
                    self._change.wait(1.0 if self._is_open else 0.0)
                    continue
                self._await_company()
                if self._drop_closed():
                    return self._take()
        return []

    def _await_company(self) -> None:
        until = time.monotonic() + self.linger
        while self._is_open and self._fitting() < self.batch_size and (left := until - time.monotonic()) > 0:
            self._change.wait(left)

    def _drop_closed(self) -> bool:
        """Forget what is not wanted any more; whether anything waits still."""
        self._waiting = deque(part for part in self._waiting if part.job.is_open)
        return bool(self._waiting)

    def _fitting(self) -> int:
        company = self._waiting[0].job.company if self._waiting else None
        return sum(len(part) for part in self._waiting if part.job.company == company)

    def _take(self) -> list[Part]:
        """The oldest part and its company, out of the queue."""
        company, room = self._waiting[0].job.company, self.batch_size
        taken, left = [], deque[Part]()
        for part in self._waiting:
            if room == 0 or part.job.company != company:
                left.append(part)
                continue
            now, later = part.split(min(room, len(part)))
            taken.append(now)
            room -= len(now)
            if len(later):
                left.append(later)
        self._walking, self._waiting = taken, left
        return taken

    def _walk(self, batch: Sequence[Part]) -> None:
        began, num = time.monotonic(), sum(map(len, batch))
        try:
            done = self._steps(batch)
        except Exception as error:
            self._failed(batch, error)
            return
        self._walking = []
        seconds = time.monotonic() - began
        if done:
            self._rate = num / seconds if self._rate == 0 else 0.8 * self._rate + 0.2 * num / seconds
            self.meter.observe("batch_samples", num)
            self.meter.observe("batch_seconds", seconds)

    def _failed(self, batch: Sequence[Part], error: Exception) -> None:
        """Of several jobs each is tried alone; a single one is answered with the error."""
        jobs = {id(part.job): part.job for part in batch}.values()
        with self._change:
            if len(jobs) == 1:
                next(iter(jobs)).fail(error)
            for job in jobs:
                job.is_alone = True
            self._put_back()

    def _steps(self, batch: Sequence[Part]) -> bool:
        """Walk a batch and hand out what comes; False where nobody wanted the end of it."""
        steps = walk_together([part.asked for part in batch])
        num_steps, step = batch[0].job.asked.num_steps, None
        for number, step in enumerate(steps, start=1):
            if not any(part.job.is_open for part in batch):
                self.meter.add("abandoned_batches_total")
                return False
            with self._change:
                self._drop_closed()  # what has waited too long
            for part, rows in _rows(batch):
                if part.job.is_open and part.job.wants(number):
                    self._show(part, step.estimate.x0[rows], number, num_steps)
        assert step is not None
        self._hand_out(batch, step)
        return True

    def _show(self, part: Part, x0: Tensor, step: int, num_steps: int) -> None:
        shown = finished(part.job.asked, part.job.asked.model.decode(x0))
        part.job.watch(Preview(first=part.start, step=step, num_steps=num_steps, x0=shown))

    def _hand_out(self, batch: Sequence[Part], step: Step) -> None:
        for part, rows in _rows(batch):
            x = step.x[rows]
            if not bool(x.isfinite().all()):
                part.job.fail(not_finite(part.job.asked))
            elif part.job.is_open and part.job.add(
                part.start, finished(part.job.asked, part.job.asked.model.decode(x))
            ):
                self.meter.add("samples_total", len(part.job.asked), model=part.job.asked.model.name)


def _rows(batch: Sequence[Part]) -> Iterator[tuple[Part, slice]]:
    """Each part with its place in the batch."""
    start = 0
    for part in batch:
        yield part, slice(start, start + len(part))
        start += len(part)


def not_finite(asked: Asked) -> ConfigError:
    """The error for samples of which a picture would show nothing."""
    return ConfigError(
        f"the samples of seed {asked.plan.seeds[0]} and on are not finite. Lower `guidance`, or choose another "
        "`sampler` or number of `steps`."
    )


def as_images(x: Tensor) -> Tensor:
    """Samples in [-1, 1] as uint8 (N, C, H, W)."""
    return to_uint8(x.clamp(-1, 1))
