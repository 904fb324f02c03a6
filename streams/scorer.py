"""The micro-batcher: takes what is queued whenever the encoder is free, never waits for a batch to fill.

Inference runs in one thread of its own (torch releases the interpreter lock in its kernels), so that the event loop
is never blocked. Whatever goes wrong, an answer comes before the deadline: a score, or why there is none.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple, Protocol

import structlog

from models.deciding import Failed
from models.encoder.base import Score
from models.events import Response
from streams.metrics import Metrics

CHARS_PER_TOKEN: Final = 4
"""Of English text in WordPiece, about; it only sizes batches."""

log = structlog.get_logger(__name__)


class Encodes(Protocol):
    """What the batcher needs of an encoder."""

    model_hash: str

    def score(self, responses: Sequence[Response]) -> list[Score]:
        """Score responses, in order."""


class _Job(NamedTuple):
    response: Response
    answer: "asyncio.Future[Score | Failed]"


class Scorer:
    """Scores responses in batches of up to `budget` tokens, each within `deadline_s`."""

    def __init__(self, encoder: Encodes, metrics: Metrics, *, budget: int = 2048, deadline_s: float = 2.0) -> None:
        self._encoder = encoder
        self._metrics = metrics
        self._budget = budget
        self._deadline_s = deadline_s
        self._queue: deque[_Job] = deque()
        self._thread = ThreadPoolExecutor(1, "encoder")
        self._working: asyncio.Task[None] | None = None

    @property
    def model_hash(self) -> str:
        """The encoder's."""
        return self._encoder.model_hash

    async def score(self, response: Response) -> Score | Failed:
        """Return the score of a response, or why there is none in time."""
        job = _Job(response, asyncio.get_running_loop().create_future())
        self._queue.append(job)
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        try:
            async with asyncio.timeout(self._deadline_s):
                return await job.answer
        except TimeoutError:
            return Failed("deadline_missed")

    def close(self) -> None:
        """End the thread; a batch under way is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        while batch := self._take():
            self._metrics.batch_size.observe(len(batch))
            with self._metrics.scoring_seconds.time():
                answers = await self._answers([job.response for job in batch])
            for job, answer in zip(batch, answers, strict=True):
                if not job.answer.done():
                    job.answer.set_result(answer)

    def _take(self) -> list[_Job]:
        """Take jobs up to the budget; one that is larger alone passes alone; nobody waits any more for the late."""
        batch: list[_Job] = []
        spent = 0
        while self._queue and (not batch or spent < self._budget):
            job = self._queue.popleft()
            if not job.answer.done():
                batch.append(job)
                spent += (len(job.response.query) + len(job.response.response or "")) // CHARS_PER_TOKEN
        return batch

    async def _answers(self, responses: list[Response]) -> Sequence[Score | Failed]:
        """Score a batch; when it fails, each alone, so that one text cannot spoil its neighbours."""
        try:
            return await self._run(responses)
        except Exception as error:  # noqa: BLE001 (out of memory, a kernel's failure: no score, never a crash)
            log.warning("the encoder failed", error=type(error).__name__, batch=len(responses))
            if len(responses) == 1:
                return [Failed(f"model_error: {type(error).__name__}")]
        return [answer for r in responses for answer in await self._answers([r])]

    async def _run(self, responses: list[Response]) -> list[Score]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._encoder.score, responses)
