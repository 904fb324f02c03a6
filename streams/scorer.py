"""The micro-batcher: takes what is queued whenever the encoder is free, never waits for a batch to fill.

Tokenising and inference have one thread of their own (their libraries release the interpreter lock), so that the event
loop is never blocked. Whatever goes wrong, an answer comes before the deadline: a score, or why there is none. Who
finds the queue full waits outside, within the same deadline: an agent then takes no further events from Kafka.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count, islice
from threading import Event, Lock, Thread
from time import monotonic
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import structlog

from models.deciding import Failed
from models.encoder.base import Prepared, Score
from models.errors import EncoderHung
from models.events import Response
from streams.metrics import Metrics

QUEUED: Final = 1024
"""Responses in the queue, at most; an agent has no more than a batch of them there."""
CHUNK: Final = 64
"""Responses tokenised at once, at most: a call of the encoder is not kept waiting for more than it can take."""
SHARE: Final = 0.25
"""Of the deadline that one call may take, as far as the last ones tell: who comes during it must have time left."""
PATIENCE: Final = 10
"""Deadlines after which an encoder that has not answered never will."""

T = TypeVar("T")
log = structlog.get_logger(__name__)


class Encodes(Protocol):
    """What the batcher needs of an encoder."""

    model_hash: str

    def prepare(self, responses: Sequence[Response]) -> list[Any]:
        """Tokenise: one `Prepared` a response."""

    def infer(self, prepared: Sequence[Any]) -> list[Score]:
        """Score what was prepared, in order."""


class _Job(NamedTuple):
    response: Response
    answer: "asyncio.Future[Score | Failed]"


class _Ready(NamedTuple):
    job: _Job
    prepared: Prepared


class Scorer:
    """Scores responses in batches of up to `budget` tokens, each within `deadline_s`."""

    def __init__(self, encoder: Encodes, metrics: Metrics, *, budget: int = 2048, deadline_s: float = 2.0) -> None:
        self._encoder = encoder
        self._metrics = metrics
        self._budget = budget
        self._deadline_s = deadline_s
        self._room = asyncio.Semaphore(QUEUED)
        self._numbers = count()
        self._queue: dict[int, _Job] = {}
        self._lock = Lock()
        self._wake = Event()
        self._closed = False
        self._pace = float("inf")  # tokens a second
        self._called_at: float | None = None
        metrics.queue.set_function(lambda: len(self._queue))
        self._thread = Thread(target=self._serve, name="encoder", daemon=True)  # one that hangs must not keep us alive
        self._thread.start()

    @property
    def model_hash(self) -> str:
        """The encoder's."""
        return self._encoder.model_hash

    @property
    def hangs(self) -> bool:
        """Whether the encoder has been silent for so long that it will not answer."""
        called_at = self._called_at
        late = called_at is not None and monotonic() - called_at > PATIENCE * self._deadline_s
        return late or not (self._thread.is_alive() or self._closed)

    async def score(self, response: Response) -> Score | Failed:
        """Return the score of a response, or why there is none in time."""
        return (await self.score_all([response]))[0]

    async def score_all(self, responses: Sequence[Response]) -> list[Score | Failed]:
        """Return the score of each response, or why there is none in time."""
        if self._closed:
            return [Failed("shutting_down")] * len(responses)
        answers: list[asyncio.Future[Score | Failed]] = []
        with suppress(TimeoutError):
            async with asyncio.timeout(self._deadline_s):
                await self._queue_all(responses, answers)
        late = Failed("deadline_missed")
        given = [late if answer.cancelled() else answer.result() for answer in answers]
        return given + [late] * (len(responses) - len(given))

    async def watch(self) -> None:
        """Raise `EncoderHung` once it does: the worker ends, and another takes over."""
        while not self.hangs:  # noqa: ASYNC110 (no event tells of an encoder that does nothing)
            await asyncio.sleep(self._deadline_s)
        raise EncoderHung(f"the encoder has not answered for {PATIENCE * self._deadline_s:g} s: start the worker again")

    def close(self) -> None:
        """Answer what is queued, then end the thread; nobody waits for it here."""
        self._closed = True
        self._wake.set()

    async def _queue_all(self, responses: Sequence[Response], answers: "list[asyncio.Future[Score | Failed]]") -> None:
        """Queue responses as there is room, and wait for their answers; a text that nobody waits for is not kept."""
        loop, numbers = asyncio.get_running_loop(), []
        try:
            for response in responses:
                await self._room.acquire()
                answers.append(loop.create_future())
                answers[-1].add_done_callback(self._leave)
                numbers.append(number := next(self._numbers))
                with self._lock:
                    self._queue[number] = _Job(response, answers[-1])
                if not self._wake.is_set():
                    self._wake.set()
            await asyncio.gather(*answers)
        finally:
            with self._lock:
                for number in numbers:
                    self._queue.pop(number, None)
            for answer in answers:
                answer.cancel()

    def _leave(self, _: Any) -> None:
        self._room.release()

    def _serve(self) -> None:
        """Live in the thread."""
        ready: deque[_Ready] = deque()
        while not self._closed:
            self._wake.wait()
            self._wake.clear()
            while ready or self._queue:
                if batch := self._next(ready):
                    self._score(batch)

    def _next(self, ready: deque[_Ready]) -> list[_Ready]:
        """Take what is next, up to the budget; one that is larger alone passes alone; nobody waits for the late."""
        budget = min(self._budget, self._pace * SHARE * self._deadline_s)
        self._fill(ready)
        batch: list[_Ready] = []
        spent = 0
        while ready and (not batch or spent + ready[0].prepared.size <= budget):
            if not (found := ready.popleft()).job.answer.done():
                batch.append(found)
                spent += found.prepared.size
        return batch

    def _fill(self, ready: deque[_Ready]) -> None:
        """Tokenise until a batch is full or the queue is empty."""
        while sum(found.prepared.size for found in ready) < self._budget and (jobs := self._pull()):
            prepared = self._each(self._encoder.prepare, [job.response for job in jobs])
            for job, found in zip(jobs, prepared, strict=True):
                if isinstance(found, Failed):
                    _answer([(job, found)])
                else:
                    ready.append(_Ready(job, found))

    def _pull(self) -> list[_Job]:
        with self._lock:
            return [self._queue.pop(number) for number in list(islice(self._queue, CHUNK))]

    def _score(self, batch: Sequence[_Ready]) -> None:
        start = monotonic()
        answers = self._each(self._encoder.infer, [found.prepared for found in batch])
        seconds = monotonic() - start
        self._pace = sum(found.prepared.size for found in batch) / max(seconds, 1e-6)
        self._metrics.batch_size.observe(len(batch))
        self._metrics.scoring_seconds.observe(seconds)
        _answer([(found.job, answer) for found, answer in zip(batch, answers, strict=True)])

    def _each(self, work: Callable[[list[Any]], Sequence[T]], items: list[Any]) -> Sequence[T | Failed]:
        """Work on a batch; when it fails, on each alone, so that one text cannot spoil its neighbours."""
        self._called_at = monotonic()
        try:
            done = work(items)
            if len(done) == len(items):
                return done
            name = "AnswersMissing"
        except Exception as error:  # noqa: BLE001 (out of memory, a kernel's failure: no score, never a crash)
            name = type(error).__name__
        finally:
            self._called_at = None
        log.warning("the encoder failed", error=name, batch=len(items))
        if len(items) == 1:
            return [Failed(f"model_error: {name}")]
        return [answer for item in items for answer in self._each(work, [item])]


def _answer(answers: Sequence[tuple[_Job, Score | Failed]]) -> None:
    """Hand answers over to the event loop that waits for them; it may be gone."""
    for loop in {job.answer.get_loop() for job, _ in answers}:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, [pair for pair in answers if pair[0].answer.get_loop() is loop])


def _settle(answers: Sequence[tuple[_Job, Score | Failed]]) -> None:
    for job, answer in answers:
        if not job.answer.done():
            job.answer.set_result(answer)
