"""The micro-batcher: takes what is queued whenever the encoder is free, never waits for a batch to fill.

Tokenising and inference have a thread each (their libraries release the interpreter lock), so that neither waits for
the other, nor the event loop for either. Whatever goes wrong, an answer comes before the deadline: a score, or why
there is none. What bounds the queue in a worker is its agent, which takes no further events from Kafka while
`MAX_CONCURRENT_BATCHES` of up to `BATCH` responses are under way. Who asks for more, and finds the queue full, waits
outside, within the same deadline.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count, islice
from threading import Condition, Lock, Thread
from time import monotonic
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import structlog

from models.deciding import Failed
from models.encoder.base import Prepared, Score
from models.errors import EncoderHung
from models.events import Decision, Response
from streams.metrics import Metrics

QUEUED: Final = 1024
"""Responses in the queue, at most; an agent has no more than half as many there."""
CHUNK: Final = 64
"""Responses tokenised at once, at most: a call of the encoder is not kept waiting for more than it can take."""
SHARE: Final = 0.25
"""Of the deadline that one call may take, as far as the last ones tell: who comes during it must have time left."""
CALL_S: Final = 0.2
"""Seconds of a call, at most, unless many wait: everybody in it waits for all of it."""
UNKNOWN: Final = 8.0
"""Responses a second, until the first call tells: so many a large model scores on a core without AMX."""
PATIENCE: Final = 10
"""Deadlines after which an encoder that has not answered, or has only failed, will not score again."""
FAILURES: Final = 32
"""Texts in a row that it failed on, each alone: so many are not all at fault themselves."""

Decide = Callable[[Response, Score | Failed], Decision]
RoundingCheck = Callable[[Decision, float], bool]

T = TypeVar("T")
log = structlog.get_logger(__name__)


class Encodes(Protocol):
    """What the batcher needs of an encoder."""

    model_hash: str

    @property
    def rounding(self) -> float:
        """Logits by which `infer` may be off."""

    def prepare(self, responses: Sequence[Response]) -> list[Any]:
        """Tokenise: one `Prepared` a response."""

    def infer(self, prepared: Sequence[Any]) -> list[Score]:
        """Score what was prepared, in order."""

    def infer_exactly(self, prepared: Sequence[Any]) -> list[Score]:
        """The same, without rounding."""


class _Ask:
    """What was asked for at once, in the event loop that waits for it: a future each would cost more than the rest."""

    def __init__(self, count: int, room: asyncio.Semaphore, door: asyncio.Lock) -> None:
        self.loop = asyncio.get_running_loop()
        self.over = self.loop.create_future()
        self.answers: list[Score | Failed | None] = [None] * count
        self._missing = count
        self._room, self._door = room, door
        self._held = 0

    async def enter(self, count: int) -> None:
        """Wait until there is room for so many more; one at a time, or each would hold what the others wait for."""
        async with self._door:
            for _ in range(count):
                await self._room.acquire()
                self._held += 1

    def give(self, place: int, answer: Score | Failed) -> None:
        """Note an answer, unless nobody waits any more."""
        if self.over.done():
            return
        self.answers[place] = answer
        self._leave(1)
        self._missing -= 1
        if not self._missing:
            self.over.set_result(None)

    def end(self) -> None:
        """Nobody waits any more."""
        self.over.cancel()
        self._leave(self._held)

    def _leave(self, count: int) -> None:
        self._held -= count
        for _ in range(count):
            self._room.release()


class _Job(NamedTuple):
    response: Response
    exactly: bool
    ask: _Ask
    place: int


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
        self._room, self._door = asyncio.Semaphore(QUEUED), asyncio.Lock()
        self._numbers = count()
        self._queue: dict[int, _Job] = {}
        self._ready: deque[_Ready] = deque()
        self._tokenising = False
        self._closed = False
        lock = Lock()  # guards these four
        self._asked, self._freed, self._made = Condition(lock), Condition(lock), Condition(lock)
        self._pace = float("inf")  # tokens a second
        self._rate = UNKNOWN
        self._called_at: dict[Callable[..., Any], float] = {}
        self._failing: dict[Callable[..., Any], tuple[int, float]] = {}  # in a row, and since when
        metrics.queue.set_function(lambda: len(self._queue))
        works = {"tokeniser": self._tokenise, "encoder": self._encode}
        self._threads = [Thread(target=work, name=name, daemon=True) for name, work in works.items()]
        for thread in self._threads:  # daemons: one that hangs must not keep us alive
            thread.start()

    @property
    def model_hash(self) -> str:
        """The encoder's."""
        return self._encoder.model_hash

    @property
    def ready_for(self) -> int:
        """How many responses it answers within `SHARE` of the deadline, as far as the last call tells."""
        return max(1, int(min(QUEUED, self._rate * SHARE * self._deadline_s)))

    @property
    def ready_for_tokens(self) -> float:
        """The same in tokens."""
        return self._pace * SHARE * self._deadline_s

    @property
    def hangs(self) -> bool:
        """Whether the encoder has been silent, or has failed on all that it was given, for so long that it is lost."""
        long_ago = monotonic() - PATIENCE * self._deadline_s
        silent = any(called_at < long_ago for called_at in list(self._called_at.values()))
        fails = any(n >= FAILURES and since < long_ago for n, since in list(self._failing.values()))
        return silent or fails or not (self._closed or all(thread.is_alive() for thread in self._threads))

    async def score(self, response: Response) -> Score | Failed:
        """Return the score of a response, or why there is none in time."""
        return (await self._score_all([response], self._deadline()))[0]

    async def decide_all(
        self, responses: Sequence[Response], decide: Decide, is_rounding_sensitive: RoundingCheck
    ) -> list[Decision]:
        """Score responses and decide on them; where a tier hangs on rounding, do both again exactly, all in time."""
        until = self._deadline()
        decisions = [decide(*pair) for pair in zip(responses, await self._score_all(responses, until), strict=True)]
        tolerance = self._encoder.rounding
        again = (
            [n for n, decision in enumerate(decisions) if is_rounding_sensitive(decision, tolerance)]
            if tolerance
            else []
        )
        exact = await self._score_all([responses[n] for n in again], until, exactly=True) if again else []
        for n, score in zip(again, exact, strict=True):
            decisions[n] = decide(responses[n], score)
        return decisions

    async def _score_all(
        self, responses: Sequence[Response], until: float, *, exactly: bool = False
    ) -> list[Score | Failed]:
        """Return the score of each response, or why there is none in time."""
        if self._closed or not responses:
            return [Failed("shutting_down")] * len(responses)
        ask = _Ask(len(responses), self._room, self._door)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._queue_all(ask, [_Job(r, exactly, ask, n) for n, r in enumerate(responses)])
        late = Failed("deadline_missed")
        return [late if answer is None else answer for answer in ask.answers]

    async def watch(self) -> None:
        """Raise `EncoderHung` once it does: the worker ends, and another takes over."""
        while not self.hangs:  # noqa: ASYNC110 (no event tells of an encoder that does nothing)
            await asyncio.sleep(self._deadline_s)
        raise EncoderHung(
            f"the encoder has scored nothing for {PATIENCE * self._deadline_s:g} s: start the worker again"
        )

    def close(self) -> None:
        """Answer what is queued, then end the threads; nobody waits for it here."""
        with self._asked:
            self._closed = True
            for condition in (self._asked, self._freed, self._made):
                condition.notify()

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._deadline_s

    async def _queue_all(self, ask: _Ask, jobs: Sequence[_Job]) -> None:
        """Queue jobs as there is room, and wait for their answers; a text that nobody waits for is not kept."""
        numbers: list[int] = []
        try:
            for start in range(0, len(jobs), CHUNK):
                part = jobs[start : start + CHUNK]
                await ask.enter(len(part))
                numbered = {number: job for job, number in zip(part, self._numbers, strict=False)}
                numbers += numbered
                with self._asked:
                    self._queue.update(numbered)
                    self._asked.notify()
            await ask.over
        finally:
            with self._asked:
                for number in numbers:
                    self._queue.pop(number, None)
            ask.end()

    def _tokenise(self) -> None:
        """Live in the one thread: tokenise what is queued until as much as a batch is ready."""
        while jobs := self._pull():
            prepared = self._each(self._encoder.prepare, [job.response for job in jobs])
            pairs = list(zip(jobs, prepared, strict=True))
            with self._made:
                self._ready.extend(_Ready(job, found) for job, found in pairs if not isinstance(found, Failed))
                self._tokenising = False
                self._made.notify()
            _answer([(job, found) for job, found in pairs if isinstance(found, Failed)])

    def _pull(self) -> list[_Job]:
        """Wait for jobs; none: closed."""
        jobs: list[_Job] = []
        with self._asked:
            while not jobs and (self._queue or not self._closed):
                if not self._queue:
                    self._asked.wait()
                elif self._has_full_call():
                    self._freed.wait()
                else:
                    jobs = [self._queue.pop(number) for number in list(islice(self._queue, CHUNK))]
            self._tokenising = bool(jobs)
            self._made.notify()  # it may be over
        return jobs

    def _encode(self) -> None:
        """Live in the other thread."""
        while batch := self._next():
            for exactly in (False, True):
                if part := [found for found in batch if found.job.exactly is exactly]:
                    self._score(part, exactly=exactly)

    def _next(self) -> list[_Ready]:
        """Wait for a batch; none: closed, and all is answered."""
        batch: list[_Ready] = []
        with self._made:
            while not batch and not self._over():
                if not self._ready:
                    self._made.wait()
                batch = self._take()
                self._freed.notify()
        return batch

    def _over(self) -> bool:
        return self._closed and not (self._queue or self._tokenising or self._ready)

    def _take(self) -> list[_Ready]:
        """Take what is next, up to the budget; one that is larger alone passes alone; nobody waits for the late."""
        budget = self._limit()
        batch: list[_Ready] = []
        spent = 0
        while self._ready and (not batch or spent + self._ready[0].prepared.size <= budget):
            if not (found := self._ready.popleft()).job.ask.over.done():
                batch.append(found)
                spent += found.prepared.size
        return batch

    def _limit(self) -> float:
        """Tokens of the next call. Where a full one is ready, many wait: then more a second matters more."""
        seconds = SHARE * self._deadline_s
        return min(self._budget, self._pace * (seconds if self._has_full_call() else min(CALL_S, seconds)))

    def _has_full_call(self) -> bool:
        """Whether as many tokens are ready as a call may hold."""
        return sum(found.prepared.size for found in self._ready) >= self._budget

    def _score(self, batch: Sequence[_Ready], *, exactly: bool) -> None:
        start = monotonic()
        infer = self._encoder.infer_exactly if exactly else self._encoder.infer
        answers = self._each(infer, [found.prepared for found in batch])
        seconds = monotonic() - start
        scored = [found for found, answer in zip(batch, answers, strict=True) if not isinstance(answer, Failed)]
        if scored and not exactly:  # to fail is quick: it says nothing of how much is scored in time
            self._pace = sum(found.prepared.size for found in scored) / max(seconds, 1e-6)
            self._rate = len(scored) / max(seconds, 1e-6)
        self._metrics.batch_responses.observe(len(batch))
        self._metrics.scoring_seconds.observe(seconds)
        _answer([(found.job, answer) for found, answer in zip(batch, answers, strict=True)])

    def _each(self, work: Callable[[list[Any]], Sequence[T]], items: list[Any]) -> Sequence[T | Failed]:
        """Work on a batch; when it fails, on each alone, so that one text cannot spoil its neighbours."""
        self._called_at[work] = monotonic()
        try:
            done = work(items)
            if len(done) == len(items):
                self._failing.pop(work, None)
                return done
            name = "AnswersMissing"
        except Exception as error:  # noqa: BLE001 (out of memory, a kernel's failure: no score, never a crash)
            name = type(error).__name__
        finally:
            del self._called_at[work]
        log.warning("the encoder failed", error=name, batch=len(items))
        if len(items) == 1:
            failures, since = self._failing.get(work, (0, monotonic()))
            self._failing[work] = failures + 1, since
            return [Failed(f"model_error: {name}")]
        return [answer for item in items for answer in self._each(work, [item])]


def _answer(answers: Sequence[tuple[_Job, Score | Failed]]) -> None:
    """Hand answers over to the event loop that waits for them; it may be gone."""
    for loop in {job.ask.loop for job, _ in answers}:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, [pair for pair in answers if pair[0].ask.loop is loop])


def _settle(answers: Sequence[tuple[_Job, Score | Failed]]) -> None:
    for job, answer in answers:
        job.ask.give(job.place, answer)
