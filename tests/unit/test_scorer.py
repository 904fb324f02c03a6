"""The micro-batcher under what hurts it: bursts, huge and tiny texts, an encoder that fails, hangs or dies."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import Any, NamedTuple

import pytest

from models.deciding import Failed
from models.encoder.base import Score
from models.errors import EncoderHung
from models.events import Response
from streams import scorer as module
from streams.metrics import Metrics
from streams.scorer import Scorer
from tests.stagecraft import at

NUMBERS = count()
SCORED = Score(-1.0, truncated=False, unknown=0.0)


class Sized(NamedTuple):
    response: Response
    size: int


class Encoder:
    """Answers at once, unless `gate` is closed; keeps the sizes of its calls."""

    model_hash = "m"
    rounding = 0.0

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.calls: list[list[int]] = []
        self.tokenised: list[int] = []

    def prepare(self, responses: Sequence[Response]) -> list[Any]:
        self.tokenised.append(len(responses))
        return [Sized(response, len(response.query.split())) for response in responses]

    def infer(self, prepared: Sequence[Sized]) -> list[Score]:
        self.entered.set()
        self.gate.wait(30)
        self.calls.append([found.size for found in prepared])
        return [self.one(found.response) for found in prepared]

    def one(self, response: Response) -> Score:
        return SCORED


def asked(query: str = "Dose?") -> Response:
    return Response(
        response_id=f"r{next(NUMBERS)}", conversation_id="c", deployment="d", site="s", query=query, occurred_at=at(0)
    )


def run(encoder: Any, body: Callable[[Scorer], Awaitable[Any]], **how: Any) -> Any:
    async def main() -> Any:
        scorer = Scorer(encoder, Metrics(), **({"deadline_s": 20.0} | how))
        try:
            return await body(scorer)
        finally:
            scorer.close()

    return asyncio.run(asyncio.wait_for(main(), 60))


async def entered(encoder: Encoder) -> None:
    """Wait until a call is under way, without blocking the loop that it must not block either."""
    assert await asyncio.to_thread(encoder.entered.wait, 30)


def test_who_asks_for_nothing_waits_for_nothing() -> None:
    def decide(*_: Any) -> Any:
        pytest.fail("there is nothing to decide on")

    async def body(scorer: Scorer) -> Any:
        return await asyncio.wait_for(scorer.decide_all([], decide, lambda *_: False), 10)

    assert run(Encoder(), body, deadline_s=1e9) == []


def test_the_event_loop_runs_while_the_encoder_works() -> None:
    encoder = Encoder()
    encoder.gate.clear()

    async def body(scorer: Scorer) -> Any:
        answer = asyncio.create_task(scorer.score(asked()))
        await entered(encoder)
        encoder.gate.set()  # had the loop been blocked, this line would never be reached
        return await answer

    assert run(encoder, body) == SCORED


def test_what_came_during_a_call_is_the_next_call_up_to_the_budget_in_real_tokens() -> None:
    encoder = Encoder()
    encoder.gate.clear()

    async def body(scorer: Scorer) -> Any:
        first = asyncio.create_task(scorer.score(asked()))
        await entered(encoder)
        rest = [asyncio.create_task(scorer.score(asked("word " * n))) for n in (3, 3, 3, 50, 1)]
        await asyncio.sleep(0)
        encoder.gate.set()
        return await asyncio.gather(first, *rest)

    assert run(encoder, body, budget=8) == [SCORED] * 6
    assert encoder.calls == [[1], [3, 3], [3], [50], [1]]


def test_a_burst_of_a_hundred_times_the_queue_is_answered_in_bounded_memory() -> None:
    encoder = Encoder()
    seen: list[int] = []

    async def body(scorer: Scorer) -> Any:
        async def watched() -> Any:
            answer = await scorer.score(asked())
            seen.append(len(scorer._queue))
            return answer

        return await asyncio.gather(*(watched() for _ in range(10_000)))

    assert run(encoder, body) == [SCORED] * 10_000
    assert max(seen) <= module.QUEUED
    assert max(encoder.tokenised) <= module.CHUNK
    assert max(map(sum, encoder.calls)) <= 2048


def test_who_asks_for_many_at_once_keeps_no_room_while_waiting_for_more() -> None:
    async def body(scorer: Scorer) -> Any:
        batches = [[asked() for _ in range(module.CHUNK)] for _ in range(40)]
        decide: Any = lambda _, score: score  # noqa: E731
        return await asyncio.gather(*(scorer.decide_all(batch, decide, lambda *_: False) for batch in batches))

    assert run(Encoder(), body, deadline_s=5.0) == [[SCORED] * module.CHUNK] * 40


def test_late_answers_are_failures_and_the_stream_goes_on() -> None:
    encoder = Encoder()
    encoder.gate.clear()

    async def body(scorer: Scorer) -> Any:
        late = await asyncio.gather(*(scorer.score(asked("word " * 200)) for _ in range(3000)))
        kept = len(scorer._queue)
        encoder.gate.set()
        return late, kept, await scorer.score(asked())

    late, kept, after = run(encoder, body, deadline_s=0.5)
    assert set(late) == {Failed("deadline_missed")}
    assert kept == 0
    assert after == SCORED


def test_an_encoder_that_hangs_ends_the_worker() -> None:
    encoder = Encoder()
    encoder.gate.clear()

    async def body(scorer: Scorer) -> Any:
        watching = asyncio.create_task(scorer.watch())
        answers = [await scorer.score(asked()) for _ in range(3)]
        healthy = scorer.hangs
        with pytest.raises(EncoderHung, match="start the worker again"):
            await watching
        return answers, healthy, scorer.hangs

    answers, at_first, at_last = run(encoder, body, deadline_s=0.05)
    encoder.gate.set()
    assert answers == [Failed("deadline_missed")] * 3
    assert (at_first, at_last) == (False, True)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_died_ends_the_worker() -> None:
    class Mad(Encoder):
        def infer(self, prepared: Sequence[Sized]) -> list[Score]:
            raise SystemExit

    async def body(scorer: Scorer) -> Any:
        assert await scorer.score(asked()) == Failed("deadline_missed")
        with pytest.raises(EncoderHung):
            await scorer.watch()

    run(Mad(), body, deadline_s=0.2)


class Failing(Encoder):
    """Fails on a batch that holds a certain text."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def infer(self, prepared: Sequence[Sized]) -> list[Score]:
        if any("poison" in found.response.query for found in prepared):
            raise self.error
        return super().infer(prepared)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_text_that_is_too_much_for_the_memory_fails_alone(error: Exception) -> None:
    async def body(scorer: Scorer) -> Any:
        return await asyncio.gather(*(scorer.score(asked(text)) for text in ("Dose?", "poison", "When?")))

    assert run(Failing(error), body) == [SCORED, Failed(f"model_error: {type(error).__name__}"), SCORED]


class Broken(Encoder):
    """Scores nothing any more, and says so at once: the GPU is lost."""

    def infer(self, prepared: Sequence[Sized]) -> list[Score]:
        raise RuntimeError("CUDA error: unspecified launch failure")


def test_an_encoder_that_only_fails_ends_the_worker_and_takes_no_more_than_before() -> None:
    async def body(scorer: Scorer) -> Any:
        before = scorer.ready_for
        watching = asyncio.create_task(scorer.watch())
        while not watching.done():
            await scorer.score(asked())
        with pytest.raises(EncoderHung, match="start the worker again"):
            await watching
        return before, scorer.ready_for

    before, after = run(Broken(), body, deadline_s=0.05)
    assert after == before


def test_texts_that_fail_end_nobody_while_they_are_few_or_others_are_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(scorer: Scorer) -> Any:
        said = []
        for text in ("poison", "Dose?", "poison"):
            for _ in range(module.FAILURES - 1):
                await scorer.score(asked(text))
            said.append(scorer.hangs)
        await scorer.score(asked("poison"))
        return [*said, scorer.hangs]

    monkeypatch.setattr(module, "PATIENCE", 0)
    assert run(Failing(RuntimeError()), body) == [False, False, False, True]


def test_a_text_that_cannot_be_tokenised_fails_alone() -> None:
    class Picky(Encoder):
        def prepare(self, responses: Sequence[Response]) -> list[Any]:
            if any("poison" in response.query for response in responses):
                raise ValueError
            return super().prepare(responses)

    async def body(scorer: Scorer) -> Any:
        return await asyncio.gather(*(scorer.score(asked(text)) for text in ("Dose?", "poison", "When?")))

    assert run(Picky(), body) == [SCORED, Failed("model_error: ValueError"), SCORED]


def test_answers_that_are_missing_are_failures() -> None:
    class Short(Encoder):
        def infer(self, prepared: Sequence[Sized]) -> list[Score]:
            return []

    async def body(scorer: Scorer) -> Any:
        return await asyncio.gather(*(scorer.score(asked()) for _ in range(2)))

    assert run(Short(), body) == [Failed("model_error: AnswersMissing")] * 2


def test_whoever_is_cancelled_costs_nothing_more() -> None:
    encoder = Encoder()
    encoder.gate.clear()

    async def body(scorer: Scorer) -> Any:
        first = asyncio.create_task(scorer.score(asked()))
        await entered(encoder)
        gone = [asyncio.create_task(scorer.score(asked("word " * 7))) for _ in range(5)]
        await asyncio.sleep(0)
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        encoder.gate.set()
        return await first, await scorer.score(asked("one more"))

    assert run(encoder, body) == (SCORED, SCORED)
    assert encoder.calls == [[1], [2]]


def test_closing_answers_what_is_queued_and_nothing_after() -> None:
    encoder = Encoder()
    encoder.gate.clear()

    async def body(scorer: Scorer) -> Any:
        queued = [asyncio.create_task(scorer.score(asked())) for _ in range(20)]
        await entered(encoder)
        scorer.close()
        encoder.gate.set()
        return await asyncio.gather(*queued), await scorer.score(asked()), scorer.hangs

    answers, refused, hangs = run(encoder, body, budget=4)
    assert answers == [SCORED] * 20
    assert refused == Failed("shutting_down")
    assert not hangs


class Slow(Encoder):
    """A hundredth of a second a token."""

    def infer(self, prepared: Sequence[Sized]) -> list[Score]:
        threading.Event().wait(0.01 * sum(found.size for found in prepared))
        return super().infer(prepared)


async def forty(scorer: Scorer) -> Any:
    await scorer.score(asked("word " * 10))
    return await asyncio.gather(*(scorer.score(asked("word " * 2)) for _ in range(40)))


@pytest.mark.parametrize("deadline_s", [1.0, 20.0])
def test_calls_become_shorter_when_the_encoder_is_slow(deadline_s: float) -> None:
    encoder = Slow()
    assert SCORED in run(encoder, forty, deadline_s=deadline_s)
    assert max(map(sum, encoder.calls[1:])) <= 20


def test_calls_are_full_where_many_wait() -> None:
    encoder = Slow()
    assert set(run(encoder, forty, deadline_s=20.0, budget=30)) == {SCORED}
    assert max(map(sum, encoder.calls[1:])) == 30
